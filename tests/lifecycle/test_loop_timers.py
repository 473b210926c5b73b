"""The pump sleeps in trio's stead: timers of trio stay on time, and the program is served while they run out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from harness.supervisor_driver import new_sandbox

from sandlockd.sandbox.sandbox import Sandbox

_TIMER_S = 0.3
_ROUNDS = 5

# For each line of input: a trapped call, then the line is written back.
_ASK_AND_ECHO = b"while read line; do read x < /proc/self/comm; echo $line; done"


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """(program's input, ours to it, ours from it, program's output)"""
    program_in, to_program = os.pipe()
    from_program, program_out = os.pipe()
    yield program_in, to_program, from_program, program_out
    for fd in (program_in, to_program, from_program, program_out):
        os.close(fd)


@pytest.fixture
def sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipes: tuple[int, int, int, int]
) -> Iterator[Sandbox]:
    monkeypatch.setenv("SANDLOCKD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (tmp_path / "private").mkdir()
    made = new_sandbox("base", [b"bash", b"-c", _ASK_AND_ECHO], os.fsencode(tmp_path / "private"))
    made.start(stdio=(pipes[0], pipes[3], -1))
    yield made
    made.kill()
    made.close()


async def _ask(pipes: tuple[int, int, int, int]) -> None:
    os.write(pipes[1], b"x\n")
    await trio.lowlevel.wait_readable(pipes[2])
    assert os.read(pipes[2], 2) == b"x\n"


@pytest.mark.alone
@pytest.mark.trio
async def test_timers_of_an_idle_sandbox_are_on_time(
    sandbox: Sandbox, pipes: tuple[int, int, int, int]
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sandbox.serve)
        with trio.fail_after(20):
            await _ask(pipes)
        start = time.monotonic()
        for _ in range(_ROUNDS):
            await trio.sleep(_TIMER_S)
        took_s = time.monotonic() - start
        sandbox.kill()
    assert took_s < _ROUNDS * _TIMER_S * 1.5


@pytest.mark.alone
@pytest.mark.trio
async def test_a_call_is_answered_at_once_while_timers_run_out(
    sandbox: Sandbox, pipes: tuple[int, int, int, int]
) -> None:
    slowest_s = 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sandbox.serve)
        with trio.fail_after(20):
            await _ask(pipes)
        for _ in range(_ROUNDS):
            with trio.move_on_after(_TIMER_S):
                await trio.sleep_forever()
            start = time.monotonic()
            await _ask(pipes)
            slowest_s = max(slowest_s, time.monotonic() - start)
        sandbox.kill()
    assert slowest_s < _TIMER_S / 2
