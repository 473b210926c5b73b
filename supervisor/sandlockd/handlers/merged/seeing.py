"""Calls that tell what is there: stat, access, readlink, statfs, getcwd.

A merged directory is the lower one, whatever is copied up, so that its inode number stays; owner, mode and times are
those of the copy where there is one.
"""

from __future__ import annotations

import errno
import os
import re

from sandlockd.handlers import lookup, metadata
from sandlockd.handlers.answers import Backstop, Continue, Errno, Value, Write
from sandlockd.handlers.merged.doing import Call, kernel_finds
from sandlockd.handlers.merged.places import Elsewhere, Place, of_descriptor
from sandlockd.kernel import beneath, procfs
from sandlockd.kernel.paths import Identity, acting_as
from sandlockd.kernel.status import STATX_BASIC, Status, statfs
from sandlockd.overlay import listing
from sandlockd.overlay.copyup import shown_links
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.lookup import Goal
from sandlockd.store.tree import kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.kernel.fds import OwnedFd

    Handled = Answer | Later | Elsewhere

_AT_SYMLINK_NOFOLLOW, _AT_EACCESS, _AT_EMPTY_PATH = 0x100, 0x200, 0x1000
_AT_NO_AUTOMOUNT, _AT_STATX_SYNC_TYPE = 0x800, 0x6000
_STATX_RESERVED = 1 << 31
SEEN = Continue(Backstop.ONLY_TELLS)
_BARE = Elsewhere(None)
_PATH_MAX = 4096
# (position of the buffer, of the flags; -1: none)
STATS = {"stat": (1, -1), "lstat": (1, -1), "newfstatat": (2, 3)}


def _follows(call: Call, flags: int) -> bool:
    return not (flags & _AT_SYMLINK_NOFOLLOW or call.name in ("lstat", "readlink", "readlinkat"))


def follows(call: Call) -> bool:
    """Whether the call follows a link in the last place."""
    row = call.caller.context.rows[call.caller.request.nr]
    flags = call.arg(row.flags) if row.flags >= 0 else 0
    if call.name == "name_to_handle_at":
        return bool(flags & 0x400)
    return _follows(call, flags)


def _found(call: Call, *, follow: bool) -> Place | Elsewhere:
    return call.place(Goal.FOLLOW if follow else Goal.NOFOLLOW)


# ---- stat


def status_of(place: Place, mask: int = STATX_BASIC, flags: int = 0) -> Status:
    """What statx tells of a name. Raises OSError."""
    tree, found = place.tree, place.found
    with tree.open_described(found) as described:
        status = Status(described, mask, flags)
    if found.lower is not None and found.upper is not None:
        status.set_number(found.lower.device, found.lower.inode)
        status.set_links(_directory_links(place))
    elif found.upper is not None:
        status.set_number(*tree.origins.told(status.inode))
    elif found.kind is not Kind.DIRECTORY and status.links > 1:
        status.set_links(shown_links(found, status.links))
    if found.upper is not None and status.mount_ids:
        status.set_mount(Status(tree.storage.workdir, status.mount_ids))
    return status


def _directory_links(place: Place) -> int:
    return listing.directory_links(listing.rows(place.found, inode=0, parent_inode=0))


def stat_path(call: Call) -> Handled:
    buffer, flags_at = STATS[call.name]
    flags = call.arg(flags_at) & 0xFFFFFFFF if flags_at >= 0 else 0
    if flags & ~(_AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | _AT_EMPTY_PATH | _AT_STATX_SYNC_TYPE):
        return Errno(errno.EINVAL)
    if _is_descriptor(call, flags):
        with metadata.by_descriptor(call.caller, 0, path_only=True) as opened:
            status = _status_of_descriptor(call, opened)
        return _BARE if status is None else Write(call.arg(buffer), status.stat(), 0)
    place = _found(call, follow=_follows(call, flags))
    if isinstance(place, Elsewhere):
        return place
    return Write(call.arg(buffer), status_of(place).stat(), 0)


