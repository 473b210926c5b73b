"""open, openat, creat: the opens that C did not leave to the kernel. All that decides is in registers, path apart.

Either the kernel's own rules cover the object after all (Continue: Landlock judges what is opened in the end), or the
object lies on the spine of a hole or below /proc and the caller gets a descriptor that was opened and checked here,
or it is refused and recorded.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from functools import partial

from sandlockd.handlers import lookup, procfiles, record
from sandlockd.handlers.answers import (
    EACCES,
    LANDLOCK_FILES,
    LOOKUP_FAILS,
    Backstop,
    Continue,
    Errno,
    Fd,
    Later,
    holding,
    when_over_or_blocked,
)
from sandlockd.handlers.context import Caller
from sandlockd.kernel import acts, memory
from sandlockd.kernel.aside import Unfinished
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV
from sandlockd.policy.verdict import Verdict, Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Context
    from sandlockd.handlers.lookup import Place
    from sandlockd.kernel.engine import Request
    from sandlockd.kernel.paths import Object

_READ_FILE, _WRITE_FILE, _READ_DIR = 1 << 2, 1 << 1, 1 << 3  # LANDLOCK_ACCESS_FS_*
_SET_ID_BITS = 0o6000
_TMPFILE = 0o20000000  # O_TMPFILE without O_DIRECTORY
_MEMORY_DEVICES = 1  # MEM_MAJOR: /dev/null and its like
_KNOWN_FLAGS = 0o37777703
_LINKS_MAX = 40  # path_resolution(7)
_PATH_ONLY = Continue(Backstop.PATH_ONLY)
# What only matters for finding or making the object, once it is found.
_FINDING = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class How:
    """The flags and the mode of an open, whichever call it was."""

    __slots__ = ("flags", "mode", "resolve")

    def __init__(self, flags: int, mode: int, resolve: int = 0) -> None:
        self.resolve = resolve  # of openat2(2)
        self.flags = (
            flags & _KNOWN_FLAGS
        )  # openat(2) ignores others, which openat2(2), by which we open, refuses
        self.mode = mode

    @property
    def follow(self) -> bool:
        exclusive = self.flags & os.O_CREAT and self.flags & os.O_EXCL
        return not (self.flags & os.O_NOFOLLOW or exclusive)

    @property
    def asks_for_no_access(self) -> bool:
        """The fourth access mode: Landlock asks for nothing then, so such an open is never let through."""
        return self.flags & os.O_ACCMODE == os.O_ACCMODE

    @property
    def makes_setuid(self) -> bool:
        return bool(self.flags & (os.O_CREAT | _TMPFILE) and self.mode & _SET_ID_BITS)

    @property
    def want(self) -> Want:
        access = self.flags & os.O_ACCMODE
        want = Want(0)
        if access != os.O_WRONLY:
            want |= Want.READ
        if access != os.O_RDONLY or self.flags & (os.O_TRUNC | _TMPFILE):
            want |= Want.WRITE
        return want

    def need(self, *, directory: bool) -> int:
        """LANDLOCK_ACCESS_FS_* that the kernel will ask for."""
        if directory:
            return _READ_DIR
        return (_READ_FILE if Want.READ in self.want else 0) | (_WRITE_FILE if Want.WRITE in self.want else 0)


def how_of(caller: Caller) -> How:
    request = caller.request
    name = record.call_name(caller.context, request)
    args = request.args
    if name == "openat2":
        return _openat2(caller, args[2], args[3])
    if name == "creat":
        return How(os.O_CREAT | os.O_WRONLY | os.O_TRUNC, args[1] & 0o7777)
    if name == "open":
        return How(args[1] & 0xFFFFFFFF, args[2] & 0o7777)
    return How(args[2] & 0xFFFFFFFF, args[3] & 0o7777)


_HOW_BYTES, _HOW_BYTES_MAX = 24, 4096
_PATH_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_PATH | os.O_CLOEXEC
_RESOLVE_FLAGS = 0x3F
_BENEATH, _IN_ROOT, _CACHED = 0x08, 0x10, 0x20


def _openat2(caller: Caller, address: int, size: int) -> How:
    """struct open_how, read once. Raises OSError as build_open_flags of fs/open.c, and copy_struct_from_user, would."""
    if size < _HOW_BYTES:
        raise _error(errno.EINVAL)
    if size > _HOW_BYTES_MAX:
        raise _error(errno.E2BIG)
    data = memory.read_memory(caller.tid, address, size)
    caller.require_alive()
    if any(data[_HOW_BYTES:]):
        raise _error(errno.E2BIG)
    flags, mode, resolve = struct.unpack_from("=QQQ", data)
    makes = flags & (os.O_CREAT | _TMPFILE)
    wrong = (
        flags & ~_KNOWN_FLAGS
        or resolve & ~_RESOLVE_FLAGS
        or resolve & (_BENEATH | _IN_ROOT) == _BENEATH | _IN_ROOT
        or (mode & ~0o7777 if makes else mode)
        or (flags & os.O_PATH and flags & ~_PATH_FLAGS)
        or (flags & _TMPFILE and not flags & os.O_DIRECTORY)
        or (flags & _TMPFILE and flags & os.O_ACCMODE == os.O_RDONLY)
        or (flags & os.O_CREAT and flags & os.O_DIRECTORY)
    )
    if wrong:
        raise _error(errno.EINVAL)
    if resolve & _CACHED and flags & (os.O_TRUNC | os.O_CREAT | _TMPFILE):
        raise _error(errno.EAGAIN)
    return How(flags, mode, resolve)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def handle(context: Context, request: Request) -> Answer | Later:
    """An open that waits for somebody is made in a worker thread."""
    caller = Caller(context, request)
    try:
        how = how_of(caller)
    except OSError as error:
        return Errno(error.errno or errno.EIO)
    if how.makes_setuid:
        verdict = Verdict(False, "law.setuid", None)
        return record.refuse(verdict, path=request.path, wanted=Want.CREATE, error=errno.EPERM)
    try:
        place = lookup.place_of(caller, request.path, lookup.dirfd_of(caller))
    except OSError as error:
        return Errno(error.errno or errno.EIO)
    if how.resolve & RESOLVE_NO_SYMLINKS and place.walk != place.text:
        return Errno(errno.ELOOP)  # /proc/self is one
    try:
        opened = lookup.open_object(caller, place, follow=how.follow, resolve=how.resolve)
    except OSError as error:
        return _not_found(caller, place, how, error.errno or errno.EIO)
    try:
        found = caller.describe(opened)
    except OSError as error:  # a path longer than any call can name: the kernel knows where it is
        opened.close()
        return Errno(error.errno or errno.EIO) if how.asks_for_no_access else LANDLOCK_FILES
    except BaseException:
        opened.close()
        raise
    try:
        if found.proc and how.flags & os.O_PATH and caller.context.instead is None:
            return _PATH_ONLY  # nobody can be handed one (seccomp_unotify(2), SECCOMP_IOCTL_NOTIF_ADDFD)
        if found.proc:
            return procfiles.open_file(caller, place, how, found)
        return _judge(caller, how, opened, found)
    finally:
        opened.close()  # a second time does nothing: a worker may have taken it


def _judge(caller: Caller, how: How, opened: OwnedFd, found: Object) -> Answer | Later:
    context = caller.context
    if how.flags & os.O_PATH and context.instead is None:
        return LANDLOCK_FILES  # asks for no right (landlock(7))
    if not found.path.startswith(b"/") or found.deleted:
        # A pipe, a socket, a memfd, a deleted file: reached through a descriptor, whose process the kernel checks.
        return EACCES if how.asks_for_no_access else _left_to_the_kernel(caller, how, found)
    directory = stat.S_ISDIR(found.mode)
    identity = context.identity_of(opened, found)
    verdict = context.rules.judge(found.path, how.want, identity, directory=directory)
    if not verdict.allowed:
        if procfiles.own_terminal(caller, found):
            return reopen(caller, opened, how, found.mode)
        return record.refuse(verdict, path=found.path, wanted=how.want)
    granted = context.kernel_grants(found.path, how.need(directory=directory))
    if granted and not how.asks_for_no_access and context.instead is None:
        return _left_to_the_kernel(caller, how, found)
    error = _unfit(how, found, slash=_ends_with_slash(caller.request.path))
    if error:
        return Errno(error)
    told = None if context.view is None else context.view.tell_of_devices(caller, found.path, opened, how)
    return reopen(caller, opened, how, found.mode) if told is None else told


def _left_to_the_kernel(caller: Caller, how: How, found: Object) -> Answer:
    """A call that may wait there is marked. Not one that is served: the mark would outlive it (native/tracer.c)."""
    if _may_wait(how, found):
        caller.context.engine.may_wait(caller.request.slot)
    return LANDLOCK_FILES


def _may_wait(how: How, found: Object) -> bool:
    """As C has it (native/fastpath.c, may_wait): then signals end the wait, else they must not."""
    if how.flags & os.O_NONBLOCK or stat.S_ISDIR(found.mode) or stat.S_ISREG(found.mode):
        return False
    return not (stat.S_ISCHR(found.mode) and os.major(found.special) == _MEMORY_DEVICES)


def _ends_with_slash(path: bytes) -> bool:
    """Behind a name, that is: `./` and `../` name nothing that could be made."""
    return path.endswith(b"/") and path.rstrip(b"/").rpartition(b"/")[2] not in (b"", b".", b"..")


def _unfit(how: How, found: Object, *, slash: bool) -> int:
    """The errno that open(2) gives when the object is not what the flags ask for; 0: it is."""
    directory = stat.S_ISDIR(found.mode)
    if how.flags & os.O_CREAT and slash:
        return errno.EISDIR
    if how.flags & os.O_CREAT and how.flags & os.O_EXCL:
        return errno.EEXIST
    if stat.S_ISLNK(found.mode):
        return errno.ELOOP
    if directory and (how.flags & os.O_ACCMODE != os.O_RDONLY or how.flags & os.O_CREAT):
        return errno.EISDIR
    if not directory and how.flags & os.O_DIRECTORY:
        return errno.ENOTDIR
    return 0


def reopen(caller: Caller, opened: OwnedFd, how: How, mode: int) -> Answer | Later:
    """Open that very object, of this mode, the way the caller asked, without ever waiting on the loop."""
    flags = (how.flags & ~_FINDING) | os.O_CLOEXEC
    close_on_exec = bool(how.flags & os.O_CLOEXEC)
    at_once = stat.S_ISFIFO(mode) and how.flags & os.O_NONBLOCK

    def given(file: OwnedFd) -> Answer:
        return Fd(file.take(), close_on_exec)

    def patiently(held: OwnedFd) -> Later:
        def open_and_wait() -> OwnedFd:
            with held.unless_interrupted():
                return caller.wait_for(acts.reopen, held, flags)

        return Later(open_and_wait, given, held.close)

    if at_once or stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        try:
            # A lease on a regular file would make us wait for its holder.
            return given(caller.act(acts.reopen_at_once, opened, flags))
        except Unfinished as unfinished:
            held = OwnedFd(opened.take())
            return when_over_or_blocked(unfinished, given, partial(patiently, held), held.close)
        except BlockingIOError:
            pass
        except OSError as error:
            return Errno(error.errno or errno.EIO)
    return patiently(OwnedFd(opened.take()))


def _not_found(caller: Caller, place: Place, how: How, error: int) -> Answer | Later:
    """No such object: make it where the kernel may not, or let the kernel find the same error."""
    kernel_looks = caller.context.instead is None
    if how.asks_for_no_access or (
        not kernel_looks and not (error == errno.ENOENT and how.flags & os.O_CREAT)
    ):
        return Errno(error)  # by the time the kernel looked there could be anything, and it would not judge
    if error != errno.ENOENT or not how.flags & os.O_CREAT:
        return LOOKUP_FAILS
    try:
        parent, name = lookup.open_parent(caller, place, how.resolve)
    except OSError as raised:
        return LOOKUP_FAILS if kernel_looks else Errno(raised.errno or errno.EIO)
    if place.walk.endswith(b"/"):
        parent.close()
        return Errno(errno.EISDIR)  # O_CREAT makes no directories
    return _create_behind_links(caller, how, parent, name)


def _create_behind_links(caller: Caller, how: How, parent: OwnedFd, name: bytes) -> Answer | Later:
    """The name may be that of a link to something that is still to be made: then it is made where the link leads."""
    for _ in range(_LINKS_MAX):
        with parent:
            if not name or caller.act(acts.is_procfs, parent):
                return LOOKUP_FAILS
            target = _link_target(caller, parent, name) if how.follow else None
            if target is None:
                return _create(caller, how, parent, name)
            head, slash, name = target.rpartition(b"/")
            if not name:
                return Errno(errno.EISDIR)
            try:
                parent = _directory_behind(caller, parent, head or slash or b".")
            except OSError as error:
                return Errno(error.errno or errno.EIO)
    parent.close()
    return Errno(errno.ELOOP)


def _link_target(caller: Caller, parent: OwnedFd, name: bytes) -> bytes | None:
    try:
        return caller.act(acts.read_link, parent, name)
    except OSError:  # no link, or nothing
        return None


def _directory_behind(caller: Caller, parent: OwnedFd, path: bytes) -> OwnedFd:
    """Not through magic links: those of /proc/self would be ours."""
    flags = os.O_PATH | os.O_DIRECTORY
    return caller.context.files.open(
        parent, path, flags, resolve=RESOLVE_NO_MAGICLINKS, identity=caller.identity
    )


def _create(caller: Caller, how: How, parent: OwnedFd, name: bytes) -> Answer | Later:
    context = caller.context
    try:
        directory = caller.describe(parent)
    except OSError:  # deeper than any path is long: the kernel knows where it is, and grants or does not
        return LANDLOCK_FILES
    path = lookup.child_path(directory, name)
    verdict = context.rules.judge(path, Want.CREATE | how.want)
    if not verdict.allowed:
        return record.refuse(verdict, path=path, wanted=Want.CREATE | how.want)
    if context.instead is None and context.kernel_grants_names_in(directory.path):
        return LANDLOCK_FILES
    flags = (how.flags & ~os.O_CLOEXEC) | os.O_NOFOLLOW | os.O_CREAT
    try:
        # O_NOFOLLOW and a single name: what is made or found is in this directory and nowhere else.
        made = caller.act(
            acts.open_at,
            parent,
            name,
            (flags & ~os.O_TRUNC) | os.O_NONBLOCK,  # somebody may have put a FIFO there meanwhile
            how.mode & ~caller.status.umask,
            RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
        )
    except OSError as error:
        return Errno(error.errno or errno.EIO)
    with made:
        found = caller.describe(made)
        again = context.rules.judge(found.path, how.want, context.identity_of(made, found))
        if not again.allowed:  # somebody put a denied object there meanwhile
            return record.refuse(again, path=found.path, wanted=how.want)
        acts.let_block(made, how.flags)
        close_on_exec = bool(how.flags & os.O_CLOEXEC)
        if how.flags & os.O_TRUNC and os.fstat(made.fd).st_size:  # somebody else's: it is judged by now
            try:
                caller.act(acts.truncate, made, 0, os.O_NONBLOCK)
            except Unfinished as unfinished:
                held = OwnedFd(made.take())
                return holding(unfinished, held, lambda _: Fd(held.take(), close_on_exec))
            except OSError as error:
                return Errno(error.errno or errno.EIO)
        return Fd(made.take(), close_on_exec)
