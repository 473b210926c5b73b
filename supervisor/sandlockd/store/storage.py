"""One tree's directory on disk: where it may lie, what it must look like, and what is wrong where it does not.

    <directory>/    0700, ours; whoever uses the storage holds a flock(2) on it
      meta          which workdir this is of, and the format; written last, so that what has none was never in use
      upper/        the tree's root as the program sees it: owner, mode and times are the workdir's
      work/         0700; what is being made. Swept at every opening
      journal       of a commit under way (store/journal_file.py)
      origins       of copies that bear no record (store/origins.py)

Refuses what somebody else made or may have changed, and what another process uses: it would be swept under its hands.
Refuses to put a tree's storage into the tree, or the other way round: the copies would be copied.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import fcntl
import os
import stat
from typing import NamedTuple

from sandlockd.kernel import beneath, copying
from sandlockd.kernel.beneath import CONFINED
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.mounts import Mounts
from sandlockd.kernel.paths import AT_FDCWD, describe, openat2, self_link
from sandlockd.store.executor import STAGE_NAME, WHITEOUT_NAME
from sandlockd.store.lending import LENT_PREFIX, give_back
from sandlockd.store.removal import remove
from sandlockd.store.watched_names import GONE_PREFIX, MADE_PREFIX, OPAQUE_ATTRIBUTE, settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

META_NAME = b"meta"
JOURNAL_NAME = b"journal"
COMMITTED_PREFIX = b"committed-"
_UPPER_NAME = b"upper"
_WORK_NAME = b"work"
_FORMAT = 1
_META_BYTES_MAX = 64 * 1024
_NO_XDEV = 0x01
_SAME = 0xFFFFFFFF


class StorageError(Exception):
    """The storage, or the workdir, is not to be used. One line, with the fix in it."""

    def __init__(self, path: bytes, problem: str, fix: str) -> None:
        super().__init__(f"{os.fsdecode(path)!r} {problem}: {fix}")
        self.path = path
        self.problem = problem
        self.fix = fix


class StorageInUse(StorageError):
    """Another process has it: a run that goes on, or somebody who looks at its changes."""


class Storage:
    """Open: the descriptors are ours to close. Nobody else can open it meanwhile.

    workdir: the lower tree. workdir_path: its canonical name when the storage was made, which was at began_ns.
    lost: what a storage here cannot do, one line each. slow: where in the workdir a file system is mounted whose server
    may never answer: nobody is to look there.
    """

    __slots__ = (
        "_settling",
        "began_ns",
        "directory",
        "lost",
        "meta",
        "slow",
        "upper",
        "work",
        "workdir",
        "workdir_path",
    )

    def __init__(
        self,
        directory: OwnedFd,
        workdir: OwnedFd,
        upper: OwnedFd,
        work: OwnedFd,
        meta: Meta,
        lost: tuple[str, ...],
        settling: Settling | None = None,
    ) -> None:
        self._settling = settling
        self.directory = directory
        self.workdir = workdir
        self.upper = upper
        self.work = work
        self.meta = meta
        self.workdir_path = meta.workdir
        self.began_ns = meta.began_ns
        self.lost = lost
        self.slow: frozenset[bytes] = frozenset()

    def settle(self) -> None:
        """From now on it is found after a crash. Nobody is to write to it before. Raises OSError."""
        if self._settling is not None:
            self._settling.wait()

    def settle_again(self) -> None:
        """Where who was to settle it has died, and left a fork. Raises OSError."""
        if self._settling is not None:
            self._settling.again()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.settle()
        for opened in (self.workdir, self.upper, self.work, self.directory):
            opened.close()

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Meta(NamedTuple):
    """Of which workdir a storage is. began_ns: by the clock that gives ctimes."""

    workdir: bytes
    device: int
    inode: int
    began_ns: int


def create(path: bytes, workdir_path: bytes, *, settles_later: bool = False) -> Storage:
    """A new storage in a directory that exists and is empty (0700, ours).

    settles_later: whoever gets it calls `settle` before it is written to; what the disk takes for it is not waited for
        until then.
    Raises:
        StorageError: the workdir is `/` or one of the two lies in the other; the directory is not ours alone, not
            empty, or its file system cannot hold an upper.
        OSError: ENOSPC ...
    """
    with contextlib.ExitStack() as opened:
        workdir = opened.enter_context(_open_workdir(workdir_path))
        directory = opened.enter_context(_open_trusted(path))
        _refuse_nesting(workdir, directory)
        if any(True for _ in beneath.rows(directory)):
            raise StorageError(path, "is not empty", "choose a new directory")
        _lock(directory, path)
        beneath.make_directory(directory, _WORK_NAME, 0o700)
        beneath.make_directory(directory, _UPPER_NAME, 0o700)
        work = opened.enter_context(_part(directory, path, _WORK_NAME))
        upper = opened.enter_context(_open_upper(directory, path))
        _furnish_new(path, work)
        copying.copy_metadata(workdir, upper)
        lost = _lost(workdir, upper)
        meta, write_down = _write_meta(directory, workdir)
        settling = Settling(write_down) if settles_later else write_down()
        opened.pop_all()
        return Storage(directory, workdir, upper, work, meta, lost, settling)


def create_temporary(path: bytes, root: bytes) -> Storage:
    """Of a tree that starts empty and is never kept: in a directory that exists and is empty (0700, ours).

    Nothing is ever hidden in it, so that its file system need not know whiteouts. Raises: StorageError, OSError.
    """
    with contextlib.ExitStack() as opened:
        directory = opened.enter_context(_open_trusted(path))
        beneath.make_directory(directory, _WORK_NAME, 0o700)
        beneath.make_directory(directory, _UPPER_NAME, 0o700)
        work = opened.enter_context(_part(directory, path, _WORK_NAME))
        beneath.make_directory(work, STAGE_NAME, 0o777)
        upper = opened.enter_context(_open_upper(directory, path))
        workdir = opened.enter_context(_open_upper(directory, path))
        beneath.set_owner_and_mode(upper, _SAME, _SAME, 0o1777)
        opened.pop_all()
        return Storage(directory, workdir, upper, work, Meta(root, 0, 0, 0), ())


def open_existing(path: bytes, workdir_path: bytes | None = None, *, known: Meta | None = None) -> Storage:
    """A storage that a run left, or that a supervisor before us used. Sweeps what was being made.

    workdir_path: None is the one that the storage says it is of. known: what it says, by whoever made it.
    Raises:
        StorageError: as `create`; it is incomplete, was changed by somebody else, belongs to another workdir (or
            that was replaced), or is in use.
    """
    with contextlib.ExitStack() as opened:
        directory = opened.enter_context(_open_trusted(path))
        _lock(directory, path)
        meta = known or _read_meta(directory, path)
        slow = _slow_in(workdir_path or meta.workdir)
        workdir = opened.enter_context(_open_workdir(workdir_path or meta.workdir))
        _refuse_nesting(workdir, directory)
        _require_workdir(meta, path, workdir)
        work = opened.enter_context(_part(directory, path, _WORK_NAME))
        upper = opened.enter_context(_open_upper(directory, path))
        _recover(work, upper)
        opened.pop_all()
        storage = Storage(directory, workdir, upper, work, meta, _lost(workdir, upper))
        storage.slow = slow
        return storage


def recover(storage: Storage) -> None:
    """Whoever used it until now is dead, wherever he had got to; we are a fork of his. Raises OSError."""
    storage.settle_again()
    _recover(storage.work, storage.upper)


def _recover(work: OwnedFd, upper: OwnedFd) -> None:
    _give_back(work, upper)  # first: what is settled lends, too, and notes it by names that are taken else
    _settle(work, upper)
    _sweep(work)
    _furnish(work)


def _slow_in(workdir: bytes) -> frozenset[bytes]:
    """Before anybody looks there. Relative to the workdir, which is not on such a file system itself (StorageError)."""
    mounts = Mounts()
    try:
        points = [mount.point for mount in mounts.slow_in(workdir)]
    finally:
        mounts.close()
    if not all(point.startswith(workdir + b"/") for point in points):
        raise StorageError(workdir, "is on a file system by now that waits for a server", "unmount that")
    return frozenset(point[len(workdir) + 1 :] for point in points)


def read_meta(path: bytes) -> Meta:
    """Of which workdir a storage is, whoever uses it.

    Raises: StorageError.
    """
    with _open_trusted(path) as directory:
        return _read_meta(directory, path)


def is_in_use(path: bytes) -> bool:
    """Raises: StorageError."""
    with _open_trusted(path) as directory:
        try:
            fcntl.flock(directory.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


# ---- what may be trusted


def _open_trusted(path: bytes) -> OwnedFd:
    try:
        opened = openat2(AT_FDCWD, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise StorageError(path, "is no directory of its own", "remove the link or file") from None
        raise StorageError(path, f"cannot be opened ({error.strerror})", "make it, mode 0700") from None
    _require_ours(opened, path)
    return opened


def _lock(directory: OwnedFd, path: bytes) -> None:
    try:
        fcntl.flock(directory.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StorageInUse(path, "is used by another process", "wait for its end") from None


def _require_ours(opened: OwnedFd, path: bytes) -> None:
    status = os.fstat(opened.fd)
    problem = None
    if status.st_uid != os.geteuid():
        problem = f"belongs to uid {status.st_uid}, not to uid {os.geteuid()}"
    elif stat.S_IMODE(status.st_mode) != 0o700:
        problem = f"has mode {stat.S_IMODE(status.st_mode):04o}, not 0700"
    if problem is not None:
        opened.close()
        raise StorageError(path, problem, "somebody else may have changed what is in it; do not use it")


def _part(directory: OwnedFd, path: bytes, name: bytes) -> OwnedFd:
    opened = _open_part(directory, path, name)
    _require_ours(opened, path + b"/" + name)
    return opened


def _open_upper(directory: OwnedFd, path: bytes) -> OwnedFd:
    # Its owner and mode are the workdir's, or what the program made of them; what guards it is the directory above.
    return _open_part(directory, path, _UPPER_NAME)


def _open_part(directory: OwnedFd, path: bytes, name: bytes) -> OwnedFd:
    try:
        return openat2(directory.fd, name, os.O_PATH | os.O_DIRECTORY, resolve=CONFINED | _NO_XDEV)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # it says nothing about the storage
        problem = {
            errno.EXDEV: "is another file system",
            errno.ELOOP: "is a link",
            errno.ENOTDIR: "is no directory",
            errno.ENOENT: "is missing",
        }.get(error.errno or 0, f"cannot be opened ({error.strerror})")
        raise StorageError(
            path + b"/" + name, problem, "somebody changed the storage; do not use it"
        ) from None


def _open_workdir(path: bytes) -> OwnedFd:
    try:
        opened = openat2(AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise StorageError(path, f"cannot be the workdir ({error.strerror})", "name a directory") from None
    if _is_root(opened):
        opened.close()
        raise StorageError(path, "cannot be the workdir: it is the root", "name a directory below it")
    return opened


def _is_root(directory: OwnedFd) -> bool:
    root = os.stat("/")
    status = os.fstat(directory.fd)
    return (status.st_dev, status.st_ino) == (root.st_dev, root.st_ino)


def _refuse_nesting(workdir: OwnedFd, directory: OwnedFd) -> None:
    shown = bytes(describe(workdir.fd).path)
    if _is_above(workdir, directory):
        raise StorageError(
            shown, "contains the storage of its changes", "set SANDLOCKD_STATE_DIR outside of it"
        )
    if _is_above(directory, workdir):
        raise StorageError(shown, "lies in the storage of its changes", "run in another directory")


def _is_above(upper: OwnedFd, lower: OwnedFd) -> bool:
    """By the objects, so that no link or second mount point hides it. A directory is above itself."""
    wanted = os.fstat(upper.fd)
    at = openat2(lower.fd, b".", os.O_PATH | os.O_DIRECTORY)
    while True:
        with at:
            here = os.fstat(at.fd)
            if (here.st_dev, here.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
            above = openat2(at.fd, b"..", os.O_PATH | os.O_DIRECTORY)
        there = os.fstat(above.fd)
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            above.close()
            return False
        at = above


# ---- what it is of


class Settling:
    """Has something written to the disk by a thread: one journal's commit after another takes 4 ms each."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: OSError | None = None
        self._is_over = _thread.allocate_lock()
        self._is_over.acquire()
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no more threads for this user
            self._run()

    def _run(self) -> None:
        try:
            self._work()
        except OSError as error:
            self._error = error
        finally:
            self._is_over.release()

    def again(self) -> None:
        """In a fork of who began it, who is dead, as its thread is: here, as far as it was not done. Raises OSError."""
        self._is_over = _thread.allocate_lock()
        self._is_over.acquire()
        self._error = None
        self._run()

    def wait(self) -> None:
        """Raises OSError."""
        with self._is_over:
            if self._error is not None:
                raise self._error


