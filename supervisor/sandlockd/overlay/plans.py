"""Plans: what a call changes in the upper, as steps, or the errno that Linux gives.

Pure. The order of the checks is that of fs/namei.c, since it decides which errno wins. What needs the
object itself is left to the real call on it: ENXIO of a socket, EROFS, EPERM of an immutable file, EDQUOT.

Each function takes names as `lookup.walk` found them with the goal that is given, and returns the steps; what
then remains (write, chmod, truncate to the length ...) is done to the upper object at the same path.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple

from sandlockd.overlay.copyup import CopyUps, is_same
from sandlockd.overlay.entries import Entry, FsError, Kind
from sandlockd.overlay.steps import (
    Clear,
    CopyTree,
    Exchange,
    Link,
    Make,
    MarkOpaque,
    Move,
    Remove,
    Step,
    Whiteout,
)
from sandlockd.overlay.view import NAME_MAX, Found, Last

Steps = tuple[Step, ...]

WHITEOUT_DEVICE = 0


class Opening(NamedTuple):
    """What an open comes to.

    in_upper: which layer's object to open once the steps are done.
    created: the open made the file; its mode is not asked then (open(2): O_CREAT|O_WRONLY with mode 0400).
    """

    steps: Steps
    in_upper: bool
    created: bool


def create(found: Found, kind: Kind, device: int = 0) -> Steps:
    """mkdir, mknod, symlink, bind: `Goal.NAME`.

    device: the st_rdev of a device.
    Raises:
        FsError: EEXIST, ENOENT (a slash behind what shall be no directory), EACCES, EPERM (a whiteout).
    """
    _check_new(found, kind)
    if kind is Kind.CHARACTER and device == WHITEOUT_DEVICE:
        # overlayfs refuses it alike (ovl_mknod): in the upper it would say that there is nothing.
        raise FsError(errno.EPERM)
    return _making(found, kind)


def open_file(
    found: Found,
    *,
    write: bool = False,
    create: bool = False,
    exclusive: bool = False,
    truncate: bool = False,
    directory: bool = False,
) -> Opening:
    """open(2), without O_PATH and O_TMPFILE: `Goal.CREATE` or `CREATE_NOFOLLOW` with O_CREAT, else `FOLLOW`
    or `NOFOLLOW`.

    write: the access mode asks for writing. truncate counts with O_RDONLY, too (open(2), NOTES).
    Raises:
        FsError: EINVAL (O_CREAT with O_DIRECTORY), ENOENT, EEXIST, EISDIR, ENOTDIR, ELOOP (a link, not
            followed), EACCES.
    """
    if create and directory:
        raise FsError(errno.EINVAL)
    visible = found.visible
    if visible is None:
        if not create:
            raise FsError(errno.ENOENT)
        _check_change(found)
        return Opening(_making(found, Kind.FILE), in_upper=True, created=True)
    _check_open(found, visible.kind, write or truncate, create, exclusive, directory)
    # A FIFO is changed by whoever opens it: what is written to it would reach readers outside, and its times.
    if visible.kind is not Kind.FIFO and (visible.kind is not Kind.FILE or not (write or truncate)):
        return Opening((), in_upper=found.lower is None, created=False)
    if write or truncate:
        _check_write(found)
    ups = CopyUps()
    ups.object(found, 0 if truncate else None)
    return Opening(tuple(ups.steps), in_upper=True, created=False)


def _check_open(
    found: Found, kind: Kind, write: bool, create: bool, exclusive: bool, directory: bool
) -> None:
    if create and exclusive:
        raise FsError(errno.EEXIST)
    if create and kind is Kind.DIRECTORY:
        raise FsError(errno.EISDIR)
    if (directory or found.slash) and kind is not Kind.DIRECTORY:
        raise FsError(errno.ENOTDIR)
    if kind is Kind.SYMLINK:
        raise FsError(errno.ELOOP)
    if write and kind is Kind.DIRECTORY:
        raise FsError(errno.EISDIR)


def link_unnamed(found: Found) -> Steps:
    """linkat of an O_TMPFILE descriptor: `Goal.NAME`.

    Raises:
        FsError: as `create`.
    """
    _check_new(found, Kind.FILE)
    ups = CopyUps()
    ups.parents(found)
    return (*ups.steps, Link(None, found.path, found.is_whiteout))


def link(source: Found, new: Found) -> Steps:
    """link, linkat: the source with `Goal.NOFOLLOW` (`FOLLOW` with AT_SYMLINK_FOLLOW), the new `Goal.NAME`.

    Raises:
        FsError: EEXIST, ENOENT, EXDEV, EACCES, EPERM (a directory).
    """
    _check_new(new, Kind.FILE, source)
    if source.kind is Kind.DIRECTORY:
        raise FsError(errno.EPERM)
    ups = CopyUps()
    ups.object(source)
    ups.parents(new)
    return (*ups.steps, Link(source.path, new.path, new.is_whiteout))


def unlink(found: Found) -> Steps:
    """unlink: `Goal.NAME`.

    Raises:
        FsError: EISDIR, EBUSY (a passage to a file), ENOENT, ENOTDIR (a slash behind what is no directory), EACCES,
            EPERM.
    """
    if found.last is Last.ROOT and found.kind is not Kind.DIRECTORY:
        raise FsError(errno.EBUSY)
    if found.last is not Last.NORM:
        raise FsError(errno.EISDIR)
    kind = _present(found).kind
    if found.slash:
        raise FsError(errno.EISDIR if kind is Kind.DIRECTORY else errno.ENOTDIR)
    _check_delete(found)
    if kind is Kind.DIRECTORY:
        raise FsError(errno.EISDIR)
    return _removing(found)


_RMDIR_LAST = {Last.DOT: errno.EINVAL, Last.DOTDOT: errno.ENOTEMPTY, Last.ROOT: errno.EBUSY}


def rmdir(found: Found) -> Steps:
    """rmdir: `Goal.NAME`.

    Raises:
        FsError: EINVAL (`.`), ENOTEMPTY (`..` too), EBUSY (the root of a tree), ENOENT, EACCES, EPERM, ENOTDIR.
    """
    if found.last is Last.ROOT and found.kind is not Kind.DIRECTORY:
        raise FsError(errno.ENOTDIR)  # a passage to a file
    if found.last is not Last.NORM:
        raise FsError(_RMDIR_LAST[found.last])
    kind = _present(found).kind
    _check_delete(found)
    if kind is not Kind.DIRECTORY:
        raise FsError(errno.ENOTDIR)
    if not found.view.is_empty(found):
        raise FsError(errno.ENOTEMPTY)
    return _removing(found)


def change_metadata(found: Found) -> Steps:
    """chmod, chown, utimensat, setxattr, removexattr: `Goal.FOLLOW` or `NOFOLLOW`; who may is the real call's."""
    ups = CopyUps()
    ups.object(found)
    return tuple(ups.steps)


