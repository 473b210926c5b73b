"""What the machine is to a program whose memory and processors are limited: the same numbers wherever it asks.

Pure: texts and structures are made of the kernel's own and of numbers. Nobody serves them yet: `limits.memory` and
`limits.cpu` are not enforced so far, and who has no limit sees the machine.
"""

from __future__ import annotations

import struct

_KIB = 1024
_LONG_MAX = (1 << 63) - 1


# ---- memory


def memory_information(text: bytes, limit_bytes: int, used_bytes: int) -> bytes:
    """meminfo: all the fields that the kernel has, in its order; what is used is anonymous memory, without swap."""
    told = _memory(_machine_kib(text), limit_bytes, used_bytes)
    return b"".join(_memory_line(line, told) for line in text.splitlines(keepends=True))


def _machine_kib(text: bytes) -> int:
    for line in text.splitlines():
        if line.startswith(b"MemTotal:"):
            return int(line.split()[1])
    return _LONG_MAX


def _memory(machine_kib: int, limit_bytes: int, used_bytes: int) -> dict[bytes, int]:
    total = min(limit_bytes // _KIB, machine_kib)
    used = min(-(-used_bytes // _KIB), total)
    return {
        b"MemTotal": total,
        b"MemFree": total - used,
        b"MemAvailable": total - used,
        **dict.fromkeys((b"Active", b"Active(anon)", b"AnonPages", b"Committed_AS"), used),
        b"CommitLimit": total,
    }


def _memory_line(line: bytes, told: dict[bytes, int]) -> bytes:
    name, colon, rest = line.partition(b":")
    words = rest.split()
    if not colon or len(words) != 2 or name == b"Hugepagesize" or name.startswith((b"Vmalloc", b"DirectMap")):
        return line  # of the machine's kind, not of its memory; HugePages_ are counts
    return b"%-16s%8d kB\n" % (name + b":", told.get(name, 0))


def system_information(
    structure: bytes, limit_bytes: int, used_bytes: int, processes: int, machine_bytes: int
) -> bytes:
    """struct sysinfo of sysinfo(2), 64-bit, with mem_unit 1: consistent with memory_information."""
    uptime, *loads = struct.unpack_from("=q3Q", structure)
    told = _memory(machine_bytes // _KIB, limit_bytes, used_bytes)
    total, free = told[b"MemTotal"] * _KIB, told[b"MemFree"] * _KIB
    head = struct.pack(
        "=q3Q6QHxxxxxxQQI", uptime, *loads, total, free, 0, 0, 0, 0, min(processes, 0xFFFF), 0, 0, 1
    )
    return head.ljust(len(structure), b"\0")


# ---- processors


def processors(percent: int, machine_count: int) -> int:
    """How many a share of them is: as many as are needed to use it (100 is one)."""
    return max(1, min(-(-percent // 100), machine_count))


def online(count: int) -> bytes:
    """/sys/devices/system/cpu/online."""
    return b"0\n" if count == 1 else b"0-%d\n" % (count - 1)


def processor_information(text: bytes, count: int) -> bytes:
    """cpuinfo: the first ones, a paragraph each."""
    return b"".join(paragraph + b"\n\n" for paragraph in text.split(b"\n\n")[:count] if paragraph.strip())


def statistics(text: bytes, count: int) -> bytes:
    """stat: of the first ones, and their sum."""
    lines = text.splitlines(keepends=True)
    own = {b"cpu%d" % number for number in range(count)}
    rows = [[int(word) for word in line.split()[1:]] for line in lines if line.split(b" ", 1)[0] in own]
    whole = b"cpu  " + b" ".join(b"%d" % sum(column) for column in zip(*rows, strict=True)) + b"\n"
    others = [line for line in lines if not line.startswith(b"cpu") or line.split(b" ", 1)[0] in own]
    return whole + b"".join(others)


def uptime(text: bytes, count: int, machine_count: int) -> bytes:
    """uptime: the second number is how long processors were idle, all together."""
    up, idle = text.split()[:2]
    return b"%b %.2f\n" % (up, float(idle) * count / max(machine_count, 1))


def affinity(mask: bytes, count: int) -> bytes:
    """sched_getaffinity(2): the first ones of those that it may run on."""
    bits = int.from_bytes(mask, "little")
    kept = 0
    for _ in range(count):
        lowest = bits & -bits
        kept |= lowest
        bits ^= lowest
    return kept.to_bytes(len(mask), "little")
