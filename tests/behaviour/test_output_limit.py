"""`limits.output`: up to the limit everything is as bare; what comes after it is dropped, and that is told."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness.running import Ended, Runner, require, system_python
from harness.terminal import open_terminal
from harness.waiting import line_of, rest_of, until, wait_dead

_POLICY = '[filesystem]\nbase = true\n[limits]\noutput = "{}"\n'
_AMPLE = _POLICY.format("50M")
_TOLD = "sandlockd: limits.output: {} were passed on, the rest is dropped\n"
_ALTERNATING = "i=0; while [ $i -lt 300 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
_ALL_BYTES = bytes(range(256)) * 4096  # 1 MiB


def _usage(ended: Ended) -> tuple[Any, Any]:
    assert ended.status is not None
    return ended.status["usage"]["output"], ended.status["usage"]["output_cut"]


def test_below_the_limit_every_byte_arrives(runner: Runner) -> None:
    ended = runner.both(["cat"], input=_ALL_BYTES, policy=_AMPLE)
    assert ended.stdout == _ALL_BYTES
    assert _usage(ended) == (len(_ALL_BYTES), 0)


def test_output_and_errors_stay_apart(runner: Runner) -> None:
    ended = runner.both(["sh", "-c", "echo out; echo err >&2; exit 3"], policy=_AMPLE)
    assert (ended.stdout, ended.stderr) == (b"out\n", b"err\n")
    assert _usage(ended) == (8, 0)


def test_into_one_pipe_they_keep_their_order(runner: Runner) -> None:
    runner.both(["sh", "-c", _ALTERNATING], stderr=subprocess.STDOUT, policy=_AMPLE)


def _wrapped(runner: Runner, how: str) -> list[list[Any]]:
    """A program that writes to both in turn, bare and sandboxed."""
    command, wrap = ["sh", "-c", _ALTERNATING], ["sh", "-c", f'exec "$@" {how}', "sh"]
    return [[*wrap, *line] for line in (command, runner.command_line(command, policy=_AMPLE))]


@pytest.mark.parametrize("how", ['> "$OUT" 2>&1', '>> "$OUT" 2>&1', '>> "$OUT" 2>> "$OUT"'])
def test_into_one_file_they_keep_their_order(runner: Runner, how: str) -> None:
    texts = []
    for line in _wrapped(runner, how):
        out = runner.work / "out"
        out.write_text("before\n")
        runner.place.give(out)
        assert runner.run(line, env={"OUT": str(out)}).returncode == 0
        texts.append(out.read_text())
    assert texts[0] == texts[1]


def test_into_one_pipe_that_was_opened_twice_they_keep_their_order(runner: Runner) -> None:
    fifo = runner.work / "fifo"
    os.mkfifo(fifo)
    runner.place.give(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    texts = []
    for line in _wrapped(runner, "> fifo 2> fifo"):
        assert runner.run(line).returncode == 0
        texts.append(os.read(reader, 1 << 16))
    os.close(reader)
    assert texts[0] == texts[1] != b""


def test_without_the_key_the_program_has_the_very_same_streams(runner: Runner) -> None:
    script = "import os, stat; print(stat.S_ISREG(os.fstat(1).st_mode))"
    out = runner.work / "out"
    for policy, told in ((None, "True\n"), (_AMPLE, "False\n")):
        with out.open("wb") as file:
            runner.sandboxed(["python3", "-S", "-c", script], stdout=file, policy=policy)
        assert out.read_text() == told


@pytest.mark.parametrize("fd", [1, 2])
def test_above_the_limit_the_rest_is_dropped_and_told(runner: Runner, fd: int) -> None:
    """The program is not kept from going on."""
    script = f"head -c 5000000 /dev/zero >&{fd} && echo done >&{fd}; exit 7"
    ended = runner.sandboxed(["sh", "-c", script], policy=_POLICY.format("1M"))
    assert (ended.returncode, ended.reason) == (7, "exited")
    text = ended.stdout if fd == 1 else ended.stderr
    assert text.count(b"\0") == 1 << 20 and b"done" not in text
    assert ended.stderr.endswith(_TOLD.format("1M").encode())
    assert _usage(ended) == (1 << 20, 5_000_005 - (1 << 20))
    assert ("note", "limits.output") in [(record["kind"], record.get("subject")) for record in ended.audit]


_ROOM = """
import fcntl, os, sys, time
before = fcntl.fcntl(1, fcntl.F_GETPIPE_SZ)
for _ in range(10000):
    os.write(1, bytes(3000))
    if fcntl.fcntl(1, fcntl.F_GETPIPE_SZ) > before:
        sys.exit(5)
    time.sleep(0.001)
