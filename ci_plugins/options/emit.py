"""What is derived from the declarations: an argument vector, the JSON schema of the file, and the documents.

python -m ci_plugins.options.emit DIRECTORY     writes the generated documents
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ci_plugins import errors
from ci_plugins.options.commands import BUILD, COMMANDS, PLAN, SERVE
from ci_plugins.options.declared import OPTIONS, options_of
from ci_plugins.options.foreign import INSTEAD
from ci_plugins.options.help import default_text, groups, metavar
from ci_plugins.options.model import Option, Shape
from ci_plugins.options.settings import BuildOptions, CacheOptions, PlanOptions, Settings


def to_argv(options: Settings) -> list[str]:
    """The command line that means exactly these options. It holds their secret values: do not show or pass it on."""
    command, holders = _command(options)
    argv, operands = command.split(), []
    for option in options_of(command):
        value = next((getattr(each, option.field) for each in holders if hasattr(each, option.field)), option.empty)
        if option.positional:
            operands.append(option.kind.format(value))
        elif option.shape is Shape.MAP:
            argv += [f"{option.flag}={name}={text}" for name, text in value.items()]
        elif option.shape is Shape.LIST:
            argv += [f"{option.flag}={option.kind.format(each)}" for each in value]
        elif value != option.empty or option.detected:
            argv.append(f"{option.flag}={option.kind.format(value)}")
    return [*argv, *(["--", *operands] if operands else [])]


def _command(options: Settings) -> tuple[str, tuple[object, ...]]:
    """The command, and the objects whose attributes are its options."""
    match options:
        case BuildOptions():
            return BUILD, (options,)
        case PlanOptions():
            return PLAN, (options, options.build)
        case CacheOptions():
            return f"cache {options.action}", (options,)
        case _:
            return SERVE, (options,)


def file_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of ci-plugins.yml, for editors."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ci-plugins.yml",
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }
    for option in OPTIONS:
        if not option.in_file:
            continue
        branch = root
        for key in option.path[:-1]:
            empty = {"type": "object", "properties": {}, "additionalProperties": False}
            branch = branch["properties"].setdefault(key, empty)
        branch["properties"][option.path[-1]] = _property(option)
    return root


def _property(option: Option) -> dict[str, Any]:
    described: dict[str, Any] = {"description": option.help}
    one = dict(option.kind.schema)
    if option.shape is Shape.MAP:
        described |= {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
    elif option.shape is Shape.LIST:
        described |= {"anyOf": [one, {"type": "array", "items": one}]}
    else:
        described |= one
        if default_text(option) and not (option.default_text or option.detected):
            described["default"] = option.default if isinstance(option.default, bool | int) else default_text(option)
    return described


_OPTIONS_HEAD = """# Options

Generated from `ci_plugins/options/declared.py` by `python -m ci_plugins.options.emit docs`; do not edit.

An option can be given in three places. A flag is stronger than a variable, a variable stronger than the file, the
file stronger than the default, also where the CI tells the default ([cache.md](cache.md#scopes)). Options of the form
NAME=VALUE are merged by name over the three; other repeatable options are taken from the strongest place as a whole.

- **Flag**: `--tag a --tag b`, read as docker reads its flags.
- **Variable**: `CI_PLUGINS_TAG`; repeatable options have one value a line. An empty variable counts as unset, an
  unknown `CI_PLUGINS_…` variable is an error.
- **File**: `ci-plugins.yml` in the current directory, or the one `--config` names. Values are taken as written (`3.10`
  stays `3.10`), relative paths are relative to the file, unknown keys are errors. `ci-plugins.schema.json` beside this
  document describes it to editors.

```yaml
tag: [registry.example.com/team/app:1.2]
push: true
build_arg:
  VERSION: 1.2
  COMMIT_SHA:            # no value: the environment's
network_profile:         # for RUN steps only, never in the image
  ca_certificates: company-ca.pem
  env:
    PIP_INDEX_URL: https://packages.example.com/simple
```
"""


def options_document() -> str:
    parts = [_OPTIONS_HEAD]
    for command, sentence in COMMANDS.items():
        parts.append(f"## ci-plugins {command}\n\n{sentence}\n")
        for group, members in groups(options_of(command)).items():
            parts.append(f"### {group}\n\n| flag | variable | key | default | meaning |\n|---|---|---|---|---|")
            parts[-1] += "".join(_row(option) for option in members) + "\n"
    parts.append("## Flags of docker build that are not here\n\n| flag | instead |\n|---|---|")
    parts[-1] += "".join(f"\n| `{flag}` | {_cell(text)} |" for flag, text in sorted(INSTEAD.items())) + "\n"
    return "\n".join(parts)


def _row(option: Option) -> str:
    short = f"`-{option.short}`, " if option.short else ""
    flag = f"{short}`{option.flag}" + ("`" if option.positional else f" {metavar(option)}".rstrip() + "`")
    key = f"`{'.'.join(option.path)}`" if option.in_file else ""
    more = " Repeatable." if option.shape is not Shape.ONE else ""
    alone = f" NAME alone: {option.alone.value}." if option.shape is Shape.MAP else ""
    cells = (flag, f"`{option.variable}`", key, default_text(option), option.help + more + alone)
    return "\n| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def exit_codes_document() -> str:
    rows: dict[int, list[str]] = {0: ["success"], 1: ["an unexpected error: please report it"]}
    for error in _tree(errors.CiPluginsError):
        rows.setdefault(error.exit_code, []).append(_describe(error))
    rows[143] = ["as 130, for SIGTERM"]
    lines = [
        "# Exit codes\n",
        "Generated from `ci_plugins/errors.py` by `python -m ci_plugins.options.emit docs`; do not edit.\n",
        "| code | error | trying again can help |\n|---|---|---|",
    ]
    retryable = {error.exit_code for error in _tree(errors.CiPluginsError) if error.retryable}
    for code, names in sorted(rows.items()):
        lines[-1] += f"\n| {code} | {'; '.join(names)} | {'yes' if code in retryable else ''} |"
    return "\n".join(lines) + "\n"


def _tree(root: type[errors.CiPluginsError]) -> list[type[errors.CiPluginsError]]:
    return [
        found
        for child in root.__subclasses__()
        for found in (child, *_tree(child))
        if found.__module__ == errors.__name__
    ]


def _describe(error: type[errors.CiPluginsError]) -> str:
    text = " ".join((error.__doc__ or "").split())
    return f"`{error.__name__}`" + (f": {_cell(text.rstrip('.'))}" if text else "")


def documents() -> dict[str, str]:
    """File name below docs/ → its text."""
    return {
        "options.md": options_document(),
        "exit-codes.md": exit_codes_document(),
        "ci-plugins.schema.json": json.dumps(file_schema(), indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (directory / name).write_text(text)
