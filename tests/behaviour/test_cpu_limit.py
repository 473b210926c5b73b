"""`limits.cpu`: that nobody sees how it is kept."""

from __future__ import annotations

from harness.running import Runner

_POLICY = '[filesystem]\nbase = true\n[limits]\ncpu = "{}%"\n'

# A shell tells of each of its jobs that stops or goes on.
_JOBS = """
set -m
sh -c 'i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done' &
wait $!
echo $?
jobs
"""


def test_a_shell_with_job_control_sees_no_stop(runner: Runner) -> None:
    ended = runner.both(["sh", "-c", _JOBS], policy=_POLICY.format(20))
    assert b"topped" not in ended.stdout


def test_a_pipeline_gives_what_it_gives_bare(runner: Runner) -> None:
    script = "head -c 300000 /dev/zero | od -An -tx1 | cksum; seq 3000 | sort -R | sort -n | cksum"
    runner.both(["sh", "-c", script], policy=_POLICY.format(20))
