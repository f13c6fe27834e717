from pathlib import Path

from ci_plugins.layer.users import User
from ci_plugins.sandbox.bundle import CAPABILITIES, Process, runtime_config


def config(user=User(0, 0, (0,), "/root"), own_network=False):  # noqa: B008
    process = Process(("/bin/true",), {"A": "1 2", "B": ""}, "/srv", user)
    return runtime_config(Path("/r"), process, "name", own_network)


def namespaces(value):
    return {namespace["type"] for namespace in value["linux"]["namespaces"]}


def test_the_process():
    process = config(User(5, 6, (6, 7), "/h"))["process"]
    assert process["args"] == ["/bin/true"]
    assert process["env"] == ["A=1 2", "B="]
    assert process["cwd"] == "/srv"
    assert process["user"] == {"uid": 5, "gid": 6, "additionalGids": [6, 7]}
    assert process["terminal"] is False


def test_network_namespace_only_without_network():
    assert "network" not in namespaces(config())
    assert namespaces(config(own_network=True)) == namespaces(config()) | {"network"}


def test_only_root_holds_capabilities_from_the_start():
    assert len(CAPABILITIES) == 14
    assert config()["process"]["capabilities"]["effective"] == list(CAPABILITIES)
    other = config(User(1, 1, (1,), "/"))["process"]["capabilities"]
    assert (other["effective"], other["permitted"]) == ([], [])
    assert other["bounding"] == list(CAPABILITIES)
