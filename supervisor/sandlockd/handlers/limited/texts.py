"""What the machine is to a program whose memory and processors are limited: texts and structures, made of the kernel's
own and of numbers.

Pure: nothing here opens a file or reads a process. Patterns are compiled when they are first used: else each start
would pay for them.
"""

from __future__ import annotations

import re
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_KIB = 1024
_LONG_MAX = (1 << 63) - 1
_SYSINFO = struct.Struct("=q3Q6QHxxxxxxQQI")  # 64-bit


# ---- memory


def memory_information(text: bytes, limit_bytes: int, used_bytes: int) -> bytes:
    """meminfo: all the fields that the kernel has, in its order; what is used is anonymous memory, without swap."""
    told = _memory(_machine_kib(text), limit_bytes, used_bytes)
    return b"".join(_memory_line(b"", line, told) for line in text.splitlines(keepends=True))


def node_information(text: bytes, limit_bytes: int, used_bytes: int, machine_bytes: int) -> bytes:
    """node/nodeN/meminfo: of what the machine is told to have, the part that the node has of the machine."""
    total = _machine_kib(text)
    limit_bytes, used_bytes = _part(total * _KIB, limit_bytes, used_bytes, machine_bytes)
    told = _memory(total, limit_bytes, used_bytes)
    told[b"MemUsed"] = told[b"MemTotal"] - told[b"MemFree"]
    return b"".join(
        _memory_line(line[: match.end()], line[match.end() :], told)
        for line in text.splitlines(keepends=True)
        if (match := re.match(_NODE, line))
    )


_NODE = rb"Node +\d+ +"


