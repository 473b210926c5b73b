"""What a program makes of the metadata of a lower object that it has removed and still holds open.

Nobody finds the object by a name any more, so there is nothing to keep: an object without a name in work bears the
mode, owner, times and attributes that are told of it from then on. The lower object itself stays as it is.
"""

from __future__ import annotations

import os
import stat

from sandlockd.kernel import beneath, copying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.fds import OwnedFd

_MAX = 256  # those changed last
_NAME = b"remainder"


class Remainders:
    """Of one tree. work: borrowed."""

    def __init__(self, work: OwnedFd) -> None:
        self._work = work
        self._known: dict[tuple[int, int], OwnedFd] = {}

    def find(self, status: os.stat_result) -> OwnedFd | None:
        """What tells of this lower object; borrowed. None: it does itself."""
        return self._known.get((status.st_dev, status.st_ino)) if self._known else None

    def of(self, removed: OwnedFd) -> OwnedFd:
        """Likewise, made where there is none: to be changed. Raises OSError."""
        status = os.fstat(removed.fd)
        found = self.find(status)
        if found is None:
            while len(self._known) >= _MAX:
                self._known.pop(next(iter(self._known))).close()
            found = self._known[status.st_dev, status.st_ino] = self._make(removed, status)
        return found

    def _make(self, removed: OwnedFd, status: os.stat_result) -> OwnedFd:
        if stat.S_ISREG(status.st_mode):
            made = beneath.create_unnamed(self._work, os.O_RDWR, 0o600)
        elif stat.S_ISDIR(status.st_mode):
            beneath.make_directory(self._work, _NAME, 0o700)
            made = beneath.open_below(self._work.fd, _NAME, os.O_PATH)
            beneath.remove_directory(self._work, _NAME)
        else:
            beneath.make_node(self._work, _NAME, stat.S_IFIFO | 0o600)
            made = beneath.open_below(self._work.fd, _NAME, os.O_PATH)
            beneath.unlink(self._work, _NAME)
        try:
            copying.copy_metadata(removed, made)
        except BaseException:
            made.close()
            raise
        return made

    def close(self) -> None:
        for remainder in self._known.values():
            remainder.close()
