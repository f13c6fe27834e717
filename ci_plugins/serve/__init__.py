"""A small OCI registry over a directory, for this host: trying things out, and a front for other builders."""

from ci_plugins.serve.server import Server, create_server, run

__all__ = ["Server", "create_server", "run"]