def stat_descriptor(call: Call) -> Handled:
    """fstat. What was opened before it was copied or removed is told of as it is now."""
    with metadata.by_descriptor(call.caller, 0, path_only=True) as opened:
        status = _status_of_descriptor(call, opened)
    return _BARE if status is None else Write(call.arg(1), status.stat(), 0)


def _status_of_descriptor(call: Call, opened: OwnedFd, mask: int = STATX_BASIC) -> Status | None:
    """None: the kernel knows."""
    place = of_descriptor(call.caller, opened)
    if isinstance(place, Place):
        return status_of(place, mask)
    if place is not None:
        return None
    status = Status(opened, mask)
    path = call.caller.describe(opened).path
    for tree in call.caller.context.trees:
        if path.startswith(tree.upper_path + b"/"):
            status.set_number(*tree.origins.told(status.inode))
            return status
    remainder = remainder_of(call, opened)
    if remainder is not None:
        status.set_metadata(Status(remainder, mask))
    status.set_links(status.links - 1 if status.mode & 0o170000 != 0o040000 else 0)
    return status


def remainder_of(call: Call, opened: OwnedFd) -> OwnedFd | None:
    """What tells of a lower object that was removed, where its metadata has been changed since."""
    path, status = call.caller.describe(opened).path, os.fstat(opened.fd)
    trees = (tree for tree in call.caller.context.trees if tree.may_hold(path))
    return next((tree.remainders.find(status) for tree in trees), None)


def _is_descriptor(call: Call, flags: int) -> bool:
    return bool(flags & _AT_EMPTY_PATH) and not call.text()


def statx_path(call: Call) -> Handled:
    flags, mask = call.arg(2) & 0xFFFFFFFF, call.arg(3) & 0xFFFFFFFF
    known = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | _AT_EMPTY_PATH | _AT_STATX_SYNC_TYPE
    if flags & ~known or mask & _STATX_RESERVED or flags & _AT_STATX_SYNC_TYPE == _AT_STATX_SYNC_TYPE:
        return Errno(errno.EINVAL)
    if _is_descriptor(call, flags):
        with metadata.by_descriptor(call.caller, 0, path_only=True) as opened:
            told = _status_of_descriptor(call, opened, mask)
        return _BARE if told is None else Write(call.arg(4), told.statx(), 0)
    place = _found(call, follow=_follows(call, flags))
    if isinstance(place, Elsewhere):
        return place
    status = status_of(place, mask, flags & _AT_STATX_SYNC_TYPE)
    return Write(call.arg(4), status.statx(), 0)


# ---- access


def access_path(call: Call) -> Handled:
    name = call.name
    mode = call.arg(1 if name == "access" else 2) & 0xFFFFFFFF
    flags = call.arg(3) & 0xFFFFFFFF if name == "faccessat2" else 0
    if mode & ~7 or flags & ~(_AT_SYMLINK_NOFOLLOW | _AT_EACCESS | _AT_EMPTY_PATH):
        return Errno(errno.EINVAL)
    call.caller.as_somebody = identity_for_access(call)
    place = _found(call, follow=_follows(call, flags))
    if isinstance(place, Elsewhere):
        return place
    if not mode:
        return Value(0)
    with place.tree.open_described(place.found) as opened, acting_as(call.caller.identity):
        allowed = beneath.may_access(opened, mode)
    return Value(0) if allowed else Errno(errno.EACCES)


def identity_for_access(call: Call) -> Identity | None:
    """access(2) asks for the real ids. Only where we are root can they be others than the effective ones."""
    effective = call.caller.identity
    if effective is None or (call.name == "faccessat2" and call.arg(3) & _AT_EACCESS):
        return effective
    status = call.caller.status
    real_uid, real_gid = status.uids[0], status.gids[0]
    if (real_uid, real_gid) == (effective.fsuid, effective.fsgid):
        return effective
    capabilities = effective.capabilities if real_uid == 0 else 0
    return Identity(real_uid, real_gid, effective.groups, capabilities)


