"""Pairs of builds: what the second one says about why a step is not reused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ci_plugins.cache.memory import MemoryStore
from ci_plugins.cache.record import CacheRecord, ImageRecord, RecordedLayer
from ci_plugins.context import Context
from ci_plugins.dockerfile import Instruction, parse_dockerfile
from ci_plugins.oci import Descriptor, ImageConfig, Manifest, Platform, Reference, sha256_digest
from ci_plugins.plan.evaluate import Evaluator, Inputs
from ci_plugins.plan.explain import Explanation, explain
from ci_plugins.plan.past import Past
from ci_plugins.plan.planner import Plan, make_plan
from ci_plugins.plan.steps import BaseImage, Network, Stage
from ci_plugins.plan.weigh import Rates, Weigher

AMD64 = Platform("linux", "amd64")
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def image(name: str, version: bytes = b"1") -> BaseImage:
    config = ImageConfig(AMD64, config={"Env": ["PATH=/bin"]}, diff_ids=(sha256_digest(b"tar" + version),))
    layer = Descriptor(GZIP, sha256_digest(b"gz" + version), 3)
    return BaseImage(name, Reference.parse(name), Manifest.of(config.descriptor(), [layer]), config)


@dataclass
class Site:
    """A directory with its context, and the store that all its builds use."""

    directory: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    images: dict[str, BaseImage] = field(default_factory=dict)
    clock: int = 0

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
            (self.directory / name).write_text(text)

    def evaluate(
        self, text: str, args: Mapping[str, str] = {}, network: Network = "host"
    ) -> tuple[Stage, Sequence[Stage]]:
        def resolve(name: str, instruction: Instruction) -> BaseImage:
            return self.images.setdefault(name, image(name, name.encode()))

        dockerfile = parse_dockerfile(text)
        inputs = Inputs(
            platform=AMD64,
            target="",
            build_args=args,
            network=network,
            image=resolve,
            context=lambda: Context.open(self.directory, None),
        )
        evaluator = Evaluator(dockerfile, inputs)
        return evaluator.stage(dockerfile.target("")), evaluator.evaluated()

    def build(self, text: str, args: Mapping[str, str] = {}, *, name: str = "app:1") -> None:
        target, stages = self.evaluate(text, args)
        self.clock += 1
        created = f"2026-01-{self.clock:02}T00:00:00Z"
        for stage in stages:
            for step in stage.steps:
                blob = Descriptor(GZIP, sha256_digest(step.key.encode()), 1000)
                layer = RecordedLayer(blob, blob.digest, 3000) if step.work else None
                record = CacheRecord(step.key, step.parent, step.title, layer, created, 2.0, inputs=step.describe())
                # as it comes back from a store
                self.store.put([CacheRecord.from_json(record.key, record.to_json())])
        plan = make_plan(stages, target, {}, lambda record: True)
        manifest = sha256_digest(created.encode())
        self.store.put([], [ImageRecord(name, manifest, plan.path(), created)])

    def plan(
        self,
        text: str,
        args: Mapping[str, str] = {},
        *,
        name: str = "app:1",
        network: Network = "host",
        usable: Callable[[CacheRecord], bool] = lambda record: True,
        weigher: Weigher | None = None,
        no_cache: bool = False,
    ) -> tuple[Plan, Explanation]:
        target, stages = self.evaluate(text, args, network)
        keys = [step.key for stage in stages for step in stage.steps]
        records = self.store.lookup(keys, ["default"])
        plan = make_plan(stages, target, {} if no_cache else records, usable, *([weigher] if weigher else []))
        past = Past(self.store, ["default"], [name])
        choices = weigher.choices if weigher else ()
        return plan, explain(plan, records, past, choices, no_cache=no_cache)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.write({"src/main.py": "1", "src/util.py": "1", "src/data/a": "a", "setup.py": "s", "Dockerfile": "x"})
    return made


def told(explanation: Explanation) -> list[str]:
    """`ACTION instruction: reason` of every step, the action's first letter in capitals where the cause lies."""
    return [
        f"{each.action.upper() if each.cause else each.action} {each.step.title}"
        + (f": {each.reason}" * bool(each.reason))
        for each in explanation.steps
    ]


