"""One repository of a registry, as a cache uses it: manifests by tag, blobs that are there or can be put there."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar
from urllib.parse import urljoin

from ci_plugins.cache.forest import is_what_it_says
from ci_plugins.cache.registry_documents import EMPTY, EMPTY_BLOB, write_removed
from ci_plugins.cache.store import CacheUnavailable
from ci_plugins.errors import (
    CiPluginsError,
    RegistryError,
    RegistryUnavailable,
    RegistryUnreachable,
    VerificationError,
)
from ci_plugins.events import Recorder
from ci_plugins.oci import Descriptor, Reference, media, sha256_digest
from ci_plugins.storage.registry import RegistryClient, RegistryDestination, RetryPolicy
from ci_plugins.storage.registry.answers import Answer, check, content_length, errors_in, refusal
from ci_plugins.storage.registry.auth import pull_scope, push_scope

A = TypeVar("A")
B = TypeVar("B")

#: A cache is not worth the patience that a push deserves.
_POLICY = RetryPolicy(attempts=2, first_delay=0.2, total=5.0)
_THREADS = 12
#: A table of contents larger than this is not fetched: reading the layer would be as quick.
_LARGEST_TOC = 256 << 20
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')


class BlobMissing(Exception):
    """The registry refuses a manifest because a blob under it is not there."""


class CacheRepository:
    """Thread safe. Methods raise RegistryError and others of `errors`; `together` translates them for a store."""

    def __init__(self, client: RegistryClient, repository: str, client_for: Callable[[str], RegistryClient]) -> None:
        self._client, self._repository, self._client_for = client, repository, client_for
        self._destination = RegistryDestination(client, repository)
        self._pull, self._push = frozenset({pull_scope(repository)}), frozenset({push_scope(repository)})

    @property
    def name(self) -> str:
        return f"registry://{self._client.registry}/{self._repository}"

    # -- manifests --------------------------------------------------------------------------------------------------

    def get(self, tag: str) -> bytes | None:
        """None if there is no such tag. What is damaged is empty."""
        accept = {"Accept": media.OCI_MANIFEST}
        # distribution says 500, in a document of its own, of manifests that it has and cannot read.
        answer = self._ask("GET", f"manifests/{tag}", (200, 404), headers=accept, also=_cannot_be_read)
        if answer.status != 200:
            return None if answer.status == 404 else b""
        digest = answer.headers.get("Docker-Content-Digest", "").strip()
        return answer.body if not digest.startswith("sha256:") or digest == sha256_digest(answer.body) else b""

    def put(self, tag: str, raw: bytes) -> None:
        """Raises BlobMissing too."""
        headers = {"Content-Type": media.OCI_MANIFEST}
        answer = self._ask("PUT", f"manifests/{tag}", (200, 201, 202, 400, 404), headers=headers, body=raw)
        if answer.status < 300:
            return
        if any("BLOB_UNKNOWN" in code for code, _ in errors_in(answer.body)):
            raise BlobMissing(str(refusal(answer)))
        raise refusal(answer)

    def remove(self, tag: str) -> None:
        """Delete what the tag names, or where the registry does not allow that, put something else in its place."""
        raw = self.get(tag)
        if raw is None:
            return
        gone = self._ask("DELETE", f"manifests/{sha256_digest(raw)}", (200, 202, 204, 400, 403, 404, 405))
        if gone.status >= 300 and self.get(tag) is not None:
            self.put(tag, write_removed(tag))

    def tags(self) -> list[str]:
        """All tags of the repository. As slow as the registry is with it."""
        found: list[str] = []
        url: str | None = self._client.url(self._repository, "tags/list?n=1000")
        while url:
            answer = self._ask("GET", url, (200, 404))
            if answer.status == 404:
                break
            try:
                found += [str(tag) for tag in json.loads(answer.body)["tags"] or ()]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RegistryError(f"{self.name}: the list of tags cannot be read") from error
            link = _NEXT.search(answer.headers.get("Link", ""))
            url = urljoin(answer.url, link[1]) if link else None
        return found

    # -- blobs ------------------------------------------------------------------------------------------------------

    def hold(self, blob: Descriptor, repositories: Iterable[str] = (), data: bytes | None = None) -> bool:
        """Whether the repository has the blob, in the end: it is sent if its bytes are given, else taken over from
        one of the repositories ("host/name")."""
        if data is not None:
            self._destination.put_blob(_Bytes(blob, data), Recorder().begin("upload", blob.digest))
            return True
        if self._destination.has_blob(blob):
            return True
        for place in repositories:
            registry, _, repository = place.partition("/")
            if registry != self._client.registry or repository == self._repository:
                continue
            try:
                if self._destination.mount_blob(blob, Reference(registry, repository)):
                    return True
            except (RegistryUnreachable, RegistryUnavailable):
                raise
            except RegistryError:
                continue  # no right to read there: as good as not there
        return False

    def hold_empty(self) -> None:
        self.hold(EMPTY, data=EMPTY_BLOB)

    def has_now(self, blob: Descriptor) -> bool:
        """Asked of the registry, whatever it said before."""
        return self._destination.has_now(blob)

    def note_empty(self) -> None:
        """A manifest of ours was read: what each of them names is there."""
        self._client.note_seen(self._repository, EMPTY)

    def forget(self, blobs: Iterable[Descriptor]) -> None:
        """Whether they are there is asked anew."""
        for blob in blobs:
            self._client.forget_seen(self._repository, blob)

    def blob(self, blob: Descriptor, repositories: Iterable[str]) -> bytes | None:
        """The bytes, from here or from one of the repositories ("host/name"), verified. None if nobody has them."""
        if blob.size > _LARGEST_TOC:
            return None
        own = f"{self._client.registry}/{self._repository}"
        for place in dict.fromkeys((own, *repositories)):
            registry, _, repository = place.partition("/")
            try:
                client = self._client if registry == self._client.registry else self._client_for(registry)
                if data := _POLICY.run(partial(_fetched, client, repository, blob), client.note_retry):
                    return data
            except (RegistryUnreachable, RegistryUnavailable):
                if place == own:
                    raise
            except (RegistryError, VerificationError):
                continue  # no right to read there, or it breaks off
        return None

    def _ask(
        self,
        method: str,
        rest: str,
        ok: Collection[int],
        *,
        headers: dict[str, str] = {},
        body: bytes | None = None,
        also: Callable[[Answer], bool] = lambda answer: False,
    ) -> Answer:
        """The answer, if its status is one of `ok` or it is one that is taken `also`."""
        url = rest if "://" in rest else self._client.url(self._repository, rest)
        scopes = self._pull if method == "GET" else self._push

        def attempt() -> Answer:
            answer = self._client.attempt(method, url, scopes, {*ok, 500}, headers=headers, body=body)
            return answer if also(answer) else check(answer, ok)

        return _POLICY.run(attempt, self._client.note_retry)

    # -- many requests ----------------------------------------------------------------------------------------------

    def together(self, work: Callable[[A], B], items: Sequence[A], seconds: float) -> list[B]:
        """The results in the order of the items. Raises CacheUnavailable when one fails, and when they are not all
        done after so many seconds: then they are left behind, in threads that do not keep the process alive."""
        with self._errors():
            return Batch(work, items).results(seconds)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (CiPluginsError, BlobMissing) as error:
            raise CacheUnavailable(f"the cache {self.name} cannot be used: {error}") from error
        except TimeoutError as error:
            raise CacheUnavailable(f"the cache {self.name} does not answer in time") from error


def _cannot_be_read(answer: Answer) -> bool:
    return answer.status == 500 and bool(errors_in(answer.body))


def _fetched(client: RegistryClient, repository: str, blob: Descriptor) -> bytes | None:
    """One try: raises TransientFailure too. None for what is not there, or is not what it should be."""
    url = client.url(repository, f"blobs/{blob.digest}")
    response, final = client.open("GET", url, frozenset({pull_scope(repository)}))
    if response.status_code != 200:
        check(client.transport.read("GET", final, response), (404,))
        return None
    if content_length(response.headers) not in (None, blob.size):
        response.close()
        return None
    data = bytearray()
    for block in client.transport.blocks("GET", final, response):
        data += block
        if len(data) > blob.size:
            response.close()
            return None
    return bytes(data) if is_what_it_says(bytes(data), blob) else None


class Batch(Generic[A, B]):
    """Work for many threads, of which none is waited for longer than it is worth."""

    def __init__(self, work: Callable[[A], B], items: Sequence[A]) -> None:
        self._lock = threading.Lock()
        self._todo = iter(enumerate(items))
        self._missing = len(items)
        self._results: dict[int, B] = {}
        self._error: BaseException | None = None
        self._finished = threading.Event()
        self._work = work
        for number in range(min(_THREADS, len(items))):
            threading.Thread(target=self._run, name=f"cache_{number}", daemon=True).start()

    def results(self, seconds: float) -> list[B]:
        """Raises what the first failed one raised, TimeoutError."""
        if self._missing and not self._finished.wait(seconds):
            self._finished.set()
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return [self._results[number] for number in sorted(self._results)]

    def wait(self, seconds: float) -> None:
        """Until all is done, or one has failed, or no longer than this."""
        if self._missing:
            self._finished.wait(seconds)

    def _run(self) -> None:
        while not self._finished.is_set():
            with self._lock:
                task = next(self._todo, None)
            if task is None:
                return
            number, item = task
            try:
                result = self._work(item)
            except BaseException as error:  # noqa: BLE001 (raised where the results are asked for)
                self._error = self._error or error
                self._finished.set()
                return
            with self._lock:
                self._results[number] = result
                self._missing -= 1
                if not self._missing:
                    self._finished.set()


class _Bytes:
    """A small blob in memory (`storage.blob.BlobSource`)."""

    def __init__(self, descriptor: Descriptor, data: bytes) -> None:
        self.descriptor, self._data = descriptor, data

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        yield self._data[offset:]
