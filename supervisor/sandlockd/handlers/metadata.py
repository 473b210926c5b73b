"""Mode, owner, times, extended attributes: what Landlock does not judge, by path and by descriptor.

Each is done on behalf, on the object that was opened and judged, or refused. Never Continue: by the time the kernel
looked, the path could lead elsewhere and no rule of the kernel would stop it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct

from sandlockd.handlers import lookup, record
from sandlockd.handlers.answers import Errno, Value, Write
from sandlockd.handlers.context import Caller
from sandlockd.kernel import acts, memory, procfs
from sandlockd.kernel.paths import AT_FDCWD
from sandlockd.kernel.syscalls import Follow
from sandlockd.policy.verdict import FileIdentity, Verdict, Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.kernel.paths import Object

    Act = Callable[[Caller, OwnedFd, Object], Answer]

_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_FLAGS = _AT_SYMLINK_NOFOLLOW | _AT_EMPTY_PATH
_UTIME_NOW = 0x3FFFFFFF
_UTIME_OMIT = 0x3FFFFFFE
_IN_DONT_FOLLOW = 0x02000000
_XATTR_SIZE_MAX = 65536  # linux/limits.h
_XATTR_NAME_MAX = 255
_XATTR_LIST_MAX = 65536


def handle(context: Context, request: Request) -> Answer:
    """Every call of this family, by its name in the system call table."""
    caller = Caller(context, request)
    name = record.call_name(context, request)
    act, want, is_descriptor = CALLS[name]
    try:
        read_arguments(caller, name)
        if name == "utimensat" and omits_all_times(caller):
            return Value(0)
        opened, own = (by_descriptor(caller, 0), True) if is_descriptor else _by_path(caller)
        with opened:
            return _judged(caller, opened, want, act, own=own)
    except OSError as error:
        return Errno(error.errno or errno.EIO)


_INOTIFY = b"anon_inode:inotify"
_TIMES_BYTES = {"utime": 16, "utimes": 32, "futimesat": 32, "utimensat": 32}


def read_arguments(caller: Caller, name: str) -> None:
    """What the kernel looks at before the path: a missing file with bad arguments is a bad call. Raises OSError."""
    if name == "inotify_add_watch":
        _require_instance(caller)
    elif "xattr" in name and not name.startswith("f") and "list" not in name:
        attribute_name(caller)
        if name.endswith("setxattr") and (size := _arg(caller, 3)):
            if size > _XATTR_SIZE_MAX:
                raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
            _read(caller, _arg(caller, 2), size)
    elif name in _TIMES_BYTES:
        address = _arg(caller, 2 if name in ("utimensat", "futimesat") else 1)
        if address:
            _read(caller, address, _TIMES_BYTES[name])


def _require_instance(caller: Caller) -> None:
    """Raises OSError: EBADF, EINVAL."""
    fd, error = lookup.as_int(_arg(caller, 0)), errno.EBADF
    with contextlib.suppress(FileNotFoundError):
        # Not by fdinfo: there the kernel tells of all watches, 2 us for each.
        if fd >= 0 and not procfs.is_path_only(caller.tid, fd):
            is_instance = os.readlink(procfs.directory_of(caller.tid, fd)) == _INOTIFY
            error = 0 if is_instance else errno.EINVAL
    caller.require_alive()
    if error:
        raise OSError(error, os.strerror(error))


def _by_path(caller: Caller) -> tuple[OwnedFd, bool]:
    """(the object, whether it is the caller's by a descriptor of its own). Raises OSError as the call would."""
    operand = lookup.operand(caller)
    row = caller.context.rows[caller.request.nr]
    flags = caller.request.args[row.flags] if row.flags >= 0 else 0
    require_known_flags(caller, flags)
    address = caller.request.args[operand.position]
    if address == 0:  # utimensat(fd, NULL): the descriptor itself
        if operand.dirfd < 0 or lookup.dirfd_of(caller) == AT_FDCWD:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return by_descriptor(caller, operand.dirfd), True
    text = caller.context.instead or memory.read_path(caller.tid, address)
    caller.require_alive()
    if not text and flags & _AT_EMPTY_PATH and operand.dirfd >= 0:
        return by_descriptor(caller, operand.dirfd, path_only=True), True
    follow = operand.follow is Follow.ALWAYS or (
        operand.follow is Follow.UNLESS_FLAG and not flags & operand.follow_flag
    )
    place = lookup.place_of(caller, text, lookup.dirfd_of(caller))
    return lookup.open_object(caller, place, follow=follow), lookup.is_own_process(caller, place)


def require_known_flags(caller: Caller, flags: int) -> None:
    """Raises OSError EINVAL."""
    row = caller.context.rows[caller.request.nr]
    takes_flags = lookup.operand(caller).follow is Follow.UNLESS_FLAG and row.name != "inotify_add_watch"
    if takes_flags and flags & ~_AT_FLAGS & 0xFFFFFFFF:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def omits_all_times(caller: Caller) -> bool:
    """utimensat(2) does not even look whether the file is there then."""
    address = _arg(caller, 2)
    if not address:
        return False
    _, accessed, _, modified = struct.unpack("=qqqq", _read(caller, address, 32))
    return bool(accessed == modified == _UTIME_OMIT)


def by_descriptor(caller: Caller, position: int, *, path_only: bool = False) -> OwnedFd:
    """path_only: an O_PATH descriptor will do (AT_EMPTY_PATH). Raises OSError EBADF."""
    fd = lookup.as_int(caller.request.args[position])
    if fd < 0 and fd != AT_FDCWD:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        if not path_only and fd != AT_FDCWD and procfs.is_path_only(caller.tid, fd):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        opened = caller.context.files.jump(procfs.directory_of(caller.tid, fd))
    except FileNotFoundError:
        caller.require_alive()
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
    caller.require_alive()
    return opened


def handle_attributes(context: Context, request: Request) -> Answer:
    """getxattr and listxattr by path. Only `user.` attributes are content; the rest tells what stat tells too."""
    caller = Caller(context, request)
    lists = record.call_name(context, request) in ("listxattr", "llistxattr")
    try:
        if not lists:
            attribute_name(caller)
        opened, _ = _by_path(caller)
        with opened:
            found = caller.describe(opened)
            if found.proc:
                return Errno(errno.EOPNOTSUPP)
            readable = _may_read(caller, found)
            return _list_xattr(caller, opened, readable) if lists else get_xattr(caller, opened, readable)
    except OSError as error:
        return Errno(error.errno or errno.EIO)


def _may_read(caller: Caller, found: Object) -> bool:
    identity = FileIdentity(found.device, found.inode)
    return bool(caller.context.rules.judge(found.path, Want.READ, identity).allowed)


def _judged(caller: Caller, opened: OwnedFd, want: Want, act: Act, *, own: bool) -> Answer:
    """own: the caller holds the object by a descriptor."""
    found = caller.describe(opened)
    context = caller.context
    if found.proc:
        return Errno(errno.EPERM)  # the kernel's own answer for nearly all of procfs
    named = found.path.startswith(b"/") and not (found.deleted and found.path.startswith(b"/memfd:"))
    if (not named or found.deleted) and not own:
        # A pipe, a memfd, a deleted file of some other process of the user: we may look at it, nobody may use us to.
        verdict = Verdict(False, "law.process_access", None)
        return record.refuse(verdict, path=found.path, wanted=want)
    if want is not Want.READ and any(tree.may_hold(found.path) for tree in context.trees):
        # Whatever led here, the real tree is not changed: handlers/merged does what may be done.
        return Errno(errno.EROFS)
    if named:
        verdict = context.rules.judge(found.path, want, FileIdentity(found.device, found.inode))
        if not verdict.allowed:
            return record.refuse(verdict, path=found.path, wanted=want)
    return act(caller, opened, found)


# ---- one small function per call; the object is judged already ----


def _arg(caller: Caller, position: int) -> int:
    return int(caller.request.args[position])


def _after_object(caller: Caller) -> int:
    """The position of the first argument behind the path or descriptor."""
    row = caller.context.rows[caller.request.nr]
    return (row.paths[0].position if row.paths else row.fds[0]) + 1


def chmod(caller: Caller, opened: OwnedFd, found: Object) -> Answer:
    mode = _arg(caller, _after_object(caller)) & 0o7777
    if mode & 0o6000 and not stat.S_ISDIR(found.mode):
        verdict = Verdict(False, "law.setuid", None)
        return record.refuse(verdict, path=found.path, wanted=Want.METADATA, error=errno.EPERM)
    caller.act(acts.set_mode, opened, mode)
    return Value(0)


def chown(caller: Caller, opened: OwnedFd, found: Object) -> Answer:
    first = _after_object(caller)
    uid, gid = _arg(caller, first) & 0xFFFFFFFF, _arg(caller, first + 1) & 0xFFFFFFFF
    caller.act(acts.set_owner, opened, uid, gid)
    return Value(0)


def keeps_owners(caller: Caller) -> bool:
    """A chown that asks for nothing."""
    first = _after_object(caller)
    return _arg(caller, first) & _arg(caller, first + 1) & 0xFFFFFFFF == 0xFFFFFFFF


def sets_now(caller: Caller, name: str) -> bool:
    """Whether a call sets both times to now: who may write may do that (utimensat(2), Permissions requirements)."""
    if name == "utimensat":
        address = _arg(caller, 2)
        if not address:
            return True
        _, accessed, _, modified = struct.unpack("=qqqq", _read(caller, address, 32))
        return bool(accessed == modified == _UTIME_NOW)
    return name in ("utime", "utimes", "futimesat") and not _arg(caller, 2 if name == "futimesat" else 1)


def _set_times(caller: Caller, opened: OwnedFd, times: tuple[int, int, int, int]) -> Answer:
    caller.act(acts.set_times, opened, times)
    return Value(0)


_NOW = (0, _UTIME_NOW, 0, _UTIME_NOW)


def _read(caller: Caller, address: int, size: int) -> bytes:
    data = memory.read_memory(caller.tid, address, size)
    caller.require_alive()
    return data


def _utime(caller: Caller, opened: OwnedFd, found: Object) -> Answer:
    address = _arg(caller, 1)
    if not address:
        return _set_times(caller, opened, _NOW)
    accessed, modified = struct.unpack("=qq", _read(caller, address, 16))
    return _set_times(caller, opened, (accessed, 0, modified, 0))


def _utimes(caller: Caller, opened: OwnedFd, found: Object) -> Answer:
    address = _arg(caller, _after_object(caller))
    if not address:
        return _set_times(caller, opened, _NOW)
    a_s, a_us, m_s, m_us = struct.unpack("=qqqq", _read(caller, address, 32))
    if not (0 <= a_us < 1_000_000 and 0 <= m_us < 1_000_000):
        return Errno(errno.EINVAL)
    return _set_times(caller, opened, (a_s, a_us * 1000, m_s, m_us * 1000))


def _utimensat(caller: Caller, opened: OwnedFd, found: Object) -> Answer:
    address = _arg(caller, 2)
    if not address:
        return _set_times(caller, opened, _NOW)
    a_s, a_ns, m_s, m_ns = struct.unpack("=qqqq", _read(caller, address, 32))
    return _set_times(caller, opened, (a_s, a_ns, m_s, m_ns))


def attribute_name(caller: Caller) -> bytes:
    try:
        name = memory.read_string(caller.tid, _arg(caller, 1), _XATTR_NAME_MAX + 1)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE)) from None
        raise
    caller.require_alive()
    if not name:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return name


