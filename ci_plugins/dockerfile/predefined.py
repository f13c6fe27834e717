"""Arguments that exist without an ARG (Dockerfile reference, "Predefined ARGs" and "Automatic platform ARGs")."""

from __future__ import annotations

from typing import Final

from ci_plugins.oci import Platform

PROXY_ARGS: Final = tuple(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
"""Given with --build-arg they reach every RUN; they are no part of a key or of the image's history."""

SOURCE_DATE_EPOCH: Final = "SOURCE_DATE_EPOCH"
"""Seconds since 1970 for the times in the image; usable in a stage once ARG declares it."""

PLATFORM_ARGS: Final = tuple(
    side + part for side in ("BUILD", "TARGET") for part in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)
"""In the global scope (FROM) from the start; in a stage once ARG declares them, without a default."""

TARGET_STAGE: Final = "TARGETSTAGE"

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of an image that sets none (BuildKit, util/system)."""


def platform_args(build: Platform, target: Platform, stage: str = "") -> dict[str, str]:
    """The values of PLATFORM_ARGS and TARGETSTAGE; `stage` is the --target, "" for the last stage."""
    values: dict[str, str] = {}
    for side, platform in (("BUILD", build), ("TARGET", target)):
        values |= {
            f"{side}PLATFORM": str(platform),
            f"{side}OS": platform.os,
            f"{side}OSVERSION": "",
            f"{side}ARCH": platform.architecture,
            f"{side}VARIANT": platform.variant,
        }
    return {**values, TARGET_STAGE: stage or "default"}
