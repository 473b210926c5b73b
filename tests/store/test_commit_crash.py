"""Killed wherever it may be in a commit: each file is old or new, and a rerun ends it, or takes all of it back."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from harness import committing, killing, ledger
from harness.disk_pair import Described, Disk, real, walk
from harness.file_operations import Operation
from harness.forked import in_child
from harness.fresh_disk import on_a_fresh_disk
from harness.places import Place
from harness.removing import remove_tree

_LONG_AGO_NS = 1_000_000_000_000_000_001

Tree = dict[bytes, Described]


def _call(call: str, path: bytes, other: bytes = b"", *flags: str, number: int = 0) -> Operation:
    return Operation(call, path, other, frozenset(flags), number)


def _new(path: bytes, number: int = 3) -> Operation:
    return _call("open", path, b"", "create", "write", number=number)


_CHANGES = [
    _new(b"new"),
    _call("mkdir", b"made"),
    _call("mkdir", b"made/below"),
    _new(b"made/below/f", 5),
    _call("symlink", b"made/link", b"../kept"),
    _call("mkfifo", b"made/fifo"),
    _call("open", b"written", b"", "write", number=7),
    _call("chmod", b"touched", number=0o600),
    _call("chmod", b"dir", number=0o700),
    _call("unlink", b"gone"),
    _call("unlink", b"tree/a/x"),
    _call("rmdir", b"tree/a"),
    _call("unlink", b"tree/y"),
    _call("rmdir", b"tree"),
    _call("rename", b"old", b"made/renamed"),
    _call("rename", b"moved", b"dir/moved"),
    _call("unlink", b"file-to-dir"),
    _call("mkdir", b"file-to-dir"),
    _new(b"file-to-dir/in"),
    _call("unlink", b"dir-to-file/in"),
    _call("rmdir", b"dir-to-file"),
    _new(b"dir-to-file"),
    _call("link", b"kept", b"made/twin"),
    _call("link", b"new", b"made/new-twin"),
    _call("open", b"one", b"", "write", number=4),
    _call("chmod", b"closed", number=0o755),
    _new(b"closed/in"),
    _call("unlink", b"closed/f"),
    _call("chmod", b"closed", number=0o555),
]


def fresh(root: Path) -> tuple[bytes, bytes]:
    """A workdir and a storage with all kinds of changes; their paths."""
    work, store = root / "tree", root / "store"
    for directory in ("", "dir", "tree/a", "old", "dir-to-file", "closed"):
        (work / directory).mkdir(parents=True, mode=0o755)
    for name in "kept written touched gone tree/a/x tree/y old/f moved file-to-dir dir-to-file/in one closed/f".split():
        (work / name).write_text(f"content of {name}")
        os.chmod(work / name, 0o640)
    os.setxattr(work / "touched", "user.color", b"red")
    os.link(work / "one", work / "other")
    os.chmod(work / "closed", 0o555)
    for path in sorted(work.rglob("*")):
        os.utime(path, ns=(_LONG_AGO_NS, _LONG_AGO_NS))
    store.mkdir(mode=0o700)
    paths = os.fsencode(work), os.fsencode(store)
    disk = Disk(*paths, create=True)
    for operation in _CHANGES:
        assert disk.call(operation) == 0, operation
    disk.close()
    return paths


def _content(tree: Tree) -> Tree:
    """Without what a commit brings about last: modes and owners of directories, and link counts."""
    return {path: (told[0], told[4]) for path, told in tree.items()}


class Crash:
    """What one tree is before and after, and how many calls a commit is."""

    def __init__(self, place: Place, root: Path | None = None) -> None:
        self.root = root or place.root / "work"
        work, store = self.anew()
        self.old = real(work)

        def count() -> None:
            calls = killing.killed_before(-1)
            committing.commit(store)
            (self.root / "count").write_text(str(calls()))

        assert in_child(count) == 0
        self.calls = int((self.root / "count").read_text())
        self.new = real(work)
        assert not committing.temporaries(work)
        assert self.old != self.new

    def anew(self) -> tuple[bytes, bytes]:
        for name in ("tree", "store"):
            remove_tree(self.root / name)
        return fresh(self.root)

    def require_whole(self, work: bytes) -> None:
        """Every file is old or new."""
        old, new, now = (_content(tree) for tree in (self.old, self.new, real(work)))
        for path, told in now.items():
            if b".sandlockd-commit-" not in path:
                assert told in (old.get(path), new.get(path)), path
        for path in old.keys() & new.keys():
            assert path in now or old[path][0] != new[path][0], f"{path!r} is gone"


def without_waiting_for_the_disk() -> None:
    """Whoever is killed with kill -9 leaves in the kernel what it wrote. The calls are counted all the same."""
    os.fsync = lambda fd: None


def _numbers(crash: Crash, seed: int, *, soak: bool) -> Sequence[int]:
    """Every call; without --soak a third of them, by chance, which for one seed is the same every time."""
    every = range(crash.calls)
    return every if soak else sorted(random.Random(seed).sample(every, crash.calls // 3))


@contextlib.contextmanager
def _in_memory(place: Place) -> Iterator[Path]:
    """A place on a file system without a disk, which is faster; before Linux 6.6 it has no user attributes."""
    with ledger.directory("commit", Path("/dev/shm")) as directory:
        try:
            os.setxattr(directory, "user.color", b"red")
        except OSError:
            yield place.root / "work"
        else:
            yield directory


def _killed(act: Callable[[], object], number: int) -> int:
    def run() -> None:
        killing.killed_before(number)
        act()

    return in_child(run)


@pytest.mark.one_user
def test_a_commit_killed_before_any_call_is_ended_by_a_rerun_however_often_that_is_killed(
    place: Place, soak: bool
) -> None:
    def all_attempts() -> None:
        if place.user.is_root:
            without_waiting_for_the_disk()
            attempts(Crash(place))
        else:
            with _in_memory(place) as root:
                attempts(Crash(place, root))

    def attempts(crash: Crash) -> None:
        # For an ordinary user some of them: it is the same commit, and each is ended by many.
        for number in range(0, crash.calls, 1 if soak or place.user.is_root else 3):
            work, store = crash.anew()
            assert _killed(functools.partial(committing.commit, store), number) == -signal.SIGKILL
            crash.require_whole(work)
            _end(crash, work, store, number)
        assert crash.calls > 150

    def _end(crash: Crash, work: bytes, store: bytes, number: int) -> None:
        again = 0
        while committing.is_pending(store):
            assert again < 1000
            _killed(functools.partial(committing.go_on, store), number % 37 + again)
            crash.require_whole(work)
            again += 97
        if real(work) == crash.old:
            committing.commit(store, tag="again")
        assert real(work) == crash.new, number
        assert not committing.temporaries(work)
        assert not committing.is_pending(store)

    assert on_a_fresh_disk(place, lambda: in_child(all_attempts, place.user)) == 0


@pytest.mark.one_user
def test_a_commit_killed_before_any_call_can_be_taken_back(place: Place, soak: bool) -> None:
    def all_attempts() -> None:
        with _in_memory(place) as root:
            attempts(Crash(place, root))

    def attempts(crash: Crash) -> None:
        landed = 0
        numbers = _numbers(crash, 1, soak=soak)
        for number in numbers:
            work, store = crash.anew()
            assert _killed(functools.partial(committing.commit, store), number) == -signal.SIGKILL
            if not committing.is_pending(store):
                assert real(work) in (crash.old, crash.new)
                continue
            _killed(functools.partial(committing.take_back, store), number % 41)
            crash.require_whole(work)
            if committing.is_pending(store):
                outcome = committing.take_back(store)
                assert outcome is None or not outcome.leftovers
            landed += real(work) == crash.new
            assert real(work) in (crash.old, crash.new), number
            assert not committing.temporaries(work)
            assert not committing.is_pending(store)
            committing.commit(store, tag="again")
            assert real(work) == crash.new
        assert 0 < landed < len(numbers) / 3

    assert in_child(all_attempts, place.user) == 0


@pytest.mark.one_user
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_call_that_fails_leaves_the_tree_as_it_was_and_the_next_try_succeeds(
    place: Place, error: int, soak: bool
) -> None:
    def all_attempts() -> None:
        with _in_memory(place) as root:
            attempts(Crash(place, root))

    def attempts(crash: Crash) -> None:
        def attempt(store: bytes, number: int) -> None:
            killing.failing_at(number, error)
            try:
                committing.commit(store)
            except OSError as raised:
                assert raised.errno == error
                os._exit(3)

        for number in _numbers(crash, error, soak=soak):
            work, store = crash.anew()
            status = in_child(functools.partial(attempt, store, number))
            if committing.is_pending(store):  # after the point from which there is no way back
                committing.go_on(store)
            assert real(work) == (crash.old if status == 3 and real(work) != crash.new else crash.new), number
            assert not committing.temporaries(work)
            assert not committing.is_pending(store)
            committing.commit(store, tag="again")
            assert real(work) == crash.new, number

    assert in_child(all_attempts, place.user) == 0


@pytest.mark.parametrize("seed", range(12))
def test_random_changes_killed_at_random_are_ended_or_taken_back(place: Place, seed: int) -> None:
    chance = random.Random(seed)

    def again(store: bytes, is_forward: bool) -> None:
        """Killed a few times, too."""
        act = committing.go_on if is_forward else committing.take_back
        for _ in range(4):
            if committing.is_pending(store):
                _killed(functools.partial(act, store), chance.randrange(1, 200))
        if committing.is_pending(store):
            act(store)

    def check() -> None:
        without_waiting_for_the_disk()
        places, disk = walk(place.root / "work", chance, 60)
        disk.close()
        old, new = real(places.work), real(places.plain)
        _killed(functools.partial(committing.commit, places.store), chance.randrange(5, 150))
        again(places.store, is_forward=seed % 3 > 0)
        assert real(places.work) in (old, new)
        assert not committing.temporaries(places.work)
        committing.commit(places.store, tag="again")
        assert real(places.work) == new
        assert committing.listed(places.store) == []

    assert in_child(check, place.user) == 0
