"""SO_PEERCRED and SO_PEERPIDFD: whoever is at the other end of a socket and outside of the sandbox has no number.

Such a socket came from outside, as descriptor 0, 1 or 2, or leads there. The kernel tells 0 of whom it does not show
(in another pid namespace), and so is told here.
"""

from __future__ import annotations

import errno
import os
import struct

from sandlockd.handlers import lookup
from sandlockd.handlers.answers import Backstop, Continue, Errno, Write
from sandlockd.handlers.context import Caller
from sandlockd.handlers.private import members
from sandlockd.kernel import memory, procfs, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request
    from sandlockd.kernel.fds import OwnedFd

_SEEN = Continue(Backstop.ONLY_TELLS)
_INT_BYTES = 4


def handle(context: Context, request: Request) -> Answer:
    caller = Caller(context, request)
    try:
        link = os.readlink(procfs.directory_of(caller.tid, lookup.as_int(request.args[0])))
        caller.require_alive()
        if not link.startswith(b"socket:"):
            return _SEEN  # the kernel says so
        with sockets.duplicate(caller.tid, lookup.as_int(request.args[0])) as opened:
            caller.require_alive()
            return tell(caller, opened)
    except FileNotFoundError:
        return _SEEN
    except OSError as error:
        return Errno(error.errno or errno.EIO)


def tell(caller: Caller, opened: OwnedFd) -> Answer:
    pid, uid, gid = sockets.peer_credentials(opened)
    if pid <= 0 or not _is_anybody(pid) or members.belongs(caller.context, pid):
        return _SEEN  # who has ended may have been one of the sandbox
    args = caller.request.args
    (length,) = struct.unpack("=i", memory.read_memory(caller.tid, args[4], _INT_BYTES))
    caller.require_alive()
    if length < 0:
        return Errno(errno.EINVAL)
    if args[2] & 0xFFFFFFFF == sockets.SO_PEERPIDFD:
        return Errno(errno.ENODATA)  # as of a socket that has no peer
    data = sockets.packed_credentials(0, uid, gid)[:length]
    memory.write_memory(caller.tid, args[4], struct.pack("=i", len(data)))
    return Write(args[3], data, 0)


def _is_anybody(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
