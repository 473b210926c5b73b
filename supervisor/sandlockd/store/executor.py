"""Carries the model's steps out on the upper directory.

What is not one system call in the upper itself is made in the work directory and shown by one rename or exchange. So
a reader never sees half of it, and an end between any two system calls leaves the old tree or the new one; what then
lies in work is swept when the storage is opened again. (Not so after a power failure: nothing is flushed.)

New objects that cover no whiteout are made in their place by the kernel, as the caller: so owner, group, setgid
directories, default ACLs and modes are its own doing. Everything else is done as ourselves, and who may was asked
before (`access`). It refuses to replace what a step does not expect: the kernel gives EEXIST, ENOTEMPTY or ENOENT.

A step that only changes how a tree is stored leaves the times of the directory alone: for a moment between two
system calls, they are new.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from functools import partial
from typing import assert_never

from sandlockd.kernel import beneath, copying
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import Identity, acting_as
from sandlockd.overlay import plans
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.steps import (
    Clear,
    CopyTree,
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
from sandlockd.overlay.view import View
from sandlockd.store import watches
from sandlockd.store.binding import Binding, bind_below
from sandlockd.store.copier import Copier, Staged
from sandlockd.store.layer import DirectoryLayer
from sandlockd.store.lending import lent
from sandlockd.store.making import DEFAULT_ACL, Making, make_alike, make_as_caller
from sandlockd.store.removal import remove
from sandlockd.store.watched_names import OPAQUE_ATTRIBUTE, WatchedNames, mark_opaque
from sandlockd.store.watches import Watches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sandlockd.store.holding import Holding
    from sandlockd.store.origins import Origins

# In the work directory; whatever else is there is left from an end.
WHITEOUT_NAME = b"whiteout"
STAGE_NAME = b"stage"
_numbers = itertools.count()  # of all trees: what resists being removed keeps its name


class Executor:
    """Of one tree. The process's umask must be 0: modes are given in full.

    upper, work: on one file system; borrowed, as the view's layers.
    carried_out: told of each step that was. origins: told of each object that is made. holding: told of both.
    known: who watches what, who is not to notice how a tree is stored.
    stop, staged, copied: as of a Copier.
    """

    def __init__(
        self,
        view: View,
        upper: OwnedFd,
        work: OwnedFd,
        lower: DirectoryLayer | None,
        *,
        stop: Callable[[], bool] | None = None,
        staged: dict[tuple[int, int], Staged] | None = None,
        carried_out: Callable[[Step], None] | None = None,
        origins: Origins | None = None,
        known: Watches | None = None,
        holding: Holding | None = None,
        copied: Callable[[int], None] | None = None,
    ) -> None:
        self._carried_out = carried_out
        self._origins = origins
        self._holding = holding
        self._lent = partial(lent, work)
        self._copier = Copier(work, {} if staged is None else staged, stop, holding, copied)
        self._view = view
        self._upper = upper
        self._work = work
        self._lower = lower
        root = None if lower is None else lower.root
        self._watched = WatchedNames(
            upper, work, root, Watches() if known is None else known, self._new_whiteout
        )

    @property
    def lost(self) -> int:
        """As of a Copier."""
        return self._copier.lost

    def carry_out(self, steps: Iterable[Step], making: Making) -> OwnedFd | None:
        """All of a plan. Returns: the new file, opened, where one was made.

        Raises:
            OSError: the kernel's; the program is owed that errno (ENOSPC, EDQUOT, EIO, EACCES ...). What it sees is
                as before.
            copying.Stopped: likewise.
        """
        opened: OwnedFd | None = None
        for step in self.single(steps):
            opened = self.run(step, making) or opened
        return opened

    def run(self, step: Step, making: Making) -> OwnedFd | None:
        """One step, as `carry_out`."""
        if self._holding is not None:
            self._holding.before(step)
        opened = self._run(step, making)
        if self._carried_out is not None:
            self._carried_out(step)
        if self._holding is not None:
            self._holding.after(step)
        return opened

    def single(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The steps with each `CopyTree` taken apart when its turn comes."""
        for step in steps:
            if isinstance(step, CopyTree):
                found = self._view.at(step.path)
                if found is None:
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), step.path)
                yield from plans.tree_steps(found)
            else:
                yield step

    def _run(self, step: Step, making: Making) -> OwnedFd | None:
        match step:
            case CopyUp(path, kind, size):
                self._copy_up(path, kind, size)
            case CopyTree():
                raise ValueError("taken apart by single()")
            case MarkOpaque(path):
                with (
                    self._watched.quiet(path, itself=True),
                    self._opened(path) as directory,
                    self._lent(directory, path),
                ):
                    beneath.set_attribute(directory, OPAQUE_ATTRIBUTE, b"y")
            case Make(path, kind, over_whiteout, opaque):
                return self._make(path, kind, making, over_whiteout, opaque)
            case Link(source, path, over_whiteout, is_copy_up):
                self._link(source, path, making, over_whiteout, is_copy_up)
            case Whiteout(path, over):
                self._white_out(path, over)
            case Remove(path, kind):
                self._remove(path, kind)
            case Clear(path):
                self._clear(path)
            case Move(source, path, whiteout):
                self._rename(source, path, making, beneath.RENAME_WHITEOUT if whiteout else 0)
            case Exchange(first, second):
                self._rename(first, second, making, beneath.RENAME_EXCHANGE)
            case _:
                assert_never(step)
        return None

    # ---- copies

    def _copy_up(self, path: bytes, kind: Kind, size: int | None) -> None:
        assert self._lower is not None, "there is nothing to copy"
        with (
            self._watched.quiet(path),
            beneath.open_below(self._lower.root.fd, path, os.O_PATH) as seen,
            self._in_work() as name,
            self._copier.copy(seen, path, kind, size, name) as copy,
            self._parent(path) as parent,
            self._lent(parent, path.rpartition(b"/")[0]),
            self._lent(copy, path) if kind is Kind.DIRECTORY else contextlib.nullcontext(),
            _times_kept(parent),
        ):
            original = os.fstat(seen.fd)
            if self._origins is not None and kind not in (Kind.FILE, Kind.DIRECTORY):
                self._origins.record(copy, original)
            beneath.rename(self._work, name, parent, _name(path), beneath.RENAME_NOREPLACE)
            if self._origins is not None:
                self._origins.copied(copy, original)

    def _clear(self, path: bytes) -> None:
        with self._opened(path) as old, self._parent(path) as parent:
            if self._watched.watch(old, parent):
                with self._watched.quiet(path, itself=True), self._lent(old, path, stat.S_IRWXU):
                    beneath.set_attribute(old, OPAQUE_ATTRIBUTE, b"y")
                    self._watched.empty(path)
                return
            with self._in_work() as name, _times_kept(parent):
                beneath.make_directory(self._work, name, 0o700)
                with beneath.open_directory(self._work.fd, name) as fresh:
                    self._note_made(fresh)
                    beneath.set_attribute(fresh, OPAQUE_ATTRIBUTE, b"y")
                    copying.copy_metadata(old, fresh)
                    with self._lent(old, path), self._lent(fresh, path):
                        beneath.rename(self._work, name, parent, _name(path), beneath.RENAME_EXCHANGE)

    # ---- new names

    def _make(
        self, path: bytes, kind: Kind, making: Making, over_whiteout: bool, opaque: bool
    ) -> OwnedFd | None:
        with self._parent(path) as parent:
            has_acl = beneath.attribute(parent, DEFAULT_ACL) is not None
            if has_acl:
                making = making._replace(umask=0)
            if kind is Kind.SOCKET and making.binding is not None:
                self._bind(parent, _name(path), making, making.binding, over_whiteout, has_acl)
                return None
            if not over_whiteout:
                opened = make_as_caller(parent, _name(path), kind, making)
                self._note_new(parent, _name(path), opened)
                return opened
            if self._watched.watch(parent):
                with self._watched.in_place_of_whiteout(parent, path, opaque=opaque):
                    opened = make_as_caller(parent, _name(path), kind, making)
                self._note_new(parent, _name(path), opened)
                return opened
            with self._stage(parent, has_acl) as stage, self._named(stage) as name:
                opened = make_as_caller(stage, name, kind, making)
                try:
                    self._note_new(stage, name, opened)
                    if opaque:
                        mark_opaque(self._work, stage, name, path)
                    self._show(stage, name, parent, path, kind)
                except BaseException:
                    if opened is not None:
                        opened.close()
                    raise
                return opened

    def _bind(
        self,
        parent: OwnedFd,
        name: bytes,
        making: Making,
        binding: Binding,
        over_whiteout: bool,
        has_acl: bool,
    ) -> None:
        with self._in_work() as stage_name:
            beneath.make_directory(self._work, stage_name, 0o777)
            with (
                beneath.open_directory(self._work.fd, stage_name) as stage,
                bind_below(stage, binding, making, partial(make_alike, parent, has_acl)) as made,
            ):
                flags = 0 if over_whiteout else beneath.RENAME_NOREPLACE
                self._note_new(made, name, None)
                beneath.rename(made, name, parent, name, flags)

    def _note_new(self, parent: OwnedFd, name: bytes, opened: OwnedFd | None) -> None:
        if opened is not None:
            self._note_made(opened)
        elif self._origins is not None:
            with beneath.open_below(parent.fd, name, os.O_PATH) as new:
                self._note_made(new)

    def _note_made(self, new: OwnedFd) -> None:
        if self._origins is not None:
            self._origins.made(new)

    def _link(
        self, source: bytes | None, path: bytes, making: Making, over_whiteout: bool, is_copy_up: bool
    ) -> None:
        with self._parent(path) as parent:
            if is_copy_up:
                assert source is not None
                lent = self._lent(parent, path.rpartition(b"/")[0])
                quiet = self._watched.quiet(path), self._watched.quiet(source, itself=True)
                with quiet[0], quiet[1], self._parent(source) as above, lent, _times_kept(parent):
                    beneath.link(above, _name(source), parent, _name(path))
            elif not over_whiteout:
                self._link_as_caller(source, parent, _name(path), making)
            elif self._watched.watch(parent):
                with self._watched.in_place_of_whiteout(parent, path, opaque=False):
                    self._link_as_caller(source, parent, _name(path), making)
            else:
                with self._stage(parent, False) as stage, self._named(stage) as name:
                    self._link_as_caller(source, stage, name, making)
                    beneath.rename(stage, name, parent, _name(path))

    def _link_as_caller(self, source: bytes | None, parent: OwnedFd, name: bytes, making: Making) -> None:
        if source is None:
            assert making.unnamed is not None
            with acting_as(making.identity):
                beneath.link_opened(making.unnamed, parent, name)
            return
        with self._parent(source) as above, acting_as(making.identity):
            beneath.link(above, _name(source), parent, name)

    # ---- names that go

    def _white_out(self, path: bytes, over: Kind | None) -> None:
        with self._parent(path) as parent:
            if self._watched.watch(parent) and self._watched.white_out(parent, path, over):
                return
            if over is None:
                self._new_whiteout(parent, _name(path))
                return
            with self._in_work() as name:
                self._new_whiteout(self._work, name)
                if over is not Kind.DIRECTORY:
                    beneath.rename(self._work, name, parent, _name(path))
                    return
                with self._to_be_moved(path):
                    beneath.rename(self._work, name, parent, _name(path), beneath.RENAME_EXCHANGE)

    def _new_whiteout(self, parent: OwnedFd, name: bytes) -> None:
        """A further name of the one in work: no inode each."""
        try:
            beneath.link(self._work, WHITEOUT_NAME, parent, name)
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.ENOENT):
                raise
            beneath.make_node(parent, name, stat.S_IFCHR, 0)

    def _remove(self, path: bytes, kind: Kind) -> None:
        with self._parent(path) as parent:
            if kind is Kind.WHITEOUT:
                quiet, lent = self._watched.quiet(path), self._lent(parent, path.rpartition(b"/")[0])
                with quiet, lent, _times_kept(parent):
                    beneath.unlink(parent, _name(path))
            elif kind is Kind.DIRECTORY and self._watched.watch(parent):
                self._remove_watched(parent, path)
            elif kind is Kind.DIRECTORY:
                self._remove_directory(parent, path)
            else:
                beneath.unlink(parent, _name(path))

    def _remove_watched(self, parent: OwnedFd, path: bytes) -> None:
        """Nobody holds it meanwhile: who watches it is told of its end before those who watch `parent` are."""
        try:
            beneath.remove_directory(parent, _name(path))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            quiet = self._watched.quiet(path, watches.ATTRIBUTES, itself=True)
            with quiet, self._opened(path) as old, self._lent(old, path, stat.S_IRWXU):
                self._watched.empty(path)
            beneath.remove_directory(parent, _name(path))

    def _remove_directory(self, parent: OwnedFd, path: bytes) -> None:
        try:
            beneath.remove_directory(parent, _name(path))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            with self._in_work() as temporary, self._to_be_moved(path):
                beneath.rename(parent, _name(path), self._work, temporary, beneath.RENAME_NOREPLACE)

    def _rename(self, source: bytes, path: bytes, making: Making, flags: int) -> None:
        with self._parent(source) as above, self._parent(path) as parent:
            if making.identity is not None and source.rpartition(b"/")[0] != path.rpartition(b"/")[0]:
                self._require_movable(source, making.identity)
                if flags == beneath.RENAME_EXCHANGE:
                    self._require_movable(path, making.identity)
            if (
                flags == beneath.RENAME_EXCHANGE
                and self._watched.watch(above, parent)
                and _is_whiteout(parent, path)
            ):
                # A whiteout that comes along is not to be told: it is made anew under the old name.
                with self._watched.in_place_of_whiteout(parent, path, opaque=False):
                    beneath.rename(above, _name(source), parent, _name(path), beneath.RENAME_WHITEOUT)
                return
            beneath.rename(above, _name(source), parent, _name(path), flags)

    def _require_movable(self, path: bytes, identity: Identity) -> None:
        """vfs_rename of fs/namei.c: a directory whose `..` changes must be writable. We ourselves may be root."""
        with self._opened(path) as opened:
            if not stat.S_ISDIR(os.fstat(opened.fd).st_mode):
                return
            with acting_as(identity):
                if not beneath.may_access(opened, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    # ---- places

    def _opened(self, path: bytes) -> OwnedFd:
        return beneath.open_below(self._upper.fd, path, os.O_PATH)

    def _parent(self, path: bytes) -> OwnedFd:
        return beneath.open_directory(self._upper.fd, path.rpartition(b"/")[0])

    def _in_work(self) -> contextlib.AbstractContextManager[bytes]:
        return self._named(self._work)

    @contextlib.contextmanager
    def _named(self, directory: OwnedFd) -> Iterator[bytes]:
        """A free name in a directory of ours; whatever has it in the end is removed."""
        name = b"#%d" % next(_numbers)
        try:
            yield name
        finally:
            # What resists is swept later.
            with contextlib.suppress(OSError):
                remove(directory, name)

    @contextlib.contextmanager
    def _to_be_moved(self, path: bytes) -> Iterator[None]:
        """A directory that goes out of the tree: its `..` changes, for which it must be writable to us.

        The program only removes it: whatever its mode is, and without a change of that to be told.
        """
        with self._watched.quiet(path, itself=True), self._opened(path) as opened, self._lent(opened, path):
            yield

    def _show(self, stage: OwnedFd, name: bytes, parent: OwnedFd, path: bytes, kind: Kind) -> None:
        """In the place of a whiteout."""
        if kind is not Kind.DIRECTORY:
            beneath.rename(stage, name, parent, _name(path))
            return
        with beneath.open_directory(stage.fd, name) as made, self._lent(made, path):
            beneath.rename(stage, name, parent, _name(path), beneath.RENAME_EXCHANGE)

    @contextlib.contextmanager
    def _stage(self, parent: OwnedFd, has_acl: bool) -> Iterator[OwnedFd]:
        """A directory in work in which a new object becomes what it would become in `parent`."""
        status = os.fstat(parent.fd)
        if not has_acl and not status.st_mode & stat.S_ISGID:
            with beneath.open_directory(self._work.fd, STAGE_NAME) as stage:
                yield stage
            return
        with self._in_work() as name:
            # Open to the caller, whoever it is; nobody else gets as far as here.
            beneath.make_directory(self._work, name, 0o777)
            with beneath.open_directory(self._work.fd, name) as stage:
                make_alike(parent, has_acl, stage)
                yield stage


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _is_whiteout(parent: OwnedFd, path: bytes) -> bool:
    seen = beneath.look(parent.fd, _name(path))
    return beneath.is_whiteout(seen.mode, seen.special)


@contextlib.contextmanager
def _times_kept(directory: OwnedFd) -> Iterator[None]:
    """What is done here is no change of the program's."""
    status = os.fstat(directory.fd)
    yield
    beneath.set_times(directory, status.st_atime_ns, status.st_mtime_ns)
