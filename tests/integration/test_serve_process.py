"""The registry as a process: it starts, ends and is killed; clients come, stall and go; disks fill."""

from __future__ import annotations

import array
import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests

from ci_plugins.errors import UsageError
from ci_plugins.oci import sha256_digest
from ci_plugins.serve import create_server

PROGRAM = """
import sys, time
from pathlib import Path
from ci_plugins.serve import run
def log(line):
    print(line, file=sys.stderr, flush=True)
run(Path(sys.argv[1]), "127.0.0.1", 0, lambda address: print(address, flush=True), log)
print("closed")
"""


class Process:
    """`serve.run` in a process of its own."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root, self.log = root, log
        with log.open("a") as errors:
            command = [sys.executable, "-c", PROGRAM, str(root)]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.process.stdout
        self.address = self.process.stdout.readline().strip()
        self.base = f"http://{self.address}"

    def connect(self) -> socket.socket:
        host, _, port = self.address.partition(":")
        return socket.create_connection((host, int(port)), timeout=20)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, output

    def memory(self) -> int:
        """Most memory it ever had, in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        assert found
        return int(found[1]) << 10


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    with ExitStack() as stack:

        def started(root: Path = tmp_path / "root") -> Process:
            process = Process(root, tmp_path / "serve.log")
            stack.callback(process.process.wait)
            stack.callback(process.process.kill)
            return process

        yield started


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def begin(base: str) -> str:
    response = requests.post(f"{base}/v2/app/blobs/uploads/", timeout=20)
    assert response.status_code == 202
    return base + response.headers["Location"]


def received(location: str) -> int:
    response = requests.get(location, timeout=20)
    assert response.status_code == 204
    last = int(response.headers["Range"].partition("-")[2])
    return last + 1 if last else 0


def finish(location: str, data: bytes, rest: int = 0) -> requests.Response:
    return requests.put(location, params={"digest": sha256_digest(data)}, data=data[rest:], timeout=60)


def pull(base: str, data: bytes) -> requests.Response:
    return requests.get(f"{base}/v2/app/blobs/{sha256_digest(data)}", timeout=60)


# --- starting and ending --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_and_at_once(start: Callable[..., Process], number: int) -> None:
    server = start()
    with requests.Session() as session, server.connect():  # one idle after a request, one that never asked
        assert session.get(f"{server.base}/v2/", timeout=20).status_code == 200
        began = time.monotonic()
        assert server.end(number) == (0, "closed\n")
        assert time.monotonic() - began < 2
    assert "Traceback" not in server.log.read_text()


def test_requests_under_way_are_answered_when_it_ends(start: Callable[..., Process]) -> None:
    server = start()
    path = begin(server.base).removeprefix(server.base)
    with server.connect() as client:
        client.sendall(f"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc".encode())
        time.sleep(0.2)
        server.process.terminate()
        time.sleep(0.2)
        client.sendall(b"def")
        assert client.recv(1000).startswith(b"HTTP/1.1 202 ")
    assert server.process.wait(20) == 0


def test_everything_outlives_a_kill(start: Callable[..., Process]) -> None:
    whole, half = os.urandom(3 << 20), os.urandom(5 << 20)
    server = start()
    assert finish(begin(server.base), whole).status_code == 201
    location = begin(server.base)
    with server.connect() as client:
        head = f"PATCH {location.removeprefix(server.base)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(half)}\r\n\r\n"
        client.sendall(head.encode() + half[: 3 << 20])
        path = server.root / "repositories/app/_uploads" / location.rpartition("/")[2]
        wait_for(lambda: path.stat().st_size >= 2 << 20)
        server.process.kill()
        server.process.wait()
    again = start()
    assert pull(again.base, whole).content == whole
    location = again.base + location.removeprefix(server.base)
    kept = received(location)
    assert 2 << 20 <= kept <= 3 << 20
    assert finish(location, half, kept).status_code == 201
    assert pull(again.base, half).content == half


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot listen on 127\.0\.0\.1:{port}: another program") as caught:
            create_server(tmp_path, port=port)
    assert "--port" in caught.value.remedy


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("not.a.host.invalid", 0), ("192.0.2.1", 0)])
def test_addresses_that_are_none(tmp_path: Path, host: str, port: int) -> None:
    with pytest.raises(UsageError) as caught:
        create_server(tmp_path, host, port)
    assert caught.value.remedy


def test_it_can_be_embedded(tmp_path: Path) -> None:
    """Started and ended in a thread, many times; nothing stays behind."""
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        server = create_server(tmp_path)
        assert server.host == "127.0.0.1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert requests.get(f"http://{server.host}:{server.port}/v2/", timeout=20).status_code == 200
        server.shutdown()
        server.shutdown()
        thread.join(5)
    unused = create_server(tmp_path)
    unused.shutdown()
    unused.serve_forever()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


def test_ipv6(tmp_path: Path) -> None:
    try:
        server = create_server(tmp_path, "::1")
    except UsageError:
        pytest.skip("this machine has no IPv6 loopback address")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert server.address == f"[::1]:{server.port}"
    assert requests.get(f"http://{server.address}/v2/", timeout=20).status_code == 200
    server.shutdown()
    thread.join(5)


# --- clients that misbehave -----------------------------------------------------------------------------------------


def test_a_client_that_goes_away_can_go_on(start: Callable[..., Process]) -> None:
    data = os.urandom(4 << 20)
    server = start()
    location = begin(server.base)
    sent = 0
    for cut, reset in ((1 << 20, False), (1_500_001, True), (3 << 20, False)):
        head = f"PATCH {location.removeprefix(server.base)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        with server.connect() as client:
            client.sendall(head.encode() + data[sent:cut])
            if reset:
                wait_for(partial(all_taken, client))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(partial(has_received, location, cut))
        sent = cut
    assert finish(location, data, sent).status_code == 201
    assert pull(server.base, data).content == data
    server.end()
    assert "client gone" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def has_received(location: str, size: int) -> bool:
    return received(location) == size


