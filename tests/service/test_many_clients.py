"""Silent, slow and many clients: each ends by its own time, and nobody else waits for it."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator

import pytest
from harness.running import Runner
from harness.service import Served, service
from harness.waiting import until

pytestmark = pytest.mark.one_user

_HEAD = b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"


@pytest.fixture
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 5000:
        pytest.skip("no more than {hard} descriptors are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (5000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _ended(line: socket.socket) -> bytes:
    """All that comes until it is closed."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while block := line.recv(65536):
            got += block
    return got


def test_two_thousand_idle_connections_keep_nobody_waiting_and_end(runner: Runner, descriptors: None) -> None:
    config = '[per_user]\nconnections = 3000\n[connections]\nidle = "3s"\n[starting]\nwarm = 1\n'
    with service(runner, config=config) as served, contextlib.ExitStack() as stack:
        lines = [stack.enter_context(served.connected()) for _ in range(2000)]
        for line in lines[::3]:
            line.sendall(b"GET /healthz HTTP/1.1\r\nhost")  # half a head
        assert served.wait(served.run(["sh", "-c", "exit 3"])["id"])["exit_status"] == 3
        for line in lines:
            line.settimeout(20)
            assert _ended(line) == b""
        until(lambda: served.connections() == 1, "all are closed")
        served.remove_all()


def _asked(line: socket.socket) -> None:
    """The answer is there, and all of it read."""
    line.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    got = b""
    while not got.endswith(b"}"):
        got += line.recv(4096)
    assert got.startswith(b"HTTP/1.1 200 ")


def test_more_connections_than_a_user_may_have_are_refused_with_a_word(runner: Runner) -> None:
    with service(runner, config="[per_user]\nconnections = 8\n[starting]\nwarm = 1\n") as served:
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(served.connected()) for _ in range(8)]
            for line in lines:  # each is counted by then
                _asked(line)
            told = served.problem(429, "GET", "/healthz")
            assert "8 connections" in told["detail"]
            _asked(lines[0])
        until(lambda: served.ask("GET", "/healthz").status == 200, "there is room again")


@pytest.fixture
def hurried(runner: Runner) -> Iterator[Served]:
    config = '[connections]\nidle = "1s"\nbody = "1s"\n[starting]\nwarm = 1\n'
    with service(runner, config=config) as served:
        yield served


def test_a_head_that_comes_byte_by_byte_ends_in_its_time(hurried: Served) -> None:
    with hurried.connected() as line, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        began = time.monotonic()
        for byte in b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 100:
            line.sendall(bytes([byte]))
            time.sleep(0.05)
        pytest.fail(f"it was let go on for {time.monotonic() - began} s")
    hurried.get("/healthz")


def test_a_body_that_does_not_come_is_408(hurried: Served) -> None:
    with hurried.connected() as line:
        line.sendall(_HEAD + b'{"command": ')
        assert b" 408 " in _ended(line).split(b"\r\n")[0]
    hurried.get("/healthz")


def test_a_body_that_comes_byte_by_byte_is_408_too(hurried: Served) -> None:
    with hurried.connected() as line:
        line.sendall(_HEAD)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                line.sendall(b" ")
                time.sleep(0.05)
        assert b" 408 " in _ended(line).split(b"\r\n")[0]


def test_an_answered_connection_ends_when_it_is_idle(hurried: Served) -> None:
    with hurried.connected() as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b" 200 " in _ended(line)


def test_who_waits_or_follows_is_not_idle(hurried: Served) -> None:
    one = hurried.run(["sh", "-c", "sleep 1.5; echo x"])["id"]
    with hurried.connected() as line:
        line.sendall(
            f"GET /v1/sandboxes/{one}/logs?follow=true HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
        )
        assert b'"data":"x\\n"' in _ended(line)
    hurried.remove_all()
