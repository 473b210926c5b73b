"""The limits of one run: what counts for each of them, and whether one of them has ended it.

Nothing is made for a limit that the policy does not set.
"""

from __future__ import annotations

import math
import os
import resource

from sandlockd.kernel import launching
from sandlockd.launch.prepare import CannotStart
from sandlockd.sandbox.result import Reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from sandlockd.kernel.disk import Disk
    from sandlockd.kernel.engine import Engine
    from sandlockd.kernel.launching import Report
    from sandlockd.kernel.memlimit import Memory
    from sandlockd.launch.prepare import Prepared
    from sandlockd.policy import model
    from sandlockd.sandbox.grouped import Grouped
    from sandlockd.sandbox.result import Result

    class Passed(NamedTuple):
        """A limit that ended the run. text: one line for people."""

        reason: Reason
        rule: str
        text: str

else:  # without importing typing
    import collections

    Passed = collections.namedtuple("Passed", "reason rule text")

# Who is asked to end (SIGTERM) has so long to do it.
TERM_GRACE_S = 5.0
_CPU, _OPEN_FILES = resource.RLIMIT_CPU, resource.RLIMIT_NOFILE
_UNITS = (("G", 30), ("M", 20), ("K", 10))


class Limits:
    """disk: told by the trees what they hold; None: no limit. memory: likewise None.

    processes: how many may live. timeout_s, cpu_time_s: init looks after them.
    """

    def __init__(self, limits: model.Limits, *, trees: bool) -> None:
        """trees: the run has copy-on-write trees. Raises CannotStart."""
        self.processes = limits.processes
        self.disk: Disk | None = None
        self.memory = None if limits.memory is None else _memory(limits.memory)
        self.timeout_s = limits.timeout
        self.cpu_time_s = limits.cpu_time
        self.cpu_percent = limits.cpu
        # Of standard output and error, by whoever starts the sandbox.
        self.output_bytes = limits.output
        self._open_files = limits.open_files
        self._reached: Passed | None = None
        self._grouped: Grouped | None = None
        problems = [problem for problem in (_trees_problem(limits, trees), _files_problem(limits)) if problem]
        if problems:
            raise CannotStart(problems[0], further=tuple(problems[1:]))
        if self._wants_groups:
            from sandlockd.sandbox.grouped import hasten

            hasten(self)
        if limits.disk is not None:
            self.disk = _disk(limits.disk)

    def renew(self) -> None:
        """What a supervisor before us had counted is counted anew. Raises CannotStart."""
        if self.disk is not None:
            self.disk = _disk(self.disk.limit_bytes)
        if self.memory is None:
            return
        self.memory = _memory(self.memory.limit_bytes)
        if self._grouped is not None:
            self._grouped.keep_memory(self.memory)
        if not self.memory.is_by_group:
            # Which objects were made on behalf, nobody knows any more: what is mapped of any counts.
            self.memory.count_mapped()

    @property
    def _wants_groups(self) -> bool:
        return not (self.memory is None and self.processes is None and self.cpu_percent is None)

    def use_groups(self, name: str, prepared: Prepared) -> None:
        """Before anything is forked: for what cgroups keep, if any are ours to use, nobody else has to look.

        name: of the run.
        """
        if not self._wants_groups:
            return
        from sandlockd.sandbox.grouped import grouped

        self._grouped = grouped(name, self, prepared)

    def trees_lie_in_memory(self, *, have_files: bool) -> None:
        """What we copy or allocate there for the program a cgroup would count as ours. Raises CannotStart."""
        if self._grouped is None or self.memory is None or not (have_files or self.disk is not None):
            return
        try:
            self._grouped.count_memory(self.memory)
        except OSError as error:
            raise CannotStart(f"limits.memory: its cgroup cannot be left alone: {error.strerror}") from None

    @property
    def groups(self) -> tuple[bytes, ...]:
        """The directories of those that the program will be in."""
        return () if self._grouped is None else self._grouped.paths

    def kept_by(self) -> dict[str, str]:
        """Of each limit that may be kept by a cgroup, whether it is."""
        found = {} if self._grouped is None else self._grouped.kept
        asked = {"memory": self.memory, "processes": self.processes, "cpu": self.cpu_percent}
        return {name: found.get(name, "sandlockd") for name, limit in asked.items() if limit is not None}

    def rlimits(self) -> tuple[tuple[int, int, int], ...]:
        """What the program is started with, as setrlimit(2) takes it.

        Of processor time: for each process alone, what init counts for all together. It comes later than init's word,
        and holds without it.
        """
        if self.cpu_time_s is None:
            return ()
        soft, hard = resource.getrlimit(_CPU)
        most = math.ceil(self.cpu_time_s) + 1
        hard = most if hard == resource.RLIM_INFINITY else min(hard, most)
        soft = hard if soft == resource.RLIM_INFINITY else min(soft, hard)
        return ((_CPU, soft, hard),)

    def held_to_percent(self, *, may_trace: bool) -> int | None:
        """Of one processor, what init holds all processes together to (native/throttle.c); None: to nothing.

        A cgroup that keeps the limit needs nobody's help.
        may_trace: nobody else traces the program. Raises CannotStart.
        """
        if self._grouped is not None and "cpu" in self._grouped.kept:
            return None
        if self.cpu_percent is not None and not may_trace:
            raise CannotStart(
                "limits.cpu cannot be kept here: who computes too much is held by ptrace(2), and syscalls.allow gives"
                " ptrace to the program: take that out, or leave limits.cpu out"
            )
        return self.cpu_percent

    def confine(self, pid: int) -> None:
        """The program is about to be executed, and needs no more descriptors for that. Raises CannotStart."""
        if self._grouped is not None:
            self._grouped.take(pid)
        if self._open_files is None:
            return
        try:
            resource.prlimit(pid, _OPEN_FILES, (self._open_files, self._open_files))
        except (OSError, ValueError) as error:
            raise CannotStart(f"limits.open_files: {self._open_files}: {error}") from None

    def reached(self, report: Report) -> None:
        """init says that everything is ended now."""
        if report.status == launching.LIMIT_TIMEOUT and self.timeout_s is not None:
            self._reached = Passed(
                Reason.TIMEOUT,
                "limits.timeout",
                f"everything was ended: it had not come to an end within {_seconds(self.timeout_s)}",
            )
        elif report.status == launching.LIMIT_CPU_TIME and self.cpu_time_s is not None:
            self._reached = Passed(
                Reason.KILLED,
                "limits.cpu_time",
                f"everything was ended: its processes had used {_seconds(report.used_ns / 1e9)} of processors together,"
                f" and {_seconds(self.cpu_time_s)} is the limit",
            )
        elif report.status == launching.LIMIT_PAUSE:
            self._reached = Passed(
                Reason.KILLED,
                "pause",
                "everything was ended: a process went on while the sandbox was paused and cannot be held: it is another"
                " user's, or its file can be executed and not read",
            )
        elif report.status == launching.LIMIT_CPU:
            self._reached = Passed(
                Reason.KILLED,
                "limits.cpu",
                "everything was ended: a process that computes cannot be held to its share: it is another user's,"
                " or its file can be executed and not read",
            )

    def watch(self, control_fd: int, init_pid: int) -> None:
        """The program is about to run; control_fd: init's. Raises CannotStart."""
        try:
            if self.memory is not None:
                self.memory.watch(control_fd, init_pid)
        except OSError as error:
            raise CannotStart(f"limits.memory: nobody can look at it: {error.strerror}") from None
        try:
            if self.disk is not None:
                self.disk.watch(control_fd)
        except OSError as error:
            raise CannotStart(f"limits.disk: what is written cannot be watched: {error.strerror}") from None

    def count_processes(self, engine: Engine, init_pid: int) -> None:
        """The program has not made any yet. Raises CannotStart."""
        if self.processes is None:
            return
        try:
            engine.limit_processes(self.processes, init_pid)
        except OSError as error:
            raise CannotStart(
                "limits.processes: they cannot be counted: /proc/PID/task/TID/children:"
                f" {error.strerror}; it needs a kernel with CONFIG_PROC_CHILDREN, or leave it out"
            ) from None

    def passed(self, result: Result) -> Passed | None:
        """When nothing of the program is left. What it used goes into the result."""
        memory, disk = self._passed_memory(result), self._passed_disk(result)
        return disk or memory or self._reached

    def _passed_memory(self, result: Result) -> Passed | None:
        if self.memory is None:
            return None
        _, peak_bytes, is_over, uncounted_error = self.memory.state()
        # Over before anybody looked: the kernel's number of the largest process has us in it, whom it was forked from.
        seen_bytes = min(result.peak_memory_bytes, self.memory.limit_bytes)
        result.peak_memory_bytes = peak_bytes or seen_bytes
        if not is_over:
            return None
        if uncounted_error:
            return Passed(
                Reason.MEMORY,
                "limits.memory",
                "everything was ended: what its processes use could not be counted any more:"
                f" {os.strerror(uncounted_error)}",
            )
        how = "needed more when they used" if self.memory.is_by_group else "came to use"
        return Passed(
            Reason.MEMORY,
            "limits.memory",
            f"everything was ended: its processes {how} {size_text(peak_bytes)} of memory together, and"
            f" {size_text(self.memory.limit_bytes)} is the limit",
        )

    def _passed_disk(self, result: Result) -> Passed | None:
        if self.disk is None:
            return None
        held_bytes, is_over = self.disk.state()
        result.disk_bytes = held_bytes
        if not is_over:
            return None
        return Passed(
            Reason.DISK,
            "limits.disk",
            f"everything was ended: its changes came to hold {size_text(held_bytes)} by writing to open files, and"
            f" {size_text(self.disk.limit_bytes)} is the limit",
        )

    def stop(self) -> None:
        """From now on nothing is ended for a limit."""
        if self.memory is not None:
            self.memory.stop()
        if self.disk is not None:
            self.disk.stop()

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()

    def leave_groups(self) -> list[str]:
        """All of the program is dead. Returns: what could not be removed, in lines for people."""
        grouped, self._grouped = self._grouped, None
        return [] if grouped is None else grouped.close()


