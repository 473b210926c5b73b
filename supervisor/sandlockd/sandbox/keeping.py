"""The keeper of one sandbox: a process that has all that the sandbox hangs on, and replaces a supervisor that dies.

It is a fork of the supervisor, made when everything is prepared and nothing started yet: one thread, no loop, nothing
open for the program. It is given what comes later (the leash, the listeners), touches nothing of the program's, and
waits. When the supervisor is dead, the keeper forks the next one, which goes on from that very point: it makes anew
what a supervisor has in memory, from the disk and from the kernel, and takes over what is open (native/takeover.c).

So nothing has to be written down to be read again by a stranger: what was compiled of the policy, which descriptors are
locks, and what lies where is as it was at the start, not as it would be found now.

The keeper does not survive itself: when it is killed the supervisor goes on without, and notes it. When both are dead,
the leash breaks and everything in the sandbox dies.

Who reads another process's memory must be its ancestor, where Yama says so (kernel.yama.ptrace_scope): a replacement is
none. There is no keeper there.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import socket
import struct
from typing import NamedTuple

from sandlockd.kernel import launching
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_LAUNCHED, _LISTENER, _REPORT, _FURTHER, _FURTHER_OVER = range(5)
_FURTHER_LISTENER, _FURTHER_NUMBER, _MOVED, _NOTE, _READY, _OVER = range(5, 11)

_MESSAGE_BYTES = 1 << 20
_DESCRIPTORS_MAX = 4
_UNREADY_DEATHS_MAX = 5  # of supervisors in a row that did not get as far as to serve
_MOVED_MAX = 1024
_STOPS = frozenset({launching.STOPPED, launching.CONTINUED})
_READ_PATIENCE_S, _END_PATIENCE_MS = 1, 1000
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"


class Further(NamedTuple):
    """Of a further program what one needs to go on with it. ticket: the host's."""

    argv: tuple[bytes, ...]  # as much of it as is shown
    directory: bytes | None
    pid: int
    ticket: int


class Left:
    """What a supervisor has left: as the keeper knows it, and the next one finds it."""

    def __init__(self) -> None:
        self.init_pid = 0
        self.init_pidfd: OwnedFd | None = None
        self.control: OwnedFd | None = None
        self.listener: OwnedFd | None = None
        self.started_at = 0.0  # monotonic
        self.reports: list[tuple[Any, ...]] = []  # of init, that say how it stands with the program
        self.further: dict[int, Further] = {}  # by serial
        self.further_listeners: dict[int, OwnedFd] = {}  # of those too that have left something behind
        self.further_numbers: dict[int, int] = {}  # which listener it was to the supervisor
        self.moved: list[tuple[int, bytes, bytes]] = []
        self.notes: dict[str, Any] = {}  # of the host's
        self.deaths = 0
        self.is_over = False
        self.unready = 0

    def take(self, message: tuple[Any, ...], fds: list[OwnedFd]) -> None:
        kind, *words = message
        if kind == _LAUNCHED:
            self.init_pid, self.started_at = words
            self.control, self.init_pidfd = fds
        elif kind == _LISTENER:
            (self.listener,) = fds
        elif kind == _REPORT:
            of, report = words
            # Of stops and of what ends them the last counts.
            self.reports = [one for one in self.reports if of not in _STOPS or one[0] not in _STOPS]
            self.reports.append(report)
        elif kind == _FURTHER:
            self.further[words[0]] = Further(*words[1:])
        elif kind == _FURTHER_OVER:
            self.further.pop(words[0], None)
        elif kind == _FURTHER_LISTENER:
            self._drop_ended()
            (self.further_listeners[words[0]],) = fds
        elif kind == _FURTHER_NUMBER:
            self.further_numbers[words[0]] = words[1]
        elif kind == _MOVED:
            self.moved = [*self.moved[-_MOVED_MAX:], (words[0], words[1], words[2])]
        elif kind == _NOTE:
            self.notes[words[0]] = words[1]
        elif kind == _READY:
            self.unready = 0
        elif kind == _OVER:
            self.is_over = True

    def _drop_ended(self) -> None:
        """Listeners of which the last task is dead."""
        for serial, listener in list(self.further_listeners.items()):
            waiting = select.poll()
            waiting.register(listener.fd, select.POLLIN)
            if any(not events & select.POLLIN for _, events in waiting.poll(0)):
                listener.close()
                del self.further_listeners[serial]
                self.further_numbers.pop(serial, None)


