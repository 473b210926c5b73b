"""The three states of a real listener, over the life of a real program."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.supervisor_driver import new_sandbox
from harness.waiting import until

from sandlockd.notify.listener import NotifFdState, state_of
from sandlockd.sandbox.phase import Phase
from sandlockd.sandbox.sandbox import Sandbox


class Driven:
    """A sandbox in this process, served step by step. The program is `cat`, which ends with its input."""

    def __init__(self, directory: Path) -> None:
        program_in, self.to_program = os.pipe()
        self.from_program, program_out = os.pipe()
        self.sandbox: Sandbox = new_sandbox("base", [b"cat"], os.fsencode(directory))
        self.sandbox.start(stdio=(program_in, program_out, -1))
        os.close(program_in)
        os.close(program_out)

    @property
    def state(self) -> NotifFdState:
        return state_of(self.sandbox.engine)

    def serve_until_readable(self, fd: int) -> None:
        self.sandbox.serve_early(time.monotonic() + 20, fd)

    def end_input(self) -> None:
        if self.to_program >= 0:
            os.close(self.to_program)
            self.to_program = -1

    def close(self) -> None:
        self.end_input()
        os.close(self.from_program)
        self.sandbox.kill()
        self.sandbox.close()


@pytest.fixture
def driven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driven]:
    monkeypatch.setenv("SANDLOCKD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (tmp_path / "private").mkdir()
    made = Driven(tmp_path / "private")
    yield made
    made.close()


def test_a_call_that_waits_for_its_answer_is_pending(driven: Driven) -> None:
    """The program's own execve is the first."""
    poll = select.poll()
    poll.register(driven.sandbox.engine.listener_fd, select.POLLIN)
    assert poll.poll(20_000)
    assert driven.state is NotifFdState.PENDING
    assert driven.state is NotifFdState.PENDING  # asking takes nothing


def test_a_program_that_asks_nothing_leaves_it_empty(driven: Driven) -> None:
    os.write(driven.to_program, b"x")
    driven.serve_until_readable(driven.from_program)
    assert os.read(driven.from_program, 1) == b"x"
    assert driven.state is NotifFdState.EMPTY
    assert driven.sandbox.phase is Phase.RUNNING


def test_after_the_last_process_it_is_terminal_and_stays_so(driven: Driven) -> None:
    driven.end_input()
    driven.sandbox.serve_early(time.monotonic() + 20)
    assert driven.sandbox.phase is Phase.ENDED
    until(lambda: driven.state is NotifFdState.TERMINAL, "the hang-up of the listener")
    assert driven.state is NotifFdState.TERMINAL
    state, requests = driven.sandbox.engine.drain()
    assert (NotifFdState(state), requests) == (NotifFdState.TERMINAL, [])
    state, _, _ = driven.sandbox.engine.pump(driven.from_program, 5)
    assert NotifFdState(state) is NotifFdState.TERMINAL


def test_a_drain_of_an_empty_listener_does_not_block(driven: Driven) -> None:
    """RECV would, whatever O_NONBLOCK says."""
    os.write(driven.to_program, b"x")
    driven.serve_until_readable(driven.from_program)
    start = time.monotonic()
    state, requests = driven.sandbox.engine.drain()
    assert (NotifFdState(state), requests) == (NotifFdState.EMPTY, [])
    assert time.monotonic() - start < 1
