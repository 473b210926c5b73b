"""Calls that make, move and remove names in a tree, and truncate by path."""

from __future__ import annotations

import errno
import os
import re
import stat
from functools import partial

from sandlockd.handlers import lookup, record
from sandlockd.handlers.answers import Errno, Later, Value
from sandlockd.handlers.merged.doing import Call, change, denied, is_being_executed
from sandlockd.handlers.merged.places import Elsewhere, Place, last_name, of_descriptor, resolve
from sandlockd.handlers.merged.waiting import nobody_locks, noted
from sandlockd.handlers.naming import truncate_served
from sandlockd.kernel import beneath, memory, procfs
from sandlockd.kernel.engine import RESUMED_ACT
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay import plans
from sandlockd.overlay.entries import FILE_TYPES, FsError, Kind
from sandlockd.overlay.lookup import Goal
from sandlockd.policy.verdict import Verdict, Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Caller
    from sandlockd.kernel.paths import Object
    from sandlockd.overlay.plans import Steps
    from sandlockd.store.tree import Tree

    Handled = Answer | Later | Elsewhere

_AT_REMOVEDIR = 0x200
_AT_SYMLINK_FOLLOW = 0x400
_AT_EMPTY_PATH = 0x1000
_RENAME_NOREPLACE, _RENAME_EXCHANGE, _RENAME_WHITEOUT = 1, 2, 4
_RENAME_FLAGS = 7

_EXDEV = Errno(errno.EXDEV)
_DONE = Value(0)
_OWN_DESCRIPTOR = re.compile(rb"/(?:proc/(?:self|thread-self|\d+)|dev)/fd/(\d+)")

# What mknod(2) makes.
_MADE_KINDS = {
    0: Kind.FILE,
    **{FILE_TYPES[kind]: kind for kind in (Kind.FILE, Kind.FIFO, Kind.SOCKET, Kind.CHARACTER, Kind.BLOCK)},
}


def _done(_: OwnedFd | None) -> Answer:
    return _DONE


def _made(made: OwnedFd | None) -> Answer:
    if made is not None:
        made.close()
    return _DONE


def make_directory(call: Call) -> Handled:
    place = call.place(Goal.NAME)
    if not isinstance(place, Place):
        return place
    mode = call.arg(lookup.operand(call.caller).position + 1) & 0o7777
    return _create(call, place, Kind.DIRECTORY, mode & 0o1777)


def make_node(call: Call) -> Handled:
    place = call.place(Goal.NAME)
    if not isinstance(place, Place):
        return place
    position = lookup.operand(call.caller).position + 1
    mode, device = call.arg(position) & 0xFFFF, call.arg(position + 1) & 0xFFFFFFFF
    kind = _MADE_KINDS.get(stat.S_IFMT(mode))
    if kind is None:
        return Errno(errno.EPERM if stat.S_ISDIR(mode) else errno.EINVAL)
    if kind in (Kind.CHARACTER, Kind.BLOCK):
        verdict = Verdict(False, "law.devices", None)
        return record.refuse(verdict, path=place.path, wanted=Want.CREATE, error=errno.EPERM)
    return _create(call, place, kind, stat.S_IMODE(mode), device=device, open_flags=os.O_RDONLY)


def make_symlink(call: Call) -> Handled:
    place = call.place(Goal.NAME)
    if not isinstance(place, Place):
        return place
    target = memory.read_path(call.caller.tid, call.arg(0))
    call.caller.require_alive()
    if not target:
        return Errno(errno.ENOENT)
    return _create(call, place, Kind.SYMLINK, 0o777, target=target)


def _create(call: Call, place: Place, kind: Kind, mode: int, **more: object) -> Answer | Later:
    if place.found.kind is None:
        refusal = denied(call, place, Want.CREATE)
        if refusal is not None:
            return refusal
    making = call.making(mode, **more)
    return change(call, place, partial(plans.create, place.found, kind), _made, making)


def remove_file(call: Call) -> Handled:
    return _remove(call, plans.unlink)


def remove_directory(call: Call) -> Handled:
    return _remove(call, plans.rmdir)


