"""What systemd hands over and wants to hear (sd_listen_fds(3), sd_notify(3)), by a test in its place."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.interpreter import SANDLOCKD
from harness.running import Argument, Runner
from harness.unix_http import UnixConnection, ask
from harness.waiting import PATIENCE_S

pytestmark = pytest.mark.one_user  # what systemd says is the same to all

# As systemd does it: the descriptor after the streams, and the process that it is for.
_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def _started(
    runner: Runner, given: socket.socket, *options: Argument, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    fd = given.fileno()
    line: list[Argument] = [sys.executable, "-c", _HAND_OVER, str(fd), SANDLOCKD, "serve", *options]
    line += ["--state-dir", runner.place.state, "--socket", runner.place.root / "s"]
    with runner.started(line, env=environment, pass_fds=(fd,)) as process:
        yield process


def _notified(runner: Runner) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    line.bind(str(runner.place.root / "notify"))
    (runner.place.root / "notify").chmod(0o666)
    line.settimeout(PATIENCE_S)
    return line


def test_a_given_socket_is_served_and_left_where_it_is(runner: Runner) -> None:
    """And whoever started it is told when it listens, that it goes round, how it reloads, and that it ends."""
    path = runner.place.root / "given"
    environment = {"NOTIFY_SOCKET": str(runner.place.root / "notify"), "WATCHDOG_USEC": "300000"}
    with _notified(runner) as told, socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        path.chmod(0o666)
        given.listen()
        with _started(runner, given, **environment) as process:
            lines: list[str] = []
            while "READY=1" not in lines or lines.count("WATCHDOG=1") < 2:
                lines += told.recv(4096).decode().splitlines()
            answer = ask(UnixConnection(path, PATIENCE_S), "GET", "/healthz", None)
            assert answer.status == 200
            process.send_signal(signal.SIGHUP)
            lines = []
            while "READY=1" not in lines:
                lines += told.recv(4096).decode().splitlines()
            assert lines.index("RELOADING=1") < lines.index("READY=1")
            process.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in lines:
                lines += told.recv(4096).decode().splitlines()
            assert process.wait(PATIENCE_S) == 0
        assert path.exists()
        assert not (runner.place.root / "s").exists()


def test_what_the_configuration_says_of_a_given_socket_is_told_to_be_of_no_use(runner: Runner) -> None:
    path = runner.place.root / "given"
    config = runner.place.file("service.toml", '[access]\nsocket_mode = "0600"\n')
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        given.listen()
        with _started(runner, given, "--config", config) as process:
            assert process.stderr is not None
            told = json.loads(process.stderr.readline())
            assert (told["level"], told["key"]) == ("warning", "access.socket_mode")
            assert json.loads(process.stderr.readline())["event"] == "listens"


def test_who_does_not_listen_to_it_any_more_ends_nothing(runner: Runner) -> None:
    path = runner.place.root / "given"
    environment = {"NOTIFY_SOCKET": str(runner.place.root / "notify"), "WATCHDOG_USEC": "30000"}
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        path.chmod(0o666)
        given.listen()
        with _notified(runner) as told, _started(runner, given, **environment) as process:
            while b"READY=1" not in told.recv(4096):
                pass
            told.close()
            assert process.stderr is not None
            events = (json.loads(line) for line in process.stderr)
            assert next(one for one in events if one["event"] == "systemd was not told")["level"] == "warning"
            assert ask(UnixConnection(path, PATIENCE_S), "GET", "/healthz", None).status == 200


@pytest.mark.parametrize("kind", ["tcp", "datagram", "connected"])
def test_a_socket_that_does_not_tell_who_connects_is_refused(runner: Runner, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        if kind == "connected":
            given, other = socket.socketpair()
            stack.enter_context(other)
        elif kind == "tcp":
            given = socket.socket()
            given.bind(("127.0.0.1", 0))
            given.listen()
        else:
            given = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            given.bind(str(runner.place.root / "given"))
        stack.enter_context(given)
        process = stack.enter_context(_started(runner, given))
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr is not None
        assert "given by systemd" in process.stderr.read().decode()


def test_lines_for_the_journal_begin_with_their_priority(runner: Runner) -> None:
    config = runner.place.file("service.toml", "[per_user]\nsandboxen = 1\n")
    log = runner.place.file("log")
    with log.open("ab") as output:
        found = os.fstat(output.fileno())
        ended = runner.sandlockd(
            "serve",
            "--config",
            config,
            "--state-dir",
            runner.place.state,
            "--socket",
            Path(runner.place.root, "s"),
            env={"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
            stderr=output,
        )
    assert ended.returncode == 78
    line = log.read_text()
    assert line.startswith("<3>{")
    assert "sandboxen" in json.loads(line.removeprefix("<3>"))["why"]
