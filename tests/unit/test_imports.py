"""The shape of the code: which room may import which, who prints, how long a module may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ci_plugins"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: A room imports itself and those above it.
ROOMS = (
    "errors",
    "events",
    "oci",
    "options",
    "dockerfile",
    "storage",
    "layer",
    "context",
    "cache",
    "mounts",
    "plan",
    "sandbox",
    "transfer",
    "foreign",
    "engine",
    "serve",
    "report",
    "ci",
    "build",
    "pipeline",
    "preview",
    "upkeep",
    "cli",
)
#: Implementations of one protocol: interchangeable only while none knows another.
SIBLINGS = (
    ("ci_plugins.storage.registry", "ci_plugins.storage.oci_layout", "ci_plugins.storage.local"),
    ("ci_plugins.cache.sqlite", "ci_plugins.cache.redis", "ci_plugins.cache.registry"),
    ("ci_plugins.engine.native", "ci_plugins.engine.buildkit"),
)
#: Each of these costs more than all else a `--help` does: imported in the function or the module that needs it.
HEAVY = {"boto3", "botocore", "isal", "jinja2", "requests", "rich", "tenacity", "urllib3", "yaml", "zstandard"}
#: what `import ci_plugins.cli` runs before it knows what it was asked for
START_UP = ("ci_plugins", "ci_plugins.__main__", "ci_plugins.cli", "ci_plugins.errors", "ci_plugins.events")
MOST_LINES = 400


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported_by(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import, those inside functions and for type checking included."""
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            module = node.module or ""
            # `from ci_plugins.storage import local` imports ci_plugins.storage.local
            yield from ((node.lineno, name) for alias in node.names if (name := _module(module, alias.name)))


def _module(module: str, name: str) -> str:
    inner = ROOT / Path(*module.split(".")) / name
    return f"{module}.{name}" if inner.is_dir() or inner.with_suffix(".py").is_file() else module


def at_start_up(path: Path) -> Iterator[tuple[int, str]]:
    """Imports that run when the module is imported: not those in functions, nor those for type checking only."""
    todo: list[ast.stmt] = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.ClassDef)):
            todo += [inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(name_of(path))
    if room in ("", "__main__"):
        allowed: tuple[str, ...] = ("cli",) if room else ()
    else:
        assert room in ROOMS, f"{room} is a new room: give it its place in ROOMS and in docs/architecture.md"
        allowed = ROOMS[: ROOMS.index(room) + 1]
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {room or 'the package'} imports {name}"
        for line, name in imported_by(path)
        if name.startswith("ci_plugins.") and room_of(name) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("siblings", SIBLINGS, ids=lambda names: names[0].rpartition(".")[0])
def test_backends_do_not_know_each_other(siblings: tuple[str, ...]) -> None:
    def belongs(module: str, backend: str) -> bool:
        return module == backend or module.startswith(backend + ".")

    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in MODULES
        for backend in siblings
        if belongs(name_of(path), backend)
        for line, name in imported_by(path)
        if any(belongs(name, other) for other in siblings if other != backend)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "cli.py"], ids=name_of)
def test_only_the_command_line_prints_and_exits(path: Path) -> None:
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called in ("print", "input", "sys.exit", "exit", "quit", "breakpoint") and path.name != "__main__.py":
            wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {called}()")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_can_be_held_in_mind(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{lines} lines"


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path) in START_UP], ids=name_of)
def test_starting_imports_nothing_heavy(path: Path) -> None:
    """What is really loaded is measured in tests/integration/test_start_up.py."""
    wrong = [f"{path.name}:{line}: {name}" for line, name in at_start_up(path) if name.split(".")[0] in HEAVY]
    assert not wrong, "\n".join(wrong)


def test_errors_and_events_need_only_the_standard_library() -> None:
    for name in ("errors", "events"):
        for _, imported in imported_by(PACKAGE / f"{name}.py"):
            assert imported.split(".")[0] not in HEAVY | {"ci_plugins"}, f"{name}.py imports {imported}"
