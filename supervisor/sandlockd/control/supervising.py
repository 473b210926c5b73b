"""The supervisor of one sandbox, as a process of the service: forked from the zygote, told once what to run, and with
that the user who asked for it. The run is that of the foreground (sandbox/run.py); here is what it has in place of a
terminal: a channel to the control plane, and streams that came through it. (Or it is told to work on what a run has
left: control/work.py.)

When the control plane is gone, nobody could end the sandbox any more: then it ends (law 8).
"""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from functools import partial

import trio

from sandlockd.audit.records import Note
from sandlockd.audit.state import home_directory, state_directory
from sandlockd.control import messages, work
from sandlockd.control.channel import Channel, Closed
from sandlockd.control.messages import (
    Ask,
    Began,
    Continued,
    Effective,
    Ended,
    Execute,
    Executed,
    FurtherEnded,
    Kill,
    NotExecuted,
    NotPaused,
    Pause,
    Paused,
    Ready,
    Resume,
    Resumed,
    Signal,
    SignalFurther,
    Start,
    Started,
    Stop,
    Told,
    Work,
    Worked,
)
from sandlockd.control.telling import Teller
from sandlockd.kernel import tree, users
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.orphans import become_subreaper
from sandlockd.launch.prepare import CannotStart, raise_own_descriptor_limit
from sandlockd.policy.inputs import Overrides, Source
from sandlockd.policy.show import effective
from sandlockd.sandbox.executing import CannotExecute
from sandlockd.sandbox.pausing import CannotPause
from sandlockd.sandbox.policies import load_policy, require_tree_for
from sandlockd.sandbox.result import Result
from sandlockd.sandbox.run import Asked, Run, in_one, policy_digest, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from sandlockd.audit.log import AuditLog
    from sandlockd.launch.prepare import Prepared
    from sandlockd.sandbox.executing import Execution
    from sandlockd.sandbox.keeping import Keeper, Left
    from sandlockd.sandbox.sandbox import Sandbox

STREAMS = 3
RULE_STOPPED, RULE_KILLED, RULE_ALONE = "stop", "kill", "service"
_UMASK = 0o022  # as a login has it
_LAST_WORD_PATIENCE_MS = 10_000
_UNSENT_PAUSE_S = 0.1
_EARLY_S = 0.1  # or until the first order
_POLICY_LATE_S = 0.1
_POLICY_TOLD = "policy-told"
_PROCESSES_SHOWN = 1000


def supervise_after_fork(channel_end: OwnedFd) -> NoReturn:
    """In a child of the zygote, with nothing open but the channel."""
    status = 1
    try:
        channel = Channel.of(channel_end)
        channel.send(Ready(messages.VERSION))
        status = _supervise(channel)
    except (Closed, messages.Unfit):
        status = 0  # nobody wants anything to be run any more, or the line is of no use
    finally:
        os._exit(status)


def _supervise(channel: Channel) -> int:
    """Raises Closed, Unfit, OSError."""
    start, streams = _awaited_order(channel)
    if isinstance(start, Work):
        return _work(channel, start, streams[0])
    supervisor = _Supervisor(channel, streams)
    result = Result()
    try:
        supervisor.run(start, result)
    except Exception as error:  # the program, if there was one, has been ended
        lines, exit_status = told(error)
        for line in lines:
            supervisor.say(line)
        result.went_wrong(messages.line(in_one(lines)), exit_status)
    supervisor.last_word(Ended(result.as_dict(), result.exit_status, _latencies(result)))
    return 0


def _awaited_order(channel: Channel) -> tuple[Start | Work, list[OwnedFd]]:
    _wait(channel, select.POLLIN, None)
    data, fds = channel.receive()
    order = messages.order_from(data)
    if not isinstance(order, (Start, Work)) or len(fds) != (STREAMS if isinstance(order, Start) else 1):
        raise messages.Unfit("the first order is no start, or not with three streams")
    return order, fds


def _work(channel: Channel, order: Work, output: OwnedFd) -> int:
    try:
        _become(order.uid, {})
        worked = work.carried_out(order, order.state_dir or _state_directory_of(order.uid), output.fd)
    except Exception as error:
        worked = Worked(work.BROKEN, told(error)[0])
    output.close()
    _wait(channel, select.POLLOUT, _LAST_WORD_PATIENCE_MS)
    channel.send(Worked(worked.outcome, messages.lines(worked.lines)))
    return 0


def _become(uid: int, environment: dict[bytes, bytes]) -> None:
    """Raises CannotStart."""
    try:
        whole = {**users.login_environment(uid), **environment}
        if uid != os.geteuid():
            _leave_errors()
        users.become(uid)
    except users.NoUser as error:
        raise CannotStart(str(error)) from None
    except OSError as error:
        raise CannotStart(f"cannot become user {uid}: {error.strerror}") from None
    os.environb.clear()
    os.environb.update(whole)
    os.umask(_UMASK)


