"""A disk that fills up in the middle of a change: it is ENOSPC, and the tree is as it was; or it went through."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.disk_pair import Described, Disk
from harness.file_operations import Operation
from harness.forked import in_child
from harness.places import Place
from harness.removing import remove_tree
from harness.store_scenarios import (
    BEFORE,
    SCENARIOS,
    WATCHED_SCENARIOS,
    build_lower,
    do,
    shown_tree,
    watch_all,
)

from sandlockd.kernel import beneath
from sandlockd.kernel.fds import OwnedFd
from sandlockd.store.storage import StorageError

_CLONE_NEWNS = 0x20000
_UNSUPPORTED, _REFUSED = 77, 78
# tmpfs: what an inode, and each further name of one, counts; attributes count by the byte (mm/shmem.c).
_INODES = 200
_ROOMS_MAX = 60

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.mark.one_user
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_disk_that_fills_up_in_a_change_leaves_the_old_tree(place: Place, scenario: str) -> None:
    _fill_everywhere(place, SCENARIOS[scenario], watched=False)


@pytest.mark.one_user
@pytest.mark.parametrize("scenario", WATCHED_SCENARIOS)
def test_a_disk_that_fills_up_where_somebody_watches_leaves_the_old_tree(place: Place, scenario: str) -> None:
    _fill_everywhere(place, WATCHED_SCENARIOS[scenario], watched=True)


def test_a_whiteout_that_cannot_be_put_back_is_there_again_at_the_next_opening(place: Place) -> None:
    """No full disk brings that about where the name was just freed; a failing one does (EIO)."""
    work = build_lower(place)

    def broken() -> None:
        disk = _begun(work, place.state / "store", watched=True)
        old = shown_tree(disk)
        renamed, made = beneath.rename, beneath.make_directory

        def rename(above: OwnedFd, name: bytes, *to: Any) -> None:
            if name.startswith(b"aside"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            renamed(above, name, *to)

        def refuse(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        beneath.rename, beneath.make_directory = rename, refuse
        with pytest.raises(OSError, match="Input/output error"):
            do(disk, SCENARIOS["mkdir over a removed directory"])
        beneath.rename, beneath.make_directory = renamed, made
        disk.close()
        left = Disk(work, os.fsencode(place.state / "store"), create=False)
        _same(left, old, 0)
        assert sorted(os.listdir(place.state / "store/work")) == ["stage", "whiteout"]

    assert in_child(broken, place.user) == 0


def _fill_everywhere(place: Place, operation: Operation, *, watched: bool) -> None:
    work = build_lower(place)

    def with_every_room() -> None:
        if ctypes.CDLL(None).unshare(_CLONE_NEWNS):
            os._exit(_UNSUPPORTED)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        for room in range(_ROOMS_MAX):
            with _tmpfs(place):
                attempt = functools.partial(_attempt, work, place.state, operation, room, watched)
                status = in_child(attempt, place.user)
            if status != _REFUSED:
                os._exit(status)
        raise AssertionError("never enough room")

    status = in_child(with_every_room)
    if status == _UNSUPPORTED:
        pytest.skip("no tmpfs with user attributes")
    assert status == 0


@contextlib.contextmanager
def _tmpfs(place: Place) -> Iterator[None]:
    owner = f"uid={place.user.uid},gid={place.user.gid}"
    options = f"size=4m,nr_inodes={_INODES},mode=700,{owner}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place.state)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        os._exit(_UNSUPPORTED)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place.state)], check=True)


def _attempt(work: bytes, state: Path, operation: Operation, room: int, watched: bool) -> None:
    whole, disk = _begun(work, state / "whole", watched), _begun(work, state / "full", watched)
    old = shown_tree(disk)
    do(whole, operation)
    new = shown_tree(whole)
    _fill(state, room)
    refused = _is_refused(disk, operation)
    left = old if refused else new
    _same(disk, left, room)
    assert sorted(os.listdir(state / "full/work")) == ["stage", "whiteout"], room
    remove_tree(state / "filler")
    disk.close()
    disk = Disk(work, os.fsencode(state / "full"), create=False)
    _same(disk, left, room)
    if refused:
        assert not _is_refused(disk, operation)
        _same(disk, new, room)
        os._exit(_REFUSED)


def _is_refused(disk: Disk, operation: Operation) -> bool:
    try:
        do(disk, operation)
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return True
    return False


def _same(disk: Disk, expected: dict[bytes, Described], room: int) -> None:
    shown = shown_tree(disk)
    differing = [path for path in expected | shown if shown.get(path) != expected.get(path)]
    assert not differing, (room, [(path, expected.get(path), shown.get(path)) for path in differing])


def _begun(work: bytes, path: Path, watched: bool) -> Disk:
    path.mkdir(mode=0o700)
    try:
        disk = Disk(work, os.fsencode(path), create=True)
    except StorageError as error:  # before Linux 6.6 a tmpfs has no user attributes
        assert "user.*" in str(error)
        os._exit(_UNSUPPORTED)
    for before in BEFORE:
        assert disk.call(before) == 0
    if watched:
        watch_all(disk)
    return disk


def _fill(state: Path, quarters: int) -> None:
    """Everything but what so many quarters of a new name take."""
    filler = state / "filler"
    filler.mkdir()
    with contextlib.suppress(OSError):
        for number in itertools.count():
            (filler / str(number)).touch()
    for size in (512, 256, 128, 64, 32, 16, 8):  # what is left of the last name; each has a head as well
        with contextlib.suppress(OSError):
            os.setxattr(filler, f"user.{size}", bytes(size))
    names = -(-quarters // 4)
    for number in range(names):
        (filler / str(number)).unlink()
    if quarters < 4 * names:
        os.setxattr(filler, "user.taken", bytes(256 * (4 * names - quarters) - 64))
