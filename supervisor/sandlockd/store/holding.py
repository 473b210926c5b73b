"""What one tree's upper holds, where that is limited: each step tells, and what a plan may take is asked before.

The estimate is on the safe side by a few blocks: a name may take a block in its directory, attributes one of their own.
What takes a name away is never refused, though a whiteout needs one: a program at its limit gets on by removing things.
"""

from __future__ import annotations

import errno
import os

from sandlockd.kernel import beneath
from sandlockd.kernel.disk import BLOCK_BYTES, Disk
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.steps import (
    Clear,
    CopyUp,
    Exchange,
    Link,
    Make,
    MarkOpaque,
    Move,
    Remove,
    Step,
    Whiteout,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.overlay.entries import Name

_PATH_MAX = 4096  # linux/limits.h, with the NUL


class NoRoom(OSError):
    """The limit does not allow it; nothing was done."""

    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Holding:
    """disk: of all trees of the sandbox; borrowed, as the upper and work."""

    __slots__ = ("_upper", "_work", "disk")

    def __init__(self, disk: Disk, upper: OwnedFd, work: OwnedFd) -> None:
        self.disk = disk
        self._upper = upper
        self._work = work

    # ---- what is there

    def read(self, path: bytes, rows: Iterable[Name]) -> None:
        """At the start: a directory of the upper, and what is in it. Raises OSError."""
        self.note(path)
        for name, kind, _ in rows:
            if kind is not Kind.DIRECTORY:
                self.note(path + b"/" + name if path else name)

    def read_work(self) -> None:
        """At the start. Raises OSError."""
        self.disk.note(self._work, b"")
        with beneath.open_below(self._work.fd, b"", os.O_RDONLY | os.O_DIRECTORY) as opened:
            for name, _, _ in list(beneath.rows(opened)):
                self.disk.note(self._work, name)

    def note(self, path: bytes) -> None:
        """What is there may hold more, or less, than it did. Raises OSError."""
        if len(path) < _PATH_MAX:
            self.disk.note(self._upper, path)
            return
        with beneath.open_below(self._upper.fd, path, os.O_PATH) as opened:
            self.disk.note(opened, b"")

    def note_in_work(self, opened: OwnedFd) -> None:
        """A copy that is complete. Raises OSError."""
        self.disk.note(opened, b"")

    def leaving_work(self, name: bytes) -> None:
        self.disk.leaving(self._work, name)

    # ---- steps

    def before(self, step: Step) -> None:
        """What it will take out of its place, if anything is there. Raises OSError."""
        match step:
            case Whiteout(path, over) if over is not None:
                self._leaving(path)
            case Remove(path, _) | Clear(path) | Move(_, path, _):
                self._leaving(path)

    def _leaving(self, path: bytes) -> None:
        if len(path) < _PATH_MAX:
            self.disk.leaving(self._upper, path)
            return
        with beneath.open_directory(self._upper.fd, path.rpartition(b"/")[0]) as parent:
            self.disk.leaving(parent, path.rpartition(b"/")[2])

    def after(self, step: Step) -> None:
        """It has been carried out. Raises OSError."""
        self.disk.left()
        match step:
            case CopyUp(path, _, _) | Make(path, _, _, _) | Link(_, path, _, _):
                self._note_name(path)
                self.note(path)
            case MarkOpaque(path) | Clear(path):
                self.note(path)
            case Move(source, path, _) | Exchange(source, path):
                self._note_name(source)
                self._note_name(path)
            case Whiteout(path, _) | Remove(path, _):
                self._note_name(path)

    def _note_name(self, path: bytes) -> None:
        self.note(path.rpartition(b"/")[0])

    # ---- what a plan takes

    def needed(self, steps: Sequence[Step], sizes: Iterable[int]) -> int:
        """At most. steps: single ones; sizes: of the data of each `CopyUp` among them, in their order."""
        if _only_removes(steps):
            return 0
        return sum(self._needed(step) for step in steps) + sum(sizes)

    def _needed(self, step: Step) -> int:
        match step:
            case CopyUp(_, Kind.FILE, _):
                return 2 * BLOCK_BYTES  # its name, and its attributes
            case CopyUp():
                return 3 * BLOCK_BYTES
            case Make(_, kind, _, opaque):
                own = kind is Kind.DIRECTORY or kind is Kind.SYMLINK
                return (2 + own + opaque) * BLOCK_BYTES  # its name, and what is written first
            case Link() | MarkOpaque():
                return BLOCK_BYTES
            case Move(_, path, _):
                return 0 if self._is_there(path) else 2 * BLOCK_BYTES
            case _:
                return 0

    def _is_there(self, path: bytes) -> bool:
        try:
            with beneath.open_below(self._upper.fd, path, os.O_PATH):
                return True
        except OSError:
            return False


def _only_removes(steps: Sequence[Step]) -> bool:
    return (
        bool(steps)
        and all(
            isinstance(step, (Whiteout, Remove)) or (isinstance(step, CopyUp) and step.kind is Kind.DIRECTORY)
            for step in steps
        )
        and isinstance(steps[-1], (Whiteout, Remove))
    )
