"""Signals that the kernel sends because somebody asked for them: none reaches a process outside, or a group of them.

Who is to get them is named beforehand: by F_SETOWN and its like, to a timer, a queue, a terminal. The process outside
is in the group of the program itself: that group is what a shell's job is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from harness.running import Ended, Runner, system_python
from harness.waiting import line_of
from security import broken

# Counts what it gets, by number, until it may read a line.
_COUNTING = r"""
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile int counts[65];

static void count(int number)
{
	counts[number]++;
}

int main(void)
{
	char byte;

	for (int number = 1; number < 65; number++)
		signal(number, count);
	puts("ready");
	fflush(stdout);
	while (read(0, &byte, 1) < 0)
		;
	for (int number = 1; number < 65; number++)
		if (counts[number])
			printf("%d ", number);
	return 0;
}
"""

# argv: a process outside, and the group that it shares with us. Each way ends with something that has the kernel send.
_ATTACK = """
import array, ctypes, fcntl, json, os, signal, socket, struct, sys, termios, time
pid, group = int(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY = 8, 10, 15, 1024, 1026
FIOSETOWN, SIOCSPGRP, TIOCSPGRP, TIOCSIG, TIOCSWINSZ = 0x8901, 0x8902, 0x5410, 0x40045436, 0x5414
mine = [0]
for number in (signal.SIGIO, signal.SIGURG, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTERM,
               signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT, 40):
    signal.signal(number, lambda *_: mine.__setitem__(0, mine[0] + 1))
done = {}
def tried(name, act, *args):
    try:
        act(*args)
        done[name] = "done"
    except OSError as error:
        done[name] = os.strerror(error.errno)
def first_of_the_group():
    \"\"\"The kernel looks at the one who joined last.\"\"\"
    if os.getpgrp() == group and os.getsid(0) != os.getpid():
        os.setpgid(0, 0); os.setpgid(0, group)
OWNERS = {
    "process": lambda fd: fcntl.fcntl(fd, F_SETOWN, pid),
    "group": lambda fd: fcntl.fcntl(fd, F_SETOWN, -group),
    "thread, ex": lambda fd: fcntl.fcntl(fd, F_SETOWN_EX, struct.pack("=ii", 0, pid)),
    "process, ex": lambda fd: fcntl.fcntl(fd, F_SETOWN_EX, struct.pack("=ii", 1, pid)),
    "group, ex": lambda fd: fcntl.fcntl(fd, F_SETOWN_EX, struct.pack("=ii", 2, group)),
    "process, ioctl": lambda fd: fcntl.ioctl(fd, FIOSETOWN, struct.pack("=i", pid)),
    "group, ioctl": lambda fd: fcntl.ioctl(fd, SIOCSPGRP, struct.pack("=i", -group)),
}
def socketpair():
    a, b = socket.socketpair()
    return a.fileno(), lambda: b.send(b"x"), (a, b)
def out_of_band():
    a, b = socket.socketpair()
    return a.fileno(), lambda: b.send(b"x", socket.MSG_OOB), (a, b)
def pipe():
    r, w = os.pipe()
    return r, lambda: os.write(w, b"x"), None
def fifo():
    os.mkfifo("fifo")
    fd = os.open("fifo", os.O_RDWR)
    os.unlink("fifo")
    return fd, lambda: os.write(fd, b"x"), None
def stdin():
    return 0, lambda: None, None
def directory():
    fd = os.open(".", os.O_RDONLY)
    fcntl.fcntl(fd, F_NOTIFY, 0x80000004)  # DN_CREATE, more than once
    def make():
        os.close(os.open("noted", os.O_CREAT | os.O_WRONLY)); os.unlink("noted")
    return fd, make, None
def inotify():
    fd = libc.inotify_init()
    libc.inotify_add_watch(fd, b".", 0x100)
    return fd, directory_change, None
def directory_change():
    os.close(os.open("watched", os.O_CREAT | os.O_WRONLY)); os.unlink("watched")
def lease():
    os.close(os.open("leased", os.O_CREAT | os.O_WRONLY))
    fd = os.open("leased", os.O_RDONLY)
    fcntl.fcntl(fd, F_SETLEASE, fcntl.F_RDLCK)
    def break_it():
        if os.fork() == 0:
            try: os.open("leased", os.O_WRONLY | os.O_NONBLOCK)
            finally: os._exit(0)
        os.wait()
    return fd, break_it, None
for source in (socketpair, out_of_band, pipe, fifo, stdin, directory, inotify, lease):
    for owner, own in OWNERS.items():
        for number in (0, signal.SIGUSR1, signal.SIGTERM, 40):
            name = f"{source.__name__}, {owner}, {number}"
            fd = -1
            try:
                fd, send, keep = source()
                first_of_the_group()
                own(fd)
                fcntl.fcntl(fd, F_SETSIG, number)
                fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
                own(fd)
                send()
                done[name] = "done"
            except OSError as error:
                done[name] = os.strerror(error.errno)
            if fd > 0 and keep is None:
                os.close(fd)
            if fd == 0:
                fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) & ~os.O_ASYNC)
            keep = None
