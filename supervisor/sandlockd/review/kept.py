"""Which runs keep their changes, and where: the state directory as far as storages are concerned.

    <state>/runs/<run id>/tree          the storage (store/storage.py), where the policy names no other place
    <state>/runs/<run id>/storage       the path of the storage, where it does, or where review/places.py put it
    <state>/runs/<run id>/committed-N   the journals of what was committed, when the storage has gone

A storage that goes is renamed first (`.gone`), so that half of one is never taken for one. From then on its changes
have gone. What of it cannot be removed is told, and tried again by every look at the runs and by `sandlockctl discard`.
"""

from __future__ import annotations

import enum
import fcntl
import os
from typing import NamedTuple

from sandlockd.audit import state
from sandlockd.kernel import beneath, flushing
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import AT_FDCWD, openat2
from sandlockd.review import places
from sandlockd.store import storage
from sandlockd.store.removal import remove
from sandlockd.store.storage import COMMITTED_PREFIX, JOURNAL_NAME, StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlockd.overlay.journal import Journal

_TREE_NAME = b"tree"
_POINTER_NAME = b"storage"
_GONE = b".gone"
_LOCKS_NAME = b"locks"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class State(enum.Enum):
    """The value is what users see."""

    RUNNING = "running"
    KEPT = "kept"
    COMMITTING = "committing"  # half done: its process was killed
    DAMAGED = "damaged"
    GOING = "going"  # has gone, but something of it could not be removed yet


class KeptRun(NamedTuple):
    """problem: why it is DAMAGED or GOING."""

    run_id: str
    state: State
    workdir: bytes
    storage: bytes
    problem: str | None = None


class NoChanges(Exception):
    """The run keeps none: one line."""


class NotRemoved(Exception):
    """What is left of a storage that has gone resists: one line."""


def make_storage_directory(
    state_dir: bytes, run_id: str, chosen: bytes | None = None, place: bytes | None = None
) -> bytes:
    """A new, empty directory (0700) for `storage.create`, found again by the run's id.

    chosen: `filesystem.storage` of the policy. place: as review/places.py says, where that is not the state directory.
    Raises: StateError, OSError.
    """
    run = state.make_run(state_dir, run_id)
    if chosen is None and place is not None and places.make(place, state_dir):
        path = place + b"/" + os.fsencode(run_id)
        _point_to(run, path)
        os.mkdir(path, 0o700)
        return path
    if chosen is None:
        path = run + b"/" + _TREE_NAME
        os.mkdir(path, 0o700)
        return path
    os.makedirs(chosen, 0o700, exist_ok=True)
    place = os.path.realpath(chosen)
    places.remember(place, state_dir)
    path = place + b"/" + places.CHOSEN_PREFIX + os.fsencode(run_id)
    _point_to(run, path)
    os.mkdir(path, 0o700)
    return path


def _point_to(run: bytes, path: bytes) -> None:
    """Before it is made: a storage that nobody finds would stay for ever."""
    with _opened(run) as directory, beneath.create_file(directory, _POINTER_NAME, os.O_WRONLY, 0o600) as file:
        os.write(file.fd, path)
        flushing.flush(file)
        flushing.flush_directory(directory)


def forget_unused(state_dir: bytes, run_id: str) -> bool:
    """Remove a storage that was never in use: the start failed, or was killed, before it was complete.

    Returns: whether it was one. Raises: NoChanges, FileNotFoundError, StateError, OSError.
    """
    path = storage_of(state_dir, run_id)
    if os.path.lexists(path + b"/" + storage.META_NAME):
        return False
    os.rename(path, path + _GONE)
    sweep(state.run_path(state_dir, run_id), flush=False)  # what resists is told of by sandlockctl ps
    return True


def finish_removal(state_dir: bytes, run_id: str) -> bool:
    """Whether there was something left of a storage that had gone; it is removed then.

    Raises: NotRemoved, StateError, OSError.
    """
    run = state.run_path(state_dir, run_id)
    if not os.path.lexists(_path_below(run) + _GONE):
        return False
    problem = sweep(run)
    if problem is not None:
        raise NotRemoved(problem)
    return True


