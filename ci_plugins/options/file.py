"""Reading ci-plugins.yml: every value with its line and column, every unknown key refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci_plugins.errors import ConfigError, Location
from ci_plugins.options.arguments import Given, nearest
from ci_plugins.options.model import Alone, Option, Origin, Shape, Source

if TYPE_CHECKING:
    import yaml

FILE_NAME = "ci-plugins.yml"

#: options by key, nested: {"tag": …, "serve": {"port": …}}
Tree = dict[str, "Option | Tree"]

_PEOPLE_SAY = {"str": "text", "int": "a number", "float": "a number", "bool": "true or false", "null": "nothing"}


def tree_of(options: tuple[Option, ...]) -> Tree:
    tree: Tree = {}
    for option in options:
        if not option.in_file:
            continue
        branch = tree
        for key in option.path[:-1]:
            inner = branch.setdefault(key, {})
            assert isinstance(inner, dict)
            branch = inner
        branch[option.path[-1]] = option
    return tree


def read_file(path: Path, options: tuple[Option, ...]) -> tuple[Given, ...]:
    """All values of the file, in its order. Raises ConfigError with the place."""
    import yaml

    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = _location(path, mark) if mark else None
        raise ConfigError(f"not valid YAML: {error.problem or error.context}", where=where) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if root is None:
        return ()
    return tuple(_Reader(path).mapping(root, tree_of(options), ()))


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def mapping(self, node: yaml.Node, known: Mapping[str, Option | Tree], path: tuple[str, ...]) -> Iterator[Given]:
        for key, key_node, value in self._pairs(node, ".".join(path) or "the file"):
            name = ".".join((*path, key))
            if key not in known:
                near = nearest(key, known)
                whole = ".".join((*path, near))
                raise ConfigError(
                    f"unknown key {name}",
                    where=_location(self._path, key_node.start_mark),
                    remedy=f"Did you mean {whole}?" if near else None,
                )
            inner = known[key]
            if isinstance(inner, Option):
                yield from self._option(inner, name, value)
            else:
                yield from self.mapping(value, inner, (*path, key))

    def _option(self, option: Option, name: str, node: yaml.Node) -> Iterator[Given]:
        kind = _tag(node)
        if option.shape is Shape.MAP:
            for key, _, value in self._pairs(node, name):
                text = self._scalar(option, f"{name}.{key}", value)
                yield self._given(option, f"{name}.{key}", value, key if text is None else f"{key}={text}")
        elif option.shape is Shape.LIST and kind == "seq":
            for item in node.value:
                yield self._given(option, name, item, self._scalar(option, name, item) or "")
        else:
            yield self._given(option, name, node, self._scalar(option, name, node) or "")

    def _scalar(self, option: Option, name: str, node: yaml.Node) -> str | None:
        """The text as written. None for a name without a value, where that means something."""
        kind = _tag(node)
        if kind == "null" and option.shape is Shape.MAP and option.alone is Alone.ENVIRONMENT:
            return None
        if kind not in option.kind.scalars:
            takes = option.kind.scalars
            wanted = _PEOPLE_SAY["str" if "str" in takes else takes[0]]
            found = {"seq": "a list", "map": "a mapping"}.get(kind) or _PEOPLE_SAY.get(kind, kind)
            raise self._wrong(name, node, f"expected {wanted}, found {found}")
        return str(node.value)

    def _pairs(self, node: yaml.Node, name: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        if _tag(node) != "map":
            found = {"seq": "a list"}.get(_tag(node)) or _PEOPLE_SAY.get(_tag(node), _tag(node))
            raise self._wrong(name, node, f"expected a mapping of names to values, found {found}")
        seen: set[str] = set()
        for key_node, value in node.value:
            if _tag(key_node) in ("seq", "map"):
                raise self._wrong(name, key_node, "a key has to be a name")
            key = str(key_node.value)
            if key in seen:
                raise self._wrong(name, key_node, f"the key {key} stands here twice")
            seen.add(key)
            yield key, key_node, value

    def _given(self, option: Option, name: str, node: yaml.Node, text: str) -> Given:
        return Given(option, text, Origin(Source.FILE, name, _location(self._path, node.start_mark)))

    def _wrong(self, name: str, node: yaml.Node, message: str) -> ConfigError:
        return ConfigError(f"{name}: {message}", where=_location(self._path, node.start_mark))


def _tag(node: yaml.Node) -> str:
    return str(node.tag).rpartition(":")[2]


def _location(path: Path, mark: Any) -> Location:
    return Location(str(path), mark.line + 1, mark.column + 1)
