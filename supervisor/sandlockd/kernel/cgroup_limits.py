"""What a cgroup of ours is told to hold its processes to."""

from __future__ import annotations

import collections
import contextlib
import os

from sandlockd.kernel.cgroup_places import NotOurs
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.cgroups import Group

_PERIOD_US = 100_000  # of cpu.max, as the kernel has it by itself
_HUGE_PAGES = "/sys/kernel/mm/hugepages"
_REALTIME = (os.SCHED_FIFO, os.SCHED_RR)


class MemoryFiles(collections.namedtuple("MemoryFiles", "usage peak stat events event")):
    """What tells of the memory of a group, opened; events: how often it ran out of it, and event becomes readable then.

    None: this kernel has none; of event, that events is to be polled for POLLPRI.
    """

    __slots__ = ()
    usage: OwnedFd
    peak: OwnedFd | None
    stat: OwnedFd
    events: OwnedFd
    event: OwnedFd | None


def limit_memory(group: Group, limit_bytes: int) -> MemoryFiles:
    """Memory and swap together. Raises NotOurs, OSError."""
    if _has_huge_pages():
        raise NotOurs("this machine has huge pages set aside, which the controller does not count")
    text = b"%d" % limit_bytes
    if group.version == 1:
        _require_swap_counted(group, b"memory.memsw.limit_in_bytes")
        group.write(b"memory.limit_in_bytes", text)
        kind = b"memory"
        with contextlib.suppress(FileNotFoundError):  # then there is no swap
            group.write(b"memory.memsw.limit_in_bytes", text)
            kind = b"memory.memsw"  # which is what may run out, with hardly any of it in memory
        events = group.open(b"memory.oom_control")
        event = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        group.write(b"cgroup.event_control", b"%d %d" % (event.fd, events.fd))
        names = (kind + b".usage_in_bytes", kind + b".max_usage_in_bytes")
        usage, peak = (group.open(name) for name in names)
        return MemoryFiles(usage, peak, group.open(b"memory.stat"), events, event)
    _require_swap_counted(group, b"memory.swap.max")
    with contextlib.suppress(FileNotFoundError):
        group.write(b"memory.swap.max", b"0")
    group.write(b"memory.oom.group", b"1")
    group.write(b"memory.max", text)
    most = None
    with contextlib.suppress(FileNotFoundError):  # before Linux 5.19
        most = group.open(b"memory.peak")
    usage, stat_file = group.open(b"memory.current"), group.open(b"memory.stat")
    return MemoryFiles(usage, most, stat_file, group.open(b"memory.events"), None)


def lift_memory(group: Group) -> None:
    """Raises OSError."""
    if group.version == 2:
        group.write(b"memory.max", b"max")
        return
    with contextlib.suppress(FileNotFoundError):
        group.write(b"memory.memsw.limit_in_bytes", b"-1")
    group.write(b"memory.limit_in_bytes", b"-1")


def _require_swap_counted(group: Group, name: bytes) -> None:
    """Raises NotOurs."""
    if os.path.exists(group.path + b"/" + name):
        return
    with open("/proc/swaps", "rb") as file:
        if len(file.readlines()) > 1:
            raise NotOurs("the kernel does not count what is swapped out (swapaccount=1)")


def _has_huge_pages() -> bool:
    """Of any size."""
    try:
        sizes = os.listdir(_HUGE_PAGES)
    except FileNotFoundError:
        return False
    for size in sizes:
        for name in ("nr_hugepages", "nr_overcommit_hugepages"):
            with open(f"{_HUGE_PAGES}/{size}/{name}", "rb") as file:
                if int(file.read()):
                    return True
    return False


def limit_tasks(group: Group, most: int) -> None:
    """Processes and threads, together. Raises OSError."""
    group.write(b"pids.max", b"%d" % most)


def limit_processors(group: Group, percent: int) -> None:
    """Of one. Raises NotOurs, OSError."""
    if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK in _REALTIME:
        # With CONFIG_RT_GROUP_SCHED it could not even be put there (EINVAL).
        raise NotOurs(
            "we have a realtime priority, and so has the program: the controller does not hold such"
        )
    quota_us = percent * _PERIOD_US // 100
    if group.version == 1:
        group.write(b"cpu.cfs_period_us", b"%d" % _PERIOD_US)
        group.write(b"cpu.cfs_quota_us", b"%d" % quota_us)
    else:
        group.write(b"cpu.max", b"%d %d" % (quota_us, _PERIOD_US))