APP = "FROM base\nRUN deps\nCOPY src /app\nRUN make\nCMD run\n"
FOLLOWS = "it stands on a step that is run"


def test_nothing_changed_is_nothing_to_say(site: Site) -> None:
    site.build(APP)
    _, explanation = site.plan(APP)
    assert told(explanation) == ["reuse RUN deps", "reuse COPY src /app", "reuse RUN make", "reuse CMD run"]
    assert explanation.headline() == "expected 3 of 3 steps reused"
    assert explanation.first_miss is None


def test_everything_above_the_first_miss_follows_it(site: Site) -> None:
    site.build(APP)
    site.write({"src/main.py": "2", "src/new.py": "1"})
    _, explanation = site.plan(APP)
    assert told(explanation) == [
        "reuse RUN deps",
        "APPEND COPY src /app: src/main.py changed; 1 added, 1 modified of 4 files",
        f"run RUN make: {FOLLOWS}",
        f"append CMD run: {FOLLOWS}",
    ]
    assert explanation.headline() == (
        "expected 1 of 3 steps reused; first miss: COPY src /app because src/main.py changed"
    )
    assert list(explanation.causes().values()) == ["src/main.py changed; 1 added, 1 modified of 4 files"]


def change_mode(site: Site) -> None:
    (site.directory / "src/util.py").chmod(0o755)


def retarget(site: Site) -> None:
    (site.directory / "src/util.py").unlink()
    (site.directory / "src/util.py").symlink_to("main.py")


def remove(site: Site) -> None:
    (site.directory / "src/data/a").unlink()


def rename(site: Site) -> None:
    (site.directory / "src/main.py").rename(site.directory / "src/app.py")


def change_directory(site: Site) -> None:
    (site.directory / "src/data").chmod(0o700)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_mode, "src/util.py changed; 1 modified of 3 files"),
        (retarget, "src/util.py changed; 1 modified of 3 files"),
        (remove, "src/data/a is gone; 1 removed of 2 files"),
        (rename, "src/app.py is new; 1 added, 1 removed of 3 files"),
        (change_directory, "src/data/ changed; 1 modified of 3 files"),
    ],
)
def test_what_changed_in_the_context(site: Site, change: Callable[[Site], None], reason: str) -> None:
    site.build(APP)
    change(site)
    _, explanation = site.plan(APP)
    assert explanation.first_miss
    assert str(explanation.first_miss.reason) == reason


@pytest.mark.parametrize(
    ("before", "after", "step", "reason"),
    [
        ("RUN make", "RUN make all", "RUN make all", "the command changed; it was RUN make"),
        ("RUN make", "RUN one\nRUN make", "RUN one", "it is a new step"),
        ("RUN one\nRUN make", "RUN make", "RUN make", "a step before it is gone; RUN one"),
        ("ENV A=1", "ENV A=2", "ENV A=2", "the instruction changed; it was ENV A=1"),
        ("RUN make", "WORKDIR /x\nRUN make", "WORKDIR /x", "it is a new step"),
        ("RUN make", "RUN make\nRUN more", "RUN more", "it was never built before"),
        ("COPY src /app", "COPY src /app2", "COPY src /app2", "the instruction changed; it was COPY src /app"),
        (
            "COPY <<E /f\na\nE",
            "COPY <<E /f\nb\nE",
            "COPY <<E /f b E",
            "the instruction changed; it was COPY <<E /f a E",
        ),
        ("ENV X=1\nUSER 1", "ENV X=1\nUSER 2", "USER 2", "the instruction changed; it was USER 1"),
        ("RUN make", "COPY src /new", "COPY src /new", "it was never built before"),
    ],
)
def test_what_changed_in_the_dockerfile(site: Site, before: str, after: str, step: str, reason: str) -> None:
    site.build(f"FROM base\nRUN deps\n{before}\n")
    _, explanation = site.plan(f"FROM base\nRUN deps\n{after}\n")
    miss = explanation.first_miss
    assert miss is not None
    assert (miss.step.title, str(miss.reason)) == (step, reason)


