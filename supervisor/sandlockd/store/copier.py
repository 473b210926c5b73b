"""Copies of lower objects, made in the work directory, complete before they show."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from sandlockd.kernel import beneath, copying
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.entries import FILE_TYPES, Kind
from sandlockd.overlay.identity import ORIGIN_ATTRIBUTE, Origin, encode_origin
from sandlockd.overlay.identity import Identity as ObjectIdentity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.store.holding import Holding


class Staged(NamedTuple):
    """The data of a lower file, copied to the work directory beforehand.

    copy: its own; whoever takes it over closes it. size: as in `CopyUp`. The times are those that the original had.
    """

    name: bytes
    copy: OwnedFd
    size: int | None
    mtime_ns: int
    ctime_ns: int


class Copier:
    """Of one tree. work: borrowed.

    staged: by device and inode of the original; taken from here where it serves.
    stop: asked between the slices of a long copy. holding: told of what leaves the work directory. copied: told of the
    bytes of data of each file.
    lost: LOST_* (kernel/copying) of what copies could not keep so far.
    """

    def __init__(
        self,
        work: OwnedFd,
        staged: dict[tuple[int, int], Staged],
        stop: Callable[[], bool] | None,
        holding: Holding | None,
        copied: Callable[[int], None] | None = None,
    ) -> None:
        self._work = work
        self._staged = staged
        self._stop = stop
        self._holding = holding
        self._copied = copied
        self.lost = 0

    def copy(self, seen: OwnedFd, path: bytes, kind: Kind, size: int | None, name: bytes) -> OwnedFd:
        """A copy in work, complete."""
        status = os.fstat(seen.fd)
        staged = self._staged_copy(status, size, name) if kind is Kind.FILE else None
        match kind:
            case Kind.FILE:
                copy = staged or beneath.create_file(self._work, name, os.O_WRONLY, 0o600)
            case Kind.DIRECTORY:
                beneath.make_directory(self._work, name, 0o700)
            case Kind.SYMLINK:
                beneath.make_symlink(self._work, name, os.readlink(b"", dir_fd=seen.fd))
            case _:
                beneath.make_node(self._work, name, FILE_TYPES[kind] | 0o600, status.st_rdev)
        if kind is not Kind.FILE:
            copy = beneath.open_below(self._work.fd, name, os.O_PATH)
        try:
            if kind is Kind.FILE and size != 0 and staged is None:
                with copying.open_source(seen) as source:
                    copying.copy_data(source, copy, size, self._stop)
            if kind in (Kind.FILE, Kind.DIRECTORY):
                # Before the mode, which may forbid it. What it says was so before the data were read: whoever
                # changed the original meanwhile is found out.
                beneath.set_attribute(copy, ORIGIN_ATTRIBUTE, encode_origin(_origin(path, kind, status)))
            self.lost |= copying.copy_metadata(seen, copy)
            if kind is not Kind.FILE:
                return copy
            if self._copied is not None:
                self._copied(status.st_size if size is None else min(size, status.st_size))
            # What was written is closed before it shows: who watches the directory would be told of that, too.
            with copy:
                return beneath.open_below(copy.fd, b"", os.O_PATH)
        except BaseException:
            copy.close()
            raise

    def _staged_copy(self, status: os.stat_result, size: int | None, name: bytes) -> OwnedFd | None:
        """What was copied beforehand, under its new name; None where there is none, or the original changed since."""
        staged = self._staged.pop((status.st_dev, status.st_ino), None)
        if staged is None:
            return None
        is_whole = staged.size is None or staged.size == size
        if not is_whole or (staged.mtime_ns, staged.ctime_ns) != (status.st_mtime_ns, status.st_ctime_ns):
            staged.copy.close()
            if self._holding is not None:
                self._holding.leaving_work(staged.name)
            beneath.unlink(self._work, staged.name)
            return None
        if size is not None:
            os.ftruncate(staged.copy.fd, min(size, status.st_size))
        beneath.rename(self._work, staged.name, self._work, name)
        return staged.copy


def _origin(path: bytes, kind: Kind, status: os.stat_result) -> Origin:
    mode = stat.S_IMODE(status.st_mode)
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return Origin(path, ObjectIdentity(kind, *numbers, mode))
