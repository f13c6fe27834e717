"""USER and --chown against Docker's documented rules."""

from __future__ import annotations

import pytest

from ci_plugins.errors import UserNotFound
from ci_plugins.layer.users import User, resolve_owner, resolve_user

PASSWD = b"""# comment
root:x:0:0:root:/root:/bin/bash
app:x:1000:1001:App:/home/app:/bin/sh
broken:x:one:two::/:
app:x:7:7:second entry of a name is not used:/:/bin/sh
4242:x:12:13:a name that looks like a number:/odd:/bin/sh
"""
GROUP = b"""root:x:0:
wheel:x:10:root,app
app:x:1001:
video:x:44:app
nolist:x:45
"""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", User(0, 0, (0, 10), "/root")),
        ("root", User(0, 0, (0, 10), "/root")),
        ("app", User(1000, 1001, (1001, 10, 44), "/home/app")),
        ("1000", User(1000, 1001, (1001, 10, 44), "/home/app")),
        ("app:wheel", User(1000, 10, (10,), "/home/app")),
        ("app:77", User(1000, 77, (77,), "/home/app")),
        ("77:nolist", User(77, 45, (45,), "/")),
        ("77", User(77, 0, (0,), "/")),
        ("77:78", User(77, 78, (78,), "/")),
        ("4242", User(4242, 0, (0,), "/")),
    ],
)
def test_user(spec: str, expected: User) -> None:
    assert resolve_user(spec, PASSWD, GROUP) == expected


def test_an_image_without_files_knows_numbers_and_the_default_only() -> None:
    assert resolve_user("", b"", b"") == User(0, 0, (0,), "/")
    assert resolve_user("5:6", b"", b"").gid == 6
    with pytest.raises(UserNotFound, match="'root'"):
        resolve_user("root", b"", b"")


@pytest.mark.parametrize("spec", ["nobody", "broken", "app:nobody", "4294967296", "1:4294967296"])
def test_unknown_user(spec: str) -> None:
    with pytest.raises(UserNotFound):
        resolve_user(spec, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("chown", "expected"),
    [
        ("55:wheel", (55, 10)),
        ("app", (1000, 1001)),
        ("1", (1, 1)),
        ("1000", (1000, 1000)),
        ("10:11", (10, 11)),
        ("app:video", (1000, 44)),
        ("root", (0, 0)),
        ("root:root", (0, 0)),
        (":44", (0, 44)),
    ],
)
def test_owner(chown: str, expected: tuple[int, int]) -> None:
    assert resolve_owner(chown, PASSWD, GROUP) == expected


def test_root_needs_no_passwd_for_chown() -> None:
    assert resolve_owner("root:root", b"", b"") == (0, 0)


@pytest.mark.parametrize("chown", ["nobody", "1:nobody"])
def test_unknown_owner_names_the_flag(chown: str) -> None:
    with pytest.raises(UserNotFound, match=f"--chown={chown}"):
        resolve_owner(chown, PASSWD, GROUP)
