"""One copy-on-write tree while a program uses it: its layers for each identity, its lock, and what opened objects are
called in it.

The program knows a name in the tree by the tree's own root. The kernel knows each object by where it really lies: in
the lower tree, where that is the same name unless a rename moved it, or in the upper directory. `virtual_path` is the
way back.

Used by the loop and by workers, one at a time: whoever looks or changes something holds `lock`. Nobody holds it while
it copies data or waits for anything else.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import os
import stat

from sandlockd.kernel import beneath, copying
from sandlockd.kernel.disk import BLOCK_BYTES
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.layers import DIRECTORY
from sandlockd.kernel.paths import self_link
from sandlockd.overlay import plans
from sandlockd.overlay.entries import FsError, Kind, NoLayer
from sandlockd.overlay.steps import Clear, CopyTree, CopyUp, Exchange, Link, Move, Remove, Whiteout
from sandlockd.overlay.view import Found, View
from sandlockd.store.access import DiskAccess
from sandlockd.store.copier import Staged
from sandlockd.store.executor import Executor
from sandlockd.store.holding import Holding, NoRoom
from sandlockd.store.index import IndexedLayer, UpperIndex
from sandlockd.store.layer import DirectoryLayer, HardLinks, require_prompt
from sandlockd.store.making import Making
from sandlockd.store.origins import Origins
from sandlockd.store.remainders import Remainders
from sandlockd.store.storage import recover
from sandlockd.store.watches import Watches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import NamedTuple

    from sandlockd.kernel.aside import TreesLock
    from sandlockd.kernel.disk import Disk
    from sandlockd.kernel.paths import Identity
    from sandlockd.overlay.entries import Entry, Name
    from sandlockd.overlay.plans import Steps
    from sandlockd.overlay.steps import Step
    from sandlockd.store.storage import Storage

    class Side(NamedTuple):
        """The tree as one identity sees it."""

        view: View
        executor: Executor

else:  # without importing typing
    Side = collections.namedtuple("Side", "view executor")

# What the loop copies by itself; the rest goes to a worker.
_AT_ONCE_BYTES = 128 * 1024
_AT_ONCE_STEPS = 32
_SIDES_MAX = 64
_MOVED_MAX = 1024
_DELETED = b" (deleted)"


class Tree:
    """root: canonical, as the program knows it. Takes the storage over."""

    def __init__(
        self,
        root: bytes,
        storage: Storage,
        lock: TreesLock,
        *,
        starts_empty: bool = False,
        passages: frozenset[bytes] = frozenset(),
        disk: Disk | None = None,
    ) -> None:
        """lock: one for all trees of a sandbox.

        starts_empty: it has no lower tree. What really lies below the root is no part of it.
        passages: as of a View. disk: where what all trees hold is limited; borrowed.
        """
        self.root = root
        self.storage = storage
        self.lock = lock
        self.passages = passages
        self.upper_path = os.readlink(self_link(storage.upper.fd))
        self.lower_directory = None if starts_empty else storage.workdir
        self.origins = Origins(storage)
        self.index = UpperIndex(storage.upper, self.lower_directory)
        self.holding: Holding | None = None
        if disk is not None:
            disk.add_upper(storage.upper, self.upper_path)
            self.holding = Holding(disk, storage.upper, storage.work)
            self.holding.read_work()
        self.index.read(self._found)
        self._lower = None if starts_empty else DirectoryLayer(storage.workdir)
        self._links = None if self._lower is None else HardLinks(self._lower)
        self._sides: dict[Identity | None, Side] = {}
        self._staged: dict[tuple[int, int], Staged] = {}
        self._stages = 0
        self._stopped = False
        self.watches = Watches()
        self.remainders = Remainders(storage.work)
        # Lower directories that a rename has moved: the path that they have in the lower tree, and the copy; None when
        # that is gone: held any longer, its end would not be told to who watches it.
        self._moved: dict[bytes, OwnedFd | None] = {}
        self.on_moved: Callable[[bytes, bytes], None] | None = None  # (old, new), relative to the tree
        self.copied_bytes = 0  # of data, from lower files
        self.lost = 0

    def renewed(self, disk: Disk | None) -> Tree:
        """The same from the disk, in the place of this one: another process used the storage since, and died.

        Raises OSError, FsError.
        """
        recover(self.storage)
        tree = Tree(
            self.root,
            self.storage,
            self.lock,
            starts_empty=self.lower_directory is None,
            passages=self.passages,
            disk=disk,
        )
        self.index.close()
        self.origins.close()
        self.watches.close()
        self.remainders.close()
        return tree

    @property
    def lower(self) -> DirectoryLayer | None:
        """None: it has none."""
        return self._lower

    def avoid(self, slow: frozenset[bytes]) -> None:
        """Where in the real tree nothing is to be looked at: a file system was mounted there since the start."""
        if self._lower is not None:
            self._lower.slow = slow

    def _count_copied(self, size: int) -> None:
        self.copied_bytes += size  # whoever copies holds the lock

    def side(self, identity: Identity | None) -> Side:
        """The layers as this identity may look them up."""
        side = self._sides.get(identity)
        if side is None:
            while len(self._sides) >= _SIDES_MAX:
                del self._sides[next(iter(self._sides))]
            upper = IndexedLayer(self.storage.upper, self.index, identity)
            access = DiskAccess(upper, self._lower, identity)
            view = View(
                self.root,
                upper,
                self._lower or NoLayer(),
                access=access,
                siblings=self._links,
                passages=self.passages,
            )
            executor = Executor(
                view,
                self.storage.upper,
                self.storage.work,
                self._lower,
                staged=self._staged,
                carried_out=self._carried_out,
                origins=self.origins,
                known=self.watches,
                holding=self.holding,
                copied=self._count_copied,
            )
            side = self._sides[identity] = Side(view, executor)
        return side

    def _found(self, path: bytes, rows: Sequence[Name]) -> None:
        self.origins.read(path, rows)
        if self.holding is not None:
            self.holding.read(path, rows)

    # ---- names

    def virtual_path(self, real: bytes) -> bytes | None:
        """What the program calls the object that the kernel calls `real`; None for what is not of the tree."""
        if real == self.upper_path or real.startswith(self.upper_path + b"/"):
            return self.root + real[len(self.upper_path) :]
        if not self.may_hold(real):
            return None
        at = real
        while self._moved and at != self.root:
            if at in self._moved:
                copy = self._moved[at]
                if copy is None:
                    return None
                now = os.readlink(self_link(copy.fd))
                return None if now.endswith(_DELETED) else self.virtual_path(now + real[len(at) :])
            at = at[: at.rindex(b"/")]
        return real

    def may_hold(self, real: bytes) -> bool:
        """Is what has this path in the real tree an object of this one, or was it?"""
        if self.lower_directory is None:
            return False
        return real == self.root or real.startswith(self.root + b"/")

    def inside(self, virtual: bytes) -> bytes:
        """The path relative to the tree."""
        return virtual[len(self.root) + 1 :]

    def moved(self, old: bytes, new: bytes) -> None:
        """A rename has taken a lower directory elsewhere, relative to the tree: who is in it shall be found there."""
        key = self.root + b"/" + old
        oldest = [next(iter(self._moved))] if len(self._moved) >= _MOVED_MAX else []
        for before in [self._moved.pop(known, None) for known in (key, *oldest)]:
            if before is not None:
                before.close()
        if self.on_moved is not None:
            self.on_moved(old, new)
        self._moved[key] = beneath.open_below(self.storage.upper.fd, new, os.O_PATH | os.O_DIRECTORY)

    def _carried_out(self, step: Step) -> None:
        self.index.carried_out(step)
        if not self._moved or not isinstance(step, Remove | Whiteout | Move | Clear):
            return
        for key, copy in self._moved.items():
            if copy is not None and os.readlink(self_link(copy.fd)).endswith(_DELETED):
                copy.close()
                self._moved[key] = None

    def watched(self, path: bytes, inode: int, tgid: int, fd: int, wd: int, mask: int) -> None:
        """A process has been given a watch on what the upper has there."""
        self.watches.add(inode, tgid, fd, wd, mask)
        if self.index.layers.find(path)[0] == DIRECTORY:
            self.index.layers.watch(path)

    def is_copied(self, found: Found, number: tuple[int, int]) -> bool:
        """Was the lower object with this number copied to what the upper has under this name?

        Who opened it before, holds it still.
        """
        if found.upper is None or found.upper.kind is Kind.WHITEOUT:
            return False
        return self.origins.told(found.upper.inode) == number

    # ---- objects

    def open_shown(self, found: Found) -> OwnedFd:
        """The object that represents a name, opened for nothing but looking. Raises OSError."""
        layer = self.storage.workdir if found.lower is not None else self.storage.upper
        return beneath.open_below(layer.fd, found.path, os.O_PATH)

    def open_described(self, found: Found) -> OwnedFd:
        """The object whose owner, mode, times and attributes show. Raises OSError."""
        layer = self.storage.upper if found.upper is not None else self.storage.workdir
        return beneath.open_below(layer.fd, found.path, os.O_PATH)

    def open_original(self, path: bytes) -> OwnedFd | None:
        """What the lower tree has there, if it can be told at once."""
        if self._lower is None:
            return None
        try:
            require_prompt(self._lower.slow, path)
            return beneath.open_below(self.storage.workdir.fd, path, os.O_PATH)
        except (OSError, FsError):
            return None

    def open_copy(self, path: bytes) -> OwnedFd:
        """What the upper has there. Raises OSError."""
        return beneath.open_below(self.storage.upper.fd, path, os.O_PATH)

    # ---- copies that take their time

    def slow_steps(self, side: Side, steps: Steps) -> Steps:
        """Those that are too much for the loop: () for a plan that it may carry out by itself."""
        trees = tuple(step for step in steps if isinstance(step, CopyTree) and self._is_large(side, step))
        files = [step for step in steps if isinstance(step, CopyUp) and self._is_long(step)]
        if not trees and not files and len(steps) <= _AT_ONCE_STEPS:
            return ()
        return tuple(step for step in steps if isinstance(step, (CopyUp, CopyTree)))

    def _is_long(self, step: CopyUp) -> bool:
        if step.kind is not Kind.FILE or step.size == 0:
            return False
        try:
            with beneath.open_below(self.storage.workdir.fd, step.path, os.O_PATH) as seen:
                status = os.fstat(seen.fd)
                size = status.st_size if step.size is None else min(step.size, status.st_size)
                is_long = size > _AT_ONCE_BYTES or copying.is_written(seen)
        except OSError:
            return False  # carrying it out finds the error
        return is_long and (status.st_dev, status.st_ino) not in self._staged

    def are_written(self, steps: Steps) -> bool:
        """Does one of them copy what somebody has open for writing? Reading it may wait for him, and is never done."""
        for step in steps:
            if isinstance(step, CopyUp) and step.kind is Kind.FILE and step.size != 0:
                with beneath.open_below(self.storage.workdir.fd, step.path, os.O_PATH) as seen:
                    if copying.is_written(seen):
                        return True
        return False

    def renamed_files(self, steps: Steps) -> list[OwnedFd]:
        """Those of the upper of which a name goes, comes or changes, opened for nothing but looking."""
        found = []
        for path in itertools.chain.from_iterable(map(_renamed, steps)):
            with contextlib.suppress(OSError):  # it is not there yet
                found.append(self.open_copy(path))
        return found

    def _is_large(self, side: Side, step: CopyTree) -> bool:
        found = side.view.at(step.path)
        if found is None:
            return False
        return any(
            number >= _AT_ONCE_STEPS or (isinstance(single, CopyUp) and self._is_long(single))
            for number, single in enumerate(plans.tree_steps(found))
        )

    def lift(self, side: Side, steps: Iterable[CopyUp | CopyTree]) -> None:
        """In a worker: make the copies that a plan needs. Nobody sees a difference, so that it may be left halfway.

        Raises OSError: ENOSPC, EDQUOT ... NoRoom: before anything was copied.
        """
        copies = [single for step in steps for single in self._copies(side, step)]
        kept = 0 if self.holding is None else self._needed(copies)
        if self.holding is not None and not self.holding.disk.reserve(kept):
            raise NoRoom
        try:
            for single in copies:
                if self._stopped:
                    return
                done = 0 if self.holding is None else self._needed([single])
                if self._is_long(single):
                    self._stage(single)
                with self.lock:
                    self._copy_up(side, single)
                if self.holding is not None:
                    self.holding.disk.release(min(done, kept))
                    kept -= min(done, kept)
        finally:
            if self.holding is not None:
                self.holding.disk.release(kept)

    # ---- what they hold

    def has_room(self, side: Side, steps: Steps, *, more_bytes: int, freed_bytes: int) -> bool:
        """Where that is limited. For a plan that the loop carries out, and more_bytes besides."""
        holding = self.holding
        if holding is None:
            return True
        needed = self._needed(tuple(side.executor.single(steps))) + more_bytes
        return needed == 0 or holding.disk.has_room(needed, freed_bytes=freed_bytes)

    def _needed(self, steps: Sequence[Step]) -> int:
        assert self.holding is not None
        return self.holding.needed(steps, (self._size(step) for step in steps if isinstance(step, CopyUp)))

    def _size(self, step: CopyUp) -> int:
        """What a copy's data take. Of one that was made beforehand: nothing more."""
        if step.kind is not Kind.FILE or step.size == 0:
            return 0
        try:
            with beneath.open_below(self.storage.workdir.fd, step.path, os.O_PATH) as seen:
                status = os.fstat(seen.fd)
        except OSError:
            return 0  # carrying it out finds the error
        if (status.st_dev, status.st_ino) in self._staged:
            return 0
        held = min(status.st_blocks * 512, -(-status.st_size // BLOCK_BYTES) * BLOCK_BYTES)
        return held if step.size is None else min(held, -(-step.size // BLOCK_BYTES) * BLOCK_BYTES)

    def _copies(self, side: Side, step: CopyUp | CopyTree) -> list[CopyUp]:
        if isinstance(step, CopyUp):
            return [step]
        with self.lock:
            try:
                found = side.view.at(step.path)
                steps = [] if found is None else list(plans.tree_steps(found))
            except FsError as error:
                raise OSError(error.errno, os.strerror(error.errno)) from None
        return [single for single in steps if isinstance(single, CopyUp)]

    def _copy_up(self, side: Side, step: CopyUp) -> None:
        """If it still is what the plan took it for: the program went on meanwhile."""
        try:
            found = side.view.at(step.path)
            above = None if found is None else found.parent
            if found is None or found.lower is None or found.upper is not None:
                return
            if found.lower.links > 1 and found.lower.kind is not Kind.DIRECTORY:
                return  # with its other names, in the plan itself
            if above is not None and above.upper is None:
                return
            side.executor.run(step, Making())
        except FsError:
            return  # the plan finds it, too

    def _stage(self, step: CopyUp) -> None:
        """The data of a large file, in the work directory."""
        with beneath.open_below(self.storage.workdir.fd, step.path, os.O_PATH) as seen:
            status = os.fstat(seen.fd)
            if not stat.S_ISREG(status.st_mode):
                return
            with self.lock:
                self._stages += 1
                name = b"staged#%d" % self._stages
            copy = beneath.create_file(self.storage.work, name, os.O_WRONLY, 0o600)
            try:
                with copying.open_source(seen) as source:
                    copying.copy_data(source, copy, step.size, self._is_stopped)
            except BaseException:
                copy.close()
                beneath.unlink(self.storage.work, name)
                raise
        with self.lock:
            key = (status.st_dev, status.st_ino)
            before = self._staged.pop(key, None)
            if before is not None:
                before.copy.close()
                if self.holding is not None:
                    self.holding.leaving_work(before.name)
                beneath.unlink(self.storage.work, before.name)
            if self.holding is not None:
                self.holding.note_in_work(copy)
            self._staged[key] = Staged(name, copy, step.size, status.st_mtime_ns, status.st_ctime_ns)

    def _is_stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """Whoever copies gives up soon."""
        self._stopped = True

    def close(self) -> None:
        for side in self._sides.values():
            self.lost |= side.executor.lost
        for staged in self._staged.values():
            staged.copy.close()
        for copy in self._moved.values():
            if copy is not None:
                copy.close()
        self.watches.close()
        self.remainders.close()
        self.index.close()
        self.origins.close()
        self.storage.close()


def _renamed(step: Step) -> tuple[bytes, ...]:
    match step:
        case Whiteout(path, over) if over is not None and over is not Kind.DIRECTORY:
            return (path,)
        case Remove(path, kind) if kind is Kind.FILE:
            return (path,)
        case Move(source, path, _) | Exchange(source, path):
            return source, path
        case Link(source, _, _, _) if source is not None:
            return (source,)
        case _:
            return ()


def copies_of(steps: Steps) -> Steps:
    """What a plan begins with: nobody sees a difference when that is done."""
    return tuple(itertools.takewhile(_is_copy, steps))


def _is_copy(step: Step) -> bool:
    return isinstance(step, (CopyUp, CopyTree)) or (isinstance(step, Link) and step.is_copy_up)


def kernel_error(error: FsError) -> OSError:
    return OSError(error.errno, os.strerror(error.errno))


def is_object(entry: Entry | None, number: tuple[int, int]) -> bool:
    """Has the object that a layer tells of this device and inode number?"""
    return entry is not None and (entry.device, entry.inode) == number


def no_such_name() -> OSError:
    return OSError(errno.ENOENT, os.strerror(errno.ENOENT))