def remove_at(call: Call) -> Handled:
    flags = call.arg(2) & 0xFFFFFFFF
    if flags & ~_AT_REMOVEDIR:
        return Errno(errno.EINVAL)
    return remove_directory(call) if flags else remove_file(call)


def _remove(call: Call, plan: Callable[..., Steps]) -> Handled:
    place = call.place(Goal.NAME)
    if not isinstance(place, Place):
        return place
    if place.found.kind is not None:
        refusal = denied(call, place, Want.DELETE)
        if refusal is not None:
            return refusal
    return change(call, place, partial(plan, place.found), _done)


def truncate(call: Call) -> Handled:
    place = call.place(Goal.FOLLOW)
    if not isinstance(place, Place):
        return place
    length = call.arg(1)
    if length >= 1 << 63:
        return Errno(errno.EINVAL)
    refusal = denied(call, place, Want.WRITE)
    if refusal is not None:
        return refusal

    if length > procfs.file_size_limit(call.caller.tid):
        return Errno(errno.EFBIG)

    def finish(_: OwnedFd | None) -> Answer | Later:
        with place.tree.open_copy(place.found.path) as opened:
            call.caller.nobody_locks = nobody_locks(call.caller, opened)
            held = None if place.tree.holding is None else OwnedFd(os.dup(opened.fd))
            try:
                answer = truncate_served(call.caller, opened, length, is_watched=bool(place.tree.watches))
            except BaseException:  # MayWait, too: it is asked again
                if held is not None:
                    held.close()
                raise
        if isinstance(answer, Later):
            return noted(place.tree, held, answer)
        if held is not None:
            held.close()
        if place.tree.holding is not None:
            place.tree.holding.note(place.found.path)
        return answer

    def plan() -> Steps:
        steps = plans.truncate(place.found, length)
        if is_being_executed(place):
            raise FsError(errno.ETXTBSY)
        return steps

    return change(call, place, plan, finish)


def rename(call: Call) -> Handled:
    flags = call.arg(4) & 0xFFFFFFFF if call.name == "renameat2" else 0
    if flags & ~_RENAME_FLAGS or (flags & _RENAME_EXCHANGE and flags & ~_RENAME_EXCHANGE):
        return Errno(errno.EINVAL)
    if any(last_name(call.text(which)) in (b".", b"..") for which in (0, 1)):
        return _rename_dots(call, flags)
    old, new = call.place(Goal.NAME), call.place(Goal.NAME, 1)
    if not (isinstance(old, Place) and isinstance(new, Place)):
        return old if not isinstance(old, Place) and not isinstance(new, Place) else _across(call, old, new)
    if old.tree is not new.tree and not (old.found.path and new.found.path):
        return Errno(errno.EBUSY)  # the root of a tree in another one: a mount point there
    if old.found.kind is not None:
        for place, want in (
            (old, Want.DELETE | (Want.CREATE if flags & _RENAME_EXCHANGE else Want(0))),
            (new, Want.CREATE | (Want.DELETE if new.found.kind is not None else Want(0))),
        ):
            refusal = denied(call, place, want, target=new.path)
            if refusal is not None:
                return refusal
    request, exchanged = call.caller.request, new.found.visible
    if flags & _RENAME_EXCHANGE and request.is_resumed == RESUMED_ACT and exchanged is not None:
        if exchanged.inode == request.noted:
            return _DONE
    steps = partial(
        plans.rename,
        old.found,
        new.found,
        noreplace=bool(flags & _RENAME_NOREPLACE),
        exchange=bool(flags & _RENAME_EXCHANGE),
        whiteout=bool(flags & _RENAME_WHITEOUT),
    )

    def finish(_: OwnedFd | None) -> Answer:
        for source, target in ((old, new), (new, old)) if flags & _RENAME_EXCHANGE else ((old, new),):
            lower = source.found.lower
            if lower is not None and lower.kind is Kind.DIRECTORY and source.found.path != target.found.path:
                source.tree.moved(source.found.path, target.found.path)
        return _DONE

    return change(call, old, steps, finish, call.making(0))


