import pytest

from ci_plugins.errors import EngineUnavailable
from ci_plugins.sandbox.runtime import find_runtime


def tool(directory, name):
    (directory / name).write_text("#!/bin/sh\n")
    (directory / name).chmod(0o755)


@pytest.fixture
def unified(tmp_path):
    (tmp_path / "unified-host").mkdir()
    (tmp_path / "unified-host/cgroup.controllers").touch()
    return tmp_path / "unified-host"


@pytest.fixture
def hybrid(tmp_path):
    (tmp_path / "hybrid-host/unified").mkdir(parents=True)
    (tmp_path / "hybrid-host/unified/cgroup.procs").touch()
    return tmp_path / "hybrid-host"


def test_runc_is_preferred(tmp_path, unified):
    tool(tmp_path, "runc")
    tool(tmp_path, "crun")
    assert find_runtime(unified, str(tmp_path)).name == "runc"


def test_crun_where_runc_is_missing(tmp_path, unified):
    tool(tmp_path, "crun")
    assert find_runtime(unified, str(tmp_path)).executable == str(tmp_path / "crun")


def test_crun_is_not_tried_on_hybrid_control_groups(tmp_path, hybrid):
    tool(tmp_path, "crun")
    with pytest.raises(EngineUnavailable, match="hybrid") as caught:
        find_runtime(hybrid, str(tmp_path))
    assert "apt-get install runc" in caught.value.remedy


def test_neither_names_the_packages(tmp_path, unified):
    with pytest.raises(EngineUnavailable, match="OCI runtime") as caught:
        find_runtime(unified, str(tmp_path))
    assert "runc" in caught.value.remedy
    assert "crun" in caught.value.remedy
