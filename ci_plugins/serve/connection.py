"""One client's connection: HTTP/1.1 on one side, `Registry` on the other."""

from __future__ import annotations

import http
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl, unquote

from ci_plugins.errors import DiskFull, StateError
from ci_plugins.serve.body import Body
from ci_plugins.serve.refusal import ClientGone, Refusal
from ci_plugins.serve.registry import FilePart, Registry, Request, Response
from ci_plugins.storage.blob import BLOCK

#: What is left of a refused body is read up to this many bytes, and for so many seconds.
_DISCARD = 64 << 20
_PATIENCE = 1.0
_SMALL = 1 << 16


class Host(Protocol):
    """What a connection needs of the server."""

    registry: Registry
    log: Callable[[str], None] | None

    def enter(self, connection: Connection) -> bool:
        """A request begins; False if the server is closing."""

    def leave(self, connection: Connection) -> None:
        """It was answered."""


class Connection(BaseHTTPRequestHandler):
    """Answers request after request. `http.server` parses the request line and headers; the rest is ours: one write
    for status, headers and a small body, sendfile for a large one."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = BLOCK

    def __init__(self, connection: socket.socket, address: Any, host: Host) -> None:
        self._host = host
        self._sent = 0
        # BaseHTTPRequestHandler keeps the server and asks nothing of it.
        super().__init__(connection, address, cast(Any, host))

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            pass  # between requests: nothing is lost
        except OSError as error:
            self._say(f"connection lost: {error}")

    def _answer(self) -> None:
        started = time.perf_counter()
        self._sent = 0
        if not self._host.enter(self):
            self.close_connection = True
            return
        try:
            status: int | str = self._exchange()
        except (ClientGone, ConnectionError, TimeoutError):
            self.close_connection = True
            status = "client gone"
        finally:
            self._host.leave(self)
        self._say(f'"{self.command} {self.path}" {status} {self._sent} {time.perf_counter() - started:.3f}s')

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def _exchange(self) -> int:
        body = None
        try:
            body = Body.of(self.rfile, cast(Mapping[str, str], self.headers))
            path, _, query = self.path.partition("?")
            request = Request(
                method=self.command,
                path=unquote(path),
                query=dict(parse_qsl(query, keep_blank_values=True)),
                headers=cast(Mapping[str, str], self.headers),
                body=body,
            )
            response = self._host.registry.handle(request)
        except Refusal as refusal:
            response = _refused(refusal)
        except DiskFull as error:
            response = _refused(Refusal(507, "UNKNOWN", error.message))
        except StateError as error:
            response = _refused(Refusal(500, "UNKNOWN", error.message))
        except (ClientGone, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001 - a defect in one request must not end the server
            self._report_defect(error)
            response = _refused(Refusal(500, "UNKNOWN", "internal error of the registry"))
        self._settle(body)
        self._send(response)
        self._linger(body)
        return response.status

    def _settle(self, body: Body | None) -> None:
        """Read what is left of a refused body, within reason, so that the connection can be used again."""
        if body is not None and not body.ended and not body.broken:
            self.connection.settimeout(_PATIENCE)
            with suppress(Refusal, ClientGone):
                body.discard(_DISCARD, _PATIENCE)
            self.connection.settimeout(None)
        self.close_connection |= body is None or not body.ended

    def _linger(self, body: Body | None) -> None:
        """Closing a socket with unread bytes resets it, and the client may lose the answer: read on for a moment."""
        if body is not None and body.ended:
            return
        until = time.monotonic() + _PATIENCE
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_PATIENCE)
            while time.monotonic() < until and self.connection.recv(_SMALL):
                pass

    def _send(self, response: Response) -> None:
        body = response.body
        length = body.length if isinstance(body, FilePart) else len(body)
        headers = {"Docker-Distribution-Api-Version": "registry/2.0", **response.headers}
        if response.status != 204:
            headers.setdefault("Content-Length", str(length))
        if self.close_connection:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {response.status} {http.HTTPStatus(response.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        if self.command == "HEAD":
            body = b""
        if isinstance(body, bytes):
            self.wfile.write(head + body)
            self._sent = len(body)
            return
        with body.file:
            if length <= _SMALL:
                data = os.pread(body.file.fileno(), length, body.offset)
                self.wfile.write(head + data)
                self._sent = len(data)
            else:
                self.wfile.write(head)
                self._sent = self.connection.sendfile(body.file, body.offset, length)
        if self._sent != length:
            raise ClientGone  # the file is shorter than it was: only a closed connection says so

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `http.server` says about a request it cannot parse, in the registry's form."""
        self.close_connection = True
        self.command = self.command or "?"
        try:
            self._send(_refused(Refusal(int(code), "UNSUPPORTED", message or http.HTTPStatus(code).phrase)))
            self._linger(None)
        except ConnectionError:
            return
        self._say(f"{int(code)} {message or ''}")

    def log_message(self, format: str, *args: Any) -> None:
        """`http.server` would write to stderr."""

    def _say(self, line: str) -> None:
        if self._host.log:
            printable = line.encode("unicode_escape").decode("ascii")
            self._host.log(f"{self.client_address[0]}:{self.client_address[1]} {printable}")

    def _report_defect(self, error: Exception) -> None:
        """An error nobody foresaw: one line with its place, and the server goes on."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        self._say(f"internal error: {error!r} in {os.path.basename(frame.filename)}:{frame.lineno}")


def _refused(refusal: Refusal) -> Response:
    return Response(refusal.status, {**refusal.headers, "Content-Type": "application/json"}, refusal.document())
