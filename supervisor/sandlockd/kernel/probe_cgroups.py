"""Whether limits can be kept by cgroups: one is made as for a run, and a process put into it that feels each limit."""

from __future__ import annotations

import errno
import os
import time

from sandlockd.kernel import cgroup_limits, cgroup_places, cgroups
from sandlockd.kernel.probe import Broken, Missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LIMIT_BYTES, _TAKEN_BYTES = 32 << 20, 8 << 20
_PERCENT = 10
_THROTTLED_WITHIN_S = 5.0
_NAMES = {cgroups.MEMORY: "memory", cgroups.PIDS: "pids", cgroups.CPU: "cpu"}


def cgroup_delegation() -> str:
    if os.environ.get(cgroups.WITHOUT):
        raise Missing(f"{cgroups.WITHOUT} is set")
    # Whoever waits for this process may have to be moved with it.
    groups = cgroups.Groups(b"doctor-%d" % os.getpid(), list(_NAMES), family=[os.getppid()])
    kept = []
    try:
        for controller, name in _NAMES.items():
            group = groups.of(controller)
            if group is not None and _holds(groups, controller, group):
                kept.append(f"{name} (v{group.version}, {os.fsdecode(os.path.dirname(group.path))})")
    finally:
        left = groups.close()
    if left:
        raise Broken(f"{os.fsdecode(left[0])} could not be removed again")
    if groups.lacking:
        lacking = "; ".join(f"{_NAMES[one]}: {reason}" for one, reason in groups.lacking.items())
        raise Missing(lacking + (f"; but there is {', '.join(kept)}" if kept else ""))
    return ", ".join(kept)


def _holds(groups: cgroups.Groups, controller: bytes, group: cgroups.Group) -> bool:
    """Raises Broken, OSError."""
    try:
        if controller == cgroups.MEMORY:
            _memory_counts(group)
        elif controller == cgroups.PIDS:
            _tasks_are_refused(group)
        else:
            _processors_are_withheld(group)
    except cgroup_places.NotOurs as reason:
        groups.drop(controller, str(reason))
        return False
    return True


class _Child:
    """A process in a group, which does one thing there, says a byte and goes on until it is killed."""

    def __init__(self, group: cgroups.Group, act: Callable[[], bytes]) -> None:
        self._told, telling = os.pipe()
        waiting, self._go = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._go)
            os.read(waiting, 1)
            os.write(telling, act())
            while True:
                pass
        os.close(telling)
        os.close(waiting)
        try:
            group.take(self._pid)
            os.write(self._go, b"g")
            self.said = os.read(self._told, 1)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)
        os.close(self._told)
        os.close(self._go)


def _memory_counts(group: cgroups.Group) -> None:
    """It is not taken to the end: the kernel would tell its log of who is killed for that."""
    files = cgroup_limits.limit_memory(group, _LIMIT_BYTES)
    held = []

    def take() -> bytes:
        held.append(bytearray(b"x" * _TAKEN_BYTES))
        return b"t"

    child = _Child(group, take)
    counted = int(os.pread(files.usage.fd, 64, 0))
    child.end()
    for file in files:
        if file is not None:
            file.close()
    if counted < _TAKEN_BYTES:
        raise Broken(f"{_TAKEN_BYTES} bytes were taken in a cgroup, and {counted} counted")


def _tasks_are_refused(group: cgroups.Group) -> None:
    cgroup_limits.limit_tasks(group, 1)

    def fork() -> bytes:
        try:
            if os.fork() == 0:
                os._exit(0)
        except OSError as error:
            return b"r" if error.errno == errno.EAGAIN else b"e"
        return b"f"

    child = _Child(group, fork)
    child.end()
    if child.said != b"r":
        raise Broken("a process more than a cgroup may have was not refused")


def _processors_are_withheld(group: cgroups.Group) -> None:
    cgroup_limits.limit_processors(group, _PERCENT)
    child = _Child(group, lambda: b"x")
    try:
        end = time.monotonic() + _THROTTLED_WITHIN_S
        while time.monotonic() < end:
            words = group.read(b"cpu.stat").split()
            if int(words[words.index(b"nr_throttled") + 1]):
                return
            time.sleep(0.01)
    finally:
        child.end()
    raise Broken("who has used up the processor time of a cgroup goes on")
