"""Calls that name a process, a thread or a group by its number: whoever is outside has a number that is free.

What names it is in registers, so the kernel may answer for what belongs to the sandbox. For groups and users that hold
processes of both, the answer is made here, of those of the sandbox.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import partial

from sandlockd.handlers import lookup, record
from sandlockd.handlers.answers import EINVAL, Backstop, Continue, Errno, Value, Write
from sandlockd.handlers.context import Caller
from sandlockd.handlers.private import members, walk
from sandlockd.kernel import acts, memory, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlockd.handlers.answers import Answer, Later
    from sandlockd.handlers.context import Context
    from sandlockd.kernel.engine import Request

    Handler = Callable[[Context, Request], Answer | Later]
    Act = Callable[[Caller], Answer | None]

_TO_KERNEL = Continue(Backstop.OWN_NUMBER)
_ESRCH = Errno(errno.ESRCH)
_EPERM = Errno(errno.EPERM)
_INT_MIN = -(1 << 31)


def around(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Handlers by name, with those of here asked first."""
    return {**handlers, **{name: partial(_handle, act, handlers.get(name)) for name, act in _ACTS.items()}}


def _handle(act: Act, bare: Handler | None, context: Context, request: Request) -> Answer | Later:
    """act: None of it where the process belongs to the sandbox, so that only the rules for those are left."""
    try:
        answer = act(Caller(context, request))
    except OSError as error:
        if walk.is_ours(error):
            raise  # nobody is said not to be there for that
        return Errno(error.errno or errno.EIO)
    if answer is not None:
        return answer
    return _TO_KERNEL if bare is None else bare(context, request)


def _int(caller: Caller, position: int) -> int:
    return lookup.as_int(caller.request.args[position])


def _is_there(caller: Caller, number: int) -> bool:
    return number in (caller.tid, caller.tgid) or members.belongs(caller.context, number)


def _named(caller: Caller, position: int, missing: Answer = _ESRCH) -> Answer | None:
    """Of numbers that are none the kernel says what they are."""
    number = _int(caller, position)
    return None if number <= 0 or _is_there(caller, number) else missing


def _by_first(caller: Caller) -> Answer | None:
    return _named(caller, 0)


def _by_second(caller: Caller) -> Answer | None:
    return _named(caller, 1)


def _by_both(caller: Caller) -> Answer | None:
    return _named(caller, 0) or _named(caller, 1)


def _kill(caller: Caller) -> Answer | None:
    """A group is one of the sandbox's if one of its processes is in it: others in it are spared by Landlock."""
    number = _int(caller, 0)
    if number >= -1:
        return _named(caller, 0)
    return None if _has_group(caller, -number) else _ESRCH


def _has_group(caller: Caller, number: int) -> bool:
    return members.has_group(caller.context, number)


def _pidfd_open(caller: Caller) -> Answer | None:
    known = os.O_NONBLOCK | os.O_EXCL  # PIDFD_THREAD
    return None if caller.request.args[1] & 0xFFFFFFFF & ~known else _named(caller, 0)


def _set_group(caller: Caller) -> Answer | None:
    number, group = _int(caller, 0), _int(caller, 1)
    if group < 0:
        return EINVAL
    is_own = number in (0, caller.tgid)
    if number > 0 and not is_own and not _is_there(caller, number):
        return _ESRCH
    new = group or number or caller.tgid
    if new == (number or caller.tgid) or _has_group(caller, new):
        return None
    return _EPERM if is_own or _is_child(caller, number) else _ESRCH


def _is_child(caller: Caller, number: int) -> bool:
    try:
        return procfs.parent_of(number) == caller.tgid
    except OSError:
        return False


# ---- scheduling of several

_PROCESS, _GROUP, _USER = range(3)
_IO_CLASS_NONE, _IO_CLASS_BEST_EFFORT = 0, 2


def _chosen(caller: Caller, which: int, who: int) -> list[int] | None:
    """Threads of the sandbox that a group's or a user's number stands for; None: it is of a process, or of nothing."""
    if which == _GROUP:
        return members.of_group(caller.context, who or os.getpgid(caller.tgid))
    if which == _USER:
        return members.of_user(caller.context, who if who else caller.status.uids[0])
    return None


