"""Mode, owner, times and extended attributes in a tree: those of the copy, never those of the lower object.

By descriptor as well: one that was opened for reading, before the file was copied, holds the lower object.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from typing import NamedTuple

from sandlockd.handlers import lookup, metadata, record
from sandlockd.handlers.answers import Errno, Value, Write
from sandlockd.handlers.merged.doing import Call, change, denied, no_room
from sandlockd.handlers.merged.following import follow
from sandlockd.handlers.merged.places import Elsewhere, Place, of_descriptor, resolve
from sandlockd.handlers.merged.seeing import remainder_of
from sandlockd.handlers.merged.waiting import nobody_locks, noted_when_over
from sandlockd.kernel import acts, beneath, inotify, memory
from sandlockd.kernel.aside import Unfinished
from sandlockd.kernel.disk import BLOCK_BYTES
from sandlockd.kernel.paths import AT_FDCWD, Object, describe
from sandlockd.kernel.syscalls import Follow
from sandlockd.overlay import plans
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.lookup import Goal
from sandlockd.policy.verdict import Want
from sandlockd.store.access import original_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.handlers.context import Caller
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.store.tree import Tree

    Handled = Answer | Later | Elsewhere

_AT_EMPTY_PATH = 0x1000
_XATTR_LIST_MAX = 65536
_XATTR_SIZE_MAX = 65536  # linux/limits.h
# The store's own: no program sees, sets or removes them.
_OWN_ATTRIBUTES = (b"user.overlay.", b"user.sandlockd.")
_BARE = Elsewhere(None)


class _Removed(NamedTuple):
    """Of the lower tree, and the program has removed or replaced it: nobody but who holds it sees a difference."""

    tree: Tree
    opened: OwnedFd


def _target(call: Call) -> Place | Elsewhere | OwnedFd | _Removed:
    """The place of the object; or, of the upper and without a name, the object itself. Raises OSError."""
    act = metadata.CALLS.get(call.name)
    caller = call.caller
    if act is not None and act[2]:
        return _of_descriptor(call, metadata.by_descriptor(caller, 0))
    operand = lookup.operand(caller)
    row = caller.context.rows[caller.request.nr]
    flags = caller.request.args[row.flags] & 0xFFFFFFFF if row.flags >= 0 else 0
    metadata.require_known_flags(caller, flags)
    if caller.request.args[operand.position] == 0 and operand.dirfd >= 0:
        if lookup.dirfd_of(caller) == AT_FDCWD:
            return Elsewhere(None)  # EFAULT
        return _of_descriptor(call, metadata.by_descriptor(caller, operand.dirfd))
    text = memory.read_path(caller.tid, caller.request.args[operand.position])
    caller.require_alive()
    if not text and flags & _AT_EMPTY_PATH and operand.dirfd >= 0:
        return _of_descriptor(call, metadata.by_descriptor(caller, operand.dirfd, path_only=True))
    follow = operand.follow is Follow.ALWAYS or (
        operand.follow is Follow.UNLESS_FLAG and not flags & operand.follow_flag
    )
    goal = Goal.FOLLOW if follow else Goal.NOFOLLOW
    return resolve(caller, text, lookup.dirfd_of(caller), goal)


def _of_descriptor(call: Call, opened: OwnedFd) -> Place | Elsewhere | OwnedFd | _Removed:
    place = of_descriptor(call.caller, opened)
    if place is not None:
        opened.close()
        return place
    found = call.caller.describe(opened)
    if any(found.path.startswith(tree.upper_path + b"/") for tree in call.caller.context.trees):
        return opened
    # Other names of a hard link may still show: whose they are by now, nobody knows.
    is_alone = stat.S_ISDIR(found.mode) or os.fstat(opened.fd).st_nlink == 1
    if is_alone and not stat.S_ISLNK(found.mode) and not stat.S_ISSOCK(found.mode):
        for tree in call.caller.context.trees:
            if tree.may_hold(found.path):
                return _Removed(tree, opened)
    opened.close()
    if stat.S_ISLNK(found.mode) and metadata.CALLS[call.name][0] is metadata.chmod:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def handle(call: Call) -> Handled:
    """chmod, chown, utimes, setxattr, removexattr in all their forms, and inotify_add_watch."""
    metadata.read_arguments(call.caller, call.name)
    if call.name == "utimensat" and metadata.omits_all_times(call.caller):
        return Value(0)
    target = _target(call)
    if isinstance(target, Elsewhere):
        return target
    act, want, _ = metadata.CALLS[call.name]
    watches = call.name == "inotify_add_watch"
    if watches and call.arg(2) & inotify.ONLYDIR and not _is_directory(target):
        return Errno(errno.ENOTDIR)
    if call.name in ("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"):
        name = metadata.attribute_name(call.caller)
        if name.startswith(_OWN_ATTRIBUTES):
            return Errno(errno.EPERM)
    if act is metadata.chmod:
        act = _chmod
    if isinstance(target, _Removed):
        with target.opened as opened:
            if not _may_change(call, opened):
                return Errno(errno.EPERM)
            remainder = target.tree.remainders.of(opened)
            call.caller.nobody_locks = nobody_locks(call.caller, remainder)
            return act(call.caller, remainder, describe(opened.fd))
    if not isinstance(target, Place):
        with target:
            return _changed_without_a_name(call, target, act)
    refusal = denied(call, target, want)
    if refusal is not None:
        return refusal
    place = target
    if not _is_for_who_asks(call, place):
        return Errno(errno.EPERM)

    def finish(_: OwnedFd | None) -> Answer | Later:
        with place.tree.open_copy(place.found.path) as opened:
            status = os.fstat(opened.fd)
            found = Object(
                place.path, status.st_dev, status.st_ino, status.st_mode, False, status.st_rdev, False
            )
            call.caller.nobody_locks = nobody_locks(call.caller, opened)
            try:
                answer = act(call.caller, opened, found)
            except Unfinished as unfinished:
                return noted_when_over(place.tree, unfinished, opened)
            if watches and isinstance(answer, Value):
                holder = call.caller.tgid, call.int_arg(0)
                inode = os.fstat(opened.fd).st_ino
                if place.found.lower is not None and place.found.kind is Kind.FILE:
                    follow(call.caller, place, opened)
                call.caller.context.engine.watched()
                place.tree.watched(place.found.path, inode, *holder, answer.value, call.arg(2))
        if "xattr" in call.name:
            place.tree.index.refresh(
                place.found.path
            )  # what is made in a directory may get its mode from there now
        if place.tree.holding is not None:
            place.tree.holding.note(place.found.path)
        return answer

    plan = partial(plans.change_metadata, place.found)
    return change(call, place, plan, finish, more_bytes=_attribute_bytes(call))


def _changed_without_a_name(call: Call, opened: OwnedFd, act: Callable[..., Answer]) -> Answer | Later:
    """opened: borrowed. What an object that has lost its name holds counts as any other."""
    caller = call.caller
    trees = (tree for tree in caller.context.trees if tree.holding is not None)
    holder = next((tree for tree in trees if tree.holding and tree.holding.disk.holds(opened)), None)
    disk = None if holder is None or holder.holding is None else holder.holding.disk
    needed = _attribute_bytes(call)
    if disk is not None and needed and not disk.has_room(needed):
        path = caller.describe(opened).path
        return record.refuse(no_room(disk), path=path, wanted=Want.WRITE, error=errno.ENOSPC)
    caller.nobody_locks = nobody_locks(caller, opened)
    try:
        answer = act(caller, opened, describe(opened.fd))
    except Unfinished as unfinished:
        if holder is None:
            raise
        return noted_when_over(holder, unfinished, opened)
    if disk is not None:
        disk.note(opened, b"")
    return answer


def _attribute_bytes(call: Call) -> int:
    """What it may take besides a copy: the value of an attribute, which lies outside of the inode where it is long."""
    if call.name not in ("setxattr", "lsetxattr", "fsetxattr"):
        return 0
    return BLOCK_BYTES + min(call.arg(3), _XATTR_SIZE_MAX)


def _is_directory(target: Place | OwnedFd | _Removed) -> bool:
    if isinstance(target, Place):
        return target.found.kind is Kind.DIRECTORY
    opened = target.opened if isinstance(target, _Removed) else target
    return stat.S_ISDIR(os.fstat(opened.fd).st_mode)


def _is_for_who_asks(call: Call, place: Place) -> bool:
    """Whether the kernel would let the caller change somebody else's object: its copy will be ours. Raises OSError.

    Where we are root, the copy has its owner, and the kernel is asked when it is changed.
    """
    tree, found = place.tree, place.found
    if os.geteuid() == 0 or tree.lower is None or call.name == "inotify_add_watch":
        return True
    if found.lower is not None:
        original: OwnedFd | None = beneath.open_below(tree.lower.root.fd, found.path, os.O_PATH)
    else:
        original = original_of(tree.storage.upper, tree.lower, found)
    if original is None:
        return True
    with original:
        return _may_change(call, original)


def _may_change(call: Call, original: OwnedFd) -> bool:
    """As the kernel would say, of an object of the lower. Raises OSError."""
    if os.geteuid() == 0 or call.name == "inotify_add_watch":
        return True
    status = os.fstat(original.fd)
    if status.st_uid == os.geteuid():
        return True
    if metadata.CALLS[call.name][0] is metadata.chown and metadata.keeps_owners(call.caller):
        return True
    is_for_writers = metadata.sets_now(call.caller, call.name)
    if "xattr" in call.name:
        is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        is_for_writers = metadata.attribute_name(call.caller).startswith(b"user.") and not is_sticky
    if is_for_writers and not call.caller.act(beneath.may_access, original, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return is_for_writers


def _chmod(caller: Caller, opened: OwnedFd, _: object) -> Answer:
    """Set-user-ID bits too: the copy lies where nobody else can reach it, and a commit refuses them unless named."""
    row = caller.context.rows[caller.request.nr]
    position = (row.paths[0].position if row.paths else row.fds[0]) + 1
    caller.act(acts.set_mode, opened, int(caller.request.args[position]) & 0o7777)
    return Value(0)


# ---- reading attributes


def get_attribute(call: Call) -> Handled:
    return _read(call, _get)


def list_attributes(call: Call) -> Handled:
    return _read(call, _list)


def _read(call: Call, read: Callable[[Call, OwnedFd, bool], Answer]) -> Handled:
    caller = call.caller
    if call.name.startswith("f"):
        opened = metadata.by_descriptor(caller, 0)
        with opened:
            found = caller.describe(opened)
            for tree in caller.context.trees:
                if tree.virtual_path(found.path) is not None:
                    place = of_descriptor(caller, opened)
                    if isinstance(place, Place):
                        return _read_place(call, place, read)
                    return read(call, remainder_of(call, opened) or opened, True)
        return _BARE
    if read is _get:
        metadata.attribute_name(caller)
    goal = Goal.NOFOLLOW if call.name.startswith("l") and call.name != "listxattr" else Goal.FOLLOW
    target = resolve(caller, call.text(), lookup.dirfd_of(caller), goal)
    return target if isinstance(target, Elsewhere) else _read_place(call, target, read)


def _read_place(call: Call, place: Place, read: Callable[[Call, OwnedFd, bool], Answer]) -> Answer:
    readable = denied(call, place, Want.READ) is None
    with place.tree.open_described(place.found) as opened:
        return read(call, opened, readable)


def _get(call: Call, opened: OwnedFd, readable: bool) -> Answer:
    if metadata.attribute_name(call.caller).startswith(_OWN_ATTRIBUTES):
        return Errno(errno.ENODATA)
    return metadata.get_xattr(call.caller, opened, readable)


def _list(call: Call, opened: OwnedFd, readable: bool) -> Answer:
    names = call.caller.act(acts.list_xattr, opened, _XATTR_LIST_MAX)
    shown = b"".join(
        name + b"\0"
        for name in names.split(b"\0")
        if name and not name.startswith(_OWN_ATTRIBUTES) and (readable or not name.startswith(b"user."))
    )
    size = min(call.arg(2), _XATTR_LIST_MAX)
    if not size:
        return Value(len(shown))
    return Errno(errno.ERANGE) if len(shown) > size else Write(call.arg(1), shown, len(shown))


NAMES = tuple(metadata.CALLS)
