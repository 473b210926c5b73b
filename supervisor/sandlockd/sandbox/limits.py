"""The limits of one run: what counts for each of them, and whether one of them has ended it.

Nothing is made for a limit that the policy does not set.
"""

from __future__ import annotations

from sandlockd.launch.prepare import CannotStart
from sandlockd.sandbox.result import Reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from sandlockd.kernel.disk import Disk
    from sandlockd.kernel.engine import Engine
    from sandlockd.policy import model
    from sandlockd.sandbox.result import Result

    class Passed(NamedTuple):
        """A limit that ended the run. text: one line for people."""

        reason: Reason
        rule: str
        text: str

else:  # without importing typing
    import collections

    Passed = collections.namedtuple("Passed", "reason rule text")

_UNITS = (("G", 30), ("M", 20), ("K", 10))


class Limits:
    """processes: how many may live. disk: told by the trees what they hold; None: no limit."""

    def __init__(self, limits: model.Limits, *, trees: bool) -> None:
        """trees: the run has copy-on-write trees. Raises CannotStart."""
        self.processes = limits.processes
        self.disk: Disk | None = None
        if limits.disk is None:
            return
        if not trees:
            raise CannotStart(
                "limits.disk limits what copy-on-write trees hold, and this run has none:"
                " give --workdir, or leave it out"
            )
        from sandlockd.kernel.disk import Disk  # only where it is asked for

        try:
            self.disk = Disk(limits.disk)
        except OSError as error:
            raise CannotStart(
                f"limits.disk: what is written cannot be watched: {error.strerror};"
                " is fs.inotify.max_user_instances used up?"
            ) from None

    def watch(self, control_fd: int) -> None:
        """The program is about to run; control_fd: init's. Raises CannotStart."""
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
        if self.disk is None:
            return None
        held_bytes, is_over = self.disk.state()
        result.disk_bytes = held_bytes
        if not is_over:
            return None
        return Passed(
            Reason.DISK,
            "limits.disk",
            f"everything was ended: its changes came to hold {_size(held_bytes)} by writing to open files, and"
            f" {_size(self.disk.limit_bytes)} is the limit",
        )

    def stop(self) -> None:
        """From now on nothing is ended for a limit."""
        if self.disk is not None:
            self.disk.stop()

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()


def _size(size_bytes: int) -> str:
    for unit, bits in _UNITS:
        if size_bytes >> bits:
            return f"{size_bytes / (1 << bits):.2f}".rstrip("0").rstrip(".") + unit
    return f"{size_bytes} bytes"
