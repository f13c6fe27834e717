"""What a cache holds, for a terminal or a log."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence

from ci_plugins.cache.find import Chain
from ci_plugins.cache.forest import moment
from ci_plugins.cache.record import CacheRecord
from ci_plugins.cache.removal import Freed
from ci_plugins.cache.store import Pruned
from ci_plugins.cache.tree import Node, ScopeTree
from ci_plugins.cache.verify import Verified
from ci_plugins.oci import Digest, hex_of
from ci_plugins.plan.file_table import decode
from ci_plugins.report.text import clean, seconds, shorten, size

_SHORTEST_TITLE = 24
#: inputs that are shown by their digest's beginning
_DIGESTS = ("content", "heredoc", "mounts")
_DIGEST_SHOWN = 19


# -- tree --------------------------------------------------------------------------------------------------------------


def render_tree(name: str, scopes: Sequence[ScopeTree], *, now: float, width: int = 100) -> str:
    """`now` in seconds since the epoch: ages are told."""
    lines = [clean(name)]
    for scope in scopes:
        lines += ["", f"{clean(scope.scope)}: {_count(scope.records, 'step')}, {size(scope.bytes)}"]
        for root in scope.roots:
            lines += _tree_lines(root, now, width)
    if not scopes:
        lines.append("nothing is recorded yet")
    return "\n".join(lines) + "\n"


def _tree_lines(root: Node, now: float, width: int) -> Iterator[str]:
    """A chain goes straight down; where it forks, its branches are indented. Not recursive: chains may be long."""
    waiting: list[tuple[Node, str, str]] = [(root, "", "")]
    while waiting:
        node, first, rest = waiting.pop()
        yield _line(node, first, now, width)
        yield from (f"{rest}  ● {clean(name)}" for name in sorted(node.images))
        if len(node.children) == 1:
            waiting.append((node.children[0], rest, rest))
            continue
        for number, child in enumerate(reversed(node.children)):
            last = number == 0
            waiting.append((child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")))


def _line(node: Node, first: str, now: float, width: int) -> str:
    figures = _figures(node.record, now) if node.record else ""
    room = max(width - len(first) - len(figures) - 2, _SHORTEST_TITLE)
    title = shorten(clean(node.title), room)
    return f"{first}{title:<{room}}  {figures}".rstrip() if figures else first + title


def _figures(record: CacheRecord, now: float) -> str:
    layer = size(record.layer.descriptor.size) if record.layer else ""
    took = seconds(record.seconds) if record.layer else ""
    return f"{layer:>8} {took:>9} {_age(record, now):>6}  {hex_of(record.key)[:12]}"


def _age(record: CacheRecord, now: float) -> str:
    made = moment(record.created)
    if not made:
        return "?"
    passed = max(now - made, 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{passed / length:.0f} {unit}"
    return f"{passed:.0f} s"


# -- why ---------------------------------------------------------------------------------------------------------------


def render_why(name: str, chain: Chain, here: Collection[Digest], *, width: int = 100) -> str:
    """`here`: digests of the blobs this machine has."""
    lines = [f"{clean(name)}, scope {clean(chain.scope)}"]
    if chain.image:
        lines += [clean(chain.image.name), f"  {chain.image.manifest}", f"  built {clean(chain.image.created)}"]
    for record in (*([chain.root] if chain.root else []), *chain.steps):
        lines += ["", *_step_lines(record, here, width)]
    for key in chain.missing:
        lines += ["", f"a step that was forgotten: {key}"]
    return "\n".join(lines) + "\n"


def _step_lines(record: CacheRecord, here: Collection[Digest], width: int) -> Iterator[str]:
    yield from textwrap.wrap(clean(record.instruction), width, subsequent_indent="  ", break_on_hyphens=False)
    yield f"  key      {record.key}"
    yield f"  built    {clean(record.created)}" + (f" in {seconds(record.seconds)}" if record.layer else "")
    if record.layer:
        blob = record.layer.descriptor
        unpacked = f", {size(record.layer.size)} unpacked" if record.layer.size else ""
        yield f"  layer    {blob.digest}, {size(blob.size)}{unpacked}"
        places = [*record.repositories, *(["this machine"] if blob.digest in here else [])]
        yield f"  is at    {', '.join(map(clean, places)) or 'no place that is known here'}"
    elif record.base:
        yield f"  layers   {len(record.base)}, tables of contents at {', '.join(map(clean, record.repositories))}"
    else:
        yield "  layer    none"
    for line in map(clean, _inputs(record)):
        yield from textwrap.wrap(
            f"  {line}", width, subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False
        )


def _inputs(record: CacheRecord) -> Iterator[str]:
    for name, value in sorted(record.inputs.items()):
        if name.startswith("arg."):
            yield f"ARG      {name.removeprefix('arg.')}={value}"
        elif name == "files":
            yield f"files    {_file_names(value)}"
        elif name not in ("count", "manifest"):
            yield f"{name:<8} {value[:_DIGEST_SHOWN] + '…' if name in _DIGESTS else value}"


def _file_names(table: str) -> str:
    try:
        names = [name for name in decode(table) if not name.endswith("/")]
    except ValueError:
        return "(the list is damaged)"
    return f"{_count(len(names), 'file')}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"


# -- prune, verify -----------------------------------------------------------------------------------------------------


def render_prune(name: str, pruned: Pruned, freed: Freed) -> str:
    text = f"{clean(name)}: {_count(pruned.records, 'step')} forgotten, with {size(pruned.bytes)} of layers"
    counts = (
        (freed.blobs, "blob"),
        (freed.snapshots, "snapshot"),
        (freed.tocs, "table of contents"),
        (freed.mounts, "cache mount"),
    )
    gone = ", ".join(_count(number, what) for number, what in counts if number)
    lines = [text + (f"; {size(freed.bytes)} freed{f': {gone}' if gone else ''}" if freed.bytes or gone else "")]
    lines += [f"cannot be removed: {clean(problem)}" for problem in freed.problems]
    return "\n".join(lines) + "\n"


def render_verify(name: str, verified: Verified) -> str:
    lines = [
        f"{clean(name)}: {_count(verified.records, 'step')}, {_count(verified.asked, 'blob')} asked for in repositories"
    ]
    for finding in verified.findings:
        done = "forgotten" if finding.dropped else "corrected"
        record = finding.record
        lines.append(f"{done}: {hex_of(record.key)[:12]} {clean(record.instruction)}: {clean(finding.text)}")
    lines += [f"not known: {clean(text)}" for text in verified.unknown]
    if not verified.findings and not verified.unknown:
        lines.append("all of them tell the truth" if verified.records else "nothing is recorded yet")
    return "\n".join(lines) + "\n"


def _count(number: int, what: str) -> str:
    first, space, rest = what.partition(" of ")
    return f"{number} {first}{'' if number == 1 else 's'}{space}{rest}"
