"""The real tree, as a commit sees it: names below the workdir, looked up without leaving it and following no link.

Never a path from the root: what was a directory when the changes were made may be a link out of the tree now.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from sandlockd.kernel import beneath, copying
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import self_link
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.identity import Facts
from sandlockd.overlay.journal import Former
from sandlockd.store.inspector import facts_of
from sandlockd.store.layer import require_prompt
from sandlockd.store.restored import Restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sandlockd.store.storage import Storage

# A directory on the way is gone, or is something else now, a link for example.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_KEEP = 0xFFFFFFFF


@contextlib.contextmanager
def if_there() -> Iterator[None]:
    """What is to be done to something that may be gone."""
    try:
        yield
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


class RealTree:
    """root: borrowed. restored: what counts as unchanged although its ctime is another. slow: as of a Storage."""

    def __init__(self, root: OwnedFd, restored: Restored | None = None, slow: Collection[bytes] = ()) -> None:
        self._root = root
        self._slow = slow
        self.restored = restored or Restored()

    def now(self, path: bytes) -> Facts | None:
        """What is there."""
        facts = self.seen(path)
        return None if facts is None else self.restored.applied(facts)

    def seen(self, path: bytes) -> Facts | None:
        """With the ctime that it really has."""
        try:
            with self.open(path) as opened:
                return facts_of(opened)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    def names(self, path: bytes) -> list[bytes]:
        """Of a directory; nothing where there is none."""
        try:
            with self.open(path, os.O_RDONLY | os.O_DIRECTORY) as opened:
                return [name for name, _, _ in beneath.rows(opened)]
        except OSError as error:
            if error.errno in _ABSENT:
                return []
            raise

    def open(self, path: bytes, flags: int = os.O_PATH) -> OwnedFd:
        self._require_prompt(path)
        return beneath.open_below(self._root.fd, path, flags)

    def _require_prompt(self, path: bytes) -> None:
        try:
            require_prompt(self._slow, path)
        except FsError as error:
            raise OSError(error.errno, os.strerror(error.errno), path) from error

    def parent(self, path: bytes) -> OwnedFd:
        self._require_prompt(above(path))
        return beneath.open_directory(self._root.fd, above(path))

    def former(self, path: bytes) -> Former:
        """What a change in place takes away."""
        with self.open(path) as opened:
            status = os.fstat(opened.fd)
            return Former(
                status.st_uid,
                status.st_gid,
                stat.S_IMODE(status.st_mode),
                status.st_atime_ns,
                status.st_mtime_ns,
                tuple(sorted(_attributes(opened).items())),
            )


def real_tree_of(storage: Storage) -> RealTree:
    return RealTree(storage.workdir, Restored.read(storage.directory), storage.slow)


def above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def last(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _attributes(opened: OwnedFd) -> dict[bytes, bytes]:
    if stat.S_ISLNK(os.fstat(opened.fd).st_mode):
        return {}
    return copying.attributes_of(opened)


def make_like(source: OwnedFd, target: OwnedFd, facts: Facts) -> int:
    """Owner, attributes, mode and times of an object in the upper. Its mode may be lent, so the facts tell it.

    Returns: LOST_* (kernel/copying).
    """
    is_link = facts.kind is Kind.SYMLINK
    if not is_link:
        wanted = _attributes(source)
        for name in _attributes(target):
            if name not in wanted:
                os.removexattr(self_link(target.fd), name)
    lost = copying.copy_metadata(source, target)
    if not is_link:
        mode = facts.mode & ~0o6000 if lost & copying.LOST_OWNER else facts.mode
        if stat.S_IMODE(os.fstat(target.fd).st_mode) != mode:
            beneath.set_owner_and_mode(target, _KEEP, _KEEP, mode)
    beneath.set_times(target, os.fstat(source.fd).st_atime_ns, facts.mtime_ns)
    return lost


def make_as_before(target: OwnedFd, former: Former) -> None:
    """Take a change in place back."""
    status = os.fstat(target.fd)
    owner_differs = (status.st_uid, status.st_gid) != (former.uid, former.gid)
    wanted = dict(former.attributes)
    if owner_differs:
        beneath.set_owner_and_mode(target, former.uid, former.gid, former.mode)
    for name in _attributes(target):
        if name not in wanted:
            os.removexattr(self_link(target.fd), name)
    for name, value in wanted.items():
        beneath.set_attribute(target, name, value)
    if not stat.S_ISLNK(status.st_mode):
        beneath.set_owner_and_mode(target, _KEEP, _KEEP, former.mode)
    beneath.set_times(target, former.atime_ns, former.mtime_ns)
