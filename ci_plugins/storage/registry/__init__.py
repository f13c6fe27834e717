"""Registries over HTTP (OCI distribution spec): pull, push, authentication, retries. Imports requests."""

from ci_plugins.storage.registry.client import RegistryClient
from ci_plugins.storage.registry.credentials import Credentials, CredentialStore, DockerConfig
from ci_plugins.storage.registry.destination import RegistryDestination
from ci_plugins.storage.registry.listing import RegistryListing
from ci_plugins.storage.registry.origin import RegistryOrigin
from ci_plugins.storage.registry.retry import Retry, RetryPolicy
from ci_plugins.storage.registry.transport import Timeouts

__all__ = [
    "CredentialStore",
    "Credentials",
    "DockerConfig",
    "RegistryClient",
    "RegistryDestination",
    "RegistryListing",
    "RegistryOrigin",
    "Retry",
    "RetryPolicy",
    "Timeouts",
]
