"""What is outside of the trees, told to a program that got there by a link which only a tree has.

The kernel does not know that link, so what it tells for every other path is told here: by the object, opened as the
caller would find it.
"""

from __future__ import annotations

import errno
import os
import stat

from sandlockd.handlers import lookup, record
from sandlockd.handlers.answers import Errno, Value, Write
from sandlockd.handlers.context import Caller
from sandlockd.handlers.merged import handles, moving, seeing
from sandlockd.handlers.merged.doing import Call
from sandlockd.kernel import acts, beneath
from sandlockd.kernel.status import statfs
from sandlockd.policy.verdict import FileIdentity, Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request
    from sandlockd.kernel.fds import OwnedFd

TOLD = frozenset(
    (
        *seeing.STATS,
        *("statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "statfs", "chdir"),
        "name_to_handle_at",
    )
)


def tell(name: str, context: Context, request: Request) -> Answer:
    """context, request: those of a call whose path is replaced."""
    caller = Caller(context, request)
    call = Call(caller, name, _not_again, is_lifted=True, has_waited=True)
    assert context.instead is not None
    try:
        place = lookup.place_of(caller, context.instead, -100)
        with lookup.open_object(caller, place, follow=seeing.follows(call)) as opened:
            return _of(call, opened)
    except OSError as error:
        return Errno(error.errno or errno.EIO)


def _of(call: Call, opened: OwnedFd) -> Answer:
    name, files = call.name, call.caller.context.files
    if name in seeing.STATS:
        return Write(call.arg(seeing.STATS[name][0]), files.run(acts.status_of, opened).stat(), 0)
    if name == "statx":
        status = files.run(acts.status_of, opened, call.arg(3) & 0xFFFFFFFF)
        return Write(call.arg(4), status.statx(), 0)
    if name in ("access", "faccessat", "faccessat2"):
        mode = call.arg(1 if name == "access" else 2) & 0xFFFFFFFF
        identity = seeing.identity_for_access(call)
        allowed = not mode or files.run(beneath.may_access, opened, mode, identity=identity)
        return Value(0) if allowed else Errno(errno.EACCES)
    if name in ("readlink", "readlinkat"):
        found = call.caller.describe(opened)
        if found.proc:
            return Errno(errno.EACCES)  # whoever asks is meant there, and that would be us
        if not stat.S_ISLNK(found.mode):
            return Errno(errno.EINVAL)
        position = lookup.operand(call.caller).position
        target = files.run(acts.read_link, opened, b"")[: call.int_arg(position + 2)]
        return Write(call.arg(position + 1), target, len(target))
    if name == "statfs":
        return Write(call.arg(1), files.run(statfs, opened), 0)
    if name == "chdir":
        return _enter(call, opened)
    if name == "name_to_handle_at":
        return handles.told(call, opened)
    return Errno(errno.ENOSYS)


def _enter(call: Call, opened: OwnedFd) -> Answer:
    """The directory is entered by a descriptor that could list it: so the caller must be one who may."""
    found = call.caller.describe(opened)
    if not stat.S_ISDIR(found.mode):
        return Errno(errno.ENOTDIR)
    verdict = call.caller.context.rules.judge(found.path, Want.READ, FileIdentity(found.device, found.inode))
    if found.proc or not verdict.allowed:
        return record.refuse(verdict, path=found.path, wanted=Want.READ)
    if not call.caller.act(beneath.may_access, opened, os.X_OK):
        return Errno(errno.EACCES)
    return moving.enter(call.caller.act(acts.reopen, opened, os.O_RDONLY | os.O_DIRECTORY))


def _not_again() -> Answer:
    raise AssertionError("nothing outside of a tree is copied")