SIGEV_THREAD_ID, SIGEV_SIGNAL = 4, 0
for target in (pid, -group, -pid):
    event = struct.pack("=QiiI", 0, signal.SIGTERM, SIGEV_THREAD_ID, target & 0xffffffff).ljust(64, b"\\0")
    timer = ctypes.c_int(-1)
    ok = libc.syscall(222, 1, event, ctypes.byref(timer))
    done[f"timer, {target == pid}"] = "done" if ok == 0 else os.strerror(ctypes.get_errno())
    if ok == 0:
        libc.syscall(223, timer, 0, struct.pack("=qqqq", 0, 0, 0, 1000), None)
    queue = libc.syscall(240, b"sandlockd-test-queue", os.O_RDWR | os.O_CREAT, 0o600, None)
    ok = libc.syscall(244, queue, event)
    done["queue"] = "done" if queue >= 0 and ok == 0 else os.strerror(ctypes.get_errno())
    if queue >= 0:
        libc.syscall(241, b"sandlockd-test-queue")
for fd, name in ((0, "stdin"), (1, "stdout"), (2, "stderr"), (os.open("/dev/null", os.O_RDWR), "null")):
    for target in (group, pid):
        tried(f"foreground, {name}, {target == group}", lambda: fcntl.ioctl(fd, TIOCSPGRP, struct.pack("=i", target)))
        tried(f"signal, {name}", lambda: fcntl.ioctl(fd, TIOCSIG, signal.SIGINT))
        tried(f"size, {name}", lambda: fcntl.ioctl(fd, TIOCSWINSZ, struct.pack("=HHHH", 9, 9, 0, 0)))
try:
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(master, 0x40045431, struct.pack("=i", 0))  # TIOCSPTLCK
    slave = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY)  # TIOCGPTPEER
    for fd in (master, slave):
        tried("foreground, pty", lambda: fcntl.ioctl(fd, TIOCSPGRP, struct.pack("=i", group)))
        tried("signal, pty", lambda: fcntl.ioctl(fd, TIOCSIG, signal.SIGINT))
except OSError as error:
    done["pty"] = os.strerror(error.errno)
for target in (pid, group):
    tried("parent's death", lambda: libc.prctl(1, 9))
    tried("joining", os.setpgid, 0, target)
