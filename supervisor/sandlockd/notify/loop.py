"""The trio side of the loop: one task that owns the listener, and a pump that saves trio the waking.

The task alone is complete: it waits for the listener to become readable, drains it and dispatches. But a wake through
trio costs 10 us of Python, and most calls are settled in C. So the pump sleeps in trio's stead: as an instrument
(trio.abc.Instrument, before_io_wait) it is called whenever trio is about to sleep, waits for the listener and for
trio's own epoll descriptor together, and serves the listener in C meanwhile. Requests that need Python are dispatched
right there, between two steps of trio, so handlers never run concurrently with a task.

If the pump fails, it says so to the task, which then works alone.
"""

from __future__ import annotations

import math
import os
import time

import trio

from sandlockd.notify.listener import NotifFdState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.kernel.engine import Engine
    from sandlockd.notify.dispatch import Dispatcher

_SLEEP_MAX_S = 86400.0
_AGAIN_S = 0.001


class Loop:
    """Serves the listeners of an engine until the first is terminal."""

    def __init__(
        self,
        engine: Engine,
        dispatcher: Dispatcher,
        new_thread: Callable[[int], None],
        pump_failed: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._new_thread = new_thread
        self._pump_failed = pump_failed

    async def run(self, *, use_pump: bool = True) -> None:
        """Serve until the last task with the filter is gone."""
        epoll_fd = await epoll_of_trio() if use_pump else -1
        if epoll_fd >= 0:
            pump = _Pump(self, epoll_fd, trio.lowlevel.current_trio_token())
            trio.lowlevel.add_instrument(pump)
            try:
                await pump.ended.wait()
            finally:
                trio.lowlevel.remove_instrument(pump)
            if pump.error is None:
                return
            self._pump_failed(pump.error)
        elif use_pump:
            self._pump_failed(LookupError("no epoll descriptor of trio's found"))
        await self._run_alone()

    async def _run_alone(self) -> None:
        while True:
            with trio.move_on_after(_AGAIN_S if self._engine.holds_forks else math.inf):
                await self._wait_readable()
            if self.drain() is NotifFdState.TERMINAL:
                return

    async def _wait_readable(self) -> None:
        async with trio.open_nursery() as nursery:

            async def wait(fd: int) -> None:
                await trio.lowlevel.wait_readable(fd)
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, self._engine.listener_fd)
            nursery.start_soon(wait, self._engine.further_fd)

    def drain(self) -> NotifFdState:
        """Receive and dispatch what is queued. No await in here: answers go out in the order of the questions."""
        state, requests = self._engine.drain()
        for request in requests:
            self._dispatcher.dispatch(request)
        self.take_new_threads()
        return NotifFdState(state)

    def pump(self, epoll_fd: int, timeout_s: float) -> tuple[NotifFdState, bool]:
        """Serve in C for trio's sleep: (state, trio has something to do)."""
        state, requests, other = self._engine.pump(epoll_fd, timeout_s)
        for request in requests:
            self._dispatcher.dispatch(request)
        if not requests:
            self.take_new_threads()  # registering costs 60 us: only when nobody waits for an answer
        return NotifFdState(state), other

    def take_new_threads(self) -> None:
        for tid in self._engine.new_threads():
            self._new_thread(tid)


class _Pump(trio.abc.Instrument):
    """Sleeps in trio's stead until the listener is terminal."""

    def __init__(self, loop: Loop, epoll_fd: int, token: trio.lowlevel.TrioToken) -> None:
        self._loop = loop
        self._epoll_fd = epoll_fd
        self._token = token
        self.ended = trio.Event()
        self.error: Exception | None = None
        self._over = False

    def before_io_wait(self, timeout: float) -> None:
        if self._over or timeout <= 0:
            return
        try:
            terminal = self._serve(min(timeout, _SLEEP_MAX_S))
        except Exception as error:
            self.error = error
            terminal = True
        if terminal:
            self._over = True
            self._token.run_sync_soon(self.ended.set)  # also wakes trio from the sleep that follows

    def _serve(self, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            state, trio_is_due = self._loop.pump(self._epoll_fd, left)
            if state is NotifFdState.TERMINAL:
                return True
            if trio_is_due:
                break
        # Now trio sleeps for as long as it had meant to, with nobody at the listener, unless something wakes it. What
        # made its epoll readable may be gone by now: what was done here may have let go of the very process whose end
        # it was, and made the task runnable that trio believes is none.
        self._token.run_sync_soon(_nothing, idempotent=True)
        return False


def _nothing() -> None:
    """Wakes trio."""


async def epoll_of_trio() -> int:
    """The epoll descriptor that trio sleeps on, or -1 where it cannot be told.

    trio does not publish it, but the kernel says which descriptors an epoll watches (proc_pid_fdinfo(5), "tfd"): have
    trio watch one of ours and look for it.
    """
    marker, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    found = -1
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, marker)
            # trio shuffles the tasks that are due: after one turn the watcher may still be to come, in the same turn.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            found = _epoll_that_watches(marker)
            nursery.cancel_scope.cancel()
    finally:
        os.close(marker)
        os.close(writer)
    return found


def _epoll_that_watches(fd: int) -> int:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") != "anon_inode:[eventpoll]":
                continue
            with open(f"/proc/self/fdinfo/{name}", "rb") as file:
                watched = [line.split()[1] for line in file if line.startswith(b"tfd:")]
        except OSError:
            continue  # the descriptor of the listing itself
        if b"%d" % fd in watched:
            return int(name)
    return -1
