"""A stack of layers read as one file system. Whiteouts need device nodes: tests/integration/test_engine_graft.py."""

import pytest

from ci_plugins.errors import SandboxError
from ci_plugins.sandbox.union import Union


@pytest.fixture
def layers(tmp_path):
    top, bottom = tmp_path / "top", tmp_path / "bottom"
    for directory in (top / "etc", bottom / "etc/ssl", bottom / "usr/bin", bottom / "run"):
        directory.mkdir(parents=True)
    (bottom / "etc/passwd").write_text("bottom")
    (top / "etc/passwd").write_text("top")
    return top, bottom


def test_the_topmost_file_counts_and_directories_merge(layers):
    top, bottom = layers
    union = Union(layers)
    assert union.resolve("/etc/passwd").places == (top / "etc/passwd",)
    assert union.resolve("/etc").places == (top / "etc", bottom / "etc")
    assert union.resolve("etc/ssl").places == (bottom / "etc/ssl",)
    assert union.resolve("/").path == ""


def test_what_does_not_exist_is_taken_as_written(layers):
    found = Union(layers).resolve("/srv/a/../b")
    assert (found.path, found.places) == ("srv/b", ())


def test_symbolic_links_stay_inside_the_root(layers):
    top, bottom = layers
    (top / "lib").symlink_to("usr/lib")
    (bottom / "usr/lib").symlink_to("/usr/bin")
    (top / "etc/up").symlink_to("../../../../run")
    union = Union(layers)
    assert union.resolve("/lib/x").path == "usr/bin/x"
    assert union.resolve("/etc/up/x").path == "run/x"
    assert union.resolve("/lib").is_directory


def test_a_dangling_link_leads_to_where_its_target_would_be(layers):
    (layers[0] / "etc/resolv.conf").symlink_to("../run/resolve/stub.conf")
    found = Union(layers).resolve("/etc/resolv.conf")
    assert (found.path, found.places) == ("run/resolve/stub.conf", ())


def test_a_file_above_a_directory_hides_it(layers):
    top, _ = layers
    (top / "usr").write_text("a file")
    assert not Union(layers).resolve("/usr").is_directory
    with pytest.raises(SandboxError, match="/usr is not a directory"):
        Union(layers).resolve("/usr/bin")


def test_a_loop_is_an_error(layers):
    (layers[0] / "a").symlink_to("b")
    (layers[0] / "b").symlink_to("a")
    with pytest.raises(SandboxError, match="too many symbolic links"):
        Union(layers).resolve("/a")


def test_no_layers_at_all():
    assert Union(()).resolve("/etc/hosts").path == "etc/hosts"
    assert Union(()).directory("") is None
