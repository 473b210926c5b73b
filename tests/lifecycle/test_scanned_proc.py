"""Whoever lists and reads a private /proc without a pause, among many processes and while others fork as fast as they
can, sees each of his own once, and costs the supervisor nothing that it would keep."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from harness.running import Runner, system_python
from harness.waiting import line_of
from security import broken

_GROWN_UP_S = 3  # what a supervisor imports for a program that does not end at once
_POLICY = '[filesystem]\nbase = true\n[proc]\npids = "own"\n'

# What it says: a line for each `read` from stdin, once it has looked so many times.
_SCANNER = r"""
import ctypes, os, signal, sys
sleeping = []
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        signal.pause()
    sleeping.append(str(pid))
storms = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        while True:  # each leaves an orphan, and ends
            child = os.fork()
            if child == 0:
                os.fork()
                os._exit(0)
            os.waitpid(child, 0)
    storms.append(pid)
libc = ctypes.CDLL(None)
buffer = ctypes.create_string_buffer(32768)
sizes = (4096, 200, 1000) if len(sleeping) < 100 else (32768, 200)
def names(fd, size):
    while (count := libc.syscall(217, fd, buffer, size)) > 0:
        at = 0
        while at < count:
            length = int.from_bytes(buffer.raw[at + 16 : at + 18], "little")
            yield buffer.raw[at + 19 : at + length].split(b"\0")[0].decode()
            at += length
    if count < 0:
        raise OSError(ctypes.get_errno(), "getdents64")
wrong = ""
at = 0
directory = os.open("/proc", os.O_RDONLY)
while sys.stdin.readline():
    for _ in range(int(sys.argv[2])):
        at += 1
        os.lseek(directory, 0, os.SEEK_SET)
        listed = list(names(directory, sizes[at % len(sizes)]))
        found = [name for name in listed if name.isdigit()]
        if len(set(listed)) != len(listed) or not set(sleeping) <= set(found) or found != sorted(found, key=int):
            wrong = f"{len(found)} of {len(sleeping)}, {len(listed) - len(set(listed))} twice"
        if str(os.getppid()) in found:
            wrong = "init"
        for name in found[-5:] + sleeping[:5]:
            try:
                open(f"/proc/{name}/stat").read()
                os.stat(f"/proc/{name}/fd")
            except (FileNotFoundError, ProcessLookupError):
                wrong = "a sleeping one is gone" if name in sleeping else wrong
    print(wrong or "right", flush=True)
for pid in storms:
    os.kill(pid, signal.SIGKILL)
"""


def _kept(pid: int) -> tuple[int, int]:
    """Descriptors, and KiB of memory, of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return len(os.listdir(f"/proc/{pid}/fd")), int(status.split("VmRSS:")[1].split()[0])


@pytest.mark.one_user
@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.soak)])
def test_a_scanner_among_forks_sees_each_once_and_costs_nothing_that_stays(
    runner: Runner, count: int
) -> None:
    command = [system_python(), "-c", _SCANNER, str(count), "25" if count < 100 else "3"]
    with runner.started(runner.command_line(command, policy=_POLICY)) as process:
        assert process.stdin is not None and process.stdout is not None
        kept: list[tuple[int, int]] = []
        begun = time.monotonic()
        while len(kept) < 3:
            process.stdin.write(b"on\n")
            assert line_of(process.stdout.fileno(), 60) == b"right\n"
            if time.monotonic() > begun + _GROWN_UP_S:
                kept.append(_kept(process.pid))
        process.stdin.close()
        assert process.wait(20) == 0
    first, last = kept[0], kept[-1]
    assert last[0] <= first[0] + 40  # those that were just made, and are watched
    assert last[1] <= first[1] + 3000


_MANY = r"""
import ctypes, os, signal, struct
def sleeper():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid
first, other = sleeper(), sleeper()
os.setpgid(first, first)
os.setpgid(other, first)
os.kill(first, signal.SIGKILL)  # so that nobody has the group's number
os.waitpid(first, 0)
sleeping = [other, *(sleeper() for _ in range(150))]
libc = ctypes.CDLL(None)
def listed():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
print(listed() == sorted([os.getpid(), *sleeping]), listed() == listed())
os.kill(-first, 0)
print(os.getpriority(os.PRIO_USER, os.getuid()), os.getpriority(os.PRIO_PGRP, first))
info = ctypes.create_string_buffer(112)
libc.sysinfo(info)
print(struct.unpack_from("=q3Q6QH", info.raw)[10], open("/proc/loadavg").read().split()[3].split("/")[1])
for pid in sleeping:
    os.kill(pid, signal.SIGKILL)
"""

_WHERE = """
import os, threading
from sandlockd.kernel import procfs
members = procfs.members
def seen(*asked):
    found = members(*asked)
    os.write(2, b"%s %d\\n" % (b"loop" if threading.get_native_id() == os.getpid() else b"aside", len(found)))
    return found
procfs.members = seen
"""


@pytest.mark.one_user
@pytest.mark.parametrize("way", ["--write", "--workdir"])
def test_many_processes_are_looked_at_while_others_go_on(runner: Runner, way: str) -> None:
    """Not by the loop, for as long as it takes."""
    command = [system_python(), "-c", _MANY]
    ended = broken.run(runner, _WHERE, command, policy=_POLICY, options=[way, runner.work])
    assert ended.stdout == b"True True\n0 0\n152 152\n", ended
    looks = [line.split() for line in ended.stderr.splitlines()]
    assert {where for where, count in looks if int(count) > 128} == {b"aside"}, looks
    assert len(looks) >= 7
