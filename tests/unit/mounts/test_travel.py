"""A mount's way through a directory store: what arrives, what is sent, and what happens to damage."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci_plugins.cache.removal import Freed
from ci_plugins.errors import DiskFull, Interrupted, RegistryUnreachable, VerificationError
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.layer.entry import EntryType
from ci_plugins.mounts import current as current_module
from ci_plugins.mounts import directory_store
from ci_plugins.mounts import save as save_module
from ci_plugins.mounts.catch_up import place
from ci_plugins.mounts.directory_store import DirectoryChunks
from ci_plugins.mounts.index import DamagedIndex, MountIndex, Node, pack_json
from ci_plugins.mounts.listing import Limits, walk
from ci_plugins.mounts.manager import MountManager
from ci_plugins.mounts.save import Saved
from ci_plugins.mounts.spec import MountRequest, MountSpec
from ci_plugins.mounts.store import ChunkStore
from ci_plugins.oci import Descriptor, Digest

SPEC = MountSpec("/c", "/c")
LIMITS = Limits(1 << 40, 1e11)
NEVER = threading.Event()


class Runner:
    """A runner with a state directory of its own."""

    def __init__(
        self, state: Path, store: ChunkStore, limits: Limits = LIMITS, scopes: Sequence[str] = ("main",)
    ) -> None:
        self.recorder = Recorder()
        self.parent: ActiveSpan = self.recorder.begin("build", "test")
        self.manager = MountManager(state, "shared", self.recorder, limits=limits, remote=store, scopes=scopes)

    def lease(self) -> Path:
        with self.manager.lease([MountRequest(SPEC)], self.parent, NEVER) as (bind,):
            return bind.source

    def save_after_use(self) -> Saved:
        self.lease()
        return self.save()

    def save(self) -> Saved:
        (saved,) = self.manager.save(self.parent, NEVER)
        return saved


@pytest.fixture
def store(tmp_path: Path) -> DirectoryChunks:
    return DirectoryChunks(tmp_path / "store")


def packs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "store/packs").glob("*/*"))


def description(root: Path) -> list[tuple[object, ...]]:
    """All that is to arrive."""
    return [
        (one.path, one.type, one.mode, one.uid, one.gid, one.mtime_ns, one.size, one.link,
         (root / one.path).read_bytes() if one.type is EntryType.FILE else b"")
        for one in walk(root)
    ]  # fmt: skip


names = st.sampled_from(["a", "b", "ä", "\udcff", "with space", "-", "long" * 20])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
contents = st.binary(max_size=40) | st.integers(0, 300).map(lambda size: bytes(size) + b"x")


@settings(max_examples=40)
@given(st.dictionaries(paths, contents, max_size=12), st.data())
def test_whatever_is_saved_arrives(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("travel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save_module, "PACK", 256)
        first = Runner(tmp_path / "one", DirectoryChunks(tmp_path / "store"))
        root = first.lease()
        for path, content in files.items():
            _write(root, path, content, data.draw(st.sampled_from([0o644, 0o600, 0o4755, 0o000])))
        made = [one.path for one in walk(root) if one.type is EntryType.FILE]
        if made:
            os.link(root / made[0], root / "hard link")
            os.symlink("nowhere/../a", root / "symbolic link")
        assert first.save().result == "saved"
        copy = Runner(tmp_path / "two", DirectoryChunks(tmp_path / "store")).lease()
        assert description(copy) == description(root)
        # and after changes, of which the store has some
        for path in made[:2]:
            (root / path).chmod(0o600)
            (root / path).write_bytes(b"changed")
        for path in made[2:3]:
            (root / path).unlink()
        first.save()
        again = Runner(tmp_path / "three", DirectoryChunks(tmp_path / "store")).lease()
        assert description(again) == description(root)


def _write(root: Path, path: str, content: bytes, mode: int) -> None:
    target = root / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)
        os.utime(target, ns=(10**18 + 7, 10**18 + 123_456_789))
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        return


def test_large_files_arrive_and_a_change_in_one_sends_a_part(tmp_path: Path, store: DirectoryChunks) -> None:
    runner = Runner(tmp_path / "one", store)
    root = runner.lease()
    data = os.urandom(20 << 20)
    (root / "large").write_bytes(data)
    assert runner.save().sent > 20 << 20
    (root / "large").write_bytes(data[: 5 << 20] + b"inserted" + data[5 << 20 :])
    assert runner.save().sent < 12 << 20
    copy = Runner(tmp_path / "two", store).lease()
    assert (copy / "large").read_bytes() == (root / "large").read_bytes()


def test_what_did_not_change_is_neither_read_nor_sent(
    tmp_path: Path, store: DirectoryChunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(tmp_path / "one", store)
    root = runner.lease()
    for number in range(50):
        (root / str(number)).write_bytes(os.urandom(2000))
    runner.save()
    assert runner.save().result == "unchanged"
    read: list[str] = []
    original = save_module._open

    def noted(path: Path) -> int:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(save_module, "_open", noted)
    (root / "new").write_bytes(b"new")
    os.utime(root / "3")
    saved = runner.save()
    assert sorted(read) == ["3", "new"]
    assert saved.sent < 100
    assert saved.files == 51


def test_access_times_are_left_alone_and_do_not_count_as_a_change(tmp_path: Path, store: DirectoryChunks) -> None:
    runner = Runner(tmp_path / "one", store)
    file = runner.lease() / "file"
    file.write_bytes(b"x")
    os.utime(file, ns=(17 * 10**17, 16 * 10**17))
    runner.save()
    assert file.stat().st_atime_ns == 17 * 10**17
    os.utime(file, ns=(1750 * 10**15, 16 * 10**17))
    copy = Runner(tmp_path / "two", store).lease() / "file"
    assert (copy.stat().st_atime_ns, copy.stat().st_mtime_ns) == (17 * 10**17, 16 * 10**17)


def test_files_used_longest_ago_are_left_out(tmp_path: Path, store: DirectoryChunks) -> None:
    runner = Runner(tmp_path / "one", store, Limits(2500, 1000))
    root, now = runner.lease(), time.time()
    for name, age in (("old", 500), ("new", 1), ("middle", 100), ("expired", 2000)):
        (root / name).write_bytes(os.urandom(1000 if name != "expired" else 1))
        os.utime(root / name, (now - age, now - age))
    os.link(root / "old", root / "zz")
    assert runner.save().files == 2
    assert runner.save().result == "unchanged", "what is left out is no change"
    copy = Runner(tmp_path / "two", store).lease()
    assert sorted(path.name for path in copy.iterdir()) == ["middle", "new"]


def test_packs_of_which_little_is_used_are_replaced_and_small_ones_joined(
    tmp_path: Path, store: DirectoryChunks
) -> None:
    runner = Runner(tmp_path / "one", store)
    root = runner.lease()
    for number in range(10):
        (root / str(number)).write_bytes(os.urandom(1000))
    runner.save()
    for number in range(6):
        (root / str(number)).unlink()
    assert 3900 < runner.save().sent < 4300, "the four that are left are packed anew"
    for number in range(12):
        (root / f"more{number}").write_bytes(os.urandom(100))
        runner.save()
    (index,) = (tmp_path / "store/indexes").iterdir()
    assert len(MountIndex.from_bytes(store.index(index.name) or b"").packs) <= 9
    copy = Runner(tmp_path / "two", store).lease()
    assert description(copy) == description(root)


def test_packs_that_vanished_are_sent_again(tmp_path: Path, store: DirectoryChunks) -> None:
    runner = Runner(tmp_path / "one", store)
    root = runner.lease()
    (root / "a").write_bytes(b"a" * 1000)
    runner.save()
    for pack in packs(tmp_path):
        pack.unlink()
    (root / "b").write_bytes(b"b")
    runner.save()
    copy = Runner(tmp_path / "two", store).lease()
    assert sorted(path.name for path in copy.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("damage", ["changed", "truncated", "gone", "another frame"])
def test_damage_costs_the_files_it_concerns(tmp_path: Path, store: DirectoryChunks, damage: str) -> None:
    runner = Runner(tmp_path / "one", store)
    root = runner.lease()
    (root / "first").write_bytes(os.urandom(100))
    os.link(root / "first", root / "same")
    runner.save()
    (hurt,) = packs(tmp_path)
    (root / "second").write_bytes(os.urandom(100))
    runner.save()
    if damage == "gone":
        hurt.unlink()
    else:
        data = hurt.read_bytes()
        hurt.write_bytes({"changed": data[:-1] + b"?", "truncated": data[:-1], "another frame": pack_json(1)}[damage])
    second = Runner(tmp_path / "two", store)
    copy = second.lease()
    assert [path.name for path in copy.iterdir()] == ["second"]
    assert len(second.recorder.warnings()) == 1
    assert "lacks 2 of its files" in second.recorder.warnings()[0]
    (copy / "first").write_bytes((root / "first").read_bytes())
    assert second.save().result == "saved"
    third = Runner(tmp_path / "three", store)
    assert sorted(path.name for path in third.lease().iterdir()) == ["first", "second"]
    assert not third.recorder.warnings()


def test_a_damaged_index_is_no_index_and_the_next_scope_counts(tmp_path: Path, store: DirectoryChunks) -> None:
    for scope, text in (("main", b"main"), ("branch", b"branch")):
        runner = Runner(tmp_path / scope, store, scopes=(scope,))
        (runner.lease() / "file").write_bytes(text)
        runner.save()
    reader = Runner(tmp_path / "x", store, scopes=("branch", "main"))
    assert (reader.lease() / "file").read_bytes() == b"branch"
    newest = max((tmp_path / "store/indexes").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-3])
    reader = Runner(tmp_path / "y", store, scopes=("branch", "main"))
    assert (reader.lease() / "file").read_bytes() == b"main"
    assert len(reader.recorder.warnings()) == 1


def test_an_expired_index_is_not_restored(tmp_path: Path, store: DirectoryChunks) -> None:
    runner = Runner(tmp_path / "one", store)
    (runner.lease() / "file").write_bytes(b"x")
    runner.save()
    (path,) = (tmp_path / "store/indexes").iterdir()
    index = MountIndex.from_bytes(store.index(path.name) or b"")
    old = replace(index, saved=int(time.time()) - 5000)
    data, packs = old.to_bytes(), [pack.descriptor for pack in old.packs]
    assert not store.put_index(path.name, data, packs, replacing=None), "that would take the place of what is there"
    assert store.put_index(path.name, data, packs, replacing=store.stamp(path.name))
    assert list(Runner(tmp_path / "two", store, Limits(1 << 40, 4000)).lease().iterdir()) == []
    assert [path.name for path in Runner(tmp_path / "three", store, Limits(1 << 40, 6000)).lease().iterdir()] == [
        "file"
    ]


class Failing:
    """A store that breaks where it is told to."""

    def __init__(self, store: DirectoryChunks, method: str, error: Exception) -> None:
        self._store, self._method, self._error = store, method, error
        self.asked = 0

    def _may(self, method: str) -> DirectoryChunks:
        self.asked += 1
        if method == self._method:
            raise self._error
        return self._store

    @property
    def name(self) -> str:
        return self._store.name

    def missing(self, packs: Sequence[Descriptor]) -> list[Descriptor]:
        return self._may("missing").missing(packs)

    def put(self, pack: Descriptor, data: bytes) -> bool:
        return self._may("put").put(pack, data)

    def get(self, pack: Descriptor) -> bytes:
        return self._may("get").get(pack)

    def index(self, name: str) -> bytes | None:
        return self._may("index").index(name)

    def stamp(self, name: str) -> Digest | None:
        return self._may("stamp").stamp(name)

    def put_index(self, name: str, data: bytes, packs: Sequence[Descriptor], *, replacing: Digest | None) -> bool:
        return self._may("put_index").put_index(name, data, packs, replacing=replacing)

    def prune(self, before: float) -> Freed:
        return self._may("prune").prune(before)


@pytest.mark.parametrize("method", ["put", "put_index", "missing"])
def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, store: DirectoryChunks, method: str) -> None:
    runner = Runner(tmp_path / "one", store)
    (runner.lease() / "file").write_bytes(b"before")
    runner.save()
    broken = Runner(tmp_path / "one", Failing(store, method, DiskFull("no space left")))
    (broken.lease() / "file").write_bytes(b"after!")
    assert broken.save().result == "failed"
    assert len(broken.recorder.warnings()) == 1
    assert (Runner(tmp_path / "two", store).lease() / "file").read_bytes() == b"before"
    assert runner.save().result in ("saved", "unchanged")


def test_a_store_that_is_down_is_asked_once(tmp_path: Path, store: DirectoryChunks) -> None:
    down = Failing(store, "index", RegistryUnreachable("no route"))
    runner = Runner(tmp_path / "one", down)
    (runner.lease() / "file").write_bytes(b"x")
    assert runner.save().result == "store unreachable"
    assert down.asked == 1
    assert len(runner.recorder.warnings()) == 1


def test_an_interrupt_ends_a_restore_and_a_save(tmp_path: Path, store: DirectoryChunks) -> None:
    class Slow(Failing):
        def index(self, name: str) -> bytes | None:
            time.sleep(2)
            return None

    stop = threading.Event()
    stop.set()
    runner = Runner(tmp_path / "one", Slow(store, "", DiskFull("")))
    began = time.monotonic()
    with pytest.raises(Interrupted), runner.manager.lease([MountRequest(SPEC)], runner.parent, stop):
        pass
    assert time.monotonic() - began < 1.5


# -- several runners ---------------------------------------------------------------------------------------------------


def names_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_two_runners_lose_nothing_of_each_other(tmp_path: Path, store: DirectoryChunks) -> None:
    first, second = (Runner(tmp_path / name, store) for name in ("one", "two"))
    roots = first.lease(), second.lease()
    same = os.urandom(3000)
    for name, root in zip(("one", "two"), roots, strict=True):
        (root / name).write_bytes(os.urandom(1000))
        (root / "both").write_bytes(same)
        (root / "which").write_text(name)
    first.save()
    assert second.save().sent < 2000, "what the other one has sent is not sent again"
    third = Runner(tmp_path / "three", store).lease()
    assert names_in(third) == ["both", "one", "two", "which"]
    assert (third / "which").read_text() == "two"
    (roots[1] / "later").write_text("x")
    second.save()
    assert "one" in names_in(Runner(tmp_path / "again", store).lease()), "though the one that saved does not have it"
    (roots[1] / "later").unlink()
    # and again: neither takes away what the other has added, nor brings back what it had before
    (roots[0] / "more").write_text("x")
    first.save()
    (roots[1] / "which").unlink()
    second.save()
    assert names_in(Runner(tmp_path / "four", store).lease()) == ["both", "more", "one", "two"]


def test_many_at_once_lose_nothing(tmp_path: Path, store: DirectoryChunks) -> None:
    runners = [Runner(tmp_path / str(number), DirectoryChunks(tmp_path / "store")) for number in range(6)]
    for number, runner in enumerate(runners):
        root = runner.lease()
        for each in range(20):
            (root / f"{number} {each}").write_text(f"{number} {each}")
    start = threading.Barrier(len(runners))

    def save(runner: Runner) -> None:
        start.wait()
        runner.save()

    threads = [threading.Thread(target=save, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [warning for runner in runners for warning in runner.recorder.warnings()]
    assert len(names_in(Runner(tmp_path / "last", store).lease())) == 120


def test_a_store_without_locks_is_looked_at_again(
    tmp_path: Path, store: DirectoryChunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_store, "_lock", lambda descriptor: False)
    test_two_runners_lose_nothing_of_each_other(tmp_path, store)


def test_a_writer_who_came_in_between_is_taken_in(tmp_path: Path, store: DirectoryChunks) -> None:
    class Overtaken(Failing):
        overtaken = False

        def put_index(self, name: str, data: bytes, packs: Sequence[Descriptor], *, replacing: Digest | None) -> bool:
            if not self.overtaken:
                self.overtaken = True
                other = Runner(tmp_path / "other", store)
                (other.lease() / "theirs").write_text("x")
                other.save()
            return store.put_index(name, data, packs, replacing=replacing)

    runner = Runner(tmp_path / "one", Overtaken(store, "", DiskFull("")))
    (runner.lease() / "own").write_text("x")
    assert runner.save().result == "saved"
    assert names_in(Runner(tmp_path / "three", store).lease()) == ["own", "theirs"]


def test_a_damaged_index_is_replaced(tmp_path: Path, store: DirectoryChunks) -> None:
    runner = Runner(tmp_path / "one", store)
    (runner.lease() / "file").write_bytes(b"x")
    runner.save()
    (path,) = (tmp_path / "store/indexes").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    (runner.lease() / "more").write_bytes(b"y")
    assert runner.save().result == "saved"
    assert names_in(Runner(tmp_path / "two", store).lease()) == ["file", "more"]


def test_a_runner_that_has_the_mount_gets_what_others_have_added(tmp_path: Path, store: DirectoryChunks) -> None:
    def warm() -> Runner:
        return Runner(tmp_path / "warm", store)

    runner = warm()
    root = runner.lease()
    for name in ("kept", "removed", "changed", "theirs too"):
        (root / name).write_text("first")
    runner.save()
    other = Runner(tmp_path / "other", store)
    there = other.lease()
    (there / "deep/er").mkdir(parents=True)
    (there / "deep/er").chmod(0o2750)
    (there / "deep/er/file").write_text("new")
    os.link(there / "deep/er/file", there / "linked")
    os.symlink("nowhere", there / "soft")
    (there / "theirs too").write_text("second")
    (there / "empty").mkdir()
    other.save()
    (root / "removed").unlink()
    (root / "changed").write_text("here")
    (root / "own").write_text("own")
    root = warm().lease()
    assert names_in(root) == [
        "changed", "deep", "deep/er", "deep/er/file", "kept", "linked", "own", "soft", "theirs too",
    ]  # fmt: skip
    assert (root / "changed").read_text() == "here"
    assert (root / "theirs too").read_text() == "first", "what is there is left alone"
    assert (root / "deep/er").stat().st_mode & 0o7777 == 0o2750
    assert (root / "linked").stat().st_nlink == 2
    assert not (root.parent / "new").exists()
    assert warm().save_after_use().result == "saved"
    last = Runner(tmp_path / "last", store).lease()
    assert (last / "theirs too").read_text() == "second", "and nobody's change is taken back"
    assert (last / "changed").read_text() == "here"
    assert not (last / "removed").exists()
    assert (last / "own").exists()


def test_what_was_compared_is_not_asked_for_again(tmp_path: Path, store: DirectoryChunks) -> None:
    first = Runner(tmp_path / "one", store)
    (first.lease() / "a").write_text("a")
    first.save()
    second = Runner(tmp_path / "two", store)
    (second.lease() / "b").write_text("b")
    second.save()

    read: list[str] = []

    class Noted(Failing):
        def index(self, name: str) -> bytes | None:
            read.append(name)
            return store.index(name)

    for _ in range(3):
        runner = Runner(tmp_path / "one", Noted(store, "", DiskFull("")))
        assert names_in(runner.lease()) == ["a", "b"]
        runner.lease()
    assert len(read) == 1


def test_a_slow_store_is_not_waited_for(
    tmp_path: Path, store: DirectoryChunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Runner(tmp_path / "one", store)
    (first.lease() / "a").write_text("a")
    first.save()
    monkeypatch.setattr("ci_plugins.mounts.travel._ASKING", 0.2)

    class Slow(Failing):
        def stamp(self, name: str) -> Digest | None:
            time.sleep(3)
            return None

    began = time.monotonic()
    runner = Runner(tmp_path / "one", Slow(store, "", DiskFull("")))
    assert names_in(runner.lease()) == ["a"]
    assert time.monotonic() - began < 1.5
    assert len(runner.recorder.warnings()) == 1


def test_what_there_is_no_time_for_comes_another_time(
    tmp_path: Path, store: DirectoryChunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Runner(tmp_path / "one", store)
    (first.lease() / "a").write_text("a")
    first.save()
    second = Runner(tmp_path / "two", store)
    (second.lease() / "b").write_text("b")
    second.save()
    with monkeypatch.context() as patch:
        patch.setattr("ci_plugins.mounts.travel._FETCHING", -1.0)
        patch.setattr("ci_plugins.mounts.travel.current", partial(_unhurried, current_module.current))
        assert names_in(Runner(tmp_path / "one", store).lease()) == ["a"]
    assert names_in(Runner(tmp_path / "one", store).lease()) == ["a", "b"]


def _unhurried(real: Callable[..., object], *arguments: object) -> object:
    return real(*arguments[:-1])


def test_what_is_added_never_leads_out(tmp_path: Path) -> None:
    new, data, outside = (tmp_path / name for name in ("new", "data", "outside"))
    for path in (new / "dir/sub", data, outside):
        path.mkdir(parents=True)
    (new / "dir/file").write_text("x")
    (new / "dir/sub/file").write_text("x")
    (new / "other").write_text("x")
    os.symlink(outside, data / "dir")
    nodes = [
        Node(one.path, one.type, one.mode, one.uid, one.gid, one.mtime_ns, one.used, one.size, one.link)
        for one in walk(new)
    ]
    assert place(nodes, new, data) == 1
    assert names_in(outside) == []
    assert names_in(data) == ["dir", "other"]


def test_pruning_keeps_what_is_named(tmp_path: Path, store: DirectoryChunks) -> None:
    runner = Runner(tmp_path / "one", store)
    (runner.lease() / "file").write_bytes(b"x")
    runner.save()
    for pack in packs(tmp_path):
        os.utime(pack, (1, 1))
    assert store.prune(time.time() - 60).mounts == 0
    assert len(packs(tmp_path)) == 1
    for pack in packs(tmp_path):
        os.utime(pack, (1, 1))
    freed = store.prune(time.time() + 60)
    assert freed.mounts == 1
    assert freed.bytes > 0
    assert packs(tmp_path) == []


def test_a_store_checks_what_it_gives_out(store: DirectoryChunks, tmp_path: Path) -> None:
    runner = Runner(tmp_path / "one", store)
    (runner.lease() / "file").write_bytes(b"x")
    runner.save()
    (path,) = packs(tmp_path)
    index = MountIndex.from_bytes(store.index(next((tmp_path / "store/indexes").iterdir()).name) or b"")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(VerificationError):
        store.get(index.packs[0].descriptor)


# -- indexes that lie --------------------------------------------------------------------------------------------------

ROOT = Node("", EntryType.DIRECTORY, 0o755, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "nodes",
    [
        (ROOT, Node("../x", EntryType.DIRECTORY, 0o755, 0, 0, 0, 0)),
        (ROOT, Node("..", EntryType.DIRECTORY, 0o755, 0, 0, 0, 0)),
        (ROOT, Node("/etc", EntryType.DIRECTORY, 0o755, 0, 0, 0, 0)),
        (
            ROOT,
            Node("a", EntryType.SYMLINK, 0o777, 0, 0, 0, 0, link="/etc"),
            Node("a/b", EntryType.FILE, 0, 0, 0, 0, 0),
        ),
        (ROOT, Node("a", EntryType.FILE, 0, 0, 0, 0, 0), Node("a", EntryType.DIRECTORY, 0, 0, 0, 0, 0)),
        (ROOT, Node("a", EntryType.HARDLINK, 0, 0, 0, 0, 0, link="../../etc/passwd")),
        (ROOT, Node("a", EntryType.CHARACTER, 0, 0, 0, 0, 0)),
        (ROOT, Node("a", EntryType.FILE, 0, 0, 0, 0, 0, size=5)),
        (ROOT, Node("missing/a", EntryType.FILE, 0, 0, 0, 0, 0)),
        (ROOT, Node("a\0b", EntryType.FILE, 0, 0, 0, 0, 0)),
        (replace(ROOT, type=EntryType.SYMLINK, link="/"),),
    ],
)
def test_an_index_never_leads_out_of_the_mount(nodes: tuple[Node, ...]) -> None:
    with pytest.raises(DamagedIndex):
        MountIndex.from_bytes(MountIndex("x", 0, (), nodes).to_bytes())


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["version", "id", "saved", "packs", "nodes"]), inner, max_size=5)
        ),
    ).map(pack_json)
)
def test_nonsense_is_no_index(data: bytes) -> None:
    with pytest.raises(DamagedIndex):
        MountIndex.from_bytes(data)
