"""Calls that ask for memory, where it is limited.

C lets go on what fits (native/memlimit_calls.c). Here are the refusals, and what makes shared memory: that needs nobody
who maps it, so each is made of an object of which the supervisor has a descriptor. Letting one of these calls go on
grants nothing: what it takes is counted when it is there.
"""

from __future__ import annotations

import errno
from functools import partial

from sandlockd.handlers import lookup, record
from sandlockd.handlers.answers import EACCES, EFAULT, Backstop, Continue, Errno, Fd, Later, Restart, Value
from sandlockd.handlers.context import Caller
from sandlockd.kernel import memory, sockets
from sandlockd.kernel.engine import REASON_NO_ROOM
from sandlockd.kernel.memlimit import Asks, lies_in_memory
from sandlockd.kernel.syscalls import number_of
from sandlockd.policy.verdict import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandlockd.handlers.answers import Answer, Refused
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
        "mremap": partial(_judged, memory_limit, Asks.MREMAP),
        "mprotect": partial(_judged, memory_limit, Asks.MPROTECT),
        "pkey_mprotect": partial(_judged, memory_limit, Asks.MPROTECT),
        "brk": partial(_break, memory_limit),
        "memfd_create": partial(_create, memory_limit),
        "fallocate": partial(_allocate, memory_limit, by_name.get("fallocate")),
    }


def _refused(limit: Memory, size_bytes: int, error: int = errno.ENOMEM) -> Refused:
    verdict = Verdict(False, RULE, f"[limits] memory = {2 * limit.limit_bytes}")
    return record.refuse(verdict, wanted="take memory", target=b"%d bytes" % size_bytes, error=error)


def _judged(limit: Memory, asks: Asks, context: Context, request: Request) -> Answer | Later:
    if request.reason != REASON_NO_ROOM:
        return COUNTED
    tid, args = request.tid, request.args
    size_bytes = max(args[2] - args[1], 0) if asks is Asks.MREMAP else args[1]

    def decide(judged: tuple[bool, int]) -> Answer:
        return COUNTED if judged[0] else _refused(limit, size_bytes)

    return _in_a_worker(partial(limit.judge, asks, tid, args), decide)


def _break(limit: Memory, context: Context, request: Request) -> Answer | Later:
    """brk(2) of the kernel tells no error: it returns where the heap ends, and the C library compares."""
    if request.reason != REASON_NO_ROOM:
        return COUNTED
    tid, wanted = request.tid, request.args[0]

    def decide(judged: tuple[bool, int]) -> Answer:
        fits, end = judged
        if fits:
            context.engine.break_known(tid, wanted)
            return COUNTED
        end = context.engine.break_known(tid, end)
        record.refused(context, request, _refused(limit, max(wanted - end, 0) if end else 0))
        return Value(end)

    return _in_a_worker(partial(limit.judge, Asks.BRK, tid, request.args), decide)


def _in_a_worker(work: Callable[[], Any], then: Callable[[Any], Answer | Later]) -> Later:
    """It waits for what the program does with its memory, or for the count of all that is in use."""
    return Later(work, then, _nothing, is_busy=True)


def _nothing() -> None:
    pass


def _map(limit: Memory, context: Context, request: Request) -> Answer | Later:
    size_bytes, prot, flags = request.args[1], request.args[2], request.args[3]
    if request.reason == REASON_NO_ROOM:
        return _judged(limit, Asks.MMAP, context, request)
    if limit.is_by_group or flags & _MAP_HUGETLB or not context.makes_shared_memory or not size_bytes:
        return COUNTED
    if prot & _PROT_WRITE and not flags & _MAP_NORESERVE and not limit.asks(size_bytes):

        def decide(fits: bool) -> Answer:
            return _shared(limit, context, request) if fits else _refused(limit, size_bytes)

        return _in_a_worker(partial(limit.asks_exactly, size_bytes), decide)
    return _shared(limit, context, request)


def _shared(limit: Memory, context: Context, request: Request) -> Answer:
    size_bytes, prot, flags = request.args[1], request.args[2], request.args[3]
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


def _allocate(limit: Memory, otherwise: Handler | None, context: Context, request: Request) -> Answer | Later:
    """fallocate(fd, mode, offset, length) takes any amount in a moment."""
    length = request.args[3]

    def go_on() -> Answer | Later:
        return COUNTED if otherwise is None else otherwise(context, request)

    if request.args[1] & _FALLOC_TAKES_NONE or limit.asks(length):
        return go_on()
    caller = Caller(context, request)
    try:
        opened = sockets.duplicate(caller.tid, lookup.as_int(request.args[0]))
    except OSError:
        return go_on()  # the kernel will find the same
    try:
        caller.require_alive()
    except BaseException:
        opened.close()
        raise

    def fits() -> bool:
        """A server may let us wait for what its file lies on."""
        with opened:
            return not lies_in_memory(opened) or limit.asks_exactly(length)

    def decide(fits: bool) -> Answer | Later:
        return go_on() if fits else _refused(limit, length, errno.ENOSPC)

    return Later(fits, decide, opened.close, is_busy=True)