def _rename_dots(call: Call, flags: int) -> Handled:
    """Of `.` or `..`, or to one: refused in any case (do_renameat2 of fs/namei.c), and after what?"""
    old, new = (_directory_of(call, which) for which in (0, 1))
    if old is not new:
        return _EXDEV
    if old is None:
        place, other = call.place(Goal.NAME), call.place(Goal.NAME, 1)
        if not isinstance(place, Place) and not isinstance(other, Place):
            return place
    if last_name(call.text(0)) not in (b".", b"..") and flags & _RENAME_NOREPLACE:
        return Errno(errno.EEXIST)
    return Errno(errno.EBUSY)


def _directory_of(call: Call, which: int) -> Tree | None:
    """The tree that a name is looked for in; None: it is outside. Raises OSError: that directory is not to be had."""
    text = call.text(which)
    name = last_name(text)
    if name not in (b".", b".."):
        place = call.place(Goal.NAME, which)
        return place.tree if isinstance(place, Place) and place.found.path else None
    above = text.rstrip(b"/").removesuffix(name) or b"."
    dirfd = lookup.dirfd_of(call.caller, which)
    directory = resolve(call.caller, above, dirfd, Goal.FOLLOW)
    if isinstance(directory, Elsewhere):
        outside = above if directory.text is None else directory.text
        lookup.open_object(
            call.caller, lookup.place_of(call.caller, outside + b"/.", dirfd), follow=True
        ).close()
        return None
    if directory.found.kind is not Kind.DIRECTORY:
        missing = directory.found.kind is None
        raise NotADirectoryError(errno.ENOTDIR, "") if not missing else FileNotFoundError(errno.ENOENT, "")
    access = directory.found.view.access
    if access is not None:
        access.search(directory.found)
    return directory.tree


def _across(call: Call, old: Place | Elsewhere, new: Place | Elsewhere) -> Answer:
    """From a tree to outside, or back. What is missing is missing first, and so are directories (do_renameat2)."""
    caller = call.caller
    if isinstance(old, Place):
        if old.found.kind is None:
            return Errno(errno.ENOENT)
    else:
        lookup.open_object(caller, _outside(call, old), follow=False).close()
    if isinstance(new, Elsewhere):
        lookup.open_parent(caller, _outside(call, new, 1))[0].close()
    return _EXDEV


def _outside(call: Call, place: Elsewhere, which: int = 0) -> lookup.Place:
    text = call.text(which) if place.text is None else place.text
    return lookup.place_of(call.caller, text, lookup.dirfd_of(call.caller, which))


def _link_across(call: Call, old: Place | Elsewhere, new: Place | Elsewhere, *, follow: bool) -> Answer:
    """The new name is looked at before the two file systems are (fs/namei.c, do_linkat), and directories get no other
    name on their own.
    """
    caller = call.caller
    answer: Answer = _EXDEV
    if isinstance(old, Place):
        if old.found.kind is None:
            return Errno(errno.ENOENT)
    else:
        with lookup.open_object(caller, _outside(call, old), follow=follow) as opened:
            status = caller.describe(opened)
        lower = new.tree.lower_directory if isinstance(new, Place) else None
        if lower is not None and stat.S_ISDIR(status.mode) and status.device == os.fstat(lower.fd).st_dev:
            answer = Errno(errno.EPERM)
    if isinstance(new, Place):
        return Errno(errno.EEXIST) if new.found.kind is not None else answer
    lookup.open_parent(caller, _outside(call, new, 1))[0].close()
    try:
        lookup.open_object(caller, _outside(call, new, 1), follow=False).close()
    except OSError:
        return answer
    return Errno(errno.EEXIST)


