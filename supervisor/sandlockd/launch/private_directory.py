"""The program's temporary directory: made for one run, removed with all that the program left in it.

    $TMPDIR/sandlockd-<12 hexadecimal digits>      0700

A supervisor that is killed removes nothing, so each start sweeps what dead ones left in the same place. What may be
swept is: a directory by its very name, not a link; our user's own; 0700; and nobody lives who made it.

Two locks tell that. Who lives holds a read lock on the directory (fcntl_locking(2), F_OFD_SETLK), as long as the
supervisor or its init does; flock(2) would keep a program that locks $TMPDIR itself waiting. Such a lock can be seen
but, on a directory, not excluded, so flock is held for as long as a directory is being marked or swept.

Another sandbox may be allowed to write where these lie, and changes them while we remove: so nothing is done by a path,
no link is followed, no other file system entered, and the way back up must lead where we came from. Otherwise it
could have us remove what it may not.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import RESOLVE_NO_XDEV, openat2
from sandlockd.launch.prepare import CannotStart
from sandlockd.policy.spelling import printable

_PREFIX = b"sandlockd-"
_RANDOM_BYTES = 6
_HEX = frozenset(b"0123456789abcdef")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_TRIES = 100
_LOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid


def _parent() -> bytes:
    """Absolute: the program is told of it, and may go elsewhere."""
    chosen = os.fsencode(os.environ.get("TMPDIR") or "/tmp")
    try:
        return os.path.abspath(chosen)
    except FileNotFoundError:
        return chosen  # and so was the working directory that it starts from


class PrivateDirectory:
    """Raises CannotStart."""

    def __init__(self) -> None:
        parent = _parent()
        for _ in range(_TRIES):
            path = os.path.join(parent, _PREFIX + os.urandom(_RANDOM_BYTES).hex().encode())
            try:
                os.mkdir(path, 0o700)
                fd = _taken(path, fcntl.LOCK_SH)
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno == errno.ENOSYS:
                    raise CannotStart(
                        "openat2(2) does not exist here: Linux 5.6 is needed; or is this in another sandbox? Start it"
                        " outside of that: there is none in another"
                    ) from None
                raise CannotStart(
                    f"{printable(os.fsdecode(parent))}: cannot make the program's temporary directory:"
                    f" {error.strerror}; set TMPDIR to a directory that you may write"
                ) from None
            if fd is not None:  # else a sweeper took it for a dead one's, before it was marked
                _mark_as_living(fd)
                self.path = path
                self._fd = fd  # the name may be changed by the program
                return
        raise CannotStart(
            f"{printable(os.fsdecode(parent))}: no free name for the program's temporary directory"
        )

    def remove(self) -> str | None:
        """Remove what the program left. It is dead.

        Returns: what is wrong, where something had to be left.
        """
        shown = printable(os.fsdecode(self.path))
        try:
            if not _remove(self.path, self._fd):
                return f"{shown}: the program put something else there; it is left as it is"
        except FileNotFoundError:
            pass  # the program removed it itself
        except OSError as error:
            return f"{shown}: the program's temporary directory could not be removed: {error.strerror}"
        return None


def sweep() -> None:
    """Remove what runs left here whose supervisor is dead. What resists stays."""
    parent = _parent()
    try:
        names = [name for name in os.listdir(parent) if _is_ours(name)]
    except OSError:
        return
    for name in names:
        path = os.path.join(parent, name)
        try:
            if (fd := _taken(path, fcntl.LOCK_EX)) is None:
                continue
            if _somebody_lives(fd):
                os.close(fd)
            else:
                _remove(path, fd)
        except OSError:
            continue


def _is_ours(name: bytes) -> bool:
    digits = name.removeprefix(_PREFIX)
    return name.startswith(_PREFIX) and len(digits) == 2 * _RANDOM_BYTES and _HEX.issuperset(digits)


def _taken(path: bytes, lock: int) -> int | None:
    """A descriptor of a private directory of ours with the flock on it; None if it is locked, or no such directory.

    EXDEV: something is mounted there.
    """
    directory, name = os.path.split(path)
    try:
        with OwnedFd(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as parent:
            fd = openat2(parent.fd, name, _DIRECTORY, resolve=RESOLVE_NO_XDEV).take()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    try:
        fcntl.flock(fd, lock | fcntl.LOCK_NB)
        found = os.fstat(fd)
        ours = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700
        if ours and _is_same(os.lstat(path), found):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # somebody has it in hand, or has just removed it
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _mark_as_living(fd: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_of(fcntl.F_RDLCK))
    except OSError:
        return  # a file system without: the flock stays, and says the same
    fcntl.flock(fd, fcntl.LOCK_UN)


def _somebody_lives(fd: int) -> bool:
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock_of(fcntl.F_WRLCK))
    except OSError:
        return False  # a file system without: nobody could have marked it, and the flock was free
    assert isinstance(answer, bytes)
    return bool(struct.unpack(_LOCK, answer)[0] != fcntl.F_UNLCK)


def _lock_of(kind: int) -> bytes:
    return struct.pack(_LOCK, kind, os.SEEK_SET, 0, 0, 0)


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _remove(path: bytes, taken_fd: int) -> bool:
    """False: it is empty now, but something else has its name. Raises OSError."""
    try:
        made = os.fstat(taken_fd)
        os.fchmod(taken_fd, 0o700)
        _empty(os.dup(taken_fd))
        if not _is_same(os.lstat(path), made):
            return False
        os.rmdir(path)
        return True
    finally:
        os.close(taken_fd)


def _empty(fd: int) -> None:
    """Takes the descriptor over.

    One directory is open at a time and names are relative to it: the tree may be deeper than any path is long.
    """
    above: list[
        tuple[str, os.stat_result]
    ] = []  # the directories that we are in: their name, and what holds them
    try:
        waiting = [_unlink_files(fd)]  # for each, what is still to be entered
        while True:
            if waiting[-1]:
                name = waiting[-1].pop()
                _open_to_ourselves(fd, name)
                above.append((name, os.fstat(fd)))
                fd = _exchange(fd, name)
                waiting.append(_unlink_files(fd))
                continue
            waiting.pop()
            if not above:
                return
            name, holder = above.pop()
            fd = _exchange(fd, "..")
            if not _is_same(os.fstat(fd), holder):
                raise OSError(errno.ESTALE, "it was moved while it was being removed")
            os.rmdir(name, dir_fd=fd)
    finally:
        os.close(fd)


def _open_to_ourselves(fd: int, name: str) -> None:
    """The program may have closed the directory to itself. By the object: chmod by name would follow a link."""
    with openat2(fd, os.fsencode(name), _LOOK, resolve=RESOLVE_NO_XDEV) as child:
        os.chmod(f"/proc/self/fd/{child.fd}", 0o700)


def _exchange(fd: int, name: str) -> int:
    """Takes fd over when it succeeds. EXDEV: somebody mounted something there, which is not asked anything."""
    other = openat2(fd, os.fsencode(name), _DIRECTORY, resolve=RESOLVE_NO_XDEV).take()
    os.close(fd)
    return other


def _unlink_files(fd: int) -> list[str]:
    """Remove all but directories; their names."""
    directories = []
    os.lseek(fd, 0, os.SEEK_SET)  # btrfs lists what was there when it was opened or rewound
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=fd)
    return directories
