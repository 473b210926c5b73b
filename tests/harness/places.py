"""Where a test's files lie: a directory that its user can reach, and that is gone afterwards.

Not pytest's tmp_path: pytest makes that one unreachable for other users, on purpose.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.users import User

# Not below /tmp: that is where programs in the sandbox may get something of their own one day.
_PARENT = Path("/var/tmp")


@dataclass(frozen=True)
class Place:
    """The directories of one test, all owned by the user it runs as.

    root: holds the others. work: for the program; empty. state: SANDLOCKD_STATE_DIR. temporary: TMPDIR of the
    test's commands, where sandlockd makes the program's private directory. home: HOME.
    """

    root: Path
    user: User

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def home(self) -> Path:
        return self.root / "home"

    def make_directories(self) -> None:
        for directory in (self.work, self.state, self.temporary, self.home):
            directory.mkdir(mode=0o755)
        self.give(self.root)
        self.root.chmod(0o755)

    def give(self, path: Path) -> Path:
        """Make the user the owner of what lies at path, all beneath it included."""
        if os.geteuid() == 0:
            for name in (path, *path.rglob("*")):
                os.lchown(name, self.user.uid, self.user.gid)
        return path

    def file(self, name: str, content: bytes | str = b"", mode: int = 0o644) -> Path:
        """A file of the user's, named relative to the root of the place."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return self.give(path)

    def empty_work(self) -> Path:
        remove_tree(self.work)
        self.work.mkdir(mode=0o755)
        return self.give(self.work)


@contextlib.contextmanager
def new_place(user: User) -> Iterator[Place]:
    root = Path(tempfile.mkdtemp(prefix="sandlockd-test-", dir=_PARENT)).resolve()
    place = Place(root, user)
    try:
        place.make_directories()
        yield place
    finally:
        remove_tree(root)


def remove_tree(path: Path) -> None:
    """All of it, however deep and whatever modes a test left behind (we own it, or are root).

    Directories are moved to the top before they are emptied: no path grows longer than two names below it.
    """
    if not os.path.lexists(path):
        return
    path.chmod(0o700)
    waiting, moved = [str(path)], 0
    while waiting:
        directory = waiting.pop()
        with os.scandir(directory) as entries:
            for entry in list(entries):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                moved += 1
                target = path / f".removing-{moved}"
                os.rename(entry.path, target)
                waiting.append(str(target))
        if directory != str(path):
            os.rmdir(directory)
    path.rmdir()


# What tells two trees apart: by path, the type and mode, and the content, target or nothing.
Tree = dict[str, tuple[str, str]]


def tree_of(path: Path) -> Tree:
    """Everything below path, without owners and times."""
    found: Tree = {}
    for directory, directories, files in os.walk(path):
        for name in (*directories, *files):
            child = Path(directory) / name
            mode = child.lstat().st_mode
            found[str(child.relative_to(path))] = (stat.filemode(mode), _content(child, mode))
    return found


def _content(path: Path, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if stat.S_ISREG(mode):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""
