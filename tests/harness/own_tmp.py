"""A command with a /tmp of its own: bare, in a mount namespace with an empty directory there, and in the sandbox.

own = OwnTmp(runner)
assert own.sandboxed(["sh", "-c", "ls -A /tmp"]).stdout == own.bare(["sh", "-c", "ls -A /tmp"]).stdout
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from harness import ledger
from harness.removing import remove_tree
from harness.running import TIMEOUT_S, Argument, Ended, Runner

_BIND = 'mount --bind "$1" /tmp && cd "$2" && shift 2 && exec "$@"'


def bare(
    runner: Runner, command: Sequence[Argument], timeout: float, env: Mapping[str, str] | None = None
) -> Ended:
    """As root only. The directory is the user's, as it is in a sandbox."""
    user = runner.place.user
    with tempfile.TemporaryDirectory(dir=runner.place.temporary) as fresh:
        os.chmod(fresh, 0o1777)
        os.chown(fresh, user.uid, user.gid)
        line: list[Argument] = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BIND, "sh"]
        line += [fresh, runner.work]
        if not user.is_root:
            line += ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", "--"]
        done = subprocess.run(
            [*line, *command],
            env=runner.environment({"TMPDIR": "/tmp", **(env or {})}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        # However deep it is.
        remove_tree(Path(fresh))
        Path(fresh).mkdir()
    return Ended(done.returncode, done.stdout, done.stderr)


class OwnTmp:
    """Both have the same work directory, made anew for each, and nothing is in /tmp."""

    def __init__(self, runner: Runner, *, options: Sequence[Argument] = ()) -> None:
        """options: of sandlockd, besides the workdir."""
        self.runner = runner
        self.options = options

    def bare(self, command: Sequence[Argument], timeout: float = TIMEOUT_S) -> Ended:
        if os.geteuid() != 0:
            pytest.skip("a /tmp of one's own needs root, bare")
        self.runner.place.empty_work()
        return bare(self.runner, command, timeout)

    def sandboxed(self, command: Sequence[Argument], timeout: float = TIMEOUT_S) -> Ended:
        self.runner.place.empty_work()
        options = ["--quiet", "--workdir", self.runner.work, "--on-exit", "discard", *self.options]
        return self.runner.sandboxed(command, options=options, timeout=timeout)

    def same(self, command: Sequence[Argument], timeout: float = TIMEOUT_S) -> Ended:
        """Bare, then sandboxed: the same output and status."""
        bare, ours = self.bare(command, timeout), self.sandboxed(command, timeout)
        assert bare.returncode == 0, bare
        assert (ours.stdout, ours.stderr) == (bare.stdout, bare.stderr)
        assert ours.returncode == bare.returncode, ours
        return ours


def in_real_tmp(runner: Runner, name: str) -> Path:
    """A directory of the user's in the machine's own /tmp. Whoever asks removes it."""
    path = ledger.make_directory(f"sandlockd-test-{name}", Path("/tmp"))
    runner.place.give(path)
    path.chmod(0o755)
    return path
