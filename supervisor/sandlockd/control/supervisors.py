"""The control plane's side of the zygote and of each supervisor: who is asked for, what is told, and what comes back is
let in only where the table of messages has it for the stage that this supervisor is in.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

import trio

from sandlockd.control import messages
from sandlockd.control.channel import Channel, Closed
from sandlockd.control.messages import Fork, Forked, NotForked, Ready, Reaped, Said, Stage, Start, Unfit, Work
from sandlockd.control.zygote import start_zygote
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


_READY_PATIENCE_S = 30.0
_WORDS_PER_S, _WORDS_AT_ONCE = 100, messages.MAX_LINES + 200  # what it says for people comes at once
_WORD_BYTES = 4096  # what is longer counts as so many


class SupervisorLost(Exception):
    """It ended without its last word: killed from outside, or by us for what it sent."""


class ZygoteLost(Exception):
    """There is nobody to fork supervisors any more."""


class OutOfStage(Exception):
    """This order is not for a supervisor in this stage."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(f"not while it is {stage.value}")
        self.stage = stage


class Supervisor:
    """One, from its fork to its end, and whoever replaces it meanwhile. Owns the line to it and its pidfd."""

    def __init__(self, channel: Channel, pid: int, pidfd: OwnedFd) -> None:
        self._channel = channel
        self._pidfd = pidfd
        self._replacement: OwnedFd | None = None
        self._keeper: OwnedFd | None = None
        self._keeper_pid: int | None = None
        self._uid: int | None = None  # that it has become
        self._said = 0
        self._words_left, self._heard_at = float(_WORDS_AT_ONCE), 0.0
        self.pid = pid
        self.stage = Stage.FORKED

    def order(self, order: messages.Order, streams: Sequence[int] = ()) -> None:
        """streams: with a start; they stay the caller's.

        Raises:
            OutOfStage.
            SupervisorLost: it is gone, or does not read any more, and was ended for that.
        """
        if not messages.may_order(self.stage, type(order)):
            raise OutOfStage(self.stage)
        try:
            self._channel.send(order, streams)
        except BlockingIOError:
            self.end()
            raise SupervisorLost("it does not read what it is told") from None
        except Closed:
            raise SupervisorLost("it has ended") from None
        if isinstance(order, (Start, Work)):
            self._uid = order.uid
        if isinstance(order, Start):
            self.stage = Stage.STARTING
        elif isinstance(order, Work):
            self.stage = Stage.WORKING

    async def reports(self) -> AsyncIterator[messages.Report]:
        """What it reports, to its last word.

        Raises:
            SupervisorLost.
        """
        while self.stage is not Stage.OVER:
            yield await self.next_report()

    async def next_report(self) -> messages.Report:
        """Raises SupervisorLost."""
        while True:
            try:
                report, size = self._received()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._channel.fileno())
                continue
            except Closed:
                raise SupervisorLost("it ended without a word") from None
            except (Unfit, OSError) as error:
                self.end()
                raise SupervisorLost(f"it was ended for what it sent: {error}") from None
            await self._turn(1 + size // _WORD_BYTES)
            return report

    async def _turn(self, words: int) -> None:
        """One that says much is read slowly, and waits itself: its words are work for all."""
        now = trio.current_time()
        self._words_left = min(
            self._words_left + (now - self._heard_at) * _WORDS_PER_S, float(_WORDS_AT_ONCE)
        )
        self._heard_at = now
        self._words_left -= words
        if self._words_left < 0:
            with trio.move_on_after(-self._words_left / _WORDS_PER_S):
                await self.gone()  # who is dead says nothing more than what there is
        else:
            await trio.lowlevel.checkpoint()

    def _received(self) -> tuple[messages.Report, int]:
        """With its size. Raises BlockingIOError, Closed, Unfit, OSError."""
        data, fds = self._channel.receive()
        try:
            report = messages.report_from(data)
            self.stage = messages.after(self.stage, report)
            if len(fds) != isinstance(report, messages.WITH_DESCRIPTOR):
                raise Unfit("not with the descriptors that it needs")
            if fds:
                self._now(report, fds[0])
        finally:
            for fd in fds:
                fd.close()
        if isinstance(report, Said):
            self._said += 1
            if self._said > messages.MAX_LINES:
                raise Unfit("too many lines for people")
        return report, len(data)

    def _now(self, report: messages.Report, pidfd: OwnedFd) -> None:
        """Who keeps it, or whoever is in its place: another one, where that has died again. Raises Unfit."""
        pid = self._users_process(pidfd)
        if pid is None and _number_of(pidfd) is not None and _is_over(pidfd):
            return
        if pid is None:
            raise Unfit("a process that is not its user's")
        named = OwnedFd(pidfd.take())
        if isinstance(report, messages.Kept):
            before, self._keeper, self._keeper_pid = self._keeper, named, pid
        else:
            before, self._replacement, self.pid = self._replacement, named, pid
        if before is not None:
            before.close()

    @property
    def keeper_pid(self) -> int | None:
        """Of who would replace it, if anybody is there."""
        return None if self._keeper is None or _is_over(self._keeper) else self._keeper_pid

    @property
    def _named(self) -> list[OwnedFd]:
        """By itself."""
        return [one for one in (self._keeper, self._replacement) if one is not None]

    def _users_process(self, pidfd: OwnedFd) -> int | None:
        """Its number, if it is one that the user could end himself: his real user id; None: or nobody any more.

        Any process can be named that has a number: whatever a supervisor says, it runs as its user.
        """
        pid = _number_of(pidfd)
        if pid is None or pid <= 0:
            return None
        try:
            with open(f"/proc/{pid}/status") as file:
                uids = next(line for line in file if line.startswith("Uid:")).split()
        except (OSError, StopIteration):
            return None
        return pid if int(uids[1]) == self._uid and not _is_over(pidfd) else None

    def end(self) -> None:
        """SIGKILL; its init sees that, and ends the sandbox. Who would replace it comes first."""
        ours = [one for one in self._named if self._users_process(one) is not None]
        for pidfd in (*ours, self._pidfd):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd.fd, signal.SIGKILL)
        self._channel.shut()  # whoever is in its place by now ends by that

    @property
    def has_ended(self) -> bool:
        return _is_over(self._pidfd)

    async def gone(self) -> None:
        """Wait for its death, and for that of its keeper and of its replacement."""
        for pidfd in (*self._named, self._pidfd):
            await trio.lowlevel.wait_readable(pidfd.fd)

    def close(self) -> None:
        """It sees that, and ends what it has."""
        self._channel.close()
        for pidfd in (*self._named, self._pidfd):
            pidfd.close()


