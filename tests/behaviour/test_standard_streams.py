"""Descriptors 0, 1 and 2 are the program's: bytes pass unchanged, and a pipe ends when the program closes it."""

from __future__ import annotations

import os
import subprocess

import pytest
from harness.running import Argument, Runner
from harness.waiting import line_of

_ALL_BYTES = bytes(range(256)) * 4096  # 1 MiB

_OPEN_STREAMS = r"""
#include <fcntl.h>
#include <unistd.h>
int main(void)
{
	int open = 0;
	for (int fd = 0; fd < 64; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			open |= 1 << (fd < 3 ? fd : 3);
	return open; /* bits 0 to 2: the streams; bit 3: anything above */
}
"""


def test_binary_input_comes_out_unchanged(runner: Runner) -> None:
    ended = runner.both(["cat"], input=_ALL_BYTES)
    assert ended.stdout == _ALL_BYTES


def test_output_and_errors_stay_apart(runner: Runner) -> None:
    ended = runner.both(["sh", "-c", "echo out; echo err >&2"])
    assert (ended.stdout, ended.stderr) == (b"out\n", b"err\n")


def test_output_and_errors_into_one_pipe_keep_their_order(runner: Runner) -> None:
    script = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done"
    runner.both(["sh", "-c", script], stderr=subprocess.STDOUT)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_closed_for_the_program(runner: Runner, closed: str) -> None:
    program = runner.compiler.compile(_OPEN_STREAMS)
    ended = runner.both([program], wrap=["sh", "-c", f'exec "$@" {closed}', "sh"])
    assert not ended.returncode & 8


def test_a_pipe_ends_when_the_program_closes_its_output_and_goes_on(runner: Runner) -> None:
    script = "echo before; exec >&- 2>/dev/null; read line; exit 5"
    for line in (["sh", "-c", script], runner.command_line(["sh", "-c", script])):
        with runner.started(line) as process:
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.read() == b"before\n"  # returns at the end of the pipe
            assert process.poll() is None
            process.stdin.write(b"go\n")
            assert process.wait() == 5


def test_a_writer_learns_that_the_program_closed_its_input(runner: Runner) -> None:
    script = 'exec 3<"$1"; exec <&-; echo closed; read line <&3; exit 6'
    fifo = runner.work / "fifo"
    os.mkfifo(fifo)
    runner.place.give(fifo)
    command: list[Argument] = ["sh", "-c", script, "sh", fifo]
    for line in (command, runner.command_line(command, options=["--read", runner.work])):
        # Both ends, so that opening the FIFO does not wait.
        gate = os.open(fifo, os.O_RDWR)
        try:
            with runner.started(line) as process:
                assert process.stdout is not None and process.stdin is not None
                assert line_of(process.stdout.fileno()) == b"closed\n"
                with pytest.raises(BrokenPipeError):
                    process.stdin.write(b"x")
                os.write(gate, b"go\n")
                assert process.wait() == 6
        finally:
            os.close(gate)


def test_a_program_that_writes_into_a_closed_pipe_dies_of_sigpipe(runner: Runner) -> None:
    for line, expected in ((["yes"], -13), (runner.command_line(["yes"]), 141)):
        with runner.started(line) as process:
            assert process.stdout is not None
            assert process.stdout.read(2) == b"y\n"
            process.stdout.close()
            assert process.wait() == expected
    status = runner.status()
    assert status is not None
    assert (status["reason"], status["signal"]) == ("signaled", 13)


def test_it_is_a_filter_in_a_pipeline(runner: Runner) -> None:
    pipeline = 'cat | "$@" | tr a-z A-Z'
    command = ["sed", "s/o/0/"]
    bare = runner.bare(["sh", "-c", pipeline, "sh", *command], input=b"hello\nworld\n")
    ended = runner.run(["sh", "-c", pipeline, "sh", *runner.command_line(command)], input=b"hello\nworld\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (bare.returncode, bare.stdout, bare.stderr)
    assert ended.stdout == b"HELL0\nW0RLD\n"
