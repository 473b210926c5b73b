"""fallocate, where what the trees hold is limited: it takes any amount of space in a moment, so it is asked for before.

Made on a duplicate of the caller's own descriptor, never let through: another thread may have put another file in its
place by then. What a write takes is counted afterwards (native/disk.c).
"""

from __future__ import annotations

import errno

from sandlockd.handlers import record
from sandlockd.handlers.answers import Errno, Later, Value
from sandlockd.handlers.merged.doing import Call, no_room
from sandlockd.kernel import procfs, sockets
from sandlockd.kernel.disk import BLOCK_BYTES, Disk, allocate
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import acting_as
from sandlockd.policy.verdict import Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer, Refused
    from sandlockd.kernel.paths import Identity

_KEEP_SIZE, _PUNCH_HOLE, _COLLAPSE_RANGE = 0x01, 0x02, 0x08  # linux/falloc.h
_SIZE_MAX = (1 << 63) - 1


def allocate_space(call: Call) -> Answer | Later:
    """fallocate(fd, mode, offset, length)."""
    mode, offset, length = call.arg(1) & 0xFFFFFFFF, _signed(call.arg(2)), _signed(call.arg(3))
    disk = next(tree.holding.disk for tree in call.caller.context.trees if tree.holding is not None)
    allocation: _Allocation | None = _Allocation(
        disk,
        sockets.duplicate(call.caller.tid, call.int_arg(0)),
        call.caller.identity,
        mode,
        offset,
        length,
    )
    assert allocation is not None
    try:
        call.caller.require_alive()
        if not mode & _KEEP_SIZE and offset + length > procfs.file_size_limit(call.caller.tid):
            return Errno(errno.EFBIG)
        if not allocation.has_room():
            return _refused(call, allocation)
        if allocation.is_possible:  # another thread's write may hold the file's lock for seconds
            later = allocation
            allocation = None
            return Later(later.carry_out, _done, later.abandon)
        allocation.carry_out()
        return Value(0)
    finally:
        if allocation is not None:
            allocation.abandon()


def _refused(call: Call, allocation: _Allocation) -> Refused:
    real = call.caller.describe(allocation.opened).path
    paths = (tree.virtual_path(real) for tree in call.caller.context.trees)
    path = next((path for path in paths if path is not None), real)
    return record.refuse(no_room(allocation.disk), path=path, wanted=Want.WRITE, error=errno.ENOSPC)


class _Allocation:
    """Takes the descriptor. Room is kept for it until it is over."""

    def __init__(
        self, disk: Disk, opened: OwnedFd, identity: Identity | None, mode: int, offset: int, length: int
    ) -> None:
        self.disk = disk
        self.opened = opened
        self._identity = identity  # it takes away what a change by others takes away: set-user-ID bits
        self._arguments = mode, offset, length
        # Else the kernel knows which error it is.
        self.is_possible = offset >= 0 and length > 0 and offset + length <= _SIZE_MAX
        self._takes = self.is_possible and not mode & (_PUNCH_HOLE | _COLLAPSE_RANGE)
        self._kept_bytes = length + BLOCK_BYTES if self._takes and disk.holds(opened) else 0

    def has_room(self) -> bool:
        if self._kept_bytes and not self.disk.reserve(self._kept_bytes):
            self._kept_bytes = 0
            return False
        return True

    def carry_out(self) -> None:
        """In a worker as well. Raises OSError."""
        try:
            is_held = self.disk.holds(self.opened)
            if is_held and self._takes and self._arguments[0] & _KEEP_SIZE:
                self.disk.note_reserved(self.opened)
            try:
                with acting_as(self._identity):
                    allocate(self.opened, *self._arguments)
            finally:  # what failed may have taken a part
                if is_held:
                    self.disk.note(self.opened, b"")
        except InterruptedError:
            raise  # it will be run again, or abandoned
        except BaseException:
            self.abandon()
            raise
        self.abandon()

    def abandon(self) -> None:
        kept, self._kept_bytes = self._kept_bytes, 0
        self.disk.release(kept)
        self.opened.close()


def _done(_: None) -> Answer:
    return Value(0)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
