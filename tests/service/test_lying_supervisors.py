"""A supervisor belongs to its user, who can take its line to the service and say anything by it: to nobody's harm but
that user's.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.service import Served
from harness.waiting import until

from sandlockd.control import messages
from sandlockd.control.messages import Began, Denied, Ended, Ready, Said, Started, Told, Worked

_PIDFD_GETFD = 438
_CHANNEL = 3  # where zygote.py leaves it

pytestmark = pytest.mark.parametrize("as_user", ["root"], indirect=True)


@contextlib.contextmanager
def _line_of(supervisor: int) -> Iterator[socket.socket]:
    """Its end of the line to the service."""
    assert "socket:" in os.readlink(f"/proc/{supervisor}/fd/{_CHANNEL}")
    pidfd = os.pidfd_open(supervisor)
    fd = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, _CHANNEL, 0)
    os.close(pidfd)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    with socket.socket(fileno=fd) as line:
        line.setblocking(False)
        yield line


def _lives(pid: int) -> bool:
    """A zombie, whom somebody else reaps, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


_LIES = {
    "rubbish": b"\xff" * 100,
    "nothing": b"h",
    "no-message": b"h\x81\xa4type\xa3bad",
    "too-long": b"h" * 40_000,
    "beside-without": b"b",
    "ready-again": b"h" + messages.encoded(Ready(1)),
    "began-again": b"h" + messages.encoded(Began("x", "0")),
    "started-again": b"h" + messages.encoded(Started(1)),
    "worked": b"h" + messages.encoded(Worked("done")),
    "long-line": b"h" + messages.encoded(Said("x" * 5000)),
}


@pytest.mark.parametrize("kind", _LIES)
def test_what_it_may_not_say_ends_its_sandbox_only(served: Served, kind: str) -> None:
    served.runner.may_leave_temporary = True
    other = served.run(["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"])["id"]
    until(lambda: served.output(other), "it is ready")
    made = served.run(["sleep", "1000"])
    with _line_of(made["supervisor_pid"]) as line:
        line.send(_LIES[kind])
    ended = served.wait(made["id"])
    assert (ended["state"], ended["error"]) == ("failed", "its supervisor was lost")
    assert not _lives(made["pid"])
    assert served.post(f"/v1/sandboxes/{other}/stop")["exit_status"] == 5


_NAMES = {
    "kept-nobody": (messages.Kept(), lambda stranger: []),
    "kept-no-process": (messages.Kept(), lambda stranger: [os.open("/dev/null", os.O_RDONLY)]),
    "kept-by-a-stranger": (messages.Kept(), lambda stranger: [os.pidfd_open(stranger)]),
    "replaced-by-a-stranger": (messages.Replaced(), lambda stranger: [os.pidfd_open(stranger)]),
    "kept-by-two": (
        messages.Kept(),
        lambda stranger: [os.pidfd_open(os.getpid()), os.pidfd_open(os.getpid())],
    ),
}


@pytest.mark.parametrize("kind", _NAMES)
def test_whom_it_names_is_not_ended_for_it(served: Served, kind: str) -> None:
    """The service may end any process; a supervisor those of its user."""
    served.runner.may_leave_temporary = True
    made = served.run(["sleep", "1000"])
    message, descriptors = _NAMES[kind]
    with subprocess.Popen(["sleep", "1000"], user=65534, group=65534, extra_groups=[]) as stranger:
        try:
            fds = descriptors(stranger.pid)
            with _line_of(made["supervisor_pid"]) as line:
                socket.send_fds(line, [b"h" + messages.encoded(message)], fds)
            for fd in fds:
                os.close(fd)
            ended = served.wait(made["id"])
            assert (ended["state"], ended["error"]) == ("failed", "its supervisor was lost")
            assert not _lives(made["pid"]) and _lives(stranger.pid)
        finally:
            stranger.kill()


@pytest.mark.soak  # it is given some seconds to end
def test_an_end_that_is_none_is_its_end(served: Served) -> None:
    """Whatever the status says: it is shown for that sandbox, and what still lives of it is ended."""
    served.runner.may_leave_temporary = True
    made = served.run(["sleep", "1000"])
    status = {
        "reason": 7,
        "changes": "none",
        "denials": "many",
        "usage": [1],
        "error": {"x": 1},
        "exit_code": "no",
    }
    with _line_of(made["supervisor_pid"]) as line:
        line.send(b"h" + messages.encoded(Ended(status, 1 << 40)))
    ended = served.wait(made["id"])
    assert ended["state"] not in ("running", "stopping")
    assert not _lives(made["pid"])
    assert served.ask("GET", "/metrics").status == 200 and served.get("/v1/sandboxes")["sandboxes"]


def _sealed(line: socket.socket, content: bytes) -> None:
    """As a supervisor says what is longer than a packet."""
    fd = os.memfd_create("beside", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    try:
        socket.send_fds(line, [b"b"], [fd])
    finally:
        os.close(fd)


def test_a_report_that_is_longer_than_any_of_ours_is_not_looked_at(served: Served) -> None:
    """The more there is in it, the longer it would take everybody's loop."""
    served.runner.may_leave_temporary = True
    made = served.run(["sleep", "1000"])
    with _line_of(made["supervisor_pid"]) as line:
        _sealed(line, messages.encoded(Told(1, {str(number): number for number in range(200_000)})))
    ended = served.wait(made["id"])
    assert (ended["state"], ended["error"]) == ("failed", "its supervisor was lost")
    assert "a report that is too long" in served.log.read_text()


def test_long_words_count_as_many(served: Served) -> None:
    made = served.run(["sleep", "1000"])
    word = messages.encoded(Told(1, {"x": "y" * 400_000}))
    with _line_of(made["supervisor_pid"]) as line:
        sent, waiting, end = 0, select.poll(), time.monotonic() + 1
        waiting.register(line, select.POLLOUT)
        while sent < 2500 and time.monotonic() < end:
            waiting.poll(100)
            with contextlib.suppress(BlockingIOError):
                _sealed(line, word)
                sent += 1
        # A hundred of them are 40 MB; what waits on the line is some more.
        assert sent < 700
        assert served.wait(served.run(["sh", "-c", "exit 3"])["id"])["exit_status"] == 3
    assert served.post(f"/v1/sandboxes/{made['id']}/kill")["state"] == "exited"


def test_a_flood_of_words_keeps_nobody_else_waiting(served: Served) -> None:
    made = served.run(["sleep", "1000"])
    word = b"h" + messages.encoded(Denied("open", "x" * 4000, "rule", 1, 1))
    with _line_of(made["supervisor_pid"]) as line:
        sent, waiting, end = 0, select.poll(), time.monotonic() + 1
        waiting.register(line, select.POLLOUT)
        while sent < 2500 and time.monotonic() < end:
            waiting.poll(100)
            with contextlib.suppress(BlockingIOError):
                line.send(word)
                sent += 1
        # It is read no faster than it may speak.
        assert sent < 2500
        assert served.wait(served.run(["sh", "-c", "exit 3"])["id"])["exit_status"] == 3
    assert served.post(f"/v1/sandboxes/{made['id']}/kill")["state"] == "exited"
