"""The merged listing of a directory, and offsets in it that stay what they are.

Pure. telldir, seekdir and rewinddir hand offsets back at any later time, names come and go meanwhile, and a
supervisor that replaces a dead one knows nothing of streams. So an offset is computed from the name alone:

- 2**40 and the next are `.` and `..`; 0 is where reading begins;
- a name of the lower directory comes then, by its place there. The lower is not changed, so its order stays; a
  name that is hidden keeps its place, and comes back to it when it is made anew;
- a name that only the upper has is at 2**61 + 61 bits of its hash.

A row's d_off is the row's own offset plus one, and reading goes on with the first row at or behind the offset
that is asked for. A directory of which the upper has nothing is listed by the kernel, with its own offsets, and may get
something there while it is being read: `is_own` tells the two kinds apart, `after_lower` goes on where the kernel was.
So whatever is read between two changes is neither repeated nor skipped, as readdir(3) wants
of names that were there all the time. Who has come to the end stays there (`END`, which is ext4's as well), and who
began to list a lower directory that is renamed meanwhile goes on in its order (`former`). ext4 lists `.` and `..`
somewhere in the middle: a stream that is taken over owes those that did not come yet, and has offsets that say so.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

try:
    from _blake2 import blake2b  # where hashlib has it from; that loads OpenSSL as well, 2 ms of a start
except ImportError:
    from hashlib import blake2b

from sandlockd.overlay.entries import FsError, Kind, Name
from sandlockd.overlay.view import Found, View

_UPPER = 1 << 61
# Above the offsets that file systems count up from 0, and between those that ext4 makes of hashes (hash << 32).
_LOWER = 1 << 40
_OWED = 1 << 34  # how far apart the offsets are of streams that owe nothing, `.`, `..`, or both
_OWES = {b".": 1, b"..": 2}  # as kernel.beneath.dots_ahead has it
_LOWER_END = _LOWER + 4 * _OWED
END = (1 << 63) - 1

# d_type of getdents64(2): the file type bits of st_mode, shifted (DTTOIF of <dirent.h>).
D_TYPE = {
    Kind.FIFO: 1,
    Kind.CHARACTER: 2,
    Kind.DIRECTORY: 4,
    Kind.BLOCK: 6,
    Kind.FILE: 8,
    Kind.SYMLINK: 10,
    Kind.SOCKET: 12,
}


class Row(NamedTuple):
    """One name in a directory, as it shows.

    inode: of the object that represents it, which is the lower one for a merged directory.
    """

    offset: int
    name: bytes
    kind: Kind
    inode: int
    in_upper: bool


def rows(
    directory: Found, *, inode: int, parent_inode: int, former: Iterable[Name] = (), owed: int = 0
) -> list[Row]:
    """All rows of a directory of the view, in the order of their offsets.

    inode, parent_inode: of `.` and `..`. The caller has them; the parent of a tree's root is outside.
    former: the names of the lower directory that this one is a moved copy of, for who began to list that.
    owed: see `owed_at`.
    Raises:
        FsError: what a layer raised.
    """
    view = directory.view
    upper = {} if directory.upper is None else {row.name: row for row in view.upper.names(directory.path)}
    base = _LOWER + owed * _OWED
    dots = {
        name: Row(base + place, name, Kind.DIRECTORY, number, directory.lower is None)
        for place, (name, number) in enumerate(((b".", inode), (b"..", parent_inode)))
    }
    listed = list(dots.values())
    if directory.lower is not None:
        for offset, below in enumerate(view.lower.names(directory.path), base + 2):
            above = upper.pop(below.name, None)
            shown = below if above is None else above
            if shown.kind is Kind.WHITEOUT or (above is None and below.kind is Kind.WHITEOUT):
                continue
            if above is not None and _is_merged(view, directory, above, below):
                above, shown = None, below
            listed.append(Row(offset, shown.name, shown.kind, shown.inode, above is not None))
    for offset, below in enumerate(former, base + 2):
        above = upper.pop(below.name, None)
        if above is not None and above.kind is not Kind.WHITEOUT:
            listed.append(Row(offset, above.name, above.kind, above.inode, True))
    late = (dots[name] for name, bit in _OWES.items() if owed & bit)
    listed += [row._replace(offset=base + _OWED - 4 + place) for place, row in enumerate(late)]
    return listed + _fresh(upper)


def owed_at(offset: int) -> int:
    """Which of `.` and `..` are owed by a stream that is at this offset of ours, as bits."""
    return (offset - _LOWER) // _OWED if _LOWER <= offset < _LOWER_END else 0


def _is_merged(view: View, directory: Found, above: Name, below: Name) -> bool:
    if above.kind is not Kind.DIRECTORY or below.kind is not Kind.DIRECTORY:
        return False
    try:
        return view.child(directory, above.name).is_merged
    except FsError as error:
        if error.errno != errno.EIO:
            raise
        return (
            True  # nothing can be told of the lower one but its name: the rest of the list is none the worse
        )


def _fresh(upper: dict[bytes, Name]) -> list[Row]:
    placed = sorted((_place(name), name) for name, row in upper.items() if row.kind is not Kind.WHITEOUT)
    listed = []
    last = 0
    for place, name in placed:
        # Two names with one hash: the second moves on, and stays there while the first is there.
        last = max(place, last + 1)
        row = upper[name]
        listed.append(Row(last, name, row.kind, row.inode, True))
    return listed


def _place(name: bytes) -> int:
    digest = blake2b(name, digest_size=8).digest()
    return _UPPER | (int.from_bytes(digest, "little") >> 3)


def is_own(listed: Sequence[Row], offset: int) -> bool:
    """Is this an offset of ours, and not one that the kernel gave for the lower directory?"""
    if offset in (0, END) or _LOWER <= offset < _LOWER_END:
        return True
    return any(row.offset + 1 == offset for row in listed if row.offset >= _UPPER)


def after_lower(count: int, left: int, owed: int = 0) -> int:
    """The offset at which to go on when the kernel has listed all but the last names of a lower directory.

    count: how many names it has, without `.` and `..`. left: how many of them are still to come. owed: as `rows`.
    """
    return _LOWER + owed * _OWED + 2 + count - left if left or owed else END


def take(listed: Sequence[Row], offset: int, size_bytes: int) -> list[Row]:
    """The rows from an offset on that fit into a buffer; none at the end of the directory.

    size_bytes: of the program's buffer. A row takes the same room in struct linux_dirent and linux_dirent64.
    Raises:
        FsError: EINVAL, when not even one row fits (getdents(2)).
    """
    low, high = 0, len(listed)
    while low < high:
        middle = (low + high) // 2
        if listed[middle].offset < offset:
            low = middle + 1
        else:
            high = middle
    first = low
    while low < len(listed) and record_size(listed[low].name) <= size_bytes:
        size_bytes -= record_size(listed[low].name)
        low += 1
    if low == first and low < len(listed):
        raise FsError(errno.EINVAL)
    return list(listed[first:low])


def record_size(name: bytes) -> int:
    """d_reclen: 18 bytes of head, the name, its NUL (and d_type, before or behind), to the next 8 bytes."""
    return (20 + len(name) + 7) & ~7


_HEAD64 = struct.Struct("<QqHB")
_HEAD = struct.Struct("<QQH")


def encode64(taken: Sequence[Row]) -> bytes:
    """Rows as struct linux_dirent64, for getdents64(2)."""
    parts = []
    for row in taken:
        size = record_size(row.name)
        head = _HEAD64.pack(row.inode, row.offset + 1, size, D_TYPE[row.kind])
        parts.append((head + row.name).ljust(size, b"\0"))
    return b"".join(parts)


def encode(taken: Sequence[Row]) -> bytes:
    """Rows as struct linux_dirent, for getdents(2): the type is the last byte of the record."""
    parts = []
    for row in taken:
        size = record_size(row.name)
        head = _HEAD.pack(row.inode, row.offset + 1, size)
        parts.append((head + row.name).ljust(size - 1, b"\0") + bytes([D_TYPE[row.kind]]))
    return b"".join(parts)


def directory_links(listed: Sequence[Row]) -> int:
    """st_nlink of a directory as most file systems have it: its name, its `.`, and each `..` below.

    overlayfs says 1 for a merged directory, which find(1) takes for "unknown"; bare it is this.
    """
    return sum(1 for row in listed if row.kind is Kind.DIRECTORY)
