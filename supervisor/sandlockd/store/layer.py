"""A directory on disk as a layer of the model, and the lower tree's hard links.

Only looks. Confined to the directory (openat2(2), RESOLVE_BENEATH and no links), so a path that leads out now, though
it did not when it was asked for, is an error and no access.
"""

from __future__ import annotations

import errno
import os
import stat

from sandlockd.kernel import beneath
from sandlockd.kernel.beneath import Seen
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import Identity
from sandlockd.overlay.entries import KINDS, Entry, FsError, Kind, Name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

_ROW_KINDS = {**KINDS, 0: Kind.WHITEOUT}  # beneath.rows
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def kind_of(seen: Seen) -> Kind:
    """Whiteouts told from other devices."""
    return Kind.WHITEOUT if beneath.is_whiteout(seen.mode, seen.special) else KINDS[stat.S_IFMT(seen.mode)]


def kind_of_status(status: os.stat_result) -> Kind:
    """Likewise, of what fstat(2) says."""
    is_whiteout = beneath.is_whiteout(status.st_mode, status.st_rdev)
    return Kind.WHITEOUT if is_whiteout else KINDS[stat.S_IFMT(status.st_mode)]


class DirectoryLayer:
    """A `Layer`. root: borrowed.

    with_opaque: the upper, whose directories may bear the mark.
    identity: whose search permission counts on the way (None: ours). For the lower it is ours, and
        `DiskAccess.search` asks for the caller's, since a copied-up directory may have another mode by now.
    """

    __slots__ = ("_identity", "_with_opaque", "root", "slow")

    def __init__(self, root: OwnedFd, *, with_opaque: bool = False, identity: Identity | None = None) -> None:
        self.root = root
        self._with_opaque = with_opaque
        self._identity = identity
        # Where a file system is mounted whose server may never answer: nothing there is looked at.
        self.slow: frozenset[bytes] = frozenset()

    def _require_prompt(self, path: bytes) -> None:
        require_prompt(self.slow, path)

    def seen(self, path: bytes) -> Seen | None:
        """As `entry`, with owner and mode."""
        if self.slow:
            self._require_prompt(path)
        try:
            return beneath.look(
                self.root.fd, path, with_opaque=self._with_opaque, identity=self._identity if path else None
            )
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise fs_error(error, path) from None

    def entry(self, path: bytes) -> Entry | None:
        seen = self.seen(path)
        if seen is None:
            return None
        return Entry(kind_of(seen), seen.device, seen.inode, seen.links, seen.is_opaque)

    def names(self, path: bytes) -> Iterable[Name]:
        if self.slow:
            self._require_prompt(path)
        try:
            with beneath.open_below(
                self.root.fd, path, os.O_RDONLY | os.O_DIRECTORY, self._identity
            ) as opened:
                return [Name(name, _ROW_KINDS[kind], inode) for name, kind, inode in beneath.rows(opened)]
        except OSError as error:
            raise fs_error(error, path) from None

    def is_hiding(self, path: bytes) -> Mapping[bytes, bool]:
        return {name: kind is Kind.WHITEOUT for name, kind, _ in self.names(path)}

    def target(self, path: bytes) -> bytes:
        if self.slow:
            self._require_prompt(path)
        try:
            with beneath.open_below(self.root.fd, path, os.O_PATH, self._identity) as opened:
                return os.readlink(b"", dir_fd=opened.fd)
        except OSError as error:
            raise fs_error(error, path) from None


class HardLinks:
    """A `Siblings`: the lower tree is searched once, when it is first asked, by the inode numbers that its
    directories tell. What the numbers promise is looked up again by who asks.
    """

    __slots__ = ("_layer", "_names")

    def __init__(self, lower: DirectoryLayer) -> None:
        self._layer = lower
        self._names: dict[int, list[bytes]] | None = None

    def names_of(self, entry: Entry) -> Iterable[bytes]:
        if self._names is None:
            self._names = self._search()
        return self._names.get(entry.inode, ())

    def _search(self) -> dict[int, list[bytes]]:
        first: dict[int, bytes] = {}
        several: dict[int, list[bytes]] = {}
        for path, inode in self._files():
            if inode not in first:
                first[inode] = path
            else:
                several.setdefault(inode, [first[inode]]).append(path)
        return several

    def _files(self) -> Iterator[tuple[bytes, int]]:
        waiting = [b""]
        while waiting:
            above = waiting.pop()
            try:
                rows = self._layer.names(above)
            except FsError:
                continue  # nobody can name what lies there, the program neither
            for name, kind, inode in rows:
                path = above + b"/" + name if above else name
                if kind is Kind.DIRECTORY:
                    waiting.append(path)
                else:
                    yield path, inode


def require_prompt(slow: Collection[bytes], path: bytes) -> None:
    """Raises FsError: looking at a path may wait for ever. slow: as of a DirectoryLayer."""
    for point in slow:
        if not point or path == point or path.startswith(point + b"/"):
            told = FsError(errno.EIO)
            told.add_note(
                f"{os.fsdecode(path)!r}: a file system that waits for a server is mounted there: unmount it"
            )
            raise told


def fs_error(error: OSError, path: bytes) -> FsError:
    """The note is for people: the model only has the number."""
    assert error.errno is not None
    told = FsError(error.errno)
    told.add_note(f"{os.fsdecode(path)!r}: {error.strerror}")
    return told