def truncate(found: Found, length_bytes: int) -> Steps:
    """truncate: `Goal.FOLLOW`.

    Raises:
        FsError: EISDIR, EINVAL (neither file nor directory), EACCES.
    """
    if found.kind is Kind.DIRECTORY:
        raise FsError(errno.EISDIR)
    if found.kind is not Kind.FILE:
        raise FsError(errno.EINVAL)
    _check_write(found)
    ups = CopyUps()
    ups.object(found, length_bytes)
    return tuple(ups.steps)


def rename(
    old: Found, new: Found, *, noreplace: bool = False, exchange: bool = False, whiteout: bool = False
) -> Steps:
    """rename, renameat2: both with `Goal.NAME`.

    Raises:
        FsError: EINVAL (contradicting flags; a directory into itself; RENAME_WHITEOUT, which would be a name
            that shows nothing, and which overlayfs refuses alike), EXDEV, EBUSY, EEXIST, ENOENT, ENOTDIR,
            ENOTEMPTY, EACCES, EPERM, EISDIR.
    """
    if exchange and (noreplace or whiteout):
        raise FsError(errno.EINVAL)
    source, target = _check_rename_names(old, new, noreplace, exchange)
    if target is not None and is_same(source, target):
        return ()
    _check_rename_kinds(old, new, source, target, exchange)
    if old.view.has_passage_in(old.path) or (exchange and new.view.has_passage_in(new.path)):
        raise FsError(errno.EBUSY)  # what is to be seen there would have to move along
    if whiteout:
        raise FsError(errno.EINVAL)
    if exchange:
        return _exchanging(old, new)
    if target is not None and target.kind is Kind.DIRECTORY and not new.view.is_empty(new):
        raise FsError(errno.ENOTEMPTY)
    return _moving(old, new)


def _check_rename_names(
    old: Found, new: Found, noreplace: bool, exchange: bool
) -> tuple[Entry, Entry | None]:
    """do_renameat2 of fs/namei.c, up to vfs_rename."""
    if old.view is not new.view:
        raise FsError(errno.EXDEV)
    if old.last is not Last.NORM:
        raise FsError(errno.EBUSY)
    if new.last is not Last.NORM:
        raise FsError(errno.EEXIST if noreplace else errno.EBUSY)
    source, target = _present(old), _looked_up(new)
    if noreplace and target is not None:
        raise FsError(errno.EEXIST)
    if exchange:
        if target is None:
            raise FsError(errno.ENOENT)
        if new.slash and target.kind is not Kind.DIRECTORY:
            raise FsError(errno.ENOTDIR)
    if source.kind is not Kind.DIRECTORY and (old.slash or (new.slash and not exchange)):
        raise FsError(errno.ENOTDIR)
    if _is_within(new, old.path):
        raise FsError(errno.EINVAL)
    if _is_within(old, new.path):
        raise FsError(errno.EINVAL if exchange else errno.ENOTEMPTY)
    return source, target


