"""What a step's key was made of, in words: kept in its record, so that a later build can say why it is another one.

They decide nothing, and hold nothing that the image does not show anyway.

    base        of the first step on an image: its name@digest, "scratch" for none
    arg.NAME    value of an ARG: of all in scope for RUN, else of those the instruction refers to
    files       COPY and ADD: `file_table`, left out if it is too long
    count       the number of files
    content     digest of all that is copied from the build context
    from        COPY --from: name@digest of an image, or "stage" and the key of its last step
    heredoc     digest of inline documents
    network     of a RUN, where it is not the host's
    mounts      digest over the cache mounts of a RUN
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ci_plugins.dockerfile.instructions import Instruction
from ci_plugins.oci import sha256_digest
from ci_plugins.plan.file_table import MOST_FILES, encode
from ci_plugins.plan.keys import fields_digest
from ci_plugins.plan.steps import BaseImage, CopyWork, RunWork, Work

#: A longer value is cut and followed by a digest of the whole.
LONGEST_VALUE = 200
#: Stands for the value of an ARG that looks like a secret by its name.
HIDDEN = "hidden"
#: Nobody should, but people do pass these as an ARG: they are not spread further than they already are.
_SECRET = re.compile(r"pass|secret|token|credential|auth|(^|_)key($|_)", re.IGNORECASE)
_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)|([A-Za-z_][A-Za-z0-9_]*))")


def step_inputs(instruction: Instruction, work: Work | None, args: Mapping[str, str], base: str) -> dict[str, str]:
    """`instruction` as it is written; `args` the declared ARGs that have a value; `base` empty where the step stands on
    another step."""
    inputs = {"base": base} if base else {}
    named = args.keys() if isinstance(work, RunWork) else _referred_to(instruction.source) & args.keys()
    inputs |= {f"arg.{name}": _shown(name, args[name]) for name in sorted(named)}
    match work:
        case CopyWork():
            inputs |= _copy_inputs(work)
        case RunWork():
            inputs |= _run_inputs(work)
    return inputs


def image_name(image: BaseImage) -> str:
    return f"{image.name}@{image.digest}"


def _shown(name: str, value: str) -> str:
    hidden = bool(_SECRET.search(name))
    if len(value) <= LONGEST_VALUE and not hidden:
        return value
    start = HIDDEN if hidden else f"{value[:LONGEST_VALUE]}…"
    return f"{start} ({sha256_digest(value.encode('utf-8', 'surrogateescape'))[7:19]})"


def _referred_to(source: str) -> set[str]:
    return {one or other for one, other in _REFERENCE.findall(source)}


def _copy_inputs(work: CopyWork) -> dict[str, str]:
    inputs = {}
    if work.request.inline:
        inputs["heredoc"] = str(fields_digest(dict(work.request.inline)))
    if isinstance(work.origin, BaseImage):
        inputs["from"] = image_name(work.origin)
    elif work.origin is not None and work.origin_key:
        inputs["from"] = f"stage {work.origin_key}"
    elif work.read is not None:
        inputs |= {"content": work.read.digest, "count": str(work.read.count)}
        if work.read.count <= MOST_FILES and (table := encode(work.read.files())):
            inputs["files"] = table
    return inputs


def _run_inputs(work: RunWork) -> dict[str, str]:
    inputs = {"network": "none"} if work.network == "none" else {}
    if work.mounts:
        inputs["mounts"] = str(fields_digest([mount.spec.fields() for mount in work.mounts]))
    return inputs
