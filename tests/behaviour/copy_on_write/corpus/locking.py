"""Locks and leases, on what was never changed, on copies and on new files."""

from __future__ import annotations

import os
import signal
import struct
import threading
from collections.abc import Callable

from .vocabulary import Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_SETLEASE, _GETLEASE, _SETLK, _OFD_GETLK, _OFD_SETLK = 1024, 1025, 6, 36, 37
_READ, _WRITE, _NONE = 0, 1, 2


def _lock(s: Calls, fd: int, command: int, kind: int, start: int = 0, size: int = 0) -> None:
    text = struct.pack("=hh4xqqi4x", kind, 0, start, size, 0)
    s.told("fcntl", (fd, command, kind, start, size), s.silently("fcntl", fd, command, text))


def _as_child(s: Calls, action: Callable[[], object]) -> None:
    def act() -> None:
        action()
        os._exit(0)

    s.child(act)


def _try_all(s: Calls, path: str) -> None:
    """Without waiting."""
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        s.tried(["open", path, flags | os.O_NONBLOCK, 0])


def _leases(s: Calls, path: str) -> None:
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = s.open(path, os.O_RDONLY, 0)
    s.fcntl(fd, _SETLEASE, _READ)
    s.fcntl(fd, _GETLEASE, 0)
    _as_child(s, lambda: s.tried(["open", path, os.O_RDONLY | os.O_NONBLOCK, 0]))
    s.fcntl(fd, _SETLEASE, _NONE)
    s.fcntl(fd, _SETLEASE, _WRITE)
    s.fcntl(fd, _GETLEASE, 0)
    s.fcntl(fd, _SETLEASE, 7)
    s.fcntl(s.open("dir", os.O_RDONLY, 0), _SETLEASE, _READ)
    s.close(fd)


@program
def leases_on_the_lower(s: Calls) -> None:
    _leases(s, "file")


@program
def leases_on_a_copy(s: Calls) -> None:
    s.put("file", b"changed\n")
    _leases(s, "file")


@program
def leases_on_a_new_file(s: Calls) -> None:
    s.put("new")
    _leases(s, "new")


@program
def a_lease_that_others_break(s: Calls) -> None:
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    s.put("new")
    s.put("file", b"changed\n")
    for path in ("new", "file"):
        fd = s.open(path, os.O_RDONLY, 0)
        s.fcntl(fd, _SETLEASE, _READ)
        _as_child(s, lambda path=path: _try_all(s, path))
        s.fcntl(fd, _SETLEASE, _NONE)
        _as_child(s, lambda path=path: _try_all(s, path))
        s.close(fd)


@program
def a_lease_on_the_lower_that_a_writer_breaks(s: Calls) -> None:
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = s.open("file", os.O_RDONLY, 0)
    s.fcntl(fd, _SETLEASE, _READ)
    _as_child(s, lambda: _try_all(s, "file"))


@program
def waiting_for_a_lease(s: Calls) -> None:
    """The holder gives it up as soon as somebody waits."""
    s.put("new", b"0123456789")
    fd = s.open("new", os.O_RDONLY, 0)

    def give_up() -> None:
        signal.sigtimedwait({signal.SIGIO}, 10)
        s.silently("fcntl", fd, _SETLEASE, _NONE)

    # No handler: one that is called between Python's look for signals and waitpid would run only after that.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    for call in (
        ["open", "new", os.O_WRONLY, 0],
        ["truncate", "new", 3],
        ["open", "new", os.O_RDWR | os.O_TRUNC, 0],
    ):
        s.fcntl(fd, _SETLEASE, _READ)
        holder = threading.Thread(target=give_up, daemon=True)
        holder.start()
        _as_child(s, lambda call=call: s.tried(call))
        holder.join()
        s.fcntl(fd, _GETLEASE, 0)
    s.stat("new")


def _record_locks(s: Calls, path: str, command: int) -> None:
    fd = s.open(path, os.O_RDWR, 0)
    _lock(s, fd, command, _WRITE, 0, 4)
    _lock(s, fd, command, _READ, 8, 4)

    def others() -> None:
        other = s.open(path, os.O_RDWR, 0)
        for kind in (_READ, _WRITE):
            for start in (0, 4, 8):
                _lock(s, other, command, kind, start, 1)

    _as_child(s, others)
    _lock(s, fd, command, _NONE, 0, 0)
    _as_child(s, others)
    s.close(fd)


@program
def record_locks(s: Calls) -> None:
    s.put("new")
    for path in ("file", "new", "hard-1"):
        _record_locks(s, path, _SETLK)


@program
def locks_of_open_files(s: Calls) -> None:
    s.put("new")
    for path in ("file", "new", "hard-1"):
        _record_locks(s, path, _OFD_SETLK)


@program
def locks_by_two_names(s: Calls) -> None:
    fd, other = s.open("hard-1", os.O_RDWR, 0), s.open("hard-2", os.O_RDWR, 0)
    s.flock(fd, 2 | 4)
    s.flock(other, 2 | 4)
    _lock(s, fd, _OFD_SETLK, _WRITE)
    _lock(s, other, _OFD_SETLK, _WRITE)


@program
def locks_over_a_rename_and_a_removal(s: Calls) -> None:
    fd = s.open("file", os.O_RDWR, 0)
    s.flock(fd, 2 | 4)
    s.rename("file", "moved")
    _as_child(s, lambda: s.flock(s.open("moved", os.O_RDONLY, 0), 1 | 4))
    s.unlink("moved")
    s.put("moved")
    _as_child(s, lambda: s.flock(s.open("moved", os.O_RDONLY, 0), 1 | 4))


@program
def read_locks_on_the_lower(s: Calls) -> None:
    one, other = s.open("file", os.O_RDONLY, 0), s.open("file", os.O_RDONLY, 0)
    s.flock(one, 1 | 4)
    s.flock(other, 1 | 4)
    s.flock(other, 2 | 4)
    _lock(s, one, _OFD_SETLK, _READ)
    _lock(s, one, _OFD_SETLK, _WRITE)


@program
def a_lock_of_a_directory(s: Calls) -> None:
    fd = s.open("dir", os.O_RDONLY, 0)
    s.flock(fd, 2 | 4)
    s.put("dir/new")
    s.unlink("dir/a")
    _as_child(s, lambda: s.flock(s.open("dir", os.O_RDONLY, 0), 1 | 4))
    s.flock(fd, 8)
    _as_child(s, lambda: s.flock(s.open("dir", os.O_RDONLY, 0), 1 | 4))
