"""Where a layer's tar is cut into pieces that are compressed on their own.

The cuts depend on the items alone, and a cut depends only on what stands near it: an item more or less somewhere
changes a few pieces, not all that follow. So pieces compressed while a RUN still writes (`ahead.py`) can be used for
the layer it leaves, and the same tree is always cut alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from ci_plugins.layer.compress import CHUNK
from ci_plugins.layer.entry import EntryType, Item
from ci_plugins.layer.tar import Buffer

#: Below this, a cut would cost more than it is good for.
_LEAST = CHUNK // 4
#: One name in 16 ends a group that is large enough.
_CUT_MASK = 15


def groups(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in runs of about half a chunk to two chunks; a file of a chunk or more is a run of its own."""
    group: list[Item] = []
    size = 0
    for item in items:
        entry = item.entry
        content = entry.size if entry.type is EntryType.FILE else 0
        if content >= CHUNK:
            if group:
                yield group
            yield [item]
            group, size = [], 0
            continue
        group.append(item)
        size += content + 512
        if size >= CHUNK or (
            size >= _LEAST and not zlib.crc32(entry.path.encode(errors="surrogateescape")) & _CUT_MASK
        ):
            yield group
            group, size = [], 0
    if group:
        yield group


def chunks(blocks: Iterable[Buffer]) -> Iterator[list[Buffer]]:
    """The same bytes in lists of pieces that are `CHUNK` bytes together, the last one fewer."""
    pieces: list[Buffer] = []
    room = CHUNK
    for block in blocks:
        view = memoryview(block)
        while len(view) >= room:
            pieces.append(view[:room])
            yield pieces
            view, pieces, room = view[room:], [], CHUNK
        if view:
            pieces.append(view)
            room -= len(view)
    if pieces:
        yield pieces
