"""Who may use a mount's directory at a time; threads stand for builds, as locks are taken by open file."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from ci_plugins.errors import Interrupted
from ci_plugins.events import Recorder
from ci_plugins.mounts import slots
from ci_plugins.mounts.listing import Limits
from ci_plugins.mounts.manager import MountManager
from ci_plugins.mounts.slots import Slot, lease, remove_unused, try_slot
from ci_plugins.mounts.spec import MountRequest, MountSpec, Sharing

NEVER = threading.Event()


def take(directory: Path, sharing: Sharing, stop: threading.Event = NEVER) -> Slot:
    return lease(directory, sharing, stop, lambda: None)


def test_shared_steps_meet_in_one_directory(tmp_path: Path) -> None:
    assert [take(tmp_path, "shared").number for _ in range(3)] == [0, 0, 0]


def test_private_steps_get_one_each_and_take_free_ones_again(tmp_path: Path) -> None:
    first, second = take(tmp_path, "private"), take(tmp_path, "private")
    assert (first.number, second.number) == (0, 1)
    first.release()
    assert take(tmp_path, "private").number == 0


def test_a_locked_one_waits_until_it_is_free(tmp_path: Path) -> None:
    first = take(tmp_path, "locked")
    taken: list[float] = []
    waits = threading.Event()

    def second() -> None:
        slot = lease(tmp_path, "locked", NEVER, waits.set)
        taken.append(time.monotonic())
        assert slot.number == 0

    thread = threading.Thread(target=second)
    thread.start()
    assert waits.wait(5)
    released = time.monotonic()
    first.release()
    thread.join(5)
    assert taken
    assert taken[0] >= released


def test_waiting_ends_with_the_build(tmp_path: Path) -> None:
    kept = take(tmp_path, "shared")
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Interrupted):
        take(tmp_path, "locked", stop)
    kept.release()


def test_a_directory_is_made_once_and_only_when_complete(tmp_path: Path) -> None:
    made: list[int] = []

    def fill(new: Path) -> None:
        made.append(1)
        time.sleep(0.1)
        (new / "file").touch()

    def use() -> None:
        slot = take(tmp_path, "shared")
        slot.prepare(fill, NEVER)
        assert (slot.data / "file").exists()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_what_a_killed_build_was_filling_is_begun_anew(tmp_path: Path) -> None:
    slot = take(tmp_path, "shared")
    (slot.path / "new").mkdir()
    (slot.path / "new/half").touch()
    slot.prepare(lambda new: None, NEVER)
    assert list(slot.data.iterdir()) == []


def manager(root: Path, age: float = 1e9) -> MountManager:
    return MountManager(root, "local", Recorder(), limits=Limits(1 << 40, age))


def test_two_steps_that_lock_the_same_mounts_in_another_order_do_not_wait_for_each_other(tmp_path: Path) -> None:
    requests = [MountRequest(MountSpec(f"/{name}", name, sharing="locked")) for name in "abc"]
    span = Recorder().begin("build", "x")

    def work(order: int) -> None:
        for _ in range(5):
            with manager(tmp_path).lease(requests[::order], span, NEVER) as binds:
                assert len(binds) == 3

    threads = [threading.Thread(target=work, args=(order,)) for order in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_one_run_may_mount_a_directory_twice_and_outer_mounts_come_first(tmp_path: Path) -> None:
    specs = [MountSpec("/a/b/c", "x", sharing="locked"), MountSpec("/a", "x", readonly=True), MountSpec("/a/b", "y")]
    with manager(tmp_path).lease(
        [MountRequest(spec) for spec in specs], Recorder().begin("build", "x"), NEVER
    ) as binds:
        assert [bind.target for bind in binds] == ["/a", "/a/b", "/a/b/c"]
        assert binds[0].source == binds[2].source != binds[1].source
        assert [bind.readonly for bind in binds] == [True, False, False]


def test_what_nobody_used_for_long_is_removed_but_not_what_is_in_use(tmp_path: Path) -> None:
    span = Recorder().begin("build", "x")
    used, unused = (MountRequest(MountSpec(f"/{name}", name)) for name in ("used", "unused"))
    keeper = manager(tmp_path)
    with keeper.lease([used], span, NEVER) as (kept,):
        with keeper.lease([unused], span, NEVER) as (gone,):
            (gone.source / "file").touch()
        for lock in tmp_path.glob("*/0/lock"):
            os.utime(lock, (1, 1))
        manager(tmp_path, age=1000)
        assert kept.source.is_dir()
        assert not gone.source.exists()
    with manager(tmp_path).lease([unused], span, NEVER) as (again,):
        assert list(again.source.iterdir()) == []


# -- what nobody has used for long -------------------------------------------------------------------------------------


def fill(new: Path) -> None:
    (new / "file").write_text("x" * 9000)


def aged(directory: Path, number: int = 0) -> Path:
    """A slot with something in it, used last in 1970."""
    slot = take(directory, "shared")
    slot.prepare(fill, NEVER)
    slot.release()
    os.utime(slot.path / "lock", (1, 1))
    return slot.path


def test_the_unused_go_without_a_trace(tmp_path: Path) -> None:
    old, new = aged(tmp_path / "old"), aged(tmp_path / "new")
    (old.parent / "about.json").write_text("{}")
    (old.parent / "gone-0123").mkdir()
    (old / "data/closed").mkdir(0)
    os.utime(new / "lock")
    freed = remove_unused(tmp_path, time.time() - 60)
    assert (freed.mounts, freed.problems) == (1, ())
    assert freed.bytes >= 9000
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert remove_unused(tmp_path, time.time() - 60).bytes == 0
    assert remove_unused(tmp_path / "none", time.time()).mounts == 0


def test_one_in_use_stays_whatever_its_time_says(tmp_path: Path) -> None:
    path = aged(tmp_path / "x")
    slot = take(tmp_path / "x", "shared")
    os.utime(path / "lock", (1, 1))
    assert remove_unused(tmp_path, time.time()).mounts == 0
    assert (path / "data/file").exists()
    slot.release()
    assert remove_unused(tmp_path, time.time()).mounts == 1


def test_a_lock_on_what_is_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, moved = aged(tmp_path / "x"), tmp_path / "moved"
    real = slots._opened

    def overtaken(lock: Path) -> int:
        descriptor = real(lock)
        if not moved.exists():
            path.rename(moved)
        return descriptor

    monkeypatch.setattr(slots, "_opened", overtaken)
    slot = take(tmp_path / "x", "shared")
    assert slot.path.is_dir()
    assert not slot.data.exists()
    assert try_slot(tmp_path / "x", fcntl.LOCK_EX) is None, "the new one is locked"


def test_a_slot_is_never_leased_while_it_goes(tmp_path: Path) -> None:
    """Steps and removals at once: what a step has leased stays where it is."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def remove() -> None:
        try:
            while not stop.is_set():
                assert remove_unused(tmp_path, time.time() + 60).problems == ()
        except BaseException as error:  # noqa: BLE001 (raised below, in the test's own thread)
            failed.append(error)

    def use() -> None:
        try:
            for _ in range(300):
                slot = take(tmp_path / "x", "shared")
                slot.prepare(lambda new: None, NEVER)
                (slot.data / "mine").write_text("x")
                assert slot.data.is_dir()
                slot.release()
        except BaseException as error:  # noqa: BLE001 (raised below, in the test's own thread)
            failed.append(error)

    threads = [threading.Thread(target=work) for work in (use, use, remove, remove)]
    for thread in threads:
        thread.start()
    for thread in threads[:2]:
        thread.join()
    stop.set()
    for thread in threads[2:]:
        thread.join()
    assert not failed, failed[0]
