"""One sandbox of the service, from its request to its removal: what is known of it, its supervisor while it has one,
what it wrote, and who waits for it. Its state is changed in one place, by the table of control/states.py.
"""

from __future__ import annotations

import contextlib
import os
import time

import trio

from sandlockd.control import messages, states
from sandlockd.control.further import Further
from sandlockd.control.logs import Log
from sandlockd.control.messages import Kill, Pause, Resume, Signal, Stop
from sandlockd.control.problems import Broken, Conflict, NotFound, OutOfRoom, TooMany, Unavailable
from sandlockd.control.states import Happening, Request, State
from sandlockd.control.supervisors import OutOfStage, SupervisorLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from sandlockd.control.objects import ExecRequest
    from sandlockd.control.records import Record
    from sandlockd.control.streams import Streams
    from sandlockd.control.supervisors import Supervisor
    from sandlockd.kernel.fds import OwnedFd

_POLICY_NAME = "policy.json"
KILL_PATIENCE_S = 10.0  # then its supervisor is killed, and its init ends it
_ANSWER_PATIENCE_S = 5.0
_SAID_MAX, _SAID_CHARACTERS = 100, 16 << 10
_FURTHER_MAX = 16  # that live at once
_FURTHER_KNOWN = 256
_FURTHER_SHARE = (
    4  # of what a log may hold one of theirs may hold a fourth; those that have ended, together, one whole
)


