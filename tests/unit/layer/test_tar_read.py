from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.errors import CorruptLayer
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.extract import unpack_tar
from ci_plugins.layer.tar import write_tar
from ci_plugins.layer.tar_fields import number, pax_records
from ci_plugins.layer.tar_read import TarReader
from tests.layer_trees import archive, member

LONG = "long/" * 60 + "name"


def read(whole: bytes) -> list[tuple[Entry, bytes]]:
    reader = TarReader([whole])
    return [(entry, b"".join(reader.content())) for entry in reader]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_three_formats(format: int) -> None:
    name = LONG if format != tarfile.USTAR_FORMAT else "d/" * 70 + "name"
    whole = archive(
        member("./dir/", tarfile.DIRTYPE, mode=0o1777),
        member(name, data=b"content", mtime=1_700_000_000),
        member("link", tarfile.SYMTYPE, linkname=name[:90]),
        member("/hard", tarfile.LNKTYPE, linkname="./" + name[:80]),
        member("pipe", tarfile.FIFOTYPE),
        member("tty", tarfile.CHRTYPE, devmajor=5, devminor=1),
        format=format,
    )
    entries = [entry for entry, _ in read(whole)]
    assert [(entry.path, entry.type.value, entry.link) for entry in entries] == [
        ("dir", "d", ""),
        (name, "f", ""),
        ("link", "l", name[:90]),
        ("hard", "h", name[:80].rstrip("/")),
        ("pipe", "p", ""),
        ("tty", "c", ""),
    ]
    assert entries[0].mode == 0o1777
    assert entries[1].mtime_ns == 1_700_000_000 * 10**9
    assert entries[5].device == (5, 1)


def test_gnu_long_names_and_base_256() -> None:
    whole = archive(
        member(LONG, tarfile.LNKTYPE, linkname=LONG + "2", uid=2**31, gid=2**24, mtime=-7), format=tarfile.GNU_FORMAT
    )
    ((entry, _),) = read(whole)
    assert (entry.path, entry.link, entry.uid, entry.gid, entry.mtime_ns) == (
        LONG,
        LONG + "2",
        2**31,
        2**24,
        -7 * 10**9,
    )


def test_pax_records_win_and_may_be_emptied() -> None:
    info, data = member("ustar-name", data=b"abc")
    info.pax_headers = {"mtime": "12.5", "uid": "3000000", "SCHILY.xattr.user.a": "b", "comment": "x"}
    ((entry, content),) = read(archive((info, data)))
    assert (entry.mtime_ns, entry.uid, dict(entry.xattrs), content) == (
        12_500_000_000,
        3_000_000,
        {"user.a": b"b"},
        data,
    )


def test_global_headers_have_no_effect() -> None:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "7", "path": "x"}
    ) as tar:
        tar.addfile(member("name", uid=5)[0])
    ((entry, _),) = read(buffer.getvalue())
    assert (entry.path, entry.uid) == ("name", 5)


def test_attributes_of_the_mount_are_dropped() -> None:
    info, _ = member("d", tarfile.DIRTYPE)
    names = ["trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.x", "security.selinux", "user.kept"]
    info.pax_headers = {"SCHILY.xattr." + name: "/etc" for name in names}
    ((entry, _),) = read(archive((info, b"")))
    assert dict(entry.xattrs) == {"user.kept": b"/etc"}


def test_contents_nobody_takes_are_skipped() -> None:
    whole = archive(member("a", data=b"x" * 3000), member("b", data=b"y" * 700))
    assert [entry.path for entry in TarReader([whole])] == ["a", "b"]


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 4096])
def test_any_division_into_blocks(size: int) -> None:
    whole = archive(member(LONG, data=b"x" * 1025), member("b", data=b"y" * 512), member("ä", data=b"z"))
    blocks = [whole[at : at + size] for at in range(0, len(whole), size)]
    reader = TarReader(block for block in [b"", *blocks, b""])
    assert [(entry, b"".join(reader.content())) for entry in reader] == read(whole)


def test_all_blocks_are_taken_though_the_archive_ended() -> None:
    taken = []

    def blocks() -> Any:
        for block in (archive(member("a")), b"padding" * 100, bytes(512)):
            taken.append(block)
            yield block

    assert len(list(TarReader(blocks()))) == 1
    assert len(taken) == 3


def test_an_archive_may_end_without_its_mark() -> None:
    whole = archive(member("a", data=b"1"))
    assert [entry.path for entry, _ in read(whole[:1024])] == ["a"]
    assert read(b"") == []


def test_sparse_pax_1_0() -> None:
    stored = b"2\n1000\n3\n2000\n4\n".ljust(512, b"\0") + b"abcDEFG"
    info, _ = member("GNUSparseFile.0/x", data=stored)
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "3000",
    }  # fmt: skip
    ((entry, content),) = read(archive((info, stored)))
    assert (entry.path, entry.size) == ("x", 3000)
    assert content == bytes(1000) + b"abc" + bytes(997) + b"DEFG" + bytes(996)


