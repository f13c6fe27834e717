"""What a registry has: repositories, tags, and whether a blob is there (OCI distribution spec, "Content Discovery";
the catalog is Docker's)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import urljoin

from ci_plugins.errors import RegistryError
from ci_plugins.oci import Descriptor
from ci_plugins.storage.registry.answers import content_length
from ci_plugins.storage.registry.auth import Scopes, pull_scope
from ci_plugins.storage.registry.client import RegistryClient, same_origin

_PAGE = 1000
_NEXT = re.compile(r"<([^<>]*)>\s*;[^,]*\brel=\"?next\"?")


class RegistryListing:
    """Reads lists page by page. Thread safe. Raises what `RegistryClient.exchange` raises."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    def repositories(self) -> list[str]:
        """All that the registry tells us of; many tell nobody: AuthenticationFailed or ImageNotFound then."""
        url = f"{self._client.base}/v2/_catalog?n={_PAGE}"
        return list(self._pages(url, frozenset({"registry:catalog:*"}), "repositories"))

    def tags(self, repository: str) -> list[str]:
        """Raises ImageNotFound for a repository that is not there."""
        url = self._client.url(repository, f"tags/list?n={_PAGE}")
        return list(self._pages(url, frozenset({pull_scope(repository)}), "tags"))

    def has_blob(self, repository: str, descriptor: Descriptor) -> bool:
        """Whether it is there with this size, as far as the registry says."""
        url = self._client.url(repository, f"blobs/{descriptor.digest}")
        answer = self._client.exchange("HEAD", url, frozenset({pull_scope(repository)}), (200, 404))
        return answer.status == 200 and content_length(answer.headers) in (descriptor.size, None)

    def _pages(self, url: str, scopes: Scopes, field: str) -> Iterator[str]:
        seen: set[str] = set()
        while url not in seen:
            seen.add(url)
            answer = self._client.exchange("GET", url, scopes, (200,))
            try:
                yield from (str(name) for name in json.loads(answer.body)[field] or ())
            except (ValueError, KeyError, TypeError) as error:
                raise RegistryError(f"{self._client.registry}: what it answered is no list of {field}") from error
            following = _NEXT.search(answer.headers.get("Link", ""))
            if following is None:
                return
            following_url = urljoin(url, following[1])
            if not same_origin(following_url, self._client.base):
                raise RegistryError(f"{self._client.registry}: the next page of its {field} is on another server")
            url = following_url
