"""open, openat, creat in a tree: every one is opened on behalf, and handed over.

What is only read is the object that shows, in whichever layer; what is written is in the upper by then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import partial

from sandlockd.handlers import lookup
from sandlockd.handlers import opening as openings
from sandlockd.handlers.answers import Backstop, Continue, Errno, Fd, Restart
from sandlockd.handlers.merged.doing import Call, change, denied, is_being_executed, kernel_finds
from sandlockd.handlers.merged.places import Place
from sandlockd.handlers.merged.waiting import nobody_locks
from sandlockd.kernel import acts, beneath
from sandlockd.kernel.disk import BLOCK_BYTES
from sandlockd.kernel.engine import RESUMED_ACT
from sandlockd.kernel.paths import acting_as
from sandlockd.kernel.syscalls import number_of
from sandlockd.overlay import plans
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.lookup import Goal
from sandlockd.policy.verdict import Want
from sandlockd.store.lending import lent
from sandlockd.store.making import Making

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.handlers.merged.places import Elsewhere
    from sandlockd.handlers.opening import How
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.overlay.view import Found

_TMPFILE = 0o20000000  # O_TMPFILE without O_DIRECTORY
# What only matters for finding or making the object.
_FINDING = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY
_SEEN = Continue(Backstop.ONLY_TELLS)


def open_file(call: Call) -> Answer | Later | Elsewhere:
    how = openings.how_of(call.caller)
    if how.flags & os.O_PATH:
        _path_given(call)
    if how.flags & os.O_CREAT and how.flags & os.O_DIRECTORY and not how.flags & (_TMPFILE | os.O_PATH):
        return Errno(errno.EINVAL)
    if how.flags & _TMPFILE and how.flags & os.O_ACCMODE == os.O_RDONLY:
        return Errno(errno.EINVAL)
    place = call.place(_goal(how), resolve=how.resolve)
    if not isinstance(place, Place):
        return place
    if how.flags & os.O_PATH:
        return _open_path(call, place, how)
    if how.flags & _TMPFILE:
        return _unnamed(call, place, how)
    missing = place.found.kind is None
    refusal = denied(call, place, how.want | (Want.CREATE if missing else Want(0)))
    if refusal is not None:
        return refusal
    return _open(call, place, how)


def _path_given(call: Call) -> None:
    """Whatever it leads to: nobody tells whether such a descriptor is still open."""
    for tree in call.caller.context.trees:
        if tree.holding is not None:
            tree.holding.disk.path_given()


def _goal(how: How) -> Goal:
    flags = how.flags
    if flags & os.O_PATH:
        return Goal.FOLLOW if not flags & os.O_NOFOLLOW else Goal.NOFOLLOW
    if flags & os.O_CREAT:
        return Goal.CREATE if how.follow else Goal.CREATE_NOFOLLOW
    return Goal.FOLLOW if how.follow else Goal.NOFOLLOW


def _open(call: Call, place: Place, how: How) -> Answer | Later:
    if call.caller.request.is_resumed == RESUMED_ACT and place.found.kind is Kind.FILE:
        return _made_before(place, how)
    writes = how.flags & os.O_ACCMODE != os.O_RDONLY
    try:
        opening = plans.open_file(
            place.found,
            write=writes,
            create=bool(how.flags & os.O_CREAT),
            exclusive=bool(how.flags & os.O_EXCL),
            truncate=bool(how.flags & os.O_TRUNC),
            directory=bool(how.flags & os.O_DIRECTORY),
        )
    except FsError as error:
        return Errno(error.errno)
    close_on_exec = bool(how.flags & os.O_CLOEXEC)

    def finish(made: OwnedFd | None) -> Answer | Later:
        if made is not None:
            inode = os.fstat(made.fd).st_ino
            return Fd(made.take(), close_on_exec, partial(_take_back, call, place, inode))
        in_upper = opening.in_upper or bool(opening.steps)
        layer = place.tree.storage.upper if in_upper else place.tree.storage.workdir
        with beneath.open_below(layer.fd, place.found.path, os.O_PATH) as opened:
            call.caller.nobody_locks = in_upper and nobody_locks(call.caller, opened)
            answer = openings.reopen(call.caller, opened, how, os.fstat(opened.fd).st_mode)
        if how.flags & os.O_TRUNC and in_upper and place.tree.holding is not None:
            place.tree.holding.note(place.found.path)
        return answer

    making = None
    if opening.steps and not opening.created and not _may_open(call, place, how):
        return Errno(errno.EACCES)  # before it is truncated, not after
    if (writes or how.flags & os.O_TRUNC) and opening.steps and is_being_executed(place):
        return Errno(errno.ETXTBSY)
    if opening.created:
        flags = how.flags & ~(_FINDING | os.O_TRUNC)
        making = call.making(how.mode, open_flags=flags)
    more_bytes, freed_bytes = (0, 0) if place.tree.holding is None else _written(place, how)
    return change(
        call, place, lambda: opening.steps, finish, making, more_bytes=more_bytes, freed_bytes=freed_bytes
    )


def _made_before(place: Place, how: How) -> Answer:
    """By this very call, of whose doing our predecessor died: whoever makes a file may open it, whatever its mode."""
    tree, path = place.tree, place.found.path
    with tree.open_copy(path) as opened, lent(tree.storage.work, opened, path, stat.S_IRUSR | stat.S_IWUSR):
        made = acts.reopen(opened, (how.flags & ~(_FINDING | os.O_TRUNC)) | os.O_CLOEXEC)
    return Fd(made.take(), bool(how.flags & os.O_CLOEXEC))


def _written(place: Place, how: How) -> tuple[int, int]:
    """(what whoever opens it may take at least, what is given back before): of a regular file."""
    truncates = how.flags & os.O_TRUNC
    if place.found.kind not in (None, Kind.FILE) or not (how.flags & os.O_ACCMODE or truncates):
        return 0, 0
    if not truncates or place.found.upper is None:
        return BLOCK_BYTES, 0
    with place.tree.open_copy(place.found.path) as opened:
        status = os.fstat(opened.fd)
    return BLOCK_BYTES, status.st_blocks * 512


def _take_back(call: Call, place: Place, inode: int) -> None:
    """The kernel looks for a free number before it makes a file."""
    with call.caller.context.trees_lock:
        found = place.side.view.at(place.found.path)
        if found is None or found.upper is None or found.upper.inode != inode:
            return
        with contextlib.suppress(OSError, FsError):  # then it stays, empty
            place.side.executor.carry_out(plans.unlink(found), Making())


def _may_open(call: Call, place: Place, how: How) -> bool:
    mode = (os.R_OK if Want.READ in how.want else 0) | (os.W_OK if Want.WRITE in how.want else 0)
    with place.tree.open_described(place.found) as opened, acting_as(call.caller.identity):
        return beneath.may_access(opened, mode)


def _open_path(call: Call, place: Place, how: How) -> Answer:
    """The kernel hands no O_PATH descriptor over: the caller opens it itself, with flags that stay in registers.

    By the path as it is written, or by its last name in the directory where the object lies. What gets there by a link
    in the last place, or `..`, gets an ordinary descriptor for reading instead.
    """
    found = place.found
    if how.flags & os.O_DIRECTORY and found.kind is not Kind.DIRECTORY:
        return Errno(errno.ENOTDIR)
    if kernel_finds(call, place, follow=not how.flags & os.O_NOFOLLOW, in_upper=True):
        return _SEEN
    by_name = open_by_name(call, place, how.flags)
    if by_name is not None:
        return by_name
    if found.kind not in (Kind.DIRECTORY, Kind.FILE):
        return Errno(errno.ELOOP if found.kind is Kind.SYMLINK else errno.EACCES)
    with place.tree.open_shown(found) as opened:
        only_look = openings.How((how.flags & os.O_CLOEXEC) | os.O_RDONLY, 0)
        answer = openings.reopen(call.caller, opened, only_look, os.fstat(opened.fd).st_mode)
    assert not hasattr(answer, "work")
    return answer


def open_by_name(call: Call, place: Place, flags: int, *, enters: bool = False) -> Answer | None:
    """None: the path does not end in the object's name, or the caller may open no directory above it for that.

    flags: of openat, O_PATH among them. enters: as of a Restart.
    """
    storage = place.tree.storage
    layer = storage.workdir if place.found.lower is not None else storage.upper
    for at, directory in _beginnings(call.text(), place.found):
        if denied(call, Place(place.tree, place.side, directory), Want.READ) is not None:
            continue
        try:
            with beneath.open_below(layer.fd, directory.path, os.O_PATH) as seen:
                opened = call.caller.act(acts.reopen_at_once, seen, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue  # it may only be searched; from one further up, maybe
        args = (0, call.arg(lookup.operand(call.caller).position) + at, flags, 0, 0, 0)
        kind, number = Backstop.PATH_ONLY, number_of("openat")
        return Restart(kind, number, args, opened.take(), returns=True, opens=not enters, enters=enters)
    return None


def _beginnings(text: bytes, found: Found) -> Iterator[tuple[int, Found]]:
    """Where in a path the names of the object and of directories above it begin, and the directory that each is in."""
    end = len(text.rstrip(b"/"))
    at = text.rfind(b"/", 0, end) + 1
    if text[at:end] == b".":
        if found.kind is Kind.DIRECTORY:
            yield at, found
        return
    while found.parent is not None and text[at:end] == found.path.rpartition(b"/")[2]:
        found = found.parent
        yield at, found
        end = len(text[:at].rstrip(b"/"))
        at = text.rfind(b"/", 0, end) + 1


def _unnamed(call: Call, place: Place, how: How) -> Answer | Later:
    """O_TMPFILE: in the upper's directory, which must be there for it."""
    found = place.found
    if found.kind is not Kind.DIRECTORY:
        return Errno(errno.ENOTDIR)
    refusal = denied(call, place, Want.WRITE)
    if refusal is not None:
        return refusal

    access = found.view.access
    try:
        if access is not None:
            access.change(found)
    except FsError as error:
        return Errno(error.errno)

    def finish(_: OwnedFd | None) -> Answer:
        with beneath.open_below(
            place.tree.storage.upper.fd, found.path, os.O_RDONLY | os.O_DIRECTORY
        ) as parent:
            mode = how.mode & ~call.caller.status.umask
            with acting_as(call.caller.identity):
                made = beneath.create_unnamed(parent, how.flags & ~(os.O_CLOEXEC | os.O_NOFOLLOW), mode)
        place.tree.origins.made(made)
        return Fd(made.take(), bool(how.flags & os.O_CLOEXEC))

    return change(call, place, lambda: plans.change_metadata(found), finish, more_bytes=BLOCK_BYTES)
