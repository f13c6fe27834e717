"""Where values come from, which one wins, and what is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from ci_plugins.errors import CiPluginsError, ConfigError, UsageError
from ci_plugins.layer.compress import Compression, Kind
from ci_plugins.options import (
    BuildOptions,
    CacheOptions,
    Detected,
    IndexOptions,
    Invocation,
    Output,
    PlanOptions,
    ServeOptions,
    Source,
    parse,
)
from ci_plugins.options.commands import CACHE, CACHE_INDEX
from ci_plugins.options.declared import OPTIONS, options_of
from ci_plugins.options.emit import to_argv
from ci_plugins.options.foreign import INSTEAD

HOME = {"HOME": "/home/someone"}


def build(*argv: str, environ: dict[str, str] | None = None, directory: Path = Path("/nowhere")) -> BuildOptions:
    options = invoke(*argv, environ=environ, directory=directory).options
    assert isinstance(options, BuildOptions)
    return options


def invoke(*argv: str, environ: dict[str, str] | None = None, directory: Path = Path("/nowhere")) -> Invocation:
    return parse(["build", *argv], {**HOME, **(environ or {})}, directory)


def file(directory: Path, text: str) -> Path:
    (directory / "ci-plugins.yml").write_text(text)
    return directory


# --- what the CI tells -----------------------------------------------------------------------------------------------

TOLD = Detected("Some CI", "pr/7", ("branch/release", "branch/main"), True)
SCOPES = ("cache_scope", "cache_read", "trust_foreign")


def in_ci(*argv: str, environ: dict[str, str] | None = None, directory: Path = Path("/nowhere")) -> Invocation:
    return parse(["build", *argv], {**HOME, **(environ or {})}, directory, lambda environ: TOLD)


def scopes(invocation: Invocation) -> tuple[object, ...]:
    options = invocation.options
    assert isinstance(options, BuildOptions)
    return options.cache_scope, options.cache_read, options.trust_foreign, options.scope_origin


def test_what_the_ci_tells_takes_the_place_of_defaults() -> None:
    invocation = in_ci()
    assert scopes(invocation) == ("pr/7", ("branch/release", "branch/main"), True, "Some CI")
    assert {invocation.origins[name].source for name in SCOPES} == {Source.DETECTED}
    assert str(invocation.origins["trust_foreign"]) == "Some CI"
    assert invocation.origins["prefer"].source is Source.DEFAULT
    assert scopes(invoke()) == ("default", (), False, "default")


def test_a_plan_asks_the_ci_too_and_other_commands_do_not() -> None:
    planned = parse(["plan"], HOME, Path("/nowhere"), lambda environ: TOLD).options
    assert isinstance(planned, PlanOptions)
    assert (planned.build.cache_scope, planned.build.scope_origin) == ("pr/7", "Some CI")

    def never(environ: object) -> Detected:
        raise AssertionError

    assert parse(["cache", "tree"], HOME, Path("/nowhere"), never).options


@pytest.mark.parametrize("name", ["--cache-scope", "--cache-read"])
def test_a_scope_somebody_gave_stands_alone(tmp_path: Path, name: str) -> None:
    """Of the three, nothing is taken from the CI: a mix is a leak that nobody meant."""
    given = {"--cache-scope": ("mine", ()), "--cache-read": ("default", ("mine",))}[name]
    variable = "CI_PLUGINS_" + name[2:].upper().replace("-", "_")
    file(tmp_path, f"{name[2:].replace('-', '_')}: mine\n")
    for invocation, origin in (
        (in_ci(name, "mine"), name),
        (in_ci(environ={variable: "mine"}), variable),
        (in_ci(directory=tmp_path), f"{tmp_path / 'ci-plugins.yml'}:1:"),
    ):
        *values, said = scopes(invocation)
        assert values == [*given, False]
        assert str(said).startswith(origin)


def test_foreign_images_are_a_question_of_their_own(tmp_path: Path) -> None:
    file(tmp_path, "trust_foreign: false\n")
    for invocation, source in (
        (in_ci("--trust-foreign=false"), Source.FLAG),
        (in_ci(environ={"CI_PLUGINS_TRUST_FOREIGN": "false"}), Source.ENVIRONMENT),
        (in_ci(directory=tmp_path), Source.FILE),
    ):
        assert scopes(invocation) == ("pr/7", ("branch/release", "branch/main"), False, "Some CI")
        assert invocation.origins["trust_foreign"].source is source
    assert scopes(in_ci("--cache-scope", "mine", "--trust-foreign"))[2] is True


def test_an_argument_vector_means_the_same_in_a_ci() -> None:
    options = invoke().options
    assert options
    again = parse(to_argv(options), HOME, Path("/nowhere"), lambda environ: TOLD)
    assert again.options == options


# --- the declarations -----------------------------------------------------------------------------------------------


def test_settings_have_exactly_the_declared_options() -> None:
    for command, settings in (("build", BuildOptions), ("serve", ServeOptions), (CACHE_INDEX, IndexOptions)):
        declared = {option.field for option in options_of(command)} - {"config", "debug"}
        assert {field.name for field in fields(settings)} - {"scope_origin"} == declared
    declared = {option.field for command in set(CACHE) - {CACHE_INDEX} for option in options_of(command)} - {
        "config",
        "debug",
    }
    assert {field.name for field in fields(CacheOptions)} - {"action"} == declared
    declared = {option.field for option in options_of("plan")} - {"config", "debug", "json"}
    assert declared < {field.name for field in fields(BuildOptions)}


def test_names_flags_variables_and_keys_are_unique() -> None:
    for derived in ("name", "variable", "path"):
        values = [getattr(option, derived) for option in OPTIONS]
        assert len(values) == len(set(values)), derived
    assert not INSTEAD.keys() & {option.flag for option in OPTIONS}


# --- precedence and origin ------------------------------------------------------------------------------------------


def test_default_then_file_then_environment_then_flag(tmp_path: Path) -> None:
    file(tmp_path, "compression: zstd\n")
    variable = {"CI_PLUGINS_COMPRESSION": "gzip"}
    steps = [
        (invoke(), "gzip", Source.DEFAULT),
        (invoke(directory=tmp_path), "zstd", Source.FILE),
        (invoke(directory=tmp_path, environ=variable), "gzip", Source.ENVIRONMENT),
        (invoke("--compression=zstd", directory=tmp_path, environ=variable), "zstd", Source.FLAG),
    ]
    for invocation, value, source in steps:
        assert isinstance(invocation.options, BuildOptions)
        assert (invocation.options.compression, invocation.origins["compression"].source) == (value, source)


def test_an_origin_names_the_flag_the_variable_and_the_place(tmp_path: Path) -> None:
    file(tmp_path, "push: false\nnetwork_profile:\n  ca_certificates: ca.pem\n")
    origins = invoke("-q", environ={"CI_PLUGINS_NO_CACHE": "true"}, directory=tmp_path).origins
    assert origins["quiet"].name == "-q"
    assert origins["no_cache"].name == "CI_PLUGINS_NO_CACHE"
    assert origins["ca_certificates"].name == "network_profile.ca_certificates"
    assert str(origins["ca_certificates"].where) == f"{tmp_path}/ci-plugins.yml:3:20"


def test_repeatable_values_are_replaced_mappings_are_merged_by_name(tmp_path: Path) -> None:
    file(tmp_path, "tag: [a:1, b:1]\nbuild_arg: {A: one, B: two}\n")
    options = build("-t", "c:1", "--build-arg", "A=three", directory=tmp_path)
    assert [tag.repository for tag in options.tags] == ["library/c"]
    assert dict(options.build_args) == {"A": "three", "B": "two"}


def test_a_mistake_in_the_file_counts_although_a_flag_hides_it(tmp_path: Path) -> None:
    file(tmp_path, "network: bridge\n")
    with pytest.raises(ConfigError, match="expected host or none"):
        build("--network=none", directory=tmp_path)


def test_a_variable_has_one_value_a_line_and_empty_is_unset() -> None:
    options = build(environ={"CI_PLUGINS_TAG": "a:1\n\n  b:2 \n", "CI_PLUGINS_TARGET": ""})
    assert [tag.tag for tag in options.tags] == ["1", "2"]
    assert options.target == ""


def test_a_name_alone_takes_the_environments_value_or_nothing() -> None:
    options = build("--build-arg", "HERE", "--build-arg", "GONE", "--label", "empty", environ={"HERE": "x"})
    assert dict(options.build_args) == {"HERE": "x"}
    assert dict(options.labels) == {"empty": ""}


# --- the command line, as docker reads it ---------------------------------------------------------------------------


def test_values_may_look_like_flags() -> None:
    options = build("--build-arg", "-x=-y", "-t=app:1", "-fsome/file", "--", "-context")
    assert dict(options.build_args) == {"-x": "-y"}
    assert (str(options.file), str(options.context), options.tags[0].tag) == ("some/file", "-context", "1")


def test_booleans_are_set_by_name_and_unset_by_value() -> None:
    assert build("--no-cache").no_cache
    assert not build("--no-cache=false", environ={"CI_PLUGINS_NO_CACHE": "1"}).no_cache
    assert build("-qt", "app:1").quiet


def test_kinds_of_values() -> None:
    options = build(
        "--memory-budget=1g", "--output", "oci:out/x", "--insecure-registry=reg.example:5000", "--platform=linux/arm64"
    )
    assert options.memory_budget == 1 << 30
    assert options.outputs == (Output("oci", Path("out/x")),)
    assert options.insecure_registries == ("reg.example:5000",)
    assert str(options.platform) == "linux/arm64"


def test_the_state_directory_follows_xdg() -> None:
    assert build().state == Path("/home/someone/.local/state/ci-plugins")
    assert build(environ={"XDG_STATE_HOME": "/var/state"}).state == Path("/var/state/ci-plugins")
    assert build(environ={"XDG_STATE_HOME": "relative"}).state == Path("/home/someone/.local/state/ci-plugins")


@pytest.mark.parametrize(
    ("argv", "message", "remedy"),
    [
        (["--taag", "x"], "unknown option --taag", "--tag"),
        (["-z"], "unknown option -z", ""),
        (["--cache-from", "x"], "--cache-from of docker build", "--cache URL"),
        (["--load"], "--load of docker build", "--output oci:DIR"),
        (["--secret=id=x"], "--secret of docker build", "--run-env"),
        (["--tag"], "--tag: needs a value", ""),
        (["-t", "Upper"], "-t: not an image reference", ""),
        (["-t", "a@sha256:" + "0" * 64], "cannot name a digest", ""),
        (["--push"], "--push: nothing says where to push to", "--tag"),
        (["a", "b"], "unexpected argument 'b'", ""),
        (["--network=bridge"], "expected host or none", ""),
        (["--platform=linux/amd64,linux/arm64"], "one platform", ""),
        (["--memory-budget=lots"], "expected a size", ""),
        (["--memory-budget=0"], "expected a size", ""),
        (["--compression-level=10"], "gzip takes levels 0 to 9", ""),
        (["--compression=zstd", "--compression-level=0"], "zstd takes levels 1 to 22", ""),
        (["--output=type=docker"], "expected oci:DIR", ""),
        (["--insecure-registry=http://x"], "without a scheme", ""),
        (["--build-arg", "=value"], "without a name", ""),
        (["--push=maybe"], "expected true or false", ""),
        (["--config=missing.yml"], "there is no file missing.yml", ""),
        (["-"], "standard input", ""),
        (["-f", "-"], "standard input", ""),
        (["https://example.com/repo.git"], "is not a directory", ""),
    ],
)
def test_a_bad_command_line_is_a_usage_error(argv: list[str], message: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(*argv)
    assert message in str(caught.value)
    assert remedy in caught.value.remedy
    assert caught.value.remedy


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("level", range(23))
def test_the_levels_are_those_of_the_codec(kind: Kind, level: int) -> None:
    try:
        Compression(kind, level)
    except ConfigError:
        with pytest.raises(UsageError, match=f"{kind} takes levels"):
            build(f"--compression={kind}", f"--compression-level={level}")
    else:
        assert build(f"--compression={kind}", f"--compression-level={level}").compression_level == level


def test_an_unknown_command_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        parse(["biuld"], HOME)
    assert "build" in caught.value.remedy


def test_a_plan_takes_what_it_depends_on_and_nothing_else(tmp_path: Path) -> None:
    file(tmp_path, "report_dir: report\ntag: [a:1]\nprefer: pull\n")
    options = parse(["plan", "--json", "--build-arg", "A=1", "src"], HOME, tmp_path).options
    assert isinstance(options, PlanOptions)
    assert options.json
    build = options.build
    assert (build.context, dict(build.build_args), build.prefer, build.report_dir) == (
        Path("src"), {"A": "1"}, "pull", None
    )  # fmt: skip
    with pytest.raises(UsageError, match="unknown option --output"):
        parse(["plan", "--output", "oci:x"], HOME, tmp_path)


def test_commands_of_two_words() -> None:
    options = parse(["cache", "prune", "--older-than", "14d", "--max-size=20GB"], HOME, Path("/nowhere")).options
    assert isinstance(options, CacheOptions)
    assert (options.action, options.older_than, options.max_size, options.subject) == (
        "prune",
        14 * 86400,
        20 << 30,
        None,
    )
    why = parse(["cache", "why", "localhost:5000/app"], HOME, Path("/nowhere")).options
    assert isinstance(why, CacheOptions)
    assert why.subject == "localhost:5000/app"
    assert parse(["cache"], HOME).topic == "cache"
    assert parse(["help", "cache", "tree"], HOME).topic == "cache tree"
    assert parse(["cache", "tree", "-h"], HOME).topic == "cache tree"


@pytest.mark.parametrize(
    ("argv", "message", "remedy"),
    [
        (["cache", "tre"], "unknown command cache tre", "tree, why, prune, verify or index"),
        (["cache", "why"], "nothing says what to explain", "cache tree"),
        (["cache", "index"], "nothing says which images to read", "HOST/NAME"),
        (["cache", "index", "registry.test/app:1"], "is an image", "repository"),
        (["cache", "index", "-x.test/app"], "unknown option", ""),
        (["cache", "index", "registry.test/App"], "lower case", ""),
        (["cache", "index", "--all", "registry.test/app"], "is a repository", "registry alone"),
        (["cache", "prune"], "nothing says what to forget", "--older-than"),
        (["cache", "prune", "--older-than", "14"], "expected a duration", ""),
        (["cache", "tree", "x"], "unexpected argument", ""),
    ],
)
def test_bad_cache_commands_are_usage_errors(argv: list[str], message: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(argv, HOME)
    assert message in str(caught.value)
    assert remedy in caught.value.remedy


def test_index_takes_many_repositories() -> None:
    options = parse(
        ["cache", "index", "a.test/one", "--cache", "redis://r", "a.test/two"], HOME, Path("/nowhere")
    ).options
    assert isinstance(options, IndexOptions)
    assert options.repositories == ("a.test/one", "a.test/two")
    assert (options.whole_registry, options.cache) == (False, "redis://r")


def test_help_and_version_need_nothing_else() -> None:
    assert parse([], {}).command == "help"
    assert parse(["build", "--push", "--help"], {}).topic == "build"
    assert parse(["--version"], {}).command == "version"


def test_a_secret_value_is_not_repeated_in_an_error_or_a_repr() -> None:
    with pytest.raises(UsageError) as caught:
        build("--run-env", "=hunter2")
    assert "hunter2" not in f"{caught.value} {caught.value.remedy}"
    assert "hunter2" not in repr(build("--run-env", "INDEX=hunter2", "--build-arg", "TOKEN=hunter2"))


# --- the file and the environment -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("tags: x\n", "1:1", "unknown key tags"),
        ("push: true\nserve:\n  prt: 1\n", "3:3", "unknown key serve.prt"),
        ("push: 3\n", "1:7", "push: expected true or false, found a number"),
        ("tag: [a, [b]]\n", "1:10", "tag: expected text, found a list"),
        ("tag:\n", "1:5", "tag: expected text, found nothing"),
        ("label: [a]\n", "1:8", "label: expected a mapping"),
        ("label:\n  a:\n", "2:5", "label.a: expected text, found nothing"),
        ("tag: [a, B]\n", "1:10", "not an image reference: 'B'"),
        ("push: true\npush: false\n", "2:1", "stands here twice"),
        ("push: [\n", "2:1", "not valid YAML"),
        ("- push\n", "1:1", "expected a mapping"),
        ("serve:\n  port: '80'\n", "2:9", "serve.port: expected a number, found text"),
        ("config: x\n", "1:1", "unknown key config"),
    ],
)
def test_a_mistake_in_the_file_has_a_place(tmp_path: Path, text: str, place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(directory=file(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path}/ci-plugins.yml:{place}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"push: \x07"])
def test_a_file_that_is_not_text_is_a_config_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "ci-plugins.yml").write_bytes(data)
    with pytest.raises(ConfigError):
        build(directory=tmp_path)


def test_values_in_the_file_are_taken_as_written(tmp_path: Path) -> None:
    file(tmp_path, "build_arg: {PYTHON: 3.10, YES: yes, HERE: }\nnetwork_profile: {env: {PORT: 0x1F}}\n")
    options = build(environ={"HERE": "x"}, directory=tmp_path)
    assert dict(options.build_args) == {"PYTHON": "3.10", "YES": "yes", "HERE": "x"}
    assert dict(options.run_env) == {"PORT": "0x1F"}


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/other.yml").write_text("file: Dockerfile.ci\noutput: oci:image\nstate: /var/state\n")
    options = build("--config=conf/other.yml", directory=tmp_path)
    assert options.file == tmp_path / "conf/Dockerfile.ci"
    assert options.outputs[0].path == tmp_path / "conf/image"
    assert options.state == Path("/var/state")


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert build(directory=file(tmp_path, "# nothing yet\n")) == build()


def test_one_file_serves_both_commands(tmp_path: Path) -> None:
    file(tmp_path, "tag: app:1\nserve: {port: 0}\n")
    options = parse(["serve"], HOME, tmp_path).options
    assert isinstance(options, ServeOptions)
    assert options.port == 0
    assert build(directory=tmp_path).tags[0].tag == "1"


def test_an_unknown_variable_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        build(environ={"CI_PLUGINS_TAGS": "x"})
    assert "CI_PLUGINS_TAGS" in str(caught.value)
    assert caught.value.remedy == "Did you mean CI_PLUGINS_TAG?"


def test_a_wrong_value_in_a_variable_names_the_variable() -> None:
    with pytest.raises(CiPluginsError, match="environment variable CI_PLUGINS_NETWORK: expected host or none"):
        build(environ={"CI_PLUGINS_NETWORK": "x"})


def test_a_scope_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--cache-scope: the name is empty"):
        parse(["build", ".", "--cache-scope", ""], {"HOME": str(tmp_path)}, tmp_path)
    with pytest.raises(ConfigError, match="CI_PLUGINS_CACHE_SCOPE: the name is empty"):
        parse(["build", "."], {"HOME": str(tmp_path), "CI_PLUGINS_CACHE_SCOPE": " "}, tmp_path)
