"""Who may do what to what a program sees, asked of the kernel: the model's `Access` for layers on disk.

The answer is that of the object whose owner, mode and ACL show: the upper one where there is one. It is asked with
the caller's identity taken on. Most steps are carried out by ourselves, so that what is refused must be refused here.
"""

from __future__ import annotations

import errno
import os
import stat

from sandlockd.kernel import beneath
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import Identity, acting_as
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.identity import ORIGIN_ATTRIBUTE, decode_origin
from sandlockd.overlay.view import Found
from sandlockd.store.layer import DirectoryLayer, require_prompt

_CAP_FOWNER = 1 << 3


def original_of(upper: OwnedFd, lower: DirectoryLayer, found: Found) -> OwnedFd | None:
    """The lower object whose copy the upper has here, wherever that was moved; None: it is no copy of a file.

    An ordinary user's copy is his own, and does not tell whose its original is.
    """
    if found.upper is None or found.upper.kind is not Kind.FILE:
        return None
    try:
        with beneath.open_below(upper.fd, found.path, os.O_PATH) as copy:
            value = beneath.attribute(copy, ORIGIN_ATTRIBUTE)
        origin = None if value is None else decode_origin(value)
        if origin is None or not origin.path:
            return None
        require_prompt(lower.slow, origin.path)
        original = beneath.open_below(lower.root.fd, origin.path, os.O_PATH)
    except (OSError, FsError):
        return None
    status = os.fstat(original.fd)
    if (status.st_dev, status.st_ino) == (origin.identity.device, origin.identity.inode):
        return original
    original.close()
    return None


class DiskAccess:
    """identity: the caller's; None where it is ours, whose lookups have asked already."""

    __slots__ = ("_fsuid", "_identity", "_is_owner_of_all", "_lower", "_upper")

    def __init__(
        self, upper: DirectoryLayer, lower: DirectoryLayer | None, identity: Identity | None
    ) -> None:
        self._upper = upper
        self._lower = lower
        self._identity = identity
        self._fsuid = os.geteuid() if identity is None else identity.fsuid
        owner_of_all = os.geteuid() == 0 if identity is None else bool(identity.capabilities & _CAP_FOWNER)
        self._is_owner_of_all = owner_of_all

    def search(self, directory: Found) -> None:
        """Of the lower tree alone the kernel asks us, where we are the caller; of the upper it is not asked for names
        that are only in the lower.
        """
        if self._identity is not None or directory.upper is not None:
            self._require(directory, os.X_OK)

    def change(self, directory: Found) -> None:
        self._require(directory, os.W_OK | os.X_OK)

    def write(self, found: Found) -> None:
        self._require(found, os.W_OK)

    def delete(self, victim: Found) -> None:
        parent = victim.parent
        if parent is None:
            return
        self.change(parent)
        above = self._layer(parent).seen(parent.path)
        if above is None or not above.mode & stat.S_ISVTX or self._is_owner_of_all:
            return
        # __check_sticky of fs/namei.c.
        if self._fsuid not in (above.uid, self._owner(victim, above.uid)):
            raise FsError(errno.EPERM)

    def _owner(self, found: Found, otherwise: int) -> int:
        if self._lower is not None and os.geteuid() != 0 and found.lower is None:
            original = original_of(self._upper.root, self._lower, found)
            if original is not None:
                with original:
                    return os.fstat(original.fd).st_uid
        seen = self._layer(found).seen(found.path)
        return otherwise if seen is None else seen.uid

    def _layer(self, found: Found) -> DirectoryLayer:
        """Whose object tells who may: the original where an ordinary user had to make the copy his own."""
        is_upper = found.upper is not None and found.upper.kind is not Kind.WHITEOUT
        if is_upper and found.lower is not None and self._lower is not None and os.geteuid() != 0:
            original = self._lower.seen(found.path)
            is_upper = original is None or original.uid == os.geteuid()
        layer = self._upper if is_upper else self._lower
        assert layer is not None
        return layer

    def _require(self, found: Found, mode: int) -> None:
        try:
            with beneath.open_below(self._layer(found).root.fd, found.path, os.O_PATH) as opened:
                with acting_as(self._identity):
                    allowed = beneath.may_access(opened, mode)
        except OSError as error:
            raise FsError(error.errno or errno.EIO) from None
        if not allowed:
            raise FsError(errno.EACCES)
