"""What a cache holds, for programs: docs/cache.md lists the fields."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ci_plugins.cache.find import Chain
from ci_plugins.cache.record import CacheRecord
from ci_plugins.cache.removal import Freed
from ci_plugins.cache.store import Pruned
from ci_plugins.cache.tree import Node, ScopeTree
from ci_plugins.cache.verify import Finding, Verified
from ci_plugins.oci import Digest
from ci_plugins.plan.file_table import decode

#: Raised when a field changes its meaning or goes; new fields do not raise it.
VERSION = 1


def render_tree(name: str, scopes: Sequence[ScopeTree]) -> str:
    return _text(
        name,
        scopes=[
            {
                "scope": scope.scope,
                "records": scope.records,
                "bytes": scope.bytes,
                "nodes": [_node(node, parent) for root in scope.roots for node, parent in _walk(root)],
            }
            for scope in scopes
        ],
    )


def render_why(name: str, chain: Chain, here: Collection[Digest]) -> str:
    image = chain.image
    return _text(
        name,
        scope=chain.scope,
        image={"name": image.name, "manifest": image.manifest, "created": image.created} if image else None,
        root=_explained(chain.root, here) if chain.root else None,
        steps=[_explained(record, here) for record in chain.steps],
        missing=list(chain.missing),
    )


def render_prune(name: str, pruned: Pruned, freed: Freed) -> str:
    return _text(
        name,
        records=pruned.records,
        bytes=pruned.bytes,
        freed_bytes=freed.bytes,
        blobs=freed.blobs,
        snapshots=freed.snapshots,
        tocs=freed.tocs,
        mounts=freed.mounts,
        problems=list(freed.problems),
    )


def render_verify(name: str, verified: Verified) -> str:
    return _text(
        name,
        records=verified.records,
        asked=verified.asked,
        dropped=[_finding(finding) for finding in verified.findings if finding.dropped],
        corrected=[_finding(finding) for finding in verified.findings if not finding.dropped],
        unknown=list(verified.unknown),
    )


def _text(name: str, **fields: Any) -> str:
    return json.dumps({"version": VERSION, "cache": name, **fields}, indent=2, ensure_ascii=False) + "\n"


def _walk(root: Node) -> Iterator[tuple[Node, Node | None]]:
    """A parent before its children; not recursive: chains may be long."""
    waiting: list[tuple[Node, Node | None]] = [(root, None)]
    while waiting:
        node, parent = waiting.pop()
        yield node, parent
        waiting += [(child, node) for child in reversed(node.children)]


def _node(node: Node, parent: Node | None) -> dict[str, Any]:
    return {
        "key": node.key,
        "parent": parent.key if parent else None,
        "title": node.title,
        "images": sorted(node.images),
        "record": _record(node.record) if node.record else None,
    }


def _record(record: CacheRecord) -> dict[str, Any]:
    layer = record.layer
    return {
        "instruction": record.instruction,
        "created": record.created,
        "seconds": round(record.seconds, 3),
        "layer": None
        if layer is None
        else {
            "digest": layer.descriptor.digest,
            "diff_id": layer.diff_id,
            "bytes": layer.descriptor.size,
            "uncompressed_bytes": layer.size,
        },
        "repositories": list(record.repositories),
    }


def _explained(record: CacheRecord, here: Collection[Digest]) -> dict[str, Any]:
    """`files`: the paths a COPY took; null where there is no list."""
    inputs = {name: value for name, value in record.inputs.items() if name != "files"}
    return {
        "key": record.key,
        "parent": record.parent,
        **_record(record),
        "here": record.layer is not None and record.layer.descriptor.digest in here,
        "inputs": inputs,
        "files": _files(record),
    }


def _files(record: CacheRecord) -> list[str] | None:
    try:
        return list(decode(record.inputs["files"]))
    except (KeyError, ValueError):  # none, or damaged: as good as none
        return None


def _finding(finding: Finding) -> dict[str, Any]:
    record = finding.record
    return {"scope": record.scope, "key": record.key, "instruction": record.instruction, "reason": finding.text}
