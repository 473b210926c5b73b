"""What becomes of sandboxes that are over: those that a service before left alone are looked at, and old ones go."""

from __future__ import annotations

import time

import trio

from sandlockd.control import states
from sandlockd.control.states import Happening, Request, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from structlog.typing import FilteringBoundLogger

    from sandlockd.control.leftovers import Leftovers
    from sandlockd.control.sandboxes import Sandbox

_PAUSE_S, _AT_LEAST_S = 60.0, 0.5
_LOOKS_AT_ONCE = 4


class Retention:
    """sandboxes: of the service, by id. remove: one of them, with its changes kept safe; raises Problem."""

    def __init__(
        self,
        sandboxes: Mapping[str, Sandbox],
        left: Leftovers,
        remove: Callable[[Sandbox], Coroutine[Any, Any, None]],
        log: FilteringBoundLogger,
    ) -> None:
        self._sandboxes = sandboxes
        self._left = left
        self._remove = remove
        self._log = log
        self._forsaken: list[str] = []  # that the service before left alone
        self._one_has_ended = trio.Event()
        self._going: set[str] = set()
        self.forsaken_found = trio.Event()

    def forsake(self, identifier: str) -> None:
        """It has had no end of its own."""
        self._forsaken.append(identifier)

    async def seen(self, sandbox: Sandbox) -> None:
        """Wait until it is known whether a forsaken one keeps anything."""
        if sandbox.id in self._forsaken:
            await self.forsaken_found.wait()

    def one_has_ended(self) -> None:
        self._one_has_ended.set()

    async def run(self) -> None:
        """Now and then remove what has been over for long, or is too much."""
        await self._find_forsaken()
        async with trio.open_nursery() as nursery:
            while True:
                for sandbox in self._outdated():
                    if sandbox.id not in self._going:
                        self._going.add(sandbox.id)
                        nursery.start_soon(self._remove_old, sandbox)
                with trio.move_on_after(_PAUSE_S):
                    await self._one_has_ended.wait()
                await trio.sleep(_AT_LEAST_S)  # those that end together go together
                self._one_has_ended = trio.Event()

    async def _find_forsaken(self) -> None:
        """What those changed that had no end of their own is where it was: it is not lost with them."""
        at_once = trio.CapacityLimiter(_LOOKS_AT_ONCE)

        async def look(sandbox: Sandbox) -> None:
            async with at_once:
                changes = await self._left.changes(sandbox)
            if changes is not None and sandbox.record.status is not None and sandbox.state is State.FAILED:
                sandbox.record.status["changes"] = changes
                sandbox.happened(Happening.FOUND_KEPT)

        async with trio.open_nursery() as nursery:
            for identifier in self._forsaken:
                sandbox = self._sandboxes[identifier]
                if sandbox.record.policy_digest is not None:  # else it had not begun
                    nursery.start_soon(look, sandbox)
        self.forsaken_found.set()

    async def _remove_old(self, sandbox: Sandbox) -> None:
        """A task of its own: who removes it is its user's, and may keep others waiting for ever."""
        try:
            await self._remove(sandbox)
        except Exception as error:
            self._log.warning("an old sandbox stays", sandbox=sandbox.id, error=str(error))
        finally:
            self._going.discard(sandbox.id)

    def _outdated(self) -> list[Sandbox]:
        config = self._left.config
        before = time.time_ns() - config.age_s * 10**9
        seen: dict[int, int] = {}
        found = []
        for identifier in sorted(self._sandboxes, reverse=True):
            sandbox = self._sandboxes[identifier]
            if not states.may(Request.DELETE, sandbox.state):
                continue
            uid = sandbox.record.uid
            seen[uid] = seen.get(uid, 0) + 1
            if seen[uid] > config.per_user.ended or (sandbox.record.ended_ns or 0) < before:
                found.append(sandbox)
        return found
