"""A storage on disk with changes in it, listed and committed as a reviewer would."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator

from sandlockd.overlay.changes import Change, digest, list_changes
from sandlockd.overlay.commit import forced, plan_commit
from sandlockd.store import committer, storage
from sandlockd.store.committer import Outcome
from sandlockd.store.inspector import DiskInspector, Unlocked, view_of
from sandlockd.store.real_tree import real_tree_of
from sandlockd.store.storage import Storage


@contextlib.contextmanager
def opened(path: bytes) -> Iterator[tuple[Storage, Unlocked]]:
    with storage.open_existing(path) as found, Unlocked(found) as unlocked:
        yield found, unlocked


def listed(path: bytes) -> list[Change]:
    with opened(path) as (found, unlocked):
        return list_changes(view_of(found), DiskInspector(found, unlocked), found.began_ns)


def commit(
    path: bytes,
    chosen: Collection[bytes] | None = None,
    *,
    force: Collection[bytes] = (),
    tag: str = "test",
    before: Callable[[], object] = lambda: None,
) -> Outcome:
    """before: called when the changes have been listed."""
    with opened(path) as (found, unlocked):
        changes = list_changes(view_of(found), DiskInspector(found, unlocked), found.began_ns)
        plan = plan_commit(changes, digest(changes), chosen, tag=tag)
        before()
        if force:
            plan = forced(plan, force, real_tree_of(found).now)
        return committer.commit(found, unlocked, plan)


def go_on(path: bytes, force: Collection[bytes] = ()) -> Outcome | None:
    with opened(path) as (found, unlocked):
        return committer.go_on(found, unlocked, force=force)


def take_back(path: bytes) -> Outcome | None:
    with opened(path) as (found, unlocked):
        return committer.take_back(found, unlocked)


def is_pending(path: bytes) -> bool:
    with opened(path) as (found, _):
        return committer.pending(found) is not None


def temporaries(workdir: bytes) -> list[bytes]:
    """What commits left in a tree."""
    return [
        os.path.join(above, name)
        for above, directories, files in os.walk(workdir)
        for name in directories + files
        if name.startswith(b".sandlockd-commit-")
    ]