def _write_meta(directory: OwnedFd, workdir: OwnedFd) -> tuple[Meta, Callable[[], None]]:
    """Returns what it says, and what makes it last: in a thread, while the descriptors are open."""
    status = os.fstat(workdir.fd)
    path = os.fsencode(describe(workdir.fd).path)
    shown = _json_string(os.fsdecode(path))
    told = f'"format": {_FORMAT}, "workdir": {shown}, "device": {status.st_dev}, "inode": {status.st_ino}'
    temporary = META_NAME + b".new"
    file = beneath.create_file(directory, temporary, os.O_WRONLY, 0o600)
    try:
        os.write(file.fd, b"{%b}\n" % told.encode())
        began_ns = os.fstat(file.fd).st_mtime_ns
    except BaseException:
        file.close()
        raise

    def write_down() -> None:
        """By another process, if this one dies of it or in it."""
        if not file.closed:
            with file:
                os.fsync(file.fd)
        try:
            beneath.rename(directory, temporary, directory, META_NAME)
        except FileNotFoundError:
            os.stat(META_NAME, dir_fd=directory.fd, follow_symlinks=False)  # it was done, or is gone
        os.fsync(directory.fd)

    return Meta(path, status.st_dev, status.st_ino, began_ns), write_down


def _json_string(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    import json  # 1 ms of a start

    return json.dumps(text)


def _read_meta(directory: OwnedFd, path: bytes) -> Meta:
    import json  # not at the start of a run: 1 ms

    shown = path + b"/" + META_NAME
    try:
        with openat2(
            directory.fd, META_NAME, os.O_RDONLY | os.O_NONBLOCK, resolve=CONFINED | _NO_XDEV
        ) as file:
            told = json.loads(os.read(file.fd, _META_BYTES_MAX))
            began_ns = os.fstat(file.fd).st_mtime_ns
            meta = Meta(os.fsencode(told["workdir"]), int(told["device"]), int(told["inode"]), began_ns)
            format_ = told["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StorageError(
            shown, "is missing or damaged", "the storage was never complete; remove it"
        ) from None
    if format_ != _FORMAT:
        raise StorageError(shown, f"is of format {format_}", f"this sandlockd knows format {_FORMAT}")
    return meta


def _require_workdir(meta: Meta, path: bytes, workdir: OwnedFd) -> None:
    status = os.fstat(workdir.fd)
    if (meta.device, meta.inode) != (status.st_dev, status.st_ino):
        shown = path + b"/" + META_NAME
        raise StorageError(
            shown,
            f"says that it is of {os.fsdecode(meta.workdir)!r}",
            "the workdir was replaced, or is another",
        )


# ---- work


def _furnish(work: OwnedFd) -> None:
    """What the executor expects there; it is not swept."""
    try:
        beneath.make_directory(work, STAGE_NAME, 0o777)
    except FileExistsError:
        pass
    try:
        beneath.make_node(work, WHITEOUT_NAME, stat.S_IFCHR, 0)
    except FileExistsError:
        pass


def _settle(work: OwnedFd, upper: OwnedFd) -> None:
    with beneath.open_below(work.fd, b"", os.O_RDONLY | os.O_DIRECTORY) as opened:
        for name in [name for name, _, _ in beneath.rows(opened)]:
            if name.startswith((GONE_PREFIX, MADE_PREFIX)):
                path = os.readlink(name, dir_fd=opened.fd)
                settle(upper, work, name, path, _make_whiteout)
                beneath.unlink(work, name)


def _make_whiteout(parent: OwnedFd, name: bytes) -> None:
    beneath.make_node(parent, name, stat.S_IFCHR, 0)


def _give_back(work: OwnedFd, upper: OwnedFd) -> None:
    with beneath.open_below(work.fd, b"", os.O_RDONLY | os.O_DIRECTORY) as opened:
        names = [name for name, _, _ in beneath.rows(opened) if name.startswith(LENT_PREFIX)]
        records = [(os.readlink(name, dir_fd=opened.fd), name) for name in names]
    # What lies deeper first: what is above it is still open.
    for record, name in sorted(records, key=lambda record: record[0].partition(b" ")[2], reverse=True):
        give_back(upper, record)
        beneath.unlink(work, name)


def _sweep(work: OwnedFd) -> None:
    with beneath.open_below(work.fd, b"", os.O_RDONLY | os.O_DIRECTORY) as opened:
        for name, _, _ in list(beneath.rows(opened)):
            if name != WHITEOUT_NAME:
                remove(work, name)


def _furnish_new(path: bytes, work: OwnedFd) -> None:
    """What `_furnish` makes, by what the kernel's overlayfs asks of an upper, too: user attributes, whiteouts,
    RENAME_EXCHANGE and _WHITEOUT. To make something that is only to be removed takes a start a millisecond each.
    """
    wanted = ""
    try:
        wanted = "whiteouts (mknod of device 0:0; Linux 5.8)"
        beneath.make_node(work, WHITEOUT_NAME, stat.S_IFCHR, 0)
        wanted = "RENAME_WHITEOUT"
        beneath.make_directory(work, b"#one", 0o777)
        beneath.rename(work, b"#one", work, b"#two", beneath.RENAME_WHITEOUT)
        wanted = "RENAME_EXCHANGE"
        beneath.rename(work, b"#one", work, b"#two", beneath.RENAME_EXCHANGE)
        wanted = "user.* attributes"
        with beneath.open_directory(work.fd, b"#one") as directory:
            beneath.set_attribute(directory, OPAQUE_ATTRIBUTE, b"y")
            os.removexattr(self_link(directory.fd), OPAQUE_ATTRIBUTE)
        beneath.unlink(work, b"#two")
        beneath.rename(work, b"#one", work, STAGE_NAME)
    except OSError as error:
        _sweep(work)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise StorageError(
            path, f"is on a file system without {wanted}", "set SANDLOCKD_STATE_DIR to one that has them"
        ) from None


def _lost(workdir: OwnedFd, upper: OwnedFd) -> tuple[str, ...]:
    if os.fstat(workdir.fd).st_dev == os.fstat(upper.fd).st_dev:
        return ()
    return (
        "the storage is on another file system than the workdir: copies share no blocks with the originals,"
        " and committing copies every file a second time",
    )