"""


def test_what_is_dropped_gathers_before(runner: Runner) -> None:
    """So that who writes without end wakes us for a megabyte, not for each line."""
    command = [system_python(), "-S", "-c", _ROOM]
    ended = runner.sandboxed(command, policy=_POLICY.format("1K"), options=["--quiet"])
    assert ended.returncode == 5 and len(ended.stdout) == 1024


def test_both_count_together(runner: Runner) -> None:
    script = "head -c 600000 /dev/zero; head -c 600000 /dev/zero >&2"
    ended = runner.sandboxed(["sh", "-c", script], policy=_POLICY.format("1M"), options=["--quiet"])
    assert len(ended.stdout) + len(ended.stderr) == 1 << 20
    assert _usage(ended) == (1 << 20, 1_200_000 - (1 << 20))


def test_what_is_written_just_before_the_end_is_not_lost(runner: Runner) -> None:
    """By whoever: it is killed with all of its children at the end."""
    script = "(while :; do :; done) & head -c 300000 /dev/zero; kill -9 $$"
    ended = runner.sandboxed(["sh", "-c", script], policy=_AMPLE)
    assert len(ended.stdout) == 300_000 and ended.returncode == 137


def test_a_slow_reader_slows_the_program(runner: Runner) -> None:
    """Two pipes hold what bare one holds."""
    script = "head -c 1000000 /dev/zero; : > written"
    line = runner.command_line(["sh", "-c", script], policy=_AMPLE, options=["--write", runner.work])
    with runner.started(line) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\0"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert not (runner.work / "written").exists()
        left = 999_999
        while left:
            left -= len(process.stdout.read(1 << 16))
        assert process.stdout.read() == b"" and process.wait(20) == 0
    assert (runner.work / "written").exists()


def test_who_waits_for_the_end_before_reading_waits_for_no_more_than_bare(runner: Runner) -> None:
    """Many short lines, of which a pipe holds 64 KiB."""
    script = "i=0; while [ $i -lt 5000 ]; do echo line-$i; i=$((i+1)); done"
    with runner.started(runner.command_line(["sh", "-c", script], policy=_AMPLE)) as process:
        assert process.stdout is not None
        assert process.wait(20) == 0
        assert process.stdout.read().count(b"\n") == 5000


def test_where_the_reader_has_gone_the_program_gets_sigpipe(runner: Runner) -> None:
    with runner.started(runner.command_line(["yes"], policy=_AMPLE)) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(20) == 141


_SEES_READER = """
import select, sys
poll = select.poll()
poll.register(1, 0)
sys.stderr.write("ready\\n"); sys.stderr.flush()
sys.exit(5 if poll.poll(20000) else 6)
"""


def test_a_program_that_writes_nothing_sees_it_too(runner: Runner) -> None:
    for line in (
        ["python3", "-S", "-c", _SEES_READER],
        runner.command_line(["python3", "-S", "-c", _SEES_READER], policy=_AMPLE),
    ):
        with runner.started(line) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stderr.readline() == b"ready\n"
            process.stdout.close()
            assert process.wait(20) == 5


def test_a_pipe_ends_when_the_program_closes_its_output_and_goes_on(runner: Runner) -> None:
    script = "echo before; exec >&- 2>/dev/null; read line; exit 5"
    with runner.started(runner.command_line(["sh", "-c", script], policy=_AMPLE)) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.read() == b"before\n"  # returns at the end of the pipe
        assert process.poll() is None
        process.stdin.write(b"go\n")
        assert process.wait(20) == 5


def test_into_a_socket(runner: Runner) -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        runner.started(
            runner.command_line(["sh", "-c", "echo one; echo two"], policy=_AMPLE), stdout=theirs
        ) as process,
    ):
        theirs.close()
        assert process.wait(20) == 0
        assert ours.recv(100, socket.MSG_WAITALL) == b"one\ntwo\n"


def test_a_full_disk_is_told_and_is_no_success(runner: Runner) -> None:
    """The limit of a file's length, which everybody can have: EFBIG."""
    out = runner.work / "out"
    wrap = ["sh", "-c", 'ulimit -f 1000; exec "$@" > out', "sh"]
    line = runner.command_line(["sh", "-c", "head -c 2000000 /dev/zero 2>/dev/null; exit 0"], policy=_AMPLE)
    ended = runner.run([*wrap, *line])
    assert ended.returncode == 125
    assert os.strerror(errno.EFBIG).encode() in ended.stderr
    assert 0 < out.stat().st_size < 2_000_000


def test_a_device_is_left_to_the_program(runner: Runner) -> None:
    full = Path("/dev/full").open("wb")
    with full:
        ended = runner.sandboxed(["sh", "-c", "echo x"], policy=_AMPLE, stdout=full)
    assert ended.returncode == 1 and b"error" in ended.stderr


