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
    from sandlockd.kernel.memlimit import Memory
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
    """disk: told by the trees what they hold; None: no limit. memory: likewise None."""

    def __init__(self, limits: model.Limits, *, trees: bool) -> None:
        """trees: the run has copy-on-write trees. Raises CannotStart."""
        self.disk: Disk | None = None
        self.memory = None if limits.memory is None else _memory(limits.memory)
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

    def passed(self, result: Result) -> Passed | None:
        """When nothing of the program is left. What it used goes into the result."""
        passed = self._passed_memory(result)
        return self._passed_disk(result) or passed

    def _passed_memory(self, result: Result) -> Passed | None:
        if self.memory is None:
            return None
        _, peak_bytes, is_over = self.memory.state()
        result.peak_memory_bytes = max(peak_bytes, result.peak_memory_bytes if peak_bytes == 0 else 0)
        if not is_over:
            return None
        return Passed(
            Reason.MEMORY,
            "limits.memory",
            f"everything was ended: its processes came to use {_size(peak_bytes)} of memory together, and"
            f" {_size(self.memory.limit_bytes)} is the limit",
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
            f"everything was ended: its changes came to hold {_size(held_bytes)} by writing to open files, and"
            f" {_size(self.disk.limit_bytes)} is the limit",
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


def _memory(limit_bytes: int) -> Memory:
    from sandlockd.kernel.memlimit import Memory  # only where it is asked for

    try:
        return Memory(limit_bytes)
    except OSError as error:
        raise CannotStart(
            f"limits.memory: nobody can look at it: {error.strerror};"
            " is fs.inotify.max_user_instances used up?"
        ) from None


def _size(size_bytes: int) -> str:
    for unit, bits in _UNITS:
        if size_bytes >> bits:
            return f"{size_bytes / (1 << bits):.2f}".rstrip("0").rstrip(".") + unit
    return f"{size_bytes} bytes"
