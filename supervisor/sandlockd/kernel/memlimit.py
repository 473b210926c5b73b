"""How much memory a sandbox uses, and the limit of that (native/memlimit.c)."""

from __future__ import annotations

import fcntl
import os
import struct

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, ffi, lib
from sandlockd.kernel.paths import acting_as

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.kernel.cgroups import MemoryFiles
    from sandlockd.kernel.paths import Identity

# As the filter has it: what asks for less passes (kernel/syscalls_arguments.py).
THRESHOLD_BYTES = 1 << 20

_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 0x1, 0x2
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_MEMORY_AT, _UNIT_AT = 32, 104  # in struct sysinfo: totalram, mem_unit
_TMPFS_MAGIC = 0x01021994  # linux/magic.h


class Memory:
    """Bytes, of all processes of the sandbox together."""

    __slots__ = ("_native", "is_by_group", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        """Raises OSError: EMFILE, where the user has too many inotify instances, or we too many descriptors."""
        self._native = ffi.NULL
        holder = ffi.new("struct slk_memory **")
        check(lib.slk_memory_create(limit_bytes, holder))
        self._native = holder[0]
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
        """May so much be taken?"""
        return bool(lib.slk_memory_asks(self._native, min(size_bytes, (1 << 63) - 1)))

    def make_object(self, name: bytes, flags: int, identity: Identity | None) -> OwnedFd:
        """memfd_create(2); it counts. Raises OSError.

        Opened once more: of the descriptor that memfd_create gives the kernel does not count that somebody can write by
        it, and nobody could ever tell when all have closed it (native/inuse.c).
        """
        with acting_as(identity):
            with OwnedFd(os.memfd_create(os.fsdecode(name), flags | _MFD_CLOEXEC)) as first:
                made = OwnedFd(os.open(b"/proc/self/fd/%d" % first.fd, os.O_RDWR | os.O_CLOEXEC))
        try:
            check(lib.slk_memory_note(self._native, made.fd))
        except BaseException:
            made.close()
            raise
        return made

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

    def state(self) -> tuple[int, int, bool]:
        """(what is used, the most that was, whether the limit was passed)."""
        state = ffi.new("struct slk_memory_state *")
        lib.slk_memory_state(self._native, state)
        return state.used_bytes, state.peak_bytes, bool(state.is_over)

    def stop(self) -> None:
        """Nobody is ended any more."""
        lib.slk_memory_stop(self._native)

    def __del__(self, destroy: Callable[[ffi.CData], None] = lib.slk_memory_destroy) -> None:
        if self._native:
            destroy(self._native)


def machine(limit_bytes: int, used_bytes: int) -> bytes:
    """sysinfo(2) of a machine that has no more memory than that, and no swap. Raises OSError."""
    info = ffi.new("char[]", lib.SLK_SYSINFO_BYTES)
    check(lib.slk_sysinfo(info))
    text = bytearray(ffi.buffer(info, lib.SLK_SYSINFO_BYTES))
    total, free, shared, buffers, _, _ = struct.unpack_from("=6Q", text, _MEMORY_AT)
    unit = struct.unpack_from("=I", text, _UNIT_AT)[0] or 1
    if total * unit > limit_bytes:
        total = limit_bytes // unit
        free = min(free, max(limit_bytes - used_bytes, 0) // unit)
        shared, buffers = min(shared, total), min(buffers, free)
    struct.pack_into("=6Q", text, _MEMORY_AT, total, free, shared, buffers, 0, 0)
    return bytes(text)


def lies_in_memory(opened: OwnedFd) -> bool:
    """Is it of a tmpfs? Raises OSError."""
    found = ffi.new("char[120]")
    check(lib.slk_statfs(opened.fd, found))
    kind: int = ffi.cast("int64_t *", found)[0]
    return kind == _TMPFS_MAGIC
