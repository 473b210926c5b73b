"""One run's changes, open to be looked at, committed and discarded. Nobody else has them meanwhile.

Refuses to commit what was not listed just so (the digest), what runs later by itself unless it is named (marks), what
has changed underneath unless it is forced by name, and anything while another commit to the same directory goes on or
did not end.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import NamedTuple

from sandlockd.audit.state import StateError
from sandlockd.kernel import copying
from sandlockd.kernel.flushing import flush_file_system
from sandlockd.overlay.changes import Change, digest, list_changes
from sandlockd.overlay.commit import Conflict, Refused, choose, forced, plan_commit
from sandlockd.overlay.entries import FsError
from sandlockd.overlay.identity import Facts
from sandlockd.overlay.journal import BadJournal
from sandlockd.review import kept
from sandlockd.review.changelist import Row, shown
from sandlockd.review.culprits import culprit
from sandlockd.store import committer, reverter, storage
from sandlockd.store.committer import Conflicted, NotAsApproved, Outcome, Pending
from sandlockd.store.inspector import DiskInspector, Unlocked, view_of
from sandlockd.store.real_tree import real_tree_of
from sandlockd.store.storage import StorageError, StorageInUse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from sandlockd.overlay.commit import CommitPlan

# How the whole tree is named.
_ALL = (b"", b".")
LOCK_PATIENCE_S = 10.0
_LOCK_LOOK_EVERY_S = 0.01  # flock cannot be waited for with a limit
# Some calls per directory: the list of changes goes as deep as the program went.
_RECURSION_MAX = 100_000


class CannotReview(Exception):
    """The storage is broken, in use, or not to be trusted: one line, with the reason."""


class InUse(CannotReview):
    """Another process has the changes."""


class NotCommitted(Exception):
    """Nothing was done, for the reasons in `lines`; the last says what would help."""

    def __init__(self, lines: Collection[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


class Done(NamedTuple):
    """What came of a commit or discard.

    changes: what was done. left: how many changes are still kept; 0: the storage has gone.
    notes: what else there is to say, one line each.
    """

    changes: tuple[Change, ...]
    left: int
    notes: tuple[str, ...] = ()


class Review:
    """pending: a commit that did not end; then nothing can be listed."""

    def __init__(
        self, state_dir: bytes, run_id: str, path: bytes, opened: storage.Storage, unlocked: Unlocked
    ) -> None:
        self.state_dir = state_dir
        self.run_id = run_id
        self.storage = opened
        self._path = path
        self._unlocked = unlocked
        self._meta = storage.read_meta(path)
        self.pending: Pending | None = committer.pending(opened)
        self.rows: list[Row] = []
        self.digest = ""
        if self.pending is None:
            self.look()

    @property
    def workdir(self) -> bytes:
        return self.storage.workdir_path

    @property
    def changes(self) -> list[Change]:
        return [row.change for row in self.rows]

    def look(self) -> None:
        """List the changes anew."""
        inspector = DiskInspector(self.storage, self._unlocked)
        view = view_of(self.storage)
        changes = list_changes(view, inspector, self.storage.began_ns)
        self.digest = digest(changes)
        self.rows = [Row(change, self._old(inspector, change)) for change in changes]

    @staticmethod
    def _old(inspector: DiskInspector, change: Change) -> Facts | None:
        if change.base is None or change.facts is None:
            return None
        try:
            return inspector.lower(change.source or change.path)
        except FsError:
            return None  # it is gone meanwhile: the commit will say so

    def named(self, given: Iterable[bytes]) -> list[bytes]:
        """As people name paths: relative to the tree, or absolute and in it. A slash behind one says nothing."""
        found = []
        for path in given:
            inside = path.removeprefix(self.workdir + b"/") if path.startswith(b"/") else path
            found.append(inside.removeprefix(b"./").rstrip(b"/") or b".")
        return found

    def chosen(self, paths: Collection[bytes] | None) -> list[Row]:
        """The rows at and below the paths; all where there are none.

        Raises: NotCommitted: nothing changed at one of them.
        """
        tops = _tops(paths)
        try:
            wanted = {change.path for change in choose(self.changes, tops)}
        except Refused as refused:
            raise NotCommitted([_told(refused)]) from None
        return [row for row in self.rows if row.change.path in wanted]

    def refused_marks(self, paths: Collection[bytes] | None, named: Collection[bytes]) -> list[Row]:
        """What of a choice runs later by itself, and was not named."""
        return [
            row
            for row in self.chosen(paths)
            if row.change.marks and row.change.path not in named and row.change.source not in named
        ]

    # ---- deciding

    def commit(
        self,
        paths: Collection[bytes] | None = None,
        *,
        approved: str | None = None,
        named: Collection[bytes] | None = None,
        skip_marked: bool = False,
        force: Collection[bytes] = (),
    ) -> Done:
        """Commit all, or what is at and below some paths. A commit that did not end is ended first.

        approved: the digest of what was shown. named: marked changes that are committed all the same; those of
            `paths` that are just that where None.
        Raises: NotCommitted. The tree is as it was.
        """
        with self._locked():
            self._require_alone()
            if self.pending is not None:
                notes = self._go_on(force)
                self.look()
                return self._finished((), notes)
            if approved is not None and approved != self.digest:
                raise NotCommitted(
                    [
                        f"the changes are not those that were approved: their digest is {self.digest}",
                        f"look at them again: sandlockctl diff {self.run_id}",
                    ]
                )
            marked = self.refused_marks(paths, named if named is not None else paths or ())
            if marked and not skip_marked:
                raise NotCommitted(self._marked_lines(marked))
            return self._commit(paths, marked, force)

    def _commit(
        self, paths: Collection[bytes] | None, without: Collection[Row], force: Collection[bytes]
    ) -> Done:
        left_out = {row.change.path for row in without}
        tag = os.urandom(4).hex()
        try:
            plan = plan_commit(self.changes, self.digest, _tops(paths), without=left_out, tag=tag)
            if force:
                plan = forced(plan, force, real_tree_of(self.storage).now)
            done = tuple(row.change for row in self.chosen(paths) if row.change.path not in left_out)
            outcome = self._carried_out(lambda: self._commit_plan(plan, paths))
        except Refused as refused:
            raise NotCommitted([_told(refused)]) from None
        self.look()
        return self._finished(done, _notes(outcome))

    def _commit_plan(self, plan: CommitPlan, paths: Collection[bytes] | None) -> Outcome:
        tops = _tops(paths)
        return committer.commit(self.storage, self._unlocked, plan, tops=(b"",) if tops is None else tops)

    def _go_on(self, force: Collection[bytes]) -> tuple[str, ...]:
        outcome = self._carried_out(lambda: committer.go_on(self.storage, self._unlocked, force=force))
        self.pending = None
        if outcome is None:
            return ("a commit that was being taken back has been taken back",)
        return ("a commit that had not ended has been ended", *_notes(outcome))

    def _carried_out(self, act) -> Outcome | None:  # type: ignore[no-untyped-def]
        try:
            found: Outcome | None = act()
            return found
        except Conflicted as error:
            raise NotCommitted(self._conflict_lines(error.conflicts)) from None
        except NotAsApproved as error:
            raise NotCommitted(
                [f"{shown(error.path)} is not what was listed", "look at the changes again"]
            ) from None
        except OSError as error:
            where = f" ({shown(os.fsencode(error.filename))})" if error.filename else ""
            notes = list(getattr(error, "__notes__", ()))
            what = "nothing was committed" if self.pending is None else "the commit has not ended"
            raise NotCommitted([f"{error.strerror}{where}: {what}", *notes, self._again()]) from None

    def _again(self) -> str:
        return f"the changes are kept; when that is mended: sandlockctl commit {self.run_id}"

    def _finished(self, done: tuple[Change, ...], notes: tuple[str, ...]) -> Done:
        if not self.rows:
            notes += self._removed()
        return Done(done, len(self.rows), notes)

    def discard(self, paths: Collection[bytes] | None = None) -> Done:
        """Drop all, or what is at and below some paths. A commit that did not end is taken back first.

        Raises: NotCommitted: something cannot be dropped alone.
        """
        notes: tuple[str, ...] = ()
        if self.pending is not None:
            notes = self._taken_back()
            self.look()
        tops = _tops(paths)
        if tops is None:
            done = tuple(self.changes)
            return Done(done, 0, notes + self._removed())
        rows = self.chosen(paths)
        try:
            reverter.discard(self.storage, view_of(self.storage), self.changes, tops)
        except Refused as refused:
            raise NotCommitted([_told(refused)]) from None
        self.look()
        return self._finished(tuple(row.change for row in rows), notes)

    def _taken_back(self) -> tuple[str, ...]:
        with self._locked():
            outcome = self._carried_out(lambda: committer.take_back(self.storage, self._unlocked))
        self.pending = None
        if outcome is None:
            return ("the commit had been done already: the tree has the changes",)
        return ("a commit that had not ended has been taken back", *_notes(outcome))

    def keep(self) -> None:
        """Flush what is kept, so that it outlives a power failure."""
        flush_file_system(self.storage.upper)

    def _removed(self) -> tuple[str, ...]:
        """The storage. Returns: what there is to say about it."""
        self._unlocked.close()
        left = kept.remove_storage(self.state_dir, self.run_id, self._path)
        return () if left is None else (left,)

    # ---- what keeps from it

    def _require_alone(self) -> None:
        other = kept.half_committed(self.state_dir, self._meta, self.run_id)
        if other is not None:
            raise NotCommitted(
                [
                    f"the commit of run {other} to the same directory did not end",
                    f"end it (sandlockctl commit {other}) or take it back (sandlockctl discard {other})",
                ]
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Several runs may end at once: one commit after the other, for as long as commits usually take."""
        end_s = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                lock = kept.lock_workdir(self.state_dir, self._meta)
                break
            except BlockingIOError:
                if time.monotonic() >= end_s:
                    raise NotCommitted(
                        [f"another commit to {shown(self.workdir)} goes on", "wait for its end"]
                    ) from None
            time.sleep(_LOCK_LOOK_EVERY_S)
        with lock:
            yield

    def _marked_lines(self, marked: Collection[Row]) -> list[str]:
        lines = [
            f"{shown(row.change.path)} is refused unless it is named: {', '.join(row.change.marks)}"
            for row in marked
        ]
        return [*lines, f"name them (sandlockctl commit {self.run_id} . PATH...), or --skip-marked"]

    def _conflict_lines(self, found: Collection[Conflict]) -> list[str]:
        lines = []
        for conflict in found:
            by = culprit(self.state_dir, self.run_id, self.storage, conflict.path)
            lines.append(f"conflict: {shown(conflict.path)} {conflict.reason} since the run saw it{by or ''}")
        what = "nothing was committed" if self.pending is None else "the commit has not ended"
        return [
            *lines,
            f"{what}; --force PATH overwrites it, --skip-marked and PATHs commit other changes only"
            if self.pending is None
            else f"{what}; --force PATH overwrites it, sandlockctl discard {self.run_id} takes it back",
        ]


