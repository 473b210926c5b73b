"""Supervisors that wait for work: a start need not wait for a fork. And the zygote that they come from; one that was
lost is followed by another.
"""

from __future__ import annotations

import trio

from sandlockd.control.supervisors import Supervisor, SupervisorLost, Zygote, ZygoteLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_PAUSE_S = 1.0  # before the next try, where none could be made


class NoneToBeHad(Exception):
    """No supervisor can be made now. One line."""


class Pool:
    """size: how many wait. descriptor_limit: of programs, the soft one. Used by one trio run."""

    def __init__(self, size: int, log: FilteringBoundLogger, descriptor_limit: int) -> None:
        self.size = size
        self._descriptor_limit = descriptor_limit
        self._log = log
        self._warm: list[Supervisor] = []
        self._taken = trio.Event()
        self._zygote: Zygote | None = None
        self._making = trio.Lock()
        self._is_closing = False

    @property
    def waiting(self) -> int:
        return len(self._warm)

    def resize(self, size: int) -> None:
        self.size = size
        self._taken.set()

    async def take(self) -> Supervisor:
        """Raises NoneToBeHad."""
        self._taken.set()
        while self._warm:
            supervisor = self._warm.pop(0)
            if not supervisor.has_ended:
                return supervisor
            supervisor.close()
        try:
            return await self._made()
        except (OSError, SupervisorLost, ZygoteLost) as error:
            raise NoneToBeHad(f"no supervisor can be started: {error}") from None

    async def _made(self) -> Supervisor:
        """Raises OSError, SupervisorLost, ZygoteLost."""
        async with self._making:
            if self._zygote is None or self._zygote.is_lost:
                await self._replace_zygote()
            zygote = self._zygote
        assert zygote is not None
        return await zygote.supervisor()

    async def _replace_zygote(self) -> None:
        if self._zygote is not None:
            self._log.warning("the zygote was lost; another one is started")
            await trio.to_thread.run_sync(self._zygote.close)
        self._zygote = await trio.to_thread.run_sync(Zygote, self._descriptor_limit)
        self._nursery.start_soon(self._zygote.run)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep so many waiting."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    await self._fill()
                    await self._taken.wait()
                    self._taken = trio.Event()
        finally:
            self.close()

    async def _fill(self) -> None:
        while len(self._warm) < self.size:
            try:
                self._warm.append(await self._made())
            except (OSError, SupervisorLost, ZygoteLost) as error:
                self._log.error("no supervisor can be started", error=str(error))
                await trio.sleep(_PAUSE_S)
        while len(self._warm) > self.size:
            self._warm.pop().close()

    def close(self) -> None:
        """Those that wait end by that."""
        for supervisor in self._warm:
            supervisor.close()
        self._warm.clear()
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None
