"""timing.json: the timeline for programs. docs/timing-schema.json is its schema, docs/reports.md explains it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from ci_plugins import __version__
from ci_plugins.report.advice import advice
from ci_plugins.report.timeline import MountWork, Step, Timeline, Transfer

#: Raised when a field changes its meaning or goes; new fields do not raise it.
VERSION = 1


def render(timeline: Timeline) -> str:
    return json.dumps(document(timeline), indent=2, ensure_ascii=False) + "\n"


def document(timeline: Timeline) -> dict[str, Any]:
    return {
        "version": VERSION,
        "generator": f"ci-plugins {__version__}",
        "image": timeline.image,
        "succeeded": timeline.succeeded,
        "cache_scope": timeline.scopes.to_json() if timeline.scopes else None,
        "started_at": datetime.fromtimestamp(timeline.started_at, UTC).isoformat(timespec="milliseconds"),
        "total_seconds": _seconds(timeline.total_seconds),
        "push_tail_seconds": None if timeline.push_tail_seconds is None else _seconds(timeline.push_tail_seconds),
        "parallelism": round(timeline.parallelism, 3),
        "uploaded_bytes": timeline.uploaded_bytes,
        "skipped_uploads": timeline.skipped_uploads,
        "downloaded_bytes": timeline.downloaded_bytes,
        "steps": [_step(step) for step in timeline.steps],
        "transfers": [_transfer(transfer) for transfer in timeline.transfers],
        "phases": [_stretch(each.kind, each.name, each.start, each.end) for each in timeline.phases],
        "mounts": [_mount(each) for each in timeline.mounts],
        "critical_path": [_stretch(each.kind, each.name, each.start, each.end) for each in timeline.critical_path],
        "warnings": list(timeline.warnings),
        "advice": list(advice(timeline)),
    }


def _step(step: Step) -> dict[str, Any]:
    layer = step.layer
    return {
        "stage": step.stage,
        "number": step.number,
        "total": step.total,
        "instruction": step.instruction,
        "text": step.text,
        "state": step.state,
        "reason": step.reason,
        "start": _seconds(step.start),
        "end": _seconds(step.end),
        "run_seconds": _seconds(step.run_seconds),
        "overlap_seconds": _seconds(step.overlap_seconds),
        "layer": None
        if layer is None
        else {
            "start": _seconds(layer.start),
            "end": _seconds(layer.end),
            "bytes": layer.bytes,
            "compressed_bytes": layer.compressed_bytes,
        },
        "uploads": [_transfer(upload) for upload in step.uploads],
    }


def _transfer(transfer: Transfer) -> dict[str, Any]:
    return {
        **_stretch(transfer.kind, transfer.name, transfer.start, transfer.end),
        "bytes": transfer.bytes,
        "result": transfer.result,
        "destination": transfer.destination,
    }


def _mount(mount: MountWork) -> dict[str, Any]:
    return {
        "action": mount.action,
        "id": mount.id,
        "start": _seconds(mount.start),
        "end": _seconds(mount.end),
        "result": mount.result,
        "bytes": mount.bytes,
        "moved_bytes": mount.moved_bytes,
    }


def _stretch(kind: str, name: str, start: float, end: float) -> dict[str, Any]:
    return {"kind": kind, "name": name, "start": _seconds(start), "end": _seconds(end)}


def _seconds(value: float) -> float:
    return round(value, 6)