def _set_xattr(caller: Caller, opened: OwnedFd, found: Object) -> Answer:
    name = attribute_name(caller)
    size = _arg(caller, 3)
    if size > _XATTR_SIZE_MAX:
        return Errno(errno.E2BIG)
    value = _read(caller, _arg(caller, 2), size) if size else b""
    caller.act(acts.set_xattr, opened, name, value, lookup.as_int(_arg(caller, 4)))
    return Value(0)


def _remove_xattr(caller: Caller, opened: OwnedFd, found: Object) -> Answer:
    name = attribute_name(caller)
    caller.act(acts.remove_xattr, opened, name)
    return Value(0)


_CONTENT = b"user."


def get_xattr(caller: Caller, opened: OwnedFd, readable: bool) -> Answer:
    name = attribute_name(caller)
    if name.startswith(_CONTENT) and not readable:
        return Errno(errno.ENODATA)
    size = min(_arg(caller, 3), _XATTR_SIZE_MAX)
    length, value = caller.act(acts.get_xattr, opened, name, size)
    return Write(_arg(caller, 2), value, length) if size else Value(length)


def _list_xattr(caller: Caller, opened: OwnedFd, readable: bool) -> Answer:
    size = min(_arg(caller, 2), _XATTR_LIST_MAX)
    names = caller.act(acts.list_xattr, opened, _XATTR_LIST_MAX)
    if not readable:
        names = b"".join(
            name + b"\0" for name in names.split(b"\0") if name and not name.startswith(_CONTENT)
        )
    if not size:
        return Value(len(names))
    return Errno(errno.ERANGE) if len(names) > size else Write(_arg(caller, 1), names, len(names))


