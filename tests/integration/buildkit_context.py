"""The cases of test_against_buildkit.py: their files, the build context they share, and the images they begin with.

A file `buildkit_cases/*.cases` holds Dockerfiles, each after a line that names it:

    === NAME [fails] [target=STAGE] [arg:NAME=VALUE …]
    FROM @base
    …
    --- PATH            the case has this file besides, in its context (or, as Dockerfile.dockerignore, beside it)
    …
    --- crlf            the Dockerfile's lines end with carriage return and line feed

`@base`, `@bare` and `@onbuild` stand for images of the registry. `fails`: BuildKit refuses it, or it fails there.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness import run

_FOLDER = Path(__file__).with_name("buildkit_cases")
#: of all files in the context: what has another time was made by the build
OLD = 1_577_836_800

#: cap_net_bind_service=ep (capabilities(7), struct vfs_cap_data); its bytes are ASCII, as PAX headers need
_CAPABLE = {"SCHILY.xattr.security.capability": "\1\0\0\2\0\4" + "\0" * 14}

BASE_DOCKERFILE = """\
FROM @bare
COPY root /
RUN chmod 640 /etc/group && chmod 644 /etc/passwd /etc/group && ln -s real-dir /link-dir \\
    && ln -s /etc/group /link-file && ln -s /etc/made-by-copy /link-dangling \\
    && chown app:app /home/app && chmod 750 /home/app && chmod 711 /real-dir