def all_taken(client: socket.socket) -> bool:
    """Whether the other side's kernel has all bytes (SIOCOUTQ)."""
    waiting = array.array("i", [0])
    fcntl.ioctl(client, termios.TIOCOUTQ, waiting)
    return waiting[0] == 0


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v2/ HTTP/9.9\r\n\r\n", 505),
        (b"BREW /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /v2/ HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"GET /v2/%00/tags/list HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2/a/manifests/%00 HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2/\xff\xfe/tags/list HTTP/1.1\r\n\r\n", 400),
        (b"GET //[/v2/ HTTP/1.1\r\n\r\n", 404),
    ],
)
def test_requests_that_are_none(start: Callable[..., Process], sent: bytes, status: int) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert json.loads(body)["errors"][0]["message"]
    assert requests.get(f"{server.base}/v2/", timeout=20).status_code == 200
    server.end()
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "internal error" not in log
    assert log.isascii()


def test_a_refusal_does_not_wait_for_a_slow_body(start: Callable[..., Process]) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(
            f"PATCH /v2/app/blobs/uploads/{'0' * 32} HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nabc".encode()
        )
        began = time.monotonic()
        answer = client.recv(65536)
        assert time.monotonic() - began < 5
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"Connection: close" in answer


def test_broken_chunks(start: Callable[..., Process]) -> None:
    server = start()
    path = begin(server.base).removeprefix(server.base)
    with server.connect() as client:
        head = f"PATCH {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head.encode() + b"3\r\nabc\r\nzz\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer


def test_many_requests_on_one_connection(start: Callable[..., Process]) -> None:
    """Pipelined, with bodies of all forms: nothing of one request is taken for another."""
    server = start()
    path = begin(server.base).removeprefix(server.base)
    with server.connect() as client:
        client.sendall(
            f"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
            f"PATCH {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n"
            f"PUT {path}?digest={sha256_digest(b'abcdef')} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            f"HEAD /v2/app/blobs/{sha256_digest(b'abcdef')} HTTP/1.1\r\nHost: x\r\n\r\n"
            f"GET /v2/app/blobs/{sha256_digest(b'abcdef')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", answer)] == [202, 202, 201, 200, 200]
    assert answer.endswith(b"\r\n\r\nabcdef")


def test_expect_continue(start: Callable[..., Process]) -> None:
    server = start()
    path = begin(server.base).removeprefix(server.base)
    with server.connect() as client:
        client.sendall(
            f"PATCH {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n".encode()
        )
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert client.recv(1000).startswith(b"HTTP/1.1 202 ")


def test_the_access_log(start: Callable[..., Process]) -> None:
    server = start()
    data = os.urandom(100_000)
    finish(begin(server.base), data)
    pull(server.base, data)
    server.end()
    lines = [line.partition(" ")[2] for line in server.log.read_text().splitlines()]
    assert [re.sub(r"[0-9a-f]{32,}", "X", line.rpartition(" ")[0]) for line in lines] == [
        '"POST /v2/app/blobs/uploads/" 202 0',
        '"PUT /v2/app/blobs/uploads/X?digest=sha256%3AX" 201 0',
        '"GET /v2/app/blobs/sha256:X" 200 100000',
    ]


# --- disks ----------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_a_full_disk(start: Callable[..., Process], tmp_path: Path) -> None:
    data = os.urandom(12 << 20)
    with small_disk(tmp_path / "disk", "8m") as disk:
        server = start(disk / "root")
        location = begin(server.base)
        response = requests.patch(location, data=data, timeout=60)
        assert response.status_code == 507
        assert "no space left" in response.json()["errors"][0]["message"]
        # It lives on: what fitted is there, and space helps.
        kept = received(location)
        assert 6 << 20 < kept <= 8 << 20
        subprocess.run(["mount", "-o", "remount,size=32m", disk], check=True)
        assert finish(location, data, kept).status_code == 201
        assert hashlib.sha256(pull(server.base, data).content).digest() == hashlib.sha256(data).digest()
        assert server.end()[0] == 0
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "internal error" not in log


# --- much at once ---------------------------------------------------------------------------------------------------


def test_many_clients_at_once_in_little_memory(start: Callable[..., Process]) -> None:
    """Eight clients push and pull 32 MiB each; the server holds blocks, not blobs."""
    server = start()
    block = os.urandom(1 << 20)
    wrong: list[str] = []

    def push_and_pull(number: int) -> None:
        data = bytes([number]) + block * 32
        with requests.Session() as session:
            location = begin(server.base)
            url = session.patch(location, data=iter([data[:5], data[5:]]), timeout=60).headers["Location"]
            query = {"digest": sha256_digest(data)}
            if session.put(server.base + url, params=query, timeout=60).status_code != 201:
                wrong.append(f"{number} was not taken")
            if session.get(f"{server.base}/v2/app/blobs/{query['digest']}", timeout=60).content != data:
                wrong.append(f"{number} is another")

    clients = [threading.Thread(target=push_and_pull, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert wrong == []
    assert server.memory() < 100 << 20


def test_small_requests_are_not_delayed(start: Callable[..., Process]) -> None:
    """A delayed acknowledgement costs 40 ms; an answer in one write does not wait for one."""
    server = start()
    with requests.Session() as session:
        session.trust_env = False
        times = []
        for _ in range(20):
            began = time.perf_counter()
            assert session.get(f"{server.base}/v2/", timeout=20).status_code == 200
            times.append(time.perf_counter() - began)
    assert sorted(times)[10] < 0.02
