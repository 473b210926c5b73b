"""Where a run's changes are kept if the state directory is on another file system than the workdir: beside the workdir.

    <directory>/.sandlockd/<run id>     0700 both; the directory is the uppermost one above the workdir, on its file
                                        system, that is ours and that nobody else may write
    <state>/places                      every such .sandlockd there ever was, and every `filesystem.storage` that a
                                        policy chose, each ended by a NUL

There copies share blocks with the originals, a commit renames, and a full disk is full for both. Not in a directory
that others may write, sticky or not: they could keep us from it, and what cleans /tmp does not ask. If there is none,
or it cannot be written, the state directory serves. Each start denies the program what `places` names (law.state).
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PLACE_NAME = b".sandlockd"
CHOSEN_PREFIX = b"sandlockd-"  # of a storage in a directory that a policy chose
_PLACES_NAME = b"places"
_PLACES_BYTES_MAX = 1 << 20
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def place_for(workdir: bytes, state_dir: bytes) -> bytes | None:
    """Where changes of this workdir are kept; it need not be there yet. None: in the state directory.

    workdir: canonical.
    """
    try:
        return _uppermost(workdir, state_dir)
    except OSError:
        return None


def _uppermost(workdir: bytes, state_dir: bytes) -> bytes | None:
    device = os.stat(workdir).st_dev
    if device == _device_of(state_dir):
        return None
    found = None
    for directory in _above(workdir):
        status = os.stat(directory)
        if status.st_dev != device or directory == b"/":
            break
        if status.st_uid == os.geteuid() and not status.st_mode & 0o022 and _leads_safely(directory):
            found = directory
    return None if found is None else found + b"/" + PLACE_NAME


def make(place: bytes, state_dir: bytes) -> bool:
    """Make it, and remember it. False: it cannot be used. state_dir: exists, and was found to be ours."""
    try:
        remember(place, state_dir)
        try:
            os.mkdir(place, 0o700)
        except FileExistsError:
            pass
        status = os.lstat(place)
    except OSError:
        return False
    is_ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700
    return is_ours and stat.S_ISDIR(status.st_mode)


def known(state_dir: bytes) -> list[bytes]:
    """All that there ever were. Never raises for what it finds: it only tells what to deny."""
    try:
        fd = os.open(state_dir + b"/" + _PLACES_NAME, _LOOK)
    except OSError:
        return []
    with open(fd, "rb") as file:
        if os.fstat(fd).st_uid != os.geteuid():
            return []
        return [path for path in file.read(_PLACES_BYTES_MAX).split(b"\0") if path.startswith(b"/")]


def in_use(place: bytes) -> bool:
    """Can there be storages in it? A directory that a policy chose is the user's own again when there are none."""
    if os.path.basename(place) == PLACE_NAME:
        return os.path.lexists(place)
    try:
        return any(name.startswith(CHOSEN_PREFIX) for name in os.listdir(place))
    except FileNotFoundError:
        return False
    except OSError:
        return True


def leave(storage: bytes) -> None:
    """When a storage has gone: its place goes with the last one."""
    place = os.path.dirname(storage)
    if os.path.basename(place) == PLACE_NAME:
        try:
            os.rmdir(place)
        except OSError:
            return  # others are there


def remember(place: bytes, state_dir: bytes) -> None:
    """From now on no run gets at it. place: canonical. Raises OSError."""
    if place in known(state_dir):
        return
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(state_dir + b"/" + _PLACES_NAME, flags, 0o600)
    try:
        os.write(fd, place + b"\0")
        os.fsync(fd)
    finally:
        os.close(fd)


def _device_of(path: bytes) -> int:
    """Of what is there, or will be."""
    while True:
        try:
            return os.stat(path).st_dev
        except FileNotFoundError:
            path = os.path.dirname(path) or b"/"


def _above(path: bytes) -> Iterator[bytes]:
    while path != b"/":
        path = os.path.dirname(path)
        yield path


def _leads_safely(directory: bytes) -> bool:
    """Can nobody but us and root put another directory in the place of this one?"""
    for above in _above(directory):
        status = os.stat(above)
        if status.st_uid not in (0, os.geteuid()):
            return False
        if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
            return False
    return True
