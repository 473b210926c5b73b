"""Files of /proc without what is not the sandbox's, as texts made of texts."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest

from sandlockd.handlers.private import limited, texts

_MOUNTS = b"""\
22 27 0:21 / /proc rw,nosuid,relatime shared:5 - proc proc rw
27 1 254:0 /images/7 / ro,relatime - ext4 /dev/vda ro,discard,errors=remount-ro
30 27 0:44 / /home/somebody/my\\040disk rw - nfs4 server:/export rw,addr=10.0.0.1
31 27 0:45 / /usr rw,relatime master:1 - overlay overlay rw,lowerdir=/secret,upperdir=/x
broken
"""


def _shown(point: bytes) -> bool:
    return point in (b"/", b"/proc", b"/usr")


def test_mounts_tell_neither_sources_nor_options_nor_places_that_are_not_shown() -> None:
    told = texts.mount_info(_MOUNTS, _shown)
    assert told.splitlines() == [
        b"22 27 0:21 / /proc rw,nosuid,relatime - proc proc rw",
        b"27 1 254:0 / / ro,relatime - ext4 ext4 ro",
        b"31 27 0:45 / /usr rw,relatime - overlay overlay rw",
    ]
    table = b"/dev/vda / ext4 rw,nosuid,discard,relatime 0 0\nserver:/e /home nfs4 rw 0 0\nproc /proc proc rw 0 0\n"
    assert texts.mount_table(table, _shown) == b"ext4 / ext4 rw,nosuid,relatime 0 0\nproc /proc proc rw 0 0\n"
    statistics = (
        b"device /dev/vda mounted on / with fstype ext4\n"
        b"device server:/e mounted on /home with fstype nfs4 statvers=1.1\n\topts:\trw,addr=10.0.0.1\n"
    )
    assert texts.mount_statistics(statistics, _shown) == b"device ext4 mounted on / with fstype ext4\n"


@pytest.mark.parametrize("name", ["mountinfo", "mounts", "mountstats"])
def test_of_this_machines_mounts_programs_understand_what_is_left(name: str) -> None:
    text = Path(f"/proc/self/{name}").read_bytes()
    make = {"mountinfo": texts.mount_info, "mounts": texts.mount_table, "mountstats": texts.mount_statistics}[
        name
    ]
    told = make(text, lambda point: True)
    assert len(told.splitlines()) == len(
        [line for line in text.splitlines() if not line.startswith(b"\t") and line]
    )
    assert b"/dev/" not in b"".join(line.split(b" ")[0] for line in told.splitlines())


def test_locks_are_those_of_the_sandbox_and_who_waits_for_them() -> None:
    text = (
        b"1: POSIX  ADVISORY  WRITE 10 fe:00:153 0 EOF\n"
        b"1: -> POSIX  ADVISORY  WRITE 11 fe:00:153 0 EOF\n"
        b"2: FLOCK  ADVISORY  READ 12 fe:00:154 0 EOF\n"
        b"3: OFDLCK ADVISORY  READ -1 07:00:131 0 EOF\n"
        b"4: LEASE  ACTIVE    READ  10 fe:00:155 0 EOF\n"
    )
    told = texts.locks(text, lambda pid: pid in (10, 11))
    assert [line.split(b":")[0] for line in told.splitlines()] == [b"1", b"1", b"4"]


def test_of_the_network_the_headings_are_left() -> None:
    for name in ("tcp", "udp6", "unix", "dev", "route"):
        text = Path(f"/proc/self/net/{name}").read_bytes()
        told = texts.network(name.encode(), text[:4096])
        assert text.startswith(told)
        assert len(told.splitlines()) == (2 if name == "dev" else 1)
    assert texts.network(b"snmp", b"Ip: Forwarding\nIp: 1\n") == b""


def test_load_averages_tell_the_sandboxs_numbers() -> None:
    assert texts.load_averages(b"0.10 0.20 0.30 3/812 31337\n", 4, 77) == b"0.10 0.20 0.30 1/4 77\n"


# ---- with limits


def _fields(text: bytes) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^(\S+): +(\d+)", text.decode(), re.MULTILINE)}


def test_memory_is_the_limit_wherever_it_is_asked_for() -> None:
    text = Path("/proc/meminfo").read_bytes()
    told = _fields(limited.memory_information(text, 512 << 20, 100 << 20))
    assert list(told) == list(_fields(text))
    assert told["MemTotal"] == 512 << 10
    assert told["MemFree"] == told["MemAvailable"] == 412 << 10
    assert told["MemTotal"] - told["MemFree"] - told["Buffers"] - told["Cached"] == told["AnonPages"]
    assert told["SwapTotal"] == told["SwapFree"] == told["Shmem"] == told["SReclaimable"] == 0
    widths = {
        len(line)
        for line in limited.memory_information(text, 1 << 62, 0).splitlines()
        if b"HugePages" not in line
    }
    assert widths == {len(line) for line in text.splitlines() if b"HugePages" not in line}


def test_a_limit_above_the_machines_memory_is_the_machines() -> None:
    text = Path("/proc/meminfo").read_bytes()
    told = _fields(limited.memory_information(text, 1 << 62, 1 << 61))
    assert told["MemTotal"] == _fields(text)["MemTotal"]
    assert told["MemFree"] == 0


def test_sysinfo_agrees_with_meminfo() -> None:
    structure = struct.pack("=q3Q6QHxxxxxxQQI", 7, 1, 2, 3, *(9,) * 6, 500, 0, 0, 4096).ljust(112, b"\0")
    told = struct.unpack_from(
        "=q3Q6QHxxxxxxQQI", limited.system_information(structure, 512 << 20, 1, 3, 1 << 40)
    )
    assert told[:4] == (7, 1, 2, 3)
    assert told[4:6] == (512 << 20, (512 << 20) - 1024)
    assert told[6:] == (0, 0, 0, 0, 3, 0, 0, 1)


@pytest.mark.parametrize(("percent", "count"), [(1, 1), (100, 1), (101, 2), (150, 2), (400, 4), (10_000, 8)])
def test_a_share_is_as_many_processors_as_it_takes(percent: int, count: int) -> None:
    assert limited.processors(percent, 8) == count
    assert limited.online(count) == (b"0\n" if count == 1 else b"0-%d\n" % (count - 1))


def test_one_processor_of_this_machine() -> None:
    assert limited.processor_information(Path("/proc/cpuinfo").read_bytes(), 1).count(b"processor\t:") == 1
    text = Path("/proc/stat").read_bytes()
    told = limited.statistics(text, 1)
    lines = told.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(b"cpu")] == [b"cpu", b"cpu0"]
    assert lines[0].split()[1:] == lines[1].split()[1:]
    assert [line for line in text.splitlines() if not line.startswith(b"cpu")] == lines[2:]
    assert limited.uptime(b"100.00 180.00\n", 1, 2) == b"100.00 90.00\n"


def test_an_affinity_keeps_the_first_of_its_processors() -> None:
    assert limited.affinity(b"\xf0\x01", 2) == b"\x30\x00"
    assert limited.affinity(b"\x01\x00", 2) == b"\x01\x00"
    own = sum(1 << cpu for cpu in os.sched_getaffinity(0)).to_bytes(128, "little")
    assert limited.affinity(own, 1 << 10) == own
