"""What the registry answers when it does not do what was asked (OCI distribution spec, "Error Codes")."""

from __future__ import annotations

import json
from collections.abc import Mapping


class Refusal(Exception):
    """An answer that is an error: an HTTP status, the spec's code, and a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers

    def document(self) -> bytes:
        error = {"code": self.code, "message": self.message}
        return json.dumps({"errors": [error]}).encode()


class ClientGone(Exception):
    """The connection ended in the middle of a request body. There is nobody to answer."""


def blob_unknown(name: str, digest: str) -> Refusal:
    return Refusal(404, "BLOB_UNKNOWN", f"{name} has no blob {digest}")


def manifest_unknown(name: str, reference: str) -> Refusal:
    return Refusal(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {reference}")


def name_unknown(name: str) -> Refusal:
    return Refusal(404, "NAME_UNKNOWN", f"there is no repository {name}")
