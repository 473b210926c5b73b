"""getdents in a tree: every listing is ours, of a merged directory or not.

The kernel's offsets and ours do not mix, and a directory may become a merged one while somebody reads it. The position
is that of the program's own descriptor, so that seeking, rewinding and sharing it work as they do bare.
"""

from __future__ import annotations

import errno
import os

from sandlockd.handlers import metadata
from sandlockd.handlers.answers import Errno, Value, Write
from sandlockd.handlers.merged.doing import Call
from sandlockd.handlers.merged.places import Elsewhere, Place, of_descriptor
from sandlockd.kernel import acts, beneath, procfs
from sandlockd.overlay import listing
from sandlockd.overlay.entries import FsError, Kind, Name
from sandlockd.store.tree import is_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.overlay.listing import Row

_SIZE_MAX = 1 << 20  # of one answer; the program asks again


def list_directory(call: Call) -> Answer | Elsewhere:
    """Raises OSError: EBADF, ENOTDIR, EINVAL (a buffer without room for one row)."""
    caller = call.caller
    with metadata.by_descriptor(caller, 0) as opened:
        place = of_descriptor(caller, opened)
        if isinstance(place, Elsewhere):
            return place
        if place is None:
            return _removed(call)
        if place.found.kind is not Kind.DIRECTORY:
            return Errno(errno.ENOTDIR)
        return _list(call, opened, place)


def _list(call: Call, opened: OwnedFd, place: Place) -> Answer:
    caller = call.caller
    inode = os.fstat(opened.fd).st_ino
    if place.found.lower is None:
        _, inode = place.tree.origins.told(inode)
    try:
        with acts.duplicate_of(caller.tgid, call.int_arg(0)) as stream:
            caller.require_alive()
            offset = os.lseek(stream.fd, 0, os.SEEK_CUR)
            rows = _rows(opened, place, inode, listing.owed_at(offset))
            if not listing.is_own(rows, offset):
                offset = _after_kernel(opened, offset)
                rows = _rows(opened, place, inode, listing.owed_at(offset))
            taken = listing.take(rows, offset, min(call.arg(2) & 0xFFFFFFFF, _SIZE_MAX))
            told = [_told(place, row) for row in taken]
            encoded = listing.encode64(told) if call.name == "getdents64" else listing.encode(told)
            os.lseek(stream.fd, taken[-1].offset + 1 if taken else listing.END, os.SEEK_SET)
    except FsError as error:
        return Errno(error.errno)
    return Write(call.arg(1), encoded, len(encoded)) if encoded else Value(0)


def _former(directory: OwnedFd, place: Place) -> list[Name]:
    """Of a lower directory that has been renamed: its names there, in the order in which they were listed."""
    if place.found.lower is not None or is_object(place.found.upper, acts.number_of(directory)):
        return []
    with acts.reopen(directory, os.O_RDONLY | os.O_DIRECTORY) as opened:
        return [Name(name, Kind.FILE, inode) for name, _, inode in beneath.rows(opened)]


def _rows(opened: OwnedFd, place: Place, inode: int, owed: int) -> list[Row]:
    former, parent_inode = _former(opened, place), _parent_inode(place)
    return listing.rows(place.found, inode=inode, parent_inode=parent_inode, former=former, owed=owed)


def _after_kernel(directory: OwnedFd, offset: int) -> int:
    """The kernel has begun to list the lower directory, when there was nothing but that: where it would go on.

    directory: that one; by now it may have another name, or none.
    """
    with acts.reopen(directory, os.O_RDONLY | os.O_DIRECTORY) as opened:
        count = sum(1 for _ in beneath.rows(opened))
        os.lseek(opened.fd, offset, os.SEEK_SET)
        owed = beneath.dots_ahead(opened)
        os.lseek(opened.fd, offset, os.SEEK_SET)
        left = sum(1 for _ in beneath.rows_left(opened))
    return listing.after_lower(count, left, owed)


def _parent_inode(place: Place) -> int:
    above = place.found.parent
    if above is None or above.visible is None:
        return os.stat(os.path.dirname(place.tree.root)).st_ino
    if above.lower is None:
        return place.tree.origins.told(above.visible.inode)[1]
    return above.visible.inode


def _told(place: Place, row: Row) -> Row:
    """With the inode number that programs know."""
    if not row.in_upper or row.name in (b".", b".."):
        return row
    return row._replace(inode=place.tree.origins.told(row.inode)[1])


def _removed(call: Call) -> Answer:
    """A directory that the program holds and has removed: nothing is in it."""
    if procfs.descriptor_flags(call.caller.tid, call.int_arg(0)) & os.O_DIRECTORY:
        return Errno(errno.ENOENT)
    return Errno(errno.ENOTDIR)
