"""What a test session makes on the machine, written down before it is made: found again, however the session ends.

with ledger.directory("layers") as path: ...        # /var/tmp/sandlockd-test-layers-1f2e3d4c

Each process of a session has a ledger, a file with one line per thing, and a lock on it for as long as it lives: a lock
of the process, which no child of it has, and which the kernel takes back when it is killed. A session is known by the
first of its processes; everything that it starts carries that name in its environment (survivors.py).

What is written here is gone at the end, or the session has failed (`session_end.py`). What a killed session left is
removed by the next one of the same user; what belongs to a living one is not touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.removing import remove_tree
from harness.survivors import MARKER
from harness.waiting import until

# Not below /tmp: that is where programs in the sandbox may get something of their own.
HOME = Path("/var/tmp")
_LEDGER = re.compile(r"sandlockd-test-[0-9a-f]{16}\.ledger")
# What may be removed, whatever a ledger says.
_DIRECTORY = re.compile(r"sandlockd-(test|benchmark)-[A-Za-z0-9_.-]+")
_USER = re.compile(r"slt[0-9a-f]{8}")


@dataclass(frozen=True)
class Thing:
    """kind: directory, user, hierarchy or cgroup. name: its path, its name.

    hierarchy: a cgroup that the session made, and all below it.
    cgroup: one in which runs of the session may have made others (groups.py). It is not the session's own.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def exists(self) -> bool:
        if self.kind in ("directory", "hierarchy"):
            return os.path.lexists(self.name)
        if self.kind == "cgroup":
            return False
        try:
            pwd.getpwnam(self.name)
        except KeyError:
            return False
        return True


class Ledger:
    """This process's own.

    is_first: nobody else of the session was there before, and nobody else looks what was left in the end.
    """

    def __init__(self, session: str | None, home: Path = HOME) -> None:
        """session: None: this process is the first of one."""
        self.is_first = session is None
        while True:
            identity = secrets.token_hex(8)
            self.session = session or identity
            self.path = home / f"sandlockd-test-{identity}.ledger"
            self._fd = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            self._write(f"session {self.session} {os.getpid()}")
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            # Before it was locked it looked like a dead one's.
            if os.fstat(self._fd).st_nlink:
                return
            os.close(self._fd)

    def note(self, thing: Thing) -> None:
        self._write(f"{thing.kind} {thing.name}")

    def _write(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")


_own: Ledger | None = None


def own() -> Ledger:
    """That of this process, or of the one that it was forked from.

    Made when first asked for. Whoever starts another process of the session has asked before, so it knows by its
    environment.
    """
    global _own
    if _own is None:
        _own = Ledger(os.environ.get(MARKER))
        os.environ[MARKER] = _own.session
    return _own


@contextlib.contextmanager
def directory(kind: str = "", parent: Path = HOME) -> Iterator[Path]:
    """A new directory of ours, with all that is in it gone at the end."""
    path = make_directory("-".join(filter(None, ["sandlockd-test", kind])), parent)
    try:
        yield path
    finally:
        remove_tree(path)


def make_directory(prefix: str, parent: Path) -> Path:
    """Whoever asks removes it."""
    path = parent.resolve() / f"{prefix}-{secrets.token_hex(4)}"
    own().note(Thing("directory", str(path)))
    path.mkdir(mode=0o700)
    return path


def make_hierarchy(parent: Path) -> Path:
    """A cgroup. Whoever asks removes it."""
    path = parent / f"sandlockd-test-{secrets.token_hex(4)}"
    own().note(Thing("hierarchy", str(path)))
    path.mkdir()
    return path


def remove_hierarchy(path: Path) -> None:
    """Everybody in it is dead, or just dying. Raises Patience."""
    for directory, _, _ in os.walk(path, topdown=False):
        until(lambda group=directory: _is_removed(group), f"the end of {directory}")  # type: ignore[misc]


def _is_removed(group: str) -> bool:
    try:
        os.rmdir(group)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def new_user_name() -> str:
    name = f"slt{secrets.token_hex(4)}"
    own().note(Thing("user", name))
    return name


@dataclass(frozen=True)
class Found:
    """What a ledger says. Of a dead process, or of this one."""

    path: Path
    session: str
    pid: int
    things: list[Thing]
    is_dead: bool


def ledgers(home: Path = HOME) -> list[Found]:
    """All that belong to this user."""
    found = []
    for name in sorted(os.listdir(home)):
        if _LEDGER.fullmatch(name):
            with contextlib.suppress(OSError, ValueError):
                found.append(_read(home / name))
    return found


def _read(path: Path) -> Found:
    """Raises: OSError: it is gone, or not ours. ValueError: it is none."""
    if _own is not None and path == _own.path:
        # Another descriptor of it, closed, would take our lock with it.
        return _parsed(path, os.pread(_own._fd, 1 << 30, 0), is_dead=False)
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        mine = (stat.S_IFREG | 0o600, os.geteuid())
        if (status.st_mode, status.st_uid) != mine or status.st_nlink > 1:
            raise ValueError(f"{path} is not ours")
        is_dead = True
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            is_dead = False
        return _parsed(path, os.pread(fd, 1 << 30, 0), is_dead=is_dead)
    finally:
        os.close(fd)


def _parsed(path: Path, content: bytes, *, is_dead: bool) -> Found:
    first, *lines = content.decode().split("\n")
    word, session, pid = first.split(" ")
    if word != "session":
        raise ValueError(f"{path} begins with {first}")
    things = [Thing(*line.split(" ", 1)) for line in lines if " " in line]
    return Found(path, session, int(pid), [thing for thing in things if _is_of_a_test(thing)], is_dead)


def _is_of_a_test(thing: Thing) -> bool:
    if thing.kind == "user":
        return _USER.fullmatch(thing.name) is not None
    if thing.kind == "cgroup":
        return True
    return (
        thing.kind in ("directory", "hierarchy")
        and _DIRECTORY.fullmatch(os.path.basename(thing.name)) is not None
    )