ENV BASE_ENV=base
CMD ["of-base"]
"""
ONBUILD_DOCKERFILE = """\
FROM @base
ONBUILD COPY a.txt /triggered
ONBUILD ENV TRIGGERED=yes
ONBUILD RUN echo $TRIGGERED >/triggered-env
"""


@dataclass(frozen=True)
class Case:
    name: str
    dockerfile: str
    fails: bool
    target: str
    args: Mapping[str, str]
    files: Mapping[str, str]

    def write(self, folder: Path, context: Path, images: Mapping[str, str]) -> tuple[Path, Path]:
        """Its Dockerfile and its context, below `folder`. A case with files of its own has a copy of `context`."""
        folder.mkdir()
        own = {name: text for name, text in self.files.items() if name != "crlf"}
        if own:
            run("cp", "--archive", str(context), str(folder / "context"))
            context = folder / "context"
        text = self.dockerfile
        for name, reference in images.items():
            text = text.replace(f"@{name}", reference)
        dockerfile = folder / "Dockerfile"
        dockerfile.write_bytes(text.replace("\n", "\r\n" if "crlf" in self.files else "\n").encode())
        for name, content in own.items():
            place = folder if name.startswith("Dockerfile") else context
            (place / name).write_text(content)
            os.utime(place / name, (OLD, OLD))
        return dockerfile, context


def load_cases() -> dict[str, Case]:
    cases = [case for file in sorted(_FOLDER.glob("*.cases")) for case in _parse(file.read_text())]
    assert len({case.name for case in cases}) == len(cases), "two cases of one name"
    return {case.name: case for case in cases}


def _parse(text: str) -> Iterator[Case]:
    for block in ("\n" + text).split("\n=== ")[1:]:
        head, _, rest = block.partition("\n")
        name, *words = head.split()
        dockerfile, *sections = ("\n" + rest).split("\n--- ")
        files = dict(section.partition("\n")[::2] for section in sections)
        pairs = [word.partition("=")[::2] for word in words]
        yield Case(
            name,
            dockerfile.strip("\n") + "\n",
            "fails" in words,
            next((value for key, value in pairs if key == "target"), ""),
            {key.removeprefix("arg:"): value for key, value in pairs if key.startswith("arg:")},
            {path: content.strip("\n") + "\n" for path, content in files.items()},
        )


def write_base(folder: Path) -> Path:
    """The context of BASE_DOCKERFILE: users, and the directories that containers have mounts on."""
    root = folder / "root"
    for name in ("proc", "sys", "dev", "etc", "home/app", "real-dir/deep"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\napp:x:1000:\nstaff:x:50:app\nnogroup:x:65534:\n")
    for name in ("etc/hosts", "etc/resolv.conf"):
        (root / name).write_text("")
    for name in ("real-dir/kept", "real-dir/deep/file"):
        (root / name).write_text(name)
    return folder


def write_context(root: Path) -> Path:
    """Files of all kinds, all of one old time, of an owner that no image may show."""
    (root / "dir/sub/deep").mkdir(parents=True)
    for name in ("links", "hard", "emptydir", "sticky", "modes/closed"):
        (root / name).mkdir(parents=True)
    for name in (
        "a.txt", "b.txt", "f1.txt", "f2.txt", "f3.log", "[x].txt", "with space.txt", "ünï.txt", "setuid.bin", "x.txt",
        "dir/one.txt", "dir/two.log", "dir/sub/three.txt", "dir/sub/deep/four.txt", "hard/1", "modes/444",
    ):  # fmt: skip
        (root / name).write_text(f"this is {name}\n")
    (root / "empty.txt").touch()
    (root / "run.sh").write_text('#!/bin/sh\necho "$0" ran >>/ran\n')
    os.link(root / "hard/1", root / "hard/2")
    for link, target in {
        "link.txt": "a.txt", "dirlink": "dir", "dir/inner-link": "sub/three.txt", "links/to-file": "../a.txt",
        "links/to-directory": "../dir", "links/dangling": "nowhere", "links/absolute": "/etc/passwd",
    }.items():  # fmt: skip
        (root / link).symlink_to(target)
    # left out of the context by the cases that copy all of it
    os.setxattr(root / "x.txt", "user.note", b"kept?")
    _write_archives(root)
    for name, mode in {
        "b.txt": 0o600, "run.sh": 0o755, "dir": 0o750, "dir/sub": 0o2770, "dir/one.txt": 0o664, "sticky": 0o1777,
        "modes/closed": 0o700, "modes/444": 0o444,
    }.items():  # fmt: skip
        (root / name).chmod(mode)
    for path in [*root.rglob("*")]:
        os.chown(path, 1234, 2345, follow_symlinks=False)
    (root / "setuid.bin").chmod(0o4755)  # chown clears it
    (root / "dir/sub").chmod(0o2770)
    for path in [*root.rglob("*"), root]:
        os.utime(path, (OLD, OLD), follow_symlinks=False)
    return root


def _write_archives(root: Path) -> None:
    archive = _archive()
    (root / "archive.tar").write_bytes(archive)
    (root / "archive.tar.gz").write_bytes(gzip.compress(archive))
    (root / "archive.tar.bz2").write_bytes(bz2.compress(archive))
    (root / "archive.tar.xz").write_bytes(lzma.compress(archive))
    (root / "damaged.tar.gz").write_bytes(gzip.compress(_archive(os.urandom(100_000)))[:50_000])
    (root / "notarchive.tar").write_text("only text\n")
    (root / "text.gz").write_bytes(gzip.compress(b"only text\n"))
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w:gz") as tar:
        tar.addfile(_member("no/parents/here", 0o600, 3), io.BytesIO(b"abc"))
    noted = io.BytesIO()
    with tarfile.open(fileobj=noted, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, attribute in (("noted", {"SCHILY.xattr.user.note": "kept?"}), ("capable", _CAPABLE)):
            member = _member(name, 0o755, 1)
            member.pax_headers = attribute
            tar.addfile(member, io.BytesIO(b"x"))
    (root / "noted.tar").write_bytes(noted.getvalue())
    (root / "other.tar.gz").write_bytes(other.getvalue())


def _archive(first: bytes = b"first") -> bytes:
    """Owners, modes, times, links of both kinds, a FIFO; `first` is the content of one file."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_member("./tree", 0o750, kind=tarfile.DIRTYPE))
        tar.addfile(_member("tree/first", 0o644, len(first)), io.BytesIO(first))
        tar.addfile(_member("tree/file", 0o4755, 5), io.BytesIO(b"12345"))
        tar.addfile(_member("tree/hard", 0o4755, kind=tarfile.LNKTYPE, link="tree/file"))
        tar.addfile(_member("tree/link", 0o777, kind=tarfile.SYMTYPE, link="file"))
        tar.addfile(_member("tree/fifo", 0o600, kind=tarfile.FIFOTYPE))
        tar.addfile(_member("tree/dir", 0o1777, kind=tarfile.DIRTYPE))
        tar.addfile(_member("left/out/ünï", 0o644, 3), io.BytesIO(b"abc"))
    return data.getvalue()


def _member(name: str, mode: int, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.size, member.type, member.linkname = mode, size, kind, link
    member.uid, member.gid, member.mtime = 123, 456, OLD + 60
    return member
