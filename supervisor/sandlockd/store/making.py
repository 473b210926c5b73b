"""New objects, as the kernel makes them for the caller."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from sandlockd.kernel import beneath
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import Identity, acting_as
from sandlockd.overlay.entries import FILE_TYPES, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.store.binding import Binding

DEFAULT_ACL = b"system.posix_acl_default"
_SAME = 0xFFFFFFFF


class Making(NamedTuple):
    """What the caller's new object is like.

    mode: as the caller gave it; umask: the caller's, which a default ACL overrules (umask(2)).
    target: of a symbolic link. device: st_rdev of a device.
    open_flags: a new file is opened at once with these (access mode and file status flags).
    unnamed: the caller's O_TMPFILE, borrowed, for `Link(None, ...)`.
    identity: the caller's; None where it is ours.
    binding: what a new socket is to be bound to; without it nobody listens there.
    """

    mode: int = 0o666
    umask: int = 0
    target: bytes = b""
    device: int = 0
    open_flags: int = os.O_WRONLY
    unnamed: OwnedFd | None = None
    identity: Identity | None = None
    binding: Binding | None = None


def make_as_caller(parent: OwnedFd, name: bytes, kind: Kind, making: Making) -> OwnedFd | None:
    mode = making.mode & ~making.umask
    with acting_as(making.identity):
        match kind:
            case Kind.FILE:
                return beneath.create_file(parent, name, making.open_flags, mode)
            case Kind.DIRECTORY:
                beneath.make_directory(parent, name, mode)
            case Kind.SYMLINK:
                beneath.make_symlink(parent, name, making.target)
            case _:
                beneath.make_node(parent, name, FILE_TYPES[kind] | mode, making.device)
    return None


def make_alike(parent: OwnedFd, has_acl: bool, stage: OwnedFd) -> None:
    """What is made in a fresh directory of ours shall become what it would become in `parent`."""
    acl = beneath.attribute(parent, DEFAULT_ACL) if has_acl else None
    if acl is not None:
        beneath.set_attribute(stage, DEFAULT_ACL, acl)
    status = os.fstat(parent.fd)
    if status.st_mode & stat.S_ISGID:
        beneath.set_owner_and_mode(stage, _SAME, status.st_gid, 0o2777)
