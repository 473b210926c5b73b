"""The directory that everything happens in, and the environment of what runs there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import groups, ledger
from harness.removing import remove_tree
from harness.session_end import end_session, sweep

from suite.processes import Failure

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
# The machine's own programs, not those of a virtual environment, which the sandbox need not reach.
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

Tree = dict[str, str]


@dataclass(frozen=True)
class Place:
    """root holds the rest; it is gone at the end.

    granted: may be written in the sandbox; work (the working directory), home and tmp are in it. programs: may be
    read. forbidden: a file that is not granted. material: what work is copied from. state: of sandlockd. scratch: ours.
    """

    root: Path
    lang: str

    @property
    def granted(self) -> Path:
        return self.root / "granted"

    @property
    def work(self) -> Path:
        return self.granted / "work"

    @property
    def programs(self) -> Path:
        return self.root / "programs"

    @property
    def material(self) -> Path:
        return self.root / "material"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    @property
    def forbidden(self) -> Path:
        return self.root / "forbidden"

    def environment(self) -> dict[str, str]:
        """The same for all, and nothing of the user's own: no PYTHONDONTWRITEBYTECODE, no settings of git.

        TMPDIR is granted, for who has no temporary directory of its own; sandlockd puts its private one there.
        """
        return {
            "PATH": _SYSTEM_PATH,
            "HOME": str(self.granted / "home"),
            "LANG": self.lang,
            "TERM": "dumb",
            "TMPDIR": str(self.granted / "tmp"),
            "SANDLOCKD_STATE_DIR": str(self.root / "state"),
            "GIT_CONFIG_NOSYSTEM": "1",
            # Commits and reflogs come out the same every time.
            "GIT_AUTHOR_DATE": "1700000000 +0000",
            "GIT_COMMITTER_DATE": "1700000000 +0000",
            "GIT_AUTHOR_NAME": "Benchmark",
            "GIT_AUTHOR_EMAIL": "benchmark@example.org",
            "GIT_COMMITTER_NAME": "Benchmark",
            "GIT_COMMITTER_EMAIL": "benchmark@example.org",
        }

    def renew_work(self, parts: tuple[str, ...]) -> None:
        """The working directory, with these parts of the material and nothing else."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        for part in parts:
            shutil.copytree(self.material / part, self.work / part, symlinks=True)

    def tree(self) -> Tree:
        """What lies in the working directory: by path, mode and content.

        Without git's index, which holds times and inode numbers, and what the workload says about its time.
        """
        found: Tree = {}
        for directory, directories, files in os.walk(self.work):
            for name in (*directories, *files):
                path = Path(directory, name)
                relative = str(path.relative_to(self.work))
                if relative != ".elapsed" and not relative.endswith(".git/index"):
                    found[relative] = _description(path)
        return found


def _description(path: Path) -> str:
    mode = path.lstat().st_mode
    content = b""
    if stat.S_ISLNK(mode):
        content = os.fsencode(os.readlink(path))
    elif stat.S_ISREG(mode):
        content = path.read_bytes()
    return f"{stat.filemode(mode)} {hashlib.sha256(content).hexdigest()}"


@contextlib.contextmanager
def clean_machine() -> Iterator[None]:
    """What killed runs have left goes first; what this one leaves goes at the end, and is told.

    Raises: Failure: something was left.
    """
    sweep()
    own = ledger.own()
    try:
        yield
    finally:
        left = end_session(own.session) if own.is_first else []
    if left:
        raise Failure(f"left behind, and removed: {', '.join(left)}")


@contextlib.contextmanager
def new_place(parent: Path, lang: str) -> Iterator[Place]:
    """Raises: Failure: a program could not be compiled, or a run has left its cgroups."""
    root = ledger.make_directory("sandlockd-benchmark", parent)
    place = Place(root, lang)
    try:
        for directory in (place.work, place.granted / "home", place.granted / "tmp", place.material):
            directory.mkdir(parents=True)
        for directory in (place.programs, place.scratch, root / "state"):
            directory.mkdir()
        (root / "state").chmod(0o700)
        place.forbidden.write_text("not granted\n")
        _make_programs(place)
        yield place
    finally:
        left = groups.left_of(root, groups.places())
        groups.remove(left)
        remove_tree(root)
    if left:
        raise Failure(f"left behind, and removed: {', '.join(f'cgroup {path}' for path in left)}")


def _make_programs(place: Place) -> None:
    shutil.copy(PROGRAMS / "workloads.sh", place.programs)
    for name in ("ops", "floor"):
        source = PROGRAMS / f"{name}.c"
        command: list[str | Path] = [
            "cc",
            "-O2",
            "-std=gnu17",
            "-Wall",
            "-Wextra",
            "-o",
            place.programs / name,
            source,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise Failure("cc: there is no C compiler; ops.c and floor.c cannot be built") from error
        if done.returncode:
            raise Failure(f"{source.name} could not be compiled:\n{done.stderr}")
