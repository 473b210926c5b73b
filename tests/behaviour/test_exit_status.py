"""Exit statuses: the program's own, 128+n, and 125, 126, 127 with a reason that people and programs can read."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from harness.running import Ended, Runner

# Names below the work directory, which `_commands` fills. The oracle is env(1), which runs its arguments by execvp(3).
_COMMANDS = [
    "no-such-command-anywhere",
    "./missing",
    "./directory",
    "./plain-file",
    "./no-shebang",
    "./empty",
    "./missing-interpreter",
    "./missing-interpreter-with-argument",
    "./file/below",
    "./loop",
    "./shebang",
    "./dangling",
]


def _commands(work: Path) -> None:
    for name, text in {
        "no-shebang": "echo from a script without a first line; exit 9\n",
        "empty": "",
        "missing-interpreter": "#!/no/such/interpreter\n",
        "missing-interpreter-with-argument": "#!/no/such/interpreter -x\n",
        "shebang": '#!/bin/sh\necho "$0" "$@"; exit 4\n',
    }.items():
        (work / name).write_text(text)
        (work / name).chmod(0o755)
    (work / "plain-file").write_text("text\n")
    (work / "plain-file").chmod(0o644)
    (work / "file").write_text("")
    (work / "directory").mkdir()
    os.symlink("loop", work / "loop")
    os.symlink("nowhere", work / "dangling")


def _sandbox_error(ended: Ended, exit_status: int) -> str:
    """The one line that says what went wrong, told alike on stderr and in the status file."""
    assert ended.returncode == exit_status
    lines = ended.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("sandlockd: ")
    assert ended.status is not None
    assert ended.reason == "sandbox_error"
    assert ended.status["exit_code"] is None
    assert ended.status["signal"] is None
    assert lines[0] == f"sandlockd: {ended.status['error']}"
    return lines[0]


@pytest.mark.parametrize("code", [0, 1, 3, 124, 125, 126, 127, 128, 137, 255])
def test_the_exit_status_is_the_programs_own(runner: Runner, code: int) -> None:
    ended = runner.both(["sh", "-c", f"exit {code}"])
    assert ended.returncode == code
    assert ended.status is not None
    assert (ended.reason, ended.status["exit_code"], ended.status["signal"]) == ("exited", code, None)


@pytest.mark.parametrize("name", ["HUP", "INT", "KILL", "TERM", "SEGV", "ABRT", "USR1", "ALRM", "RTMIN"])
def test_a_program_killed_by_a_signal_gives_128_and_its_number(runner: Runner, name: str) -> None:
    number = int(signal.Signals[f"SIG{name}"])
    ended = runner.both(["sh", "-c", f"ulimit -c 0; kill -{number} $$"])
    assert ended.returncode == 128 + number
    assert ended.status is not None
    assert (ended.reason, ended.status["exit_code"], ended.status["signal"]) == ("signaled", None, number)


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_command_that_cannot_run_gives_the_status_that_env_gives(runner: Runner, command: str) -> None:
    _commands(runner.work)
    runner.place.give(runner.work)
    bare = runner.bare(["env", "--", command, "argument"])
    ended = runner.sandboxed([command, "argument"], options=["--read", runner.work])
    assert ended.returncode == bare.returncode
    assert ended.stdout == bare.stdout
    if bare.returncode in (126, 127):
        assert command in _sandbox_error(ended, bare.returncode)


def test_a_command_that_the_policy_does_not_let_run_is_126_and_the_fix_is_told(runner: Runner) -> None:
    script = runner.place.file("elsewhere/script", "#!/bin/sh\necho ran\n", 0o755)
    line = _sandbox_error(runner.sandboxed([script]), 126)
    assert str(script) in line
    assert "read" in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--no-such-option", "--", "true"], "--no-such-option"),
        (["--policy"], "--policy"),
        ([], "no command"),
        (["--"], "no command"),
        (["--quiet", "-v", "--", "true"], "not allowed with"),
        (["stray", "--", "true"], "stray"),
        (["learn", "-o", "file", "--", "true"], "not supported yet: learn"),
    ],
)
def test_a_wrong_command_line_is_125_and_one_line(runner: Runner, words: list[str], named: str) -> None:
    ended = runner.sandlockd(*words)
    assert ended.returncode == 125
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith("sandlockd: ")
    assert named in line


def test_options_after_the_first_double_dash_are_the_programs(runner: Runner) -> None:
    ended = runner.sandboxed(["echo", "--", "--policy", "nothing", "--help"])
    assert ended.stdout == b"-- --policy nothing --help\n"


def test_a_status_file_that_cannot_be_written_is_an_error(runner: Runner) -> None:
    missing = runner.place.root / "no" / "such" / "status"
    ended = runner.sandboxed(["true"], options=["--status-file", missing])
    assert ended.returncode == 125
    assert str(missing) in ended.stderr.decode()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_how_to_complete_options(runner: Runner, shell: str) -> None:
    ended = runner.sandlockd("completion", shell)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert all(word in ended.stdout for word in (b"sandlockd", b"explain", b"workdir"))
    if shutil.which(shell):
        assert runner.bare([shell, "-n"], input=ended.stdout).returncode == 0