# ---- links, and where we are


_DELETED = b" (deleted)"
_MAGIC_LINK = re.compile(rb"/proc/\d+/(?:task/\d+/)?(?:cwd|exe|root|fd/\d+|map_files/[^/]+)")


def read_link(call: Call) -> Handled:
    position = lookup.operand(call.caller).position
    size = call.int_arg(position + 2)
    if size <= 0:
        return Errno(errno.EINVAL)
    place = _found(call, follow=False)
    if isinstance(place, Elsewhere):
        return _read_magic_link(call, position, size, place)
    if place.found.kind is not Kind.SYMLINK:
        return Errno(errno.EINVAL)
    try:
        target = place.found.view.target(place.found)[:size]
    except FsError as error:
        raise kernel_error(error) from None
    return Write(call.arg(position + 1), target, len(target))


def _read_magic_link(call: Call, position: int, size: int, place: Elsewhere) -> Handled:
    """Where the upper directory lies is nobody's business. Who runs or has open what is in it is of this sandbox."""
    caller = call.caller
    try:
        written = lookup.place_of(caller, place.text or call.text(), lookup.dirfd_of(caller))
    except OSError:
        return place
    if not _MAGIC_LINK.fullmatch(written.shown):
        return place
    try:
        target = os.readlink(written.shown)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            return place
        return _read_long_link(call, position, size, written.shown) or place
    caller.require_alive()
    told = _virtual_target(call, written.shown, target)
    if told == target:
        return place
    return Write(call.arg(position + 1), told[:size], min(len(told), size))


def _read_long_link(call: Call, position: int, size: int, link: bytes) -> Write | None:
    """To what lies deeper than the kernel can tell; None: for the program as well."""
    caller = call.caller
    with caller.context.files.jump(link) as opened:
        caller.require_alive()
        found = of_descriptor(caller, opened)
    if not isinstance(found, Place) or len(found.path) >= _PATH_MAX:
        return None
    told = found.path[:size]
    return Write(call.arg(position + 1), told, len(told))


def _virtual_target(call: Call, link: bytes, target: bytes) -> bytes:
    """As the kernel would tell it of a plain directory."""
    caller = call.caller
    for tree in caller.context.trees:
        virtual = tree.virtual_path(target)
        if virtual is None:
            continue
        if virtual.endswith(_DELETED):
            return virtual
        try:
            with caller.context.files.jump(link) as opened:
                caller.require_alive()
                gone = of_descriptor(caller, opened) is None
        except OSError:
            return virtual
        return virtual + _DELETED if gone else virtual
    return target


def get_directory(call: Call) -> Handled:
    """getcwd: the kernel's answer, unless the directory is only in an upper directory, moved or removed."""
    caller = call.caller
    link = procfs.directory_of(caller.tid, -100)
    with caller.context.files.jump(link) as opened:
        place = of_descriptor(caller, opened)
    caller.require_alive()
    if place is None:
        return Errno(errno.ENOENT)  # it was removed
    if isinstance(place, Elsewhere):
        return _BARE
    try:
        if os.readlink(link) == place.path:
            return _BARE
    except OSError:
        pass  # where it lies, it is longer than the kernel can tell
    told = place.path + b"\0"
    if len(told) > _PATH_MAX:
        return Errno(errno.ENAMETOOLONG)
    if len(told) > call.arg(1):
        return Errno(errno.ERANGE)
    return Write(call.arg(0), told, len(told))


def statfs_path(call: Call) -> Handled:
    place = _found(call, follow=True)
    if isinstance(place, Elsewhere):
        return place
    if kernel_finds(call, place, follow=True):
        return SEEN
    with place.tree.open_shown(place.found) as opened:
        return Write(call.arg(1), statfs(opened), 0)
