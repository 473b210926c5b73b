"""Ways to run a command on a tree that may be kept apart: bare, in the kernel's overlayfs, in sandboxes.

A way is given a command line and returns one; what happens to the work directory afterwards is its kind.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import ledger, own_tmp
from harness.interpreter import SANDLOCKCTL, SANDLOCKD
from harness.running import Ended, Runner
from harness.users import User

TIMEOUT_S = 120.0

Line = list[str | bytes | Path]


@dataclass(frozen=True)
class Way:
    """How a command is run on the work directory. This one: as it is."""

    name: str

    @property
    def keeps_apart(self) -> bool:
        """The real tree is looked at before and after the run: nothing of it may be changed."""
        return False

    @property
    def leaves_changes(self) -> bool:
        """The real tree is looked at in the end: it must be what a bare run leaves."""
        return not self.keeps_apart

    def why_not(self) -> str | None:
        """Why this machine or this version cannot do it, for a skip."""
        return None

    def parts(self, names: Sequence[str], user: User) -> list[list[str]]:
        """Programs of the corpus that are to be run in one go."""
        return [list(names)]

    def run(self, runner: Runner, command: Line, read: Sequence[Path], env: Mapping[str, str]) -> Ended:
        """read: what the command needs beside the work directory and the machine's own programs."""
        return runner.run(command, timeout=TIMEOUT_S, env=env)

    def finish(self, runner: Runner) -> None:
        """After a look at what the run has left: what is still to be done with it."""