def storage_of(state_dir: bytes, run_id: str) -> bytes:
    """The path of a run's storage.

    Raises:
        NoChanges: it has none.
        FileNotFoundError: there is no such run.
        StateError, OSError.
    """
    run = state.run_path(state_dir, run_id)
    path = _storage_below(run)
    if path is None:
        how = "its changes were committed" if _has_committed(run) else "nothing is kept of it"
        if os.path.lexists(_path_below(run) + _GONE):
            how = f"they have gone, but not all of their storage: sandlockctl discard {run_id}"
        raise NoChanges(f"run {run_id} has no changes: {how}")
    return path


def _path_below(run: bytes) -> bytes:
    try:
        with openat2(AT_FDCWD, run + b"/" + _POINTER_NAME, os.O_RDONLY | os.O_NOFOLLOW) as file:
            return os.read(file.fd, 4096)
    except FileNotFoundError:
        return run + b"/" + _TREE_NAME


def _storage_below(run: bytes) -> bytes | None:
    path = _path_below(run)
    return path if path.startswith(b"/") and os.path.lexists(path) else None


def _has_committed(run: bytes) -> bool:
    return any(name.startswith(COMMITTED_PREFIX) for name in os.listdir(run))


def kept_runs(state_dir: bytes) -> list[KeptRun]:
    """The newest first. Raises: StateError, OSError."""
    found = []
    for run_id in state.run_ids(state_dir):
        run = state.run_path(state_dir, run_id)
        problem = sweep(run)
        path = _storage_below(run)
        if problem is not None:
            found.append(KeptRun(run_id, State.GOING, b"", _path_below(run) + _GONE, problem))
        elif path is not None:
            found.append(_looked_at(run_id, path))
    return found


def _looked_at(run_id: str, path: bytes) -> KeptRun:
    try:
        in_use = storage.is_in_use(path)
        workdir = storage.read_meta(path).workdir
    except StorageError as error:
        return KeptRun(run_id, State.DAMAGED, b"", path, str(error))
    if not os.path.lexists(path + b"/" + JOURNAL_NAME):
        return KeptRun(run_id, State.RUNNING if in_use else State.KEPT, workdir, path)
    return _with_journal(run_id, path, workdir, in_use=in_use)


def _with_journal(run_id: str, path: bytes, workdir: bytes, *, in_use: bool) -> KeptRun:
    from sandlockd.overlay.journal import BadJournal  # 6 ms, and each start looks at what is kept
    from sandlockd.store import journal_file

    try:
        under_way = journal_file.peek(path)
    except BadJournal as error:
        return KeptRun(run_id, State.DAMAGED, b"", path, str(error))
    found = State.KEPT
    if in_use:
        found = State.RUNNING
    elif under_way is not None and not under_way.has_ended:
        found = State.COMMITTING
    return KeptRun(run_id, found, workdir, path)


def kept_lines(state_dir: bytes, workdir: bytes, *, but: str | None = None) -> list[str]:
    """What to say of runs on a workdir that keep changes of it, but for one. Never raises for what it finds."""
    try:
        real = os.path.realpath(workdir)
        runs = [run for run in kept_runs(state_dir) if run.workdir == real and run.run_id != but]
    except (state.StateError, OSError):
        return []
    lines = []
    for run in runs:
        if run.state is State.KEPT:
            lines.append(
                f"run {run.run_id} keeps changes of this directory that are not in it:"
                f" sandlockctl diff {run.run_id}"
            )
        elif run.state is State.COMMITTING:
            lines.append(
                f"the commit of run {run.run_id} to this directory did not end:"
                f" sandlockctl commit {run.run_id} ends it, discard takes it back"
            )
    return lines


def half_committed(state_dir: bytes, meta: storage.Meta, but: str) -> str | None:
    """Another run whose commit to the same workdir did not end."""
    for run in kept_runs(state_dir):
        if run.run_id != but and run.state is State.COMMITTING:
            if storage.read_meta(run.storage)[1:3] == meta[1:3]:
                return run.run_id
    return None


