"""What a tree is, as text: with the program's eyes, or exactly.

`seen` leaves out what no two trees share (inode numbers, ctime, atime, sizes of directories) and the link counts of
directories, which many file systems count otherwise; a change that is recent is "now".
"""

from __future__ import annotations

import errno
import os
import stat
import zlib

from .vocabulary import Status, shown


def _content(path: bytes, mode: int) -> str:
    try:
        if stat.S_ISLNK(mode):
            return "-> " + shown(os.readlink(path))
        if stat.S_ISREG(mode):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                data = os.read(fd, 1 << 20)
                while more := os.read(fd, 1 << 20):
                    data += more
            finally:
                os.close(fd)
            return shown(data) if len(data) <= 40 else f"{len(data)} bytes of {zlib.crc32(data):08x}"
    except OSError as error:
        return _name(error)
    return ""


def _attributes(path: bytes) -> str:
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        return " ".join(f"{name}={_attribute(path, name)}" for name in names)
    except OSError as error:
        return _name(error)


def _attribute(path: bytes, name: str) -> str:
    try:
        return shown(os.getxattr(path, name, follow_symlinks=False))
    except OSError as error:
        return _name(error)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def _status(found: os.stat_result) -> Status:
    owner = found.st_mode, found.st_uid, found.st_gid, found.st_rdev, found.st_size
    return Status(found.st_dev, found.st_ino, found.st_nlink, *owner, found.st_mtime_ns, found.st_ctime_ns)


def walked(root: bytes) -> list[tuple[bytes, os.stat_result | OSError, str]]:
    """Paths, what lstat tells and what their directory could not be listed with; in order, no link followed."""
    found: list[tuple[bytes, os.stat_result | OSError, str]] = []
    waiting = [root]
    while waiting:
        path = waiting.pop()
        problem = ""
        try:
            status = os.lstat(path)
        except OSError as error:
            found.append((path, error, ""))
            continue
        if stat.S_ISDIR(status.st_mode):
            try:
                waiting += [path + b"/" + name for name in sorted(os.listdir(path), reverse=True)]
            except OSError as error:
                problem = _name(error)
        found.append((path, status, problem))
    return found


class Remembered:
    """The attributes of what lies in one tree like another and was not touched there: asked for once.

    Most of what a program's tree holds is what it was made with, and asking for attributes is what takes longest in a
    sandbox. Touched: changed since, by its own ctime or by that of a directory between it and the root.
    """

    def __init__(self, since_ns: int) -> None:
        self._since_ns = since_ns
        self._known: dict[bytes, str] = {}
        self._touched: set[bytes] = set()

    def attributes(self, path: bytes, below: bytes, status: os.stat_result) -> str:
        """below: the path without the root. Directories come before what is in them."""
        if status.st_ctime_ns >= self._since_ns or os.path.dirname(path) in self._touched:
            if below and stat.S_ISDIR(status.st_mode):
                self._touched.add(path)
            return _attributes(path)
        if below not in self._known:
            self._known[below] = _attributes(path)
        return self._known[below]


def seen(root: bytes, remembered: Remembered | None = None) -> list[str]:
    """One line per object, sorted by path."""
    lines: list[str] = []
    firsts: dict[tuple[int, int], str] = {}
    for path, status, problem in walked(root):
        below = path[len(root) + 1 :]
        name = shown(below)
        if isinstance(status, OSError):
            lines.append(f"{name}: {_name(status)}")
            continue
        attributes = remembered.attributes(path, below, status) if remembered else _attributes(path)
        words = [f"{name}:", str(_status(status)), _content(path, status.st_mode), attributes, problem]
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            first = firsts.setdefault((status.st_dev, status.st_ino), name)
            words.append(f"= {first}")
        lines.append(" ".join(word for word in words if word))
    return lines


def exact(root: bytes) -> list[str]:
    """One line per object with all that must stay as it was: everything but the access time."""
    lines = []
    for path, status, problem in walked(root):
        name = shown(path[len(root) + 1 :])
        if isinstance(status, OSError):
            lines.append(f"{name}: {_name(status)}")
            continue
        numbers = " ".join(
            str(number)
            for number in (
                *status[:7],
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_blocks,
                status.st_rdev,
            )
        )
        lines.append(f"{name}: {numbers} {_content(path, status.st_mode)} {_attributes(path)} {problem}")
    return lines
