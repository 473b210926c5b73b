"""Which files are told otherwise than the machine has them, for one sandbox; each as a sealed copy (kernel/sealed.py).

- `limits.memory`: meminfo, vmstat, swaps, and what /sys has of each node's memory. zoneinfo and buddyinfo are refused:
  they say of which pages the machine's memory is made, and nobody needs that.
- `limits.cpu`, where it takes less than all processors: cpuinfo, stat, uptime, interrupts, softirqs, the status of a
  process, and what is in /sys/devices/system/cpu; what is there of a processor that is not shown does not exist.
- the sandbox's own number of processes: loadavg, and who runs in stat.

What lies in /sys the kernel's wall does not grant then: the supervisor serves it (`directories`).
"""

from __future__ import annotations

import errno
import os
import re
from functools import partial

from sandlockd.handlers import copies, record
from sandlockd.handlers.answers import ENOENT, Errno
from sandlockd.handlers.limited import texts
from sandlockd.kernel import acts, machine
from sandlockd.policy.verdict import Verdict, Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Caller
    from sandlockd.handlers.opening import How
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.kernel.memlimit import Memory

    Tell = Callable[[Caller, bytes], bytes]

PROCESSORS, NODES = b"/sys/devices/system/cpu", b"/sys/devices/system/node"
MEMORY_RULE, PROCESSORS_RULE = "limits.memory", "limits.cpu"

_READ_BYTES = 1 << 18
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LISTS = tuple(
    PROCESSORS + b"/" + name for name in (b"online", b"present", b"possible", b"enabled", b"offline")
)
_STATUS = rb"/proc/\d+/(?:task/\d+/)?status"
_OF_PROCESSOR = re.escape(PROCESSORS) + rb"/cpu(\d+)(?:/(.+))?"
_BESIDE = rb"(?:topology|cache/index\d+)/(?:\w+_(?:(list)|siblings|cpus|map))"
_OF_NODE = re.escape(NODES) + rb"/node\d+/(\w+)"
_LISTING = rb"(?:%b|%b/node\d+)" % (re.escape(PROCESSORS), re.escape(NODES))
_ENTRY = rb"cpu(\d+)"


def directories(*, memory: bool, processors: bool) -> tuple[bytes, ...]:
    """In which something is told, or hidden."""
    return ((PROCESSORS,) if processors else ()) + ((NODES,) if memory or processors else ())


