"""The supervisor of one sandbox, as a process of the service: forked from the zygote, told once what to run, and with
that the user who asked for it. The run is that of the foreground (sandbox/run.py); here is what it has in place of a
terminal: a channel to the control plane, and streams that came through it.

When the control plane is gone, nobody could end the sandbox any more: then it ends (law 8).
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time

import trio

from sandlockd.audit.state import home_directory, state_directory
from sandlockd.control import messages
from sandlockd.control.channel import Channel, Closed
from sandlockd.control.messages import (
    Began,
    Continued,
    Ended,
    Kill,
    Ready,
    Said,
    Signal,
    Start,
    Started,
    Stop,
)
from sandlockd.kernel import users
from sandlockd.kernel.orphans import become_subreaper
from sandlockd.launch.prepare import CannotStart, raise_own_descriptor_limit
from sandlockd.policy.inputs import Overrides, Source
from sandlockd.sandbox.policies import load_policy
from sandlockd.sandbox.result import Result
from sandlockd.sandbox.run import Asked, Run, in_one, policy_digest, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from sandlockd.audit.log import AuditLog
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.launch.prepare import Prepared
    from sandlockd.sandbox.sandbox import Sandbox

STREAMS = 3
RULE_STOPPED, RULE_KILLED, RULE_ALONE = "stop", "kill", "service"
_UMASK = 0o022  # as a login has it
_LAST_WORD_PATIENCE_MS = 10_000
_UNSENT_MAX, _UNSENT_PAUSE_S = 64, 0.1


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
    start, streams = _awaited_start(channel)
    supervisor = _Supervisor(channel, streams)
    result = Result()
    try:
        supervisor.run(start, result)
    except Exception as error:  # the program, if there was one, has been ended
        lines, exit_status = told(error)
        for line in lines:
            supervisor.say(line)
        result.went_wrong(in_one(lines), exit_status)
    supervisor.last_word(Ended(result.as_dict(), result.exit_status))
    return 0


def _awaited_start(channel: Channel) -> tuple[Start, list[OwnedFd]]:
    _wait(channel, select.POLLIN, None)
    data, fds = channel.receive()
    order = messages.order_from(data)
    if not isinstance(order, Start) or len(fds) != STREAMS:
        raise messages.Unfit("the first order is no start, or not with three streams")
    return order, fds


def _wait(channel: Channel, event: int, patience_ms: int | None) -> bool:
    waiting = select.poll()
    waiting.register(channel.fileno(), event)
    return bool(waiting.poll(patience_ms))


class _Supervisor:
    """The host of a run of the service's."""

    def __init__(self, channel: Channel, streams: Sequence[OwnedFd]) -> None:
        self._channel = channel
        self._streams = streams
        self._said = 0
        self._is_alone = False  # the control plane is gone
        self._kill_by: float | None = None  # monotonic
        self._unsent: list[messages.Message] = []
        self._early: list[Signal] = []  # for a program that was not there yet

    def run(self, start: Start, result: Result) -> None:
        """Raises as Run.run."""
        try:
            environment = {**users.login_environment(start.uid), **start.environment}
            users.become(start.uid)
        except users.NoUser as error:
            raise CannotStart(str(error)) from None
        except OSError as error:
            raise CannotStart(f"cannot become user {start.uid}: {error.strerror}") from None
        os.environb.clear()
        os.environb.update(environment)
        os.umask(_UMASK)
        try:
            os.chdir(start.cwd)
        except OSError as error:
            raise CannotStart(f"{os.fsdecode(start.cwd)}: cannot be entered: {error.strerror}") from None
        names = tuple(one if isinstance(one, str) else one.name for one in start.policies)
        policy = load_policy([_source(one) for one in start.policies], _overrides(start.settings))
        asked = Asked(
            policy,
            names or ("base",),
            start.command,
            name=start.name,
            is_dry_run=start.settings.dry_run,
            counts_changes=True,
        )
        Run(asked, result, self, start.state_dir or _state_directory_of(start.uid)).run()

    # ---- what a run wants of its host

    def say(self, text: str) -> None:
        self._said += 1
        if self._said <= messages.MAX_LINES:
            self._tell(Said(text))

    def begun(self, run: Run, prepared: Prepared, audit: AuditLog) -> None:
        self._tell(Began(audit.run_id, policy_digest(prepared.policy)))

    def supervise(self, run: Run, sandbox: Sandbox, audit: AuditLog, spared: Sequence[int]) -> None:
        try:
            become_subreaper(spared)
            self._hear_early()
            first, second, third = (stream.fd for stream in self._streams)
            sandbox.start(
                stdio=(first, second, third),
                descriptor_limit=raise_own_descriptor_limit(),
                umask=run.umask,
                new_session=True,
            )
            self._close_streams()
            self._tell(Started(sandbox.init_pid))
            # Not before: a stop of what is not running yet would be out of turn.
            sandbox.on_stopped = lambda number: self._tell(messages.Stopped(number))
            sandbox.on_continued = lambda: self._tell(Continued())
            if sandbox.stopped_by:
                self._tell(messages.Stopped(sandbox.stopped_by))
            for order in self._early:
                self._obey_one(sandbox, order)
            trio.run(self._serve, sandbox)
        finally:
            self._close_streams()
            sandbox.close()

    def _close_streams(self) -> None:
        """A pipe ends when the program closes it, not when we do."""
        for stream in self._streams:
            stream.close()

    # ---- serving

    async def _serve(self, sandbox: Sandbox) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey, sandbox)
            await sandbox.serve()
            nursery.cancel_scope.cancel()

    async def _obey(self, sandbox: Sandbox) -> None:
        while not self._is_alone:
            left_s = float("inf") if self._kill_by is None else max(self._kill_by - time.monotonic(), 0.0)
            with trio.move_on_after(min(left_s, _UNSENT_PAUSE_S) if self._unsent else left_s):
                await trio.lowlevel.wait_readable(self._channel.fileno())
            self._send_on()
            self._obey_what_came(sandbox)
            if self._kill_by is not None and time.monotonic() >= self._kill_by:
                self._kill_by = None
                sandbox.kill(RULE_STOPPED)

    def _obey_what_came(self, sandbox: Sandbox) -> None:
        while not self._is_alone and (order := self._next_order()) is not None:
            self._obey_one(sandbox, order)
        if self._is_alone:
            sandbox.kill(RULE_ALONE)

    def _hear_early(self) -> None:
        """Raises CannotStart: nobody wants it to be run any more."""
        while not self._is_alone and (order := self._next_order()) is not None:
            if not isinstance(order, Signal):
                raise CannotStart("it was asked to end before it was started")
            self._early.append(order)
        if self._is_alone:
            raise CannotStart("the service ended before it was started")

    def _next_order(self) -> messages.Order | None:
        """A line that is closed, or of no use, brings no more: then we are alone."""
        try:
            data, fds = self._channel.receive()
            for fd in fds:
                fd.close()
            return messages.order_from(data)
        except BlockingIOError:
            return None
        except (Closed, messages.Unfit, OSError):
            self._is_alone = True
            return None

    def _obey_one(self, sandbox: Sandbox, order: messages.Order) -> None:
        match order:
            case Signal(number=signal.SIGCONT):
                sandbox.go_on()
            case Signal():
                sandbox.signal(order.number)
            case Stop():
                sandbox.asked_to_end()
                sandbox.signal(signal.SIGTERM)
                sandbox.go_on()  # who is stopped would not hear it
                self._kill_by = self._kill_by or time.monotonic() + order.grace_s
            case Kill():
                sandbox.kill(RULE_KILLED)
            case Start():
                sandbox.kill(RULE_ALONE)  # a second one: the control plane is out of its mind

    # ---- telling

    def _tell(self, message: messages.Message) -> None:
        """In turn. What does not go out now goes a little later; of what is said for people only some is kept for that,
        and of stops that are over nothing.
        """
        unsent = self._unsent
        if isinstance(message, Said) and len(unsent) >= _UNSENT_MAX:
            return
        if isinstance(message, Continued) and unsent and isinstance(unsent[-1], messages.Stopped):
            unsent.pop()
        if (
            isinstance(message, messages.Stopped)
            and unsent
            and isinstance(unsent[-1], (messages.Stopped, Continued))
        ):
            unsent.pop()
        unsent.append(message)
        self._send_on()

    def _send_on(self) -> bool:
        """True: nothing is left to be sent, or nobody to send it to."""
        try:
            while self._unsent:
                self._channel.send(self._unsent[0])
                del self._unsent[0]
        except BlockingIOError:
            return False
        except Closed:
            self._is_alone = True
        return True

    def last_word(self, message: Ended) -> None:
        """Raises TimeoutError."""
        self._unsent.append(message)
        deadline = time.monotonic() + _LAST_WORD_PATIENCE_MS / 1000
        while not self._send_on():
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "the control plane does not read")
            _wait(self._channel, select.POLLOUT, 100)


def _source(policy: str | messages.PolicyText) -> str | Source:
    if isinstance(policy, str):
        return policy
    return Source(policy.name, policy.directory, policy.content)


def _overrides(settings: messages.Settings) -> Overrides:
    return Overrides(**{name: getattr(settings, name) for name in settings.__struct_fields__})


def _state_directory_of(uid: int) -> bytes:
    """Raises StateError."""
    home = home_directory()
    return state_directory(dict(os.environ), uid, "" if home is None else os.fsdecode(home))
