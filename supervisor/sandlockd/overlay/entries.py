"""What one layer says about one name.

Pure. A path is bytes relative to the tree, without a leading slash; b"" is the root of the tree.
"""

from __future__ import annotations

import enum
import stat
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol


class Kind(enum.Enum):
    """The kind of an object. The value is the letter that `find -type` and the change list use."""

    FILE = "f"
    DIRECTORY = "d"
    SYMLINK = "l"
    FIFO = "p"
    SOCKET = "s"
    CHARACTER = "c"
    BLOCK = "b"
    WHITEOUT = "w"  # character device 0:0: in the upper, "the lower name is gone"


# As stat(2) tells them (S_IFMT). A whiteout is told from other devices by its number.
FILE_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}
KINDS = {file_type: kind for kind, file_type in FILE_TYPES.items()}


class Entry(NamedTuple):
    """One name in one layer.

    opaque: the directory has `user.overlay.opaque=y`: nothing of the lower directory shows through it.
    device, inode: which object it is, whatever its name (st_dev, st_ino).
    links: st_nlink.
    """

    kind: Kind
    device: int = 0
    inode: int = 0
    links: int = 1
    opaque: bool = False


class Name(NamedTuple):
    """One row of one layer's directory, as getdents64(2) tells it; a whiteout is told from other devices."""

    name: bytes
    kind: Kind
    inode: int


class FsError(Exception):
    """The errno that the program is owed."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Layer(Protocol):
    """One of the two trees. It never follows a symbolic link, and may remember what it was told.

    It is only asked below directories that it has itself shown, so ENOTDIR does not come up.
    """

    def entry(self, path: bytes) -> Entry | None:
        """What is at this path, or None where the layer has no such name.

        Raises:
            FsError: the layer cannot tell (EACCES, EIO ...); the program gets that errno.
        """

    def names(self, path: bytes) -> Iterable[Name]:
        """The rows of a directory without `.` and `..`, in the same order each time while nothing changes.

        Raises:
            FsError: as in `entry`.
        """

    def is_hiding(self, path: bytes) -> Mapping[bytes, bool]:
        """The names of a directory, also of one that is closed to us where the layer knows them: is it a whiteout?

        Raises:
            FsError: as in `entry`.
        """

    def target(self, path: bytes) -> bytes:
        """Where a symbolic link points.

        Raises:
            FsError: as in `entry`.
        """


class NoLayer:
    """A lower tree with nothing in it: a private /tmp that starts empty."""

    __slots__ = ()

    def entry(self, path: bytes) -> Entry | None:
        """None, always: not even the root is there."""
        return None

    def names(self, path: bytes) -> Iterable[Name]:
        """Nothing."""
        return ()

    def is_hiding(self, path: bytes) -> Mapping[bytes, bool]:
        """Nothing."""
        return {}

    def target(self, path: bytes) -> bytes:
        """Never asked, because there is no entry."""
        raise KeyError(path)
