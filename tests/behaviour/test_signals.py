"""Signals that are sent to sandlockd reach the program; those of the terminal reach it once."""

from __future__ import annotations

import signal

import pytest
from harness.running import Runner
from harness.waiting import line_of
from harness.whole_supervisor import wait_for_whole_supervisor

_TELL_SIGNALS = r"""
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
int main(void)
{
	sigset_t all;
	siginfo_t info;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	for (;;) {
		int number = sigwaitinfo(&all, &info);
		printf("%d\n", number);
		if (number == SIGTERM)
			return 9;
	}
}
"""

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


@pytest.mark.parametrize("sandboxed", [False, True], ids=["native", "sandboxed"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_signals_reach_the_program_in_turn_and_once(runner: Runner, sandboxed: bool, late: bool) -> None:
    """later: when the run goes on long enough to be served by the whole supervisor, not only by its first part."""
    program = runner.compiler.compile(_TELL_SIGNALS)
    line = runner.command_line([program]) if sandboxed else [program]
    with runner.started(line) as process:
        assert process.stdout is not None
        out = process.stdout.fileno()
        assert line_of(out) == b"ready\n"
        if late and sandboxed:
            wait_for_whole_supervisor(process.pid)
        for number in (*_SIGNALS, *_SIGNALS):
            process.send_signal(number)
            assert line_of(out) == b"%d\n" % number
        process.terminate()
        assert line_of(out) == b"%d\n" % signal.SIGTERM
        assert process.wait() == 9
        assert process.stdout.read() == b""


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "USR1"])
def test_a_deadly_signal_to_sandlockd_is_the_programs_death(runner: Runner, name: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    script = "ulimit -c 0; echo ready; exec sleep 1000"
    with runner.started(runner.command_line(["sh", "-c", script])) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        process.send_signal(number)
        assert process.wait(timeout=10) == 128 + number
    status = runner.status()
    assert status is not None
    assert (status["reason"], status["signal"]) == ("signaled", number)


def test_an_ignored_hangup_stays_ignored(runner: Runner) -> None:
    """As under nohup(1)."""
    script = "echo ready; read line; exit 4"
    line = runner.command_line(["sh", "-c", script], wrap=["env", "--ignore-signal=HUP"])
    with runner.started(line) as process:
        assert process.stdout is not None and process.stdin is not None
        line_of(process.stdout.fileno())
        process.send_signal(signal.SIGHUP)
        process.stdin.write(b"go\n")
        assert process.wait() == 4
