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

import errno
import os
import stat
from typing import NamedTuple

from sandlockd.overlay.commit import CommitPlan, Do, conflicts
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.journal import Journal
from sandlockd.store.commit_back import Back
from sandlockd.store.commit_forward import Forward
from sandlockd.store.commit_state import Conflicted, Leftover, NotAsApproved, Outcome, Progress
from sandlockd.store.inspector import Unlocked
from sandlockd.store.journal_file import JournalFile
from sandlockd.store.real_tree import RealTree, above, real_tree_of
from sandlockd.store.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "Conflicted",
    "Leftover",
    "NotAsApproved",
    "Outcome",
    "Pending",
    "commit",
    "go_on",
    "pending",
    "take_back",
]


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


def commit(
    storage: Storage, unlocked: Unlocked, plan: CommitPlan, *, tops: Collection[bytes] = ()
) -> Outcome:
    """A new commit, of a plan whose tag no other has.

    tops: the directories at and below these get their times, too, whether there is a change in them or not.
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
    tree.restored.reserve(storage.directory, 2 * len(plan.actions))
    try:
        file = JournalFile.write(storage.directory, plan, former, lent)
    except BaseException:
        tree.restored.release(storage.directory)
        raise
    nothing: frozenset[int] = frozenset()
    read = Journal(plan, former, lent, nothing, {}, nothing, False, False, False)
    run = Progress(storage, unlocked, file, read, is_first=True, tops=tops)
    try:
        return Forward(run).run()
    except BaseException as error:
        if not run.journal.has_landed:
            for path, kept in Back(run).run():
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
            leftovers = Back(run).run()
            return Outcome(leftovers=leftovers) if leftovers else None
        return Forward(run).run()
    finally:
        run.file.close()


def take_back(storage: Storage, unlocked: Unlocked) -> Outcome | None:
    """Undo a commit that did not end. None: it had landed, and is ended instead."""
    run = _reopened(storage, unlocked, ())
    try:
        if run.journal.has_landed:
            Forward(run).run()
            return None
        return Outcome(leftovers=Back(run).run())
    finally:
        run.file.close()


def _reopened(storage: Storage, unlocked: Unlocked, force: Collection[bytes]) -> Progress:
    found = JournalFile.reopen(storage.directory)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "no commit is under way")
    return Progress(storage, unlocked, found[0], found[1], is_first=False, force=force)


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
