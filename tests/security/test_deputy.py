"""What sandlockd does by itself, around a run, must not do the program's work for it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from harness.running import Runner


def _victim(runner: Runner) -> Path:
    directory = runner.place.root / "victim"
    directory.mkdir()
    (directory / "kept").write_text("kept")
    runner.place.give(directory)
    directory.chmod(0o750)
    return directory


def test_a_link_in_the_place_of_the_temporary_directory(runner: Runner) -> None:
    """TMPDIR is removed after the run, by its descriptor: its name may lead anywhere by then."""
    victim = _victim(runner)
    script = 'mv "$TMPDIR" "$TMPDIR.gone" && ln -s "$1" "$TMPDIR"'
    ended = runner.sandboxed(["sh", "-c", script, "sh", victim], options=["--write", runner.place.temporary])
    assert ended.returncode == 0
    assert victim.stat().st_mode & 0o7777 == 0o750
    assert (victim / "kept").read_text() == "kept"
    assert b"something else" in ended.stderr
    for left in runner.place.temporary.iterdir():
        left.unlink() if left.is_symlink() else left.rmdir()


def test_children_from_before_are_not_ended(runner: Runner) -> None:
    """A shell that executes sandlockd leaves it its children: they are not of the sandbox, however that ends."""
    for command in (["true"], ["no-such-command"], ["sh", "-c", "exit 3"]):
        line = [str(part) for part in runner.command_line(command)]
        shell = ["sh", "-c", 'sleep 30 & echo $!; exec "$@" >/dev/null 2>&1', "sh", *line]
        with subprocess.Popen(shell, **runner.popen_arguments(stdout=subprocess.PIPE)) as process:
            assert process.stdout is not None
            sleeper = int(process.stdout.readline())
            process.wait(30)
            status = Path(f"/proc/{sleeper}/status").read_text()
            assert "State:\tS" in status
            os.kill(sleeper, 9)


def test_pipes_of_others_by_a_path_that_begins_in_the_own_proc(runner: Runner) -> None:
    """`/proc/self/fd/../../<pid>/fd/3` is not the program's own, whatever it begins with."""
    reading, writing = os.pipe()
    try:
        os.fchmod(writing, 0o600)
        if not runner.place.user.is_root:
            os.fchown(writing, runner.place.user.uid, runner.place.user.gid)
        holder = subprocess.Popen(
            ["sleep", "30"], **runner.popen_arguments(pass_fds=(writing,), stdout=subprocess.DEVNULL)
        )
        try:
            target = f"{holder.pid}/fd/{writing}"
            attack = (
                "import os, sys\n"
                "for path in sys.argv[1:]:\n"
                "    try: os.chmod(path, 0o777)\n"
                "    except OSError: pass\n"
            )
            paths = [
                f"/proc/self/fd/../../{target}",
                f"/proc/self/root/proc/{target}",
                f"/proc/self/../{target}",
            ]
            runner.sandboxed(["/usr/bin/python3", "-S", "-c", attack, *paths])
            assert os.fstat(writing).st_mode & 0o7777 == 0o600
        finally:
            holder.kill()
            holder.wait()
    finally:
        os.close(reading)
        os.close(writing)


def test_a_program_stopped_before_it_started_is_no_error(runner: Runner) -> None:
    """A stop signal between fork and exec, from outside: the run goes on when it is continued."""
    line = [str(part) for part in runner.command_line(["sh", "-c", "exit 7"])]
    for _ in range(5):
        with subprocess.Popen(line, **runner.popen_arguments(stderr=subprocess.PIPE)) as process:
            _stop_and_continue_grandchild(process.pid)
            _, err = process.communicate(timeout=30)
            assert (process.returncode, err) == (7, b"")


def _stop_and_continue_grandchild(supervisor: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for init in _children(supervisor):
            for program in _children(init):
                try:
                    os.kill(program, 19)
                    os.kill(program, 18)
                except ProcessLookupError:
                    pass  # it has ended: too late for this round
                return


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
