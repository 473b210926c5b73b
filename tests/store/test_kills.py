"""Whoever is killed between two system calls of a step leaves the tree as it was, or as it was to be."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from harness.disk_pair import Described, Disk
from harness.file_operations import Operation
from harness.forked import in_child
from harness.places import Place

from sandlockd.kernel import beneath, copying, inotify
from sandlockd.kernel.native import lib
from sandlockd.kernel.paths import self_link
from sandlockd.store import watches
from sandlockd.store.executor import Making

_CALLS = [
    (beneath, name)
    for name in (
        "attribute create_file make_directory make_node make_symlink link rename unlink remove_directory"
        " set_attribute set_times set_owner_and_mode open_directory open_below"
    ).split()
] + [(copying, name) for name in ("open_source", "copy_data", "copy_metadata")]


def _operation(call: str, path: bytes, other: bytes = b"", *flags: str) -> Operation:
    return Operation(call, path, other, frozenset(flags))


_BEFORE = [
    _operation("unlink", b"gone"),
    _operation("mkdir", b"new"),
    _operation("chmod", b"dir/y")._replace(number=0o600),
    _operation("unlink", b"emptied/f"),
]
_SCENARIOS = {
    "create": _operation("open", b"dir/deep/n", b"", "create"),
    "create over a whiteout": _operation("open", b"gone", b"", "create"),
    "mkdir over a whiteout": _operation("mkdir", b"gone"),
    "symlink": _operation("symlink", b"dir/l", b"target"),
    "write to a file": _operation("open", b"dir/deep/f", b"", "write"),
    "write to a hard link": _operation("open", b"dir/twin", b"", "write"),
    "write in a closed directory": _operation("open", b"closed/in/f", b"", "write"),
    "unlink a lower file": _operation("unlink", b"dir/deep/f"),
    "unlink a copied file": _operation("unlink", b"dir/y"),
    "rmdir": _operation("rmdir", b"new"),
    "link": _operation("link", b"dir/deep/f", b"new/f"),
    "link over a whiteout": _operation("link", b"dir/deep/f", b"gone"),
    "rename a file": _operation("rename", b"dir/deep/f", b"new/f"),
    "rename a directory": _operation("rename", b"dir", b"new/dir"),
    "rename a directory over a whiteout": _operation("rename", b"dir", b"gone"),
    "exchange": _operation("rename", b"dir", b"new", "exchange"),
}
# Those that take another way where somebody watches the directory.
_WATCHED_SCENARIOS = {
    "create over a whiteout": _SCENARIOS["create over a whiteout"],
    "mkdir over a whiteout": _SCENARIOS["mkdir over a whiteout"],
    "link over a whiteout": _SCENARIOS["link over a whiteout"],
    "write to a file": _operation("open", b"dir/x", b"", "write"),
    "unlink a lower file": _operation("unlink", b"dir/x"),
    "unlink a copied file": _operation("unlink", b"dir/y"),
    "rmdir of a lower directory": _operation("rmdir", b"empty"),
    "rmdir of a copied directory": _operation("rmdir", b"emptied"),
    "rename over a copied directory": _operation("rename", b"new", b"emptied"),
}


def _lower(place: Place) -> bytes:
    place.file("work/dir/deep/f", "content", 0o640)
    place.file("work/dir/x", "x")
    place.file("work/dir/y", "y")
    place.file("work/gone", "old")
    place.file("work/emptied/f", "f")
    os.mkdir(place.work / "empty")
    os.link(place.work / "dir/x", place.work / "dir/twin")
    place.file("work/closed/in/f", "f")
    place.give(place.work)
    os.chmod(place.work / "closed/in", 0o555)
    os.chmod(place.work / "closed", 0o555)
    return os.fsencode(place.work)


def _do(disk: Disk, operation: Operation) -> None:
    steps, _ = disk.steps(operation)
    opened = disk.disk.carry_out(steps, Making(mode=0o750, target=operation.other))
    if opened is not None:
        opened.close()


def _shown(disk: Disk) -> dict[bytes, Described]:
    """Without link counts: the names of a lower object that is copied up join the copy one after the other."""
    shown = disk.shown(b"/nowhere")  # no target of a link leads there
    return {path: (*told[:5], *told[6:]) for path, told in shown.items()}


def _counted(limit: int) -> Callable[[], int]:
    """Kill this process before its call number `limit`; returns how to ask how many there were."""
    count = 0

    def before(act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            nonlocal count
            if count == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return act(*args, **named)

        return counted

    for module, name in _CALLS:
        setattr(module, name, before(getattr(module, name)))
    return lambda: count


def _watch(disk: Disk) -> int:
    """All directories of the upper, by an instance of ours."""
    instance = ctypes.CDLL(None).inotify_init1(os.O_CLOEXEC)
    assert instance >= 0
    for path in (b"", b"dir", b"emptied"):
        with beneath.open_below(disk.storage.upper.fd, path, os.O_PATH) as opened:
            mask = watches.ALL | inotify.ONLYDIR
            wd = lib.slk_inotify_add_watch(instance, self_link(opened.fd), mask)
            disk.known.add(os.fstat(opened.fd).st_ino, os.getpid(), instance, wd, mask)
    return instance


@pytest.mark.parametrize("scenario", _SCENARIOS)
def test_a_kill_before_any_system_call_leaves_the_old_or_the_new_tree(place: Place, scenario: str) -> None:
    _kill_everywhere(place, _SCENARIOS[scenario], watched=False)


@pytest.mark.parametrize("scenario", _WATCHED_SCENARIOS)
def test_a_kill_where_somebody_watches_leaves_the_old_or_the_new_tree(place: Place, scenario: str) -> None:
    _kill_everywhere(place, _WATCHED_SCENARIOS[scenario], watched=True)


def _kill_everywhere(place: Place, operation: Operation, *, watched: bool) -> None:
    work = _lower(place)

    def begun(name: str) -> Disk:
        path = os.fsencode(place.root / "state" / name)
        os.mkdir(path, 0o700)
        disk = Disk(work, path, create=True)
        for before in _BEFORE:
            assert disk.call(before) == 0
        if watched:
            _watch(disk)
        return disk

    def attempt(number: int) -> None:
        disk = begun(str(number))
        asked = _counted(number)
        _do(disk, operation)
        assert asked() <= number
        os._exit(3)

    def all_attempts() -> None:
        disk = begun("whole")
        old = _shown(disk)
        _do(disk, operation)
        new = _shown(disk)
        disk.close()
        number, seen = 0, set()
        while (status := in_child(functools.partial(attempt, number))) == -signal.SIGKILL:
            left = Disk(work, os.fsencode(place.root / "state" / str(number)), create=False)
            shown = _shown(left)
            assert shown in (old, new), (
                number,
                [path for path in old | new if shown.get(path) != old.get(path)],
            )
            seen.add(shown == new)
            work_names = os.listdir(place.root / "state" / str(number) / "work")
            assert sorted(work_names) == ["stage", "whiteout"]
            left.close()
            number += 1
        assert status == 3
        assert number > 1 and (old == new or False in seen)

    assert in_child(all_attempts, place.user) == 0
