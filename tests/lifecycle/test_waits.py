"""Calls that a worker thread serves: what is looked at meanwhile. On real threads, and a clock that does not wait."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from sandlockd.handlers.answers import EIO, Later
from sandlockd.kernel.engine import Request
from sandlockd.notify.waits import in_a_worker
from sandlockd.process.key import Gone

_NOBODY = 1 << 22  # PID_MAX_LIMIT: no thread has that number
_REQUEST = Request(1, _NOBODY, 0, (0,) * 6, 0, 0, b"", 0, 0)
_LONG_S = 60


class _Call:
    """Whose worker ends when it is told to, and whose caller is gone from then on if it is said so."""

    def __init__(self, *, is_busy: bool) -> None:
        self._may_end = threading.Event()
        self.looks = 0
        self.is_alive = True
        self.later = Later(self._work, lambda _: EIO, lambda: None, is_busy=is_busy)

    def _work(self) -> str:
        self._may_end.wait()
        return "done"

    def _look(self, request: Request) -> bool:
        self.looks += 1
        return self.is_alive

    async def result(self) -> object:
        """After a time in which nothing comes of it. Gone is returned."""

        async def end_it_later() -> None:
            await trio.sleep(_LONG_S)
            self._may_end.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_it_later)
            try:
                return await in_a_worker(
                    _REQUEST,
                    self.later,
                    trio.CapacityLimiter(1),
                    alive=self._look,
                    interrupt=lambda request: False,
                    poke=lambda thread: None,
                )
            except Gone as gone:
                return gone
            finally:
                self._may_end.set()
                nursery.cancel_scope.cancel()


def _run(call: _Call) -> object:
    return trio.run(call.result, clock=trio.testing.MockClock(autojump_threshold=0.001))


def test_a_call_that_waits_for_others_is_looked_at_again_and_again_though_not_all_the_time() -> None:
    """Each look takes the loop from others: 50 a second is too often for who has waited for long."""
    call = _Call(is_busy=False)
    assert _run(call) == "done"
    assert 9 * _LONG_S < call.looks < 12 * _LONG_S


def test_a_copy_is_looked_at_when_it_is_done_and_not_before() -> None:
    """Nothing would come of it."""
    call = _Call(is_busy=True)
    assert _run(call) == "done"
    assert call.looks == 1


@pytest.mark.parametrize("is_busy", [False, True])
def test_nothing_is_answered_for_a_caller_that_is_gone(is_busy: bool) -> None:
    call = _Call(is_busy=is_busy)
    call.is_alive = False
    assert isinstance(_run(call), Gone)
