"""Makes everything new of a commit under temporary names: complete, as approved, and flushed."""

from __future__ import annotations

import os

from sandlockd.kernel import beneath, copying, flushing
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.commit import STAGED, Action, Conflict, Do
from sandlockd.overlay.entries import FILE_TYPES, Kind
from sandlockd.store.commit_state import FEW, Conflicted, NotAsApproved, Progress
from sandlockd.store.content import is_content
from sandlockd.store.real_tree import above, last, make_like


class Staging:
    def __init__(self, run: Progress) -> None:
        self._run = run

    def stage_all(self) -> None:
        waiting: list[OwnedFd] = []
        is_many = sum(1 for action in self._run.plan.actions if action.do is Do.WRITE) > FEW
        try:
            for action in self._run.plan.actions:
                if action.do not in STAGED or (action.do is Do.LINK and action.source not in self._run.new):
                    continue  # links to what is there already need no space, and change its ctime
                if self._run.is_shown(action):
                    continue
                opened = self.stage(action)
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
        self._run.file.flush()

    def _flush_file_systems(self) -> None:
        seen = set()
        for path in sorted(
            {above(self._run.temporaries.of(a)) for a in self._run.plan.actions if a.do is Do.WRITE}
        ):
            with self._run.tree.open(path) as directory:
                device = os.fstat(directory.fd).st_dev
                if device not in seen:
                    flushing.flush_file_system(directory)
                    seen.add(device)

    def stage(self, action: Action) -> OwnedFd | None:
        """Make the new object, complete, under its temporary name. Returns: a file that is not flushed yet."""
        self._run.begin(action)
        opened = None
        with self._run.aside(action) as (directory, name):
            self._clear_aside(action, directory, name)
            if action.do is Do.LINK:
                self._link(action, directory, name)
            else:
                opened = self._copy(action, directory, name)
            with beneath.open_below(directory.fd, name, os.O_PATH) as made:
                status = os.fstat(made.fd)
        self._run.file.staged(action, status.st_dev, status.st_ino)
        self._run.staged[action.number] = status.st_dev, status.st_ino
        return opened

    def _clear_aside(self, action: Action, directory: OwnedFd, name: bytes) -> None:
        """Of what a run before us made; the tag says that it is ours."""
        aside = self._run.tree.now(self._run.temporaries.of(action))
        if aside is None:
            return
        if self._run.is_old(action, aside) and action.path not in self._run.force:
            # The new one was in its place, and somebody has put something else there.
            raise Conflicted([Conflict(action.path, "changed after it was committed")])
        beneath.unlink(directory, name)

    def _link(self, action: Action, directory: OwnedFd, name: bytes) -> None:
        assert action.source is not None
        source = action.source
        new = self._run.new.get(source)
        if new is not None and not self._run.is_shown(new):
            source = self._run.temporaries.of(new)
        with self._run.tree.parent(source) as parent:
            beneath.link(parent, last(source), directory, name)
        if new is None:
            self._require_source(action)

    def _require_source(self, action: Action) -> None:
        """That something is as it was listed which stays in the tree and gets a further name."""
        made = self._run.tree.now(self._run.temporaries.of(action))
        facts = action.facts
        assert facts is not None and action.source is not None
        is_same = made is not None and (made.kind, *made[4:9]) == (facts.kind, *facts[4:9])
        if is_same and facts.kind is Kind.FILE:
            with self._run.tree.open(action.source, os.O_RDONLY | os.O_NONBLOCK) as file:
                is_same = is_content(file, action.content)
        if not is_same:
            raise Conflicted([Conflict(action.source, "changed: other names are to be linked to it")])

    def _copy(self, action: Action, directory: OwnedFd, name: bytes) -> OwnedFd | None:
        facts = action.facts
        assert facts is not None
        with beneath.open_below(self._run.storage.upper.fd, action.path, os.O_PATH) as seen:
            self._run.require_approved(action, seen)
            match action.do:
                case Do.WRITE:
                    copy = beneath.create_file(directory, name, os.O_RDWR, 0o600)
                    try:
                        with copying.open_source(seen) as source:
                            copying.copy_data(source, copy)
                        if not is_content(copy, action.content):
                            raise NotAsApproved(action.path)
                        self._run.lost |= make_like(seen, copy, facts)
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
                    beneath.make_node(directory, name, FILE_TYPES[facts.kind] | 0o600, facts.special_device)
            with beneath.open_below(directory.fd, name, os.O_PATH) as made:
                self._run.lost |= make_like(seen, made, facts)
        return None
