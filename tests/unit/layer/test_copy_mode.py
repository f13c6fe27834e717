"""--chmod as chmod(1) defines it."""

from __future__ import annotations

import pytest

from ci_plugins.errors import DockerfileError
from ci_plugins.layer.copy_mode import Chmod


@pytest.mark.parametrize(
    ("text", "before", "file", "directory"),
    [
        ("", 0o4640, 0o4640, 0o4640),
        ("755", 0o600, 0o755, 0o755),
        ("0644", 0o755, 0o644, 0o644),
        ("4755", 0o600, 0o4755, 0o4755),
        ("0", 0o777, 0, 0),
        ("+x", 0o644, 0o755, 0o755),
        ("a-w", 0o666, 0o444, 0o444),
        ("u=rwX,go=rX", 0o600, 0o644, 0o755),
        ("u=rwX,go=rX", 0o700, 0o755, 0o755),
        ("g=u", 0o640, 0o660, 0o660),
        ("go=u-w", 0o640, 0o644, 0o644),
        ("go=", 0o755, 0o700, 0o700),
        ("u+s,g-r", 0o755, 0o4715, 0o4715),
        ("+t", 0o755, 0o1755, 0o1755),
        ("o+t", 0o755, 0o755, 0o755),
        ("=r", 0o4777, 0o444, 0o444),
        ("u+w-x", 0o555, 0o655, 0o655),
        ("+X", 0o644, 0o644, 0o755),
        ("+X", 0o744, 0o755, 0o755),
    ],
)
def test_modes(text: str, before: int, file: int, directory: int) -> None:
    chmod = Chmod.parse(text)
    assert oct(chmod.apply(before, directory=False)) == oct(file)
    assert oct(chmod.apply(before, directory=True)) == oct(directory)


@pytest.mark.parametrize("text", ["888", "17777", "rw", "u", "u=rwx,", "z+x", "u~x", "0o755", "u+x "])
def test_not_a_mode(text: str) -> None:
    with pytest.raises(DockerfileError, match="not a mode") as caught:
        Chmod.parse(text)
    assert caught.value.remedy


def test_the_mode_of_created_directories() -> None:
    assert [Chmod.parse(text).created_directory for text in ("", "4711", "u=r")] == [0o755, 0o711, 0o755]
