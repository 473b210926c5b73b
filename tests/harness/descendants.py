"""What lives below the init of a sandbox, seen from outside."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.waiting import until


@dataclass(frozen=True)
class Below:
    """processes: with those that nobody has waited for. tasks: their threads."""

    processes: frozenset[int]
    tasks: int


def init_of(sandlockd_pid: int) -> int:
    """Of a sandbox that runs already."""
    (found,) = (
        pid for pid in _children(sandlockd_pid) if Path(f"/proc/{pid}/comm").read_text() == "sandlockd-init\n"
    )
    return found


@contextlib.contextmanager
def held(sandlockd_pid: int) -> Iterator[None]:
    """Nobody is let fork meanwhile, if forks are asked for; so whatever is found lives at the same time."""
    os.kill(sandlockd_pid, signal.SIGSTOP)
    try:
        until(lambda: _state(sandlockd_pid) == "T", "the stop of sandlockd")
        yield
    finally:
        os.kill(sandlockd_pid, signal.SIGCONT)


def below(init_pid: int) -> Below:
    """What is there when two looks in a row find the same: what was let fork has done so."""
    last = _look(init_pid)
    while (now := _look(init_pid)) != last:
        last = now
    return now


def _look(init_pid: int) -> Below:
    found: set[int] = set()
    tasks = 0
    waiting = _children(init_pid)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.add(pid)
        with contextlib.suppress(OSError):
            tasks += len(os.listdir(f"/proc/{pid}/task"))
        waiting += _children(pid)
    return Below(frozenset(found), tasks)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for tid in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{tid}/children").read_text().split())
    return found


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