@pytest.mark.parametrize("map_", ["0,3,2,4", "0,3,2990,40", "0,3", "0,8,10", "-1,8", "x,1", "0,3,10,5"])
def test_sparse_maps_that_cannot_be(map_: str) -> None:
    info, data = member("x", data=b"abcDEFG")
    info.pax_headers = {"GNU.sparse.map": map_, "GNU.sparse.size": "3000", "GNU.sparse.numblocks": "2"}
    with pytest.raises(CorruptLayer):
        read(archive((info, data)))


BROKEN = {
    "a name that leads out": archive(member("../x")),
    "a name that leads out in the middle": archive(member("a/../../x")),
    "a hard link that leads out": archive(member("x", tarfile.LNKTYPE, linkname="../../etc/passwd")),
    "an unknown type": archive(member("x", b"V")),
    "a header cut short": archive(member("x"))[:300],
    "content cut short": archive(member("x", data=b"y" * 1000))[:700],
    "padding cut short": archive(member("x", data=b"y" * 10))[:600],
    "something after one zero block": bytes(512) + archive(member("x")),
    "no tar at all": b"PK\x03\x04" * 200,
    "an impossible device": archive(member("x", tarfile.BLKTYPE, devmajor=5000, devminor=1)),
    "an impossible owner": archive(member("x", uid=2**32 - 1)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_archives_are_refused(what: str) -> None:
    with pytest.raises(CorruptLayer):
        read(BROKEN[what])


def test_a_pax_name_with_a_nul_is_refused() -> None:
    info, _ = member("x")
    info.pax_headers = {"path": "a\0b"}
    with pytest.raises(CorruptLayer, match="NUL"):
        read(archive((info, b"")))


def test_an_endless_pax_header_is_refused() -> None:
    info, _ = member("x")
    info.pax_headers = {"comment": "x" * (2 << 20)}
    with pytest.raises(CorruptLayer, match="extended header"):
        read(archive((info, b"")))


@pytest.mark.parametrize(
    "records",
    [b"x", b"5 a=b", b"6 a=b\n7", b"7 a=b\n", b"5 ab\n\n", b"4 =\n", b"0 a=b\n", b"99999999999999999999 a=b\n"],
)
def test_pax_records_that_are_none(records: bytes) -> None:
    with pytest.raises(CorruptLayer):
        pax_records(records)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"\0\0\0\0\0\0\0\0", 0),
        (b"77777777", 0o77777777),
        (b"\x80\0\0\0\0\0\x01\0", 256),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
    ],
)
def test_number_fields(field: bytes, value: int) -> None:
    assert number(field) == value


@pytest.mark.parametrize("field", [b"0000_44\0", b"-000644\0", b"0x00644\0", b"8\0\0\0\0\0\0\0", b"6 4\0\0\0\0\0"])
def test_number_fields_that_are_none(field: bytes) -> None:
    with pytest.raises(CorruptLayer):
        number(field)


SEEDS = [
    archive(member("a/", tarfile.DIRTYPE), member("a/f", data=b"x" * 600), member("l", tarfile.SYMTYPE, linkname="a")),
    archive(member(LONG, data=b"1"), member("h", tarfile.LNKTYPE, linkname=LONG), format=tarfile.GNU_FORMAT),
    archive(member("ä", data=b"2" * 10), member("a/.wh.b"), member("a/.wh..wh..opq")),
    b"".join(write_tar([Item(Entry("x", EntryType.FILE, size=3, xattrs={"user.a": b"b"}), b"abc")])),
]


@given(st.sampled_from(SEEDS), st.data())
def test_mutated_archives_are_read_or_refused(seed: bytes, data: st.DataObject) -> None:
    """Any change: nothing but CorruptLayer, and no name that leads out."""
    whole = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        change = data.draw(
            st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([b"../", b"\xff", b"7777777"]))
        )
        whole[at : at + len(change)] = change
        if data.draw(st.booleans()):
            _sign(whole, at // 512 * 512)
    del whole[data.draw(st.integers(0, len(whole))) :]
    try:
        toc = unpack_tar([bytes(whole)], None)
    except CorruptLayer:
        return
    for entry in toc.entries:
        assert not entry.path.startswith("/")
        assert ".." not in entry.path.split("/")


def _sign(whole: bytearray, at: int) -> None:
    """Make the checksum of a header block right again, so that the change is looked at."""
    header = whole[at : at + 512]
    if len(header) == 512:
        header[148:156] = b" " * 8
        whole[at + 148 : at + 156] = b"%06o\0 " % sum(header)
