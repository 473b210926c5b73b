"""Looks closer at the two layers on disk: the model's `Inspector`, and what it needs to read everything.

Only looks, but for one thing: a program may leave files and directories in the upper that their owner, who we are,
may not read. Those are opened to us for as long as somebody looks (`Unlocked`), with a record in work of the mode that
each had, and are shown with that mode.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import NamedTuple

from sandlockd.kernel import beneath, copying
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import ORIGIN_ATTRIBUTE, Facts, Origin, decode_origin
from sandlockd.overlay.view import View
from sandlockd.store.content import content_digest, same_content
from sandlockd.store.layer import DirectoryLayer, fs_error, kind_of_status, require_prompt
from sandlockd.store.lending import LENT_PREFIX, give_back, note_lent
from sandlockd.store.restored import Restored
from sandlockd.store.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SAME = 0xFFFFFFFF
# What the attributes of something come to that we may not read: it differs from whatever can be read.
_UNREADABLE = "?"


def facts_of(opened: OwnedFd) -> Facts:
    """Of an object that is open, be it with O_PATH."""
    status = os.fstat(opened.fd)
    kind = kind_of_status(status)
    return Facts(
        kind,
        status.st_dev,
        status.st_ino,
        status.st_nlink,
        status.st_size,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_rdev if kind in (Kind.CHARACTER, Kind.BLOCK) else 0,
        "" if kind is Kind.SYMLINK else _attributes_digest(opened),
    )


def _attributes_digest(opened: OwnedFd) -> str:
    try:
        found = copying.attributes_of(opened)
    except PermissionError:
        return _UNREADABLE
    if not found:
        return ""
    hashed = hashlib.sha256()
    for name, value in sorted(found.items()):
        hashed.update(b"%d:%b,%d:%b," % (len(name), name, len(value), value))
    return hashed.hexdigest()


class Lent(NamedTuple):
    path: bytes
    mode: int


class Unlocked:
    """The upper, with everything in it open to us; what was closed is given back by `close`.

    For root nothing is closed. `mode_of` tells what a mode really is.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lent: dict[tuple[int, int], Lent] = {}
        if os.geteuid() != 0:
            try:
                self._open_below(b"")
            except BaseException:
                self.close()
                raise

    def mode_of(self, device: int, inode: int, mode: int) -> int:
        lent = self._lent.get((device, inode))
        return mode if lent is None else lent.mode

    def facts(self, opened: OwnedFd) -> Facts:
        """As `facts_of`, with the mode that it really has."""
        facts = facts_of(opened)
        return facts._replace(mode=self.mode_of(facts.device, facts.inode, facts.mode))

    def close(self) -> None:
        # What lies deeper first: it can be reached only as long as what is above it is open.
        for place, lent in reversed(list(enumerate(self._lent.values()))):
            with contextlib.suppress(OSError):  # what resists is given back when the storage is opened again
                give_back(self._storage.upper, b"%o %b" % (lent.mode, lent.path))
                beneath.unlink(self._storage.work, _record(place))
        self._lent.clear()

    def __enter__(self) -> Unlocked:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open_below(self, path: bytes) -> None:
        self._lend(path, 0o500)
        with beneath.open_below(self._storage.upper.fd, path, os.O_RDONLY | os.O_DIRECTORY) as directory:
            rows = list(beneath.rows(directory))
        for name, kind, _ in rows:
            child = path + b"/" + name if path else name
            if kind == stat.S_IFDIR:
                self._open_below(child)
            elif kind == stat.S_IFREG:
                self._lend(child, 0o400)

    def _lend(self, path: bytes, needed: int) -> None:
        with beneath.open_below(self._storage.upper.fd, path, os.O_PATH) as opened:
            status = os.fstat(opened.fd)
            mode = stat.S_IMODE(status.st_mode)
            if mode & needed == needed or status.st_uid != os.geteuid():
                return
            record = _record(len(self._lent))
            note_lent(self._storage.work, record, mode, path)
            self._lent[status.st_dev, status.st_ino] = Lent(path, mode)
            beneath.set_owner_and_mode(opened, _SAME, _SAME, mode | needed)


def _record(place: int) -> bytes:
    return b"%blook%d" % (LENT_PREFIX, place)


class DiskInspector:
    """An `Inspector`; the layers are those of `view`."""

    def __init__(self, storage: Storage, unlocked: Unlocked) -> None:
        self._upper = storage.upper
        self._lower = storage.workdir
        self._slow = storage.slow
        self._restored = Restored.read(storage.directory)
        self._unlocked = unlocked

    def upper(self, path: bytes) -> Facts:
        with _opened(self._upper, path) as opened:
            return self._unlocked.facts(opened)

    def lower(self, path: bytes) -> Facts:
        require_prompt(self._slow, path)
        with _opened(self._lower, path) as opened:
            return self._restored.applied(facts_of(opened))

    def keeps_owner(self, old: Facts) -> bool:
        if os.geteuid() == 0:
            return True
        return old.uid == os.geteuid() and old.gid in (os.getegid(), *os.getgroups())

    def origin(self, path: bytes) -> Origin | None:
        with _opened(self._upper, path) as opened:
            value = beneath.attribute(opened, ORIGIN_ATTRIBUTE)
        return None if value is None else decode_origin(value)

    def content(self, path: bytes) -> str:
        with _opened(self._upper, path) as seen, copying.open_source(seen) as file:
            return content_digest(file)

    def same_content(self, path: bytes, lower_path: bytes) -> bool:
        """Where we may not read the lower one, the run could not either: then it is what a commit has made of it,
        with the very same times, or something else.
        """
        require_prompt(self._slow, lower_path)
        with (
            _opened(self._upper, path) as seen,
            copying.open_source(seen) as one,
            _opened(self._lower, lower_path) as below,
        ):
            try:
                other = copying.open_source(below)
            except PermissionError:
                return os.fstat(seen.fd).st_mtime_ns == os.fstat(below.fd).st_mtime_ns
            with other:
                return same_content(one, other)


@contextlib.contextmanager
def _opened(layer: OwnedFd, path: bytes) -> Iterator[OwnedFd]:
    """What is not to be read is told as the model is told things."""
    try:
        with beneath.open_below(layer.fd, path, os.O_PATH) as opened:
            yield opened
    except OSError as error:
        raise fs_error(error, path) from error


def view_of(storage: Storage) -> View:
    """The two layers, to be looked at by ourselves. Programs know the tree by the workdir's path."""
    upper = DirectoryLayer(storage.upper, with_opaque=True)
    lower = DirectoryLayer(storage.workdir)
    lower.slow = storage.slow
    return View(storage.workdir_path, upper, lower)
