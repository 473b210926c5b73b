"""The last resort when init was killed from outside: its orphans are ours then, so end them.

For a process that is a subreaper itself (become_subreaper) and starts nothing else.
"""

from __future__ import annotations

import os
import signal

from sandlockd.kernel import procfs
from sandlockd.kernel.native import check, lib


def become_subreaper() -> None:
    """Orphans of our descendants become our children (PR_SET_CHILD_SUBREAPER, prctl(2))."""
    check(lib.slk_become_subreaper())


def kill_orphans() -> int:
    """SIGKILL every child and reap it, until none is left: children of the killed become ours. Returns how many."""
    reaped = 0
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)  # our child and not reaped: the number is still its own
        try:
            pid, _ = os.waitpid(-1, 0)
        except ChildProcessError:
            return reaped
        reaped += 1


def _children() -> list[int]:
    own = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if procfs.parent_of(int(name)) == own:
                    found.append(int(name))
            except OSError:
                continue  # it ended while we looked
    return found