def _get_priority(caller: Caller) -> Answer | None:
    which, who = _int(caller, 0), _int(caller, 1)
    chosen = _chosen(caller, which, who)
    if chosen is None:
        return _named(caller, 1) if which == _PROCESS else None
    found = [20 - nice for tid in chosen if (nice := _nice(tid)) is not None]
    return Value(max(found)) if found else _ESRCH


def _nice(tid: int) -> int | None:
    try:
        return os.getpriority(os.PRIO_PROCESS, tid)
    except OSError:
        return None


def _get_io_priority(caller: Caller) -> Answer | None:
    which, who = _int(caller, 0) - 1, _int(caller, 1)
    chosen = _chosen(caller, which, who)
    if chosen is None:
        return _named(caller, 1) if which == _PROCESS else None
    found = [priority for tid in chosen if (priority := _io_of(tid)) is not None]
    return Value(min(found)) if found else _ESRCH


def _io_of(tid: int) -> int | None:
    """Of one that has none of its own: by its nice value, as ioprio_get(2) has it for several."""
    try:
        priority = procfs.io_priority(tid)
    except OSError:
        return None
    if priority >> 13 != _IO_CLASS_NONE:
        return priority
    nice = _nice(tid)
    return None if nice is None else _IO_CLASS_BEST_EFFORT << 13 | (nice + 20) // 5


# ---- what lies in memory, or beside

_VERSIONS = {0x19980330: 1, 0x20071026: 2, 0x20080522: 2}  # linux/capability.h: how many structures
_VERSION_NOW = 0x20080522
_F_SETOWN, _F_SETOWN_EX = 8, 15
_OWNER_GROUP = 2
_PR_SCHED_CORE, _PR_SET_PTRACER = 62, 0x59616D61
_CLOCK_BITS = 3
_DEV_TTY = os.makedev(5, 0)


def _capabilities(caller: Caller) -> Answer:
    """capget: whose is in memory, so the kernel is not asked again. As kernel/capability.c has it."""
    header, data = caller.request.args[:2]
    version, number = struct.unpack("=Ii", _read(caller, header, 8))
    count = _VERSIONS.get(version)
    if count is None:
        caller.require_alive()
        memory.write_memory(caller.tid, header, struct.pack("=I", _VERSION_NOW))
        return EINVAL if data else Value(0)
    if not data:
        return Value(0)
    if number < 0:
        return EINVAL
    if number and not _is_there(caller, number):
        return _ESRCH
    sets = procfs.capabilities_of(number or caller.tid)
    words = (one >> 32 * word & 0xFFFFFFFF for word in range(count) for one in sets)
    return Write(data, struct.pack(f"={3 * count}I", *words), 0)


def _read(caller: Caller, address: int, size: int) -> bytes:
    data = memory.read_memory(caller.tid, address, size)
    caller.require_alive()
    return data


def _file_control(caller: Caller) -> Answer | None:
    """Who gets SIGIO. Landlock keeps it from whoever is outside; it is only not told who that is.

    Of F_SETOWN_EX that lies in memory, and may be another one when the kernel reads it.
    """
    if _int(caller, 1) != _F_SETOWN_EX:
        return _owner(caller, _int(caller, 2))
    kind, number = struct.unpack("=ii", _read(caller, caller.request.args[2], 8))
    if number <= 0:
        return Continue(Backstop.SIGNAL_OWNER)  # the kernel says what is wrong with it
    return _owner(caller, -number if kind == _OWNER_GROUP else number)


def _owner(caller: Caller, number: int) -> Answer | None:
    """Of a group, where it is below 0."""
    if number in (0, _INT_MIN):
        return Continue(Backstop.SIGNAL_OWNER)
    is_there = _has_group(caller, -number) if number < 0 else _is_there(caller, number)
    return Continue(Backstop.SIGNAL_OWNER) if is_there else _ESRCH


_TIOCSPGRP = 0x5410


