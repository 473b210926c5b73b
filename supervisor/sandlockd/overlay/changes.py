"""The list of changes: what a full walk of the upper, against the lower, comes to.

Pure. Deletions come first, then everything by path. What differs from the lower tree is a change, whatever way
it came about: a directory that was removed and made anew is compared name by name, and a copy that nobody changed
is none. A rename is recognised by the record that copy-up leaves (`identity`).
"""

from __future__ import annotations

import enum
import errno
import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from sandlockd.overlay.entries import FsError, Kind, Name
from sandlockd.overlay.identity import Facts, Identity, Origin
from sandlockd.overlay.marks import marks
from sandlockd.overlay.view import View


class What(enum.Enum):
    """What happened to a path. The value is its letter in the list."""

    DELETED = "D"
    ADDED = "A"
    MODIFIED = "M"
    METADATA = "m"  # content as before; mode, owner, times or attributes are not
    REPLACED = "T"  # by something of another kind
    RENAMED = "R"


class Change(NamedTuple):
    """One row.

    facts: of the new object; None for a deletion.
    content: the digest of a file's content (store/content.py), the target of a symbolic link in hexadecimal, or "".
    base: the lower object that goes or is changed, as it was at copy-up, or now where no copy was made. If that
        changed after the run began, nobody knows which of its versions the program meant: then its ctime is UNKNOWN_NS.
    below: what lies below a directory that goes, each with what it is now.
    source: where a renamed object was.
    link_to: the name of which this is to be a further hard link.
    marks: what a reviewer must see, see `marks`.
    is_folded: goes without saying in a list, because the directory above it was renamed with it unchanged.
    """

    what: What
    path: bytes
    facts: Facts | None
    content: str = ""
    base: Identity | None = None
    below: tuple[tuple[bytes, Identity], ...] = ()
    source: bytes | None = None
    link_to: bytes | None = None
    marks: tuple[str, ...] = ()
    is_folded: bool = False

    @property
    def total(self) -> int:
        """How many objects a deletion takes away, itself included."""
        return 1 + len(self.below)


class Inspector(Protocol):
    """Looks closer at what the walk finds. Paths are those of the tree."""

    def upper(self, path: bytes) -> Facts:
        """Of an object in the upper."""

    def lower(self, path: bytes) -> Facts:
        """Of an object in the lower."""

    def origin(self, path: bytes) -> Origin | None:
        """The record of a file or directory in the upper."""

    def content(self, path: bytes) -> str:
        """The digest of a file in the upper."""

    def keeps_owner(self, old: Facts) -> bool:
        """Whether the copy of a lower object could have its owner and group."""

    def same_content(self, path: bytes, lower_path: bytes) -> bool:
        """Whether a file in the upper reads as one in the lower; asked only when their sizes are equal."""


UNKNOWN_NS = -1  # is no object's ctime, and so a conflict


def list_changes(view: View, look: Inspector, since_ns: int | None = None) -> list[Change]:
    """All changes.

    since_ns: when the run began, by the clock that gives ctimes; None where that is not to count.
    Raises:
        FsError: what a layer raised.
    """
    return _Walk(view, look, since_ns).run()


def digest(changes: Iterable[Change]) -> str:
    """What a reviewer approves: sha256 over every row with everything in it that a commit acts upon.

    Each field is written as LENGTH:BYTES, so that no two lists have the same encoding.
    """
    hashed = hashlib.sha256(b"sandlockd changes 1\n")
    for change in changes:
        below = [part for path, identity in change.below for part in (path, *identity)]
        facts = change.facts[:] if change.facts is not None else ()
        # The link count and the upper's own numbers say nothing about the result.
        told = (facts[0], *facts[4:9], *facts[10:]) if facts else ()
        base = change.base[:] if change.base is not None else ()
        head = (change.what, change.path, change.content, change.source, change.link_to)
        for group in (head, told, base, below):
            hashed.update(b"%d\n" % len(group))
            for field in group:
                hashed.update(_netstring(field))
    return hashed.hexdigest()


