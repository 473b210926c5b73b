"""A further program in a sandbox of the service: its streams, its log, and how it ended. It is over with its sandbox
at the latest, and known as long as that.
"""

from __future__ import annotations

import os
import time

import trio

from sandlockd.control.logs import Log
from sandlockd.control.messages import Execute
from sandlockd.control.objects import ExecObject, rfc3339
from sandlockd.control.problems import NotStarted
from sandlockd.control.streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandlockd.control.messages import Executed, FurtherEnded, NotExecuted
    from sandlockd.control.objects import ExecRequest

_KILLED = 128 + 9
_DRAIN_S = 5.0


class Further:
    """One. number: unique in its sandbox."""

    def __init__(
        self, sandbox: str, number: int, request: ExecRequest, directory: str, log_bytes: int
    ) -> None:
        """Raises OSError."""
        self.sandbox = sandbox
        self.number = number
        self.request = request
        self.log = Log(f"{directory}/exec-{number}", log_bytes)
        size = request.rows, request.columns
        self.streams: Streams | None = Streams(self.log, tty=request.tty, stdin=request.stdin, size=size)
        self.begun = trio.Event()
        self.over = trio.Event()
        self.pid: int | None = None
        self._refused: NotExecuted | None = None
        self._wait_status: int | None = None
        self._started_ns: int | None = None
        self._ended_ns: int | None = None
        self._ending = trio.Event()
        self.on_signal: Callable[[int, int, bool], None] = lambda number, signal, to_group: None

    def order(self) -> Execute:
        request = self.request
        encode = os.fsencode
        given = request.environment
        return Execute(
            self.number,
            tuple(map(encode, request.command)),
            None if request.cwd is None else encode(request.cwd),
            None if given is None else {encode(name): encode(value) for name, value in given.items()},
            tuple(encode(f"{name}={value}") for name, value in request.env.items()),
        )

    # ---- what is reported

    def executed(self, report: Executed) -> None:
        self.pid = report.pid
        self._started_ns = time.time_ns()
        self.begun.set()

    def not_executed(self, report: NotExecuted) -> None:
        self._refused = report
        self.ended(None)

    def ended(self, report: FurtherEnded | None) -> None:
        """None: with its sandbox, or before it began."""
        if not self._ending.is_set():
            self._wait_status = None if report is None else report.status
            self._ended_ns = time.time_ns()
            self._ending.set()
            self.begun.set()

    def require_begun(self) -> None:
        """Raises NotStarted."""
        if self._refused is not None and self.pid is None:
            lines = list(self._refused.lines)
            raise NotStarted(
                lines[0] if lines else "it could not be started",
                lines=lines,
                exit_status=self._refused.exit_status,
            )
        if self.pid is None:
            raise NotStarted("the sandbox ended before it was started", lines=[], exit_status=125)

    # ---- its life

    async def run(self) -> None:
        """Log what it writes, until it has ended. Others that it started may still write: theirs is lost then."""
        streams = self.streams
        assert streams is not None
        try:
            async with trio.open_nursery() as nursery:
                drained = trio.Event()

                async def log_all() -> None:
                    await streams.log_all()
                    drained.set()

                nursery.start_soon(log_all)
                await self._ending.wait()
                with trio.move_on_after(_DRAIN_S if self._wait_status is not None else 0.1):
                    await drained.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.streams = None
            streams.close()
            self.log.finish()
            self.over.set()

    # ---- for clients

    def signal(self, number: int, *, to_group: bool = False) -> None:
        self.on_signal(self.number, number, to_group)

    @property
    def is_alive(self) -> bool:
        return self.pid is not None and not self._ending.is_set()

    @property
    def _ended_by(self) -> tuple[int | None, int | None, int | None]:
        """(exit status, exit code, signal)."""
        if not self._ending.is_set():
            return None, None, None
        if self._refused is not None:
            return self._refused.exit_status, None, None
        if self._wait_status is None:
            return _KILLED, None, 9
        if os.WIFSIGNALED(self._wait_status):
            number = os.WTERMSIG(self._wait_status)
            return 128 + number, None, number
        code = os.WEXITSTATUS(self._wait_status)
        return code, code, None

    @property
    def _error(self) -> str | None:
        """Why it did not become its command, where that is so."""
        return self._refused.lines[0] if self._refused is not None and self._refused.lines else None

    def as_object(self) -> ExecObject:
        status, code, number = self._ended_by
        return ExecObject(
            self.sandbox,
            self.number,
            "exited" if self._ending.is_set() else "running",
            self.request.command,
            self.request.tty,
            self.request.stdin or self.request.tty,
            rfc3339(self._started_ns),
            rfc3339(self._ended_ns),
            self.pid,
            status,
            code,
            number,
            self._error,
        )

    def ending(self) -> dict[str, Any]:
        """The last word to who is attached."""
        status, code, number = self._ended_by
        return {
            "state": "exited",
            "exit_status": status,
            "exit_code": code,
            "signal": number,
            "reason": None,
            "error": self._error,
        }