@pytest.mark.parametrize(
    ("text", "before", "after", "reason"),
    [
        ("ARG VERSION\nRUN make", {"VERSION": "1.2"}, {"VERSION": "1.3"}, "ARG VERSION 1.2 → 1.3"),
        ("ARG V=1\nENV V=$V", {}, {"V": "2"}, "ARG V 1 → 2"),
        ("ARG V=1\nCOPY src /app/${V}", {}, {"V": "2"}, "ARG V 1 → 2"),
        ("ARG V\nRUN make", {}, {"V": "2"}, "ARG V is 2 and was not set before"),
        ("ARG V\nRUN make", {"V": "2"}, {}, "ARG V is not set any more"),
        ("ARG A\nARG B\nRUN make", {"A": "1", "B": "1"}, {"A": "2", "B": ""}, "ARG A 1 → 2; also ARG B"),
        ("ARG API_TOKEN\nRUN make", {"API_TOKEN": "hunter1"}, {"API_TOKEN": "hunter2"}, "ARG API_TOKEN changed"),
    ],
)
def test_what_changed_in_the_arguments(
    site: Site, text: str, before: Mapping[str, str], after: Mapping[str, str], reason: str
) -> None:
    site.build(f"FROM base\n{text}\n", before)
    _, explanation = site.plan(f"FROM base\n{text}\n", after)
    assert explanation.first_miss
    assert str(explanation.first_miss.reason) == reason


def test_a_secret_argument_is_in_no_record(site: Site) -> None:
    site.build("FROM base\nARG API_TOKEN\nRUN make\n", {"API_TOKEN": "hunter2"})
    assert not [record for record in site.store.records(["default"]) if "hunter2" in record.to_json()]


def test_the_network_of_a_run(site: Site) -> None:
    site.build("FROM base\nRUN make\n")
    _, explanation = site.plan("FROM base\nRUN make\n", network="none")
    assert explanation.first_miss
    assert str(explanation.first_miss.reason) == "its network changed: host → none"


@pytest.mark.parametrize("name", ["app:1", "app:2"])
def test_a_base_image_that_moved_is_found_through_the_last_image(site: Site, name: str) -> None:
    site.build(APP)
    old, new = site.images["base"], image("base", b"2")
    site.images["base"] = new
    _, explanation = site.plan(APP, name=name)
    assert explanation.first_miss
    assert explanation.first_miss.step.title == "RUN deps"
    assert explanation.first_miss.reason
    assert explanation.first_miss.reason.short == (f"base image moved: {old.digest[:19]}… → {new.digest[:19]}…")
    assert explanation.headline().startswith("expected 0 of 3 steps reused; first miss: RUN deps because base image")
    _, unnamed = site.plan(APP, name="another/image:1")
    assert unnamed.first_miss
    assert str(unnamed.first_miss.reason) == "it was never built before"


def test_another_base_image(site: Site) -> None:
    site.build(APP)
    _, explanation = site.plan(APP.replace("base", "other"))
    assert explanation.first_miss
    assert str(explanation.first_miss.reason) == "base image changed: base → other"


STAGES = "FROM golang AS build\nCOPY src /src\nRUN go build\nFROM base\nRUN deps\nCOPY --from=build /bin /bin\n"


def test_a_stage_that_is_built_again(site: Site) -> None:
    site.build(STAGES)
    site.write({"src/main.py": "2"})
    _, explanation = site.plan(STAGES)
    assert told(explanation) == [
        "APPEND COPY src /src: src/main.py changed; 1 modified of 3 files",
        f"run RUN go build: {FOLLOWS}",
        "reuse RUN deps",
        "APPEND COPY --from=build /bin /bin: stage build is built again",
    ]


