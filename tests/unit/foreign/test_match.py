"""The walk through the index: what is asked, what is proven, what is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ci_plugins.cache.chained import ChainedStore
from ci_plugins.cache.memory import MemoryStore
from ci_plugins.cache.record import FOREIGN, CacheRecord, RecordedLayer
from ci_plugins.context import Context
from ci_plugins.dockerfile import parse_dockerfile
from ci_plugins.errors import RegistryUnreachable
from ci_plugins.foreign import documents
from ci_plugins.foreign.asked import ForeignForest
from ci_plugins.foreign.chains import step_foreign_key
from ci_plugins.foreign.index import Indexed, Indexer
from ci_plugins.foreign.known import document_scope
from ci_plugins.foreign.match import ForeignImages, foreign_records
from ci_plugins.foreign.noted import read_noted
from ci_plugins.oci import Descriptor, Digest, History, ImageConfig, Manifest, Platform, Reference, media, sha256_digest
from ci_plugins.plan.evaluate import Evaluator, Inputs
from ci_plugins.plan.steps import BaseImage, Stage, Step
from ci_plugins.plan.weigh import Rates, Weigher
from ci_plugins.transfer.pull import StoredLayer
from ci_plugins.transfer.workers import Workers

AMD64 = Platform("linux", "amd64")
REPOSITORY = "registry.test/app"
BASE = sha256_digest(b"base tar")


def image(created: str, *steps: tuple[str, bytes], base: Digest = BASE) -> tuple[Manifest, ImageConfig]:
    """A BuildKit image on the base: (history text, the layer's bytes; none for a config entry)."""
    history = [History("# base", created), *(History(text, created, "buildkit", not data) for text, data in steps)]
    data = [data for _, data in steps if data]
    config = ImageConfig(AMD64, {"Env": ["PATH=/bin"]}, (base, *map(sha256_digest, data)), tuple(history), created)
    blobs = [Descriptor(media.OCI_LAYER_GZIP, sha256_digest(b"gz" + one), len(one)) for one in (b"base", *data)]
    return Manifest.of(config.descriptor(), blobs), config


class Registry:
    """`storage.blob.ImageOrigin` of tags."""

    def __init__(self, **tags: tuple[Manifest, ImageConfig]) -> None:
        self.tags = tags
        self.asked: list[str] = []

    def manifest(self, reference: Reference) -> Manifest:
        self.asked.append(reference.tag)
        return self.tags[reference.tag][0]

    def resolve(self, reference: Reference) -> Descriptor:
        return self.tags[reference.tag][0].descriptor

    def blob(self, reference: Reference, descriptor: Descriptor) -> list[bytes]:
        return [config.to_bytes() for manifest, config in self.tags.values() if manifest.config == descriptor]


class Walk:
    """Builds a Dockerfile's plan up to the walk, with everything counted."""

    def __init__(self, directory: Path, registry: Registry) -> None:
        self.directory, self.registry = directory, registry
        self.store = MemoryStore()
        #: how many keys every question was for
        self.asked: list[int] = []
        self.proven: list[tuple[str, str]] = []
        self.fitting = {b"copied"}
        self.missing: set[Digest] = set()
        self.warnings: list[str] = []

    def index(self, registry: Registry | None = None, repository: str = REPOSITORY) -> Indexed:
        known = registry or self.registry
        pool = Workers("index", 2)
        return Indexer(known, known.resolve, self.store, pool).index(repository, list(known.tags))  # type: ignore[arg-type]

    def look_up(self, keys: Sequence[Digest], scopes: Sequence[str]) -> list[Mapping[Digest, CacheRecord]]:
        self.asked.append(len(keys))
        return [self.store.lookup(keys, scopes)]

    def stages(self, text: str, **args: str) -> Sequence[Stage]:
        manifest, config = image("2026-01-01")
        base = BaseImage("base", Reference.parse("registry.test/base"), manifest, config)
        dockerfile = parse_dockerfile(text)
        inputs = Inputs(
            platform=AMD64,
            target="",
            build_args=args,
            network="host",
            image=lambda name, instruction: base,
            context=lambda: Context.open(self.directory, None),
        )
        evaluator = Evaluator(dockerfile, inputs)
        evaluator.stage(dockerfile.target(""))
        return evaluator.evaluated()

    def __call__(
        self, text: str, records: Mapping[Digest, CacheRecord] | None = None, *, index: bool = True, **args: str
    ) -> list[str]:
        """The digests' contents that were found for the steps of the last stage; "-" for a config, "" for none."""
        if index:
            self.index()
        stages = self.stages(text, **args)

        def holds(step: Step, layer: StoredLayer | None, below: StoredLayer | None) -> bool:
            name = next((str(data) for data in self.fitting if layer and layer.diff_id == sha256_digest(data)), "")
            self.proven.append((step.instruction.name, name))
            return bool(name) or (layer is None and step.instruction.name == "WORKDIR")

        images = ForeignImages(
            platform=AMD64,
            scope="main",
            forest=ForeignForest(self.look_up),
            present=lambda record: record.layer is not None and record.layer.diff_id not in self.missing,
            holds=holds,
            warn=self.warnings.append,
        )
        self.asked.clear()
        found = foreign_records(stages, records or {}, lambda record: True, {}, images)
        assert all(record.scope == "main" and record.key == key for key, record in found.items())
        self.found = found
        return [self._name(found.get(step.key)) for step in stages[-1].steps]

    def _name(self, record: CacheRecord | None) -> str:
        if record is None:
            return ""
        known = [b"one", b"two", b"copied", b"other", b"old", b"dir"]
        return next((d.decode() for d in known if record.layer and record.layer.diff_id == sha256_digest(d)), "-")


RUN_1, RUN_2 = ("RUN /bin/sh -c one # buildkit", b"one"), ("RUN /bin/sh -c two # buildkit", b"two")
COPY = ("COPY a / # buildkit", b"copied")
TEXT = "FROM base\nRUN one\nCOPY a /\nLABEL x=y\nRUN two\nCOPY a /b\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "a").write_text("a")
    return tmp_path


def test_a_chain_is_followed_to_its_last_run(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", RUN_1, COPY, RUN_2, ("COPY a /b # buildkit", b"other"))))
    assert walk(TEXT) == ["one", "copied", "-", "two", ""]
    assert walk.proven == [("COPY", "b'copied'")]
    assert len(walk.asked) == 1
    record = next(record for record in walk.found.values() if record.layer)
    assert record.repositories == (REPOSITORY,)
    assert (record.inputs[FOREIGN], record.seconds) == (f"{REPOSITORY}:v1", 0.0)


def test_a_copy_is_compared_only_where_a_run_follows_it(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", RUN_1, COPY)))
    assert walk(TEXT) == ["one", "", "", "", ""]
    assert walk.proven == []


def test_a_copy_that_differs_ends_it_unless_another_image_has_the_right_one(directory: Path) -> None:
    newer = image("2026-01-02", RUN_1, ("COPY a / # buildkit", b"other"), RUN_2)
    older = image("2026-01-01", RUN_1, COPY, RUN_2)
    assert Walk(directory, Registry(newer=newer))(TEXT) == ["one", "", "", "", ""]
    assert Walk(directory, Registry(newer=newer, older=older))(TEXT) == ["one", "copied", "-", "two", ""]


def test_the_newest_of_equal_runs(directory: Path) -> None:
    old = image("2025-01-01", ("RUN /bin/sh -c one # buildkit", b"old"))
    walk = Walk(directory, Registry(old=old, new=image("2026-01-01", RUN_1)))
    assert walk("FROM base\nRUN one\n") == ["one"]
    walk.missing = {sha256_digest(b"one")}
    assert walk("FROM base\nRUN one\n") == ["old"]


def test_another_base_is_another_chain(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", RUN_1, base=sha256_digest(b"another"))))
    assert walk("FROM base\nRUN one\n") == [""]
    assert len(walk.asked) == 1


def test_args_count(directory: Path) -> None:
    made = ("RUN |1 V=2 /bin/sh -c one # buildkit", b"one")
    walk = Walk(directory, Registry(v1=image("2026-01-01", ("ARG V=1", b""), made)))
    text = "FROM base\nARG V=1\nRUN one\n"
    assert walk(text, V="2") == ["-", "one"]
    assert walk(text) == ["", ""]


def test_a_workdir_without_a_layer_has_to_be_there_already(directory: Path) -> None:
    made = [("WORKDIR /w", b""), ("RUN /bin/sh -c one # buildkit", b"one")]
    manifest, config = image("2026-01-01", *made)
    config = config.with_config(WorkingDir="/w")
    walk = Walk(directory, Registry(v1=(Manifest.of(config.descriptor(), manifest.layers), config)))
    assert walk("FROM base\nWORKDIR /w\nRUN one\n") == ["-", "one"]
    assert walk.proven == [("WORKDIR", "")]


@pytest.mark.parametrize("mount", ["type=bind,target=/src", "target=/src,from=other"])
def test_no_history_tells_what_was_mounted(directory: Path, mount: str) -> None:
    [stage] = Walk(directory, Registry()).stages("FROM base\nRUN one\n")
    step = stage.steps[0]
    mounted = parse_dockerfile(f"FROM base\nRUN --mount={mount} one\n").target("").instructions[0]
    cached = parse_dockerfile("FROM base\nRUN --mount=type=cache,target=/c one\n").target("").instructions[0]
    assert step_foreign_key(AMD64, BASE, replace(step, instruction=mounted)) is None
    assert step_foreign_key(AMD64, BASE, replace(step, instruction=cached)) == step_foreign_key(AMD64, BASE, step)


def test_no_history_tells_what_a_script_holds(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", ("RUN /dev/pipes/EOF # buildkit", b"one"))))
    assert walk("FROM base\nRUN <<EOF\n#!/bin/sh\none\nEOF\n") == [""]
    assert walk.asked == []


TWELVE = [(f"RUN /bin/sh -c step {n} # buildkit", b"%d" % n) for n in range(12)]
TWELVE_TEXT = "FROM base\n" + "".join(f"RUN step {n}\n" for n in range(12))


def test_twelve_runs_are_one_question(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", *TWELVE)))
    assert walk(TWELVE_TEXT) == ["-"] * 12
    assert walk.asked == [1]


def test_what_the_build_knows_is_not_asked_for(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", *TWELVE)))
    walk(TWELVE_TEXT)
    known = walk.found
    assert walk(TWELVE_TEXT, known) == [""] * 12
    assert walk.asked == []
    # from the seventh step on
    half = {step.key: known[step.key] for step in walk.stages(TWELVE_TEXT)[0].steps[:6]}
    assert walk(TWELVE_TEXT, half) == [""] * 6 + ["-"] * 6
    assert walk.asked == [1]


def test_an_index_of_other_images_is_asked_once(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", *TWELVE)))
    assert walk("FROM base\nWORKDIR /\nCOPY a /\nRUN other\nRUN step 1\n") == ["", "", "", ""]
    # WORKDIR, which may write nothing, and the COPY after it
    assert walk.asked == [2]
    walk.store = MemoryStore()
    assert walk(TWELVE_TEXT, index=False) == [""] * 12
    assert len(walk.asked) == 1


@pytest.mark.parametrize(
    "rest", ["COPY a /", "LABEL x=y", "COPY a /\nCOPY --from=other a /b\nRUN one", "RUN <<EOF\n#!/bin/sh\none\nEOF"]
)
def test_nothing_is_asked_where_no_run_could_be_taken(directory: Path, rest: str) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", COPY, RUN_1)))
    walk(f"FROM base AS other\nCOPY a /\nFROM base\n{rest}\n")
    assert (walk.asked, walk.found) == ([], {})


def test_all_stages_are_one_question(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", RUN_1, RUN_2)))
    text = (
        "FROM base AS first\nRUN one\nFROM base AS second\nCOPY a /\nRUN two\nFROM scratch AS third\nRUN three\n"
        "FROM first\nRUN two\nCOPY --from=second a /\nCOPY --from=third a /\n"
    )
    assert walk(text) == ["two", "", ""]
    # two places on the base, one on nothing
    assert walk.asked == [3]


def test_what_does_not_fit_into_a_document_is_another_question(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MOST_LAYERS", 5)
    walk = Walk(directory, Registry(v1=image("2026-01-01", *TWELVE)))
    assert walk(TWELVE_TEXT) == ["-"] * 12
    assert walk.asked == [1] * 3


def test_layers_of_another_repository_are_found_and_forgotten(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", RUN_1)))
    other = Registry(v1=image("2026-01-01", RUN_1, RUN_2))
    text = "FROM base\nRUN one\nRUN two\n"
    walk.index(other, "registry.test/other")
    assert walk(text) == ["one", "two"]
    assert [record.repositories for record in walk.found.values()][1] == ("registry.test/other",)
    other.tags.clear()
    assert walk.index(other, "registry.test/other").removed == 2
    assert walk(text) == ["one", ""]


def test_two_stores_are_both_asked_and_nothing_is_kept(directory: Path) -> None:
    """What was kept here would hide what is indexed there later."""
    walk = Walk(directory, Registry(v1=image("2026-01-01", RUN_1, RUN_2)))
    walk.index()
    local, shared = MemoryStore(), walk.store
    chained = ChainedStore(local, shared, walk.warnings.append)
    walk.look_up = chained.lookup_in_each  # type: ignore[method-assign]
    text = "FROM base\nRUN one\nRUN two\n"
    assert walk(text, index=False) == ["one", "two"]
    assert local.scopes() == ()
    newer = image("2026-01-02", ("RUN /bin/sh -c one # buildkit", b"other"))
    walk.store = local
    walk.index(Registry(v1=newer))
    assert walk(text, index=False) == ["other", ""]
    walk.missing = {sha256_digest(b"other")}
    assert walk(text, index=False) == ["one", "two"]
    assert walk.warnings == []


def test_an_index_of_an_earlier_layout_is_ignored(directory: Path) -> None:
    """Then every layer was a record of its own, below the key it was found by."""
    walk = Walk(directory, Registry())
    [stage] = walk.stages("FROM base\nRUN one\n")
    place = step_foreign_key(AMD64, BASE, stage.steps[0])
    assert place
    layer = RecordedLayer(Descriptor(media.OCI_LAYER_GZIP, sha256_digest(b"gz"), 2), sha256_digest(b"one"), 2)
    inputs = {"image": f"{REPOSITORY}:v1", "below": BASE, "chain": BASE}
    for scope in (f"foreign:{REPOSITORY}", document_scope(BASE, place)):
        old = CacheRecord(place, None, "RUN one", layer, "", 0.0, scope, (REPOSITORY,), inputs=inputs)
        walk.store.put([old, replace(old, key=sha256_digest(b"its own"), parent=place)])
    assert walk("FROM base\nRUN one\n") == [""]
    walk.registry.tags["v1"] = image("2026-01-01", RUN_1)
    assert walk("FROM base\nRUN one\n") == ["one"]


def test_stages_stand_on_each_other(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", RUN_1, RUN_2)))
    assert walk("FROM base AS first\nRUN one\nFROM first\nRUN two\n") == ["two"]
    assert walk("FROM base AS first\nRUN none\nFROM first\nRUN two\n") == [""]


def test_a_registry_that_fails_is_a_warning(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", RUN_1)))
    walk.index()

    def fails(record: CacheRecord) -> bool:
        raise RegistryUnreachable("registry.test does not answer")

    images = ForeignImages(
        platform=AMD64,
        scope="main",
        forest=ForeignForest(walk.look_up),
        present=fails,
        holds=lambda step, layer, below: True,
        warn=walk.warnings.append,
    )
    assert foreign_records(walk.stages("FROM base\nRUN one\n"), {}, lambda record: True, {}, images) == {}
    assert "does not answer" in walk.warnings[0]


def test_an_index_follows_its_repository(directory: Path) -> None:
    registry = Registry(v1=image("2026-01-01", RUN_1), v2=image("2026-01-02", RUN_1, RUN_2))
    walk = Walk(directory, registry)
    walk.index()
    assert sorted(registry.asked) == ["v1", "v2"]
    walk.index()
    assert sorted(registry.asked) == ["v1", "v2"]
    del registry.tags["v2"]
    walk.index()
    assert walk("FROM base\nRUN one\nRUN two\n") == ["one", ""]


def test_only_what_leads_to_a_run_is_known(directory: Path) -> None:
    unknown = ("something else", b"old")
    for steps, kept in [
        ((COPY, RUN_1, COPY), 2),
        ((COPY, COPY), 0),
        ((COPY, unknown, RUN_1), 1),
        ((RUN_1, COPY, RUN_2, unknown, COPY, RUN_2), 5),
    ]:
        assert Walk(directory, Registry()).index(Registry(v1=image("2026-01-01", *steps))).layers == kept


def test_of_many_layers_in_one_place_the_newest_are_kept(directory: Path) -> None:
    def tags(months: range) -> dict[str, tuple[Manifest, ImageConfig]]:
        return {f"v{n}": image(f"2026-{n:02}-01", RUN_1, ("COPY a / # buildkit", b"%d" % n), RUN_2) for n in months}

    registry = Registry(**tags(range(1, 10)))
    walk = Walk(directory, registry)
    for months in (range(1, 11), *[range(1, 13)] * 3):
        walk.index()
        registry.tags = tags(months)
    registry.asked.clear()
    walk.index()
    copied = {sha256_digest(b"%d" % n): n for n in range(13)}
    kept = [copied[layer.diff_id] for layer in read_noted(walk.store, REPOSITORY).layers() if layer.diff_id in copied]
    assert sorted(kept) == list(range(5, 13))
    walk(TEXT, index=False)
    assert walk.proven == [("COPY", "")] * 8
    # what was read and is not kept is not read again
    assert registry.asked == []


def test_what_has_no_time_is_not_run_again_for_speed(directory: Path) -> None:
    walk = Walk(directory, Registry(v1=image("2026-01-01", RUN_1, RUN_2)))
    text = "FROM base\nRUN one\nRUN two\nRUN three\n"
    walk(text)
    [stage] = walk.stages(text)
    records = [walk.found[step.key] for step in stage.steps[:2]]
    assert Weigher("auto", Rates(1.0, 1.0), lambda record: False)(stage, records) == 2
    assert Weigher("rebuild", Rates(1.0, 1.0), lambda record: False)(stage, records) == 0
