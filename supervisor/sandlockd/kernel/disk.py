"""What the uppers of a sandbox hold, and the limit of that (native/disk.c): told by whoever changes them, asked by who
is about to. From any thread.
"""

from __future__ import annotations

from sandlockd.kernel.native import check, created, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.kernel.fds import OwnedFd

BLOCK_BYTES = lib.SLK_DISK_BLOCK


class Disk:
    """Allocated bytes, as st_blocks has them, without what a file system allocates ahead by itself.

    Those of a file with several names count once.
    """

    __slots__ = ("_native", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        """Raises OSError: EMFILE, where the user has too many inotify instances, or we too many descriptors."""
        self._native = ffi.NULL
        self._native = created(lib.slk_disk_create, "slk_disk", limit_bytes)
        self.limit_bytes = limit_bytes

    @property
    def native(self) -> ffi.CData:
        native: ffi.CData = self._native
        return native

    def add_upper(self, upper: OwnedFd, path: bytes) -> None:
        """Descriptors of files below it count when they are given to the program. path: canonical."""
        check(lib.slk_disk_add_upper(self._native, upper.fd, path))

    def watch(self, control_fd: int) -> None:
        """From now on whoever gets above the limit by writing has init end everything."""
        check(lib.slk_disk_watch(self._native, control_fd))

    def note(self, directory: OwnedFd, path: bytes) -> None:
        """What is there now (b"": the directory itself) counts. Raises OSError."""
        check(lib.slk_disk_note(self._native, directory.fd, path), path)

    def note_reserved(self, opened: OwnedFd) -> None:
        """Likewise, of a file that has space beyond its end because the program reserved it. Raises OSError."""
        check(lib.slk_disk_note_reserved(self._native, opened.fd))

    def leaving(self, directory: OwnedFd, path: bytes) -> None:
        """This name is about to be taken from what has it. `left` says that it has been."""
        lib.slk_disk_leaving(self._native, directory.fd, path)

    def left(self) -> None:
        lib.slk_disk_left(self._native)

    def has_room(self, size_bytes: int, *, freed_bytes: int = 0) -> bool:
        """May so much be added, once so much is given back?"""
        return bool(lib.slk_disk_has_room(self._native, size_bytes, freed_bytes))

    def reserve(self, size_bytes: int) -> bool:
        """Keep room for what is made elsewhere, until it is noted and this is released."""
        return int(lib.slk_disk_reserve(self._native, size_bytes)) == 0

    def release(self, size_bytes: int) -> None:
        lib.slk_disk_release(self._native, size_bytes)

    def holds(self, opened: OwnedFd) -> bool:
        """Does this object count?"""
        return bool(check(lib.slk_disk_holds(self._native, opened.fd)))

    def path_given(self) -> None:
        """The program may have an O_PATH descriptor of something that counts."""
        lib.slk_disk_path_given(self._native)

    def state(self) -> tuple[int, bool]:
        """(what is held, whether the limit was passed by writing)."""
        state = ffi.new("struct slk_disk_state *")
        lib.slk_disk_state(self._native, state)
        return state.total_bytes, bool(state.is_over)

    def stop(self) -> None:
        """Nobody is ended any more."""
        lib.slk_disk_stop(self._native)

    def close(self) -> None:
        """A worker that was left behind may still tell of what it did: freed when nobody has it any more."""
        lib.slk_disk_end(self._native)

    def __del__(self, destroy: Callable[[ffi.CData], None] = lib.slk_disk_destroy) -> None:
        if self._native:
            destroy(self._native)


def allocate(opened: OwnedFd, mode: int, offset: int, length: int) -> None:
    """fallocate(2). Raises OSError."""
    check(lib.slk_fallocate(opened.fd, mode, offset, length))
