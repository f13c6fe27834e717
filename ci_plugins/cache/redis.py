"""An index that many runners share, in Redis.

    ci-plugins:cache:record:<key>:<scope>      "<KEY_VERSION> <record>"
    ci-plugins:cache:children:<key>:<scope>    set of the keys of the records that stand on it
    ci-plugins:cache:used:<scope>              sorted set: key by its last use, seconds since the epoch
    ci-plugins:cache:images:<scope>            hash: name → image
    ci-plugins:cache:scopes                    set of scopes
    ci-plugins:cache:toc:<digest>              a table of contents
    ci-plugins:cache:tocs                      sorted set: digest by the time it was stored

Every one of them may vanish by itself, where Redis is told to evict: then it is absent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ci_plugins.cache.forest import (
    TOC_GRACE,
    Node,
    first_of_names,
    is_what_it_says,
    newest_first,
    to_prune,
    toc_digests,
)
from ci_plugins.cache.record import KEY_VERSION, CacheRecord, ImageRecord
from ci_plugins.cache.store import CacheUnavailable, Pruned
from ci_plugins.errors import UsageError
from ci_plugins.oci import Descriptor, Digest

_VERSION = b"%d " % KEY_VERSION
#: How much is asked for in one request where there is no limit to what is asked for.
_PART = 500
#: Removes a record, unless it was used since it was looked at. KEYS: used, record, children of its parent.
_REMOVE_UNUSED = """
local used = redis.call('ZSCORE', KEYS[1], ARGV[1])
if used and tonumber(used) > tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
redis.call('SREM', KEYS[3], ARGV[1])
return 1
"""


class RedisStore:
    """`CacheStore` in one database of a Redis: `redis://[user:password@]host[:port][/db]`, or `rediss://`.

    Connects when first asked. Timeouts are in seconds: a Redis that is down or hangs costs no more than one of them.
    `clock` tells seconds since the epoch. Raises UsageError for a URL that cannot be understood.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout: float = 1.0,
        read_timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        try:
            parts = urlsplit(url)
            at = f":{parts.port}" if parts.port else ""
            int(parts.path.strip("/") or 0)
            self._name = f"{parts.scheme}://{parts.hostname or 'localhost'}{at}{parts.path}"
            # Any: its annotations leave open whether answers are bytes or text.
            self._redis: Any = redis.Redis.from_url(
                url,
                socket_connect_timeout=connect_timeout,
                socket_timeout=read_timeout,
                # Once more for a connection that was closed while nobody used it, but never for one that hangs.
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
                # RESP 2 and no client name: the first answer is that of the first question.
                protocol=2,
                driver_info=None,
            )
        except (ValueError, TypeError, redis.RedisError):
            # Not the reason itself: it quotes the URL, which may hold a password.
            raise UsageError(
                "not the URL of a Redis", remedy="Write redis://[USER:PASSWORD@]HOST[:PORT]/DB, DB being a number."
            ) from None

    @property
    def name(self) -> str:
        return self._name

    # -- for building -----------------------------------------------------------------------------------------------

    def lookup(self, keys: Sequence[Digest], scopes: Sequence[str]) -> Mapping[Digest, CacheRecord]:
        asked = [(key, scope) for scope in dict.fromkeys(scopes) for key in dict.fromkeys(keys)]
        found: dict[Digest, CacheRecord] = {}
        for record in self._records(asked, at_once=len(asked)):
            found.setdefault(record.key, record)
        return found

    def put(self, records: Sequence[CacheRecord], images: Sequence[ImageRecord] = ()) -> None:
        now = self._clock()
        with self._errors():
            batch = self._redis.pipeline(transaction=True)
            for record in records:
                batch.set(_place("record", record.key, record.scope), _VERSION + record.to_json().encode())
                batch.zadd(_place("used", record.scope), {record.key: now})
                if record.parent:
                    batch.sadd(_place("children", record.parent, record.scope), record.key)
            for image in images:
                batch.hset(_place("images", image.scope), image.name, image.to_json())
            if scopes := {record.scope for record in records} | {image.scope for image in images}:
                batch.sadd(_place("scopes"), *sorted(scopes))
                batch.execute()

    def touch(self, keys: Sequence[Digest], scope: str) -> None:
        now = self._clock()
        if keys:
            with self._errors():
                self._redis.zadd(_place("used", scope), dict.fromkeys(keys, now), xx=True)

    def tocs(self, wanted: Sequence[tuple[Descriptor, Sequence[str]]]) -> Mapping[Digest, bytes]:
        found: dict[Digest, bytes] = {}
        # One by one, but in one round trip: together they may be larger than an answer should be.
        with self._errors():
            batch = self._redis.pipeline(transaction=False)
            for descriptor, _ in wanted:
                batch.get(_place("toc", descriptor.digest))
            for (descriptor, _), data in zip(wanted, batch.execute() if wanted else (), strict=True):
                if data is not None and is_what_it_says(data, descriptor):
                    found[descriptor.digest] = data
        return found

    def put_tocs(self, tocs: Mapping[Digest, bytes]) -> None:
        now = self._clock()
        with self._errors():
            for digest, data in tocs.items():
                batch = self._redis.pipeline(transaction=True)
                batch.set(_place("toc", digest), data)
                batch.zadd(_place("tocs"), {digest: now})
                batch.execute()

    def close(self) -> None:
        with self._errors():
            self._redis.close()

    # -- for looking at ---------------------------------------------------------------------------------------------

    def children(self, key: Digest, scopes: Sequence[str]) -> tuple[CacheRecord, ...]:
        names = list(dict.fromkeys(scopes))
        with self._errors():
            batch = self._redis.pipeline(transaction=False)
            for scope in names:
                batch.smembers(_place("children", key, scope))
            sets = batch.execute() if names else []
        asked = [(_digest(child), scope) for scope, some in zip(names, sets, strict=True) for child in sorted(some)]
        return newest_first(record for record in self._records(asked) if record.parent == key)

    def images(self, scopes: Sequence[str]) -> tuple[ImageRecord, ...]:
        found: list[ImageRecord] = []
        for scope in dict.fromkeys(scopes):
            found += [image for _, image in self._images(scope) if image]
        return first_of_names(found, scopes)

    def records(self, scopes: Sequence[str]) -> Iterator[CacheRecord]:
        for scope in dict.fromkeys(scopes):
            with self._errors():
                keys = self._redis.zrange(_place("used", scope), 0, -1)
            yield from self._records([(_digest(key), scope) for key in keys])

    def scopes(self) -> tuple[str, ...]:
        names = self._scopes()
        with self._errors():
            batch = self._redis.pipeline(transaction=False)
            for name in names:
                batch.zcard(_place("used", name))
            return tuple(name for name, count in zip(names, batch.execute() if names else (), strict=True) if count)

    # -- for forgetting ---------------------------------------------------------------------------------------------

    def remove(self, keys: Sequence[Digest], scope: str) -> None:
        known = {record.key: record for record in self._records([(key, scope) for key in keys])}
        with self._errors():
            batch = self._redis.pipeline(transaction=True)
            for key in keys:
                batch.delete(_place("record", key, scope))
                batch.zrem(_place("used", scope), key)
                parent = known[key].parent if key in known else None
                if parent:
                    batch.srem(_place("children", parent, scope), key)
            batch.execute()
        self._remove_images(set(keys), scope)

    def prune(self, *, older_than: datetime | None = None, max_size: int | None = None) -> Pruned:
        """Reads all records. One that is used meanwhile stays."""
        nodes: list[Node] = []
        named: dict[tuple[str, str], set[Digest]] = {}
        for scope in self._scopes():
            for node, tocs in self._nodes(scope):
                nodes.append(node)
                named[node.scope, node.key] = tocs
        gone, pruned = to_prune(nodes, older_than, max_size)
        self._remove_unused(gone)
        for node in gone:
            named.pop((node.scope, node.key), None)
        for scope in dict.fromkeys(node.scope for node in gone):
            self._remove_images({Digest(node.key) for node in gone if node.scope == scope}, scope)
        self._keep_tocs(set[Digest]().union(*named.values()))
        return pruned

    def _nodes(self, scope: str) -> Iterator[tuple[Node, set[Digest]]]:
        """What a prune has to know; records that cannot be read have no parent and no size, but an age."""
        with self._errors():
            used = [(_digest(key), at) for key, at in self._redis.zrange(_place("used", scope), 0, -1, withscores=True)]
        for start in range(0, len(used), _PART):
            part = dict(used[start : start + _PART])
            known = {record.key: record for record in self._records([(key, scope) for key in part])}
            for key, at in part.items():
                if record := known.get(key):
                    yield Node.of(record, at), toc_digests(record)
                else:
                    yield Node(scope, key, "", "", 0, at), set()

    def _remove_unused(self, nodes: Sequence[Node]) -> None:
        with self._errors():
            script = self._redis.register_script(_REMOVE_UNUSED)
            for start in range(0, len(nodes), _PART):
                batch = self._redis.pipeline(transaction=False)
                for node in nodes[start : start + _PART]:
                    at = (node.key, node.scope), (node.parent, node.scope)
                    places = [_place("used", node.scope), _place("record", *at[0]), _place("children", *at[1])]
                    # As text, in which a number of this kind comes back as it was.
                    script(keys=places, args=[node.key, repr(node.used)], client=batch)
                batch.execute()

    def _remove_images(self, keys: set[Digest], scope: str) -> None:
        """Those that went through one of the keys, and what cannot be read."""
        names = [name for name, image in self._images(scope) if image is None or not keys.isdisjoint(image.keys)]
        if names:
            with self._errors():
                self._redis.hdel(_place("images", scope), *names)

    def _keep_tocs(self, digests: set[Digest]) -> None:
        kept = {digest.encode() for digest in digests}
        with self._errors():
            stored = self._redis.zrangebyscore(_place("tocs"), "-inf", self._clock() - TOC_GRACE)
            unnamed = [name for name in stored if name not in kept]
            for start in range(0, len(unnamed), _PART):
                part = unnamed[start : start + _PART]
                self._redis.delete(*(_place("toc", _digest(name)) for name in part))
                self._redis.zrem(_place("tocs"), *part)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _records(self, asked: Sequence[tuple[Digest, str]], at_once: int = _PART) -> Iterator[CacheRecord]:
        """Those that are there and can be read, in the order in which they are asked for."""
        for start in range(0, len(asked), at_once or 1):
            part = asked[start : start + at_once]
            with self._errors():
                texts = self._redis.mget([_place("record", key, scope) for key, scope in part])
            for (key, scope), text in zip(part, texts, strict=True):
                if record := _parsed(key, scope, text):
                    yield record

    def _images(self, scope: str) -> Iterator[tuple[bytes, ImageRecord | None]]:
        with self._errors():
            held = self._redis.hgetall(_place("images", scope))
        for name, text in held.items():
            try:
                yield name, ImageRecord.from_json(name.decode(), text, scope)
            except ValueError:
                yield name, None

    def _scopes(self) -> list[str]:
        with self._errors():
            return sorted(name.decode(errors="replace") for name in self._redis.smembers(_place("scopes")))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError, UnicodeError) as error:
            raise CacheUnavailable(f"the cache {self._name} cannot be used: {error}") from error


def _place(kind: str, *parts: str) -> bytes:
    """The name of a value. A scope comes last: it may hold anything."""
    return ":".join(["ci-plugins:cache", kind, *parts]).encode()


def _digest(name: bytes) -> Digest:
    return Digest(name.decode(errors="replace"))


def _parsed(key: Digest, scope: str, text: bytes | None) -> CacheRecord | None:
    """None for what is not there, damaged or of another version: all the same, and replaced by the next put."""
    if text is None or not text.startswith(_VERSION):
        return None
    try:
        return CacheRecord.from_json(key, text[len(_VERSION) :], scope)
    except ValueError:
        return None
