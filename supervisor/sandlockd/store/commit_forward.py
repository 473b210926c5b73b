"""Shows what was made for a commit, moves away what goes, and removes it when all is done."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import assert_never

from sandlockd.kernel import beneath, copying
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.commit import DELETING, STAGED, Action, Conflict, Do, conflicts, matches
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import Facts, Identity
from sandlockd.overlay.journal import Next, next_step
from sandlockd.store.commit_staging import Staging
from sandlockd.store.commit_state import Conflicted, Leftover, NotAsApproved, Outcome, Progress
from sandlockd.store.inspector import facts_of
from sandlockd.store.real_tree import above, last, make_like

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_FLAGS = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Forward:
    def __init__(self, run: Progress) -> None:
        self._run = run
        self._staging = Staging(run)

    def run(self) -> Outcome:
        if not self._run.journal.has_landed:
            self._run.lend()
            self._staging.stage_all()
            if self._run.is_first:
                # Copying may have taken long.
                found = conflicts(self._run.plan, self._run.tree.now, self._run.tree.names)
                if found:
                    raise Conflicted(found)
            for action in self._run.plan.actions:
                self._act(action)
            self._run.flush()
            self._run.file.landed(self._run.plan)
            self._run.journal = self._run.journal._replace(has_landed=True)
        else:
            self._run.lend()
        further = list(self._remove_former())
        with contextlib.suppress(OSError):  # without it, a commit of the rest finds more that has changed
            self._run.note_ctimes(further)
        self._run.finish_directories()
        self._run.file.ended(self._run.plan)
        return Outcome(self._run.lost, tuple(self._run.leftovers))

    def _act(self, action: Action) -> None:
        match self._next(action):
            case Next.SKIP:
                if action.number not in self._run.journal.done:
                    self._run.file.done(action)
                return
            case Next.CONFLICT:
                raise Conflicted([self._conflict(action)])
            case Next.DO:
                pass
            case never:
                assert_never(never)
        self._run.begin(action)
        match action.do:
            case Do.WRITE | Do.SYMLINK | Do.NODE | Do.LINK:
                if action.do is Do.LINK and action.source not in self._run.new:
                    self._staging.stage(action)
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
        self._run.file.done(action)

    def _next(self, action: Action) -> Next:
        if action.do is Do.SYNC:
            return Next.DO
        now = self._run.tree.now(action.path)
        found = next_step(self._run.journal, action, now)
        if found is Next.CONFLICT and action.do in DELETING:
            aside = self._run.tree.now(self._run.temporaries.of(action))
            if aside is not None and self._run.is_the_one(action, aside):
                return Next.SKIP  # and what has its place now is another action's matter
        if found is Next.DO and action.do is Do.METADATA and action.number not in self._run.begun:
            # In place, so that it can be undone only if it was the right one.
            found = Next.DO if action.before is None or matches(action, now) else Next.CONFLICT
        if found is Next.CONFLICT and now is not None and action.path in self._run.force:
            return Next.DO
        return found

    def _conflict(self, action: Action) -> Conflict:
        found = conflicts(
            self._run.plan._replace(actions=(action,)), self._run.tree.now, self._run.tree.names
        )
        return found[0] if found else Conflict(action.path, "changed during the commit")

    def _show(self, action: Action) -> None:
        with self._run.aside(action) as (directory, temporary), self._run.tree.parent(action.path) as parent:
            name = last(action.path)
            before = self._run.expected(action)
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
        with self._run.tree.parent(action.path) as parent:
            try:
                beneath.make_directory(parent, last(action.path), 0o700)
            except FileExistsError:
                self._run.begun.discard(action.number)
                raise Conflicted([Conflict(action.path, "appeared during the commit")]) from None

    def _change(self, action: Action) -> None:
        """Owner, attributes, mode and times, in place."""
        assert action.facts is not None
        with (
            beneath.open_below(self._run.storage.upper.fd, action.path, os.O_PATH) as seen,
            self._run.tree.open(action.path) as target,
        ):
            if action.facts.kind is not Kind.DIRECTORY:
                self._run.require_approved(action, seen)
            elif self._run.unlocked.facts(seen)[5:8] != action.facts[5:8]:
                raise NotAsApproved(action.path)  # its size and times say nothing about what comes of it
            status = os.fstat(target.fd)
            if action.before is not None and (status.st_dev, status.st_ino) != action.before[1:3]:
                raise Conflicted([Conflict(action.path, "changed during the commit")])
            facts = action.facts
            if facts.kind is Kind.DIRECTORY:
                facts = facts._replace(mode=facts.mode | self._run.open_mode)
            try:
                self._run.lost |= make_like(seen, target, facts)
            except PermissionError:
                if os.geteuid() in (0, status.st_uid):
                    raise
                # Somebody else's: the copy was the program's, and this is not.
                self._run.lost |= copying.LOST_OWNER

    def _move_away(self, action: Action) -> None:
        before = self._run.expected(action)
        if before is None:
            return
        name = last(action.path)
        with self._run.aside(action) as (directory, temporary), self._run.tree.parent(action.path) as parent:
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
                    self._require_empty(action, self._run.temporaries.of(action))
                except Conflicted:
                    self._rename(directory, temporary, parent, name, action)
                    raise

    def _require_empty(self, action: Action, path: bytes) -> None:
        names = self._run.tree.names(path)
        if names:
            found = [
                Conflict(action.path + b"/" + name, "appeared in a directory that goes") for name in names
            ]
            raise Conflicted(found)

    def _remove_former(self) -> Iterator[tuple[Identity, Facts]]:
        """What waits under temporary names, now that all is done. Yields what has other names: how it was, and is."""
        for action in self._run.plan.actions:
            if action.do in STAGED and action.before is None:
                continue
            if action.do not in STAGED | DELETING:
                continue
            if self._run.tree.now(above(self._run.temporaries.of(action))) is None:
                self._run.leftovers.append(Leftover(action.path, self._run.temporaries.of(action)))
                continue  # somebody has moved the directory away, and it in it
            with self._run.aside(action) as (directory, name):
                try:
                    if action.do is Do.REMOVE_DIRECTORY:
                        beneath.remove_directory(directory, name)
                        continue
                    with beneath.open_below(directory.fd, name, os.O_PATH) as opened:
                        beneath.unlink(directory, name)
                        if action.before is not None and os.fstat(opened.fd).st_nlink:
                            yield action.before, facts_of(opened)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR):
                        raise
                    self._run.leftovers.append(Leftover(action.path, self._run.temporaries.of(action)))
        self._run.flush()
