"""What is derived from the declarations: argv, documents, schema, help."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ci_plugins.oci import Platform, Reference
from ci_plugins.options import BuildOptions, CacheOptions, Output, PlanOptions, ServeOptions, help_text, parse
from ci_plugins.options.commands import CACHE, COMMANDS, PLAN
from ci_plugins.options.declared import options_of
from ci_plugins.options.emit import documents, file_schema, to_argv
from ci_plugins.options.model import DURATION, format_duration, format_size
from ci_plugins.options.settings import Settings

DOCS = Path(__file__).parents[3] / "docs"

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
names = st.text(string.ascii_letters + string.digits + "_-. ", min_size=1, max_size=8)
paths = st.text(string.ascii_letters + string.digits + "._ -/é", min_size=1, max_size=20).map(Path)
#: a context of "-" means standard input, and is refused
places = paths.filter(lambda path: str(path) != "-" and not str(path).startswith(("http:", "https:", "git:", "ssh:")))
mappings = st.dictionaries(names, text, max_size=3).map(MappingProxyType)
references = st.builds(
    Reference, st.sampled_from(["localhost:5000", "docker.io"]), st.sampled_from(["a/b", "x/y-z"]), st.just("1.2")
)


def several(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=3, unique=True).map(tuple)


builds = st.builds(
    BuildOptions,
    context=places,
    file=st.none() | places,
    tags=st.lists(references, min_size=1, max_size=3, unique=True).map(tuple),
    build_args=mappings,
    target=text,
    labels=mappings,
    platform=st.none() | st.sampled_from([Platform("linux", "arm64"), Platform("linux", "arm", "v7")]),
    no_cache=st.booleans(),
    push=st.booleans(),
    outputs=several(st.builds(Output, st.just("oci"), paths)),
    network=st.sampled_from(["host", "none"]),
    iidfile=st.none() | paths,
    metadata_file=st.none() | paths,
    progress=st.sampled_from(["auto", "tty", "plain"]),
    quiet=st.booleans(),
    report_dir=st.none() | paths,
    cache=text,
    cache_scope=text.filter(str.strip),
    cache_read=several(text),
    prefer=st.sampled_from(["auto", "pull", "rebuild"]),
    compression=st.sampled_from(["gzip", "zstd"]),
    compression_level=st.none() | st.integers(1, 9),
    state=paths,
    insecure_registries=several(st.sampled_from(["reg.example", "reg.example:5000", "localhost"])),
    memory_budget=st.integers(1, 1 << 38),
    cache_mounts=st.sampled_from(["off", "local", "shared"]),
    cache_mounts_max_size=st.integers(1, 1 << 38),
    cache_mounts_expire=st.integers(1, 3650),
    ca_certificates=st.none() | paths,
    run_env=mappings,
)
serves = st.builds(ServeOptions, root=paths, host=text, port=st.integers(0, 65535), quiet=st.booleans())
hosts = several(st.sampled_from(["reg.example", "reg.example:5000", "localhost"]))
caches = st.builds(
    CacheOptions,
    action=st.sampled_from(["tree", "verify"]),
    cache=text,
    state=paths,
    insecure_registries=hosts,
    json=st.booleans(),
) | st.builds(
    CacheOptions,
    action=st.just("prune"),
    cache=text,
    state=paths,
    insecure_registries=hosts,
    json=st.booleans(),
    older_than=st.integers(1, 10**4).map(lambda minutes: minutes * 60),
    max_size=st.none() | st.integers(1, 1 << 45),
)


def planned(options: BuildOptions, json: bool) -> PlanOptions:
    """With the defaults of what a plan does not take."""
    taken = {option.field for option in options_of(PLAN)}
    others = {
        option.field: option.empty for option in options_of("build") if option.field not in taken and option.in_file
    }
    return PlanOptions(build=replace(options, **others), json=json)


plans = st.builds(planned, builds, st.booleans())


@given(builds | serves | caches | plans)
def test_options_survive_the_round_trip_through_argv(options: Settings) -> None:
    assert parse(to_argv(options), {}, Path("/nowhere")).options == options


@given(st.integers(1, 1 << 45))
def test_sizes_are_written_exactly(size: int) -> None:
    option = next(option for option in options_of("build") if option.name == "memory-budget")
    assert option.kind.parse(format_size(size)) == size


@given(st.integers(0, 10**5))
def test_durations_are_written_exactly(minutes: int) -> None:
    assert DURATION.parse(format_duration(minutes * 60)) == minutes * 60


@pytest.mark.parametrize("name", documents())
def test_generated_documents_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == documents()[name], "run: python -m ci_plugins.options.emit docs"


def test_the_schema_takes_the_documented_example_and_refuses_what_the_parser_refuses() -> None:
    schema = file_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    example = documents()["options.md"].split("```yaml\n")[1].split("```")[0]
    assert validator.is_valid(yaml.safe_load(example))
    for wrong in ({"tags": "x"}, {"push": 3}, {"serve": {"prt": 1}}, {"network": "bridge"}, {"label": ["a"]}):
        assert not validator.is_valid(wrong), wrong


def test_the_documented_example_is_understood(tmp_path: Path) -> None:
    example = documents()["options.md"].split("```yaml\n")[1].split("```")[0]
    (tmp_path / "ci-plugins.yml").write_text(example)
    options = parse(["build"], {"COMMIT_SHA": "abc"}, tmp_path).options
    assert isinstance(options, BuildOptions)
    assert options.build_args == {"VERSION": "1.2", "COMMIT_SHA": "abc"}
    assert options.ca_certificates == tmp_path / "company-ca.pem"
    assert options.push


def test_exit_codes_of_different_meaning_differ() -> None:
    rows = [line for line in documents()["exit-codes.md"].splitlines() if line.startswith("| ") and line[2].isdigit()]
    codes = [int(row.split("|")[1]) for row in rows]
    assert codes == sorted(set(codes))
    assert {0, 1, 2, 3, 12, 30, 130, 143} <= set(codes)


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option_within_the_width(command: str, width: int) -> None:
    shown = help_text(command, width)
    for option in options_of(command):
        assert option.flag in shown
    described = [line for line in shown.splitlines() if line.startswith(" " * 30)]
    assert max(len(line) for line in described) <= max(width, 68)


def test_help_of_a_group_lists_its_commands() -> None:
    shown = help_text("cache")
    assert all(command in shown for command in CACHE)
    assert "serve" not in shown
    assert all(command in help_text() for command in COMMANDS)
