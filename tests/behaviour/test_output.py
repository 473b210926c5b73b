"""What the verbs print: readers that go, streams that are closed or full. What was done and found out stays so."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness.interpreter import SANDLOCKCTL, SANDLOCKD
from harness.running import Argument, Ended, Runner

_MANY = 400  # names whose list does not fit into a buffer or a pipe's first page


def _for_nobody(runner: Runner, *line: Argument, merged: bool = False) -> Ended:
    """Standard output (merged: and standard error) is a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        more = {"stderr": writing} if merged else {}
        return runner.run(line, stdout=writing, **more)
    finally:
        os.close(writing)


def _kept(runner: Runner) -> str:
    script = f"i=0; while [ $i -lt {_MANY} ]; do : > a-name-that-is-not-short-$i; i=$((i+1)); done"
    options = ["--workdir", runner.work, "--cwd", runner.work, "--on-exit", "keep", "--quiet"]
    ended = runner.sandboxed(["sh", "-c", script], options=options)
    assert ended.returncode == 0 and ended.status is not None, ended
    return str(ended.status["run"])


def test_what_is_cut_off_in_its_middle_ends_as_other_programs_do(runner: Runner) -> None:
    run = _kept(runner)
    lines: list[list[Argument]] = [
        ["seq", "100000"],
        [SANDLOCKCTL, "diff", run],
        [SANDLOCKCTL, "diff", run, "--json"],
        [SANDLOCKD, "doctor"],  # line by line
    ]
    for line in lines:
        ended = _for_nobody(runner, *line)
        assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b""), (line, ended)


@pytest.mark.parametrize("verb", ["--help", "presets", "explain", "check", "ps"])
def test_nothing_is_said_of_a_reader_that_has_gone(runner: Runner, verb: str) -> None:
    runner.sandboxed(["true"])
    line: list[Argument] = [SANDLOCKCTL if verb == "ps" else SANDLOCKD, verb]
    ended = _for_nobody(runner, *line, *(["base"] if verb == "check" else []))
    assert ended.returncode in (0, -signal.SIGPIPE) and ended.stderr == b"", ended


def test_what_check_found_does_not_depend_on_who_reads_it(runner: Runner) -> None:
    policy = runner.policy_file("[filesystem]\nno_such = 1\n")
    assert _for_nobody(runner, SANDLOCKD, "check", policy, "--json").returncode == 125
    assert _for_nobody(runner, SANDLOCKD, "check", policy, merged=True).returncode == 125


def test_what_was_committed_is_told_by_the_status_whoever_reads(runner: Runner) -> None:
    run = _kept(runner)
    ended = _for_nobody(runner, SANDLOCKCTL, "commit", run, merged=True)
    assert ended.returncode == 0
    assert len(list(runner.work.iterdir())) == _MANY
    assert runner.run([SANDLOCKCTL, "ps"]).stdout == b""


@pytest.mark.parametrize("verb", [["presets"], ["presets", "base"], ["check", "base"], ["explain"]])
@pytest.mark.parametrize("where", [">&-", "> /dev/full"])
def test_output_that_goes_nowhere_is_an_error_of_one_line(
    runner: Runner, verb: list[str], where: str
) -> None:
    runner.sandboxed(["true"])
    ended = runner.run(["sh", "-c", f'exec "$@" {where}', "sh", SANDLOCKD, *verb])
    reason = b"Bad file descriptor" if where == ">&-" else b"No space left on device"
    assert ended.returncode == 125 and ended.stderr.count(b"\n") == 1 and reason in ended.stderr, ended
    assert b"internal error" not in ended.stderr


def test_errors_that_nobody_reads_go_to_nobody(runner: Runner) -> None:
    """print() of Python writes to standard output where there is no standard error."""
    policy = runner.policy_file("[filesystem]\nno_such = 1\n")
    for closed in ("2>&-", "<&- 2>&-", "2>/dev/full"):
        ended = runner.run(["sh", "-c", f'exec "$@" {closed}', "sh", SANDLOCKD, "check", policy])
        assert (ended.returncode, ended.stdout) == (125, b""), closed


def test_a_name_that_the_locale_cannot_show_is_escaped(runner: Runner) -> None:
    path = Path(os.fsdecode(bytes(runner.work) + "/né\udcff".encode("utf-8", "surrogateescape")))
    path.mkdir()
    for locale in ("C", "POSIX", "C.UTF-8", "nonsense"):
        ended = runner.sandboxed(["cat", path / "x"], env={"LC_ALL": locale})
        assert ended.returncode == 1 and b"internal error" not in ended.stderr, ended
        told = runner.sandlockd(
            "explain", env={"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        )
        assert told.returncode == 0 and told.stderr == b"" and b"\\xff" in told.stdout, told