time.sleep(0.02)
print(json.dumps({"done": done, "mine": mine[0]}))
"""


@contextlib.contextmanager
def _counting(runner: Runner) -> Iterator[subprocess.Popen[bytes]]:
    """In a group of its own, in our session."""
    program = runner.compiler.compile(_COUNTING)
    arguments = runner.popen_arguments(runner.place.home, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([program], process_group=0, **arguments) as process:
        try:
            assert process.stdout is not None
            assert line_of(process.stdout.fileno()) == b"ready\n"
            yield process
        finally:
            process.kill()


def _received(process: subprocess.Popen[bytes]) -> list[int]:
    out, _ = process.communicate(b"\n", timeout=30)
    return [int(word) for word in out.split()]


def _attacked(runner: Runner, line: list[Any], group: int) -> Ended:
    """The command shares the group, and its standard input is a pipe that somebody outside writes to."""
    return runner.run([*line, str(group), str(group)], input=b"from outside\n", process_group=group)


def _command(runner: Runner) -> list[Any]:
    return [system_python(), runner.place.file("attack.py", _ATTACK, 0o644)]


@pytest.mark.parametrize("grant", ["--write", "--workdir"])
def test_nobody_outside_gets_a_signal_that_somebody_else_is_to_be_sent(runner: Runner, grant: str) -> None:
    more = ["--on-exit", "discard"] if grant == "--workdir" else []
    options = [grant, runner.work, *more, "--read", runner.place.root / "attack.py"]
    with _counting(runner) as process:
        ended = _attacked(runner, runner.command_line(_command(runner), options=options), process.pid)
        assert _received(process) == []
    assert ended.returncode == 0, ended
    told = json.loads(ended.stdout)
    assert told["mine"] > 0  # the ways work: who asks gets what is for his own group
    assert sum(outcome == "done" for outcome in told["done"].values()) > 60
    assert not any(
        told["done"][name] == "done"
        for name in told["done"]
        if name.startswith(("timer", "queue", "foreground"))
    )


def test_bare_they_reach_it(runner: Runner) -> None:
    with _counting(runner) as process:
        told = json.loads(_attacked(runner, _command(runner), process.pid).stdout)
        assert {10, 15, 29, 40} <= set(_received(process))
    assert told["mine"] > 0


def test_they_reach_it_without_the_scope(runner: Runner) -> None:
    options = ["--write", runner.work, "--read", runner.place.root / "attack.py"]
    runner.may_leave_temporary = True
    line = broken.command_line(broken.NO_SIGNAL_SCOPE, runner.command_line(_command(runner), options=options))
    with _counting(runner) as process:
        _attacked(runner, line, process.pid)  # kills sandlockd, too
        assert {10, 15, 29, 40} <= set(_received(process))


# What somebody outside asked for before: the program chooses the signal, and has it sent.
_INHERITED = """
import fcntl, os, signal, sys
for number in (signal.SIGIO, signal.SIGUSR2):
    signal.signal(number, signal.SIG_IGN)
fcntl.fcntl(0, 10, signal.SIGUSR2)  # F_SETSIG
fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
"""


@pytest.mark.parametrize("kind", [0, 1, 2])  # F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP
def test_an_owner_that_cannot_be_seen_from_here(runner: Runner, kind: int) -> None:
    """In another PID namespace: told as number 0, and of a thread as if there were none."""
    if os.geteuid() != 0 or not runner.place.user.is_root:
        pytest.skip("only root makes a PID namespace")
    line = runner.command_line([system_python(), "-S", "-c", _INHERITED])
    reading, writing = os.pipe()
    try:
        with _counting(runner) as process:
            fcntl.fcntl(reading, 15, struct.pack("=ii", kind, process.pid))  # F_SETOWN_EX
            ended = runner.run(["unshare", "-pf", "--mount-proc", *line], stdin=reading)
            os.write(writing, b"x")
            received = _received(process)
    finally:
        os.close(reading)
        os.close(writing)
    assert received == []
    if kind:
        assert ended.returncode == 125 and b"cannot be seen from here" in ended.stderr


@pytest.mark.parametrize("build", ["bare", "sandboxed", "broken"])
@pytest.mark.parametrize("as_group", [False, True])
def test_a_descriptor_that_already_has_an_owner_outside(runner: Runner, build: str, as_group: bool) -> None:
    """Landlock judges by who named the owner. So such a descriptor is given to no program."""
    command = [system_python(), "-S", "-c", _INHERITED]
    line = command if build == "bare" else runner.command_line(command)
    if build == "broken":
        patch = "from sandlockd.launch import prepare\nprepare._refuse_owners = lambda *_: None\n"
        line = broken.command_line(patch, line)
    reading, writing = os.pipe()
    try:
        with _counting(runner) as process:
            fcntl.fcntl(reading, fcntl.F_SETOWN, -process.pid if as_group else process.pid)
            ended = runner.run(line, stdin=reading)
            os.write(writing, b"x")
            received = _received(process)
    finally:
        os.close(reading)
        os.close(writing)
    if build == "sandboxed":
        assert (ended.returncode, received) == (125, [])
        assert b"stdin has its signals sent to" in ended.stderr and ended.stderr.count(b"\n") == 1
    else:
        assert (ended.returncode, received) == (0, [signal.SIGUSR2])
