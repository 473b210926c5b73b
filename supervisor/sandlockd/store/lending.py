"""What nobody may change or read, its owner included, open to us for a moment, who are its owner.

A symbolic link in work, made beforehand, says which mode an object has: after an end between two system calls, the
next opening of the storage gives it back.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat

from sandlockd.kernel import beneath
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.entries import Kind
from sandlockd.store.layer import kind_of_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Of the link's name; its target is the mode, octal, and the path in the upper.
LENT_PREFIX = b"lent#"
_SAME = 0xFFFFFFFF
_numbers = itertools.count()


@contextlib.contextmanager
def lent(
    work: OwnedFd, opened: OwnedFd, path: bytes, needed: int = stat.S_IWUSR | stat.S_IXUSR
) -> Iterator[None]:
    """Where we are an ordinary user, an object has the needed bits of its mode meanwhile.

    path: where it is in the upper, or will be.
    """
    mode = stat.S_IMODE(os.fstat(opened.fd).st_mode)
    if os.geteuid() == 0 or mode & needed == needed:
        yield
        return
    record = b"%b%d" % (LENT_PREFIX, next(_numbers))
    note_lent(work, record, mode, path)
    beneath.set_owner_and_mode(opened, _SAME, _SAME, mode | needed)
    try:
        yield
    finally:
        beneath.set_owner_and_mode(opened, _SAME, _SAME, mode)
        beneath.unlink(work, record)


def note_lent(work: OwnedFd, record: bytes, mode: int, path: bytes) -> None:
    """record: the name that it gets."""
    beneath.make_symlink(work, record, b"%o %b" % (mode, path))


def give_back(upper: OwnedFd, record: bytes) -> None:
    """What `_lent` noted, after an end."""
    mode, _, path = record.partition(b" ")
    try:
        with beneath.open_below(upper.fd, path, os.O_PATH) as opened:
            status = os.fstat(opened.fd)
            # What was taken out of the tree has a whiteout in its place.
            if not stat.S_ISLNK(status.st_mode) and kind_of_status(status) is not Kind.WHITEOUT:
                beneath.set_owner_and_mode(opened, _SAME, _SAME, int(mode, 8))
    except FileNotFoundError:
        return  # it was not in its place yet
