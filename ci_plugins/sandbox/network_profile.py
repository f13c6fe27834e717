"""What a RUN command needs to know of the network it runs in, and the image must not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: In the container. /dev is a file system of the container's own: nothing there can end in a layer, and no command
#: that clears /run or /tmp meets it.
DIRECTORY = "/dev/ci-plugins"
CA_FILE = f"{DIRECTORY}/ca-certificates.crt"
APT_FILE = f"{DIRECTORY}/apt.conf"

#: OpenSSL and what is built on it, Go, Ruby, uv; pip; requests; curl; Node.js and npm; git; cargo; AWS; bundler;
#: Composer; Deno; gRPC; Nix.
_CA_VARIABLES = (
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "BUNDLE_SSL_CA_CERT",
    "COMPOSER_CAFILE",
    "DENO_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
)

#: Docker's predefined ARGs (Dockerfile reference, "Predefined ARGs").
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """`ca_certificates` is a PEM bundle on this machine that RUN trusts, `env` more variables for RUN (package
    mirrors, proxies). Neither changes the image, nor what a step's key is; the image's own ENV wins over both."""

    ca_certificates: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        if self.ca_certificates is None:
            return dict(self.env)
        # apt has no variable for certificates, but one for a configuration file that it reads before the image's
        return {**dict.fromkeys(_CA_VARIABLES, CA_FILE), "APT_CONFIG": APT_FILE, **self.env}

    def files(self) -> dict[str, bytes]:
        """Read-only files of the container, by path. Raises OSError if the bundle cannot be read."""
        if self.ca_certificates is None:
            return {}
        return {
            CA_FILE: self.ca_certificates.read_bytes(),
            APT_FILE: f'Acquire::https::CAInfo "{CA_FILE}";\n'.encode(),
        }


def host_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables set in `environment`, in upper and in lower case: programs differ in which they read."""
    proxies = {}
    for name in _PROXY_VARIABLES:
        upper, lower = environment.get(name, ""), environment.get(name.lower(), "")
        if upper or lower:
            proxies[name], proxies[name.lower()] = upper or lower, lower or upper
    return proxies
