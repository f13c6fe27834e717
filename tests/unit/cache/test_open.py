"""Which URL opens which store, and what is imported for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci_plugins.cache.memory import MemoryStore
from ci_plugins.cache.open import open_store
from ci_plugins.cache.sqlite import SqliteStore
from ci_plugins.cache.store import CacheUnavailable
from ci_plugins.errors import UsageError
from ci_plugins.storage.registry import RegistryClient


def test_sqlite(tmp_path: Path) -> None:
    store = open_store(f"sqlite:{tmp_path}/shared/index.sqlite", RegistryClient)
    assert isinstance(store, SqliteStore)
    assert store.name == f"{tmp_path}/shared/index.sqlite"
    with pytest.raises(CacheUnavailable):
        open_store(f"sqlite:{tmp_path}", RegistryClient)


def test_memory() -> None:
    assert isinstance(open_store("memory:", RegistryClient), MemoryStore)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://cache", "redis://cache"),
        ("redis://user:secret@cache.example:7000/3", "redis://cache.example:7000/3"),
        ("rediss://:secret@cache.example/0", "rediss://cache.example/0"),
    ],
)
def test_redis_is_named_without_its_password(url: str, name: str) -> None:
    assert open_store(url, RegistryClient).name == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("registry://registry.example/team/app", "registry://registry.example/team/app"),
        ("registry://registry:5000/app", "registry://registry:5000/app"),
        ("registry://registry/app", "registry://registry/app"),
        ("registry://localhost/app", "registry://localhost/app"),
    ],
)
def test_registry(url: str, name: str) -> None:
    assert open_store(url, RegistryClient).name == name


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "s3://bucket",
        "sqlite:",
        "memory:x",
        "/var/cache",
        "redis://user:secret@host:port/0",
        "redis://user:secret@host/zero",
        "registry://",
        "registry://registry.example",
        "registry://registry.example/",
        "registry://registry.example/app:latest",
        "registry://registry.example/app:1",
        "registry://registry.example/App",
        "registry://registry.example/app@sha256:" + "0" * 64,
        "registry:app",
        "http://user:secret@cache",
    ],
)
def test_what_is_no_url_of_a_cache(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url, RegistryClient)
    assert caught.value.remedy
    assert "secret" not in str(caught.value)
    assert "registry://" in caught.value.remedy or "redis://" in caught.value.remedy