class Zygote:
    """Raises OSError."""

    def __init__(self, descriptor_limit: int | None = None) -> None:
        """descriptor_limit: of programs, the soft one; None: as ours."""
        self._channel, self.pid = start_zygote(descriptor_limit)
        self._tickets = 0
        self._waiting: dict[int, tuple[Channel, trio.Event]] = {}
        self._made: dict[int, Supervisor | OSError] = {}
        self.is_lost = False
        self.on_reaped: Callable[[int, int], None] | None = None  # (pid, status as wait(2) gives it)

    async def supervisor(self) -> Supervisor:
        """One that waits for its start.

        Raises:
            OSError: no further process is allowed, or none answered.
            SupervisorLost, ZygoteLost.
        """
        if self.is_lost:
            raise ZygoteLost
        ticket, self._tickets = self._tickets, self._tickets + 1
        ours, theirs = Channel.pair()
        forked = trio.Event()
        self._waiting[ticket] = (ours, forked)
        try:
            with theirs:
                await self._ask(Fork(ticket), theirs.fd)
            await forked.wait()
            made = self._made.pop(ticket, None)
            if made is None:
                raise ZygoteLost
            if isinstance(made, OSError):
                raise made
            await _made_ready(made)
        except BaseException:  # cancelled, too: whoever was forked by then sees its line closed, and ends
            ours.close()
            raise
        return made

    async def _ask(self, order: Fork, fd: int) -> None:
        while True:
            try:
                self._channel.send(order, (fd,))
                return
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._channel.fileno())
            except Closed:
                self._lost()
                return

    async def run(self) -> None:
        """Take what it says, until it is gone: a task of its own."""
        while not self.is_lost:
            try:
                data, fds = self._channel.receive()
                self._take(messages.of_zygote_from(data), fds)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._channel.fileno())
            except (Closed, Unfit, OSError):
                self._lost()

    def _take(self, message: Forked | NotForked | Reaped, fds: list[OwnedFd]) -> None:
        """Raises Unfit."""
        if len(fds) != isinstance(message, Forked):
            raise Unfit("a fork without its pidfd, or descriptors that nobody wants")
        if isinstance(message, Reaped):
            if self.on_reaped is not None:
                self.on_reaped(message.pid, message.status)
            return
        if message.ticket not in self._waiting:
            raise Unfit("an answer that nobody asked for")
        channel, event = self._waiting.pop(message.ticket)
        match message:
            case Forked():
                self._made[message.ticket] = Supervisor(channel, message.pid, fds[0])
            case NotForked():
                self._made[message.ticket] = OSError(message.errno, os.strerror(message.errno))
        event.set()

    def _lost(self) -> None:
        self.is_lost = True
        waiting, self._waiting = self._waiting, {}
        for _, event in waiting.values():
            event.set()

    def close(self) -> None:
        """It ends when it sees that, and is waited for. Supervisors do not: they have lines of their own."""
        self.is_lost = True
        self._channel.close()
        os.waitpid(self.pid, 0)


def _number_of(pidfd: OwnedFd) -> int | None:
    """-1: it is over. None: that is no pidfd (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{pidfd.fd}") as file:
        found = [int(line.split()[1]) for line in file if line.startswith("Pid:")]
    return found[0] if found else None


def _is_over(pidfd: OwnedFd) -> bool:
    waiting = select.poll()
    waiting.register(pidfd.fd, select.POLLIN)
    return bool(waiting.poll(0))


async def _made_ready(made: Supervisor) -> None:
    """Else it is ended. Raises SupervisorLost."""
    report = None
    try:
        with trio.move_on_after(_READY_PATIENCE_S):
            report = await made.next_report()
        if not isinstance(report, Ready) or report.version != messages.VERSION:
            raise SupervisorLost("it is not ready, or of another version")
    except BaseException:
        made.end()
        made.close()
        raise
