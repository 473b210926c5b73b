"""Removing what is in our hands alone (work, a storage that goes), however deep the program made it.

Without recursion, and with three descriptors at any depth: what lies deeper is first moved up, into the topmost
directory. Whoever is killed meanwhile leaves less than there was, under the same name.
"""

from __future__ import annotations

import errno
import itertools
import os

from sandlockd.kernel import beneath
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SAME = 0xFFFFFFFF


def remove(parent: OwnedFd, name: bytes) -> None:
    """What has a name, if anything: a file, or a directory with all that is in it."""
    if _is_removed(parent, name):
        return
    with _opened(parent, name) as top:
        numbers = itertools.count()
        while rows := list(beneath.rows(top)):
            for below, _, _ in rows:
                if not _is_removed(top, below):
                    _empty(top, below, numbers)
    beneath.remove_directory(parent, name)


def _empty(top: OwnedFd, name: bytes, numbers: Iterator[int]) -> None:
    """A directory of the topmost one: what is not empty in it goes up there."""
    with _opened(top, name) as directory:
        for below, _, _ in list(beneath.rows(directory)):
            if not _is_removed(directory, below):
                _opened(directory, below).close()  # its `..` changes: we must be able to write to it
                _move_up(directory, below, top, numbers)
    beneath.remove_directory(top, name)


def _move_up(directory: OwnedFd, name: bytes, top: OwnedFd, numbers: Iterator[int]) -> None:
    for number in numbers:
        try:
            beneath.rename(directory, name, top, b"#%d" % number, beneath.RENAME_NOREPLACE)
            return
        except FileExistsError:
            continue


def _is_removed(parent: OwnedFd, name: bytes) -> bool:
    """False: it is a directory that is not empty, or closed to us."""
    try:
        beneath.unlink(parent, name)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
    try:
        beneath.remove_directory(parent, name)
        return True
    except OSError:
        return False


def _opened(parent: OwnedFd, name: bytes) -> OwnedFd:
    """Made ours to list and change."""
    with beneath.open_directory(parent.fd, name) as directory:
        beneath.set_owner_and_mode(directory, _SAME, _SAME, 0o700)
    return beneath.open_below(parent.fd, name, os.O_RDONLY | os.O_DIRECTORY)