def _add_watch(caller: Caller, opened: OwnedFd, found: Object) -> Answer:
    """The instance is the caller's: work on a duplicate of it."""
    with acts.duplicate_of(caller.tgid, lookup.as_int(_arg(caller, 0))) as instance:
        caller.require_alive()
        # Whether a link is followed has been decided: here it would be that of our own /proc.
        mask = _arg(caller, 2) & 0xFFFFFFFF & ~_IN_DONT_FOLLOW
        return Value(caller.act(acts.add_watch, instance, opened, mask))


_META = Want.METADATA
# The call -> (what does it, what it wants, whether the object is a descriptor).
CALLS: dict[str, tuple[Act, Want, bool]] = {
    "chmod": (chmod, _META, False),
    "fchmod": (chmod, _META, True),
    "fchmodat": (chmod, _META, False),
    "fchmodat2": (chmod, _META, False),
    "chown": (chown, _META, False),
    "lchown": (chown, _META, False),
    "fchown": (chown, _META, True),
    "fchownat": (chown, _META, False),
    "utime": (_utime, _META, False),
    "utimes": (_utimes, _META, False),
    "futimesat": (_utimes, _META, False),
    "utimensat": (_utimensat, _META, False),
    "setxattr": (_set_xattr, _META, False),
    "lsetxattr": (_set_xattr, _META, False),
    "fsetxattr": (_set_xattr, _META, True),
    "removexattr": (_remove_xattr, _META, False),
    "lremovexattr": (_remove_xattr, _META, False),
    "fremovexattr": (_remove_xattr, _META, True),
    "inotify_add_watch": (_add_watch, Want.READ, False),
}
NAMES = tuple(CALLS)
ATTRIBUTES = ("getxattr", "lgetxattr", "listxattr", "llistxattr")
