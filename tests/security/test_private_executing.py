"""`proc.pids = "own"`: what is executed, and names an interpreter by way of a process outside, tells nothing of it."""

from __future__ import annotations

import pytest
from harness.running import Runner, system_python
from security import strangers
from security.canaries import victim

_OPENED = """
import ctypes, os
libc = ctypes.CDLL(None)
os.mkfifo("fifo")
watch = libc.inotify_init1(os.O_NONBLOCK)
print(libc.inotify_add_watch(watch, b"fifo", 0x20))
here = os.fsencode(os.path.basename(os.getcwd()))
for name, head in (("script", b"#!fifo\\n"), ("spaced", b"#! ./fifo x"), ("up", b"#!../%b/fifo" % here)):
    with open(name, "wb") as file:
        file.write(head)
    os.chmod(name, 0o755)
    try:
        os.execv("./" + name, [name])
    except OSError as error:
        print(error.strerror)
try:
    os.execv("./fifo", ["fifo"])
except OSError as error:
    print(error.strerror)
try:
    print(os.read(watch, 4096))
except BlockingIOError:
    print("not opened")
os.unlink("fifo")
"""


@pytest.mark.parametrize("options", [["--write", "."], ["--workdir", ".", "--on-exit", "discard"]])
def test_what_the_kernel_would_not_execute_is_not_opened_to_look_at_it(
    runner: Runner, options: list[str]
) -> None:
    """Opening it does something to it: a FIFO has a reader then, and a device is set going."""
    bare = runner.bare([system_python(), "-c", _OPENED])
    ended = runner.sandboxed([system_python(), "-c", _OPENED], options=options, policy=strangers.POLICY)
    assert bare.stdout == ended.stdout
    assert ended.stdout == b"1\n" + b"Permission denied\n" * 4 + b"not opened\n", ended


_LEASED = """
import fcntl, os, signal
fd = os.open("script", os.O_RDONLY)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})  # it tells the holder that somebody waits
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
child = os.fork()
if child == 0:
    try:
        os.execv("./script", ["script"])
    except OSError as error:
        os.write(1, error.strerror.encode())
    os._exit(0)
signal.sigwait({signal.SIGIO})
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
os.waitpid(child, 0)
"""


def _of_leased(runner: Runner, number: int, way: str) -> tuple[bytes, bytes]:
    """What an execve gives that has to wait for the holder of a lease: bare and sandboxed."""
    script = runner.place.file("work/script", f"#!/proc/{number}/comm\n")
    script.chmod(0o755)
    code = [system_python(), "-c", _LEASED]
    return (
        runner.bare(code).stdout,
        runner.sandboxed(code, options=[way, runner.work], policy=strangers.POLICY).stdout,
    )


@pytest.mark.parametrize("way", ["--write", "--workdir"])
def test_who_is_named_by_a_script_that_somebody_has_a_lease_on(runner: Runner, way: str) -> None:
    with victim(runner) as (process, _):
        assert _of_leased(runner, process.pid, way) == (b"Permission denied", b"No such file or directory")
    free = b"No such file or directory"
    assert _of_leased(runner, strangers.a_free_number(), way) == (free, free)


_READ_BEFORE = "cat script >/dev/null; ./script; test -x script; ./script; exit 0"


@pytest.mark.parametrize("way", ["--write", "--workdir"])
def test_who_is_named_by_a_script_that_was_read_before(runner: Runner, way: str) -> None:
    """What was found out for the one call is nothing that the other may rely on."""
    with victim(runner) as (process, _):
        runner.place.file("work/script", f"#!/proc/{process.pid}/comm\n").chmod(0o755)
        command = ["bash", "-c", _READ_BEFORE]
        ended = runner.sandboxed(command, options=[way, runner.work], policy=strangers.POLICY)
    assert ended.stderr.count(b"cannot execute: required file not found") == 2, ended