class View:
    """memory: where it is limited. processors: the numbers of those that are shown; none: as they are.

    counts_processes: how many there are is how many the sandbox has.
    """

    def __init__(self, *, memory: Memory | None, processors: tuple[int, ...], counts_processes: bool) -> None:
        self.memory = memory
        self.processors = processors
        self.counts_processes = counts_processes
        self._hidden: frozenset[bytes] = frozenset()
        self._told: dict[bytes, Tell] = {}
        if memory is not None:
            self._hidden = frozenset((b"/proc/zoneinfo", b"/proc/buddyinfo"))
            self._told |= {
                b"/proc/meminfo": lambda _, text: texts.memory_information(text, *self.used()),
                b"/proc/vmstat": self._pages,
                b"/proc/swaps": lambda _, text: texts.swaps(text),
            }
        if processors:
            counts = self._shown(texts.columns)
            self._told |= {
                b"/proc/cpuinfo": self._shown(texts.processor_information),
                b"/proc/uptime": self._uptime,
                **dict.fromkeys((b"/proc/interrupts", b"/proc/softirqs"), counts),
                **dict.fromkeys(_LISTS, self._shown(texts.processor_list)),
                b"/proc/sys/kernel/watchdog_cpumask": self._shown(texts.processor_list),
            }
        if processors or counts_processes:
            self._told[b"/proc/stat"] = self._statistics
        if counts_processes:
            self._told[b"/proc/loadavg"] = _load_averages

    def used(self) -> tuple[int, int]:
        """(the limit, what is used), as it was found at the last look: that is 0.25 s ago at most."""
        assert self.memory is not None
        return self.memory.limit_bytes, self.memory.state().used_bytes

    # ---- /proc

    def refuses(self, path: bytes) -> bool:
        return path in self._hidden

    def tell(self, caller: Caller, path: bytes, file: OwnedFd, *, close_on_exec: bool) -> Answer | None:
        """What is served instead of a file of /proc, opened for reading. None: the file itself."""
        if self.refuses(path):
            return _refuse(MEMORY_RULE, path, Want.READ)
        tell = self._told.get(path)
        if tell is None and self.processors and re.fullmatch(_STATUS, path):
            tell = self._shown(texts.process_status)
        return None if tell is None else _copy(caller, tell, file, close_on_exec=close_on_exec)

    def _shown(self, tell: Callable[[bytes, Sequence[int]], bytes]) -> Tell:
        return lambda _, text: tell(text, self.processors)

    def _pages(self, caller: Caller, text: bytes) -> bytes:
        limit_bytes, used_bytes = self.used()
        most = min(limit_bytes, texts.machine_bytes(machine.information()))
        return texts.page_statistics(text, most, used_bytes, _PAGE_BYTES)

    def _uptime(self, caller: Caller, text: bytes) -> bytes:
        return texts.uptime(text, len(self.processors), os.sysconf("SC_NPROCESSORS_ONLN"))

    def _statistics(self, caller: Caller, text: bytes) -> bytes:
        if self.processors:
            text = texts.statistics(text, self.processors)
        return texts.running(text) if self.counts_processes else text

    # ---- /sys

    def tell_of_devices(self, caller: Caller, path: bytes, opened: OwnedFd, how: How) -> Answer | None:
        """Likewise of what the policy grants of /sys, by its canonical path."""
        if not path.startswith(b"/sys/devices/system/") or how.flags & os.O_PATH:
            return None
        if self.hides(path):
            return ENOENT
        tell = self._told.get(path) or self._of_processor(path) or self._of_node(path)
        if tell is None:
            return None
        if how.want & Want.WRITE:
            return _refuse(PROCESSORS_RULE if self.processors else MEMORY_RULE, path, how.want)
        try:
            with caller.act(acts.reopen, opened, os.O_RDONLY | os.O_CLOEXEC) as file:
                caller.require_alive()
                return _copy(caller, tell, file, close_on_exec=bool(how.flags & os.O_CLOEXEC))
        except OSError as error:
            return Errno(error.errno or errno.EIO)

    def hides(self, path: bytes) -> bool:
        """Is it a processor that is not shown, or of one?"""
        match = re.fullmatch(_OF_PROCESSOR, path) if self.processors else None
        return match is not None and int(match[1]) not in self.processors

    def hidden_in(self, directory: bytes, names: list[bytes]) -> set[bytes]:
        """Which of the names in a directory do not exist for the program."""
        if not self.processors or not re.fullmatch(_LISTING, directory):
            return set()
        matches = (re.fullmatch(_ENTRY, name) for name in names)
        return {match[0] for match in matches if match and int(match[1]) not in self.processors}

    def tells_listing(self, directory: bytes) -> bool:
        return bool(self.processors) and re.fullmatch(_LISTING, directory) is not None

    def _of_processor(self, path: bytes) -> Tell | None:
        """What a processor has in common with which others."""
        match = re.fullmatch(_OF_PROCESSOR, path) if self.processors else None
        beside = re.fullmatch(_BESIDE, match[2]) if match and match[2] else None
        if beside is None:
            return None
        return self._shown(texts.processor_list if beside[1] else texts.processor_mask)

    def _of_node(self, path: bytes) -> Tell | None:
        match = re.fullmatch(_OF_NODE, path)
        name = b"" if match is None else match[1]
        if self.processors and name == b"cpulist":
            return self._shown(texts.processor_list)
        if self.processors and name == b"cpumap":
            return self._shown(texts.processor_mask)
        if self.memory is not None and name == b"meminfo":
            return self._node_memory
        if self.memory is not None and name == b"vmstat":
            return partial(self._node_pages, path.removesuffix(b"vmstat"))
        return None

    def _node_memory(self, caller: Caller, text: bytes) -> bytes:
        return texts.node_information(text, *self.used(), _bytes_of_nodes())

    def _node_pages(self, node: bytes, caller: Caller, text: bytes) -> bytes:
        with open(node + b"meminfo", "rb") as file:
            share = texts.node_bytes(file.read()), _bytes_of_nodes()
        return texts.node_page_statistics(text, *self.used(), _PAGE_BYTES, share)


def _bytes_of_nodes() -> int:
    """Of all together. Not the machine's: memory that is added while it runs is in that first."""
    found = 0
    for name in os.listdir(NODES):
        if re.fullmatch(rb"node\d+", name):
            with open(NODES + b"/" + name + b"/meminfo", "rb") as file:
                found += texts.node_bytes(file.read())
    return found


def _load_averages(caller: Caller, text: bytes) -> bytes:
    from sandlockd.handlers.private import told  # where own processes are, too

    return told.load_averages(caller, text)


def _copy(caller: Caller, tell: Tell, file: OwnedFd, *, close_on_exec: bool) -> Answer:
    parts: list[bytes] = []
    while block := os.read(file.fd, _READ_BYTES):
        parts.append(block)
    return copies.give(caller, tell(caller, b"".join(parts)), close_on_exec=close_on_exec)


def _refuse(rule: str, path: bytes, want: Want) -> Answer:
    return record.refuse(Verdict(False, rule, None), path=path, wanted=want)