def _tops(paths: Collection[bytes] | None) -> list[bytes] | None:
    if paths is None or not paths or any(path in _ALL for path in paths):
        return None
    return list(paths)


def _told(refused: Refused) -> str:
    return f"{shown(refused.path)}: {refused.reason}" if refused.path else refused.reason


def _notes(outcome: Outcome | None) -> tuple[str, ...]:
    if outcome is None:
        return ()
    notes = []
    if outcome.lost & copying.LOST_OWNER:
        notes.append("owners that only root can give were not kept; set-user-ID bits are left off there")
    if outcome.lost & copying.LOST_ATTRIBUTES:
        notes.append("attributes that the file system there does not have were not kept")
    for path, at in outcome.leftovers:
        if at:
            notes.append(
                f"{shown(path)} was changed by somebody else meanwhile; its former content is {shown(at)}"
            )
        else:
            notes.append(f"{shown(path)} could not be taken back")
    return tuple(notes)


@contextlib.contextmanager
def open_review(state_dir: bytes, run_id: str) -> Iterator[Review]:
    """Raises:
    NoChanges, CannotReview.
    FileNotFoundError: there is no such run.
    """
    sys.setrecursionlimit(_RECURSION_MAX)
    try:
        path = kept.storage_of(state_dir, run_id)
        with storage.open_existing(path) as opened, Unlocked(opened) as unlocked:
            yield Review(state_dir, run_id, path, opened, unlocked)
    except StorageInUse:
        raise InUse(f"run {run_id} goes on, or its changes are looked at by somebody else") from None
    except (StorageError, StateError) as error:
        raise CannotReview(str(error)) from None
    except BadJournal as error:
        raise CannotReview(
            f"the journal of run {run_id} is not to be trusted: {error}; look at the tree, and remove {shown(path)}"
        ) from None
    except FsError as error:
        notes = ", ".join(getattr(error, "__notes__", ())) or os.strerror(error.errno)
        raise CannotReview(f"the changes cannot be listed: {notes}") from None
