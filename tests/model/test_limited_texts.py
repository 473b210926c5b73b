"""What the machine is to a program with limits, as texts made of this machine's own."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest

from sandlockd.handlers.limited import texts

_MIB = 1 << 20


def _fields(text: bytes) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^(\S+): +(\d+)", text.decode(), re.MULTILINE)}


# ---- memory


def test_memory_is_the_limit_wherever_it_is_asked_for() -> None:
    text = Path("/proc/meminfo").read_bytes()
    told = _fields(texts.memory_information(text, 512 << 20, 100 << 20))
    assert list(told) == list(_fields(text))
    assert told["MemTotal"] == 512 << 10
    assert told["MemFree"] == told["MemAvailable"] == 412 << 10
    assert told["MemTotal"] - told["MemFree"] - told["Buffers"] - told["Cached"] == told["AnonPages"]
    assert told["SwapTotal"] == told["SwapFree"] == told["Shmem"] == told["SReclaimable"] == 0
    widths = {
        len(line)
        for line in texts.memory_information(text, 1 << 62, 0).splitlines()
        if b"HugePages" not in line
    }
    assert widths == {len(line) for line in text.splitlines() if b"HugePages" not in line}


def test_a_limit_above_the_machines_memory_is_the_machines() -> None:
    text = Path("/proc/meminfo").read_bytes()
    told = _fields(texts.memory_information(text, 1 << 62, 1 << 61))
    assert told["MemTotal"] == _fields(text)["MemTotal"]
    assert told["MemFree"] == 0


def test_sysinfo_agrees_with_meminfo() -> None:
    structure = struct.pack("=q3Q6QHxxxxxxQQI", 7, 1, 2, 3, *(1 << 20,) * 6, 500, 4, 4, 4096).ljust(
        112, b"\0"
    )
    told = struct.unpack_from("=q3Q6QHxxxxxxQQI", texts.system_information(structure, (512 << 20, 1), 3))
    assert told[:4] == (7, 1, 2, 3)
    assert told[4:6] == (512 << 20, (512 << 20) - 1024)
    assert told[6:] == (0, 0, 0, 0, 3, 0, 0, 1)
    counted = struct.unpack_from("=q3Q6QHxxxxxxQQI", texts.system_information(structure, None, 3))
    assert counted == (7, 1, 2, 3, *(1 << 20,) * 6, 3, 4, 4, 4096)
    assert texts.system_information(structure) == structure


def test_a_node_has_its_part_of_the_limit() -> None:
    text = b"Node 1 MemTotal:       1048576 kB\nNode 1 MemFree:        48576 kB\nNode 1 MemUsed:   7 kB\n"
    text += b"Node 1 FilePages:     1 kB\nNode 1 HugePages_Total:     0\n"
    told = texts.node_information(text, 400 * _MIB, 40 * _MIB, 4096 * _MIB)
    assert told.splitlines() == [
        b"Node 1 MemTotal:         102400 kB",
        b"Node 1 MemFree:           92160 kB",
        b"Node 1 MemUsed:           10240 kB",
        b"Node 1 FilePages:             0 kB",
        b"Node 1 HugePages_Total:     0",
    ]
    alone = _fields(texts.memory_information(text.replace(b"Node 1 ", b""), 1 << 62, 0))
    whole = texts.node_information(text, 1 << 62, 0, 1024 * _MIB).replace(b"Node 1 ", b"")
    assert _fields(whole)["MemTotal"] == alone["MemTotal"] == 1048576


def test_pages_agree_with_bytes() -> None:
    text = Path("/proc/vmstat").read_bytes()
    told = dict(
        line.split() for line in texts.page_statistics(text, 512 * _MIB, 100 * _MIB, 4096).splitlines()
    )
    assert list(told) == [line.split()[0] for line in text.splitlines()]
    assert (told[b"nr_free_pages"], told[b"nr_anon_pages"]) == (b"%d" % (412 * 256), b"%d" % (100 * 256))
    assert {value for name, value in told.items() if not name.startswith(b"nr_")} == {b"0"}
    share = (512 * _MIB, 1024 * _MIB)
    half = texts.node_page_statistics(text, 512 * _MIB, 100 * _MIB, 4096, share)
    assert b"nr_free_pages %d\n" % (206 * 256) in half


def test_there_is_no_swap() -> None:
    head = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    assert texts.swaps(head + b"/dev/sda2 partition 1 0 -2\n") == texts.swaps(head) == head


# ---- processors


@pytest.mark.parametrize(("percent", "count"), [(1, 1), (100, 1), (101, 2), (150, 2), (400, 4), (10_000, 8)])
def test_a_share_is_as_many_processors_as_it_takes(percent: int, count: int) -> None:
    assert texts.processors(percent, 8) == count


@pytest.mark.parametrize(
    ("numbers", "text"), [((0,), b"0"), ((0, 1, 2), b"0-2"), ((1, 3, 4), b"1,3-4"), ((), b"")]
)
def test_lists_of_processors(numbers: tuple[int, ...], text: bytes) -> None:
    assert texts.written(numbers) == text
    assert texts.listed(text + b"\n") == set(numbers)
    assert texts.processor_list(b"0-1023\n", numbers) == text + b"\n"


def test_masks_of_processors_keep_their_digits() -> None:
    assert texts.processor_mask(b"3\n", (0,)) == b"1\n"
    assert texts.processor_mask(b"ff,ffffffff\n", (0, 33)) == b"02,00000001\n"
    assert texts.processor_mask(b"00000000,0000000f\n", (1, 40)) == b"00000000,00000002\n"


_PROCESSOR = (
    "processor\t: %d\nphysical id\t: %d\nsiblings\t: 4\ncore id\t\t: %d\ncpu cores\t: 2\nflags\t\t: fpu\n\n"
)


def test_what_is_shown_of_a_package_has_only_that_beside_it() -> None:
    text = "".join(_PROCESSOR % (number, number // 4, number % 2) for number in range(8)).encode()
    assert texts.processor_information(text, range(8)) == text
    told = texts.processor_information(text, (0, 2, 3, 5)).decode()
    found = re.findall(
        r"processor\t: (\d)\nphysical id\t: (\d)\nsiblings\t: (\d)\n.*\ncpu cores\t: (\d)", told
    )
    assert found == [("0", "0", "3", "2"), ("2", "0", "3", "2"), ("3", "0", "3", "2"), ("5", "1", "1", "1")]


def test_one_processor_of_this_machine() -> None:
    text = Path("/proc/cpuinfo").read_bytes()
    assert texts.processor_information(text, (0,)).count(b"processor\t:") == 1
    assert texts.processor_information(text, range(1 << 10)) == text
    text = Path("/proc/stat").read_bytes()
    lines = texts.statistics(text, (0,)).splitlines()
    assert [line.split()[0] for line in lines if line.startswith(b"cpu")] == [b"cpu", b"cpu0"]
    assert lines[0].split()[1:] == lines[1].split()[1:]
    assert [line for line in text.splitlines() if not line.startswith(b"cpu")] == lines[2:]
    assert texts.uptime(b"100.00 180.00\n", 1, 2) == b"100.00 90.00\n"


def test_who_runs_is_whoever_asks() -> None:
    text = b"ctxt 5\nprocesses 9\nprocs_running 17\nprocs_blocked 3\nsoftirq 1 2\n"
    assert texts.running(text) == b"ctxt 5\nprocesses 9\nprocs_running 1\nprocs_blocked 0\nsoftirq 1 2\n"


def test_a_processor_that_is_not_shown_has_no_column() -> None:
    text = (
        b"           CPU0       CPU1       CPU3       \n"
        b" 24:          1          2          3  IO-APIC   5-edge      ACPI:Ged\n"
        b"NMI:          4          5          6   Non-maskable interrupts\n"
        b"ERR:          7\n"
    )
    assert texts.columns(text, (1, 3)).splitlines() == [
        b"       CPU1       CPU3",
        b" 24:          2          3  IO-APIC   5-edge      ACPI:Ged",
        b"NMI:          5          6   Non-maskable interrupts",
        b"ERR:          7",
    ]
    for name in ("interrupts", "softirqs"):
        text = Path(f"/proc/{name}").read_bytes()
        assert texts.columns(text, range(1 << 10)).split() == text.split()


def test_an_affinity_is_of_those_that_are_shown_or_of_as_many_others() -> None:
    assert texts.affinity(b"\xff\x01", (4, 8)) == b"\x10\x01"
    assert texts.affinity(b"\xf0\x01", (0, 1)) == b"\x30\x00"
    assert texts.affinity(b"\x01\x00", (0, 1)) == b"\x01\x00"
    own = sum(1 << cpu for cpu in os.sched_getaffinity(0)).to_bytes(128, "little")
    assert texts.affinity(own, range(1 << 10)) == own


def test_the_status_of_a_process_agrees_with_its_affinity() -> None:
    text = b"Name:\tx\nCpus_allowed:\tff,ffffffff\nCpus_allowed_list:\t0-39\nMems_allowed:\t1\n"
    told = texts.process_status(text, (1, 2, 35))
    assert told == b"Name:\tx\nCpus_allowed:\t08,00000006\nCpus_allowed_list:\t1-2,35\nMems_allowed:\t1\n"
    own = Path("/proc/self/status").read_bytes()
    assert texts.process_status(own, range(1 << 10)) == own
