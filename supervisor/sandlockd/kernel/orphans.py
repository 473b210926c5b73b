"""The last resort when init was killed from outside: its orphans are ours then, so end them.

For a process that is a subreaper itself (become_subreaper) and starts nothing else from then on.
"""

from __future__ import annotations

import os
import signal

from sandlockd.kernel import procfs
from sandlockd.kernel.native import check, lib
from sandlockd.kernel.pidfd import start_time

_inherited: frozenset[tuple[int, int]] = frozenset()  # (pid, start time) of children that we had before


def become_subreaper() -> None:
    """Orphans of our descendants become our children (PR_SET_CHILD_SUBREAPER, prctl(2)).

    Children that we have already (a shell that executes us may leave us some) are remembered, and are not ours to end.
    """
    global _inherited
    _inherited = frozenset(_children())
    check(lib.slk_become_subreaper())


def kill_orphans(spared: int = 0) -> int:
    """SIGKILL every child and reap it, until none is left: children of the killed become ours. Returns how many.

    spared: a child of our own, which is not to be waited for.
    """
    reaped = 0
    while orphans := [child for child in _children() if child not in _inherited and child[0] != spared]:
        for pid, _ in orphans:
            os.kill(pid, signal.SIGKILL)  # our child and not reaped: the number is still its own
        for pid, _ in orphans:
            os.waitpid(pid, 0)
            reaped += 1
    return reaped


def _children() -> list[tuple[int, int]]:
    own = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if procfs.parent_of(int(name)) == own:
                    found.append((int(name), start_time(int(name))))
            except OSError:
                continue  # it ended while we looked
    return found