def _netstring(field: object) -> bytes:
    if isinstance(field, enum.Enum):
        field = field.value
    text = field if isinstance(field, bytes) else b"-" if field is None else str(field).encode()
    return b"%d:%b," % (-1 if field is None else len(text), text)


class _Walk:
    """The walk under way, and what it found so far.

    gone: every lower path that does not show any more, or shows as another kind.
    linked: the paths of each upper object with several links.
    like_lower: paths whose lower object is another one with several links, but for that the same.
    """

    def __init__(self, view: View, look: Inspector, since_ns: int | None) -> None:
        self.view = view
        self.look = look
        self.since_ns = since_ns
        self.changed: dict[bytes, Change] = {}
        self.gone: dict[bytes, Identity] = {}
        self.linked: dict[tuple[int, int], list[bytes]] = {}
        self.like_lower: dict[bytes, Facts] = {}

    def run(self) -> list[Change]:
        self._directory(b"", has_lower=self.view.lower.entry(b"") is not None, shows=True)
        if self.view.lower.entry(b"") is not None:
            self._compare_directory(b"")
        self._rename()
        self._link()
        deletions = self._deletions()
        rows = [self._finish(self.changed[path]) for path in sorted(self.changed)]
        return deletions + [self._fold(row) for row in rows]

    def _directory(self, path: bytes, *, has_lower: bool, shows: bool) -> None:
        """One directory of the upper. shows: the lower directory at this path shows through it."""
        names = list(self.view.upper.names(path))
        lower: dict[bytes, Name] = {}
        if has_lower:
            rows = self._lower_names(path, names, shows)
            lower = {row.name: row for row in rows if row.kind is not Kind.WHITEOUT}
        for name, kind, _ in names:
            child = path + b"/" + name if path else name
            below = lower.pop(name, None)
            if kind is Kind.WHITEOUT:
                if below is not None:
                    self._lose(child, below.kind)
            else:
                self._compare(child, kind, None if below is None else below.kind, shows)
        if not shows:
            for name, row in lower.items():
                self._lose(path + b"/" + name if path else name, row.kind)

    def _lower_names(self, path: bytes, upper: Iterable[Name], shows: bool) -> Iterable[Name]:
        """Those of a lower directory; where nobody may list it, those among them that the upper has too.

        That is enough for what shows through: no other names of it can have gone. And where nobody may search it
        either, there are none: the program saw none, and a commit finds out what is there.
        """
        try:
            rows = list(self.view.lower.names(path))
            for row in rows[:1]:  # it may be one that can be listed, but not searched
                self.view.lower.entry(path + b"/" + row.name if path else row.name)
            return rows
        except FsError as error:
            if error.errno != errno.EACCES or not (shows or self._is_like_lower(path)):
                raise
        found = []
        for name, _, _ in upper:
            try:
                entry = self.view.lower.entry(path + b"/" + name if path else name)
            except FsError as error:
                if error.errno != errno.EACCES:
                    raise
                continue
            if entry is not None:
                found.append(Name(name, entry.kind, entry.inode))
        return found

    def _is_like_lower(self, path: bytes) -> bool:
        """A directory that the lower tree has from here, by a commit: to the nanosecond."""
        facts, old = self.look.upper(path), self.look.lower(path)
        return _owned(facts) == _owned(old) and facts.mtime_ns == old.mtime_ns

    def _compare(self, path: bytes, kind: Kind, lower: Kind | None, shows: bool) -> None:
        facts = self.look.upper(path)
        if kind is not Kind.DIRECTORY and facts.links > 1:
            self.linked.setdefault((facts.device, facts.inode), []).append(path)
        if lower is None:
            origin = self.look.origin(path) if kind is Kind.FILE else None
            if origin is not None and origin.path == path:  # what it is a copy of has gone meanwhile
                self.changed[path] = Change(What.MODIFIED, path, facts, base=origin.identity)
            else:
                self.changed[path] = Change(What.ADDED, path, facts)
        elif lower is not kind:
            self._lose(path, lower)
            self.changed[path] = Change(What.REPLACED, path, facts, base=self.gone[path])
        elif kind is Kind.DIRECTORY:
            self._compare_directory(path)
        else:
            self._compare_object(path, facts)
        if kind is Kind.DIRECTORY:
            entry = self.view.upper.entry(path)
            merged = lower is Kind.DIRECTORY
            through = merged and shows and not (entry is not None and entry.opaque)
            self._directory(path, has_lower=merged, shows=through)

    def _compare_directory(self, path: bytes) -> None:
        facts, old = self.look.upper(path), self.look.lower(path)
        if self._owned(facts, old) != _owned(old) or self._has_chosen_time(path, facts, old):
            self.changed[path] = Change(What.METADATA, path, facts, base=old.identity)

    def _has_chosen_time(self, path: bytes, facts: Facts, old: Facts) -> bool:
        """Whether the program gave it a time that no change of a name in it would have: touch -d, tar, rsync.

        Others are nothing to be listed: each name that comes and goes leaves one. Of the root there is no record.
        """
        if self.since_ns is None or self.since_ns <= facts.mtime_ns <= facts.ctime_ns:
            return False
        origin = self.look.origin(path)
        was_ns = None if origin is None else origin.identity.mtime_ns
        return (
            was_ns is not None and facts.mtime_ns not in (was_ns, old.mtime_ns) and self.look.keeps_owner(old)
        )

    def _compare_object(self, path: bytes, facts: Facts) -> None:
        old = self.look.lower(path)
        origin = self.look.origin(path) if facts.kind is Kind.FILE else None
        base = self._base(old)
        is_copy = origin is not None and (origin.identity.device, origin.identity.inode) == base[1:3]
        if origin is not None and (is_copy or origin.path == path):
            base = origin.identity
        same = facts.kind is old.kind and facts.special_device == old.special_device
        if facts.kind is Kind.FILE:
            same = facts.size_bytes == old.size_bytes and self.look.same_content(path, path)
        elif facts.kind is Kind.SYMLINK:
            same = self.view.upper.target(path) == self.view.lower.target(path)
        # A new object under one of several lower names is no longer what the other names are.
        may_stay = same and (is_copy or old.links == 1)
        owned = self._owned(facts, old) if is_copy else _owned(facts)
        if same and owned == _owned(old) and facts.mtime_ns == old.mtime_ns:
            if may_stay:
                return
            self.like_lower[path] = old
        in_place = may_stay and facts.kind is Kind.FILE
        what = What.METADATA if in_place else What.MODIFIED
        self.changed[path] = Change(what, path, facts, base=base)

    def _owned(self, copy: Facts, old: Facts) -> tuple[int, int, int, str]:
        """Of what was copied up: an owner that was lost with it is no change of the program's."""
        if not self.look.keeps_owner(old):
            copy = copy._replace(uid=old.uid, gid=old.gid, mode=copy.mode | old.mode & 0o6000)
        return _owned(copy)

    def _base(self, old: Facts) -> Identity:
        """A lower object of which there is no record from the time when the program changed or removed it."""
        is_known = self.since_ns is None or old.kind is Kind.DIRECTORY or old.ctime_ns <= self.since_ns
        return old.identity if is_known else old.identity._replace(ctime_ns=UNKNOWN_NS)

    def _lose(self, path: bytes, kind: Kind) -> None:
        self.gone[path] = self._base(self.look.lower(path))
        if kind is Kind.DIRECTORY:
            for name, below, _ in list(self.view.lower.names(path)):
                if below is not Kind.WHITEOUT:
                    self._lose(path + b"/" + name, below)

    def _rename(self) -> None:
        sources: set[bytes] = set()
        for path in sorted(self.changed):
            change = self.changed[path]
            if change.what is not What.ADDED or change.facts is None:
                continue
            if change.facts.kind not in (Kind.FILE, Kind.DIRECTORY):
                continue
            origin = self.look.origin(path)
            if origin is None or origin.path in sources or origin.path not in self.gone:
                continue
            if origin.identity[:3] == self.gone[origin.path][:3]:
                sources.add(origin.path)
                base = origin.identity
                self.changed[path] = change._replace(what=What.RENAMED, source=origin.path, base=base)

    def _link(self) -> None:
        """Names of one upper object become names of one object: of a lower one that stays, where there is one."""
        for paths in self.linked.values():
            if self._is_committed(paths):
                for path in paths:
                    del self.changed[path]
                continue
            staying = [path for path in paths if self._stays(path)]
            first = min([path for path in staying if path not in self.changed] or staying or paths)
            for path in paths:
                if path == first or (
                    path in staying and self._lower_object(path) == self._lower_object(first)
                ):
                    continue
                change = self.changed.get(path)
                if change is None or change.what is What.METADATA:
                    facts, base = self.look.upper(path), self._base(self.look.lower(path))
                    change = Change(What.MODIFIED, path, facts, base=base)
                self.changed[path] = change._replace(link_to=first)

    def _is_committed(self, paths: list[bytes]) -> bool:
        """Whether the names of one object are just those of one lower object that is the same: after a commit."""
        below = [self.like_lower[path] for path in paths if path in self.like_lower]
        objects = {(facts.device, facts.inode) for facts in below}
        return len(below) == len(paths) == below[0].links and len(objects) == 1

    def _stays(self, path: bytes) -> bool:
        """Whether the lower object at a path is still the one, changed in place at most."""
        change = self.changed.get(path)
        return change is None or change.what is What.METADATA

    def _lower_object(self, path: bytes) -> tuple[int, int] | None:
        if not self._stays(path):
            return None
        facts = self.look.lower(path)
        return facts.device, facts.inode

    def _deletions(self) -> list[Change]:
        """The topmost of what is gone, but for what was renamed or replaced."""
        sources = {change.source for change in self.changed.values()}
        rows = []
        for path in sorted(self.gone):
            above = path.rpartition(b"/")[0]
            counted = above in self.gone and above not in sources
            if counted or path in sources or path in self.changed:
                continue
            rows.append(Change(What.DELETED, path, None, base=self.gone[path], below=self._below(path)))
        return rows

    def _below(self, path: bytes) -> tuple[tuple[bytes, Identity], ...]:
        inside = path + b"/"
        return tuple((lost, self.gone[lost]) for lost in sorted(self.gone) if lost.startswith(inside))

    def _finish(self, change: Change) -> Change:
        assert change.facts is not None
        content = ""
        if change.facts.kind is Kind.FILE:
            content = self.look.content(change.path)
        elif change.facts.kind is Kind.SYMLINK:
            content = self.view.upper.target(change.path).hex()
        below = self._below(change.path) if change.what is What.REPLACED else ()
        found = marks(self.view, change.path, change.facts)
        return change._replace(content=content, below=below, marks=found)

    def _fold(self, change: Change) -> Change:
        if change.source is None or change.facts is None or change.base is None:
            return change
        above, _, name = change.path.rpartition(b"/")
        parent = self.changed.get(above)
        if parent is None or parent.source is None or change.source != parent.source + b"/" + name:
            return change
        old = self.look.lower(change.source)
        if _owned(old) != _owned(change.facts) or change.marks:
            return change
        if change.facts.kind is Kind.FILE and not (
            old.size_bytes == change.facts.size_bytes and self.look.same_content(change.path, change.source)
        ):
            return change
        return change._replace(is_folded=True)


def _owned(facts: Facts) -> tuple[int, int, int, str]:
    return facts.mode, facts.uid, facts.gid, facts.attributes
