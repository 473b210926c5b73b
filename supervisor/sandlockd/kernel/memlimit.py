"""How much memory a sandbox uses, and the limit of that (native/memlimit.c)."""

from __future__ import annotations

import enum
import fcntl
import os
from typing import NamedTuple

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, created, ffi, lib
from sandlockd.kernel.paths import acting_as

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.kernel.cgroup_limits import MemoryFiles
    from sandlockd.kernel.paths import Identity

# As the filter has it: what asks for less passes (kernel/syscalls_arguments.py).
THRESHOLD_BYTES = 1 << 20

_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 0x1, 0x2
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_MOST = (1 << 63) - 1
_TMPFS_MAGIC = 0x01021994  # linux/magic.h


class Asks(enum.IntEnum):
    """Which call it is (enum slk_asks)."""

    BRK = lib.SLK_ASKS_BRK
    MMAP = lib.SLK_ASKS_MMAP
    MPROTECT = lib.SLK_ASKS_MPROTECT
    MREMAP = lib.SLK_ASKS_MREMAP


class State(NamedTuple):
    """is_over: everything is ended for it. uncounted_error: because nobody could tell how much it was; else 0."""

    used_bytes: int
    peak_bytes: int
    is_over: bool
    uncounted_error: int


class Memory:
    """Bytes, of all processes of the sandbox together."""

    __slots__ = ("_native", "is_by_group", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        """Raises OSError: EMFILE, where the user has too many inotify instances, or we too many descriptors."""
        self._native = ffi.NULL
        self._native = created(lib.slk_memory_create, "slk_memory", limit_bytes)
        self.limit_bytes = limit_bytes
        # The kernel keeps the limit: it knows of all memory, whatever that is made of.
        self.is_by_group = False

    @property
    def native(self) -> ffi.CData:
        native: ffi.CData = self._native
        return native

    def keep_by_group(self, files: MemoryFiles) -> None:
        """Before it is watched. The files are taken."""
        group = ffi.new("struct slk_memory_group *")
        group.usage_fd, group.stat_fd = files.usage.take(), files.stat.take()
        group.peak_fd = -1 if files.peak is None else files.peak.take()
        group.events_fd = files.events.take()
        group.event_fd = -1 if files.event is None else files.event.take()
        lib.slk_memory_keep_by_group(self._native, group)
        self.is_by_group = True

    def count(self) -> None:
        """Not by a group after all. Before it is watched."""
        lib.slk_memory_count(self._native)
        self.is_by_group = False

    def add_place(self, path: bytes) -> None:
        """The program may write it. Only what lies on a tmpfs is looked at. Raises OSError: ENOSPC, too many."""
        try:
            place = OwnedFd(os.open(path or b"/", os.O_PATH | os.O_CLOEXEC))
        except OSError:
            return  # it is not there
        with place:
            check(lib.slk_memory_add_place(self._native, place.fd))

    def count_mapped(self) -> None:
        """Nobody can make shared memory of an object that we know: what is mapped of it counts."""
        lib.slk_memory_count_mapped(self._native)

    def watch(self, control_fd: int, init_pid: int) -> None:
        """From now on, above the limit, init ends everything."""
        check(lib.slk_memory_watch(self._native, control_fd, init_pid))

    def asks(self, size_bytes: int) -> bool:
        """May so much be taken, by what was found last? Waits for nobody."""
        return bool(lib.slk_memory_asks(self._native, min(size_bytes, _MOST)))

    def asks_exactly(self, size_bytes: int) -> bool:
        """When all is counted anew. May take a second."""
        return bool(lib.slk_memory_asks_exactly(self._native, min(size_bytes, _MOST)))

    def judge(self, asks: Asks, tid: int, args: tuple[int, ...]) -> tuple[bool, int]:
        """Likewise, of a thread that waits in a call: by what the kernel has of its memory, which may take long.

        Returns: (it may, where its heap ends: of brk).
        """
        end = ffi.new("uint64_t *")
        fits = lib.slk_memory_judge(self._native, asks, tid, ffi.new("uint64_t[6]", args), end)
        return bool(fits), end[0]

    def make_object(self, name: bytes, flags: int, identity: Identity | None) -> OwnedFd:
        """memfd_create(2); it counts. Raises OSError.

        Opened once more: of the descriptor that memfd_create gives the kernel does not count that somebody can write by
        it, and nobody could ever tell when all have closed it (native/inuse.c).
        """
        with acting_as(identity):
            with OwnedFd(os.memfd_create(os.fsdecode(name), flags | _MFD_CLOEXEC)) as first:
                made = OwnedFd(os.open(b"/proc/self/fd/%d" % first.fd, os.O_RDWR | os.O_CLOEXEC))
        try:
            self.note(made)
        except BaseException:
            made.close()
            raise
        return made

    def note(self, opened: OwnedFd) -> None:
        """It lies in memory, and counts until nobody has it. Raises OSError."""
        check(lib.slk_memory_note(self._native, opened.fd))

    def make_shared(self, size_bytes: int, identity: Identity | None) -> OwnedFd:
        """What shared anonymous memory of that size is made of: nobody can make it larger. Raises OSError."""
        made = self.make_object(b"shared", _MFD_ALLOW_SEALING, identity)
        try:
            os.ftruncate(made.fd, size_bytes)
            fcntl.fcntl(made.fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            made.close()
            raise
        return made

    def state(self) -> State:
        state = ffi.new("struct slk_memory_state *")
        lib.slk_memory_state(self._native, state)
        return State(state.used_bytes, state.peak_bytes, bool(state.is_over), state.uncounted_error)

    def stop(self) -> None:
        """Nobody is ended any more."""
        lib.slk_memory_stop(self._native)

    def __del__(self, destroy: Callable[[ffi.CData], None] = lib.slk_memory_destroy) -> None:
        if self._native:
            destroy(self._native)


def lies_in_memory(opened: OwnedFd) -> bool:
    """Is it of a tmpfs? Raises OSError."""
    found = ffi.new("char[120]")
    check(lib.slk_statfs(opened.fd, found))
    kind: int = ffi.cast("int64_t *", found)[0]
    return kind == _TMPFS_MAGIC
