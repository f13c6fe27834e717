"""Users and groups as USER and --chown name them, looked up in the image's own /etc/passwd and /etc/group.

USER follows BuildKit (executor/oci, moby/sys/user), --chown the Dockerfile reference, "COPY --chown". One difference:
a line whose ids are not numbers is passed over, where moby/sys reads them as 0, that is as root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ci_plugins.errors import UserNotFound

#: the kernel takes more; Docker refuses above it
_MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class User:
    """Whom a process runs as. `additional_gids` begins with `gid`, as BuildKit hands them to the runtime; `home` is
    the passwd entry's directory, "/" without one."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class _Passwd:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_user(spec: str, passwd: bytes, group: bytes) -> User:
    """The user of a USER instruction: "", name, uid, name:group, uid:gid, in any mixture.

    Numeric ids need no entry. Without a group the user's own and supplementary groups count, gid 0 where the user has
    no entry. Raises UserNotFound.
    """
    name, _, group_name = spec.partition(":")
    uid = _number(name or "0", spec)
    entry = next((e for e in _passwd_entries(passwd) if (e.name == name if uid is None else e.uid == uid)), None)
    if entry is not None:
        uid, gid, home = entry.uid, entry.gid, entry.home or "/"
    elif uid is not None:
        gid, home = 0, "/"
    else:
        raise UserNotFound(f"the image has no user {name!r}: it is not in /etc/passwd")
    if group_name:
        gid = _group_id(group_name, group, spec)
        return User(uid, gid, (gid,), home)
    member_of = (e.gid for e in _group_entries(group) if entry is not None and entry.name in e.members)
    return User(uid, gid, tuple(dict.fromkeys((gid, *member_of))), home)


def resolve_owner(chown: str, passwd: bytes, group: bytes) -> tuple[int, int]:
    """(uid, gid) for COPY/ADD --chown. Only a number given: it is both ids; only a name: the user's primary group.

    Raises UserNotFound.
    """
    name, colon, group_name = chown.partition(":")
    if name in ("", "root"):
        uid = gid = 0
    elif (number := _number(name, chown)) is not None:
        uid = gid = number
    else:
        entry = next((e for e in _passwd_entries(passwd) if e.name == name), None)
        if entry is None:
            raise UserNotFound(f"--chown={chown}: the image has no user {name!r}: it is not in /etc/passwd")
        uid, gid = entry.uid, entry.gid
    if colon:
        gid = 0 if group_name in ("", "root") else _group_id(group_name, group, f"--chown={chown}")
    return uid, gid


def _number(text: str, spec: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if int(text) > _MAX_ID:
        raise UserNotFound(f"{spec}: {text} is not a user or group id: ids end at {_MAX_ID}")
    return int(text)


def _group_id(name: str, group: bytes, spec: str) -> int:
    if (number := _number(name, spec)) is not None:
        return number
    for entry in _group_entries(group):
        if entry.name == name:
            return entry.gid
    raise UserNotFound(f"{spec}: the image has no group {name!r}: it is not in /etc/group")


def _lines(content: bytes) -> Iterator[list[str]]:
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        text = line.strip()
        if text and not text.startswith("#"):
            yield text.split(":")


def _passwd_entries(content: bytes) -> Iterator[_Passwd]:
    """passwd(5): name:password:uid:gid:gecos:home:shell. The first match counts."""
    for fields in _lines(content):
        if len(fields) >= 4 and _is_id(fields[2]) and _is_id(fields[3]):
            yield _Passwd(fields[0], int(fields[2]), int(fields[3]), fields[5] if len(fields) > 5 else "")


def _group_entries(content: bytes) -> Iterator[_Group]:
    """group(5): name:password:gid:member,member."""
    for fields in _lines(content):
        if len(fields) >= 3 and _is_id(fields[2]):
            yield _Group(fields[0], int(fields[2]), tuple(fields[3].split(",")) if len(fields) > 3 else ())


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= _MAX_ID
