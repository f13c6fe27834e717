"""The source side of COPY: which files its patterns select, and under which names they will land.

As BuildKit does it (docopy and fsutil's copy): a source is cleaned, its directories and the source itself may be
symlinks, which are followed inside the root; in what a directory holds links stay links.
"""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from ci_plugins.errors import CopySourceNotFound, DockerfileError
from ci_plugins.layer.copy_patterns import MatchInfo, PatternMatcher, compile_glob, has_wildcards
from ci_plugins.layer.copy_request import CopyRequest, FileTree
from ci_plugins.layer.entry import Entry, EntryType

_PATTERN_REMEDY = "Write a [ that is part of a name as [[]; patterns follow Go's filepath.Match."


@dataclass(frozen=True, slots=True)
class Descendant:
    """Something inside a selected directory. `relative` is its path below that; `path` where it is read from.

    `delayed`: a directory that no pattern selects, there only for the sake of what it holds.
    """

    relative: str
    path: str
    entry: Entry
    delayed: bool = False


@dataclass(frozen=True, slots=True)
class Selected:
    """One match of one source: a file that lands under `name` (or the destination's), or a directory that gives
    what it holds."""

    name: str
    path: str
    entry: Entry
    descendants: tuple[Descendant, ...] = ()


def select(request: CopyRequest, sources: FileTree) -> list[Selected]:
    """In the order in which they are copied. A pattern without a match is an error unless another source has one.

    Raises CopySourceNotFound, OutsideContext, DockerfileError.
    """
    exclude = _matcher(request.exclude, "--exclude")
    selected: list[Selected] = []
    unmatched: list[str] = []
    for source in request.sources:
        matches = list(_select_one(source, request.parents, exclude, sources))
        selected += matches
        if not matches:
            unmatched.append(source)
    if unmatched and not selected and not request.inline:
        raise _not_found(unmatched[0], sources)
    return selected


def _select_one(source: str, parents: bool, exclude: PatternMatcher | None, sources: FileTree) -> Iterator[Selected]:
    include: PatternMatcher | None = None
    base = source
    if parents:
        base, pivot, pattern = source.partition("/./")
        if not pivot:
            base, pattern = "", source
        pattern = _cleaned(pattern)
        sources.resolve(pattern)  # refuses what leaves the context
        include = _matcher((pattern,), "--parents") if pattern else None
    for unfollowed in _expand(base, sources):
        path = sources.resolve(unfollowed)
        entry = sources.lookup(path)
        if entry is None:
            raise _not_found(base, sources)
        name = unfollowed.rpartition("/")[2]
        if entry.type is not EntryType.DIRECTORY:
            if exclude is None or not exclude.match(name)[0]:
                yield Selected(name, path, entry)
            continue
        descendants = tuple(_descend(path, "", sources, include, exclude, (), (), []))
        if include is not None and not descendants:
            if not has_wildcards(source):
                raise _not_found(source, sources)
            continue
        yield Selected(name, path, entry, descendants)


def _matcher(patterns: tuple[str, ...], flag: str) -> PatternMatcher | None:
    try:
        return PatternMatcher([_cleaned(pattern) for pattern in patterns]) if patterns else None
    except ValueError as error:
        raise DockerfileError(f"{flag}: malformed pattern {error}", remedy=_PATTERN_REMEDY) from error


def _cleaned(pattern: str) -> str:
    exception = pattern.startswith("!")
    cleaned = posixpath.normpath(pattern[exception:].lstrip("/"))
    return "!" * exception + ("" if cleaned == "." else cleaned)


def _expand(pattern: str, sources: FileTree) -> list[str]:
    """Paths a source pattern stands for, the last element not followed. One without wildcards stands for itself."""
    elements = _cleaned(pattern).split("/")
    fixed = next((n for n, element in enumerate(elements) if has_wildcards(element)), len(elements))
    if fixed == len(elements):
        return ["/".join(elements)]
    candidates = [sources.resolve("/".join(elements[:fixed]))]
    for element in elements[fixed:]:
        try:
            matches = compile_glob(element).fullmatch
        except ValueError as error:
            raise DockerfileError(f"malformed pattern {pattern!r}: {error}", remedy=_PATTERN_REMEDY) from error
        candidates = [
            f"{directory}/{name}" if directory else name
            for directory in candidates
            for name in sources.children(directory)
            if matches(name)
        ]
    return candidates


def _descend(
    directory: str,
    prefix: str,
    sources: FileTree,
    include: PatternMatcher | None,
    exclude: PatternMatcher | None,
    included: MatchInfo,
    excluded: MatchInfo,
    delayed: list[Descendant],
) -> Iterator[Descendant]:
    """All that is to be copied of a directory, by name, a directory before what it holds.

    `delayed` are the directories above that are not selected themselves: they come before the first thing that is.
    """
    for name in sources.children(directory):
        path = f"{directory}/{name}" if directory else name
        relative = prefix + name
        entry = sources.lookup(path)
        if entry is None:
            continue
        wanted, in_info = include.match(relative, included) if include else (True, ())
        refused, ex_info = exclude.match(relative, excluded) if exclude else (False, ())
        takes = wanted and not refused
        if takes:
            yield from delayed
            delayed.clear()
            yield Descendant(relative, path, entry)
        if entry.type is not EntryType.DIRECTORY:
            continue
        if not takes:
            if refused and not (exclude and exclude.may_except_below(relative)):
                continue
            if not wanted and not (include and include.may_match_below(relative)):
                continue
            delayed.append(Descendant(relative, path, entry, delayed=True))
        yield from _descend(path, relative + "/", sources, include, exclude, in_info, ex_info, delayed)
        if delayed and delayed[-1].relative == relative:
            delayed.pop()


def _not_found(pattern: str, sources: FileTree) -> CopySourceNotFound:
    cleaned = _cleaned(pattern)
    message = f"{pattern}: nothing to copy"
    if reason := sources.absence(cleaned):
        return CopySourceNotFound(
            f"{message}: {reason}", remedy="Change the ignore file, for example by an exception that begins with !."
        )
    if near := _nearest(cleaned, sources):
        message += f"; the nearest names are {', '.join(near)}"
    return CopySourceNotFound(message)


def _nearest(path: str, sources: FileTree) -> list[str]:
    """Up to three existing names like the first element of `path` that does not exist."""
    directory = ""
    for element in path.split("/"):
        names = sources.children(directory)
        if element not in names:
            close = difflib.get_close_matches(element, names, n=3, cutoff=0.4)
            return [posixpath.join(directory, name) for name in close]
        directory = sources.resolve(posixpath.join(directory, element))
    return []
