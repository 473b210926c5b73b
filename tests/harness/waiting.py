"""Waiting for events, with a limit. Nothing here is a guess about how long something takes."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable

PATIENCE_S = 10.0


class Patience(Exception):
    """What was waited for did not happen."""


def until(happened: Callable[[], object], what: str, limit_s: float = PATIENCE_S) -> None:
    """Ask again and again, for what the kernel has no event for. Raises Patience."""
    end = time.monotonic() + limit_s
    while not happened():
        if time.monotonic() > end:
            raise Patience(f"{what}: not within {limit_s} s")
        select.select([], [], [], 0.001)


def line_of(fd: int, limit_s: float = PATIENCE_S) -> bytes:
    """One line of a pipe or socket, byte by byte so that nothing after it is taken. Raises Patience."""
    end = time.monotonic() + limit_s
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(end - time.monotonic(), 0))
        if not ready:
            raise Patience(f"no whole line within {limit_s} s, only {line!r}")
        byte = os.read(fd, 1)
        if not byte:
            raise Patience(f"the other end closed after {line!r}")
        line += byte
    return line


def rest_of(fd: int, limit_s: float = PATIENCE_S) -> bytes:
    """All of a pipe or socket until its end. Raises Patience."""
    end = time.monotonic() + limit_s
    found = b""
    while True:
        ready, _, _ = select.select([fd], [], [], max(end - time.monotonic(), 0))
        if not ready:
            raise Patience(f"no end within {limit_s} s, only {len(found)} bytes")
        more = os.read(fd, 1 << 20)
        if not more:
            return found
        found += more


def wait_dead(pidfds: Iterable[int], limit_s: float = PATIENCE_S) -> float:
    """Until every process has exited (reaped or not). Returns the seconds it took. Raises Patience."""
    start = time.monotonic()
    poll = select.poll()
    waiting = set(pidfds)
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    while waiting:
        left_s = start + limit_s - time.monotonic()
        ready = poll.poll(max(left_s, 0) * 1000)
        if not ready:
            raise Patience(f"{len(waiting)} processes still live after {limit_s} s")
        for fd, _ in ready:
            poll.unregister(fd)
            waiting.discard(fd)
    return time.monotonic() - start
