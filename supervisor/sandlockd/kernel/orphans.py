"""The last resort when init was killed from outside: its orphans are ours then, so end them.

For a process that is a subreaper itself (become_subreaper) and starts nothing else from then on.
"""

from __future__ import annotations

import os
import signal

from sandlockd.kernel import procfs
from sandlockd.kernel.native import check, lib
from sandlockd.kernel.pidfd import start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_WALL = 0x40000000  # __WALL (linux/wait.h): children that end with another signal, too
_inherited: frozenset[tuple[int, int]] = frozenset()  # (pid, start time) of children that we had before


def remember_children() -> None:
    """Those that we have before we start any (a shell that executes us may leave us some) are not ours to end."""
    global _inherited
    _inherited = frozenset(_children()) if _has_children() else frozenset()


def become_subreaper(spared: Iterable[int] = ()) -> None:
    """Orphans of our descendants become our children (PR_SET_CHILD_SUBREAPER, prctl(2)).

    spared: children that we started ourselves, which are not to be ended either.
    """
    global _inherited
    _inherited |= {(pid, start_time(pid)) for pid in spared}
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


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return False
    return True


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
