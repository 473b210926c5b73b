"""Where runs leave their records: the state directory, run ids, the newest run, and how long runs are kept.

    <state>/runs/<run id>/audit.jsonl        0700, 0700, 0600; the running writer holds a flock(2) on the file
    <state>/runs/<run id>/committed-N        what was committed of the run's changes (review/kept.py)

Works on directory descriptors, never twice on one name. Refuses a state directory that somebody else owns or
may write. Refuses to remove a run that is still going, or that holds anything else: its changes, for one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_NAME = b"audit.jsonl"
COMMITTED_PREFIX = b"committed-"
RUNS_KEPT = 100

_RUNS_NAME = b"runs"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SAFE_DIRECTORY = _DIRECTORY | os.O_NOFOLLOW
# O_NONBLOCK: what lies there might be a FIFO.
_SAFE_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_TRIES = 8


class StateError(Exception):
    """The state directory is not to be trusted, or was named wrongly. One line, with the fix in it."""

    def __init__(self, path: bytes, problem: str, fix: str) -> None:
        super().__init__(f"state directory {os.fsdecode(path)!r} {problem}: {fix}")
        self.path = path
        self.problem = problem
        self.fix = fix


def own_state_directory() -> bytes:
    """Of this process. Raises StateError."""
    home = home_directory()
    return state_directory(dict(os.environ), os.geteuid(), "" if home is None else os.fsdecode(home))


def home_directory() -> bytes | None:
    """$HOME, if that is a place at all, else what the user database says. Never relative; None: there is none."""
    home = os.environb.get(b"HOME")
    if home and home.startswith(b"/"):
        return home
    import pwd

    try:
        found = os.fsencode(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None
    return found if found.startswith(b"/") else None


def state_directory(environ: Mapping[str, str], uid: int, home: str) -> bytes:
    """The directory that this user's runs leave their records in; it need not exist yet.

    home: absolute, or empty where there is none.
    Raises:
        StateError: $SANDLOCKD_STATE_DIR is relative, which would be another directory from each place; or no home.
    """
    if chosen := environ.get("SANDLOCKD_STATE_DIR"):
        if not chosen.startswith("/"):
            raise StateError(
                os.fsencode(chosen), "is relative", "set SANDLOCKD_STATE_DIR to an absolute path"
            )
        return os.fsencode(chosen)
    if uid == 0:
        return b"/var/lib/sandlockd"
    base = environ.get("XDG_STATE_HOME", "")
    # XDG Base Directory Specification: a relative path there is invalid and to be ignored.
    if not base.startswith("/"):
        if not home.startswith("/"):
            raise StateError(
                b"~/.local/state/sandlockd",
                "is nowhere, as you have no home directory",
                "set HOME or SANDLOCKD_STATE_DIR to an absolute path",
            )
        base = f"{home}/.local/state"
    return os.fsencode(f"{base}/sandlockd")


def new_run_id(time_ns: int) -> str:
    """Sorts by time of start, to the millisecond; unique by 24 random bits after it."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    day = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    return f"{day}.{rest_ns // 1_000_000:03d}-{os.urandom(3).hex()}"


def create_run(directory: bytes, run_id: str | None, time_ns: int) -> tuple[str, int]:
    """Make the directory and the empty log of a new run, locked for as long as the descriptor is open.

    Returns: the run id, and the log's descriptor (append only, close-on-exec), which the caller owns.
    Raises:
        StateError: the state directory belongs to, or may be written by, somebody else.
        FileExistsError: the given run id is taken, by whatever it may be (a symbolic link, too).
        ValueError: the given run id is no file name.
        OSError: it could not be made.
    """
    if run_id is not None and not _is_file_name(run_id):
        raise ValueError(f"not a run id: {run_id!r}")
    runs_fd = _open_runs(directory, create=True)
    try:
        for _ in range(_CREATE_TRIES):
            name = run_id or new_run_id(time_ns)
            try:
                log_fd = _create_log(runs_fd, name)
            except FileExistsError:
                if run_id is not None:
                    raise
                continue
            if log_fd is not None:
                return name, log_fd
    finally:
        os.close(runs_fd)
    raise OSError(errno.EAGAIN, "no run directory could be made: each was taken away at once", directory)


def make_run(directory: bytes, run_id: str) -> bytes:
    """The path of a run's directory, which is made where no log was to be written.

    Raises: StateError, OSError.
    """
    runs_fd = _open_runs(directory, create=True)
    try:
        _make_directory(os.fsencode(run_id), runs_fd)
    finally:
        os.close(runs_fd)
    return run_path(directory, run_id)


def _open_runs_for(directory: bytes, run_id: str) -> int:
    """The directory of all runs, if there can be one of this name."""
    if not _is_file_name(run_id):
        raise FileNotFoundError(errno.ENOENT, "not a run id", run_id)
    return _open_runs(directory, create=False)


def run_path(directory: bytes, run_id: str) -> bytes:
    """The path of a run's directory, after it was made sure that nobody else may change what leads there.

    Raises:
        FileNotFoundError: there is no such run.
        StateError, OSError.
    """
    runs_fd = _open_runs_for(directory, run_id)
    path = directory + b"/" + _RUNS_NAME + b"/" + os.fsencode(run_id)
    try:
        os.close(_open_trusted(path, os.fsencode(run_id), runs_fd))
    finally:
        os.close(runs_fd)
    return path


def open_log(directory: bytes, run_id: str) -> int:
    """A descriptor to read one run's log, which the caller owns.

    Raises:
        FileNotFoundError: there is no such run.
        StateError, OSError.
    """
    runs_fd = _open_runs_for(directory, run_id)
    try:
        run_fd = os.open(os.fsencode(run_id), _SAFE_DIRECTORY, dir_fd=runs_fd)
    finally:
        os.close(runs_fd)
    try:
        log_fd = os.open(LOG_NAME, _SAFE_READ, dir_fd=run_fd)
    finally:
        os.close(run_fd)
    if not stat.S_ISREG(os.fstat(log_fd).st_mode):
        os.close(log_fd)
        raise FileNotFoundError(errno.ENOENT, "the log is not a regular file", run_id)
    return log_fd


def is_running(log_fd: int) -> bool:
    """Whether the run's writer still holds its log."""
    if not _take_lock(log_fd):
        return True
    fcntl.flock(log_fd, fcntl.LOCK_UN)
    return False


def run_ids(directory: bytes) -> list[str]:
    """All runs, the newest first; none if there is no state directory yet.

    Raises: StateError, OSError.
    """
    try:
        runs_fd = _open_runs(directory, create=False)
    except FileNotFoundError:
        return []
    try:
        return _run_names(runs_fd)
    finally:
        os.close(runs_fd)


def matching_runs(ids: list[str], text: str) -> list[str]:
    """The runs that a person may mean by `text`: the id itself, or those that begin or end with it."""
    if text in ids:
        return [text]
    return [name for name in ids if text and (name.startswith(text) or name.endswith(text))]


def prune(directory: bytes, kept: int = RUNS_KEPT) -> int:
    """Remove the oldest runs beyond `kept`, except those that go on or hold more than a log.

    Returns: how many went.
    """
    runs_fd = _open_runs(directory, create=False)
    try:
        return sum(_remove_run(runs_fd, name) for name in _run_names(runs_fd)[kept:])
    finally:
        os.close(runs_fd)


def remove_run(directory: bytes, run_id: str) -> bool:
    """False: it goes on, or holds more than a log. One that is not there is removed.

    Raises: StateError, OSError.
    """
    try:
        runs_fd = _open_runs_for(directory, run_id)
    except FileNotFoundError:
        return True
    try:
        return _remove_run(runs_fd, run_id) or not _exists(runs_fd, run_id)
    finally:
        os.close(runs_fd)


def _exists(runs_fd: int, name: str) -> bool:
    try:
        os.stat(os.fsencode(name), dir_fd=runs_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open_runs(directory: bytes, *, create: bool) -> int:
    state_fd = _open_state(directory, create=create)
    try:
        if create:
            _make_directory(_RUNS_NAME, state_fd)
        return _open_trusted(directory + b"/" + _RUNS_NAME, _RUNS_NAME, state_fd)
    finally:
        os.close(state_fd)


def _open_state(directory: bytes, *, create: bool) -> int:
    """Walk to the state directory. Links may lead there (a home often is one); it must not be one itself."""
    *parents, last = [part for part in directory.split(b"/") if part] or [b"."]
    at_fd = os.open(b"/" if directory.startswith(b"/") else b".", _DIRECTORY | os.O_PATH)
    try:
        for part in parents:
            at_fd = _step(at_fd, part, create=create)
        if create:
            _make_directory(last, at_fd)
        return _open_trusted(directory, last, at_fd)
    finally:
        os.close(at_fd)


def _step(taken_fd: int, part: bytes, *, create: bool) -> int:
    """Open one parent below `taken_fd`, which is closed on success and still the caller's on failure."""
    try:
        next_fd = os.open(part, _DIRECTORY | os.O_PATH, dir_fd=taken_fd)
    except FileNotFoundError:
        if not create:
            raise
        _make_directory(part, taken_fd)
        next_fd = os.open(part, _DIRECTORY | os.O_PATH, dir_fd=taken_fd)
    os.close(taken_fd)
    return next_fd


def _make_directory(name: bytes, parent_fd: int) -> None:
    # EEXIST: made by another start just now, or long ago; opening it checks what it is.
    try:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
    except FileExistsError:
        return


def _open_trusted(path: bytes, name: bytes, parent_fd: int) -> int:
    try:
        opened_fd = os.open(name, _SAFE_DIRECTORY, dir_fd=parent_fd)
    except OSError as error:
        # open(2): O_DIRECTORY with O_NOFOLLOW on a symbolic link is ENOTDIR or ELOOP, by kernel.
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise StateError(path, "is a symbolic link or no directory", "name the real directory") from error
        raise
    found = os.fstat(opened_fd)
    try:
        if found.st_uid != os.geteuid():
            raise StateError(path, f"belongs to user {found.st_uid}", "choose another by SANDLOCKD_STATE_DIR")
        if found.st_mode & 0o022:
            raise StateError(path, "may be written by others", f"chmod go-w {os.fsdecode(path)!r}")
    except StateError:
        os.close(opened_fd)
        raise
    return opened_fd


def _create_log(runs_fd: int, name: str) -> int | None:
    """None: the directory was pruned between its making and our lock, so take another."""
    os.mkdir(os.fsencode(name), 0o700, dir_fd=runs_fd)
    try:
        run_fd = os.open(os.fsencode(name), _SAFE_DIRECTORY, dir_fd=runs_fd)
    except FileNotFoundError:
        return None
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        log_fd = os.open(LOG_NAME, flags, 0o600, dir_fd=run_fd)
    except FileNotFoundError:
        return None
    finally:
        os.close(run_fd)
    # A pruner locks before it removes: if we have the lock and the file still has its name, it stays ours.
    if _take_lock(log_fd) and os.fstat(log_fd).st_nlink == 1:
        return log_fd
    os.close(log_fd)
    return None


def _run_names(runs_fd: int) -> list[str]:
    # Names that are not ids (somebody's own file, an editor's backup) are none of our business.
    return sorted((name for name in os.listdir(runs_fd) if _is_run_id(name)), reverse=True)


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _is_run_id(name: str) -> bool:
    day, dash, random = name.partition("-")
    return dash == "-" and _consists_of(day, "0123456789T.") and _consists_of(random, "0123456789abcdef")


def _consists_of(text: str, letters: str) -> bool:
    return text != "" and not text.strip(letters)


def _remove_run(runs_fd: int, name: str) -> bool:
    try:
        run_fd = os.open(os.fsencode(name), _SAFE_DIRECTORY, dir_fd=runs_fd)
    except OSError:
        return False  # gone already, or not a directory: not a run
    try:
        names = set(map(os.fsencode, os.listdir(run_fd))) - {LOG_NAME}
        # Anything else may be somebody's changes, kept on purpose.
        if not all(name.startswith(COMMITTED_PREFIX) for name in names) or not _remove_log(run_fd):
            return False
        for committed in names:
            os.unlink(committed, dir_fd=run_fd)
        os.rmdir(os.fsencode(name), dir_fd=runs_fd)
    except OSError:
        return False  # another pruner was faster, or something appeared in it: then it stays
    finally:
        os.close(run_fd)
    return True


def _remove_log(run_fd: int) -> bool:
    """False if its writer lives. An empty directory has nothing to remove: a start that was killed."""
    try:
        log_fd = os.open(LOG_NAME, _SAFE_READ, dir_fd=run_fd)
    except FileNotFoundError:
        return True
    try:
        if not _take_lock(log_fd):
            return False
        os.unlink(LOG_NAME, dir_fd=run_fd)
    finally:
        os.close(log_fd)
    return True


def _take_lock(log_fd: int) -> bool:
    try:
        fcntl.flock(log_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
