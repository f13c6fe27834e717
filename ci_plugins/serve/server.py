"""The listening side: a thread a connection, and an end that is clean."""

from __future__ import annotations

import errno
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from ci_plugins.errors import UsageError
from ci_plugins.serve.connection import Connection
from ci_plugins.serve.registry import Registry

#: Seconds that requests under way have to end when the server closes.
_GRACE = 5.0


class Server:
    """A registry that listens. `serve_forever` in one thread, `shutdown` from any other; then it is used up."""

    def __init__(self, root: Path, host: str, port: int, log: Callable[[str], None] | None) -> None:
        self.registry = Registry(root)
        self.log = log
        self._listener = _listen(host, port)
        self.host = host
        self.port = int(self._listener.getsockname()[1])
        self._changed = threading.Condition()
        self._sockets: dict[socket.socket, threading.Thread] = {}
        self._busy: set[Connection] = set()
        self._closing = False

    @property
    def address(self) -> str:
        """`host:port`, as it begins an image's name."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def serve_forever(self) -> None:
        """Accept clients until `shutdown`."""
        while not self._closing:
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                if self._closing:
                    return
                if self.log:
                    self.log(f"cannot accept a connection: {error.strerror}")
                time.sleep(0.1)  # out of file descriptors, mostly: they come back when clients leave
                continue
            thread = threading.Thread(target=self._serve, args=(connection, address), name="serve", daemon=True)
            with self._changed:
                if self._closing:
                    connection.close()
                    return
                self._sockets[connection] = thread
            thread.start()

    def shutdown(self) -> None:
        """Take no more requests, let those under way end (5 seconds at most), close. May be called twice."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.wait_for(lambda: not self._busy, _GRACE)
            open_sockets = dict(self._sockets)
        _disconnect(self._listener)
        self._listener.close()
        for connection in open_sockets:
            _disconnect(connection)
        for thread in open_sockets.values():
            thread.join(_GRACE)

    def enter(self, connection: Connection) -> bool:
        with self._changed:
            if not self._closing:
                self._busy.add(connection)
            return not self._closing

    def leave(self, connection: Connection) -> None:
        with self._changed:
            self._busy.discard(connection)
            self._changed.notify_all()

    def _serve(self, connection: socket.socket, address: object) -> None:
        try:
            # A client whose machine vanished must not keep a thread for ever.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            Connection(connection, address, self)
        except Exception as error:  # noqa: BLE001 - the last line of defence of a server's thread
            if self.log:
                self.log(f"internal error: {error!r}")
        finally:
            _disconnect(connection)
            connection.close()
            with self._changed:
                del self._sockets[connection]


def create_server(
    root: Path, host: str = "127.0.0.1", port: int = 0, log: Callable[[str], None] | None = None
) -> Server:
    """A registry over `root`, listening already; port 0 takes a free one. `log` gets a line a request.

    Raises UsageError if it cannot listen there, StateError if the directory cannot be used.
    """
    return Server(root, host, port, log)


def run(
    root: Path,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    log: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then close. For the main thread. `on_ready` gets `host:port`.

    Raises what `create_server` raises.
    """
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    server = create_server(root, host, port, log)
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        thread = threading.Thread(target=server.serve_forever, name="serve-accept", daemon=True)
        thread.start()
        on_ready(server.address)
        ended.wait()
    finally:
        server.shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    where = f"{host}:{port}"
    if not 0 <= port <= 65535:
        raise UsageError(f"not a port: {port}", remedy="Choose one from 1 to 65535, or 0 for any free one.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=128)
    except socket.gaierror as error:
        raise UsageError(
            f"cannot listen on {where}: {error.strerror}", remedy="Name an address of this host."
        ) from error
    except OSError as error:
        raise UsageError(f"cannot listen on {where}: {_reason(error)}", remedy=_remedy(error)) from error


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there"
    return (error.strerror or str(error)).lower()


def _remedy(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "Stop that program, or choose another --port (0 takes any free one)."
    if error.errno == errno.EACCES:
        return "Choose a --port above 1023: lower ones are for root."
    return "Choose an address of this host with --host, or leave it at 127.0.0.1."


def _disconnect(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster
