"""All sandboxes of the service: they are made here, followed to their end, and removed.

Whose sandbox it is does the work on it: a supervisor that has become that user. Nothing here opens what belongs to
users.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial

import trio

from sandlockd.audit.state import new_run_id
from sandlockd.control import messages, states
from sandlockd.control.access import owner_name
from sandlockd.control.leftovers import Leftovers
from sandlockd.control.messages import PolicyText, Start
from sandlockd.control.policies import PolicyDirectory
from sandlockd.control.pool import NoneToBeHad
from sandlockd.control.problems import (
    Conflict,
    NotFound,
    NotStarted,
    OutOfRoom,
    TooMany,
    Unavailable,
)
from sandlockd.control.records import Record
from sandlockd.control.registry import RegistryError
from sandlockd.control.retention import Retention
from sandlockd.control.sandboxes import Sandbox
from sandlockd.control.states import Happening, Request, State
from sandlockd.control.streams import Streams
from sandlockd.control.supervisors import SupervisorLost
from sandlockd.control.translating import environment_of, settings_of
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from structlog.typing import FilteringBoundLogger

    from sandlockd.control.access import Peer
    from sandlockd.control.config import Config
    from sandlockd.control.events import Events
    from sandlockd.control.further import Further
    from sandlockd.control.metrics import Metrics
    from sandlockd.control.objects import ExecRequest, RunRequest
    from sandlockd.control.pool import Pool
    from sandlockd.control.registry import Registry
    from sandlockd.control.supervisors import Supervisor

_DRAIN_S = 5.0  # for what is left in pipes, once nobody is left to write
_LOST = "its supervisor was lost"
_LOOK_PATIENCE_S = 10.0
_FORSAKEN = "the service ended while it ran"


class Service:
    def __init__(
        self,
        config: Config,
        state_dir: str,
        registry: Registry,
        events: Events,
        pool: Pool,
        policies: PolicyDirectory,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self.config = config
        self.events = events
        self.registry = registry
        self.metrics = metrics
        self.policies = policies
        self.pool = pool
        self.log = log
        self.is_closing = False
        self._state_dir = state_dir
        self.left = Leftovers(config, state_dir, pool)
        self._sandboxes: dict[str, Sandbox] = {}
        self._memory_turns: dict[int, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None
        self._retention = Retention(self._sandboxes, self.left, partial(self.remove, force=False), log)
        for record in registry.records():
            self._taken_up(record)

    def _taken_up(self, record: Record) -> None:
        """Of a service before: what was alive then has ended with it."""
        if record.state in states.ALIVE:
            self._retention.forsake(record.id)
            record.error = _FORSAKEN
            record.state = State.FAILED
            record.ended_ns = time.time_ns()
            record.exit_status = 125
            record.status = {"reason": "sandbox_error", "error": _FORSAKEN}
            self.registry.put(record)
        elif record.state is State.COMMITTING:
            record.state = State.KEPT
            self.registry.put(record)
        self._sandboxes[record.id] = self._sandbox(record)

    def _sandbox(self, record: Record) -> Sandbox:
        sandbox = Sandbox(record, f"{self._state_dir}/sandboxes/{record.id}", self.config.log_bytes)
        sandbox.on_change = self._changed
        return sandbox

    def _changed(self, sandbox: Sandbox) -> None:
        record = sandbox.record
        if record.state in states.OVER:
            self._retention.one_has_ended()
        self.registry.put(record)
        self.events.happened(record.id, record.uid, record.state.value, **_outcome(record))

    # ---- finding

    def visible(self, peer: Peer) -> Iterator[Sandbox]:
        """The newest first."""
        for identifier in sorted(self._sandboxes, reverse=True):
            sandbox = self._sandboxes[identifier]
            if peer.may_touch(sandbox.record.uid):
                yield sandbox

    def find(self, peer: Peer, text: str) -> Sandbox:
        """By its id, its name, or an unambiguous beginning or end of its id. Raises NotFound, Conflict.

        Who administers means an own one first: others give names as they like, also such as look like a part of an id.
        """
        exact = self._sandboxes.get(text)
        if exact is not None and peer.may_touch(exact.record.uid):
            return exact
        all_visible = list(self.visible(peer))
        found = _meant([one for one in all_visible if one.record.uid == peer.uid], text)
        found = found or _meant(all_visible, text)
        if not found:
            raise NotFound(f"there is no sandbox {text!r}")
        if len(found) > 1:
            raise Conflict(f"{text!r} may be any of several", candidates=[one.id for one in found[:10]])
        return found[0]

    def counts(self) -> dict[str, int]:
        """By state."""
        found = dict.fromkeys((state.value for state in State), 0)
        for sandbox in self._sandboxes.values():
            found[sandbox.state.value] += 1
        return found

    # ---- making

    async def create(self, peer: Peer, request: RunRequest) -> Sandbox:
        """Returns when it runs, or could not be started. Raises Problem."""
        if self.is_closing:
            raise Unavailable("the service is ending")
        policies = await self._policies(request)
        # No await between these and the place in the table: two at once would both find room, and the name free.
        self._require_room(peer)
        self._require_free_name(peer, request.name)
        record = Record(
            id=self._new_id(),
            uid=peer.uid,
            owner=owner_name(peer.uid),
            command=list(messages.shown(request.command)),
            cwd=request.cwd,
            created_ns=time.time_ns(),
            name=request.name or "",
            labels=request.labels,
            policies=[one if isinstance(one, str) else one.name for one in policies],
            tty=request.tty,
            stdin=request.stdin or request.tty,
        )
        sandbox = self._sandbox(record)
        self._sandboxes[record.id] = sandbox
        try:
            with trio.CancelScope(shield=True):  # not half, because a client has gone
                await self._put_on_record(sandbox)
        except OutOfRoom:
            await self._unmake(sandbox)
            raise
        if self._nursery is None:
            raise Unavailable("the service is ending")
        self._nursery.start_soon(self._live, sandbox, request, policies)
        await sandbox.begun.wait()
        if sandbox.state is State.FAILED and not sandbox.has_begun:
            await self._unmake(sandbox)
            detail = record.error or "it could not be started"
            raise NotStarted(detail, lines=record.said, exit_status=record.exit_status)
        return sandbox

    def _new_id(self) -> str:
        while True:
            identifier = new_run_id(time.time_ns())
            if identifier not in self._sandboxes:
                return identifier

    def _require_room(self, peer: Peer) -> None:
        most = self.config.per_user.sandboxes
        alive = sum(one.is_alive and one.record.uid == peer.uid for one in self._sandboxes.values())
        if alive >= most:
            raise TooMany(f"you have {alive} sandboxes that live, and may have {most} (per_user.sandboxes)")

    def _require_free_name(self, peer: Peer, name: str | None) -> None:
        if name is None:
            return
        for sandbox in self._sandboxes.values():
            if sandbox.record.uid == peer.uid and sandbox.record.name == name:
                raise Conflict(
                    f"the name {name!r} is taken by {sandbox.id}: choose another, or remove that",
                    id=sandbox.id,
                )

    async def _policies(self, request: RunRequest) -> tuple[str | PolicyText, ...]:
        """Raises Invalid, NotFound."""
        asked = [request.policy] if request.policy is not None else []
        found: list[str | PolicyText] = []
        for one in [*asked, *request.policies]:
            if isinstance(one, str):
                found.append(await trio.to_thread.run_sync(self.policies.named, one))
            else:
                directory = os.fsencode(one.directory or request.cwd)
                found.append(PolicyText(one.name, directory, one.text.encode()))
        if request.policy_text is not None:
            found.append(PolicyText("policy_text", os.fsencode(request.cwd), request.policy_text.encode()))
        return tuple(found or [await trio.to_thread.run_sync(self.policies.named)])

    async def _put_on_record(self, sandbox: Sandbox) -> None:
        """Raises OutOfRoom."""
        record = sandbox.record
        try:
            await trio.to_thread.run_sync(sandbox.make_directory)
            self.registry.put(record)
            self.events.happened(record.id, record.uid, "created", name=record.name or None)
            await self.registry.saved()
        except (OSError, RegistryError) as error:
            raise OutOfRoom(f"it cannot be put on record: {error}") from None

    async def _unmake(self, sandbox: Sandbox) -> None:
        """Nothing ran: nothing is kept."""
        if self._sandboxes.pop(sandbox.id, None) is not None:
            self.events.happened(sandbox.id, sandbox.record.uid, "removed")
            await self._forget(sandbox)

    # ---- its life

    async def _live(
        self, sandbox: Sandbox, request: RunRequest, policies: tuple[str | PolicyText, ...]
    ) -> None:
        """Its task. Whatever goes wrong ends it, and is told of it."""
        turn = self._turn_of(sandbox.record.uid)
        try:
            if turn is not None:
                await turn.acquire()
            sandbox.supervisor = await self.pool.take()
            self._start(sandbox, request, policies)
            async with trio.open_nursery() as nursery:
                assert sandbox.streams is not None
                drained = trio.Event()
                nursery.start_soon(_log_all, sandbox.streams, drained)
                ended = await self._follow(sandbox, sandbox.supervisor, turn)
                with trio.move_on_after(_DRAIN_S):
                    await drained.wait()
                nursery.cancel_scope.cancel()
            await self._ended(sandbox, ended)
        except* SupervisorLost as group:
            await self._lost(sandbox, str(group.exceptions[0]))
        except* (NoneToBeHad, OSError) as group:
            self._broke(sandbox, str(group.exceptions[0]))
        except* trio.Cancelled:
            self._broke(sandbox, "the service ended while it ran")
            raise
        except* Exception as group:
            self.log.error("a sandbox was given up", sandbox=sandbox.id, exc_info=group)
            self._broke(sandbox, f"the service failed: {group.exceptions[0]!r}")
        finally:
            if turn is not None and turn.statistics().owner is trio.lowlevel.current_task():
                turn.release()
            sandbox.memory_reserved = 0
            sandbox.release()
            sandbox.all_gone()

    def _turn_of(self, uid: int) -> trio.Lock | None:
        """Where memory is shared out, one start of a user waits for the one before to be known."""
        if self.config.memory_per_user is None:
            return None
        return self._memory_turns.setdefault(uid, trio.Lock())

    def _memory_left(self, uid: int) -> int | None:
        most = self.config.memory_per_user
        if most is None:
            return None
        taken = sum(one.memory_reserved for one in self._sandboxes.values() if one.record.uid == uid)
        return max(most - taken, 0)

    def _start(self, sandbox: Sandbox, request: RunRequest, policies: tuple[str | PolicyText, ...]) -> None:
        """Raises OSError, SupervisorLost."""
        assert sandbox.supervisor is not None
        record = sandbox.record
        record.supervisor_pid = sandbox.supervisor.pid
        streams = Streams(
            sandbox.log, tty=request.tty, stdin=request.stdin, size=(request.rows, request.columns)
        )
        sandbox.streams = streams
        streams.own_terminal(record.uid)
        start = Start(
            uid=record.uid,
            command=tuple(map(os.fsencode, request.command)),
            cwd=os.fsencode(request.cwd),
            environment=environment_of(request),
            policies=policies,
            policy_dir=os.fsencode(self.policies.path),
            settings=settings_of(request),
            name=request.name,
            state_dir=self.left.state_dir_of(record.uid),
            run_id=record.id,
            memory=self._memory_left(record.uid),
            quiet=request.quiet,
        )
        sandbox.supervisor.order(start, streams.theirs)
        streams.given()
        sandbox.happened(Happening.TAKEN)

    async def _follow(
        self, sandbox: Sandbox, supervisor: Supervisor, turn: trio.Lock | None
    ) -> messages.Ended:
        """To its end: nobody of it is left. Raises SupervisorLost."""
        try:
            async for report in supervisor.reports():
                if turn is not None and isinstance(report, (messages.Began, messages.Ended)):
                    turn.release()
                    turn = None
                if isinstance(report, messages.Ended):
                    await _until_gone(sandbox, supervisor)
                    return report
                await self._reported(sandbox, report)
        except SupervisorLost:
            await _until_gone(sandbox, supervisor)
            raise
        raise SupervisorLost("it ended without its last word")

    async def _reported(self, sandbox: Sandbox, report: messages.Report) -> None:
        record = sandbox.record
        match report:
            case messages.Said(text=text):
                sandbox.said(text)
            case messages.Began():
                sandbox.has_begun = True
                sandbox.memory_reserved = report.memory or 0
                record.memory_limit = report.memory
                record.policy_digest = report.policy_digest
                record.command = record.command or list(report.command)
            case messages.Started(pid=pid):
                record.pid = pid
                sandbox.init_pidfd = _child_of(pid, record.supervisor_pid)
                sandbox.happened(Happening.STARTED)
                self.metrics.started(sandbox)
                sandbox.begun.set()
            case messages.Replaced():
                sandbox.supervisor_replaced()
                self.metrics.supervisor_died()
                self.events.happened(sandbox.id, record.uid, "supervisor-replaced", deaths=sandbox.deaths)
                if (
                    sandbox.deaths & (sandbox.deaths - 1) == 0
                ):  # what its user can have it say again and again
                    self.log.warning(
                        "a supervisor died and was replaced", sandbox=sandbox.id, deaths=sandbox.deaths
                    )
            case messages.Effective(policy=policy):
                sandbox.policy = policy
                await trio.to_thread.run_sync(sandbox.keep_policy)
            case messages.Stopped(signal=number):
                self.events.happened(sandbox.id, record.uid, "stopped", signal=number)
            case messages.Continued():
                self.events.happened(sandbox.id, record.uid, "continued")
            case messages.Paused():
                if sandbox.state is State.RUNNING:
                    sandbox.happened(Happening.PAUSED)
            case messages.NotPaused(why=why):
                sandbox.not_paused(why)
            case messages.Resumed():
                if sandbox.state is State.PAUSED:
                    sandbox.happened(Happening.RESUMED)
            case messages.Denied():
                self._denied(sandbox, report)
            case messages.Told():
                sandbox.answered(report)
            case messages.Executed() | messages.NotExecuted() | messages.FurtherEnded():
                sandbox.further_reported(report)

    def _denied(self, sandbox: Sandbox, report: messages.Denied) -> None:
        sandbox.denials = max(sandbox.denials, report.total)
        self.metrics.denied(report.rule)
        more: dict[str, Any] = {"unsaid": report.unsaid} if report.unsaid else {}
        self.events.happened(
            sandbox.id,
            sandbox.record.uid,
            "denied",
            call=report.call,
            target=report.target,
            rule=report.rule,
            count=report.count,
            **more,
        )

    async def _ended(self, sandbox: Sandbox, ended: messages.Ended) -> None:
        record, status = sandbox.record, ended.status
        if sandbox.has_begun and status.get("reason") == "sandbox_error" and status.get("changes") is None:
            # Whose run failed keeps what was changed until then, and does not say how much.
            status["changes"] = await self.left.changes(sandbox)
        record.status = status
        record.exit_status = ended.exit_status
        error = status.get("error")
        record.error = error if isinstance(error, str) else None
        changes = status.get("changes")
        state = changes.get("state") if isinstance(changes, dict) else None
        self.metrics.ended(status, ended.latencies)
        if state in ("kept", "unknown"):
            sandbox.happened(Happening.ENDED_KEEPING)
        elif state == "committed":
            sandbox.happened(Happening.ENDED_COMMITTED)
        elif state == "discarded":
            sandbox.happened(Happening.ENDED_DISCARDED)
        elif status.get("reason") == "sandbox_error":
            sandbox.happened(Happening.BROKE)
        else:
            sandbox.happened(Happening.ENDED_WITHOUT_CHANGES)

    async def _lost(self, sandbox: Sandbox, why: str) -> None:
        """Its supervisor was killed. What the program changed is where it was, if there is any."""
        record = sandbox.record
        record.error = _LOST
        record.exit_status = 125
        record.status = {"reason": "sandbox_error", "error": _LOST, "denials": sandbox.denials}
        self.metrics.ended(record.status)
        self.log.warning("a supervisor was lost", sandbox=sandbox.id, why=why)
        changes = None if not sandbox.has_begun else await self.left.changes(sandbox)
        if changes is not None:
            record.status["changes"] = changes
            sandbox.happened(Happening.ENDED_KEEPING)
        else:
            sandbox.happened(Happening.BROKE)

    def _broke(self, sandbox: Sandbox, why: str) -> None:
        if not sandbox.is_alive:
            return
        sandbox.record.error = why
        sandbox.record.exit_status = 125
        sandbox.record.status = {"reason": "sandbox_error", "error": why, "denials": sandbox.denials}
        sandbox.happened(Happening.BROKE)

    async def execute(self, sandbox: Sandbox, request: ExecRequest) -> Further:
        """Raises Problem."""
        if self._nursery is None or self.is_closing:
            raise Unavailable("the service is ending")
        further = await sandbox.execute(request, self._nursery)
        self.events.happened(
            sandbox.id, sandbox.record.uid, "executed", number=further.number, command=request.command[:10]
        )
        return further

    # ---- what it has left

    @contextlib.contextmanager
    def _alone(self, sandbox: Sandbox, request: Request) -> Iterator[None]:
        """Raises Conflict."""
        sandbox.require(request)
        try:
            sandbox.changing.acquire_nowait()
        except trio.WouldBlock:
            raise Conflict(
                "its changes are worked on by another request", state=sandbox.state.value
            ) from None
        try:
            yield
        finally:
            sandbox.changing.release()

    async def commit(self, sandbox: Sandbox, **options: Any) -> bytes:
        """What was done, as JSON. Raises Problem."""
        with self._alone(sandbox, Request.COMMIT):
            sandbox.happened(Happening.COMMIT_BEGAN)
            left = 1
            try:
                answer, left = await self.left.done(sandbox, "commit", **options)
            finally:
                sandbox.happened(Happening.COMMIT_LEFT_SOME if left else Happening.COMMIT_DONE)
            self._note_changes(sandbox, "kept" if left else "committed")
        return answer

    async def discard(self, sandbox: Sandbox, **options: Any) -> bytes:
        """What was done, as JSON. Raises Problem."""
        with self._alone(sandbox, Request.DISCARD):
            answer, left = await self.left.done(sandbox, "discard", **options)
            if not left:
                sandbox.happened(Happening.DISCARDED)
                self._note_changes(sandbox, "discarded")
        return answer

    def _note_changes(self, sandbox: Sandbox, state: str) -> None:
        status = sandbox.record.status
        if status is not None and isinstance(status.get("changes"), dict):
            status["changes"]["state"] = state
            self.registry.put(sandbox.record)

    # ---- removing

    async def remove(self, sandbox: Sandbox, *, force: bool) -> None:
        """Nothing of it is left. Raises Problem."""
        await self._retention.seen(sandbox)
        request = Request.DELETE_FORCED if force else Request.DELETE
        sandbox.require(request)
        if sandbox.is_alive:
            await sandbox.kill()
        async with sandbox.changing:
            if self._sandboxes.get(sandbox.id) is not sandbox:
                return  # somebody else was faster
            sandbox.require(request)
            if sandbox.has_begun or sandbox.record.policy_digest is not None:
                with trio.CancelScope(shield=True):
                    async for _ in self.left.work(sandbox, "forget", drops_changes=force):
                        pass
            del self._sandboxes[sandbox.id]
            self.events.happened(sandbox.id, sandbox.record.uid, "removed")
            await self._forget(sandbox)

    async def _forget(self, sandbox: Sandbox) -> None:
        """What is left of it here, when nobody finds it any more. What goes wrong the next start tries again."""
        self.registry.remove(sandbox.id)
        with trio.CancelScope(shield=True):
            with contextlib.suppress(RegistryError):
                await self.registry.saved()  # or it would write beside us, into the directory
            try:
                await trio.to_thread.run_sync(sandbox.remove_directory)
            except OSError as error:
                self.log.warning("a directory stays", sandbox=sandbox.id, error=str(error))

    # ---- the whole

    def reconfigure(self, config: Config) -> None:
        """For what begins from now on."""
        self.config = self.left.config = config
        self.pool.resize(config.starting.warm)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled. All sandboxes end then."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._retention.run)
            with trio.move_on_after(
                _LOOK_PATIENCE_S
            ):  # those who ask are told of them; more of them come later
                await self._retention.forsaken_found.wait()
            task_status.started()
            await trio.sleep_forever()

    async def end_all(self) -> None:
        """Each is asked to end, and is ended after its grace."""
        self.is_closing = True
        async with trio.open_nursery() as nursery:
            for sandbox in self._sandboxes.values():
                if sandbox.is_alive and sandbox.state is not State.CREATED:
                    nursery.start_soon(sandbox.stop, float(self.config.stop_grace_s))
            nursery.start_soon(self.left.end_all, float(self.config.stop_grace_s))


def _meant(sandboxes: list[Sandbox], text: str) -> list[Sandbox]:
    """By a name, or else a part of an id."""
    named = [one for one in sandboxes if one.record.name == text]
    return named or [one for one in sandboxes if one.id.startswith(text) or one.id.endswith(text)]


async def _until_gone(sandbox: Sandbox, supervisor: Supervisor) -> None:
    """The supervisor, and the init of what it had, whose end is that of all processes in it. One that has said its
    last word, and stays, is ended.
    """
    for _ in range(2):
        with trio.move_on_after(_DRAIN_S):
            await supervisor.gone()
            if sandbox.init_pidfd is not None:
                await trio.lowlevel.wait_readable(sandbox.init_pidfd.fd)
            return
        supervisor.end()


async def _log_all(streams: Streams, drained: trio.Event) -> None:
    await streams.log_all()
    drained.set()


def _outcome(record: Record) -> dict[str, Any]:
    """For the event of a new state."""
    if record.state in states.ALIVE:
        return {}
    status = record.status or {}
    told = {"exit_status": record.exit_status, "reason": status.get("reason"), "error": record.error}
    return {name: value for name, value in told.items() if value is not None}


def _child_of(pid: int, parent: int | None) -> OwnedFd | None:
    """To wait for its end, no more: whose supervisor this is might tell anything."""
    try:
        pidfd = OwnedFd(os.pidfd_open(pid))
    except (OSError, OverflowError):
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
        if int(text[text.rindex(b")") + 2 :].split()[1]) == parent:
            return pidfd
    except OSError:
        pass
    pidfd.close()
    return None
