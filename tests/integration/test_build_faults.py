"""Builds that are stopped, killed, refused, or find their state damaged: what they say, leave, and keep."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.build_faults import LocalCli, Running, SlowLine, left_behind, processes, unnamed_snapshots, unusual_nap
from tests.faults import Fault, FaultProxy
from tests.harness import Built, Cli, run
from tests.servers import DockerRegistry

STOPPED = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
#: seconds from a signal to the end; what is asked for is 2, the rest is for busy machines
SOON = 4.0


@pytest.fixture
def cli(cli: Cli) -> Cli:
    return LocalCli(cli.home, cli.state)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "small").write_text("small")
    return directory


@pytest.fixture
def proxy(registry: DockerRegistry) -> Iterator[FaultProxy]:
    with FaultProxy.start(registry.port) as running:
        yield running


@pytest.fixture
def line(proxy: FaultProxy) -> Iterator[SlowLine]:
    """A line to the proxy to the registry, so that what passes is counted."""
    with SlowLine.start(proxy.port) as running:
        yield running


def random_file(path: Path, mebibytes: int) -> Path:
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1 << 20))
    return path


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def states(built: Built) -> list[str]:
    return [step["state"] for step in built.timing["steps"]]


def blobs_sent(proxy: FaultProxy) -> list[str]:
    """The digests of the blobs that were committed through the proxy."""
    puts = [one for one in proxy.seen("PUT", "/blobs/uploads/") if one.status == 201]
    return [re.findall(r"digest=(sha256:[0-9a-f]{64})", one.path.replace("%3A", ":"))[0] for one in puts]


def stopped(build: Running, number: signal.Signals, code: int) -> None:
    """Stop it: soon, with its code, in one paragraph."""
    actual, seconds = build.stop(number)
    assert actual == code, build.output
    assert seconds < SOON, f"{seconds:.1f} s\n{build.output}"
    assert "Traceback" not in build.output
    assert build.output.count("error: ") == 1, build.output
    assert f"stopped by {number.name}" in build.output[build.output.index("error: ") :]


def tree(reference: str, folder: Path) -> dict[str, Any]:
    """The files of an image as umoci unpacks them, without times: path → type, mode, owner, bytes or target."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{folder / 'layout'}:image")
    run("umoci", "unpack", "--image", f"{folder / 'layout'}:image", str(folder / "bundle"))
    root, found = folder / "bundle/rootfs", {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


def config(reference: str) -> dict[str, Any]:
    """The image's config without what differs from build to build: times and digests."""
    value = json.loads(run("skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{reference}"))
    value.pop("created", None)
    value["rootfs"] = len(value["rootfs"]["diff_ids"])
    value["history"] = [{k: v for k, v in entry.items() if k != "created"} for entry in value["history"]]
    return dict(value)


# --- stopped by a signal --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), STOPPED)
def test_stopped_while_a_base_is_pulled(
    cli: Cli,
    context: Path,
    registry: DockerRegistry,
    base_image: str,
    line: SlowLine,
    number: signal.Signals,
    code: int,
) -> None:
    repository = base_image.partition("/")[2]
    (context / "Dockerfile").write_text(f"FROM {line.host}/{repository}\nRUN echo pulled > /file\n")
    line.down = 100_000
    build = Running.start(cli, context)
    build.says("download")
    time.sleep(0.3)
    line.down = 0  # from now on the line is dead: whoever waits for it waits for ever
    stopped(build, number, code)
    assert left_behind(cli.state) == []
    line.down = float("inf")
    cli.build(context, tag=f"{registry.host}/stop-pull/app:1")
    assert unnamed_snapshots(cli.state) == []


@pytest.mark.parametrize(("number", "code"), STOPPED)
def test_stopped_while_a_name_is_resolved(
    cli: Cli, context: Path, base_image: str, proxy: FaultProxy, line: SlowLine, number: signal.Signals, code: int
) -> None:
    (context / "Dockerfile").write_text(f"FROM {line.host}/{base_image.partition('/')[2]}\nRUN true\n")
    line.down = 0
    build = Running.start(cli, context)
    until(lambda: bool(proxy.seen("GET", "/manifests/")))
    stopped(build, number, code)
    assert left_behind(cli.state) == []


@pytest.mark.parametrize(("number", "code"), STOPPED)
def test_stopped_while_a_command_runs(
    cli: Cli,
    context: Path,
    registry: DockerRegistry,
    base_image: str,
    proxy: FaultProxy,
    number: signal.Signals,
    code: int,
) -> None:
    tag, nap = f"{proxy.host}/stop-run-{code}/app:1", unusual_nap()
    random_file(context / "big", 2)
    begin = f"FROM {base_image}\nCOPY big /big\nRUN echo one > /one\n"
    (context / "Dockerfile").write_text(begin + f"RUN echo begun; sleep {nap}\n")
    build = Running.start(cli, context, "--tag", tag, "--push")
    build.says("begun\n")
    sleeping = processes(f"sleep {nap}")
    group = Path(f"/proc/{sleeping[0]}/cgroup").read_text().splitlines()
    folders = [Path("/sys/fs/cgroup") / one.partition("::")[2].strip("/") for one in group if "::" in one]
    stopped(build, number, code)
    assert processes(f"sleep {nap}") == []
    assert not any(folder.exists() for folder in folders if "ci-plugins" in folder.name)
    assert left_behind(cli.state) == []
    assert registry.tags(f"stop-run-{code}/app") == []

    sent = blobs_sent(proxy)
    (context / "Dockerfile").write_text(begin + "RUN echo two > /two\n")
    again = cli.build(context, tag=tag)
    assert states(again) == ["cached", "cached", "ran"]
    assert unnamed_snapshots(cli.state) == []
    everything = blobs_sent(proxy)
    assert len(everything) == len(set(everything)), "no blob is sent twice"
    assert set(sent) < set(everything)


@pytest.mark.parametrize(("number", "code"), STOPPED)
def test_stopped_while_a_layer_is_uploaded(
    cli: Cli, context: Path, registry: DockerRegistry, base_image: str, proxy: FaultProxy, line: SlowLine,
    number: signal.Signals, code: int,
) -> None:  # fmt: skip
    """Finished layers that the registry has got are not sent again, and none is made again."""
    repository = f"stop-upload-{code}/app"
    random_file(context / "first", 1)
    random_file(context / "big", 8)
    (context / "Dockerfile").write_text(f"FROM {base_image}\nCOPY first /\nRUN sleep 0.5\nCOPY big /big\n")
    line.up = 2_000_000
    build = Running.start(cli, context, "--tag", f"{line.host}/{repository}:1", "--push")
    build.says("COPY big")
    until(lambda: proxy.uploaded() > 3_000_000)
    line.up = 0
    stopped(build, number, code)
    assert left_behind(cli.state) == []
    assert registry.tags(repository) == []
    sent = blobs_sent(proxy)
    assert sent, "the first layer was there before"
    line.up = float("inf")
    again = cli.build(context, tag=f"{line.host}/{repository}:1")
    assert set(states(again)) == {"cached"}
    everything = blobs_sent(proxy)
    assert len(everything) == len(set(everything)), "no blob is sent twice"
    assert unnamed_snapshots(cli.state) == []


@pytest.mark.parametrize(("number", "code"), STOPPED)
def test_stopped_while_a_large_file_is_compressed(
    cli: Cli, context: Path, base_image: str, number: signal.Signals, code: int
) -> None:
    """One file, so that nothing ends between files; a slow level, so that it takes long."""
    random_file(context / "big", 150)
    (context / "Dockerfile").write_text(f"FROM {base_image}\nCOPY big /big\n")
    build = Running.start(cli, context, "--compression", "zstd", "--compression-level", "19")
    build.says("COPY big")
    time.sleep(1.0)
    stopped(build, number, code)
    assert left_behind(cli.state) == []


@pytest.mark.parametrize(("number", "code"), STOPPED)
def test_stopped_while_the_manifest_is_put(
    cli: Cli,
    context: Path,
    registry: DockerRegistry,
    base_image: str,
    proxy: FaultProxy,
    number: signal.Signals,
    code: int,
) -> None:
    repository = f"stop-manifest-{code}/app"
    (context / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo {code} > /file\n")
    never = Fault("PUT", "/manifests/", answer=(503, {}, b""), delay=30)  # taken by the proxy, not by the registry
    proxy.inject(never)
    build = Running.start(cli, context, "--tag", f"{proxy.host}/{repository}:1", "--push")
    until(lambda: not never.times)
    stopped(build, number, code)
    assert left_behind(cli.state) == []
    assert registry.tags(repository) == []
    before = len(blobs_sent(proxy))
    again = cli.build(context, tag=f"{proxy.host}/{repository}:1")
    assert set(states(again)) == {"cached"}
    assert len(blobs_sent(proxy)) == before
    assert registry.tags(repository) == ["1"]


# --- killed ---------------------------------------------------------------------------------------------------------


def test_killed_at_any_moment(
    cli: Cli, context: Path, registry: DockerRegistry, base_image: str, tmp_path: Path
) -> None:
    """With the state of a killed build, another build succeeds and gives what a build without one gives."""
    random_file(context / "big", 20)
    (context / "Dockerfile").write_text(
        f"FROM {base_image} AS tools\n"
        "RUN mkdir -p /opt/a/b && echo tool > /opt/a/b/tool && dd if=/dev/zero of=/opt/z bs=1M count=20\n"
        f"FROM {base_image}\nCOPY big /data/big\nRUN rm /data/big && echo made > /data/made && chmod 700 /data\n"
        "COPY --from=tools /opt /opt\nWORKDIR /srv/app\nRUN echo last > last\nENV DONE=yes\n"
    )
    (tmp_path / "clean").mkdir()
    clean = LocalCli(cli.home, tmp_path / "clean").build(context, tag=f"{registry.host}/killed/clean:1")
    wanted, wanted_config = tree(clean.tag, tmp_path / "wanted"), config(clean.tag)
    began = time.monotonic()
    Running.start(LocalCli(cli.home, tmp_path / "timed"), context).succeed()
    whole = time.monotonic() - began
    moments = [0.15 + (whole - 0.1) * n / 11 for n in range(12)]
    for number, moment in enumerate(moments):
        state = LocalCli(cli.home, tmp_path / f"state-{number % 3}")  # some states are killed several times
        tag = f"{registry.host}/killed/app:{number}"
        build = Running.start(state, context, "--tag", tag, "--push")
        time.sleep(moment)
        build.process.kill()
        build.wait()
        if number % 2:
            continue
        again = state.build(context, tag=tag)
        assert unnamed_snapshots(state.state) == []
        assert tree(again.tag, tmp_path / "actual") == wanted, f"killed after {moment:.2f} s"
        assert config(again.tag) == wanted_config
        assert left_behind(state.state) == []
        if number % 4 == 0:
            shutil.rmtree(state.state)


# --- one of several stages fails ------------------------------------------------------------------------------------


def test_a_stage_that_fails_stops_the_others_at_once(cli: Cli, context: Path, base_image: str) -> None:
    nap = unusual_nap()
    random_file(context / "big", 30)

    def dockerfile(bad: str, slow: str) -> str:
        return (
            f"FROM {base_image} AS slow\nCOPY big /big\nRUN echo kept > /slow\nRUN {slow}\n"
            f"FROM {base_image} AS bad\nRUN echo kept > /bad\nRUN {bad}\n"
            f"FROM {base_image}\nCOPY --from=slow /slow /\nCOPY --from=bad /bad /\n"
        )

    fuse = unusual_nap()
    (context / "Dockerfile").write_text(dockerfile(f"sleep {fuse}; exit 9", f"echo begun; sleep {nap}"))
    build = Running.start(cli, context)
    build.says("begun\n")
    until(lambda: bool(processes(f"sleep {fuse}")))
    for fused in processes(f"sleep {fuse}"):
        if (Path("/proc") / str(fused) / "cmdline").read_bytes().startswith(b"sleep"):
            os.kill(fused, signal.SIGKILL)
    began = time.monotonic()
    while processes(f"sleep {nap}") and time.monotonic() < began + 10:
        time.sleep(0.02)
    assert time.monotonic() - began < 1.5
    assert build.wait() == 30
    paragraph = build.output[build.output.index("error: ") :]
    assert "Dockerfile:7:1" in paragraph
    assert "code 9" in paragraph
    assert left_behind(cli.state) == []
    (context / "Dockerfile").write_text(dockerfile("echo repaired", "echo quick"))
    again = cli.build(context, tag="app:1", push=False)
    by_title = {step["text"]: step["state"] for step in again.timing["steps"]}
    kept = [title for title in by_title if "kept" in title or "COPY big" in title]
    assert len(kept) == 3
    assert {by_title[title] for title in kept} == {"cached"}


# --- the registry refuses -------------------------------------------------------------------------------------------


def test_an_upload_that_is_refused_for_good_ends_the_build_early(
    cli: Cli, context: Path, registry: DockerRegistry, base_image: str, proxy: FaultProxy
) -> None:
    nap = unusual_nap()
    base = base_image.replace(registry.host, proxy.host)  # its layers are mounted: only what is new is refused
    (context / "Dockerfile").write_text(f"FROM {base}\nRUN echo one > /one\nRUN echo begun; sleep {nap}\n")
    denied = (403, {"Content-Type": "application/json"}, b'{"errors":[{"code":"DENIED","message":"quota is used up"}]}')
    proxy.inject(Fault("PATCH", times=1000, answer=denied), Fault("PUT", "/blobs/uploads/", times=1000, answer=denied))
    build = Running.start(cli, context, "--tag", f"{proxy.host}/denied/app:1", "--push")
    assert build.wait(30) in (41, 43), build.output
    assert "quota is used up" in build.output[build.output.index("error: ") :]
    assert "Traceback" not in build.output
    assert processes(f"sleep {nap}") == []
    assert left_behind(cli.state) == []
    assert registry.tags("denied/app") == []
    (context / "Dockerfile").write_text(f"FROM {base}\nRUN echo one > /one\nRUN echo done\n")
    assert states(cli.build(context, tag=f"{registry.host}/denied/app:1"))[0] == "cached"


def test_a_registry_that_is_unavailable_for_a_while(
    cli: Cli, context: Path, base_image: str, proxy: FaultProxy
) -> None:
    random_file(context / "big", 5)
    (context / "Dockerfile").write_text(f"FROM {base_image}\nCOPY big /big\nRUN echo made > /made\n")
    unavailable = (503, {}, b"")
    proxy.inject(
        Fault("PATCH", times=2, answer=unavailable),
        Fault("PUT", "/blobs/uploads/", times=2, answer=unavailable),
        Fault("PUT", "/manifests/", times=3, answer=unavailable),
        Fault("POST", "/blobs/uploads/", times=2, answer=unavailable),
    )
    built = cli.build(context, tag=f"{proxy.host}/unavailable/app:1")
    assert states(built) == ["ran", "ran"]
    assert len(built.timing["warnings"]) >= 4
    # Nothing is compressed twice: what is sent again is what was sent before.
    sent = blobs_sent(proxy)
    assert len(sent) == len(set(sent))
    assert len([one for one in proxy.requests if one.fault]) >= 7


# --- destinations ---------------------------------------------------------------------------------------------------


def test_three_destinations_at_once_and_a_base_of_one_of_them(
    cli: Cli, context: Path, registry: DockerRegistry, base_image: str, tmp_path: Path
) -> None:
    """The base is mounted where it comes from and copied elsewhere; all three have the same image."""
    (context / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo {os.urandom(4).hex()} > /made\n")
    layout = tmp_path / "layout"
    with (
        DockerRegistry.start(tmp_path / "second") as second,
        FaultProxy.start(registry.port) as here,
        FaultProxy.start(second.port) as there,
    ):
        # The base is named through the proxy too: for the builder that is the registry.
        text = (context / "Dockerfile").read_text().replace(registry.host, here.host)
        (context / "Dockerfile").write_text(text)
        built = cli.build(
            context,
            "--tag",
            f"{there.host}/copied/app:2",
            "--output",
            f"oci:{layout}",
            tag=f"{here.host}/mounted/app:1",
        )
        digests = {
            json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}"))["Digest"]
            for name in (f"{registry.host}/mounted/app:1", f"{second.host}/copied/app:2")
        }
        assert digests == {built.digest}
        index = json.loads((layout / "index.json").read_text())
        assert {entry["digest"] for entry in index["manifests"]} == {built.digest}
        base_layers = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{base_image}"))[
            "layers"
        ]
        digests_of_base = {layer["digest"] for layer in base_layers}
        assert digests_of_base.isdisjoint(blobs_sent(here)), "mounted, not sent"
        assert digests_of_base <= set(blobs_sent(there))
        mounts = [one for one in here.seen("POST", "mount=") if one.status == 201]
        assert len(mounts) == len(digests_of_base)
        assert tree(f"{second.host}/copied/app:2", tmp_path / "one") == tree(
            f"{registry.host}/mounted/app:1", tmp_path / "two"
        )
        run("skopeo", "copy", f"oci:{layout}:1", f"dir:{tmp_path / 'checked'}")


def test_a_build_of_which_nothing_changed_moves_nothing(
    cli: Cli, context: Path, base_image: str, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    random_file(context / "big", 5)
    (context / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo 1 > /one\nCOPY big /big\nRUN echo 2 > /two\n")
    tag = f"{proxy.host}/unchanged/app:1"
    first = cli.build(context, tag=tag)
    cli.build(context, tag=tag)
    proxy.forget()
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        again = cli.build(context, tag=tag)
        best = min(best, time.perf_counter() - began)
    assert again.digest == first.digest
    assert set(states(again)) == {"cached"}
    assert proxy.seen("PUT") + proxy.seen("PATCH") + proxy.seen("POST") == []
    assert proxy.seen("GET", "/blobs/") == []
    with capsys.disabled():
        print(f"[nothing changed: {best:.2f} s] ", end="")
    assert best < 1.5  # 0.4 on an idle machine
    # a tag that is new is one request that moves something
    cli.build(context, tag=f"{proxy.host}/unchanged/app:2")
    assert [one.path for one in proxy.seen("PUT")] == ["/v2/unchanged/app/manifests/2"]
    assert proxy.seen("PATCH") == []


# --- a damaged state ------------------------------------------------------------------------------------------------


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def _truncated_blobs(state: Path) -> None:
    for blob in (state / "blobs/sha256").iterdir():
        os.truncate(blob, blob.stat().st_size // 2)


def _flipped_blobs(state: Path) -> None:
    for blob in (state / "blobs/sha256").iterdir():
        flip(blob, blob.stat().st_size // 2)


def _flipped_blob_headers(state: Path) -> None:
    for blob in (state / "blobs/sha256").iterdir():
        flip(blob, 4)  # gzip's modification time: the layer still unpacks


def _lost_blobs(state: Path) -> None:
    shutil.rmtree(state / "blobs")


def _damaged_tocs(state: Path) -> None:
    for toc in (state / "toc").iterdir():
        flip(toc, toc.stat().st_size // 2)


def _empty_tocs(state: Path) -> None:
    for toc in (state / "toc").iterdir():
        toc.write_bytes(b"")


def _lost_snapshots(state: Path) -> None:
    shutil.rmtree(state / "snapshots/data")


def _emptied_snapshots(state: Path) -> None:
    for snapshot in (state / "snapshots/data").iterdir():
        shutil.rmtree(snapshot / "fs")
        (snapshot / "fs").mkdir()


def _names_that_are_files(state: Path) -> None:
    for link in (state / "snapshots/by-chain").iterdir():
        link.unlink()
        link.write_text("x")


def _index_of_garbage(state: Path) -> None:
    (state / "index.sqlite").write_bytes(os.urandom(20_000))


def _index_with_damaged_pages(state: Path) -> None:
    for suffix in ("-wal", "-shm"):
        (state / f"index.sqlite{suffix}").unlink(missing_ok=True)
    data = bytearray((state / "index.sqlite").read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    data[150:4096] = os.urandom(4096 - 150)
    (state / "index.sqlite").write_bytes(data)


def _damaged_records(state: Path) -> None:
    with sqlite3.connect(state / "index.sqlite") as database:
        database.execute("UPDATE records SET record = substr(record, 1, 40)")


def _records_of_lost_blobs(state: Path) -> None:
    with sqlite3.connect(state / "index.sqlite") as database:
        rows = database.execute("SELECT key, record FROM records").fetchall()
        for key, record in rows:
            changed = re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "ab" * 32, record)
            database.execute("UPDATE records SET record = ? WHERE key = ?", (changed, key))


def _everything(state: Path) -> None:
    for damage in (_flipped_blobs, _damaged_tocs, _emptied_snapshots):
        damage(state)


DAMAGES = [
    (_truncated_blobs, False), (_flipped_blobs, True), (_flipped_blob_headers, True), (_lost_blobs, False),
    (_damaged_tocs, False), (_empty_tocs, False), (_lost_snapshots, False), (_emptied_snapshots, True),
    (_names_that_are_files, False), (_index_of_garbage, True), (_index_with_damaged_pages, True),
    (_damaged_records, False), (_records_of_lost_blobs, False), (_everything, True),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "warned"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_state(
    cli: Cli, context: Path, registry: DockerRegistry, base_image: str, tmp_path: Path,
    damage: Callable[[Path], None], warned: bool,
) -> None:  # fmt: skip
    """The image is right whatever happened to the state, and the build after that one reuses everything again."""

    def dockerfile(last: str) -> None:
        (context / "Dockerfile").write_text(
            f"FROM {base_image} AS tools\nRUN mkdir -p /opt/a && echo tool > /opt/a/tool\n"
            f"FROM {base_image}\nCOPY small /data/small\nRUN echo made > /data/made && rm /etc/group\n"
            f"COPY --from=tools /opt /opt\nRUN {last}\n"
        )

    repository = f"{registry.host}/damaged/{damage.__name__.strip('_').replace('_', '-')}"
    dockerfile("cat /opt/a/tool /data/made > /last")
    cli.build(context, tag=f"{repository}:1")
    damage(cli.state)
    dockerfile("cat /data/made /opt/a/tool /data/small > /changed && test ! -e /etc/group")
    # to another repository: the blobs have to be there, whole
    second = cli.build(context, tag=f"{repository}/second:1")
    if warned:
        assert second.timing["warnings"], "a person should hear of it"
    clean = LocalCli(cli.home, tmp_path / "clean").build(context, tag=f"{repository}/clean:1")
    assert tree(second.tag, tmp_path / "one") == tree(clean.tag, tmp_path / "two")
    assert config(second.tag) == config(clean.tag)
    third = cli.build(context, tag=f"{repository}/second:2")
    assert set(states(third)) == {"cached"}
    assert third.timing["warnings"] == []
    dockerfile("cat /data/made > /again")
    fourth = cli.build(context, tag=f"{repository}/second:3")
    assert fourth.timing["warnings"] == []
    assert states(fourth).count("ran") == 1
    assert unnamed_snapshots(cli.state) == []


def test_an_image_is_stored_as_named(cli: Cli, context: Path, base_image: str, registry: DockerRegistry) -> None:
    """The registry's copy of each blob is what its name says, also after a state was damaged."""
    (context / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo stored > /file\n")
    built = cli.build(context, tag=f"{registry.host}/stored/app:1")
    done = subprocess.run(["sha256sum", registry.blob_path(built.digest)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == built.digest.removeprefix("sha256:")
