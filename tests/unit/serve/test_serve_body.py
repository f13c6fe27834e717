"""Request bodies: the same bytes come out however they were cut up on the way."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.serve.body import Body
from ci_plugins.serve.refusal import ClientGone, Refusal


def reader(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(data), 16)


def chunked(pieces: list[bytes], extension: bytes = b"", trailer: bytes = b"") -> bytes:
    parts = [b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces if piece]
    return b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


def everything(body: Body, block: int) -> bytes:
    buffer = memoryview(bytearray(block))
    found = b""
    while got := body.fill(buffer):
        found += buffer[:got]
    return found


@given(pieces=st.lists(st.binary(max_size=60), max_size=8), block=st.integers(1, 100), rest=st.binary(max_size=20))
def test_chunks_are_joined(pieces: list[bytes], block: int, rest: bytes) -> None:
    stream = reader(chunked(pieces) + rest)
    body = Body(stream, None)
    whole = b"".join(pieces)
    assert everything(body, block) == whole
    assert body.ended
    assert body.read == len(whole)
    assert stream.read() == rest  # the next request on the connection


@given(data=st.binary(max_size=200), block=st.integers(1, 100), rest=st.binary(max_size=20))
def test_known_length(data: bytes, block: int, rest: bytes) -> None:
    stream = reader(data + rest)
    body = Body(stream, len(data))
    assert everything(body, block) == data
    assert body.ended
    assert stream.read() == rest


def test_extensions_and_trailers_are_passed_over() -> None:
    body = Body(reader(chunked([b"abc", b"de"], b";name=value", b"Checksum: 1\r\n")), None)
    assert everything(body, 100) == b"abcde"


@pytest.mark.parametrize(
    "stream",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"1_0\r\n" + b"a" * 16,
    ],
)
def test_what_is_no_chunk(stream: bytes) -> None:
    body = Body(reader(stream), None)
    with pytest.raises(Refusal, match="size of a chunk"):
        everything(body, 100)
    assert body.broken


def test_a_chunk_longer_than_it_says() -> None:
    with pytest.raises(Refusal, match="longer than it says"):
        everything(Body(reader(b"3\r\nabcdef\r\n0\r\n\r\n"), None), 100)


@pytest.mark.parametrize("stream", [b"abc", b""])
def test_what_arrived_before_the_client_left_is_returned_first(stream: bytes) -> None:
    body = Body(reader(stream), 10)
    buffer = memoryview(bytearray(100))
    if stream:
        assert body.fill(buffer) == 3
    with pytest.raises(ClientGone):
        body.fill(buffer)
    assert not body.ended


@pytest.mark.parametrize("stream", [b"5\r\nabc", b"5\r\n", b"5", b"", b"3\r\nabc", b"3\r\nabc\r\n", b"0\r\n"])
def test_a_client_that_leaves_between_chunks(stream: bytes) -> None:
    body = Body(reader(stream), None)
    with pytest.raises(ClientGone):
        everything(body, 100)
    assert not body.ended


def test_whole_has_a_limit() -> None:
    assert Body(reader(b"abcde"), 5).whole(5) == b"abcde"
    assert Body(reader(chunked([b"abc", b"de"])), None).whole(5) == b"abcde"
    with pytest.raises(Refusal) as caught:
        Body(reader(b"abcdef"), 6).whole(5)
    assert caught.value.status == 413


def test_discard_stops_somewhere() -> None:
    short = Body(reader(b"a" * 1000), 1000)
    short.discard(1 << 20, 60)
    assert short.ended
    long = Body(reader(b"a" * (1 << 20)), 1 << 20)
    long.discard(1000, 60)
    assert not long.ended
    late = Body(reader(b"a" * 1000), 1000)
    late.discard(1 << 20, 0)
    assert not late.ended


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ({}, 0),
        ({"Content-Length": "5"}, 5),
        ({"Transfer-Encoding": "chunked"}, 5),
        ({"Transfer-Encoding": "Chunked"}, 5),
    ],
)
def test_announced(headers: dict[str, str], length: int) -> None:
    stream = chunked([b"abcde"]) if "Transfer-Encoding" in headers else b"abcde"
    assert len(everything(Body.of(reader(stream), headers), 100)) == length


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "-1"},
        {"Content-Length": "5 "},
        {"Content-Length": "0x5"},
        {"Content-Length": ""},
        {"Content-Length": "9" * 30},
        {"Transfer-Encoding": "gzip"},
        {"Transfer-Encoding": "gzip, chunked"},
        {"Transfer-Encoding": "chunked", "Content-Length": "5"},
    ],
)
def test_what_is_not_understood_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Refusal) as caught:
        Body.of(reader(b""), headers)
    assert caught.value.status == 400
