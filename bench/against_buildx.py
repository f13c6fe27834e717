"""`ci-plugins build --push` and `docker buildx build --push` side by side, in one run on one machine.

    script/install-docker
    sudo .venv/bin/python -m bench.against_buildx [--only python|layers|start] [--markdown FILE]

Prints Markdown. What is compared and how to read it: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.integration.dockerd import Dockerd, missing
from tests.servers import DockerRegistry

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".state" / "cache" / "debian"
COMPRESSIONS = ("gzip", "zstd")
CASES = ("cold", "one file changed", "unchanged")
EMPTY_CASES = ("empty runner, one file changed", "empty runner, unchanged")
BIG_LAYER_MIB = 2048
MANY_FILES = 50_000


@dataclass(frozen=True)
class Measured:
    """One build. Seconds; `run`: all RUN steps together, `tail`: end of the last step → end of the push."""

    total: float
    run: float
    tail: float
    #: peak resident memory of the largest process of the client, MiB; 0 where a daemon does the work
    memory: float = 0.0


# --- the two ways to build -------------------------------------------------------------------------------------------


@dataclass
class Ours:
    folder: Path
    compression: str
    name: str = "ci-plugins"

    def build(self, context: Path, tag: str, *arguments: str) -> Measured:
        report = self.folder / "report"
        command = [
            sys.executable, "-m", "ci_plugins", "build", str(context), "--push", "--tag", tag, "--progress", "plain",
            "--compression", self.compression, "--state", str(self.folder / "state"), "--report-dir", str(report),
            *arguments,
        ]  # fmt: skip
        total, memory = timed(command, {**os.environ, "HOME": str(self.folder)}, self.folder / "output")
        timing = json.loads((report / "timing.json").read_text())
        ran = [step for step in timing["steps"] if step["instruction"].startswith("RUN") and step["state"] == "ran"]
        return Measured(total, sum(step["run_seconds"] for step in ran), timing["push_tail_seconds"] or 0.0, memory)

    def forget(self, context: Path, tag: str, *arguments: str) -> tuple[str, ...]:
        """Become an empty runner. What it may use of the builds before is in the registry already."""
        shutil.rmtree(self.folder / "state")
        return ()

    def steps(self) -> list[dict[str, object]]:
        return list(json.loads((self.folder / "report/timing.json").read_text())["steps"])


@dataclass
class Buildx:
    docker: Dockerd
    compression: str
    name: str = "docker buildx"

    def build(self, context: Path, tag: str, *arguments: str) -> Measured:
        output = self.docker.directory / "progress"
        if self.compression == "gzip":
            how = ["--push"]
        else:
            exporter = f"type=image,name={tag},push=true,compression=zstd,compression-level=3,force-compression=true"
            how = ["--output", f"{exporter},oci-mediatypes=true"]
        command = [
            "docker", "buildx", "build", *how, "--tag", tag, "--progress", "rawjson", "--provenance", "false",
            "--network", "host", *arguments, str(context),
        ]  # fmt: skip
        total, _ = timed(command, self.docker.environment(), output)
        ends = list(vertexes(output.read_text()))
        ran = [(start, end) for name, start, end, cached in ends if "] RUN " in name and not cached]
        steps = [end for name, _, end, _ in ends if name.startswith("[") and not name.startswith("[internal]")]
        last = max((end for *_, end, _ in ends), default=0.0)
        return Measured(total, sum(end - start for start, end in ran), last - max(steps, default=last))

    def forget(self, context: Path, tag: str, *arguments: str) -> tuple[str, ...]:
        """Become an empty runner that has left its cache in the registry. Returns how the next build uses it."""
        place = f"type=registry,ref={tag.rpartition(':')[0]}:cache"
        if not (self.docker.directory / "remembered").exists():
            self.build(context, tag, *arguments, "--cache-to", f"{place},mode=max")
            (self.docker.directory / "remembered").touch()
        images = self.docker("image", "ls", "--quiet", "--all").split()
        if images:
            self.docker("image", "rm", "--force", *sorted(set(images)))
        self.docker("buildx", "prune", "--all", "--force")
        return "--cache-from", place, "--cache-to", f"{place},mode=max"


def vertexes(text: str) -> Iterator[tuple[str, float, float, bool]]:
    """Name, start and end (seconds since the epoch), cached: of all that BuildKit finished. `text` is rawjson."""
    decoder = json.JSONDecoder()
    seen: dict[str, tuple[str, float, float, bool]] = {}
    at = 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            at += 1
            continue
        for vertex in value.get("vertexes") or []:
            if vertex.get("completed"):
                start, end = (datetime.fromisoformat(vertex[key]).timestamp() for key in ("started", "completed"))
                seen[vertex["digest"]] = (vertex["name"], start, end, bool(vertex.get("cached")))
    return iter(seen.values())


def timed(command: Sequence[str], environment: dict[str, str], output: Path) -> tuple[float, float]:
    """Wall seconds of a program, and the peak memory in MiB of the largest process among it and its children."""
    with output.open("wb") as file:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: code {process.returncode}\n{output.read_text(errors='replace')[-4000:]}")
    return seconds, usage.ru_maxrss / 1024


# --- what is built ---------------------------------------------------------------------------------------------------


def push_base(folder: Path, registry: DockerRegistry) -> str:
    """Debian with this machine's CA bundle and package indexes in it, pushed by skopeo.

    Both tools build on the same image: BuildKit has no way to give them to RUN without leaving them there.
    """
    subprocess.run([ROOT / "script/debian-rootfs", CACHE / "debian.tar"], check=True)
    profile = json.loads(subprocess.check_output([ROOT / "script/network-profile"]))["network_profile"]
    environment = dict(profile.get("env", {}))
    context = folder / "base"
    context.mkdir()
    os.link(CACHE / "debian.tar", context / "debian.tar")
    lines = ["FROM scratch", "ADD debian.tar /"]
    if bundle := profile.get("ca_certificates"):
        shutil.copy(bundle, context / "ca.crt")
        path = "/etc/ssl/certs/ca-certificates.crt"
        lines.append(f"COPY ca.crt {path}")
        environment |= {"PIP_CERT": path, "NODE_EXTRA_CA_CERTS": path}
    lines += [f"ENV {name}={json.dumps(value)}" for name, value in environment.items()]
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")
    reference = f"{registry.host}/debian:1"
    Ours(folder, "gzip").build(context, reference)
    return reference


@contextmanager
def fresh(folder: Path, tool: str, compression: str) -> Iterator[tuple[Ours | Buildx, DockerRegistry]]:
    """A tool that has never built anything, and a registry that holds nothing. Starting them is not measured."""
    place = folder / f"{tool}-{compression}"
    place.mkdir()
    with DockerRegistry.start(place / "registry") as registry:
        if tool == "ci-plugins":
            yield Ours(place, compression), registry
        else:
            with Dockerd.start(place / "docker") as docker:
                yield Buildx(docker, compression), registry
    shutil.rmtree(place)


def copy_base(source: str, registry: DockerRegistry) -> str:
    target = f"{registry.host}/debian:1"
    tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
    subprocess.run(["skopeo", "copy", "--quiet", *tls, f"docker://{source}", f"docker://{target}"], check=True)
    return target


def python_example(folder: Path, tools: Sequence[str]) -> dict[tuple[str, str, str], Measured]:
    """examples/python-web: cold, with one source file changed, unchanged. By tool, compression and case."""
    found: dict[tuple[str, str, str], Measured] = {}
    with DockerRegistry.start(folder / "bases") as bases:
        base = push_base(folder, bases)
        for compression in COMPRESSIONS:
            for name in tools:
                context = folder / f"context-{name}-{compression}"
                shutil.copytree(ROOT / "examples/python-web", context)
                with fresh(folder, name, compression) as (tool, registry):
                    argument = f"BASE={copy_base(base, registry)}"
                    for case in (*CASES, *EMPTY_CASES):
                        tag, how = f"{registry.host}/app:1", ("--build-arg", argument)
                        if case in EMPTY_CASES:
                            how += tool.forget(context, tag, *how)
                        if case.endswith("one file changed"):
                            with (context / "src/app.py").open("a") as source:
                                source.write("# changed\n")
                        measured = tool.build(context, tag, *how)
                        found[name, compression, case] = measured
                        progress(f"{name}, {compression}, {case}: {measured.total:.2f} s")
    return found


def layers(folder: Path) -> Iterator[tuple[str, str]]:
    """A 2 GiB layer and one of 50,000 files, ours alone: memory and throughput."""
    with DockerRegistry.start(folder / "layers-registry") as registry:
        tool = Ours(folder, "zstd")
        busybox = folder / "busybox"
        busybox.mkdir()
        shutil.copy("/bin/busybox", busybox / "busybox")
        start = 'FROM scratch\nCOPY busybox /bin/busybox\nSHELL ["/bin/busybox", "sh", "-c"]\n'
        # Half of it random, half text: neither all noise nor all zeros.
        half = BIG_LAYER_MIB // 2
        (busybox / "Dockerfile").write_text(
            f"{start}RUN /bin/busybox dd if=/dev/urandom of=/noise bs=1M count={half} && "
            "/bin/busybox yes 'a line of text in a large file' | "
            f"/bin/busybox dd iflag=fullblock of=/text bs=1M count={half}\n"
        )
        measured = tool.build(busybox, f"{registry.host}/big:1")
        yield (
            f"{BIG_LAYER_MIB} MiB layer, zstd, built and pushed: peak memory",
            f"{measured.memory:.0f} MiB (goal < 400)",
        )
        yield "… RUN / push tail / total", f"{measured.run:.1f} / {measured.tail:.1f} / {measured.total:.1f} s"
        # By COPY: what a RUN has written is compressed before it ends.
        many = folder / "many"
        for number in range(MANY_FILES):
            file = many / "files" / f"{number // 100}" / f"{number % 100}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"line {number} of a small file\n" * (number % 100))
        (many / "Dockerfile").write_text("FROM scratch\nCOPY files /many\n")
        tool.build(many, f"{registry.host}/many:1")
        [layer] = [step["layer"] for step in tool.steps()]
        assert isinstance(layer, dict)
        yield (
            f"{MANY_FILES:,} files in one layer: tar + hash + zstd",
            f"{layer['end'] - layer['start']:.2f} s (goal < 4)",
        )


def start_up() -> Iterator[tuple[str, str]]:
    def best(*command: str) -> float:
        def once() -> float:
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            return time.perf_counter() - started

        return min(once() for _ in range(7))

    bare = best(sys.executable, "-c", "pass")
    imported = best(sys.executable, "-c", "import ci_plugins.cli") - bare
    yield "importing the command line, above a bare interpreter", f"{imported * 1000:.0f} ms (goal < 100)"
    yield (
        "`ci-plugins --version`, whole process",
        f"{best(sys.executable, '-m', 'ci_plugins', '--version') * 1000:.0f} ms",
    )


# --- the table -------------------------------------------------------------------------------------------------------


def compared(found: dict[tuple[str, str, str], Measured]) -> Iterator[str]:
    yield "| compression | case | tool | total | RUN | push tail | total / RUN | times ours |"
    yield "|---|---|---|--:|--:|--:|--:|--:|"
    for (name, compression, case), one in sorted(found.items(), key=lambda item: order(item[0])):
        ours = found.get(("ci-plugins", compression, case), one)
        over = f"{one.total / one.run:.2f}" if one.run > 0.05 else "–"
        yield (
            f"| {compression} | {case} | {name} | {one.total:.2f} s | {one.run:.2f} s | {one.tail:.2f} s "
            f"| {over} | {one.total / ours.total:.2f} |"
        )


def order(key: tuple[str, str, str]) -> tuple[int, int, str]:
    name, compression, case = key
    return COMPRESSIONS.index(compression), (*CASES, *EMPTY_CASES).index(case), name


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def report(folder: Path, only: str | None) -> Iterator[str]:
    parts: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {"layers": lambda: layers(folder), "start": start_up}
    if only in (None, "python"):
        reason = missing()
        if reason:
            progress(f"without docker buildx: {reason}")
        tools = ["ci-plugins"] if reason else ["docker buildx", "ci-plugins"]
        yield from compared(python_example(folder, tools))
        yield ""
    if only != "python":
        yield "| ci-plugins alone | |"
        yield "|---|--:|"
        for name, part in parts.items():
            if only in (None, name):
                yield from (f"| {what} | {value} |" for what, value in part())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("python", "layers", "start"), help="one part of it")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to FILE as well")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("error: building needs root\nnext: run it with sudo")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        lines = []
        for line in report(Path(folder), options.only):
            print(line, flush=True)
            lines.append(line)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
