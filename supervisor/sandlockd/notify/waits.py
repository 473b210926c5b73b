"""A call that waits in a worker thread, and what ends the wait besides its answer: the caller's signals, and its death.

Bare, a signal ends an open that waits for the other end of a FIFO. Here the caller waits for us, and since its call
was received only a fatal signal wakes it (WAIT_KILLABLE_RECV). So we look now and then whether one is pending. If so,
the worker is interrupted, and then the caller made to take its signals (native/engine.c, slk_answer_interrupted). The
kernel tells nobody of another process's pending signals, so this is one of the few places that look instead of waiting;
only for calls that wait for others: what copies a file looks once, when it is done.

The worker first: then the kernel decides, under the lock of the FIFO, whether the signal or the other end was earlier,
and the other end goes by that as well. Were it decided here, the other end could have been let through by an open of
ours whose descriptor nobody gets. A wait that cannot be interrupted goes on, as it does bare.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
from typing import Any

import trio

from sandlockd.handlers.answers import Fd, Later
from sandlockd.kernel import procfs
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.launching import POKE_SIGNAL
from sandlockd.process.key import Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.kernel.aside import Turn
    from sandlockd.kernel.engine import Request

_LOOK_EVERY_S = 0.02
# Each look takes the loop for 0.3 ms: one in 60 calls of others meets it at first, which they may notice. So the longer
# a call has waited, the less often: a signal is a tenth of the wait late, or 0.1 s.
_LOOK_AFTER_SHARE = 0.1
_LOOK_EVERY_S_MAX = 0.1
_LOOK_EVERY_S_PER_WAIT = 0.001  # the loop is for others, however many wait
_LOOK_EVERY_S_PER_TURN = 0.01  # the same of those that wait without a thread, whatever their signals
_ASK_AGAIN_AFTER_S = 1.0  # init did not answer in time: asking holds the loop up
_POKE_EVERY_S = 0.005
_POKES_MAX = 100  # a worker that waits for the waiter's answer is ended by that alone


class Interrupted(Exception):
    """The call was answered by its caller's signals: its slot is another call's by now."""


async def in_a_worker(
    request: Request,
    later: Later,
    limiter: trio.CapacityLimiter,
    *,
    alive: Callable[[Request], bool],
    interrupt: Callable[[Request], bool],
    poke: Callable[[int], None],
) -> Any:
    """What later.work returns. Raises what it raises, Interrupted, and Gone when nobody waits for it any more.

    interrupt: have the caller take its pending signals; False where that is not to be had. poke: interrupt what a
    worker thread waits for.
    """
    if later.is_busy:
        return await _done(request, later, limiter, alive, poke)
    ask_after = 0.0
    while True:
        work = _Work(later, poke)
        if not await _ends_while_alive(work, request, limiter, alive, ask_after):
            with trio.CancelScope(shield=True):  # cancelled here, the call would be answered once more
                await work.leave()
            raise Gone
        if not work.was_interrupted:
            return work.outcome()
        if interrupt(request):
            later.abandon()
            raise Interrupted
        ask_after = trio.current_time() + _ASK_AGAIN_AFTER_S


async def until_free(turn: Turn, alive: Callable[[], bool], count: Callable[[], int]) -> None:
    """Without a thread. count: how many wait so. Raises Gone when nobody waits for it any more."""
    is_free = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def tell() -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(is_free.set)

    turn.when_free(tell)
    while not is_free.is_set():
        with trio.move_on_after(max(_LOOK_EVERY_S_MAX, _LOOK_EVERY_S_PER_TURN * count())):
            await is_free.wait()
            return
        if not alive():
            raise Gone


async def _done(
    request: Request,
    later: Later,
    limiter: trio.CapacityLimiter,
    alive: Callable[[Request], bool],
    poke: Callable[[int], None],
) -> Any:
    """What later.work returns, without a look meanwhile: each takes 0.3 ms of the loop, and others notice."""
    work = _Work(later, poke)
    try:
        await trio.to_thread.run_sync(work.run, abandon_on_cancel=True, limiter=limiter)
    except BaseException:
        work.give_up()
        raise
    if not alive(request):
        work.give_up()
        raise Gone
    return work.outcome()


async def _ends_while_alive(
    work: _Work,
    request: Request,
    limiter: trio.CapacityLimiter,
    alive: Callable[[Request], bool],
    ask_after: float,
) -> bool:
    """False: nobody waits for it any more, and what it still has is given up."""
    is_alive = True
    try:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal is_alive
                is_alive = await _until_gone(work, request, limiter, alive, ask_after)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await trio.to_thread.run_sync(work.run, abandon_on_cancel=True, limiter=limiter)
            nursery.cancel_scope.cancel()
    except BaseException:
        work.give_up()
        raise
    if not is_alive:
        work.give_up()
    return is_alive


async def _until_gone(
    work: _Work,
    request: Request,
    limiter: trio.CapacityLimiter,
    alive: Callable[[Request], bool],
    ask_after: float,
) -> bool:
    """While the caller has a signal the worker is interrupted, again and again: it may be just before its wait."""
    begun = trio.current_time()
    while True:
        waited_s = trio.current_time() - begun
        interval_s = min(max(_LOOK_EVERY_S, _LOOK_AFTER_SHARE * waited_s), _LOOK_EVERY_S_MAX)
        await trio.sleep(max(interval_s, _LOOK_EVERY_S_PER_WAIT * limiter.borrowed_tokens))
        if not alive(request):
            return False
        if trio.current_time() >= ask_after and _has_signal(request.tid):
            begun = trio.current_time()
            work.poke()


def _has_signal(tid: int) -> bool:
    try:
        return procfs.has_pending_signal(tid)
    except OSError:
        return False  # it is going: the next look finds it gone


class _Work:
    """later.work in a thread that may be told to stop. What comes too late is released."""

    def __init__(self, later: Later, poke: Callable[[int], None]) -> None:
        self._later = later
        self._poke = poke
        self._lock = _thread.allocate_lock()
        self._thread = 0  # that is in later.work
        self._is_poked = False
        self._given_up = False
        self._result: Any = None
        self._error: Exception | None = None

    def run(self) -> None:
        with self._lock:
            if self._given_up:
                return
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (POKE_SIGNAL,))
            self._thread = _thread.get_native_id()
        result, error = None, None
        try:
            result = self._later.work()
        except Exception as raised:
            error = raised
        with self._lock:
            self._thread = 0
            self._result, self._error = result, error
            if self._given_up:
                self._release()
                self._later.abandon()

    @property
    def was_interrupted(self) -> bool:
        """By us, and nothing was done: it may be run again."""
        return self._is_poked and isinstance(self._error, InterruptedError)

    def outcome(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result

    def give_up(self) -> None:
        with self._lock:
            self._given_up = True
            self._release()
            if not self._thread:
                self._later.abandon()

    def _release(self) -> None:
        result, self._result = self._result, None
        if isinstance(result, OwnedFd):
            result.close()
        elif isinstance(result, Fd):
            os.close(result.fd)
        elif isinstance(result, Later):
            result.abandon()

    def poke(self) -> bool:
        """Interrupt the call that it waits in. False: it is in none any more."""
        with self._lock:
            if not self._thread:
                return False
            self._is_poked = True
            self._poke(self._thread)
            return True

    async def leave(self) -> None:
        """Again and again: it may be just before the call that it waits in."""
        for _ in range(_POKES_MAX):
            if not self.poke():
                return
            await trio.sleep(_POKE_EVERY_S)
