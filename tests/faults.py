"""A proxy between a client and an HTTP server that breaks what it is told to break, and counts what passes.

    with FaultProxy.start(upstream_port) as proxy:
        proxy.inject(Fault("PATCH", cut_request_after=1 << 20))
        ...                                      # use proxy.host instead of the server's
        assert proxy.seen("PATCH")[0].request_bytes == ...

It speaks HTTP/1.1 with Content-Length and chunked bodies, one thread a connection. The Host header passes unchanged,
so that the Locations a registry gives lead through the proxy again.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

BLOCK = 64 << 10
Headers = dict[str, str]


@dataclass
class Fault:
    """What to break in the next `times` requests that match. Byte counts are of the body."""

    method: str
    #: searched in path and query
    path: str = ""
    times: int = 1
    #: answer this instead of asking the server: status, headers, body
    answer: tuple[int, Mapping[str, str], bytes] | None = None
    #: reset both connections after so many bytes of the request have reached the server
    cut_request_after: int | None = None
    #: reset the client's connection after so many bytes of the answer
    cut_answer_after: int | None = None
    #: end the answer there in the orderly way, without a reset
    politely: bool = False
    #: let the server do it all, then reset instead of answering
    lose_answer: bool = False
    #: change the byte at this position
    corrupt_request_at: int | None = None
    corrupt_answer_at: int | None = None
    #: seconds before the answer
    delay: float = 0.0
    #: replaced or added in the answer; an empty value removes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """One request that came by. `status` is None when the client got no answer."""

    method: str
    path: str
    headers: Headers
    request_bytes: int = 0
    answer_bytes: int = 0
    status: int | None = None
    fault: Fault | None = None


class _Cut(Exception):
    """Reset both sides."""


class FaultProxy:
    def __init__(self, upstream: int, listener: socket.socket) -> None:
        self.upstream = upstream
        self.port = int(listener.getsockname()[1])
        self.requests: list[Seen] = []
        self._listener = listener
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @classmethod
    @contextmanager
    def start(cls, upstream: int) -> Iterator[FaultProxy]:
        """In front of a port of 127.0.0.1."""
        with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listener:
            proxy = cls(upstream, listener)
            threading.Thread(target=proxy._accept, daemon=True).start()
            try:
                yield proxy
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                with proxy._lock:
                    left = list(proxy._open)
                for one in left:
                    _wake(one)

    def inject(self, *faults: Fault) -> None:
        with self._lock:
            self._faults += faults

    def seen(self, method: str, path: str = "") -> list[Seen]:
        with self._lock:
            return [one for one in self.requests if one.method == method and re.search(path, one.path)]

    def uploaded(self) -> int:
        """Bytes of blobs sent so far, those sent in vain included."""
        return sum(one.request_bytes for one in self.seen("PATCH") + self.seen("PUT", "/blobs/"))

    def forget(self) -> None:
        with self._lock:
            self.requests.clear()

    def _take_fault(self, seen: Seen) -> Fault:
        with self._lock:
            self.requests.append(seen)
            for fault in self._faults:
                if fault.method == seen.method and re.search(fault.path, seen.path) and fault.times > 0:
                    fault.times -= 1
                    seen.fault = fault
                    return fault
        return Fault(seen.method)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.upstream))
        except OSError:
            _reset(client)
            return
        with self._lock:
            self._open |= {client, server}
        try:
            with client.makefile("rb") as from_client, server.makefile("rb") as from_server:
                while self._exchange(client, server, from_client, from_server):
                    pass
            client.close()
        except (_Cut, OSError):
            _reset(client)
        finally:
            _reset(server)
            with self._lock:
                self._open -= {client, server}

    def _exchange(
        self, client: socket.socket, server: socket.socket, from_client: BinaryIO, from_server: BinaryIO
    ) -> bool:
        """One request and its answer; False when the connection ends."""
        line, headers = _head(from_client)
        if not line:
            return False
        method, path, _ = line.split(" ", 2)
        seen = Seen(method, path, headers)
        fault = self._take_fault(seen)
        if fault.answer:
            time.sleep(fault.delay)
            status, extra, body = fault.answer
            answer_headers = {**extra, "Content-Length": str(len(body)), "Connection": "close"}
            client.sendall(_head_bytes(f"HTTP/1.1 {status} Injected", answer_headers) + body)
            seen.status = status
            # Take what the client still sends: closing with unread bytes would reset and lose the answer.
            client.shutdown(socket.SHUT_WR)
            while from_client.read(BLOCK):
                pass
            return False
        complete = _pass_request(server, line, headers, from_client, fault, seen)
        if fault.lose_answer:
            _head(from_server)
            raise _Cut
        time.sleep(fault.delay)
        return _pass_answer(client, from_server, fault, seen) and complete


def _pass_request(
    server: socket.socket, line: str, headers: Headers, from_client: BinaryIO, fault: Fault, seen: Seen
) -> bool:
    """True if all of it went through: a server may answer before it has read everything."""
    chunked = "chunked" in headers.get("transfer-encoding", "")
    try:
        server.sendall(_head_bytes(line, headers))
        for block in _body(from_client, headers):
            data = _corrupted(block, seen.request_bytes, fault.corrupt_request_at)
            limit = fault.cut_request_after
            if limit is not None and seen.request_bytes + len(data) >= limit:
                data = data[: limit - seen.request_bytes]
                server.sendall(_framed(data, chunked) if data else b"")
                seen.request_bytes += len(data)
                time.sleep(0.1)  # so that these bytes are the server's before the connection is gone
                raise _Cut
            seen.request_bytes += len(data)
            server.sendall(_framed(data, chunked))
        if chunked:
            server.sendall(b"0\r\n\r\n")
        return True
    except (BrokenPipeError, ConnectionResetError):
        return False


def _pass_answer(client: socket.socket, from_server: BinaryIO, fault: Fault, seen: Seen) -> bool:
    line, headers = _head(from_server)
    if not line:
        raise _Cut
    seen.status = int(line.split(" ")[1])
    for name, value in fault.headers.items():
        headers.pop(name.lower(), None)
        if value:
            headers[name.lower()] = value
    client.sendall(_head_bytes(line, headers))
    if seen.method == "HEAD" or seen.status in (204, 304):
        return headers.get("connection", "") != "close"
    chunked = "chunked" in headers.get("transfer-encoding", "")
    for block in _body(from_server, headers):
        data = _corrupted(block, seen.answer_bytes, fault.corrupt_answer_at)
        limit = fault.cut_answer_after
        if limit is not None and seen.answer_bytes + len(data) >= limit:
            data = data[: limit - seen.answer_bytes]
            client.sendall(_framed(data, chunked) if data else b"")
            seen.answer_bytes += len(data)
            if fault.politely:
                client.shutdown(socket.SHUT_WR)
                return False
            time.sleep(0.1)  # a reset would overtake bytes the client has not read yet
            raise _Cut
        seen.answer_bytes += len(data)
        client.sendall(_framed(data, chunked))
    if chunked:
        client.sendall(b"0\r\n\r\n")
    return headers.get("connection", "") != "close"


def _head(stream: BinaryIO) -> tuple[str, Headers]:
    line = stream.readline().decode("latin-1").rstrip("\r\n")
    headers: Headers = {}
    while (text := stream.readline().decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = text.partition(":")
        headers[name.strip().lower()] = value.strip()
    return line, headers


def _head_bytes(line: str, headers: Mapping[str, str]) -> bytes:
    return "".join([line, "\r\n", *(f"{k}: {v}\r\n" for k, v in headers.items()), "\r\n"]).encode("latin-1")


def _body(stream: BinaryIO, headers: Headers) -> Iterator[bytes]:
    """The body without its framing."""
    if "chunked" in headers.get("transfer-encoding", ""):
        while size := int(stream.readline().split(b";")[0] or b"0", 16):
            yield from _exactly(stream, size)
            stream.readline()
        stream.readline()
    else:
        yield from _exactly(stream, int(headers.get("content-length", "0")))


def _exactly(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        block = stream.read(min(size, BLOCK))
        if not block:
            raise _Cut
        size -= len(block)
        yield block


def _framed(data: bytes, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if chunked else data


def _corrupted(block: bytes, start: int, position: int | None) -> bytes:
    if position is None or not start <= position < start + len(block):
        return block
    index = position - start
    return block[:index] + bytes([block[index] ^ 0xFF]) + block[index + 1 :]


def _reset(connection: socket.socket) -> None:
    """Close with RST, not FIN. Its file objects must be closed already: they would keep the descriptor open."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    except OSError:
        return


def _wake(connection: socket.socket) -> None:
    """Let the thread that waits on it see the end."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
