"""Where a test's files lie: a directory that its user can reach, and that is gone afterwards.

Not pytest's tmp_path: pytest makes that one unreachable for other users, on purpose.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import ledger
from harness.removing import remove_tree
from harness.users import User


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
    with ledger.directory() as root:
        place = Place(root, user)
        place.make_directories()
        yield place


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
