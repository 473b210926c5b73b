"""Who watches objects of the upper by inotify, so that they are told what happens to the tree, not how it is stored.

The kernel tells a watch of everything that happens to its object: of the copies and whiteouts that we make in a
directory as well. `quiet` takes the bits that we would cause out of the masks meanwhile. Nobody else causes them:
names in a tree change by us alone, one at a time, and so do modes, owners and attributes. What anybody may cause by a
descriptor (reading, writing, closing) is never taken out.

The kernel is asked each time what there is: a program removes a watch, closes or reuses a descriptor, without a word.
What fails here costs an event too many, never the call.
"""

from __future__ import annotations

import contextlib
import os

from sandlockd.kernel import acts, inotify, pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlockd.kernel.fds import OwnedFd

NAMES = inotify.MOVED_FROM | inotify.MOVED_TO | inotify.CREATE | inotify.DELETE
MOVES = inotify.MOVED_FROM | inotify.MOVED_TO | inotify.MOVE_SELF
ATTRIBUTES = inotify.ATTRIB
ALL = NAMES | MOVES | ATTRIBUTES
_FLAGS = inotify.EXCL_UNLINK | inotify.ONESHOT


class Watches:
    """Of one tree. Used by whoever holds its lock."""

    def __init__(self) -> None:
        # By the object's inode number: the process and its descriptor -> the watch, and flags that old kernels hide.
        self._known: dict[int, dict[tuple[int, int], tuple[int, int]]] = {}
        self._processes: dict[int, OwnedFd] = {}
        # While several objects are made quiet together: by the process and its descriptor.
        self._masks: dict[tuple[int, int], dict[tuple[int, int], int]] | None = None

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, inode: int, tgid: int, fd: int, wd: int, mask: int) -> None:
        """The program has been given a watch on this object of the upper. The process is alive."""
        self._forget_dead()
        if tgid not in self._processes:
            self._processes[tgid] = pidfd.open_pidfd(tgid)
        self._known.setdefault(inode, {})[tgid, fd] = wd, mask & _FLAGS

    def has(self, opened: OwnedFd) -> bool:
        """Whether somebody may watch this very object."""
        return bool(self._known) and os.fstat(opened.fd).st_ino in self._known

    @contextlib.contextmanager
    def asking_once(self) -> Iterator[None]:
        """Each instance is asked once for all objects that are made quiet in the block."""
        self._masks = {}
        try:
            yield
        finally:
            self._masks = None

    @contextlib.contextmanager
    def quiet(self, opened: OwnedFd, bits: int) -> Iterator[None]:
        """What happens to this object is not told meanwhile."""
        inode = os.fstat(opened.fd).st_ino
        with contextlib.ExitStack() as stack:
            for holder in list(self._known.get(inode, ())):
                with contextlib.suppress(OSError):
                    self._silence(inode, holder, opened, bits, stack)
            yield

    def _silence(
        self, inode: int, holder: tuple[int, int], opened: OwnedFd, bits: int, stack: contextlib.ExitStack
    ) -> None:
        wd, flags = self._known[inode][holder]
        try:
            instance = acts.duplicate_of_process(self._processes[holder[0]], holder[1])
        except OSError:
            self._forget(inode, holder)
            raise
        stack.callback(instance.close)
        known = {} if self._masks is None else self._masks
        if holder not in known:
            known[holder] = inotify.masks_of(instance)
        mask = known[holder].get((wd, inode))
        if mask is None:
            self._forget(inode, holder)
        elif mask & bits:
            inotify.set_mask(instance, opened, wd, mask & ~bits | flags)
            stack.callback(_restore, instance, opened, wd, mask | flags)

    def _forget(self, inode: int, holder: tuple[int, int]) -> None:
        del self._known[inode][holder]
        if not self._known[inode]:
            del self._known[inode]

    def _forget_dead(self) -> None:
        """So that a number that was given anew is not taken for the process that had it."""
        for tgid, process in list(self._processes.items()):
            if not pidfd.is_dead(process.fd):
                continue
            process.close()
            del self._processes[tgid]
            for inode in list(self._known):
                for holder in [holder for holder in self._known[inode] if holder[0] == tgid]:
                    self._forget(inode, holder)

    def close(self) -> None:
        for process in self._processes.values():
            process.close()


def _restore(instance: OwnedFd, opened: OwnedFd, wd: int, mask: int) -> None:
    with contextlib.suppress(OSError):
        inotify.set_mask(instance, opened, wd, mask)