class Keeper:
    """The supervisor's side. left: of who was there before; None: nobody was."""

    def __init__(self, line: socket.socket, pid: int, pidfd: OwnedFd, left: Left | None) -> None:
        self._line = line
        self.pid = pid
        self.pidfd = pidfd
        self.left = left
        self.is_there = True

    def launched(self, init_pid: int, started_at: float, control_fd: int, pidfd: int) -> None:
        """Descriptors stay the caller's, here and below. started_at: monotonic."""
        self._tell(_LAUNCHED, init_pid, started_at, fds=(control_fd, pidfd))

    def has_listener(self, listener_fd: int) -> None:
        self._tell(_LISTENER, fds=(listener_fd,))

    def reported(self, kind: int, report: tuple[Any, ...]) -> None:
        """By init, of how it stands with the program."""
        self._tell(_REPORT, kind, report)

    def moved(self, tree: int, old: bytes, new: bytes) -> None:
        self._tell(_MOVED, tree, old, new)

    def further(self, serial: int, what: Further) -> None:
        self._tell(_FURTHER, serial, *what)

    def further_over(self, serial: int) -> None:
        """What it has left behind may live: its listener is kept until that has ended."""
        self._tell(_FURTHER_OVER, serial)

    def further_listener(self, serial: int, listener_fd: int) -> None:
        self._tell(_FURTHER_LISTENER, serial, fds=(listener_fd,))

    def further_number(self, serial: int, number: int) -> None:
        """Which one it is by now (engine.attach_further)."""
        self._tell(_FURTHER_NUMBER, serial, number)

    def noted(self, name: str, value: object) -> None:
        """value: what marshal takes."""
        self._tell(_NOTE, name, value)

    def ready(self) -> None:
        """What was left is taken over."""
        self._tell(_READY)

    def _tell(self, *message: Any, fds: Sequence[int] = ()) -> None:
        """A keeper that is gone, or does not read for a while, keeps nothing any more: it has nothing else to do."""
        if not self.is_there:
            return
        try:
            socket.send_fds(self._line, [marshal.dumps(message)], fds)
        except OSError:
            self.is_there = False
            with contextlib.suppress(ProcessLookupError):  # it would go on from what is not true any more
                signal.pidfd_send_signal(self.pidfd.fd, signal.SIGKILL)

    def over(self) -> None:
        """Nobody is to be replaced any more: wait for its end, since it holds what others wait to see closed.

        Its user may have stopped it.
        """
        self._tell(_OVER)
        self._line.close()
        waiting = select.poll()
        waiting.register(self.pidfd.fd, select.POLLIN)
        if not waiting.poll(_END_PATIENCE_MS):
            signal.pidfd_send_signal(self.pidfd.fd, signal.SIGKILL)
            waiting.poll()
        _reap(self.pid)
        self.pidfd.close()


def is_possible() -> bool:
    try:
        with open(_YAMA, "rb") as file:
            return int(file.read()) == 0 or os.geteuid() == 0
    except (OSError, ValueError):
        return True  # a kernel without


def keep(release: Callable[[], None]) -> Keeper:
    """Fork the keeper. Returns in who called, and again in each that replaces it.

    release: closes what the keeper is not to hold. Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own_pid = os.getpid()
    own_pidfd = OwnedFd(os.pidfd_open(own_pid))
    pid = os.fork()
    if pid:
        theirs.close()
        own_pidfd.close()
        _have_patience(ours)
        return Keeper(ours, pid, OwnedFd(os.pidfd_open(pid)), None)
    try:
        ours.close()
        release()
        _name(b"sandlockd-keep")
        return _keep(theirs, own_pid, own_pidfd)
    except BaseException:
        os._exit(1)


def _keep(line: socket.socket, pid: int, pidfd: OwnedFd) -> Keeper:
    """Returns in the children only."""
    left = Left()
    keeper_pid, keeper_pidfd = os.getpid(), OwnedFd(os.pidfd_open(os.getpid()))
    while True:
        _await_death(line, pidfd, left)
        _reap(pid)
        if left.control is None or left.listener is None:
            os._exit(0)  # nothing was started that could go on
        left.deaths += 1
        left.unready += 1
        if left.unready > _UNREADY_DEATHS_MAX:
            os._exit(1)
        line.close()
        ours, line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with pidfd:
            pid = os.fork()
            if pid == 0:
                line.close()
                _have_patience(ours)
                _name(b"sandlockd-sup")
                return Keeper(ours, keeper_pid, keeper_pidfd, left)
        ours.close()
        pidfd = OwnedFd(os.pidfd_open(pid))


def _await_death(line: socket.socket, pidfd: OwnedFd, left: Left) -> None:
    """Of all its threads: what one of them is still doing is done then."""
    waiting = select.poll()
    waiting.register(line.fileno(), select.POLLIN)
    waiting.register(pidfd.fd, select.POLLIN)
    while True:
        ready = dict(waiting.poll())
        if line.fileno() in ready and not _heard(line, left):
            waiting.unregister(line.fileno())
        if pidfd.fd in ready:
            line.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while _heard(line, left):
                    pass
            return


def _heard(line: socket.socket, left: Left) -> bool:
    """False: there is nobody any more who would say anything."""
    packet, fds, _, _ = socket.recv_fds(line, _MESSAGE_BYTES, _DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
    if not packet:
        return False
    left.take(marshal.loads(packet), [OwnedFd(fd) for fd in fds])
    if left.is_over:
        os._exit(0)  # who says so waits for it
    return True


def _have_patience(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _READ_PATIENCE_S, 0))


def _reap(pid: int) -> None:
    """If it is our child: a keeper's parent is the first supervisor only, and that is no child of his."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _name(text: bytes) -> None:
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb") as comm:
        comm.write(text)  # for people