def _device_control(caller: Caller) -> Answer | None:
    """FIOSETOWN, SIOCSPGRP: as F_SETOWN. TIOCSPGRP: who is in front at a terminal. Whose number, lies in memory."""
    (number,) = struct.unpack("=i", _read(caller, caller.request.args[2], 4))
    if _int(caller, 1) != _TIOCSPGRP:
        return _owner(caller, number) if _is_socket(caller) else Continue(Backstop.SIGNAL_OWNER)
    if number <= 0 or _has_group(caller, number):
        return Continue(Backstop.TERMINAL_GROUP)
    return _ESRCH if _is_own_terminal(caller) else Errno(errno.ENOTTY)


def _is_socket(caller: Caller) -> bool:
    try:
        link = os.readlink(procfs.directory_of(caller.tid, _int(caller, 0)))
    except FileNotFoundError:
        return False
    caller.require_alive()
    return link.startswith(b"socket:")


def _is_own_terminal(caller: Caller) -> bool:
    """Is the descriptor one of the terminal that its session has? Else that is what the kernel finds first."""
    with acts.duplicate_of(caller.tgid, _int(caller, 0)) as opened:
        caller.require_alive()
        device = os.fstat(opened.fd).st_rdev
        own = procfs.terminal_of(caller.tid)
    caller.require_alive()
    return own != 0 and device in (own, _DEV_TTY)


def _process_control(caller: Caller) -> Answer | None:
    option, args = _int(caller, 0), caller.request.args
    if option == _PR_SCHED_CORE:
        return _named(caller, 2) or _TO_KERNEL
    if option == _PR_SET_PTRACER:
        anybody = args[1] in (0, (1 << 64) - 1)
        return _TO_KERNEL if anybody else _named(caller, 1, EINVAL) or _TO_KERNEL
    return None


def _clock(caller: Caller) -> Answer | None:
    """The clock of a process or a thread has its number in it, inverted."""
    number = ~(_int(caller, 0) >> _CLOCK_BITS)
    return None if number <= 0 or _is_there(caller, number) else EINVAL


def _trace(caller: Caller) -> Answer | None:
    return _named(caller, 1) or Continue(Backstop.LANDLOCK_PROCESSES)


def _limits(caller: Caller) -> Answer | None:
    """Asking for those of a process of the sandbox is the kernel's; changing them is judged as ever."""
    return _named(caller, 0) or (None if caller.request.args[2] else _TO_KERNEL)


def _set_one(caller: Caller) -> Answer | None:
    """setpriority, ioprio_set: of groups and users is judged as ever."""
    is_one = _int(caller, 0) == (
        0 if record.call_name(caller.context, caller.request) == "setpriority" else 1
    )
    return _named(caller, 1) if is_one else None


_ACTS: dict[str, Act] = {
    "kill": _kill,
    **dict.fromkeys(("tkill", "rt_sigqueueinfo"), _by_first),
    **dict.fromkeys(("tgkill", "rt_tgsigqueueinfo"), _by_second),
    **dict.fromkeys(("getpgid", "getsid", "get_robust_list"), _by_first),
    **dict.fromkeys(
        ("sched_getparam", "sched_getscheduler", "sched_getattr", "sched_getaffinity"), _by_first
    ),
    "sched_rr_get_interval": _by_first,
    "pidfd_open": _pidfd_open,
    "setpgid": _set_group,
    "getpriority": _get_priority,
    "ioprio_get": _get_io_priority,
    "prlimit64": _limits,
    "capget": _capabilities,
    "fcntl": _file_control,
    "ioctl": _device_control,
    "prctl": _process_control,
    "ptrace": _trace,
    **dict.fromkeys(("clock_gettime", "clock_getres", "clock_nanosleep", "timer_create"), _clock),
    # Refused for others of the sandbox as well (targets), but not as if there were nobody.
    **dict.fromkeys(
        ("sched_setparam", "sched_setscheduler", "sched_setattr", "sched_setaffinity"), _by_first
    ),
    **dict.fromkeys(("migrate_pages", "move_pages", "process_vm_readv", "process_vm_writev"), _by_first),
    **dict.fromkeys(("setpriority", "ioprio_set"), _set_one),
    "kcmp": _by_both,
}
