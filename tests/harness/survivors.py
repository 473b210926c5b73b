"""Which processes a test has left behind: those that carry its marker in their environment.

Every command of a Runner has the marker. A program that cleans its environment escapes the marker, so a process also
counts when an ancestor of it does.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MARKER = "SANDLOCKD_TEST"


@dataclass(frozen=True)
class Survivor:
    """A process that lives; a zombie does not."""

    pid: int
    state: str
    command: str


def marked(value: str) -> list[Survivor]:
    """Processes, the caller apart, that were started with MARKER=value or descend from one that was.

    value: that of one Runner, or the name of a session, with which those of its Runners begin.
    """
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    text = f"{MARKER}={value}".encode()
    # At once, for it may not be there for long.
    stats = {pid: _read(pid, "stat") for pid in pids if _is_marked(pid, text)}
    if not stats:  # as nearly always: then no ancestor is
        return []
    found = set(stats)
    parents: dict[int, int] = {}
    details: dict[int, Survivor] = {}
    for pid in pids:
        stat = stats[pid] if pid in stats else _read(pid, "stat")
        if not stat:
            continue
        fields = stat[stat.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X"):
            continue
        parents[pid] = int(fields[1])
        command = stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode("utf-8", "replace")
        details[pid] = Survivor(pid, fields[0].decode(), command)
    for pid in details:
        above = pid
        while above in parents and above not in found:
            above = parents[above]
        if above in found:
            found.add(pid)
    return [details[pid] for pid in sorted(found) if pid in details]


def _is_marked(pid: int, text: bytes) -> bool:
    environment = _read(pid, "environ")
    if text not in environment:
        return False
    return any(word == text or word.startswith(text + b"-") for word in environment.split(b"\0"))


def _read(pid: int, name: str) -> bytes:
    """Empty where it is somebody else's, or gone: an ancestor may still tell."""
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.readall()
    except OSError:
        return b""


def end(survivors: Iterable[Survivor]) -> None:
    """Kill what a failed test left, so that the next one has a clean machine."""
    for survivor in survivors:
        with contextlib.suppress(ProcessLookupError):
            os.kill(survivor.pid, signal.SIGKILL)


@contextlib.contextmanager
def pidfds_of(value: str, *, but: int) -> Iterator[list[int]]:
    """Descriptors of all that is marked so and lives, one process apart."""
    with contextlib.ExitStack() as stack:
        fds = []
        for survivor in marked(value):
            if survivor.pid == but:
                continue
            try:
                fds.append(os.pidfd_open(survivor.pid))
            except ProcessLookupError:
                continue  # it ended meanwhile, by itself
            stack.callback(os.close, fds[-1])
        yield fds