def lock_workdir(state_dir: bytes, meta: storage.Meta) -> OwnedFd:
    """One commit to a workdir at a time; ours until it is closed.

    A file of our own, not the workdir itself: that may be locked by whoever may read it, a sandboxed program too.
    Raises: BlockingIOError.
    """
    os.makedirs(state_dir + b"/" + _LOCKS_NAME, 0o700, exist_ok=True)
    path = b"%b/%b/%d-%d" % (state_dir, _LOCKS_NAME, meta.device, meta.inode)
    lock = openat2(AT_FDCWD, path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, mode=0o600)
    try:
        fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        lock.close()
        raise
    return lock


def remove_storage(state_dir: bytes, run_id: str, path: bytes, *, flush: bool = True) -> str | None:
    """All of it, but for the journals of what was committed: they stay with the run.

    flush: not if there is nothing in it that half a removal could take for a change.
    Returns: what there is to say where its changes have gone, but not all of it could be removed.
    Raises: OSError: it is there as it was.
    """
    run = state.run_path(state_dir, run_id)
    with _opened(path) as old, _opened(run) as directory:
        journals = [name for name, _, _ in beneath.rows(old) if name.startswith(COMMITTED_PREFIX)]
        for name in journals:
            _keep_journal(old, directory, name)
        if journals:
            flushing.flush_directory(directory)
    os.rename(path, path + _GONE)
    problem = sweep(run, flush=flush or bool(journals))
    return None if problem is None else f"{problem}; sandlockctl discard {run_id} tries again"


def _keep_journal(old: OwnedFd, directory: OwnedFd, name: bytes) -> None:
    temporary = name + b".new"
    remove(directory, temporary)
    with (
        openat2(old.fd, name, os.O_RDONLY | os.O_NOFOLLOW) as source,
        beneath.create_file(directory, temporary, os.O_WRONLY, 0o600) as target,
    ):
        while block := os.read(source.fd, 1 << 20):
            while block:
                block = block[os.write(target.fd, block) :]
        status = os.fstat(source.fd)
        beneath.set_times(target, status.st_atime_ns, status.st_mtime_ns)
        flushing.flush(target)
    beneath.rename(directory, temporary, directory, name)


def sweep(run: bytes, *, flush: bool = True) -> str | None:
    """What is left of a storage that was going when its process was killed, or that could not be removed.

    flush: that it has gone is to be on the disk before anything of it is removed.
    Returns: why it still cannot.
    """
    path = _path_below(run)
    gone = path + _GONE
    if not os.path.lexists(gone):
        return None
    try:
        with _opened(os.path.dirname(gone)) as above:
            if flush:
                flushing.flush_directory(above)
            remove(above, os.path.basename(gone))
        places.leave(path)
        if not os.path.lexists(path):
            with _opened(run) as directory:
                remove(directory, _POINTER_NAME)
    except OSError as error:
        return _resisting(gone, error)
    return None


def _resisting(gone: bytes, error: OSError) -> str:
    from sandlockd.policy.spelling import printable  # not at the start of a run

    where = printable(os.fsdecode(gone))
    return f"what is left of changes that have gone cannot be removed: {where}: {error.strerror}"


def committed_journals(state_dir: bytes) -> Iterator[tuple[str, Journal, int]]:
    """(run id, what it says, when it ended in ns) of all that was committed, as far as it is still known."""
    from sandlockd.store import journal_file

    for run_id in state.run_ids(state_dir):
        run = state.run_path(state_dir, run_id)
        kept = _storage_below(run)
        for path in (run, *([kept] if kept is not None else [])):
            try:
                with _opened(path) as directory:
                    for _, journal, ended_ns in journal_file.ended_journals(directory):
                        yield run_id, journal, ended_ns
            except OSError:
                continue


def _opened(path: bytes) -> OwnedFd:
    return openat2(AT_FDCWD, path, _DIRECTORY)