class Overlayfs(Way):
    """The kernel's overlayfs over the work directory, which is the lower. Seen by the command only.

    With all that makes it more like a plain directory: hard links that stay, directories that can be renamed. Neither
    is to be had with `userxattr`, the only way for ordinary users; then three times as many programs differ.
    """

    @property
    def keeps_apart(self) -> bool:
        return True

    def why_not(self) -> str | None:
        return _why_no_overlayfs()

    def run(self, runner: Runner, command: Line, read: Sequence[Path], env: Mapping[str, str]) -> Ended:
        user = runner.place.user
        if not user.is_root:
            ids = [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
            command = ["setpriv", *ids, "--", *command]
        with tempfile.TemporaryDirectory(dir=runner.place.temporary) as layers:
            upper = Path(layers, "upper")
            upper.mkdir()
            Path(layers, "work").mkdir()
            # The merged root shows the metadata of the upper's.
            shutil.copystat(runner.work, upper)
            os.chown(upper, user.uid, user.gid)
            apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, "sh"]
            done = subprocess.run(
                [*apart, runner.work, layers, *command],
                cwd="/",
                env=runner.environment(env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        return Ended(done.returncode, done.stdout, done.stderr)


_MOUNT = (
    'mount -t overlay overlay -o "index=on,redirect_dir=on,lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$1"'
    ' && cd "$1" && shift 2 && exec "$@"'
)


@functools.cache
def _why_no_overlayfs() -> str | None:
    if os.geteuid() != 0:
        return "mounting needs root"
    with ledger.directory("layers") as place:
        for name in ("lower", "upper", "work"):
            Path(place, name).mkdir()
        line = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _MOUNT,
            "sh",
            f"{place}/lower",
            place,
        ]
        tried = subprocess.run([*line, "true"], capture_output=True, text=True, check=False)
    return f"overlayfs cannot be mounted: {tried.stderr.strip()}" if tried.returncode else None


class OwnTmp(Way):
    """Bare, with an empty directory of the user's in the place of /tmp. Seen by the command only."""

    def why_not(self) -> str | None:
        return "a /tmp of one's own needs root, bare" if os.geteuid() != 0 else None

    def run(self, runner: Runner, command: Line, read: Sequence[Path], env: Mapping[str, str]) -> Ended:
        return own_tmp.bare(runner, command, timeout=TIMEOUT_S, env=env)


@dataclass(frozen=True)
class Sandboxed(Way):
    """sandlockd. options: before the work directory, which is the last of them, and behind it."""

    options: tuple[str, ...] = ("--write",)
    behind: tuple[str, ...] = ()

    @property
    def keeps_apart(self) -> bool:
        return "--workdir" in self.options

    def why_not(self) -> str | None:
        return _why_no_workdir() if self.keeps_apart else None

    def run(self, runner: Runner, command: Line, read: Sequence[Path], env: Mapping[str, str]) -> Ended:
        granted: Line = []
        for path in read:
            granted += ["--read", path]
        options: Line = ["--policy", "base", "--quiet", *granted, *self.options, runner.work, *self.behind]
        return runner.run([SANDLOCKD, *options, "--", *command], timeout=TIMEOUT_S, env=env)


class StoredElsewhere(Sandboxed):
    """The changes lie on another file system than the work directory."""

    def why_not(self) -> str | None:
        return super().why_not() or _why_no_other_file_system()

    def run(self, runner: Runner, command: Line, read: Sequence[Path], env: Mapping[str, str]) -> Ended:
        with ledger.directory("state", _OTHER_FILE_SYSTEM) as state:
            runner.place.give(state)
            return super().run(runner, command, read, {**env, "SANDLOCKD_STATE_DIR": str(state)})


_OTHER_FILE_SYSTEM = Path("/dev/shm")


@functools.cache
def _why_no_other_file_system() -> str | None:
    if not os.path.isdir(_OTHER_FILE_SYSTEM):
        return f"there is no {_OTHER_FILE_SYSTEM}"
    if os.stat(_OTHER_FILE_SYSTEM).st_dev == os.stat("/var/tmp").st_dev:
        return f"{_OTHER_FILE_SYSTEM} is no other file system"
    with tempfile.NamedTemporaryFile(dir=_OTHER_FILE_SYSTEM) as file:
        try:
            os.setxattr(file.name, "user.x", b"")
        except OSError:
            return f"{_OTHER_FILE_SYSTEM} has no user attributes (Linux 6.6)"
    return None


class Committed(Sandboxed):
    """What was changed is kept, and in the end committed with all that must be named."""

    @property
    def leaves_changes(self) -> bool:
        return True

    def parts(self, names: Sequence[str], user: User) -> list[list[str]]:
        impossible = [name for name in names if os.fsencode(name) in _IMPOSSIBLE and not user.is_root]
        return [part for part in ([name for name in names if name not in impossible], impossible) if part]

    def finish(self, runner: Runner) -> None:
        for run_id in _kept(runner):
            _commit(runner, run_id)


def _kept(runner: Runner) -> list[str]:
    """The runs whose changes to the work directory are kept. Of a single one nobody need be asked."""
    kept = [path.parents[1].name for path in runner.place.state.glob("runs/*/tree/meta")]
    if len(kept) < 2:
        return kept
    listed = _control(runner, "ps", "--json")
    assert listed.returncode == 0, listed.stderr
    runs = map(json.loads, listed.stdout.splitlines())
    return [run["id"] for run in runs if run["workdir"] == str(runner.work)]


# Programs of which an ordinary user cannot commit everything, so that nothing of it is committed: each by itself, not
# to hide what becomes of the others.
_IMPOSSIBLE = (
    b"bad_sources",
    b"of_everything",
    b"of_everything_followed",
    b"of_what_is_not_ours",
    b"without_rights_in_directories_of_root",
)


def _commit(runner: Runner, run_id: str) -> None:
    apart_names = [] if runner.place.user.is_root else _IMPOSSIBLE
    if not any(os.path.lexists(os.path.join(os.fsencode(runner.work), name)) for name in apart_names):
        # Refused as a whole where something must be named.
        if _control(runner, "commit", run_id, "--", ".").returncode == 0:
            return
    listed = _control(runner, "diff", "--json", "--list", run_id)
    assert listed.returncode == 0, listed.stderr
    records = [json.loads(line) for line in listed.stdout.splitlines()][1:]
    marked = [_listed_path(record) for record in records if record["marks"]]
    tops = {_listed_path(record).partition(b"/")[0] for record in records}
    apart = tops & set(apart_names)
    together = [b"."] if not apart else sorted(tops - apart)
    if together:
        named = [path for path in marked if path.partition(b"/")[0] not in apart]
        committed = _control(runner, "commit", run_id, "--", *together, *named)
        assert committed.returncode == 0, committed.stderr.decode(errors="replace")
    for top in apart:
        _control(runner, "commit", run_id, "--", top, *(path for path in marked if path.startswith(top)))


def _control(runner: Runner, *words: str | bytes) -> Ended:
    return runner.run([SANDLOCKCTL, *words], timeout=TIMEOUT_S)


def _listed_path(record: dict[str, Any]) -> bytes:
    exact = record.get("path_b64")
    return base64.b64decode(exact) if exact is not None else os.fsencode(record["path"])


@functools.cache
def _why_no_workdir() -> str | None:
    with ledger.directory("workdir") as place:
        line = [
            SANDLOCKD,
            "--policy",
            "base",
            "--workdir",
            f"{place}/tree",
            "--on-exit",
            "discard",
            "--",
            "true",
        ]
        Path(place, "tree").mkdir()
        environment = {**os.environ, "SANDLOCKD_STATE_DIR": f"{place}/state"}
        tried = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    return tried.stderr.strip() if "not supported yet" in tried.stderr else None


BARE = Way("bare")
BARE_AGAIN = Way("bare again")
OVERLAYFS = Overlayfs("overlayfs")
BARE_TMP = OwnTmp("bare, with a /tmp of its own")
# Nothing is kept apart: what differs then is the sandbox's doing, not that of copy-on-write.
GRANTED = Sandboxed("sandlockd, granted")
DISCARDED = Sandboxed("sandlockd, discarded", ("--workdir",), ("--on-exit", "discard"))
ELSEWHERE = StoredElsewhere("sandlockd, stored elsewhere", ("--workdir",), ("--on-exit", "discard"))
COMMITTED = Committed("sandlockd, committed", ("--workdir",), ("--on-exit", "keep"))