def _require_source(call: Call, text: bytes, *, follow: bool) -> None:
    """What is to be linked is looked for first (do_linkat). Raises OSError."""
    if not text:
        return
    old = call.place(Goal.FOLLOW if follow else Goal.NOFOLLOW)
    if isinstance(old, Elsewhere):
        lookup.open_object(call.caller, _outside(call, old), follow=follow).close()
    elif old.found.kind is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def link(call: Call) -> Handled:
    flags = call.arg(4) & 0xFFFFFFFF if call.name == "linkat" else 0
    if flags & ~(_AT_SYMLINK_FOLLOW | _AT_EMPTY_PATH):
        return Errno(errno.EINVAL)
    if not call.text(1):  # which is found out last
        call.place(Goal.FOLLOW if flags & _AT_SYMLINK_FOLLOW else Goal.NOFOLLOW)
    text = call.text()
    try:
        new = call.place(Goal.NAME, 1)
    except OSError:
        _require_source(call, text, follow=bool(flags & _AT_SYMLINK_FOLLOW))
        raise
    descriptor = _descriptor(call, text, flags)
    if descriptor is not None and isinstance(new, Place):
        linked = _link_descriptor(call, descriptor, new)
        if linked is not None:
            return linked
    if not text:
        return new if not isinstance(new, Place) else Errno(errno.ENOENT)
    old = call.place(Goal.FOLLOW if flags & _AT_SYMLINK_FOLLOW else Goal.NOFOLLOW)
    if not (isinstance(old, Place) and isinstance(new, Place)):
        return (
            old
            if not isinstance(old, Place) and not isinstance(new, Place)
            else _link_across(call, old, new, follow=bool(flags & _AT_SYMLINK_FOLLOW))
        )
    for place, want in ((old, Want.WRITE), (new, Want.CREATE)):
        refusal = denied(call, place, want, target=new.path)
        if refusal is not None:
            return refusal
    if old.tree is new.tree and not _may_link(call, old):
        return Errno(errno.EPERM)
    return change(call, new, partial(plans.link, old.found, new.found), _done, call.making(0))


def _may_link(call: Call, old: Place) -> bool:
    """may_linkat of fs/namei.c, of somebody else's object whose copy will be ours."""
    if os.geteuid() == 0 or old.found.lower is None or not procfs.protects_hard_links():
        return True
    with beneath.open_below(old.tree.storage.workdir.fd, old.found.path, os.O_PATH) as original:
        status = os.fstat(original.fd)
        if status.st_uid == os.geteuid():
            return True
        lends = status.st_mode & stat.S_ISUID or status.st_mode & 0o2010 == 0o2010
        if lends or not stat.S_ISREG(status.st_mode):
            return False
        return bool(call.caller.act(beneath.may_access, original, os.R_OK | os.W_OK))


def _tree_of_unnamed(caller: Caller, found: Object) -> Tree | None:
    """The tree in whose upper a file was made that has no name."""
    if not found.deleted:
        return None
    trees = caller.context.trees
    return next((tree for tree in trees if found.path.startswith(tree.upper_path + b"/")), None)


def _descriptor(call: Call, text: bytes, flags: int) -> int | None:
    """The descriptor of the caller's that linkat(2) is to give a name."""
    if not text and flags & _AT_EMPTY_PATH:
        return call.int_arg(0)
    match = _OWN_DESCRIPTOR.fullmatch(text)
    return int(match[1]) if match is not None and flags & _AT_SYMLINK_FOLLOW else None


def _link_descriptor(call: Call, descriptor: int, new: Place) -> Answer | Later | None:
    """None: it is no file of this tree's upper directory without a name."""
    caller = call.caller
    try:
        opened = caller.context.files.jump(procfs.directory_of(caller.tid, descriptor))
    except FileNotFoundError:
        caller.require_alive()
        return Errno(errno.EBADF)
    with opened:
        caller.require_alive()
        found = caller.describe(opened)
        held = of_descriptor(caller, opened)
        if isinstance(held, Elsewhere):
            return None
        home = held.tree if held is not None else _tree_of_unnamed(caller, found)
        if home is None:
            return Errno(errno.ENOENT)  # it was removed from the lower tree
        if home is not new.tree:
            return Errno(errno.EEXIST) if new.found.kind is not None else _EXDEV
        refusal = denied(call, new, Want.CREATE)
        if refusal is not None:
            return refusal
        if held is not None:
            return change(call, new, partial(plans.link, held.found, new.found), _done, call.making(0))
        making = call.making(0, unnamed=opened)
        return change(call, new, partial(plans.link_unnamed, new.found), _done, making)