def test_a_terminal_is_left_to_the_program(runner: Runner) -> None:
    """Nothing of what goes there is counted or dropped; what goes elsewhere is, as ever."""
    script = "test -t 1 && test -t 0 && echo terminal; head -c 3000 /dev/zero | tr '\\0' x; head -c 3000 /dev/zero >&2"
    command = ["sh", "-c", script]
    line = runner.command_line(
        command, policy=_POLICY.format("1K"), wrap=["/bin/sh", "-c", 'exec "$@" 2>err', "sh"]
    )
    place = {"user": runner.place.user, "cwd": str(runner.work), "environment": runner.environment()}
    with open_terminal([os.fsdecode(word) for word in line], **place) as terminal:
        terminal.expect(rb"terminal\r\nx{3000}")
        assert terminal.wait() == 0
    said = (runner.work / "err").read_bytes()
    assert said.startswith(bytes(1024)) and _TOLD.format("1K").encode() in said
    status = runner.status()
    assert status is not None and status["usage"]["output"] == 1024 and status["usage"]["output_cut"] == 1976


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_waiting_for_a_reader_ends_with_a_signal(runner: Runner, number: signal.Signals) -> None:
    """The program is dead by then; what nobody has read is lost, and that is told."""
    script = "head -c 100000 /dev/zero; echo over >&2"
    with runner.started(runner.command_line(["sh", "-c", script], policy=_AMPLE)) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"over\n"
        until(lambda: _children(process.pid) == {"Z"}, "the end of init")
        until(lambda: process.send_signal(number) or process.poll() is not None, "the end")
        assert process.returncode == 125
        assert b"ended before all that the program wrote had been passed on" in process.stderr.read()


def _children(pid: int) -> set[str]:
    """In which states they are."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in pids}


def test_a_killed_sandlockd_takes_the_program_with_it(runner: Runner) -> None:
    with runner.started(runner.command_line(["yes"], policy=_POLICY.format("1M"))) as process:
        assert process.stderr is not None and process.stdout is not None
        process.stdout.read(1 << 16)
        process.kill()
        runner.may_leave_temporary = True
        pidfd = os.pidfd_open(process.pid)
        wait_dead([pidfd])
        os.close(pidfd)


_PACKETS = """
import fcntl, os
fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)
for _ in range(200):
    os.write(1, bytes(4000))
"""


def test_in_packets_as_many_bytes_are_passed_on(runner: Runner) -> None:
    """A pipe in packet mode (O_DIRECT, pipe(2)) gives one at a time."""
    ended = runner.sandboxed(["python3", "-S", "-c", _PACKETS], policy=_POLICY.format("1M"))
    assert (ended.returncode, len(ended.stdout), ended.stderr) == (0, 800_000, b"")
    assert _usage(ended) == (800_000, 0)


def test_who_reads_errors_last_is_told_last(runner: Runner) -> None:
    """The program fills the pipe for errors, and then writes more output than is passed on: bare, none waits."""
    script = "head -c 65536 /dev/zero >&2; head -c 5000000 /dev/zero; exit 7"
    with runner.started(runner.command_line(["sh", "-c", script], policy=_POLICY.format("1M"))) as process:
        assert process.stdout is not None and process.stderr is not None
        assert len(rest_of(process.stdout.fileno())) == (1 << 20) - 65536
        assert rest_of(process.stderr.fileno()) == bytes(65536) + _TOLD.format("1M").encode()
        assert process.wait(20) == 7


def test_the_readers_of_a_fifo_may_come_and_go(runner: Runner) -> None:
    fifo = runner.work / "fifo"
    os.mkfifo(fifo)
    runner.place.give(fifo)
    wrap = ["sh", "-c", 'exec "$@" > fifo', "sh"]
    script = "echo one; echo ready >&2; read -r line; echo two"
    for line in (["sh", "-c", script], runner.command_line(["sh", "-c", script], policy=_AMPLE)):
        with runner.started([*wrap, *line]) as process:
            assert process.stdin is not None and process.stderr is not None
            with fifo.open("rb", buffering=0) as reader:
                assert process.stderr.readline() == b"ready\n"
                assert line_of(reader.fileno()) == b"one\n"
            for _ in range(300):  # that nobody reads is seen at some of them
                os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
            reader_fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
            process.stdin.write(b"go\n")
            assert line_of(reader_fd) == b"two\n"
            os.close(reader_fd)
            assert process.wait(20) == 0


_MANY_DESCRIPTORS = """
import os, resource, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
while (fd := os.dup(0)) < 1100:
    os.set_inheritable(fd, True)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_with_many_descriptors_inherited(runner: Runner) -> None:
    """More than select(2) can look at."""
    wrap = ["python3", "-S", "-c", _MANY_DESCRIPTORS]
    ended = runner.sandboxed(["sh", "-c", "echo x; exit 3"], policy=_AMPLE, wrap=wrap)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, b"x\n", b"")


def test_a_flood_ends_when_it_is_told_to(runner: Runner) -> None:
    require("timeout")
    ended = runner.sandboxed(["timeout", "0.3", "yes"], policy=_POLICY.format("1M"), options=["--quiet"])
    assert ended.returncode == 124 and len(ended.stdout) == 1 << 20 and ended.stderr == b""
