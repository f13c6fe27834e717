"""Real servers for tests: Debian's `docker-registry` (distribution 2.8) and a token server in front of it.

Each takes a free port on 127.0.0.1, keeps its files below a directory the test names, and is gone at the end of the
`with` block. A missing program fails the test: nothing here passes silently.
"""

from __future__ import annotations

import base64
import datetime
import http.client
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

START_SECONDS = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class DockerRegistry:
    """A running registry. `host` is what goes before the first "/" of a reference."""

    port: int
    root: Path
    log: Path
    process: subprocess.Popen[bytes]
    #: the certificate clients have to trust, for `tls=True`
    ca_file: Path | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def localhost(self) -> str:
        return f"localhost:{self.port}"

    @property
    def not_loopback(self) -> str:
        """The same server under an address that clients do not take for loopback (Linux connects it to 127.0.0.1)."""
        return f"0.0.0.0:{self.port}"

    def blob_path(self, digest: str) -> Path:
        """Where the registry keeps a blob's bytes."""
        hex_digits = digest.removeprefix("sha256:")
        return self.root / "docker/registry/v2/blobs/sha256" / hex_digits[:2] / hex_digits / "data"

    def tags(self, repository: str) -> list[str]:
        folder = self.root / "docker/registry/v2/repositories" / repository / "_manifests/tags"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    @classmethod
    @contextmanager
    def start(
        cls,
        directory: Path | str,
        *,
        htpasswd: tuple[str, str] | None = None,
        token: TokenServer | None = None,
        tls: bool = False,
        delete: bool = True,
    ) -> Iterator[DockerRegistry]:
        """Start and wait until it answers. `directory` is created; an existing one is served again."""
        program = shutil.which("docker-registry")
        assert program, "docker-registry is not installed (Debian package docker-registry)"
        folder = Path(directory).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        ca_file = write_certificate(folder)[0] if tls else None
        port = free_port()
        config = _config(folder, port, htpasswd=htpasswd, token=token, tls=tls, delete=delete)
        (folder / "config.yml").write_text(yaml.safe_dump(config))
        log = folder / "registry.log"
        # Variables named REGISTRY_… would change the configuration; proxies are none of its business.
        environment = {k: v for k, v in os.environ.items() if not k.upper().startswith(("REGISTRY_", "HTTP"))}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [program, "serve", str(folder / "config.yml")],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**environment, "OTEL_TRACES_EXPORTER": "none"},
            )
        registry = cls(port, folder / "storage", log, process, ca_file)
        try:
            registry._wait()
            yield registry
        finally:
            registry.stop()

    def stop(self) -> None:
        """End it now, as a crash would. May be called again."""
        self.process.kill()
        self.process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if _answers(self.port, tls=self.ca_file is not None):
                return
            time.sleep(0.02)
        raise AssertionError(f"docker-registry did not start:\n{self.log.read_text()}")


def _answers(port: int, *, tls: bool) -> bool:
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=ssl._create_unverified_context())
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    )
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status in (200, 401)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _config(
    folder: Path, port: int, *, htpasswd: tuple[str, str] | None, token: TokenServer | None, tls: bool, delete: bool
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {
            "cache": {"blobdescriptor": "inmemory"},
            "filesystem": {"rootdirectory": str(folder / "storage")},
            "delete": {"enabled": delete},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": f"127.0.0.1:{port}", "secret": "constant, so that uploads survive a restart"},
    }
    if htpasswd:
        import bcrypt

        hashed = bcrypt.hashpw(htpasswd[1].encode(), bcrypt.gensalt(4)).decode()
        (folder / "htpasswd").write_text(f"{htpasswd[0]}:{hashed}\n")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if token:
        config["auth"] = {
            "token": {
                "realm": token.realm,
                "service": token.service,
                "issuer": token.issuer,
                "rootcertbundle": str(token.certificate_file),
            }
        }
    if tls:
        config["http"]["tls"] = {"certificate": str(folder / "server.crt"), "key": str(folder / "server.key")}
    return config


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, 127.0.0.1 and 0.0.0.0: `server.crt` and `server.key`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test registry")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "0.0.0.0")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    crt, pem = folder / "server.crt", folder / "server.key"
    crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return crt, pem


@dataclass
class TokenServer:
    """Gives out Bearer tokens as Docker's token specification says: by GET with Basic, by POST with a refresh token.

    `user` gets what it asks for; without credentials only pull is granted. A negative lifetime below -60 makes a
    token that has expired when it is given out (the registry allows a minute's leeway) though the answer says it lives.
    """

    port: int
    certificate_file: Path
    _key: Any
    _server: ThreadingHTTPServer
    user: tuple[str, str] = ("robot", "secret")
    refresh_token: str = "refresh-secret"
    service: str = "test-registry"
    issuer: str = "test-issuer"
    #: seconds a token is valid, by the order in which tokens are given out; the last one goes for all further ones
    lifetimes: list[int] = field(default_factory=lambda: [300])
    #: every request: method, parameters, user or ""
    requests: list[tuple[str, dict[str, list[str]], str]] = field(default_factory=list)

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    @classmethod
    @contextmanager
    def start(cls, directory: Path | str) -> Iterator[TokenServer]:
        from cryptography.hazmat.primitives import serialization

        folder = Path(directory).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key_file = write_certificate(folder)
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _TokenHandler)
        tokens = cls(int(server.server_address[1]), certificate, key, server)
        server.tokens = tokens  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield tokens
        finally:
            tokens.stop()
            thread.join()

    def stop(self) -> None:
        """Refuse connections from now on. May be called again."""
        self._server.shutdown()
        self._server.server_close()

    def sign(self, user: str, scopes: list[str]) -> tuple[str, int]:
        """A JWT as distribution 2.8 checks it (its certificate in `x5c`), and how many seconds it lives."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding

        lifetime = self.lifetimes.pop(0) if len(self.lifetimes) > 1 else self.lifetimes[0]
        certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        der = certificate.public_bytes(serialization.Encoding.DER)
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            granted = [a for a in actions.split(",") if user or a == "pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": user,
            "aud": self.service,
            "exp": now + lifetime,
            "nbf": now - 600,
            "iat": now - 600,
            "jti": os.urandom(8).hex(),
            "access": access,
        }
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64url(signature)}", lifetime


class _TokenHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        tokens: TokenServer = self.server.tokens  # type: ignore[attr-defined]
        parameters = parse_qs(urlsplit(self.path).query)
        kind, _, encoded = self.headers.get("Authorization", "").partition(" ")
        user = ""
        if kind == "Basic":
            user, _, password = base64.b64decode(encoded).decode().partition(":")
            if (user, password) != tokens.user:
                self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})
                return
        tokens.requests.append(("GET", parameters, user))
        token, lifetime = tokens.sign(user, " ".join(parameters.get("scope", [])).split())
        self._answer(200, {"token": token, "expires_in": max(lifetime, 60)})

    def do_POST(self) -> None:
        tokens: TokenServer = self.server.tokens  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        parameters = parse_qs(body)
        given = parameters.get("refresh_token")
        if parameters.get("grant_type") != ["refresh_token"] or given != [tokens.refresh_token]:
            self._answer(401, {"details": "invalid refresh token"})
            return
        tokens.requests.append(("POST", parameters, tokens.user[0]))
        token, lifetime = tokens.sign(tokens.user[0], " ".join(parameters.get("scope", [])).split())
        self._answer(200, {"access_token": token, "expires_in": max(lifetime, 60)})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
