"""Commit: from the approved changes and a choice among them to numbered actions on the real tree.

Pure. What is written is made under a temporary name and exchanged with what is in its place; what is deleted is
moved to one. So each file is old or new, what was there can be looked at once more when nobody else finds it any
longer, and all of it can be undone until the end. New content comes before deletions, and everything that is written
comes from the upper, which stays until the end: a renamed file is written under its new name before the old one goes.
Only where a directory and something else change places does the old one go first.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from sandlockd.overlay.changes import Change, What, digest
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import Facts, Identity


class Do(enum.Enum):
    """What one action does. The value is the word in the journal."""

    DIRECTORY = "mkdir"  # with mode 0700; a later METADATA gives it what it is to have
    WRITE = "write"  # a copy of the upper's file under a temporary name, fsync, rename into place
    SYMLINK = "symlink"  # likewise
    NODE = "node"  # a FIFO, socket or device, likewise
    LINK = "link"  # a hard link of `source`, likewise
    METADATA = "metadata"  # owner, mode, attributes, times, in place
    DELETE = "delete"
    REMOVE_DIRECTORY = "rmdir"
    SYNC = "sync"  # fsync of a directory


STAGED = frozenset({Do.WRITE, Do.SYMLINK, Do.NODE, Do.LINK})
DELETING = frozenset({Do.DELETE, Do.REMOVE_DIRECTORY})

# How the names begin that may be found in the tree during a commit, or after its end by kill -9.
TEMPORARY_PREFIX = b".sandlockd-commit-"


class Action(NamedTuple):
    """One step on the real tree.

    before: what must be at the path; None: nothing.
    facts, content: what is to be there, as in the change.
    source: the name to link to, for LINK.
    is_loose: an earlier action touches the same object under another name, and so its times and mode.
    """

    number: int
    do: Do
    path: bytes
    before: Identity | None = None
    facts: Facts | None = None
    content: str = ""
    source: bytes | None = None
    is_loose: bool = False


class CommitPlan(NamedTuple):
    """The actions in their order; numbers are places in it.

    tag: tells the temporary names of this commit from those of any other, and from the user's own.
    root: st_dev and st_ino of the tree.
    """

    digest: str
    actions: tuple[Action, ...]
    tag: str = "0"
    root: tuple[int, int] = (0, 0)


class Temporaries:
    """The names under which new objects are made, and old ones wait for the end.

    Each lies in the nearest directory above that was there before and stays, so that nothing else is in the way when
    a directory goes, and all new objects can be made before anything shows.
    """

    def __init__(self, plan: CommitPlan) -> None:
        self._prefix = b"%b%b-" % (TEMPORARY_PREFIX, plan.tag.encode())
        self._passing = frozenset(a.path for a in plan.actions if a.do in (Do.DIRECTORY, Do.REMOVE_DIRECTORY))

    def of(self, action: Action) -> bytes:
        """The path of one."""
        above = action.path.rpartition(b"/")[0]
        while above in self._passing:
            above = above.rpartition(b"/")[0]
        name = b"%b%d" % (self._prefix, action.number)
        return above + b"/" + name if above else name


class Refused(Exception):
    """The choice cannot be committed: which path, and why, with what to do about it."""

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__(f"{path.decode(errors='backslashreplace')}: {reason}")
        self.path = path
        self.reason = reason


class Conflict(NamedTuple):
    """A path of the real tree that is not what it was when the changes were made."""

    path: bytes
    reason: str


def plan_commit(
    changes: Collection[Change],
    approved: str,
    chosen: Collection[bytes] | None = None,
    *,
    without: Collection[bytes] = (),
    tag: str = "0",
) -> CommitPlan:
    """Plan the commit of all changes, or of those at and below the chosen paths.

    New directories above a chosen path come with it, and a chosen rename is both its names.
    without: the paths of single changes that are left out all the same.
    Raises:
        Refused: the changes are not those that were approved, or the choice cannot stand alone.
    """
    if digest(changes) != approved:
        raise Refused(b"", "the changes are not those that were approved: list them again")
    wanted = [row for row in choose(changes, chosen) if row.path not in without]
    parents = _parents(changes, wanted)
    _check_sources(changes, wanted)
    return CommitPlan(approved, _numbered(_ordered(changes, wanted, parents)), tag)


def _is_at_or_below(path: bytes, top: bytes) -> bool:
    return path == top or not top or path.startswith(top + b"/")


def choose(changes: Iterable[Change], chosen: Iterable[bytes] | None) -> list[Change]:
    """The changes at and below the chosen paths; a rename is both its names.

    Raises:
        Refused: nothing changed there.
    """
    rows = list(changes)
    if chosen is None:
        return rows
    tops = list(chosen)
    for top in tops:
        if not any(_is_at_or_below(name, top) for row in rows for name in (row.path, row.source or row.path)):
            raise Refused(top, "nothing changed here")
    picked: set[int] = set()
    while tops:
        top = tops.pop()
        for place, row in enumerate(rows):
            at_source = row.source is not None and _is_at_or_below(row.source, top)
            if place in picked or not (at_source or _is_at_or_below(row.path, top)):
                continue
            picked.add(place)
            if row.source is not None:
                # Both names of it, with what else happened at and below either.
                tops += [row.source, row.path]
    return [rows[place] for place in sorted(picked)]


def _parents(changes: Iterable[Change], wanted: Iterable[Change]) -> dict[bytes, Change]:
    """New directories that were not chosen, but are needed."""
    made = {row.path: row for row in changes if row.what in (What.ADDED, What.RENAMED, What.REPLACED)}
    have = {row.path for row in wanted}
    needed = {}
    for row in wanted:
        above = row.path
        while above and row.facts is not None:
            above = above.rpartition(b"/")[0]
            if above in have or above not in made:
                continue
            if made[above].what is What.REPLACED:
                raise Refused(row.path, f"{_shown(above)} was something else before: choose that, too")
            needed[above] = made[above]
    return needed


def _check_sources(changes: Iterable[Change], wanted: Collection[Change]) -> None:
    """Nothing goes whose content lives on under a name that was not chosen."""
    going = [row.path for row in wanted if row.what in (What.DELETED, What.REPLACED)]
    going += [row.source for row in wanted if row.source is not None]
    places = {row.path for row in wanted}
    for row in changes:
        if row.source is None or row.path in places:
            continue
        if any(_is_at_or_below(row.source, top) for top in going):
            raise Refused(row.source, f"was renamed to {_shown(row.path)}: choose that, too")


def _shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")


def _ordered(
    changes: Iterable[Change], wanted: Collection[Change], parents: dict[bytes, Change]
) -> list[Action]:
    """The actions in their order, not numbered yet."""
    unchosen = {row.path for row in changes} - {row.path for row in wanted}
    first = [action for row in wanted if row.what is What.REPLACED for action in _clearing(row)]
    cleared = {action.path for action in first}
    made, written, linked, touched, finished = [], [], [], [], []
    for row in [*parents.values(), *wanted]:
        facts = row.facts
        if facts is None:
            continue
        before = None if row.what in (What.ADDED, What.RENAMED) or row.path in cleared else row.base
        action = Action(0, Do.WRITE, row.path, before, facts, row.content)
        if facts.kind is Kind.DIRECTORY:
            finished.append(action._replace(do=Do.METADATA))
            if row.what is not What.METADATA:
                made.append(action._replace(do=Do.DIRECTORY))
        elif row.what is What.METADATA:
            touched.append(action._replace(do=Do.METADATA))
        elif row.link_to is not None and row.link_to not in unchosen:
            linked.append(action._replace(do=Do.LINK, source=row.link_to))
        else:
            written.append(action._replace(do=_WRITES.get(facts.kind, Do.NODE)))
    made.sort(key=_path)
    finished.sort(key=_path, reverse=True)
    body = [*first, *made, *written, *touched, *linked, *_deleting(wanted, cleared), *finished]
    return body + _syncing(body)


_WRITES = {Kind.FILE: Do.WRITE, Kind.SYMLINK: Do.SYMLINK}


def _path(action: Action) -> bytes:
    return action.path


def _clearing(row: Change) -> list[Action]:
    """What goes before something of another kind can take its place; rename(2) does the rest itself."""
    assert row.base is not None and row.facts is not None
    if Kind.DIRECTORY not in (row.base.kind, row.facts.kind):
        return []
    return [_delete(path, identity) for path, identity in reversed([(row.path, row.base), *row.below])]


def _deleting(wanted: Iterable[Change], cleared: Collection[bytes]) -> list[Action]:
    gone: dict[bytes, Identity] = {}
    replaced = {row.path for row in wanted if row.what is What.REPLACED}
    for row in wanted:
        if row.what is What.DELETED and row.base is not None:
            gone[row.path] = row.base
            gone |= dict(row.below)
        elif row.source is not None and row.base is not None:
            gone[row.source] = row.base
    left = gone.keys() - set(cleared) - replaced
    return [_delete(path, gone[path]) for path in sorted(left, reverse=True)]


def _delete(path: bytes, identity: Identity) -> Action:
    do = Do.REMOVE_DIRECTORY if identity.kind is Kind.DIRECTORY else Do.DELETE
    return Action(0, do, path, identity)


def _syncing(actions: Iterable[Action]) -> list[Action]:
    """The directories in which names changed and that are still there, the deepest first."""
    gone = {action.path for action in actions if action.do is Do.REMOVE_DIRECTORY}
    gone -= {action.path for action in actions if action.do is Do.DIRECTORY}
    above = {action.path.rpartition(b"/")[0] for action in actions if action.do is not Do.METADATA}
    return [Action(0, Do.SYNC, path) for path in sorted(above - gone, reverse=True)]


def _numbered(actions: Iterable[Action]) -> tuple[Action, ...]:
    touched: set[tuple[int, int]] = set()
    numbered = []
    for number, action in enumerate(actions):
        before = action.before
        is_loose = before is not None and before[1:3] in touched
        if before is not None:
            touched.add((before.device, before.inode))
        numbered.append(action._replace(number=number, is_loose=is_loose))
    return tuple(numbered)


def matches(action: Action, now: Facts | None) -> bool:
    """Whether what is at an action's path now is what must be there before it."""
    before = action.before
    if before is None or now is None:
        return before is None and now is None
    if before.kind is Kind.DIRECTORY or action.is_loose:
        # A directory's times change with its names; what is in it is checked name by name.
        return before[:3] == now.identity[:3]
    return before == now.identity


