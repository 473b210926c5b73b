"""Running a command bare and sandboxed, and comparing the two.

def test_x(runner: Runner) -> None:
    runner.both(["sh", "-c", "exit 3"])             # same output and status, bare first

def test_y(runner: Runner) -> None:
    ended = runner.sandboxed(["cat", "/etc/shadow"], policy="[filesystem]\\nbase = true\\n")
    assert ended.returncode == 1
    assert ended.refusals[0]["rule"] == "base.secrets"
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.compiling import Compiler
from harness.interpreter import SANDLOCKD
from harness.places import Place, Tree, tree_of
from harness.survivors import MARKER
from sandlockd.kernel.cgroups import WITHOUT

TIMEOUT_S = 20.0
# Without the virtual environment: programs in the sandbox are the machine's own.
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

Argument = str | bytes | Path
Status = dict[str, Any]


@dataclass
class Ended:
    """A command that has ended.

    status: the status file; None when there is none (bare, or it was not written). audit: every record of the run's
    log. tree: the work directory afterwards, from `both` only.
    """

    returncode: int  # as subprocess has it: -n when signal n killed it
    stdout: bytes
    stderr: bytes
    status: Status | None = None
    audit: list[dict[str, Any]] = field(default_factory=list)
    tree: Tree = field(default_factory=dict)

    @property
    def refusals(self) -> list[dict[str, Any]]:
        return [record for record in self.audit if record["kind"] in ("refusal", "error")]

    @property
    def reason(self) -> str:
        assert self.status is not None
        return str(self.status["reason"])

    @property
    def shell_status(self) -> int:
        """As a shell tells it: 128+n when signal n killed it."""
        return 128 - self.returncode if self.returncode < 0 else self.returncode


class Runner:
    """Runs commands as one user, with files in one place."""

    def __init__(self, place: Place, marker: str, compiler: Compiler) -> None:
        self.place = place
        self.marker = marker
        self.compiler = compiler
        # Set by tests that kill sandlockd with SIGKILL: nobody is left then to remove the program's directory.
        self.may_leave_temporary = False
        # Limits are kept by cgroups where those are ours to use.
        self.with_cgroups = True

    @property
    def work(self) -> Path:
        return self.place.work

    @property
    def status_path(self) -> Path:
        return self.place.root / "status.json"

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Nothing of the developer's own, so that a test does not depend on it."""
        return {
            "PATH": SYSTEM_PATH,
            "HOME": str(self.place.home),
            "USER": self.place.user.name,
            "LOGNAME": self.place.user.name,
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "TMPDIR": str(self.place.temporary),
            "SANDLOCKD_STATE_DIR": str(self.place.state),
            MARKER: self.marker,
            **({} if self.with_cgroups else {WITHOUT: "1"}),
            **(more or {}),
        }

    def popen_arguments(
        self, cwd: Path | None = None, env: Mapping[str, str] | None = None, **more: Any
    ) -> dict[str, Any]:
        """For subprocess.Popen: the user, the environment, the working directory, no stdin."""
        return {
            "cwd": cwd or self.work,
            "env": self.environment(env),
            "stdin": subprocess.DEVNULL,
            **self.place.user.popen_arguments(),
            **more,
        }

    def _quickly(
        self, command: Sequence[Argument], arguments: dict[str, Any]
    ) -> tuple[Sequence[Argument], dict[str, Any]]:
        """The same without a copy of this process, where nothing else is asked for than to be the user."""
        ids = self.place.user.popen_arguments()
        is_plain = all(arguments.get(name) == value for name, value in ids.items())
        # What is to be loaded first would be loaded by who is not yet the user.
        is_plain &= not any(name.startswith("LD_") for name in arguments["env"])
        line = (
            self.place.user.command(command) if ids and is_plain and "executable" not in arguments else None
        )
        if line is None:
            return command, arguments
        return line, {name: value for name, value in arguments.items() if name not in ids}

    def policy_file(self, text: str) -> Path:
        return self.place.file("policy.toml", text)

    def command_line(
        self,
        command: Sequence[Argument],
        *,
        options: Sequence[Argument] = (),
        policy: str | None = None,
        wrap: Sequence[Argument] = (),
    ) -> list[Argument]:
        """`sandlockd OPTIONS -- COMMAND`. Programs of the Compiler are granted; nothing else is by itself.

        options: as on the command line. policy: the text of a policy file; None: no --policy, so `base`. wrap: a
        command that runs the rest of its arguments (`nice`, `sh -c '...; exec "$@"' sh`); sandlockd runs in it.
        """
        line: list[Argument] = [*wrap, SANDLOCKD]
        if policy is not None:
            line += ["--policy", self.policy_file(policy)]
        if "--status-file" not in options:
            line += ["--status-file", self.status_path]
        if any(isinstance(word, Path) and word.is_relative_to(self.compiler.directory) for word in command):
            line += ["--read", self.compiler.directory]
        return [*line, *options, "--", *command]

    def run(self, command: Sequence[Argument], timeout: float = TIMEOUT_S, **popen: Any) -> Ended:
        """Any command, as the user. popen: input, and what Popen takes."""
        arguments = self.popen_arguments(**popen)
        if "input" in arguments:
            del arguments["stdin"]
        arguments = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **arguments}
        command, arguments = self._quickly(command, arguments)
        done = subprocess.run(command, timeout=timeout, **arguments)
        return Ended(done.returncode, done.stdout or b"", done.stderr or b"")

    def bare(self, command: Sequence[Argument], **popen: Any) -> Ended:
        """The oracle."""
        return self.run(command, **popen)

    def sandlockd(self, *words: Argument, **popen: Any) -> Ended:
        """Any verb of sandlockd."""
        return self.run([SANDLOCKD, *words], **popen)

    def sandboxed(
        self,
        command: Sequence[Argument],
        *,
        options: Sequence[Argument] = (),
        policy: str | None = None,
        wrap: Sequence[Argument] = (),
        **popen: Any,
    ) -> Ended:
        self.status_path.unlink(missing_ok=True)
        line = self.command_line(command, options=options, policy=policy, wrap=wrap)
        return self.with_records(self.run(line, **popen))

    @contextlib.contextmanager
    def started(self, line: Sequence[Argument], **popen: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A command that goes on while the test does something (see command_line). Pipes on stdin, stdout, stderr.

        It is killed at the end if it still lives.
        """
        self.status_path.unlink(missing_ok=True)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
        line, arguments = self._quickly(line, self.popen_arguments(**{**pipes, **popen}))
        process = subprocess.Popen(line, **arguments)
        try:
            yield process
        finally:
            process.kill()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            process.wait()

    def with_records(self, ended: Ended) -> Ended:
        """Add the status file and the audit log of the newest run."""
        ended.status = self.status()
        ended.audit = self.audit()
        return ended

    def status(self) -> Status | None:
        try:
            status: Status = json.loads(self.status_path.read_text())
        except FileNotFoundError:
            return None
        return status

    def audit(self) -> list[dict[str, Any]]:
        """Every record of the newest run."""
        logs = sorted(self.place.state.glob("runs/*/audit.jsonl"))
        if not logs:
            return []
        return [json.loads(line) for line in logs[-1].read_bytes().splitlines() if line]

    def both(
        self,
        command: Sequence[Argument],
        *,
        prepare: Callable[[Path], object] | None = None,
        options: Sequence[Argument] = (),
        policy: str | None = None,
        wrap: Sequence[Argument] = (),
        write: bool = True,
        same_stderr: bool = True,
        ignored: Sequence[str] = (),
        **popen: Any,
    ) -> Ended:
        """Bare, then sandboxed, each in the same work directory made anew: same status, output and tree.

        sandlockd is --quiet. prepare: fills the work directory; what it makes is then the user's. write: the directory
        is granted for writing, otherwise for reading. wrap: as in command_line, for both. ignored: patterns of paths
        in the tree that differ from run to run. Returns: the sandboxed one.
        """
        ends: list[Ended] = []
        for sandboxed in (False, True):
            work = self.place.empty_work()
            if prepare is not None:
                prepare(work)
                self.place.give(work)
            if sandboxed:
                grant = ["--write" if write else "--read", work]
                ended = self.sandboxed(
                    command, options=[*grant, "--quiet", *options], policy=policy, wrap=wrap, **popen
                )
            else:
                ended = self.bare([*wrap, *command], **popen)
            ended.tree = {
                path: what
                for path, what in tree_of(work).items()
                if not any(fnmatch.fnmatch(path, pattern) for pattern in ignored)
            }
            ends.append(ended)
        bare, ours = ends
        assert ours.stdout == bare.stdout
        if same_stderr:
            assert ours.stderr == bare.stderr
        assert ours.returncode == bare.shell_status, ours.stderr.decode(errors="replace")
        assert ours.tree == bare.tree
        return ours


def require(*programs: str) -> None:
    """Skip the test where the machine lacks one of these."""
    for program in programs:
        if shutil.which(program, path=SYSTEM_PATH) is None:
            pytest.skip(f"there is no {program}")


def system_python() -> str:
    """A Python that programs in the sandbox can run: not that of the virtual environment."""
    found = shutil.which("python3", path=SYSTEM_PATH)
    if found is None:
        pytest.skip("there is no python3 of the machine's own")
    return os.path.realpath(found)