def _part(node_bytes: int, limit_bytes: int, used_bytes: int, machine_bytes: int) -> tuple[int, int]:
    most = min(limit_bytes, machine_bytes)
    return (most * node_bytes // machine_bytes, used_bytes * node_bytes // machine_bytes)


def node_bytes(text: bytes) -> int:
    """From node/nodeN/meminfo: how much it has."""
    return _machine_kib(text) * _KIB


def _machine_kib(text: bytes) -> int:
    for line in text.splitlines():
        name, _, rest = line.partition(b"MemTotal:")
        if rest and (not name or name.startswith(b"Node")):
            return int(rest.split()[0])
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


def _memory_line(prefix: bytes, line: bytes, told: dict[bytes, int]) -> bytes:
    name, colon, rest = line.partition(b":")
    words = rest.split()
    if not colon or len(words) != 2 or name == b"Hugepagesize" or name.startswith((b"Vmalloc", b"DirectMap")):
        return prefix + line  # of the machine's kind, not of its memory; HugePages_ are counts
    return prefix + b"%-16s%8d kB\n" % (name + b":", told.get(name, 0))


def page_statistics(text: bytes, limit_bytes: int, used_bytes: int, page_bytes: int) -> bytes:
    """vmstat: the pages that are in use and free. What happened to the machine's, and how often, is nothing of it."""
    used = min(used_bytes, limit_bytes) // page_bytes
    told = {
        b"nr_free_pages": limit_bytes // page_bytes - used,
        **dict.fromkeys((b"nr_zone_active_anon", b"nr_active_anon", b"nr_anon_pages"), used),
    }
    names = (line.split(b" ", 1)[0] for line in text.splitlines())
    return b"".join(b"%b %d\n" % (name, told.get(name, 0)) for name in names)


def node_page_statistics(
    text: bytes, limit_bytes: int, used_bytes: int, page_bytes: int, share: tuple[int, int]
) -> bytes:
    """node/nodeN/vmstat. share: what the node has, and the machine."""
    return page_statistics(text, *_part(share[0], limit_bytes, used_bytes, share[1]), page_bytes)


def swaps(text: bytes) -> bytes:
    """swaps: there is none."""
    return b"".join(text.splitlines(keepends=True)[:1])


def machine_bytes(structure: bytes) -> int:
    """From struct sysinfo."""
    fields = _SYSINFO.unpack_from(structure)
    return int(fields[4]) * int(fields[-1] or 1)


def system_information(
    structure: bytes, memory: tuple[int, int] | None = None, processes: int | None = None
) -> bytes:
    """struct sysinfo of sysinfo(2): consistent with memory_information, then with mem_unit 1.

    memory: (limit, used), in bytes. processes: with their threads, as the kernel counts.
    """
    fields = list(_SYSINFO.unpack_from(structure))
    if memory is not None:
        told = _memory(machine_bytes(structure) // _KIB, *memory)
        fields[4:10] = (told[b"MemTotal"] * _KIB, told[b"MemFree"] * _KIB, 0, 0, 0, 0)
        fields[11:14] = (0, 0, 1)
    if processes is not None:
        fields[10] = min(processes, 0xFFFF)
    return _SYSINFO.pack(*fields).ljust(len(structure), b"\0")


# ---- processors


def processors(percent: int, machine_count: int) -> int:
    """How many a share of them is: as many as are needed to use it (100 is one)."""
    return max(1, min(-(-percent // 100), machine_count))


def written(numbers: Iterable[int]) -> bytes:
    """A list of processors as the kernel has it: `0-3,8`."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return b",".join(b"%d" % low if low == high else b"%d-%d" % (low, high) for low, high in ranges)


def listed(text: bytes) -> set[int]:
    """The other way round."""
    found: set[int] = set()
    for part in text.strip().split(b","):
        if part:
            low, _, high = part.partition(b"-")
            found.update(range(int(low), int(high or low) + 1))
    return found


def processor_list(text: bytes, shown: Sequence[int]) -> bytes:
    """A file with such a list: those of it that are shown."""
    return written(listed(text) & set(shown)) + b"\n"


def processor_mask(text: bytes, shown: Sequence[int]) -> bytes:
    """The same in hexadecimal digits, `ff,ffffffff`: as many as there are."""
    digits = text.strip().replace(b",", b"")
    kept = b"%0*x" % (len(digits), int(digits, 16) & sum(1 << number for number in shown))
    head = len(kept) % 8
    groups = [kept[:head]] if head else []
    return b",".join(groups + [kept[at : at + 8] for at in range(head, len(kept), 8)]) + b"\n"


_FIELD = rb"(?m)^(processor|physical id|core id|siblings|cpu cores)(\s*:\s*)(\d+)[ \t]*$"


def processor_information(text: bytes, shown: Sequence[int]) -> bytes:
    """cpuinfo: a paragraph for each, with as many beside it as are shown."""
    kept: list[tuple[dict[bytes, int], bytes]] = []
    for paragraph in text.split(b"\n\n"):
        fields = {match[1]: int(match[3]) for match in re.finditer(_FIELD, paragraph)}
        if paragraph.strip() and fields.get(b"processor", shown[0]) in shown:
            kept.append((fields, paragraph.rstrip(b"\n")))
    all_fields = [fields for fields, _ in kept if b"processor" in fields]
    return b"".join(_beside(paragraph, fields, all_fields) + b"\n\n" for fields, paragraph in kept)


def _beside(paragraph: bytes, fields: dict[bytes, int], all_fields: list[dict[bytes, int]]) -> bytes:
    package = fields.get(b"physical id")
    mates = [other for other in all_fields if other.get(b"physical id") == package]
    told = {b"siblings": len(mates), b"cpu cores": len({other.get(b"core id") for other in mates})}
    return re.sub(
        _FIELD, lambda match: b"%b%b%d" % (match[1], match[2], told.get(match[1], int(match[3]))), paragraph
    )


def statistics(text: bytes, shown: Sequence[int]) -> bytes:
    """stat: of those that are shown, and their sum."""
    lines = text.splitlines(keepends=True)
    own = {b"cpu%d" % number for number in shown}
    rows = [[int(word) for word in line.split()[1:]] for line in lines if line.split(b" ", 1)[0] in own]
    whole = b"cpu  " + b" ".join(b"%d" % sum(column) for column in zip(*rows, strict=True)) + b"\n"
    others = [line for line in lines if not line.startswith(b"cpu") or line.split(b" ", 1)[0] in own]
    return whole + b"".join(others)


_RUNNING = rb"(?m)^(procs_running|procs_blocked) \d+$"


def running(text: bytes) -> bytes:
    """stat: of the processes that run now, whoever asks is one."""
    return re.sub(_RUNNING, lambda match: b"%b %d" % (match[1], match[1] == b"procs_running"), text)


def uptime(text: bytes, count: int, machine_count: int) -> bytes:
    """uptime: the second number is how long processors were idle, all together."""
    up, idle = text.split()[:2]
    return b"%b %.2f\n" % (up, float(idle) * count / max(machine_count, 1))


_COLUMN = rb"\s+CPU(\d+)"
_NUMBER = rb"\s+\d+"


def columns(text: bytes, shown: Sequence[int]) -> bytes:
    """interrupts, softirqs: a column for each."""
    head, *lines = text.splitlines(keepends=True)
    numbers = [int(number) for number in re.findall(_COLUMN, head)]
    row = re.compile(rb"(\s*\S+:)((?:\s+\d+){%d})(?=\s)" % len(numbers))
    kept = [place for place, number in enumerate(numbers) if number in shown]
    titles = [match[0] for match in re.finditer(_COLUMN, head)]
    told = [b"".join(titles[place] for place in kept) + b"\n"]
    for line in lines:
        match = row.match(line)
        if match is None:  # one number for the whole machine
            told.append(line)
            continue
        counts = re.findall(_NUMBER, match[2])
        told.append(match[1] + b"".join(counts[place] for place in kept) + line[match.end() :])
    return b"".join(told)


def _allowed(bits: int, shown: Sequence[int]) -> int:
    """Of those that it may run on: who chose only such as are not shown to it, finds as many of those."""
    kept = bits & sum(1 << number for number in shown)
    if kept:
        return kept
    for _ in shown:
        lowest = bits & -bits
        kept |= lowest
        bits ^= lowest
    return kept


def affinity(mask: bytes, shown: Sequence[int]) -> bytes:
    """sched_getaffinity(2)."""
    return _allowed(int.from_bytes(mask, "little"), shown).to_bytes(len(mask), "little")


_ALLOWED = rb"(?m)^Cpus_allowed:\t(\S+)\nCpus_allowed_list:\t(\S*)$"


def process_status(text: bytes, shown: Sequence[int]) -> bytes:
    """status: as affinity."""
    return re.sub(_ALLOWED, lambda match: _status_lines(match, shown), text)


def _status_lines(match: re.Match[bytes], shown: Sequence[int]) -> bytes:
    bits = _allowed(int(match[1].replace(b",", b""), 16), shown)
    numbers = [number for number in range(bits.bit_length()) if bits >> number & 1]
    everything = b"f" * len(match[1].replace(b",", b""))
    mask = processor_mask(everything, numbers)
    return b"Cpus_allowed:\t%bCpus_allowed_list:\t%b" % (mask, written(numbers))