def _check_rename_kinds(old: Found, new: Found, source: Entry, target: Entry | None, exchange: bool) -> None:
    """vfs_rename and may_delete."""
    _check_delete(old)
    if target is None:
        _check_change(new)
        return
    _check_delete(new)
    if exchange:
        return
    if source.kind is Kind.DIRECTORY and target.kind is not Kind.DIRECTORY:
        raise FsError(errno.ENOTDIR)
    if source.kind is not Kind.DIRECTORY and target.kind is Kind.DIRECTORY:
        raise FsError(errno.EISDIR)


def _is_within(found: Found, directory: bytes) -> bool:
    """Whether a name lies somewhere below a directory."""
    return found.path.startswith(directory + b"/")


def _moving(old: Found, new: Found) -> Steps:
    ups = CopyUps()
    ups.parents(new)
    covered = old.view.covers(old)
    _lift(ups, old, hides=new.upper is not None or new.lower is not None)
    steps = ups.all_steps()
    if new.is_whiteout and old.kind is Kind.DIRECTORY:
        # rename(2) puts no directory over a device. The whiteout goes where one is wanted, or is removed there.
        steps.append(Exchange(old.path, new.path))
        if not covered:
            steps.append(Remove(old.path, Kind.WHITEOUT))
        return tuple(steps)
    if new.upper is not None and new.upper.kind is Kind.DIRECTORY and _has_names(new):
        steps.append(Clear(new.path))
    steps.append(Move(old.path, new.path, whiteout=covered))
    return tuple(steps)


def _exchanging(old: Found, new: Found) -> Steps:
    ups = CopyUps()
    _lift(ups, old, hides=new.view.covers(new))
    _lift(ups, new, hides=old.view.covers(old))
    return (*ups.all_steps(), Exchange(old.path, new.path))


def _lift(ups: CopyUps, found: Found, *, hides: bool) -> None:
    """All of an object to the upper, where it can be renamed; opaque where it will lie over a lower name."""
    if found.kind is not Kind.DIRECTORY:
        ups.object(found)
    elif found.lower is not None:
        ups.parents(found)
        ups.trees.append(CopyTree(found.path))
    elif hides and found.upper is not None and not found.upper.opaque:
        ups.steps.append(MarkOpaque(found.path))


def tree_steps(found: Found) -> Iterator[Step]:
    """The single steps of `CopyTree` for a directory."""
    ups = CopyUps()
    ups.tree(found)
    return iter(ups.steps)


def _making(found: Found, kind: Kind) -> Steps:
    ups = CopyUps()
    ups.parents(found)
    hides = found.is_whiteout
    return (*ups.steps, Make(found.path, kind, hides, opaque=hides and kind is Kind.DIRECTORY))


def _removing(found: Found) -> Steps:
    ups = CopyUps()
    upper = found.upper
    if found.view.covers(found):
        ups.parents(found)
        return (*ups.steps, Whiteout(found.path, None if upper is None else upper.kind))
    if upper is None:
        raise FsError(errno.ENOENT)
    return (Remove(found.path, upper.kind),)


def _has_names(found: Found) -> bool:
    return bool(found.view.upper.is_hiding(found.path))


def _looked_up(found: Found) -> Entry | None:
    if len(found.path) > NAME_MAX and len(found.path) - found.path.rfind(b"/") - 1 > NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)
    return found.visible


def _present(found: Found) -> Entry:
    entry = _looked_up(found)
    if entry is None:
        raise FsError(errno.ENOENT)
    return entry


def _check_new(found: Found, kind: Kind, source: Found | None = None) -> None:
    """filename_create of fs/namei.c, and may_create."""
    if found.last is not Last.NORM or _looked_up(found) is not None:
        raise FsError(errno.EEXIST)
    if found.slash and kind is not Kind.DIRECTORY:
        raise FsError(errno.ENOENT)
    if source is not None and source.view is not found.view:
        raise FsError(errno.EXDEV)
    _check_change(found)


def _check_change(found: Found) -> None:
    access = found.view.access
    if access is not None and found.parent is not None:
        access.change(found.parent)


def _check_delete(found: Found) -> None:
    access = found.view.access
    if access is not None:
        access.delete(found)


def _check_write(found: Found) -> None:
    access = found.view.access
    if access is not None:
        access.write(found)
