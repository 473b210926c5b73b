"""The loop never sleeps while somebody waits for an answer, whatever happened just before it lay down."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from harness.running import Runner
from harness.waiting import line_of, until
from harness.whole_supervisor import wait_for_whole_supervisor

# For each line: a child that is refused something and then ends when the supervisor is stopped; nobody reaps it. Then
# something that the supervisor serves.
_PROGRAM = r"""
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	char byte;

	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (read(0, &byte, 1) == 1) {
		int fd, leash[2], made = pipe(leash);
		pid_t child = fork();

		if (child == 0) {
			close(leash[1]);
			open("/etc/shadow", O_RDWR);
			puts("asked");
			_exit((int)read(leash[0], &byte, 1) + made);
		}
		printf("%d\n", child);
		read(0, &byte, 1);
		close(leash[0]);
		close(leash[1]);
		read(0, &byte, 1);
		fd = open("/proc/self/status", O_RDONLY);
		puts(fd < 0 ? "refused" : "served");
		close(fd);
	}
	return 0;
}
"""

_LONG_ENOUGH_S = (
    0.05  # more than a thread lives before it is registered (native/engine.c, NEW_THREADS_AFTER_NS)
)


def _state(pid: int) -> str:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2]


@pytest.mark.parametrize("rounds", [5])
def test_a_process_that_ends_unseen_does_not_put_the_loop_to_sleep(runner: Runner, rounds: int) -> None:
    """Two things at once: its end is to be told to trio, and it is due to be registered, which finds it dead and takes
    it out of trio's hands. Then nothing was left that would wake trio, and the listener was trio's to watch over."""
    program = runner.compiler.compile(_PROGRAM)
    with runner.started(runner.command_line([program])) as process:
        assert process.stdout is not None and process.stdin is not None
        out = process.stdout.fileno()
        assert line_of(out) == b"ready\n"
        wait_for_whole_supervisor(process.pid)
        for _ in range(rounds):
            process.stdin.write(b"f")
            told = {line_of(out), line_of(out)}
            process.send_signal(signal.SIGSTOP)
            child = int((told - {b"asked\n"}).pop())
            until(lambda: _state(process.pid) == "T", "the stop")
            process.stdin.write(b"e")
            resume_at = time.monotonic() + _LONG_ENOUGH_S
            until(lambda child=child: _ended(child), "the end of the child")  # type: ignore[misc]
            until(lambda at=resume_at: time.monotonic() > at, "a moment")  # type: ignore[misc]
            process.send_signal(signal.SIGCONT)
            process.stdin.write(b"o")
            assert line_of(out) == b"served\n"
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def _ended(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}") or _state(pid) == "Z"
