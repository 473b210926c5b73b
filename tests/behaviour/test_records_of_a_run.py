"""What a run leaves to read: the status file, the audit log, the closing line, `explain`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness.running import Argument, Runner, require
from harness.waiting import line_of

_SECRET = "secret.txt"


@pytest.fixture
def secret(runner: Runner) -> Path:
    """A file that no policy of these tests grants."""
    return runner.place.file(_SECRET, "classified\n")


def test_the_status_file_has_the_documented_fields(runner: Runner) -> None:
    status = runner.sandboxed(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]).status
    assert status is not None
    assert {"exit_code", "signal", "reason", "rule", "usage", "changes", "denials"} <= status.keys()
    assert {"wall", "cpu", "peak_memory", "processes"} <= status["usage"].keys()
    assert status["usage"]["processes"] >= 1 and status["usage"]["processes_exact"] is False
    assert 0 < status["usage"]["cpu"] <= status["usage"]["wall"] * 2 < 20
    assert 100_000 < status["usage"]["peak_memory"] < 1 << 32
    assert status["denials"] == 0
    assert status["rule"] is None


def test_the_status_file_is_replaced_whole_and_nothing_is_left_beside_it(runner: Runner) -> None:
    runner.status_path.write_text("old")
    runner.place.give(runner.status_path)
    line = runner.command_line(["sh", "-c", "exit 3"])
    assert runner.run(line).returncode == 3
    status = runner.status()
    assert status is not None and status["exit_code"] == 3
    assert [name for name in os.listdir(runner.place.root) if "status" in name] == ["status.json"]


def test_sigterm_ends_the_program_and_the_status_says_killed(runner: Runner) -> None:
    with runner.started(runner.command_line(["sh", "-c", "echo ready; exec sleep 1000"])) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
    status = runner.status()
    assert status is not None
    assert (status["reason"], status["signal"], status["exit_code"]) == ("killed", signal.SIGTERM, None)


@pytest.mark.one_user
def test_a_program_that_ignores_sigterm_is_killed_after_a_grace(runner: Runner) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 1000; done"
    with runner.started(runner.command_line(["sh", "-c", script])) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        process.terminate()
        assert process.wait(timeout=15) == 128 + signal.SIGKILL
    status = runner.status()
    assert status is not None
    assert (status["reason"], status["signal"], status["rule"]) == ("killed", signal.SIGKILL, "SIGTERM")


def test_a_program_that_exits_on_sigterm_tells_its_own_exit_code(runner: Runner) -> None:
    script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"
    with runner.started(runner.command_line(["sh", "-c", script])) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        process.terminate()
        assert process.wait() == 7
    status = runner.status()
    assert status is not None
    assert (status["reason"], status["exit_code"]) == ("killed", 7)


def test_a_refusal_is_counted_and_recorded(runner: Runner, secret: Path) -> None:
    ended = runner.sandboxed(["cat", secret])
    assert ended.returncode == 1
    assert b"Permission denied" in ended.stderr
    assert ended.status is not None and ended.status["denials"] == 1
    (refusal,) = ended.refusals
    assert refusal["path"] == str(secret)
    assert (refusal["rule"], refusal["errno"], refusal["wanted"]) == ("default", "EACCES", "read")
    assert str(secret.parent) in refusal["remedy"]
    assert [record["kind"] for record in ended.audit] == ["run", "refusal", "end"]
    assert ended.audit[-1]["denials"] == 1


def test_a_failed_run_with_refusals_ends_with_a_line_that_leads_to_the_explanation(
    runner: Runner, secret: Path
) -> None:
    ended = runner.sandboxed(["cat", secret])
    last = ended.stderr.decode().splitlines()[-1]
    assert last.startswith("sandlockd: 1 refusal; ")
    assert ended.status is not None
    assert last.endswith(f"sandlockd explain {ended.status['run']}")
    explained = runner.sandlockd("explain", ended.status["run"])
    assert str(secret) in explained.stdout.decode()


def test_quiet_keeps_that_line_away(runner: Runner, secret: Path) -> None:
    ended = runner.sandboxed(["cat", secret], options=["--quiet"])
    assert b"sandlockd:" not in ended.stderr


def test_a_run_that_succeeds_says_nothing(runner: Runner, secret: Path) -> None:
    ended = runner.sandboxed(["sh", "-c", "cat secret.txt 2>/dev/null; exit 0"], cwd=runner.place.root)
    assert ended.status is not None and ended.status["denials"] == 1
    assert ended.stderr == b""


def test_explain_tells_the_newest_run_and_its_remedy_works(runner: Runner, secret: Path) -> None:
    runner.sandboxed(["true"])
    runner.sandboxed(["cat", secret])
    explained = runner.sandlockd("explain", "--last")
    assert explained.returncode == 0
    text = explained.stdout.decode()
    for word in (str(secret), "default", "cat", "read"):
        assert word in text
    (line,) = [
        line.split("allow", 1)[1].strip() for line in text.splitlines() if line.strip().startswith("allow ")
    ]
    section, _, rest = line.partition(" ")
    allowed = runner.sandboxed(["cat", secret], policy=f"{section}\nbase = true\n{rest}\n")
    assert allowed.stdout == b"classified\n"


def test_explain_of_a_run_without_refusals_says_so(runner: Runner) -> None:
    runner.sandboxed(["true"])
    explained = runner.sandlockd("explain", "--last")
    assert explained.returncode == 0
    assert "nothing was refused" in explained.stdout.decode()


def test_explain_without_any_run(runner: Runner) -> None:
    explained = runner.sandlockd("explain", "--last")
    assert explained.returncode == 1
    assert b"no run" in explained.stderr


@pytest.mark.parametrize("way", ["storage", "loader"])
def test_a_run_that_cannot_be_started_has_the_reason_in_its_log(runner: Runner, way: str) -> None:
    """Once before anything was forked, once by the last step of the new process."""
    if way == "storage":
        policy = f'[filesystem]\nbase = true\nworkdir = "{runner.work}"\nstorage = "/proc/nowhere"\n'
        ended, status, words = runner.sandboxed(["true"], policy=policy), 125, "storage of changes"
    else:
        broken = runner.place.file("work/broken", "#!/nonexistent/interpreter\n")
        broken.chmod(0o755)
        ended = runner.sandboxed([broken], options=["--read", runner.work])
        status, words = 127, "cannot be executed"
    assert ended.returncode == status, ended
    end = ended.audit[-1]
    assert (end["kind"], end["reason"], end["has_run"]) == ("end", "sandbox_error", False)
    assert end["exit_status"] == status and words in end["error"]
    assert ended.status is not None
    assert (ended.status["run"], ended.status["error"]) == (ended.audit[0]["run"], end["error"])
    explained = runner.sandlockd("explain").stdout.decode()
    assert f"it was not started, exit status {status}: {end['error']}" in explained
    assert "killed" not in explained


def test_the_log_is_the_owners_only(runner: Runner, secret: Path) -> None:
    runner.sandboxed(["cat", secret])
    (log,) = runner.place.state.glob("runs/*/audit.jsonl")
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.parent.stat().st_mode & 0o777 == 0o700
    assert log.stat().st_uid == runner.place.user.uid


_FULL_DISK = """
set -e
state=$1; shift
mount -t tmpfs -o size=16k,mode=0700 none "$state"
! head -c 1000000 /dev/zero > "$state/fill" 2>/dev/null
exec "$@"
"""


def test_a_full_disk_under_the_log_is_told_by_the_run_and_not_to_the_program(
    runner: Runner, secret: Path
) -> None:
    require("unshare")
    if not runner.place.user.is_root:
        pytest.skip("mounting needs root")
    command = ["sh", "-c", f"cat {secret}; echo $?; cat /etc/hostname >/dev/null; echo $?"]
    healthy = runner.sandboxed(command, options=["--quiet"])
    wrap: list[Argument] = ["unshare", "-m", "sh", "-c", _FULL_DISK, "sh", runner.place.state]
    ended = runner.sandboxed(command, wrap=wrap)
    assert (ended.returncode, ended.stdout) == (healthy.returncode, healthy.stdout)
    assert ended.status is not None and ended.status["denials"] == 1
    told = [line for line in ended.stderr.decode().splitlines() if line.startswith("sandlockd: ")]
    assert len(told) == 1
    assert "incomplete" in told[0] and "No space left" in told[0]


def test_a_state_directory_that_others_may_write_is_refused(runner: Runner) -> None:
    runner.place.state.chmod(0o777)
    ended = runner.sandboxed(["true"])
    assert ended.returncode == 125
    (line,) = ended.stderr.decode().splitlines()
    assert "may be written by others" in line
