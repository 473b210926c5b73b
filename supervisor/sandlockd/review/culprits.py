"""Who changed a file underneath a run, where the state directory can tell: another run whose changes were committed."""

from __future__ import annotations

import os
import time

from sandlockd.overlay.commit import DELETING, STAGED, Action
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import Facts
from sandlockd.overlay.journal import Journal
from sandlockd.review.kept import committed_journals
from sandlockd.store.real_tree import real_tree_of
from sandlockd.store.storage import Storage


def culprit(state_dir: bytes, run_id: str, storage: Storage, path: bytes) -> str | None:
    """`, by run ID, committed TIME`: the last commit that left the path as it is now."""
    status = os.fstat(storage.workdir.fd)
    now = real_tree_of(storage).now(path)
    found: tuple[int, str] | None = None
    for other, journal, ended_ns in committed_journals(state_dir):
        if journal.plan.root != (status.st_dev, status.st_ino) or (found and found[0] >= ended_ns):
            continue
        if any(action.path == path and _left_it_so(journal, action, now) for action in journal.plan.actions):
            found = ended_ns, other
    if found is None:
        return None
    ended_ns, other = found
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ended_ns // 1_000_000_000))
    return f", by {'this run' if other == run_id else f'run {other}'}, committed {when}"


def _left_it_so(journal: Journal, action: Action, now: Facts | None) -> bool:
    if action.do in DELETING:
        return now is None
    if now is None:
        return False
    facts = action.facts
    if facts is None or facts.kind is not now.kind:
        return False
    if action.do in STAGED and journal.staged.get(action.number) != (now.device, now.inode):
        return False
    # Whoever changed it after that commit is not known.
    is_so = (now.mode, now.uid, now.gid) == (facts.mode, facts.uid, facts.gid)
    return is_so and (facts.kind is Kind.DIRECTORY or now.mtime_ns == facts.mtime_ns)
