"""What the upper directory has, told to the index as steps are carried out, and read from the disk at the start.

The disk is the truth; the index only spares asking it.
"""

from __future__ import annotations

import errno
import os
from typing import assert_never

from sandlockd.kernel import beneath, layers
from sandlockd.kernel.layers import Layers
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.steps import (
    Clear,
    CopyTree,
    CopyUp,
    Exchange,
    Link,
    Make,
    MarkOpaque,
    Move,
    Remove,
    Step,
    Whiteout,
)
from sandlockd.store.layer import DirectoryLayer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandlockd.kernel.beneath import Seen
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.kernel.paths import Identity
    from sandlockd.overlay.entries import Name

_LOOK = os.O_PATH | os.O_DIRECTORY
_DEFAULT_ACL = b"system.posix_acl_default"
_KINDS = {
    Kind.FILE: layers.FILE,
    Kind.DIRECTORY: layers.DIRECTORY,
    Kind.SYMLINK: layers.SYMLINK,
    Kind.WHITEOUT: layers.WHITEOUT,
}


class UpperIndex:
    """layers: ours; the descriptors are borrowed. lower: None where the tree has none."""

    def __init__(self, upper: OwnedFd, lower: OwnedFd | None) -> None:
        self.layers = Layers()
        self._upper = upper
        self._disk = DirectoryLayer(upper, with_opaque=True)
        self._lower = None if lower is None else DirectoryLayer(lower)

    def read(self, found: Callable[[bytes, Sequence[Name]], None] | None = None) -> None:
        """All of it, from the disk. found: told of the rows of each directory. Raises FsError, OSError."""
        self.layers.clear(b"")
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            self._directory(path)
            rows = list(self._disk.names(path))
            if found is not None:
                found(path, rows)
            for name, kind, _ in rows:
                child = path + b"/" + name if path else name
                if kind is Kind.DIRECTORY:
                    self.layers.set(child, layers.DIRECTORY)
                    waiting.append(child)
                else:
                    self.layers.set(child, _KINDS.get(kind, layers.OTHER))

    def _directory(self, path: bytes, *, opaque: bool = False) -> None:
        """Whether lower names show through it, and whether new ones get their mode from an ACL.

        opaque: what is known of it, where we may not read the mark: nobody but root may, of a directory that its
            owner has closed to himself.
        """
        flags = layers.MERGED if self._is_merged(path, opaque) else 0
        with beneath.open_below(self._upper.fd, path, _LOOK) as opened:
            if beneath.attribute(opened, _DEFAULT_ACL) is not None:
                flags |= layers.ACL
        self.layers.set(path, layers.DIRECTORY, flags)

    def _is_merged(self, path: bytes, opaque: bool) -> bool:
        try:
            entry = self._disk.entry(path)
            opaque = entry is None or entry.opaque
        except FsError as error:
            if error.errno != errno.EACCES:
                raise
        return not opaque and self.may_merge(path)

    def may_merge(self, path: bytes) -> bool:
        """Whether a directory here that is not opaque has something of the lower tree in it."""
        if self._lower is None or not path:
            return self._lower is not None
        above = path.rpartition(b"/")[0]
        if not self.layers.find(above)[1] & layers.MERGED:
            return False
        below = self._lower.entry(path)
        return below is not None and below.kind is Kind.DIRECTORY

    def refresh(self, path: bytes) -> None:
        """The attributes of what is there may have changed."""
        kind, flags = self.layers.find(path)
        if kind == layers.DIRECTORY:
            self._directory(path, opaque=not flags & layers.MERGED)

    def carried_out(self, step: Step) -> None:
        """A step has changed the upper."""
        known = self.layers
        if isinstance(step, Whiteout | Move | Exchange | Make):
            known.lose_links()
        match step:
            case CopyUp(path, kind, _):
                self._new(path, kind)
            case MarkOpaque(path):
                known.unmerge(path)
            case Make(path, kind, _, opaque):
                self._new(path, kind, opaque=opaque)
            case Link(source, path, _, _):
                kind_number = layers.FILE if source is None else known.find(source)[0]
                known.set(path, kind_number)
            case Whiteout(path, _):
                known.set(path, layers.WHITEOUT)
            case Remove(path, _):
                known.drop(path)
            case Clear(path):
                known.clear(path)
                known.unmerge(path)
            case Move(source, path, whiteout):
                known.move(source, path)
                if whiteout:
                    known.set(source, layers.WHITEOUT)
            case Exchange(first, second):
                known.exchange(first, second)
            case CopyTree():
                raise ValueError("carried out in single steps")
            case _:
                assert_never(step)

    def _new(self, path: bytes, kind: Kind, *, opaque: bool = False) -> None:
        if kind is not Kind.DIRECTORY:
            self.layers.set(path, _KINDS.get(kind, layers.OTHER))
            return
        self.layers.set(path, layers.DIRECTORY)
        self._directory(path, opaque=opaque)

    def close(self) -> None:
        self.layers.close()


class IndexedLayer(DirectoryLayer):
    """The upper layer: asks the disk only for what the index has."""

    __slots__ = ("_index", "_without_mark")

    def __init__(self, root: OwnedFd, index: UpperIndex, identity: Identity | None = None) -> None:
        super().__init__(root, with_opaque=True, identity=identity)
        self._index = index
        self._without_mark = DirectoryLayer(root, identity=identity)

    def seen(self, path: bytes) -> Seen | None:
        if not self._index.layers.has(path):
            return None
        try:
            return super().seen(path)
        except FsError as error:
            if error.errno != errno.EACCES:
                raise
        # Closed to its owner, who we are; or else there is no search permission on the way, which is found again.
        seen = self._without_mark.seen(path)
        merged = self._index.layers.find(path)[1] & layers.MERGED
        return None if seen is None else seen._replace(is_opaque=not merged and self._index.may_merge(path))

    def is_hiding(self, path: bytes) -> Mapping[bytes, bool]:
        try:
            return super().is_hiding(path)
        except FsError as error:
            if error.errno != errno.EACCES:
                raise
        # Closed to its owner, who we are. Whether it is empty matters to who removes it, who need not look into it.
        return {name: kind == layers.WHITEOUT for name, kind in self._index.layers.rows(path)}
