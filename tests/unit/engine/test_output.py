import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.engine.output import MAX_LINE, TAIL, LineReader


def lines(*chunks: bytes) -> list[str]:
    seen: list[str] = []
    reader = LineReader(seen.append)
    for chunk in chunks:
        reader.feed(chunk)
    reader.close()
    assert reader.tail == tuple(seen[-TAIL:])
    return seen


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"windows\r\nline\r\n", ["windows", "line"]),
        (b" 10%\r 20%\r100%\ndone\n", ["100%", "done"]),
        (b"10%\r20%\r", ["20%"]),
        (b"\xff\xfe caf\xc3\xa9\n", ["�� café"]),
    ],
)
def test_lines(written, shown):
    assert lines(written) == shown


def test_a_line_is_handed_on_when_it_ends_not_before():
    seen: list[str] = []
    reader = LineReader(seen.append)
    reader.feed(b"one\ntw")
    assert seen == ["one"]
    reader.feed(b"o\n")
    assert seen == ["one", "two"]


def test_a_very_long_line_comes_in_pieces_between_characters():
    text = "é" * MAX_LINE + "x"
    pieces = lines(text.encode())
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= MAX_LINE for piece in pieces)
    assert "�" not in "".join(pieces)


def test_the_pending_part_of_an_endless_line_stays_small():
    reader = LineReader(lambda _: None)
    for _ in range(100):
        reader.feed(b"x" * 60_000)
        assert len(reader._pending) <= MAX_LINE


def test_the_tail_is_the_last_lines():
    assert len(lines(*(b"%d\n" % n for n in range(100)))) == 100
    reader = LineReader(lambda _: None)
    reader.feed(b"".join(b"%d\n" % n for n in range(100)))
    assert reader.tail == tuple(str(n) for n in range(100 - TAIL, 100))


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\xc3", b"\xa9", b"\r\n", b"word"]), max_size=60), st.data())
def test_how_the_bytes_arrive_does_not_matter(parts, data):
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert lines(*chunks) == lines(whole)
