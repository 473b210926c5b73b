"""What a program writes to its standard output and error, passed on up to a limit (native/output.c)."""

from __future__ import annotations

import fcntl
import os
import stat

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NamedTuple

    class Passed(NamedTuple):
        """Bytes. error: an errno of writing, other than that nobody reads; 0. done: there is nothing left."""

        passed: int
        dropped: int
        failed: int
        error: int
        done: bool

else:  # without importing typing
    import collections

    Passed = collections.namedtuple("Passed", "passed dropped failed error done")


class Output:
    """Bytes of all its streams together are limited."""

    __slots__ = ("_native",)

    def __init__(self, limit_bytes: int, told: bytes, told_fd: int) -> None:
        """told: what is written to told_fd (-1: nowhere) when the first byte is dropped. Raises OSError."""
        self._native = ffi.NULL
        holder = ffi.new("struct slk_output **")
        check(lib.slk_output_create(limit_bytes, told, told_fd, holder))
        self._native = holder[0]

    def add(self, to_fd: int) -> OwnedFd:
        """Another stream, which goes on to a duplicate of to_fd.

        Returns: what the program is to write to. Ours is to be closed once the program has its own. Raises OSError.
        """
        return OwnedFd(check(lib.slk_output_add(self._native, to_fd)))

    def start(self) -> None:
        """From now on threads of ours pass it on. Raises OSError."""
        check(lib.slk_output_start(self._native))

    def ended(self) -> None:
        """Nobody writes any more: what is there is passed on, and that is all."""
        lib.slk_output_ended(self._native)

    @property
    def done_fd(self) -> int:
        """Readable when a stream has come to its end. Borrowed; nobody reads it."""
        return lib.slk_output_done_fd(self._native)

    def state(self) -> Passed:
        state = ffi.new("struct slk_output_state *")
        lib.slk_output_state(self._native, state)
        return Passed(
            state.passed_bytes, state.dropped_bytes, state.failed_bytes, state.error, bool(state.is_done)
        )

    def close(self, destroy: Callable[[ffi.CData], None] = lib.slk_output_destroy) -> None:
        """What was not passed on by now is lost."""
        native, self._native = self._native, ffi.NULL
        if native:
            destroy(native)

    __del__ = close


def has_one_order(fd: int, other_fd: int) -> bool:
    """Does what is written to both come in the order in which it was written? Raises OSError.

    So it does of one open file, of a pipe, and of a file that both append to.
    """
    if check(lib.slk_same_open_file(fd, other_fd)):
        return True
    one, other = os.fstat(fd), os.fstat(other_fd)
    if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino):
        return False
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & fcntl.fcntl(other_fd, fcntl.F_GETFL)
    return stat.S_ISFIFO(one.st_mode) or (stat.S_ISREG(one.st_mode) and bool(flags & os.O_APPEND))