def _memory(limit_bytes: int) -> Memory:
    from sandlockd.kernel.memlimit import Memory  # only where it is asked for

    try:
        return Memory(limit_bytes)
    except OSError as error:
        raise CannotStart(
            f"limits.memory: nobody can look at it: {error.strerror};"
            " is fs.inotify.max_user_instances used up?"
        ) from None


def _disk(limit_bytes: int) -> Disk:
    from sandlockd.kernel.disk import Disk  # only where it is asked for

    try:
        return Disk(limit_bytes)
    except OSError as error:
        raise CannotStart(
            f"limits.disk: what is written cannot be watched: {error.strerror};"
            " is fs.inotify.max_user_instances used up?"
        ) from None


def _trees_problem(limits: model.Limits, trees: bool) -> str | None:
    if limits.disk is None or trees:
        return None
    return (
        "limits.disk limits what copy-on-write trees hold, and this run has none:"
        " give --workdir, or leave it out"
    )


def _files_problem(limits: model.Limits) -> str | None:
    """The program gets no more than we have been given ourselves, whatever rights we have."""
    _, most = resource.getrlimit(_OPEN_FILES)
    if limits.open_files is None or most == resource.RLIM_INFINITY or limits.open_files <= most:
        return None
    return (
        f"limits.open_files is {limits.open_files}, and sandlockd itself was given {most} (`ulimit -Hn`):"
        " ask for less, or raise that"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + " s"


def size_text(size_bytes: int) -> str:
    for unit, bits in _UNITS:
        if size_bytes >> bits:
            return f"{size_bytes / (1 << bits):.2f}".rstrip("0").rstrip(".") + unit
    return f"{size_bytes} bytes"
