"""Takes a commit back: what was there before gets its place again, and what was made goes.

What somebody else has changed meanwhile is left, and told.
"""

from __future__ import annotations

import contextlib
import errno
import os

from sandlockd.kernel import beneath
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.commit import DELETING, STAGED, Action, Do
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import Facts, Identity
from sandlockd.store.commit_state import Leftover, Progress
from sandlockd.store.real_tree import above, last, make_as_before

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Back:
    def __init__(self, run: Progress) -> None:
        self._run = run

    def run(self) -> tuple[Leftover, ...]:
        with contextlib.suppress(OSError):  # without it, a rerun goes forward again, which is as good
            self._run.file.undoing(self._run.plan)
        self._run.lend()
        for action in reversed(self._run.plan.actions):
            self._undo(action)
        self._run.finish_directories()
        self._run.flush()
        with contextlib.suppress(OSError):  # without it, the next try finds more that has changed
            self._run.note_ctimes(self._as_before())
        self._run.file.remove()
        return tuple(self._run.leftovers)

    def _as_before(self) -> Iterator[tuple[Identity, Facts]]:
        for action in self._run.plan.actions:
            facts = self._run.tree.seen(action.path) if action.number in self._run.begun else None
            if action.before is not None and facts is not None:
                yield action.before, facts

    def _undo(self, action: Action) -> None:
        if action.do in STAGED:
            self._undo_new(action)
        elif action.do in DELETING:
            self._undo_deletion(action)
        elif action.number not in self._run.begun:
            return
        elif action.do is Do.DIRECTORY:
            self._undo_directory(action)
        elif action.do is Do.METADATA:
            former = self._run.journal.former.get(action.number)
            now = self._run.tree.now(action.path)
            if former is None or now is None or not self._run.is_the_one(action, now):
                return
            if now.kind is Kind.DIRECTORY:
                former = former._replace(mode=former.mode | self._run.open_mode)
            elif action.facts is not None and now.mtime_ns != action.facts.mtime_ns:
                former = former._replace(mtime_ns=now.mtime_ns)  # somebody has written to it
            with self._run.tree.open(action.path) as target:
                make_as_before(target, former)

    def _undo_new(self, action: Action) -> None:
        path, temporary = action.path, self._run.temporaries.of(action)
        aside = self._run.tree.now(temporary)
        if self._run.is_shown(action):
            with self._run.tree.parent(path) as parent, self._run.aside(action) as (directory, name):
                flags = beneath.RENAME_NOREPLACE if aside is None else beneath.RENAME_EXCHANGE
                if aside is None and action.before is not None:
                    self._run.leftovers.append(Leftover(path, b""))  # a file system without exchange
                    return
                beneath.rename(parent, last(path), directory, name, flags)
                if self._is_ours(action, directory, name):
                    beneath.unlink(directory, name)
                    return
                # Somebody has written to it, or put something else there in this moment: that is theirs.
                beneath.rename(directory, name, parent, last(path), flags)
                self._run.leftovers.append(Leftover(path, b"" if aside is None else temporary))
        elif aside is not None:
            if self._run.is_old(action, aside):
                # Somebody has put something else in the place of the new one.
                self._run.leftovers.append(Leftover(path, temporary))
                return
            with self._run.aside(action) as (directory, name):
                beneath.unlink(directory, name)

    def _is_ours(self, action: Action, directory: OwnedFd, name: bytes) -> bool:
        """Whether it is what we made, as we made it."""
        with beneath.open_below(directory.fd, name, os.O_PATH) as opened:
            status = os.fstat(opened.fd)
        facts = action.facts
        assert facts is not None
        is_as_made = (status.st_size, status.st_mtime_ns) == (facts.size_bytes, facts.mtime_ns)
        return is_as_made and self._run.staged.get(action.number) == (status.st_dev, status.st_ino)

    def _undo_deletion(self, action: Action) -> None:
        temporary = self._run.temporaries.of(action)
        if self._run.tree.now(temporary) is None:
            return
        try:
            with self._run.tree.parent(action.path) as parent, self._run.aside(action) as (directory, name):
                beneath.rename(directory, name, parent, last(action.path), beneath.RENAME_NOREPLACE)
        except FileExistsError:
            self._run.leftovers.append(Leftover(action.path, temporary))
        except OSError:  # its directory is gone, or a link now
            if self._run.tree.now(above(action.path)) is not None:
                raise
            self._run.leftovers.append(Leftover(action.path, temporary))

    def _undo_directory(self, action: Action) -> None:
        now = self._run.tree.now(action.path)
        if now is None or now.kind is not Kind.DIRECTORY or now.uid != os.geteuid():
            return
        with self._run.tree.parent(action.path) as parent:
            try:
                beneath.remove_directory(parent, last(action.path))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._run.leftovers.append(Leftover(action.path, b""))
