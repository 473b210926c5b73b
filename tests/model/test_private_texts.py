"""Files of /proc without what is not the sandbox's, as texts made of texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandlockd.handlers.private import texts

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
