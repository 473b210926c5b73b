"""Copying an object to another: the data in slices, so that the thread that does it can be told to stop.

Never on the event loop: a slice is up to some tens of milliseconds on a slow disk.
"""

from __future__ import annotations

import errno
import os

from sandlockd.kernel import beneath
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, ffi, lib
from sandlockd.kernel.paths import openat2, self_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SLICE_BYTES = 8 << 20
_ALL = (1 << 64) - 1

LOST_OWNER = lib.SLK_LOST_OWNER
LOST_ATTRIBUTES = lib.SLK_LOST_ATTRIBUTES


class Stopped(Exception):
    """The copy was given up halfway, because it was asked to."""


def open_source(seen: OwnedFd) -> OwnedFd:
    """That very regular file for reading, without a trace in its access time where we may."""
    try:
        return openat2(-100, self_link(seen.fd), os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK)
    except PermissionError:
        return openat2(-100, self_link(seen.fd), os.O_RDONLY | os.O_NONBLOCK)


def is_written(seen: OwnedFd) -> bool:
    """Has anybody this regular file open for writing? True also where that cannot be told. Raises OSError."""
    with open_source(seen) as source:
        return bool(lib.slk_is_written(source.fd))


def copy_data(
    source: OwnedFd, target: OwnedFd, size: int | None = None, stop: Callable[[], bool] | None = None
) -> None:
    """At most `size` bytes of a file to an empty one.

    stop: asked between two slices.
    Raises:
        OSError: ENOSPC, EDQUOT, EIO ...; Stopped. The target is then to be thrown away.
    """
    copy = ffi.new("struct slk_copy *")
    check(lib.slk_copy_begin(source.fd, target.fd, _ALL if size is None else size, copy))
    while check(lib.slk_copy_slice(copy, SLICE_BYTES)):
        if stop is not None and stop():
            raise Stopped


def copy_metadata(source: OwnedFd, target: OwnedFd) -> int:
    """Owner, extended attributes, mode and times. Returns: LOST_* of what could not be kept."""
    return check(lib.slk_copy_metadata(source.fd, target.fd))


def wants_attribute(name: bytes) -> bool:
    """Whether an attribute goes with a copy: those that a program sees, not the layers' own marks."""
    return bool(lib.slk_copy_wants_attribute(name))


def attributes_of(opened: OwnedFd) -> dict[bytes, bytes]:
    """The extended attributes that go with a copy.

    Raises: PermissionError: there are some, and we may not read them.
    """
    link = self_link(opened.fd)
    found = {}
    try:
        names = os.listxattr(link)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    for name in map(os.fsencode, names):
        if wants_attribute(name):
            value = beneath.attribute(opened, name)
            if value is not None:  # else it is gone again
                found[name] = value
    return found
