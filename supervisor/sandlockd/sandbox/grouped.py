"""Which limits of one run are kept by cgroups: decided once, before the program is forked.

A limit means the same with a cgroup and without, on every machine. So a group does not take the place of all that is
done without one:
- memory: the kernel counts and keeps the limit, and everything is ended when it ran out. Large requests are still
  refused when there is no room: a program can do something about that.
- processes: a group counts threads, too, and would make few processes of a program that has many. So they are counted
  as ever, and the group keeps the number of all tasks, whatever becomes of the supervisor.
- cpu: the kernel lets nobody run who has used it up.
"""

from __future__ import annotations

import os

from sandlockd.kernel import cgroup_limits, cgroup_places, cgroups
from sandlockd.kernel.engine import THREADS_PER_PROCESS
from sandlockd.launch.prepare import CannotStart
from sandlockd.policy.spelling import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.kernel.memlimit import Memory
    from sandlockd.launch.prepare import Prepared
    from sandlockd.sandbox.limits import Limits

_WRITE_FILE = 1 << 1  # LANDLOCK_ACCESS_FS_WRITE_FILE


class Grouped:
    """kept: by what, for each limit that a group keeps, or helps to keep."""

    def __init__(self, groups: cgroups.Groups) -> None:
        self._groups = groups
        self.kept: dict[str, str] = {}

    def limit(self, name: str, controller: bytes, do: Callable[[cgroups.Group], object], by: str) -> None:
        """Or not: then it is kept as it is without a group."""
        group = self._groups.of(controller)
        if group is None:
            return
        try:
            do(group)
        except cgroup_places.NotOurs as reason:
            self._groups.drop(controller, str(reason))
        except OSError as error:
            self._groups.drop(controller, error.strerror or str(error))
        else:
            self.kept[name] = by.format(version=group.version)

    def keep_memory(self, memory: Memory) -> None:
        """By the group that kept it for a supervisor before us. Raises CannotStart."""
        group = self._groups.of(cgroups.MEMORY)
        if group is None or "memory" not in self.kept:
            return
        try:
            memory.keep_by_group(cgroup_limits.limit_memory(group, memory.limit_bytes))
        except (OSError, cgroup_places.NotOurs) as error:
            raise CannotStart(f"limits.memory: its cgroup cannot be asked any more: {error}") from None

    def count_memory(self, memory: Memory) -> None:
        """By sandlockd, after all. Raises OSError."""
        group = self._groups.of(cgroups.MEMORY)
        if group is None or "memory" not in self.kept:
            return
        memory.count()
        cgroup_limits.lift_memory(group)
        self._groups.drop(cgroups.MEMORY, "what is written for the program would not count")
        del self.kept["memory"]

    @property
    def paths(self) -> tuple[bytes, ...]:
        return self._groups.paths

    def take(self, pid: int) -> None:
        """Raises CannotStart: somebody may count on it by now."""
        try:
            self._groups.take(pid)
        except OSError as error:
            raise CannotStart(
                f"limits: the program could not be put into its cgroup: {error.strerror};"
                f" {cgroups.WITHOUT}=1 has the limits kept without one"
            ) from None

    def close(self) -> list[str]:
        return [
            f"{printable(os.fsdecode(path))}: the run's cgroup could not be removed; the next run tries again"
            for path in self._groups.close()
        ]


def hasten(limits: Limits) -> None:
    """There will be one for these limits."""
    if not os.environ.get(cgroups.WITHOUT):
        cgroups.hasten(_wanted(limits))


def _wanted(limits: Limits) -> list[bytes]:
    asked = {
        cgroups.MEMORY: limits.memory,
        cgroups.PIDS: limits.processes,
        cgroups.CPU: limits.cpu_percent,
    }
    return [controller for controller, limit in asked.items() if limit is not None]


def grouped(name: str, limits: Limits, prepared: Prepared) -> Grouped | None:
    if os.environ.get(cgroups.WITHOUT) or _may_be_left(prepared):
        return None
    found = Grouped(cgroups.Groups(name.encode(), _wanted(limits)))
    memory, processes, cpu = limits.memory, limits.processes, limits.cpu_percent
    by_group = "cgroup v{version}"
    if memory is not None:
        found.limit(
            "memory",
            cgroups.MEMORY,
            lambda group: memory.keep_by_group(cgroup_limits.limit_memory(group, memory.limit_bytes)),
            by_group,
        )
    if processes is not None:
        most = processes * THREADS_PER_PROCESS
        found.limit(
            "processes",
            cgroups.PIDS,
            lambda group: cgroup_limits.limit_tasks(group, most),
            f"sandlockd; tasks: {by_group}",
        )
    if cpu is not None:
        found.limit("cpu", cgroups.CPU, lambda group: cgroup_limits.limit_processors(group, cpu), by_group)
    return found


def _may_be_left(prepared: Prepared) -> bool:
    """Who may write the files of a cgroup leaves it, or raises its limits."""
    points = cgroup_places.mount_points()
    return any(
        zone.rights & _WRITE_FILE and (_is_within(zone.path, point) or _is_within(point, zone.path))
        for zone in prepared.wall.zones.values()
        for point in points
    )


def _is_within(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")
