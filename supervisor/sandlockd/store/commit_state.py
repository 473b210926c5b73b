"""Where a commit is: what is planned, begun and made, the places that it uses, and the directories that it opens.

For `commit_staging`, `commit_forward` and `commit_back`, which each do a part of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import NamedTuple

from sandlockd.kernel import beneath, flushing
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.commit import STAGED, Action, Conflict, Do, Temporaries
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import ORIGIN_ATTRIBUTE, Facts, Identity, decode_origin
from sandlockd.overlay.journal import Journal
from sandlockd.store.inspector import Unlocked
from sandlockd.store.journal_file import JournalFile
from sandlockd.store.real_tree import if_there, last, real_tree_of
from sandlockd.store.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_KEEP = 0xFFFFFFFF
# From so many files on, flushing their file system once is cheaper than each of them.
FEW = 32


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


class Progress:
    """is_first: nothing of it was done by a process before us.

    tops: the directories at and below these get their times, too, whether there is a change in them or not.
    force: paths that are overwritten or removed in a rerun, whatever they have become.
    """

    def __init__(
        self,
        storage: Storage,
        unlocked: Unlocked,
        file: JournalFile,
        journal: Journal,
        *,
        is_first: bool,
        force: Collection[bytes] = (),
        tops: Collection[bytes] = (),
    ) -> None:
        self.storage = storage
        self.unlocked = unlocked
        self.file = file
        self.plan = journal.plan
        self.tree = real_tree_of(storage)
        self.temporaries = Temporaries(journal.plan)
        self.is_first = is_first
        self.force = force
        self.begun = set(journal.begun)
        self.staged = dict(journal.staged)
        self.journal = journal._replace(begun=self.begun, staged=self.staged)
        # By path, for links to what is only just being made.
        self.new = {a.path: a for a in self.plan.actions if a.do in STAGED and a.do is not Do.LINK}
        self.lost = 0
        self.leftovers: list[Leftover] = []
        # What gets a further name, and with it another ctime; a rerun does not know them.
        self._sources = self._link_sources() if is_first else {}
        # Of directories in which names change, as they are before that; a rerun does not know them.
        self._times = self._times_of_places(tops) if is_first else {}

    def _link_sources(self) -> dict[bytes, Identity]:
        sources = {
            action.source for action in self.plan.actions if action.source is not None
        } - self.new.keys()
        found = {path: self.tree.now(path) for path in sources}
        return {path: facts.identity for path, facts in found.items() if facts is not None}

    def note_ctimes(self, found: Iterable[tuple[Identity, Facts]]) -> None:
        """Of objects that are as they were, and of those that got a further name. Raises OSError."""
        linked = ((before, self.tree.seen(path)) for path, before in self._sources.items())
        all_found = [*found, *((before, facts) for before, facts in linked if facts is not None)]
        self.tree.restored.add(self.storage.directory, all_found)

    def _times_of_places(self, tops: Collection[bytes]) -> dict[bytes, int]:
        found = {}
        places = {action.path for action in self.plan.actions if action.do is Do.SYNC}
        for top in tops:
            with if_there():
                places.update(self._upper_directories(top))
        for path in places:
            facts = self.tree.now(path)
            if facts is not None and facts.kind is Kind.DIRECTORY:
                found[path] = facts.mtime_ns
        return found

    def _upper_directories(self, path: bytes) -> Iterator[bytes]:
        yield path
        with beneath.open_below(self.storage.upper.fd, path, os.O_RDONLY | os.O_DIRECTORY) as directory:
            rows = list(beneath.rows(directory))
        for name, kind, _ in rows:
            if kind == stat.S_IFDIR:
                yield from self._upper_directories(path + b"/" + name if path else name)

    def begin(self, action: Action) -> None:
        if action.number not in self.begun:
            self.file.begin(action)
            self.begun.add(action.number)

    # ---- what is what

    def is_shown(self, action: Action) -> bool:
        now = self.tree.now(action.path)
        return now is not None and self.staged.get(action.number) == (now.device, now.inode)

    @staticmethod
    def is_the_one(action: Action, now: Facts) -> bool:
        return action.before is not None and action.before[1:3] == (now.device, now.inode)

    def is_old(self, action: Action, aside: Facts) -> bool:
        """Whether what is under a temporary name is what was in its place, and not the new object.

        The number of what somebody removed may have been given to the new one.
        """
        staged = self.staged.get(action.number)
        return staged not in (None, (aside.device, aside.inode)) and self.is_the_one(action, aside)

    def expected(self, action: Action) -> Identity | None:
        """What must be there; where that was forced in a rerun, what is there."""
        if not self.is_first and action.path in self.force:
            now = self.tree.now(action.path)
            return None if now is None else now.identity
        return action.before

    def require_approved(self, action: Action, seen: OwnedFd) -> None:
        """What the digest covers of an object, but for its content."""
        facts, approved = self.unlocked.facts(seen), action.facts
        assert approved is not None
        # The link count and the number say nothing about what comes of it.
        if (facts[0], *facts[4:9], *facts[10:]) != (approved[0], *approved[4:9], *approved[10:]):
            raise NotAsApproved(action.path)

    # ---- places

    @contextlib.contextmanager
    def aside(self, action: Action) -> Iterator[tuple[OwnedFd, bytes]]:
        """Where the temporary of an action is: the directory, and its name."""
        path = self.temporaries.of(action)
        with self.tree.parent(path) as directory:
            yield directory, last(path)

    # ---- directories
    #
    # Our own directories are open to us until the end, and get their modes and times last.

    @property
    def open_mode(self) -> int:
        return 0 if os.geteuid() == 0 else stat.S_IRWXU

    def lend(self) -> None:
        if os.geteuid() == 0:
            return
        rerun = [] if self.is_first else [a.path for a in self.plan.actions if a.do is Do.METADATA]
        for path in sorted({*self.journal.lent, *rerun}):
            with if_there(), self.tree.open(path) as opened:
                status = os.fstat(opened.fd)
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                    mode = stat.S_IMODE(status.st_mode)
                    beneath.set_owner_and_mode(opened, _KEEP, _KEEP, mode | self.open_mode)

    def finish_directories(self) -> None:
        """What lies deeper first: what is above it is still open."""
        modes = dict(self.journal.lent)
        times: dict[bytes, int] = {}
        for action in self.plan.actions:
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
        if self.journal.has_landed:
            times = {**self._times_kept(), **times}
        for path in sorted({*modes, *times}, reverse=True):
            with if_there(), self.tree.open(path) as opened:
                status = os.fstat(opened.fd)
                if not stat.S_ISDIR(status.st_mode):
                    continue
                if os.geteuid() not in (0, status.st_uid):
                    continue  # somebody else's: only he sets its mode and times
                mode = stat.S_IMODE(status.st_mode) | self.open_mode
                if path in modes and mode == modes[path] | self.open_mode:
                    # Else the setuid and setgid bits were not to be had.
                    beneath.set_owner_and_mode(opened, _KEEP, _KEEP, modes[path])
                if path in times:
                    beneath.set_times(opened, status.st_atime_ns, times[path])

    def _times_kept(self) -> dict[bytes, int]:
        """Those of the run, where nobody else changed a directory meanwhile. Not now, by our temporaries."""
        found = {}
        for path, before_ns in self._times.items():
            with if_there(), beneath.open_below(self.storage.upper.fd, path, os.O_PATH) as seen:
                found[path] = max(before_ns, os.fstat(seen.fd).st_mtime_ns)
                record = beneath.attribute(seen, ORIGIN_ATTRIBUTE)
                origin = None if record is None else decode_origin(record)
                if origin is not None and origin.identity.mtime_ns == before_ns:
                    found[path] = os.fstat(seen.fd).st_mtime_ns
        return found

    def flush(self) -> None:
        """Names and what was changed in place."""
        places = {action.path for action in self.plan.actions if action.do is Do.SYNC}
        changed = [a.path for a in self.plan.actions if a.do is Do.METADATA and a.path not in places]
        if len(places) + len(changed) > FEW:
            with self.tree.open(b"") as root:
                flushing.flush_file_system(root)
            return
        for path in (*sorted(places, reverse=True), *changed):
            try:
                with if_there(), self.tree.open(path, os.O_RDONLY | os.O_NONBLOCK) as opened:
                    flushing.flush(opened)
            except PermissionError:  # what we may not read can only be flushed with all others
                with self.tree.open(b"") as root:
                    flushing.flush_file_system(root)
