"""getdents that is answered here, of a directory that the program has open: rows with places of our own.

A name has its place for ever, so whoever seeks, rewinds or reads with a small buffer finds each name that was there all
the time once. The position is that of the program's own descriptor.
"""

from __future__ import annotations

import os
import stat

from sandlockd.handlers import lookup, record
from sandlockd.handlers.answers import Value, Write
from sandlockd.kernel import acts
from sandlockd.overlay import listing
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.listing import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Caller

_SIZE_MAX = 1 << 20  # of one answer; the program asks again
_KINDS = {stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK, stat.S_IFREG: Kind.FILE}


def tell(
    caller: Caller, rows_from: Callable[[int, int], Sequence[Row]], end: int, size_max: int = _SIZE_MAX
) -> Answer:
    """rows_from: in their order those from an offset on, as many as fill a buffer of a size and one more at least.

    end: behind all of them. size_max: of one answer. Raises OSError, FsError.
    """
    args = caller.request.args
    size = min(args[2] & 0xFFFFFFFF, size_max)
    with acts.duplicate_of(caller.tgid, lookup.as_int(args[0])) as stream:
        caller.require_alive()
        offset = os.lseek(stream.fd, 0, os.SEEK_CUR)
        taken = listing.take(rows_from(offset, size), offset, size)
        is_old = record.call_name(caller.context, caller.request) == "getdents"
        encoded = listing.encode(taken) if is_old else listing.encode64(taken)
        os.lseek(stream.fd, taken[-1].offset + 1 if taken else end, os.SEEK_SET)
    return Write(args[1], encoded, len(encoded)) if encoded else Value(0)


def row(directory: bytes, place: int, name: bytes) -> Row | None:
    """None: it has gone."""
    try:
        status = os.lstat(directory + b"/" + name)
    except OSError:
        return None
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), Kind.FILE)
    return Row(place, name, kind, status.st_ino, False)