@pytest.mark.parametrize("both", [False, True])
def test_the_base_image_of_another_stage_is_found_through_the_copy_from_it(site: Site, both: bool) -> None:
    site.build(STAGES)
    for name in ("golang", *(["base"] if both else [])):
        site.images[name] = image(name, b"2")
    _, explanation = site.plan(STAGES)
    assert explanation.steps[0].reason
    assert explanation.steps[0].reason.short.startswith("base image moved: sha256:")
    assert explanation.steps[0].reason.detail == "golang"
    assert explanation.first_miss is explanation.steps[0]


def test_an_image_that_is_copied_from(site: Site) -> None:
    text = "FROM base\nCOPY --from=tools:1 /t /t\n"
    site.build(text)
    site.images["tools:1"] = image("tools:1", b"2")
    _, explanation = site.plan(text)
    assert explanation.first_miss
    assert str(explanation.first_miss.reason).startswith("the image it copies from moved")


def test_a_layer_that_is_gone(site: Site) -> None:
    site.build(APP)
    _, explanation = site.plan(APP, usable=lambda record: record.instruction != "RUN deps")
    assert told(explanation)[:2] == [
        "RUN RUN deps: its layer is gone; the record of the step is there, its blob is not",
        f"append COPY src /app: {FOLLOWS}",
    ]


def test_without_the_cache(site: Site) -> None:
    site.build(APP)
    _, explanation = site.plan(APP, no_cache=True)
    assert explanation.headline() == "expected 0 of 3 steps reused; first miss: RUN deps because of --no-cache"


def test_rebuilding_what_is_slow_to_fetch_says_so_and_the_miss_after_it_too(site: Site) -> None:
    site.build(APP)
    slow = Weigher("auto", Rates(download=10.0, extract=10.0), lambda record: False)
    site.write({"src/main.py": "2"})
    _, explanation = site.plan(APP, weigher=slow)
    assert told(explanation)[:2] == [
        "RUN RUN deps: running it again is preferred to fetching its layer; 2.0 s to run, 300.0 s to fetch the layers",
        "APPEND COPY src /app: src/main.py changed; 1 modified of 3 files",
    ]
    assert explanation.headline() == (
        "expected 0 of 3 steps reused; first miss: COPY src /app because src/main.py changed"
    )


def test_a_first_build(site: Site) -> None:
    _, explanation = site.plan(APP)
    assert (
        explanation.headline() == "expected 0 of 3 steps reused; first miss: RUN deps because it was never built before"
    )


def test_records_without_or_with_damaged_inputs(site: Site) -> None:
    site.build(APP)
    site.write({"src/main.py": "2"})
    copy = next(record for record in site.store.records(["default"]) if record.instruction.startswith("COPY"))
    reasons = []
    for inputs in ({}, {**copy.inputs, "files": "AAAA"}, {**copy.inputs, "files": "%"}, {"content": "x", "count": "9"}):
        site.store.put([replace(copy, inputs=inputs)])
        miss = site.plan(APP)[1].first_miss
        assert miss is not None
        reasons.append(str(miss.reason))
    assert reasons == [
        "its files changed",
        "its files changed",
        "its files changed",
        "its files changed; 9 files before, 3 now",
    ]


def test_only_a_miss_costs_look_ups(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.build(APP)
    asked: list[str] = []

    def note(name: str) -> Callable[..., tuple[()]]:
        def answer(*given: object) -> tuple[()]:
            asked.append(name)
            return ()

        return answer

    for name in ("children", "images"):
        monkeypatch.setattr(MemoryStore, name, note(name))
    site.plan(APP)
    assert asked == []
    site.write({"src/main.py": "2"})
    site.plan(APP)
    assert asked == ["children", "images"]
