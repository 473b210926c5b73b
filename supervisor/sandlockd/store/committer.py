"""Carries a commit out on the real tree, so that it ends or was never there, whoever is killed and whenever.

    1. what changed underneath is found out, and named; then nothing was done
    2. the journal: the whole plan, and what must be known to take it back. Flushed
    3. everything new is made under temporary names, compared with what was approved, and flushed. Most of what
       can go wrong (no space, no permission) goes wrong here, where nobody has seen anything yet
    4. it is shown: each file by one exchange with what was in its place, or one rename where nothing was; each
       deletion by one rename to a temporary name. What comes out is looked at again when nobody else finds it by
       its name any longer: if it is not what was approved to go, it is put back, and the commit is taken back
    5. directories are flushed; `landed`
    6. what was there before is removed

Until 5 `take_back` leaves the tree as it was, but for ctimes and the times of directories; from any point `go_on` comes
to the end. A rerun does what the state of the tree says, not what the journal says was done: see `overlay.journal`.

Refuses to remove or overwrite anything that it was not told of. Where somebody else comes in between while something
is taken back, both versions stay, and are named (`Leftover`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import NamedTuple, assert_never

from sandlockd.kernel import beneath, copying, flushing
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.commit import (
    DELETING,
    STAGED,
    Action,
    CommitPlan,
    Conflict,
    Do,
    Temporaries,
    conflicts,
    matches,
)
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import Facts, Identity
from sandlockd.overlay.journal import Journal, Next, next_step
from sandlockd.store.executor import NODES
from sandlockd.store.inspector import Unlocked, content_digest
from sandlockd.store.journal_file import JournalFile
from sandlockd.store.real_tree import (
    RealTree,
    above,
    if_there,
    last,
    make_as_before,
    make_like,
    real_tree_of,
)
from sandlockd.store.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_KEEP = 0xFFFFFFFF
# From so many files on, flushing their file system once is cheaper than each of them.
_FEW = 32
_NO_FLAGS = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Conflicted(Exception):
    """The real tree is not what it was: the commit was not done, or was taken back. conflicts: which paths, and how."""

    def __init__(self, found: Collection[Conflict]) -> None:
        super().__init__(", ".join(f"{os.fsdecode(conflict.path)!r} {conflict.reason}" for conflict in found))
        self.conflicts = tuple(found)


class NotAsApproved(Exception):
    """An object of the upper is not what the reviewer saw. Nothing was done."""

    def __init__(self, path: bytes) -> None:
        super().__init__(f"{os.fsdecode(path)!r} is not what was listed: list the changes again")
        self.path = path


class Leftover(NamedTuple):
    """Somebody else changed this path while the commit was taken back; what was there before is at `kept`."""

    path: bytes
    kept: bytes


class Outcome(NamedTuple):
    """lost: LOST_* (kernel/copying) of what could not be kept. leftovers: what a removal or undoing had to leave."""

    lost: int = 0
    leftovers: tuple[Leftover, ...] = ()


class Pending(NamedTuple):
    """A commit that did not end."""

    done: int
    total: int
    is_undoing: bool
    has_landed: bool


def pending(storage: Storage) -> Pending | None:
    """Raises: BadJournal."""
    found = JournalFile.reopen(storage.directory)
    if found is None:
        return None
    file, read = found
    if read.has_ended:
        file.put_away()
        return None
    file.close()
    return Pending(len(read.done), len(read.plan.actions), read.is_undoing, read.has_landed)


def commit(storage: Storage, unlocked: Unlocked, plan: CommitPlan) -> Outcome:
    """A new commit, of a plan whose tag no other has.

    Raises: whatever it is, the tree is as it was.
        Conflicted: what changed underneath.
        NotAsApproved: what is in the upper.
        OSError: ENOSPC, EACCES ...
        FileExistsError: a commit of this storage did not end.
    """
    tree = real_tree_of(storage)
    found = conflicts(plan, tree.now, tree.names)
    if found:
        raise Conflicted(found)
    status = os.fstat(storage.workdir.fd)
    plan = _with_links_loose(plan, tree)._replace(root=(status.st_dev, status.st_ino))
    former = {a.number: tree.former(a.path) for a in plan.actions if a.do is Do.METADATA and tree.now(a.path)}
    lent = _to_be_lent(plan, tree)
    file = JournalFile.write(storage.directory, plan, former, lent)
    nothing: frozenset[int] = frozenset()
    read = Journal(plan, former, lent, nothing, {}, nothing, False, False, False)
    run = _Run(storage, unlocked, file, read, is_first=True)
    try:
        return run.forward()
    except BaseException as error:
        if not run.journal.has_landed:
            for path, kept in run.take_back():
                error.add_note(f"{os.fsdecode(path)!r}: what was there before is {os.fsdecode(kept)!r}")
        raise
    finally:
        file.close()


def go_on(storage: Storage, unlocked: Unlocked, *, force: Collection[bytes] = ()) -> Outcome | None:
    """Bring a commit that did not end to its end. None: it was being taken back, and that is done instead.

    force: paths that are overwritten or removed, whatever they have become.
    Raises:
        Conflicted: what changed underneath meanwhile. The commit is as far as it was, or further.
        NotAsApproved, OSError: likewise.
    """
    run = _reopened(storage, unlocked, force)
    try:
        if run.journal.is_undoing:
            leftovers = run.take_back()
            return Outcome(leftovers=leftovers) if leftovers else None
        return run.forward()
    finally:
        run.file.close()


def take_back(storage: Storage, unlocked: Unlocked) -> Outcome | None:
    """Undo a commit that did not end. None: it had landed, and is ended instead."""
    run = _reopened(storage, unlocked, ())
    try:
        if run.journal.has_landed:
            run.forward()
            return None
        return Outcome(leftovers=run.take_back())
    finally:
        run.file.close()


def _reopened(storage: Storage, unlocked: Unlocked, force: Collection[bytes]) -> _Run:
    found = JournalFile.reopen(storage.directory)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "no commit is under way")
    return _Run(storage, unlocked, found[0], found[1], is_first=False, force=force)


def _with_links_loose(plan: CommitPlan, tree: RealTree) -> CommitPlan:
    """A further link changes the ctime of what is linked to, which a later action may have under another name."""
    linked = set()
    for action in plan.actions:
        facts = tree.now(action.source) if action.source is not None else None
        if facts is not None:
            linked.add((facts.device, facts.inode))
    actions = (
        a._replace(is_loose=True) if a.before is not None and a.before[1:3] in linked else a
        for a in plan.actions
    )
    return plan._replace(actions=tuple(actions))


def _to_be_lent(plan: CommitPlan, tree: RealTree) -> dict[bytes, int]:
    """Our own directories in which names change, but nobody may make names. For root there are none."""
    lent: dict[bytes, int] = {}
    if os.geteuid() == 0:
        return lent
    needed = stat.S_IWUSR | stat.S_IXUSR
    places = {above(action.path) for action in plan.actions if action.do not in (Do.METADATA, Do.SYNC)}
    # A directory can be moved out of another only if it may be written itself.
    places |= {action.path for action in plan.actions if action.do is Do.REMOVE_DIRECTORY}
    for path in sorted(places):
        facts = tree.now(path)
        if facts is not None and facts.kind is Kind.DIRECTORY and facts.uid == os.geteuid():
            if facts.mode & needed != needed:
                lent[path] = facts.mode
    return lent


class _Run:
    def __init__(
        self,
        storage: Storage,
        unlocked: Unlocked,
        file: JournalFile,
        journal: Journal,
        *,
        is_first: bool,
        force: Collection[bytes] = (),
    ) -> None:
        self.file = file
        self.journal = journal
        self._storage = storage
        self._unlocked = unlocked
        self._plan = journal.plan
        self._tree = real_tree_of(storage)
        self._temporaries = Temporaries(journal.plan)
        self._is_first = is_first
        self._force = force
        self._begun = set(journal.begun)
        self._staged = dict(journal.staged)
        # By path, for links to what is only just being made.
        self._new = {a.path: a for a in self._plan.actions if a.do in STAGED and a.do is not Do.LINK}
        self._lost = 0
        self._leftovers: list[Leftover] = []

    # ---- to the end

    def forward(self) -> Outcome:
        if not self.journal.has_landed:
            self._lend()
            self._stage_all()
            if self._is_first:
                # Copying may have taken long.
                found = conflicts(self._plan, self._tree.now, self._tree.names)
                if found:
                    raise Conflicted(found)
            for action in self._plan.actions:
                self._act(action)
            self._flush()
            self.file.landed(self._plan)
            self.journal = self.journal._replace(has_landed=True)
        else:
            self._lend()
        self._remove_former()
        self._finish_directories()
        self.file.ended(self._plan)
        return Outcome(self._lost, tuple(self._leftovers))

    def _act(self, action: Action) -> None:
        match self._next(action):
            case Next.SKIP:
                if action.number not in self.journal.done:
                    self.file.done(action)
                return
            case Next.CONFLICT:
                raise Conflicted([self._conflict(action)])
            case Next.DO:
                pass
            case never:
                assert_never(never)
        if action.number not in self._begun:
            self.file.begin(action)
            self._begun.add(action.number)
        match action.do:
            case Do.WRITE | Do.SYMLINK | Do.NODE | Do.LINK:
                if action.do is Do.LINK and action.source not in self._new:
                    self._stage(action)
                self._show(action)
            case Do.DIRECTORY:
                self._make_directory(action)
            case Do.METADATA:
                self._change(action)
            case Do.DELETE | Do.REMOVE_DIRECTORY:
                self._move_away(action)
            case Do.SYNC:
                pass  # all at once in the end
            case never_do:
                assert_never(never_do)
        self.file.done(action)

    def _next(self, action: Action) -> Next:
        if action.do is Do.SYNC:
            return Next.DO
        now = self._tree.now(action.path)
        found = next_step(self._as_journal(), action, now)
        if found is Next.CONFLICT and action.do in DELETING:
            aside = self._tree.now(self._temporaries.of(action))
            if aside is not None and self._is_the_one(action, aside):
                return Next.SKIP  # and what has its place now is another action's matter
        if found is Next.DO and action.do is Do.METADATA and action.number not in self._begun:
            # In place, so that it can be undone only if it was the right one.
            found = Next.DO if action.before is None or matches(action, now) else Next.CONFLICT
        if found is Next.CONFLICT and now is not None and action.path in self._force:
            return Next.DO
        return found

    def _as_journal(self) -> Journal:
        return self.journal._replace(begun=self._begun, staged=self._staged)

    def _conflict(self, action: Action) -> Conflict:
        found = conflicts(self._plan._replace(actions=(action,)), self._tree.now, self._tree.names)
        return found[0] if found else Conflict(action.path, "changed during the commit")

    # ---- new objects

    def _stage_all(self) -> None:
        waiting: list[OwnedFd] = []
        is_many = sum(1 for action in self._plan.actions if action.do is Do.WRITE) > _FEW
        try:
            for action in self._plan.actions:
                if action.do not in STAGED or (action.do is Do.LINK and action.source not in self._new):
                    continue  # links to what is there already need no space, and change its ctime
                if self._is_shown(action):
                    continue
                opened = self._stage(action)
                if opened is not None:
                    if is_many:
                        opened.close()
                    else:
                        waiting.append(opened)
            for opened in waiting:
                flushing.flush(opened)
        finally:
            for opened in waiting:
                opened.close()
        if is_many:
            self._flush_file_systems()
        self.file.flush()

    def _is_shown(self, action: Action) -> bool:
        now = self._tree.now(action.path)
        return now is not None and self._staged.get(action.number) == (now.device, now.inode)

    def _flush_file_systems(self) -> None:
        seen = set()
        for path in sorted({above(self._temporaries.of(a)) for a in self._plan.actions if a.do is Do.WRITE}):
            with self._tree.open(path) as directory:
                device = os.fstat(directory.fd).st_dev
                if device not in seen:
                    flushing.flush_file_system(directory)
                    seen.add(device)

    def _stage(self, action: Action) -> OwnedFd | None:
        """Make the new object, complete, under its temporary name. Returns: a file that is not flushed yet."""
        if action.number not in self._begun:
            self.file.begin(action)
            self._begun.add(action.number)
        opened = None
        with self._aside(action) as (directory, name):
            self._clear_aside(action, directory, name)
            if action.do is Do.LINK:
                self._link(action, directory, name)
            else:
                opened = self._copy(action, directory, name)
            with beneath.open_below(directory.fd, name, os.O_PATH) as made:
                status = os.fstat(made.fd)
        self.file.staged(action, status.st_dev, status.st_ino)
        self._staged[action.number] = status.st_dev, status.st_ino
        return opened

    def _clear_aside(self, action: Action, directory: OwnedFd, name: bytes) -> None:
        """Of what a run before us made; the tag says that it is ours."""
        aside = self._tree.now(self._temporaries.of(action))
        if aside is None:
            return
        if self._is_old(action, aside) and action.path not in self._force:
            # The new one was in its place, and somebody has put something else there.
            raise Conflicted([Conflict(action.path, "changed after it was committed")])
        beneath.unlink(directory, name)

    def _link(self, action: Action, directory: OwnedFd, name: bytes) -> None:
        assert action.source is not None
        source = action.source
        new = self._new.get(source)
        if new is not None and not self._is_shown(new):
            source = self._temporaries.of(new)
        with self._tree.parent(source) as parent:
            beneath.link(parent, last(source), directory, name)
        if new is None:
            self._require_source(action)

    def _require_source(self, action: Action) -> None:
        """That something is as it was listed which stays in the tree and gets a further name."""
        made = self._tree.now(self._temporaries.of(action))
        facts = action.facts
        assert facts is not None and action.source is not None
        is_same = made is not None and (made.kind, *made[4:9]) == (facts.kind, *facts[4:9])
        if is_same and facts.kind is Kind.FILE:
            with self._tree.open(action.source, os.O_RDONLY | os.O_NONBLOCK) as file:
                is_same = content_digest(file) == action.content
        if not is_same:
            raise Conflicted([Conflict(action.source, "changed: other names are to be linked to it")])

    def _copy(self, action: Action, directory: OwnedFd, name: bytes) -> OwnedFd | None:
        facts = action.facts
        assert facts is not None
        with beneath.open_below(self._storage.upper.fd, action.path, os.O_PATH) as seen:
            self._require_approved(action, seen)
            match action.do:
                case Do.WRITE:
                    copy = beneath.create_file(directory, name, os.O_RDWR, 0o600)
                    try:
                        with copying.open_source(seen) as source:
                            copying.copy_data(source, copy)
                        if content_digest(copy) != action.content:
                            raise NotAsApproved(action.path)
                        self._lost |= make_like(seen, copy, facts)
                    except BaseException:
                        copy.close()
                        raise
                    return copy
                case Do.SYMLINK:
                    target = os.readlink(b"", dir_fd=seen.fd)
                    if target.hex() != action.content:
                        raise NotAsApproved(action.path)
                    beneath.make_symlink(directory, name, target)
                case _:
                    beneath.make_node(directory, name, NODES[facts.kind] | 0o600, facts.special_device)
            with beneath.open_below(directory.fd, name, os.O_PATH) as made:
                self._lost |= make_like(seen, made, facts)
        return None

    def _require_approved(self, action: Action, seen: OwnedFd) -> None:
        """What the digest covers of an object, but for its content."""
        facts, approved = self._unlocked.facts(seen), action.facts
        assert approved is not None
        # The link count and the number say nothing about what comes of it.
        if (facts[0], *facts[4:9], *facts[10:]) != (approved[0], *approved[4:9], *approved[10:]):
            raise NotAsApproved(action.path)

    def _show(self, action: Action) -> None:
        with self._aside(action) as (directory, temporary), self._tree.parent(action.path) as parent:
            name = last(action.path)
            before = self._expected(action)
            if before is None:
                self._rename(directory, temporary, parent, name, action)
                return
            try:
                beneath.rename(directory, temporary, parent, name, beneath.RENAME_EXCHANGE)
            except FileNotFoundError:
                raise Conflicted([self._conflict(action)]) from None
            except OSError as error:
                if error.errno not in _NO_FLAGS:
                    raise
                beneath.rename(directory, temporary, parent, name)  # a file system without: no way back
                return
            if not self._is_what_was(action, before, directory, temporary):
                beneath.rename(directory, temporary, parent, name, beneath.RENAME_EXCHANGE)
                raise Conflicted([Conflict(action.path, "changed during the commit")])

    def _expected(self, action: Action) -> Identity | None:
        """What must be there; where that was forced in a rerun, what is there."""
        if not self._is_first and action.path in self._force:
            now = self._tree.now(action.path)
            return None if now is None else now.identity
        return action.before

    def _rename(
        self, source: OwnedFd, source_name: bytes, target: OwnedFd, target_name: bytes, action: Action
    ) -> None:
        try:
            beneath.rename(source, source_name, target, target_name, beneath.RENAME_NOREPLACE)
        except FileExistsError:
            raise Conflicted([Conflict(action.path, "appeared during the commit")]) from None
        except OSError as error:
            if error.errno not in _NO_FLAGS:
                raise
            # NFS, for one, knows no flags. It was looked for just now.
            beneath.rename(source, source_name, target, target_name)

    @staticmethod
    def _is_what_was(action: Action, before: Identity, directory: OwnedFd, name: bytes) -> bool:
        """Whether what has come out is what was to go. Its ctime is that of coming out."""
        with beneath.open_below(directory.fd, name, os.O_PATH) as opened:
            status = os.fstat(opened.fd)
        if (status.st_dev, status.st_ino) != before[1:3]:
            return False
        if action.is_loose or before.kind is Kind.DIRECTORY:
            return True
        return (status.st_size, status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (
            before.size_bytes,
            before.mtime_ns,
            before.mode,
        )

    def _make_directory(self, action: Action) -> None:
        with self._tree.parent(action.path) as parent:
            try:
                beneath.make_directory(parent, last(action.path), 0o700)
            except FileExistsError:
                self._begun.discard(action.number)
                raise Conflicted([Conflict(action.path, "appeared during the commit")]) from None

    def _change(self, action: Action) -> None:
        """Owner, attributes, mode and times, in place."""
        assert action.facts is not None
        with (
            beneath.open_below(self._storage.upper.fd, action.path, os.O_PATH) as seen,
            self._tree.open(action.path) as target,
        ):
            if action.facts.kind is not Kind.DIRECTORY:
                self._require_approved(action, seen)
            elif self._unlocked.facts(seen)[5:8] != action.facts[5:8]:
                raise NotAsApproved(action.path)  # its size and times say nothing about what comes of it
            status = os.fstat(target.fd)
            if action.before is not None and (status.st_dev, status.st_ino) != action.before[1:3]:
                raise Conflicted([Conflict(action.path, "changed during the commit")])
            facts = action.facts
            if facts.kind is Kind.DIRECTORY:
                facts = facts._replace(mode=facts.mode | self._open_mode)
            self._lost |= make_like(seen, target, facts)

    # ---- old objects

    def _move_away(self, action: Action) -> None:
        before = self._expected(action)
        if before is None:
            return
        name = last(action.path)
        with self._aside(action) as (directory, temporary), self._tree.parent(action.path) as parent:
            if action.do is Do.REMOVE_DIRECTORY:
                self._require_empty(action, action.path)
            try:
                self._rename(parent, name, directory, temporary, action)
            except FileNotFoundError:
                return  # it is gone, as it was to be
            except PermissionError:
                if action.do is not Do.REMOVE_DIRECTORY:
                    raise
                beneath.remove_directory(
                    parent, name
                )  # somebody else's empty one may be removed, but not moved
                return
            if not self._is_what_was(action, before, directory, temporary):
                self._rename(directory, temporary, parent, name, action)
                raise Conflicted([Conflict(action.path, "changed during the commit")])
            if action.do is Do.REMOVE_DIRECTORY:
                try:
                    self._require_empty(action, self._temporaries.of(action))
                except Conflicted:
                    self._rename(directory, temporary, parent, name, action)
                    raise

    def _require_empty(self, action: Action, path: bytes) -> None:
        names = self._tree.names(path)
        if names:
            found = [
                Conflict(action.path + b"/" + name, "appeared in a directory that goes") for name in names
            ]
            raise Conflicted(found)

    def _remove_former(self) -> None:
        """What waits under temporary names, now that all is done."""
        for action in self._plan.actions:
            if action.do in STAGED and action.before is None:
                continue
            if action.do not in STAGED | DELETING:
                continue
            if self._tree.now(above(self._temporaries.of(action))) is None:
                self._leftovers.append(Leftover(action.path, self._temporaries.of(action)))
                continue  # somebody has moved the directory away, and it in it
            with self._aside(action) as (directory, name):
                try:
                    if action.do is Do.REMOVE_DIRECTORY:
                        beneath.remove_directory(directory, name)
                    else:
                        beneath.unlink(directory, name)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR):
                        raise
                    self._leftovers.append(Leftover(action.path, self._temporaries.of(action)))
        self._flush()

    # ---- back

    def take_back(self) -> tuple[Leftover, ...]:
        with contextlib.suppress(
            OSError
        ):  # no space: without it, a rerun goes forward again, which is as good
            self.file.undoing(self._plan)
        self._lend()
        for action in reversed(self._plan.actions):
            self._undo(action)
        self._finish_directories()
        self._flush()
        with contextlib.suppress(OSError):  # without it, the next try finds more that has changed
            self._tree.restored.add(self._storage.directory, self._plan.actions, self._tree.now)
        self.file.remove()
        return tuple(self._leftovers)

    def _undo(self, action: Action) -> None:
        if action.do in STAGED:
            self._undo_new(action)
        elif action.do in DELETING:
            self._undo_deletion(action)
        elif action.number not in self._begun:
            return
        elif action.do is Do.DIRECTORY:
            self._undo_directory(action)
        elif action.do is Do.METADATA:
            former = self.journal.former.get(action.number)
            now = self._tree.now(action.path)
            if former is None or now is None or not self._is_the_one(action, now):
                return
            if now.kind is Kind.DIRECTORY:
                former = former._replace(mode=former.mode | self._open_mode)
            with self._tree.open(action.path) as target:
                make_as_before(target, former)

    @staticmethod
    def _is_the_one(action: Action, now: Facts) -> bool:
        return action.before is not None and action.before[1:3] == (now.device, now.inode)

    def _is_old(self, action: Action, aside: Facts) -> bool:
        """Whether what is under a temporary name is what was in its place, and not the new object.

        The number of what somebody removed may have been given to the new one.
        """
        staged = self._staged.get(action.number)
        return staged not in (None, (aside.device, aside.inode)) and self._is_the_one(action, aside)

    def _undo_new(self, action: Action) -> None:
        path, temporary = action.path, self._temporaries.of(action)
        aside = self._tree.now(temporary)
        if self._is_shown(action):
            with self._tree.parent(path) as parent, self._aside(action) as (directory, name):
                flags = beneath.RENAME_NOREPLACE if aside is None else beneath.RENAME_EXCHANGE
                if aside is None and action.before is not None:
                    self._leftovers.append(Leftover(path, b""))  # a file system without exchange
                    return
                beneath.rename(parent, last(path), directory, name, flags)
                self._remove_ours(action, directory, name)
        elif aside is not None:
            if self._is_old(action, aside):
                # Somebody has put something else in the place of the new one.
                self._leftovers.append(Leftover(path, temporary))
                return
            with self._aside(action) as (directory, name):
                beneath.unlink(directory, name)

    def _remove_ours(self, action: Action, directory: OwnedFd, name: bytes) -> None:
        with beneath.open_below(directory.fd, name, os.O_PATH) as opened:
            status = os.fstat(opened.fd)
        if self._staged.get(action.number) == (status.st_dev, status.st_ino):
            beneath.unlink(directory, name)
        else:  # somebody put it there in this moment
            self._leftovers.append(Leftover(action.path, self._temporaries.of(action)))

    def _undo_deletion(self, action: Action) -> None:
        temporary = self._temporaries.of(action)
        if self._tree.now(temporary) is None:
            return
        try:
            with self._tree.parent(action.path) as parent, self._aside(action) as (directory, name):
                beneath.rename(directory, name, parent, last(action.path), beneath.RENAME_NOREPLACE)
        except FileExistsError:
            self._leftovers.append(Leftover(action.path, temporary))
        except OSError:  # its directory is gone, or a link now
            if self._tree.now(above(action.path)) is not None:
                raise
            self._leftovers.append(Leftover(action.path, temporary))

    def _undo_directory(self, action: Action) -> None:
        now = self._tree.now(action.path)
        if now is None or now.kind is not Kind.DIRECTORY or now.uid != os.geteuid():
            return
        with self._tree.parent(action.path) as parent:
            try:
                beneath.remove_directory(parent, last(action.path))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._leftovers.append(Leftover(action.path, b""))

    # ---- places

    @contextlib.contextmanager
    def _aside(self, action: Action) -> Iterator[tuple[OwnedFd, bytes]]:
        """Where the temporary of an action is: the directory, and its name."""
        path = self._temporaries.of(action)
        with self._tree.parent(path) as directory:
            yield directory, last(path)

    # Our own directories are open to us until the end, and get their modes and times last.

    @property
    def _open_mode(self) -> int:
        return 0 if os.geteuid() == 0 else stat.S_IRWXU

    def _lend(self) -> None:
        if os.geteuid() == 0:
            return
        rerun = [] if self._is_first else [a.path for a in self._plan.actions if a.do is Do.METADATA]
        for path in sorted({*self.journal.lent, *rerun}):
            with if_there(), self._tree.open(path) as opened:
                status = os.fstat(opened.fd)
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                    mode = stat.S_IMODE(status.st_mode)
                    beneath.set_owner_and_mode(opened, _KEEP, _KEEP, mode | self._open_mode)

    def _finish_directories(self) -> None:
        """What lies deeper first: what is above it is still open."""
        modes = dict(self.journal.lent)
        times: dict[bytes, int] = {}
        for action in self._plan.actions:
            if (
                action.do is not Do.METADATA
                or action.facts is None
                or action.facts.kind is not Kind.DIRECTORY
            ):
                continue
            former = self.journal.former.get(action.number)
            if self.journal.has_landed:
                modes[action.path], times[action.path] = action.facts.mode, action.facts.mtime_ns
            elif former is not None:
                modes[action.path], times[action.path] = former.mode, former.mtime_ns
        for path in sorted(modes, reverse=True):
            with if_there(), self._tree.open(path) as opened:
                status = os.fstat(opened.fd)
                if not stat.S_ISDIR(status.st_mode):
                    continue
                if stat.S_IMODE(status.st_mode) | self._open_mode == modes[path] | self._open_mode:
                    # Else the setuid and setgid bits were not to be had.
                    beneath.set_owner_and_mode(opened, _KEEP, _KEEP, modes[path])
                if path in times:
                    beneath.set_times(opened, status.st_atime_ns, times[path])

    def _flush(self) -> None:
        """Names and what was changed in place."""
        places = {action.path for action in self._plan.actions if action.do is Do.SYNC}
        changed = [a.path for a in self._plan.actions if a.do is Do.METADATA and a.path not in places]
        if len(places) + len(changed) > _FEW:
            with self._tree.open(b"") as root:
                flushing.flush_file_system(root)
            return
        for path in (*sorted(places, reverse=True), *changed):
            # One that is gone was taken back; one that we may not read can only be flushed with all others.
            with if_there(), contextlib.suppress(PermissionError):
                with self._tree.open(path, os.O_RDONLY | os.O_NONBLOCK) as opened:
                    flushing.flush(opened)
