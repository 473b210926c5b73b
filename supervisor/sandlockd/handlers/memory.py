"""Calls that ask for memory, where it is limited.

C lets go on what fits (native/memlimit_calls.c). Here are the refusals, and what makes shared memory: that needs nobody
who maps it, so each is made of an object of which the supervisor has a descriptor, where no cgroup counts. Letting one
of these calls go on grants nothing: what it takes is counted when it is there.
"""

from __future__ import annotations

import errno
from functools import partial

from sandlockd.handlers import lookup, record
from sandlockd.handlers.answers import EACCES, EFAULT, Backstop, Continue, Errno, Fd, Restart, Value, Write
from sandlockd.handlers.context import Caller
from sandlockd.kernel import memory, sockets
from sandlockd.kernel.engine import REASON_NO_ROOM
from sandlockd.kernel.memlimit import lies_in_memory, machine
from sandlockd.kernel.syscalls import number_of
from sandlockd.policy.verdict import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.handlers.answers import Answer, Later, Refused
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request
    from sandlockd.kernel.memlimit import Memory

    Handler = Callable[[Context, Request], Answer | Later]

RULE = "limits.memory"
COUNTED = Continue(Backstop.MEMORY_COUNTED)
_PROT_WRITE = 0x2
_MAP_ANONYMOUS, _MAP_NORESERVE, _MAP_HUGETLB = 0x20, 0x4000, 0x40000
_MFD_CLOEXEC = 0x1
_MFD_NAME_MAX = 249
_FALLOC_TAKES_NONE = 0x02 | 0x08  # FALLOC_FL_PUNCH_HOLE, FALLOC_FL_COLLAPSE_RANGE
_FD_OF_MMAP = 4


def around(memory_limit: Memory, by_name: dict[str, Handler]) -> dict[str, Handler]:
    """The handlers with those of memory in front."""
    return {
        **by_name,
        "mmap": partial(_map, memory_limit),
        "mremap": partial(_no_room, memory_limit, lambda args: max(args[2] - args[1], 0)),
        "mprotect": partial(_no_room, memory_limit, lambda args: args[1]),
        "pkey_mprotect": partial(_no_room, memory_limit, lambda args: args[1]),
        "brk": partial(_break, memory_limit),
        "sysinfo": partial(_machine, memory_limit),
        "memfd_create": partial(_create, memory_limit),
        "fallocate": partial(_allocate, memory_limit, by_name.get("fallocate")),
    }


def _refused(limit: Memory, size_bytes: int, error: int = errno.ENOMEM) -> Refused:
    verdict = Verdict(False, RULE, f"[limits] memory = {2 * limit.limit_bytes}")
    return record.refuse(verdict, wanted="take memory", target=b"%d bytes" % size_bytes, error=error)


def _no_room(
    limit: Memory, size_of: Callable[[tuple[int, ...]], int], context: Context, request: Request
) -> Answer:
    if request.reason != REASON_NO_ROOM:
        return COUNTED
    return _refused(limit, size_of(request.args))


def _break(limit: Memory, context: Context, request: Request) -> Answer:
    """brk(2) of the kernel tells no error: it returns where the heap ends, and the C library compares."""
    if request.reason != REASON_NO_ROOM:
        return COUNTED
    end = context.engine.break_of(request.tid)
    record.refused(context, request, _refused(limit, max(request.args[0] - end, 0) if end else 0))
    return Value(end)


def _map(limit: Memory, context: Context, request: Request) -> Answer:
    size_bytes, prot, flags = request.args[1], request.args[2], request.args[3]
    if request.reason == REASON_NO_ROOM:
        return _refused(limit, size_bytes)
    if limit.is_by_group or flags & _MAP_HUGETLB or not context.makes_shared_memory or not size_bytes:
        return COUNTED
    if prot & _PROT_WRITE and not flags & _MAP_NORESERVE and not limit.asks(size_bytes):
        return _refused(limit, size_bytes)
    try:
        made = limit.make_shared(size_bytes, Caller(context, request).identity)
    except OSError as error:
        return Errno(
            errno.ENOMEM
            if error.errno in (errno.EFBIG, errno.EMFILE, errno.EINVAL)
            else error.errno or errno.ENOMEM
        )
    args = (request.args[0], size_bytes, prot, flags & ~_MAP_ANONYMOUS, 0, 0)
    return Restart(
        Backstop.OWN_MEMORY, number_of("mmap"), args, made.take(), returns=True, fd_argument=_FD_OF_MMAP
    )


def _create(limit: Memory, context: Context, request: Request) -> Answer:
    """memfd_create(name, flags)."""
    if limit.is_by_group:
        return COUNTED
    caller = Caller(context, request)
    try:
        name = memory.read_string(caller.tid, request.args[0], _MFD_NAME_MAX + 1)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return Errno(errno.EINVAL)
        return EFAULT if error.errno == errno.EFAULT else EACCES
    caller.require_alive()
    flags = request.args[1] & 0xFFFFFFFF
    try:
        made = limit.make_object(name, flags, caller.identity)
    except OSError as error:
        return Errno(error.errno or errno.ENOMEM)
    return Fd(made.take(), bool(flags & _MFD_CLOEXEC))


def _machine(limit: Memory, context: Context, request: Request) -> Answer:
    """sysinfo(info): virtual machines of languages size their heaps by it."""
    used_bytes, _, _ = limit.state()
    return Write(request.args[0], machine(limit.limit_bytes, used_bytes), 0)


def _allocate(limit: Memory, otherwise: Handler | None, context: Context, request: Request) -> Answer | Later:
    """fallocate(fd, mode, offset, length) takes any amount in a moment."""
    length = request.args[3]
    if not request.args[1] & _FALLOC_TAKES_NONE and not limit.asks(length):
        caller = Caller(context, request)
        try:
            with sockets.duplicate(caller.tid, lookup.as_int(request.args[0])) as opened:
                caller.require_alive()
                in_memory = lies_in_memory(opened)
        except OSError:
            in_memory = False  # the kernel will find the same
        if in_memory:
            return _refused(limit, length, errno.ENOSPC)
    return COUNTED if otherwise is None else otherwise(context, request)