def conflicts(
    plan: CommitPlan,
    now: Callable[[bytes], Facts | None],
    names: Callable[[bytes], Iterable[bytes]],
) -> list[Conflict]:
    """What changed in the real tree since; to be asked before the first action.

    now: lstat of a path of the real tree. names: of a directory of it.
    """
    found = []
    seen: set[bytes] = set()
    going = {a.path for a in plan.actions if a.do in (Do.DELETE, Do.REMOVE_DIRECTORY)}
    made = {a.path for a in plan.actions if a.do is Do.DIRECTORY}
    for action in plan.actions:
        path = action.path
        if path in seen or action.do is Do.SYNC:
            continue
        seen.add(path)
        above = path.rpartition(b"/")[0]
        facts = None if above in made else now(path)
        parent = now(above) if above and above not in made else None
        if above and above not in made and (parent is None or parent.kind is not Kind.DIRECTORY):
            found.append(Conflict(path, "the directory that it is in is gone"))
        elif not matches(action._replace(is_loose=False), facts):
            found.append(Conflict(path, _difference(action.before, facts)))
        elif action.do is Do.REMOVE_DIRECTORY:
            inside = (path + b"/" + name for name in names(path))
            found += [
                Conflict(name, "appeared in a directory that goes") for name in inside if name not in going
            ]
    return found


def _difference(before: Identity | None, now: Facts | None) -> str:
    if now is None:
        return "is gone"
    if before is None:
        return "appeared"
    if before.ctime_ns < 0:
        return "changed after the run began"
    fields = ("kind", "device", "inode", "size", "mtime", "ctime", "mode")
    different = [name for name, one, two in zip(fields, before, now.identity, strict=True) if one != two]
    return f"changed: {', '.join(different)}"


def forced(plan: CommitPlan, paths: Collection[bytes], now: Callable[[bytes], Facts | None]) -> CommitPlan:
    """The plan with what is there now at these paths taken for what must be there.

    What appeared in a directory that goes is not to be forced: it was never seen by whoever approved.
    """
    actions: list[Action] = []
    seen: set[bytes] = set()
    for action in plan.actions:
        if action.path in paths and action.path not in seen and action.do is not Do.SYNC:
            facts = now(action.path)
            action = action._replace(before=None if facts is None else facts.identity)
        seen.add(action.path)
        actions.append(action)
    return plan._replace(actions=tuple(actions))