def _leave_errors() -> None:
    """Standard error is the service's: a log of root's, or a terminal, which can be read. That user could take any
    descriptor of a process that it is (pidfd_getfd(2)).
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 2)
    os.close(null)


def _wait(channel: Channel, event: int, patience_ms: int | None) -> bool:
    waiting = select.poll()
    waiting.register(channel.fileno(), event)
    return bool(waiting.poll(patience_ms))


class _ServiceLost(CannotStart):
    """Nobody is there who could say what is to become of the changes: they are kept, whatever the policy says."""


class _Supervisor:
    """The host of a run of the service's."""

    def __init__(self, channel: Channel, streams: Sequence[OwnedFd]) -> None:
        self._channel = channel
        self._streams = streams
        self._teller = Teller(channel)
        self._kill_by: float | None = None  # monotonic
        self._keeper: Keeper | None = None
        self._early: list[Signal] = []  # for a program that was not there yet
        self._beside: list[OwnedFd] = []  # what came with the order that is obeyed
        self._further: dict[int, Execution] = {}
        self._has_told_policy = False
        self._answer_soon: Callable[[Ask], None] | None = None

    def run(self, start: Start, result: Result) -> None:
        """Raises as Run.run."""
        _become(start.uid, start.environment)
        try:
            os.chdir(start.cwd)
        except OSError as error:
            raise CannotStart(f"{os.fsdecode(start.cwd)}: cannot be entered: {error.strerror}") from None
        names = tuple(one if isinstance(one, str) else one.name for one in start.policies)
        overrides = _overrides(start.settings)
        policy = load_policy([_source(one) for one in start.policies], overrides, start.policy_dir)
        require_tree_for(overrides, policy)
        _require_share(policy.limits.memory, start.memory)
        asked = Asked(
            policy,
            names or ("base",),
            start.command,
            run_id=start.run_id,
            name=start.name,
            is_dry_run=start.settings.dry_run,
            is_quiet=start.quiet,
            counts_changes=True,
            terminal_device=_terminal_device(self._streams[0].fd),
            may_execute=True,
            is_kept=True,
            says_kept_late=True,
        )
        Run(asked, result, self, start.state_dir or _state_directory_of(start.uid)).run()

    def last_word(self, message: Ended) -> None:
        """Raises TimeoutError."""
        self._teller.last_word(message)

    # ---- what a run wants of its host

    def say(self, text: str) -> None:
        self._teller.say(text)

    def begun(self, run: Run, prepared: Prepared, audit: AuditLog) -> None:
        audit.on_refusal = partial(self._teller.denied, audit)
        command = tuple(word.decode("utf-8", "backslashreplace") for word in prepared.argv)
        policy = prepared.policy
        self._teller.tell(
            Began(audit.run_id, policy_digest(policy), messages.shown(command), policy.limits.memory)
        )

    def release(self) -> None:
        self._close_streams()

    def supervise(
        self, run: Run, sandbox: Sandbox, audit: AuditLog, spared: Sequence[int], keeper: Keeper | None
    ) -> None:
        self._keeper = keeper
        try:
            become_subreaper(spared)
            if keeper is not None and keeper.left is not None:
                self._take_over(sandbox, keeper.left)
            else:
                self._start(run, sandbox)
            # Not before: a stop of what is not running yet would be out of turn.
            sandbox.on_stopped = lambda number: self._teller.tell(messages.Stopped(number))
            sandbox.on_continued = lambda: self._teller.tell(Continued())
            if sandbox.stopped_by:
                self._teller.tell(messages.Stopped(sandbox.stopped_by))
            for order in self._early:
                self._obey_one(sandbox, order)
            gc.enable()  # as it was not in the zygote; what a start makes stays
            # The loop takes as long to begin as a short program takes as a whole.
            sandbox.serve_early(time.monotonic() + _EARLY_S, self._channel.fileno())
            if not sandbox.over:
                trio.run(self._serve, run, sandbox, audit)
        finally:
            self._close_streams()
            sandbox.close()
        self._tell_policy(run)  # of one that ended before it was
        if self._teller.is_alone:
            raise _ServiceLost("the service ended while it ran")

    def _start(self, run: Run, sandbox: Sandbox) -> None:
        """Raises CannotStart."""
        self._hear_early()
        first, second, third = (stream.fd for stream in self._streams)
        sandbox.start(
            stdio=(first, second, third),
            descriptor_limit=raise_own_descriptor_limit(),
            umask=run.umask,
            new_session=True,
        )
        self._close_streams()
        self._teller.tell(Started(sandbox.init_pid))
        if self._keeper is not None:
            self._teller.tell(messages.Kept(), self._keeper.pidfd)

    def _take_over(self, sandbox: Sandbox, left: Left) -> None:
        """Raises CannotStart."""
        with OwnedFd(os.pidfd_open(os.getpid())) as own:
            self._teller.tell(messages.Replaced(), own)
        self._has_told_policy = left.notes.get(_POLICY_TOLD, False)
        sandbox.take_over(left, self._told_of)
        self._further = {execution.ticket: execution for execution in sandbox.executions}

    def _told_of(self, ticket: int) -> tuple[Callable[[Execution], None], Callable[[Execution], None]]:
        """Of the start and of the end of a further program."""
        return (
            lambda execution: self._teller.tell(Executed(ticket, execution.pid)),
            partial(self._further_ended, ticket),
        )

    async def _tell_policy_late(self, run: Run) -> None:
        """Nobody waits for it, and the program has much to ask at first."""
        await trio.sleep(_POLICY_LATE_S)
        for line in await trio.to_thread.run_sync(run.kept_before):
            self.say(line)
        self._tell_policy(run)

    def _tell_policy(self, run: Run) -> None:
        """Once. One that is too long is not told: it is for people who look."""
        if self._has_told_policy:
            return
        self._has_told_policy = True
        for line in run.kept_before():
            self.say(line)
        import json

        text = json.dumps(effective(run.asked.policy)).encode()
        if len(text) <= messages.MAX_POLICY_BYTES:
            self._teller.tell(Effective(text))
        if self._keeper is not None:
            self._keeper.noted(_POLICY_TOLD, True)

    def _close_streams(self) -> None:
        """A pipe ends when the program closes it, not when we do."""
        for stream in self._streams:
            stream.close()

    # ---- serving

    async def _serve(self, run: Run, sandbox: Sandbox, audit: AuditLog) -> None:
        async with trio.open_nursery() as nursery:

            def answer(ask: Ask) -> None:
                nursery.start_soon(self._answer, ask, sandbox, audit)

            self._answer_soon = answer
            nursery.start_soon(self._obey, sandbox)
            nursery.start_soon(self._tell_policy_late, run)
            if self._keeper is not None:
                nursery.start_soon(_note_its_end, self._keeper, audit)
            await sandbox.serve()
            nursery.cancel_scope.cancel()

    async def _obey(self, sandbox: Sandbox) -> None:
        while not self._teller.is_alone:
            left_s = float("inf") if self._kill_by is None else max(self._kill_by - time.monotonic(), 0.0)
            with trio.move_on_after(min(left_s, _UNSENT_PAUSE_S) if self._teller.has_unsent else left_s):
                await trio.lowlevel.wait_readable(self._channel.fileno())
            self._teller.send_on()
            self._obey_what_came(sandbox)
            if self._kill_by is not None and time.monotonic() >= self._kill_by:
                self._kill_by = None
                sandbox.kill(RULE_STOPPED)
        # Found out by whatever was read or sent, before this began, too.
        sandbox.kill(RULE_ALONE)

    def _obey_what_came(self, sandbox: Sandbox) -> None:
        while not self._teller.is_alone and (order := self._next_order()) is not None:
            self._obey_one(sandbox, order)

    def _hear_early(self) -> None:
        """Raises CannotStart: nobody wants it to be run any more."""
        while not self._teller.is_alone and (order := self._next_order()) is not None:
            if not isinstance(order, Signal):
                raise CannotStart("it was asked to end before it was started")
            self._early.append(order)
        if self._teller.is_alone:
            raise CannotStart("the service ended before it was started")

    def _next_order(self) -> messages.Order | None:
        """A line that is closed, or of no use, brings no more: then we are alone."""
        try:
            data, fds = self._channel.receive()
            try:
                order = messages.order_from(data)
                if len(fds) != (STREAMS if isinstance(order, Execute) else 0):
                    raise messages.Unfit("not with the descriptors that it needs")
            except BaseException:
                for fd in fds:
                    fd.close()
                raise
            self._beside = fds
            return order
        except BlockingIOError:
            return None
        except (Closed, messages.Unfit, OSError):
            self._teller.is_alone = True
            return None

    def _obey_one(self, sandbox: Sandbox, order: messages.Order) -> None:
        match order:
            case Signal(number=signal.SIGCONT):
                sandbox.go_on()
            case Signal():
                sandbox.signal(order.number, to_group=order.to_group)
            case Stop():
                sandbox.asked_to_end()
                sandbox.signal(signal.SIGTERM)
                sandbox.go_on()  # who is stopped would not hear it
                self._kill_by = self._kill_by or time.monotonic() + order.grace_s
            case Kill():
                sandbox.kill(RULE_KILLED)
            case Pause():
                try:
                    sandbox.pause()
                except CannotPause as error:
                    self._teller.tell(NotPaused(str(error)))
                else:
                    self._teller.tell(Paused())
            case Resume():
                sandbox.resume()
                self._teller.tell(Resumed())
            case Ask():
                if self._answer_soon is not None:
                    self._answer_soon(order)
            case Execute():
                self._execute(sandbox, order)
            case SignalFurther():
                if order.ticket in self._further:
                    execution = self._further[order.ticket]
                    sandbox.signal_execution(execution, order.number, to_group=order.to_group)
            case Start() | Work():
                sandbox.kill(RULE_ALONE)  # a second one: the control plane is out of its mind

    # ---- further programs

    def _execute(self, sandbox: Sandbox, order: Execute) -> None:
        ticket = order.ticket
        environment = dict(order.environment or {})
        for variable in order.env:
            name, _, value = variable.partition(b"=")
            environment[name] = value
        first, second, third = (stream.fd for stream in self._beside)
        on_started, on_ended = self._told_of(ticket)
        try:
            self._further[ticket] = sandbox.execute(
                order.command,
                stdio=(first, second, third),
                environment=environment,
                cwd=order.cwd,
                on_started=on_started,
                on_ended=on_ended,
                ticket=ticket,
            )
        except CannotExecute as error:
            self._teller.tell(NotExecuted(ticket, error.exit_status, (str(error),)))
        finally:
            for stream in self._beside:
                stream.close()
            self._beside = []

    def _further_ended(self, ticket: int, execution: Execution) -> None:
        self._further.pop(ticket, None)  # of one that ended while it was taken over, nobody has heard yet
        if execution.error is not None or execution.status is None:
            lines = (execution.error,) if execution.error is not None else ()
            self._teller.tell(NotExecuted(ticket, execution.exit_status, lines))
        else:
            self._teller.tell(FurtherEnded(ticket, execution.status))

    # ---- answering

    async def _answer(self, ask: Ask, sandbox: Sandbox, audit: AuditLog) -> None:
        try:
            seen = await trio.to_thread.run_sync(tree.below, sandbox.init_pid, _PROCESSES_SHOWN)
        except OSError as error:
            self._teller.tell(Told(ask.ticket, problem=str(error.strerror)))
            return
        match ask.what:
            case "processes":
                room = min(messages.MAX_TEXT, messages.MAX_REPORT_BYTES // 8 // max(len(seen), 1))
                self._teller.tell(Told(ask.ticket, {"processes": [_process(one, room) for one in seen]}))
            case "stats":
                counts = sandbox.engine.counts()._asdict()
                self._teller.tell(
                    Told(
                        ask.ticket,
                        {
                            "processes": len(seen),
                            "memory": sum(one.rss_bytes for one in seen),
                            "cpu": round(sum(one.cpu_s for one in seen), 3),
                            "denials": audit.denials,
                            "calls": counts,
                        },
                    )
                )
            case _:
                self._teller.tell(Told(ask.ticket, problem=f"nobody knows of {ask.what}"))


async def _note_its_end(keeper: Keeper, audit: AuditLog) -> None:
    await trio.lowlevel.wait_readable(keeper.pidfd.fd)
    text = "the keeper of this sandbox was killed: with its supervisor everything in it will end"
    audit.note(Note(subject="keeper", text=text))


def _terminal_device(fd: int) -> int | None:
    return os.fstat(fd).st_rdev if os.isatty(fd) else None


def _latencies(result: Result) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    return None if result.latencies is None else (tuple(result.latencies[0]), tuple(result.latencies[1]))


def _require_share(memory: int | None, left: int | None) -> None:
    """Raises CannotStart."""
    if left is None:
        return
    if memory is None:
        raise CannotStart(
            f"limits.memory must be set here: you may have {left >> 20}M more (per_user.memory)"
        )
    if memory > left:
        raise CannotStart(
            f"limits.memory is {memory >> 20}M, and you may have {left >> 20}M more (per_user.memory)"
        )


def _process(one: tree.Seen, room: int) -> dict[str, object]:
    """room: for its command, in characters."""
    command = [word.decode("utf-8", "backslashreplace") for word in one.argv]
    return {
        "pid": one.pid,
        "ppid": one.ppid,
        "name": one.name.decode("utf-8", "backslashreplace"),
        "state": one.state,
        "threads": one.threads,
        "cpu": one.cpu_s,
        "memory": one.rss_bytes,
        "command": messages.shown(command, room),
    }


def _source(policy: str | messages.PolicyText) -> str | Source:
    if isinstance(policy, str):
        return policy
    return Source(policy.name, policy.directory, policy.content, identity=policy.identity)


def _overrides(settings: messages.Settings) -> Overrides:
    return Overrides(**{name: getattr(settings, name) for name in settings.__struct_fields__})


def _state_directory_of(uid: int) -> bytes:
    """Raises StateError."""
    home = home_directory()
    return state_directory(dict(os.environ), uid, "" if home is None else os.fsdecode(home))