class Sandbox:
    """on_change: told of each new state."""

    def __init__(self, record: Record, directory: str, log_bytes: int) -> None:
        self.record = record
        self.directory = directory
        self._log_bytes = log_bytes
        self._log: Log | None = None
        self.supervisor: Supervisor | None = None
        self.streams: Streams | None = None
        self.init_pidfd: OwnedFd | None = None
        self.on_change: Callable[[Sandbox], None] = lambda sandbox: None
        self.begun = trio.Event()  # it runs, or will not
        self.over = trio.Event()  # nothing of it is left
        self.has_begun = False  # there is a run of it on record
        self.denials = 0
        self.deaths = 0  # of supervisors, that were replaced
        self.policy: bytes | None = None  # effective, as JSON; of one that has ended it is on disk
        self.memory_reserved = 0
        self._answers: dict[int, tuple[trio.Event, list[messages.Told]]] = {}
        self._tickets = 0
        self._further: dict[int, Further] = {}
        self._next_further = 0
        self._not_paused: str | None = None
        self._ordered: Stop | Kill | None = None  # whichever ends it
        self.changing = trio.Lock()  # who commits, discards or removes what it has left has it
        self._changed = trio.lowlevel.ParkingLot()
        if record.state not in states.ALIVE:
            self.begun.set()
            self.over.set()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def is_alive(self) -> bool:
        return self.record.state in states.ALIVE

    @property
    def log(self) -> Log:
        """Raises OSError."""
        if self._log is None:
            self._log = Log(f"{self.directory}/logs", self._log_bytes)
            if not self.is_alive:
                self._log.finish()
        return self._log

    def happened(self, happening: Happening) -> None:
        """Raises BadTransition."""
        record = self.record
        record.state = states.after(record.state, happening)
        if record.state is State.RUNNING and record.started_ns is None:
            record.started_ns = time.time_ns()
        if record.state in states.OVER and record.ended_ns is None:
            record.ended_ns = time.time_ns()
        self._changed.unpark_all()
        self.on_change(self)

    def require(self, request: Request) -> None:
        """Raises Conflict."""
        if not states.may(request, self.state):
            raise Conflict(
                f"not while it is {self.state.value}",
                state=self.state.value,
                allowed_states=states.states_for(request),
            )

    def said(self, text: str) -> None:
        said = self.record.said
        if len(said) < _SAID_MAX and sum(map(len, said)) + len(text) <= _SAID_CHARACTERS:
            said.append(text)

    # ---- orders

    def _order(self, order: messages.Order, fds: Sequence[int] = ()) -> None:
        """To one that is there and can take it; else nothing. Raises Conflict."""
        if self.supervisor is None:
            raise Conflict(f"not while it is {self.state.value}", state=self.state.value)
        try:
            self.supervisor.order(order, fds)
        except OutOfStage:
            if self.supervisor.stage is messages.Stage.OVER:
                return  # it is just ending
            raise Conflict(f"not while it is {self.state.value}", state=self.state.value) from None
        except SupervisorLost:
            pass  # its end is on the way

    def supervisor_replaced(self) -> None:
        """What the one before was told, and may have died of, or before."""
        self.deaths += 1
        if self.supervisor is not None:
            self.record.supervisor_pid = self.supervisor.pid
        if self.state is State.STOPPING and self._ordered is not None:
            self._order(self._ordered)
        elif self.state is State.PAUSED:
            self._order(Pause())

    async def stop(self, grace_s: float) -> None:
        """Wait for its end. Done already: nothing."""
        self.require(Request.STOP)
        if not self.is_alive:
            return
        if self.state is not State.STOPPING:
            self._ordered = Stop(grace_s)
            self._order(self._ordered)
            self.happened(Happening.STOP_ASKED)
        with trio.move_on_after(grace_s + KILL_PATIENCE_S):
            await self.over.wait()
        await self.kill()

    async def kill(self) -> None:
        """Wait for its end. Done already: nothing. Works by the supervisor, whatever has become of its pids."""
        self.require(Request.KILL)
        if not self.is_alive:
            return
        if self.state is not State.STOPPING:
            self.happened(Happening.STOP_ASKED)
        self._ordered = Kill()
        self._order(self._ordered)
        with trio.move_on_after(KILL_PATIENCE_S):
            await self.over.wait()
        if not self.over.is_set() and self.supervisor is not None:
            self.supervisor.end()
        await self.over.wait()

    def signal(self, number: int, *, to_group: bool = False) -> None:
        self.require(Request.SIGNAL)
        self._order(Signal(number, to_group))

    async def pause(self) -> None:
        await self._until(Request.PAUSE, Pause(), State.PAUSED)

    async def resume(self) -> None:
        await self._until(Request.RESUME, Resume(), State.RUNNING)

    async def _until(self, request: Request, order: messages.Order, state: State) -> None:
        self.require(request)
        if self.state is state:
            return
        self._not_paused = None
        self._order(order)
        before = self.state
        with trio.move_on_after(_ANSWER_PATIENCE_S):
            while self.state is before and self._not_paused is None:
                await self._changed.park()
        if self.state is not state:
            raise Conflict(self._not_paused or f"it is {self.state.value}", state=self.state.value)

    def not_paused(self, why: str) -> None:
        self._not_paused = why
        self._changed.unpark_all()

    # ---- further programs

    async def execute(self, request: ExecRequest, nursery: trio.Nursery) -> Further:
        """Returns when it runs. Raises Problem."""
        self.require(Request.EXEC)
        if sum(not one.over.is_set() for one in self._further.values()) >= _FURTHER_MAX:
            raise TooMany(f"{_FURTHER_MAX} further commands run in it already")
        self._next_further += 1
        try:
            log_bytes = self._log_bytes // _FURTHER_SHARE
            further = Further(self.id, self._next_further, request, self.directory, log_bytes)
        except OSError as error:
            raise OutOfRoom(f"its log cannot be made: {error}") from None
        further.on_signal = self._signal_further
        assert further.streams is not None
        self._further[further.number] = further
        try:
            further.streams.own_terminal(self.record.uid)
            self._order(further.order(), further.streams.theirs)
        except BaseException:
            del self._further[further.number]
            further.streams.close()
            further.log.remove()
            raise
        further.streams.given()
        nursery.start_soon(further.run)
        await self._forget_further()
        await further.begun.wait()
        further.require_begun()
        return further

    def _signal_further(self, ticket: int, number: int, to_group: bool) -> None:
        self._order(messages.SignalFurther(ticket, number, to_group))

    async def _forget_further(self) -> None:
        """The oldest that have ended, where there are many, and what they wrote; of others that, where it is much."""
        ended = [one for one in self._further.values() if one.over.is_set()]
        gone = ended[: max(len(self._further) - _FURTHER_KNOWN, 0)]
        room = self._log_bytes
        for one in reversed(ended[len(gone) :]):
            room -= one.log.size
            if room < 0:
                one.log.clear()
        for one in gone:
            del self._further[one.number]
            await trio.to_thread.run_sync(one.log.remove)

    def further_of(self, number: int) -> Further:
        """Raises NotFound."""
        try:
            return self._further[number]
        except KeyError:
            raise NotFound(f"{self.id} has no command {number}") from None

    @property
    def further(self) -> list[Further]:
        return list(self._further.values())

    def further_reported(
        self, report: messages.Executed | messages.NotExecuted | messages.FurtherEnded
    ) -> None:
        one = self._further.get(report.ticket)
        if one is None:
            return
        match report:
            case messages.Executed():
                one.executed(report)
            case messages.NotExecuted():
                one.not_executed(report)
            case messages.FurtherEnded():
                one.ended(report)

    def ending(self) -> dict[str, Any]:
        """The last word to who is attached."""
        record, status = self.record, self.record.status or {}
        return {
            "state": record.state.value,
            "exit_status": record.exit_status,
            "error": record.error,
            "lines": record.said,
            "changes": status.get("changes"),
            **{name: status.get(name) for name in ("exit_code", "signal", "reason", "rule")},
        }

    # ---- questions

    async def ask(self, what: str) -> dict[str, Any]:
        """Raises Conflict, Unavailable, Broken."""
        ticket, self._tickets = self._tickets, self._tickets + 1
        event, told = trio.Event(), list[messages.Told]()
        self._answers[ticket] = event, told
        try:
            self._order(messages.Ask(ticket, what))
            with trio.move_on_after(_ANSWER_PATIENCE_S):
                await event.wait()
        finally:
            self._answers.pop(ticket, None)
        if not told and (self.supervisor is None or self.supervisor.stage is messages.Stage.OVER):
            raise Conflict("it has ended meanwhile", state=self.state.value)
        if not told:
            raise Unavailable("its supervisor does not answer")
        if told[0].problem is not None:
            raise Broken(told[0].problem)
        return told[0].what

    def answered(self, told: messages.Told) -> None:
        if told.ticket in self._answers:
            event, place = self._answers[told.ticket]
            place.append(told)
            event.set()

    def all_gone(self) -> None:
        """No answer comes any more."""
        for event, _ in self._answers.values():
            event.set()
        for further in self._further.values():
            further.ended(None)
        self.begun.set()
        self.over.set()

    def release(self) -> None:
        """What was open for it while it lived."""
        if self.streams is not None:
            self.streams.close()
            self.streams = None
        if self.supervisor is not None:
            self.supervisor.close()
            self.supervisor = None
        if self.init_pidfd is not None:
            self.init_pidfd.close()
            self.init_pidfd = None
        if self._log is not None:
            self._log.finish()
        self.policy = None

    def keep_policy(self) -> None:
        """What it comes to is for people: if it cannot be written, it is not there."""
        with contextlib.suppress(OSError), open(f"{self.directory}/{_POLICY_NAME}", "xb") as file:
            file.write(self.policy or b"")

    def effective_policy(self) -> bytes | None:
        """As JSON, or what its supervisor said was that."""
        if self.policy is None:
            try:
                with open(f"{self.directory}/{_POLICY_NAME}", "rb") as file:
                    return file.read(messages.MAX_POLICY_BYTES)
            except OSError:
                return None
        return self.policy

    def make_directory(self) -> None:
        """Raises OSError."""
        os.makedirs(self.directory, 0o700, exist_ok=True)

    def remove_directory(self) -> None:
        """Raises OSError."""
        import shutil

        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)
