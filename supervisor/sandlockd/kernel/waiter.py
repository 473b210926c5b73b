"""File calls that may never come back, made by a process that nobody waits for.

A thread that waits for a FUSE server cannot be killed once the server has read its question: it waits until the server
answers, and its whole process cannot end before, nor let go of its descriptors. Were that process ours, whoever runs
such a server could keep us from ending, and the leash (by which everything in the sandbox dies with us) from breaking.
So the waiter is a fork of ours that holds nothing but a socket and what it is told to look at. Our own thread waits
for its answer on a socket, which ends when we do.

It is started when first needed. Refuses to decide anything: it makes the calls of kernel/acts.py, with the identity
that goes with each.
"""

from __future__ import annotations

import _thread
import errno
import io
import os
import pickle
import signal
import socket

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.launching import POKE_SIGNAL, poke
from sandlockd.kernel.native import check, lib
from sandlockd.kernel.paths import acting_as

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, TypeVar

    from sandlockd.kernel.paths import Identity

    Result = TypeVar("Result")

_POKE = b"poke "  # and a token, in the place of a call; what is packed never begins so
_MESSAGE_BYTES_MAX = 160 * 1024  # the longest holds an attribute of 64 KiB and two paths
_DESCRIPTORS_MAX = 8


class WaiterGone(Exception):
    """It was killed, or closed because all is over. Whether the call was made is not known."""


class Waiter:
    """One process. Used by many threads at a time."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._control: socket.socket | None = None
        self._pid = 0
        self._answers: set[socket.socket] = set()
        self._tokens: dict[int, int] = {}  # by our thread that waits: which wait it is
        self._last_token = 0
        self._is_closed = False

    @property
    def pid(self) -> int:
        """0 when it has not been needed yet."""
        return self._pid

    def wait_for(self, act: Callable[..., Result], *args: Any, identity: Identity | None = None) -> Result:
        """As run; a poke interrupts the act, which then raises InterruptedError."""
        thread = _thread.get_native_id()
        with self._lock:
            self._last_token += 1
            self._tokens[thread] = token = self._last_token
        try:
            return self.run(act, *args, identity=identity, token=token)
        finally:
            with self._lock:
                del self._tokens[thread]

    def poke(self, thread: int) -> None:
        """Interrupt what this thread of ours waits for, if it may be interrupted."""
        with self._lock:
            token = self._tokens.get(thread)
            if token is None or self._control is None:
                return
            try:
                self._control.send(_POKE + b"%d" % token)
            except OSError:
                pass  # it was killed: its end is what the thread hears

    def run(
        self, act: Callable[..., Result], *args: Any, identity: Identity | None = None, token: int = 0
    ) -> Result:
        """token: of a wait that may be interrupted, else 0. Raises OSError (the act's), WaiterGone."""
        message, fds = _packed((act, args, identity, token))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                self._ask(ours, message, [theirs.fileno(), *fds])
            try:
                answer, fds, _, _ = socket.recv_fds(
                    ours, _MESSAGE_BYTES_MAX, _DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC
                )
            finally:
                with self._lock:
                    self._answers.discard(ours)
        if not answer:
            raise WaiterGone
        error, result = _unpacked(answer, fds)[0]
        if error:
            raise OSError(error, os.strerror(error))
        return result  # type: ignore[no-any-return]

    def _ask(self, ours: socket.socket, message: bytes, fds: Sequence[int]) -> None:
        with self._lock:
            if self._is_closed:
                raise WaiterGone
            try:
                socket.send_fds(self._running(), [message], fds)
            except (BrokenPipeError, ConnectionResetError):  # it was killed: another one
                self._end()
                socket.send_fds(self._running(), [message], fds)
            self._answers.add(ours)

    def _running(self) -> socket.socket:
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                _serve_after_fork(theirs.fileno())
            theirs.close()
            self._control, self._pid = ours, pid
        return self._control

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
            os.kill(self._pid, signal.SIGKILL)
            # Not waited for: it ends when the last server that it waits for has answered or is gone.
            os.waitpid(self._pid, os.WNOHANG)

    def close(self) -> None:
        """Whoever still waits for an answer waits no longer."""
        with self._lock:
            self._is_closed = True
            self._end()
            for answer in self._answers:
                answer.shutdown(socket.SHUT_RDWR)


def _serve_after_fork(control_fd: int) -> NoReturn:
    """In the waiter: hold nothing of the supervisor's (leash, listener, log), and serve until it is gone."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # ^C is for the program
        with open("/proc/self/comm", "wb") as comm:
            comm.write(b"sandlockd-waits")
        null = os.open("/dev/null", os.O_RDWR)
        control_fd = os.dup(control_fd)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.dup2(control_fd, 3, inheritable=False)
        check(lib.slk_close_from(4, 0))
        with socket.socket(fileno=3) as control:
            while True:
                message, fds, _, _ = socket.recv_fds(
                    control, _MESSAGE_BYTES_MAX, _DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC
                )
                if not message:
                    break
                if message.startswith(_POKE):
                    _waits.poke(int(message[len(_POKE) :]))
                    continue
                _thread.start_new_thread(_answer, (message, fds))
    finally:
        os._exit(0)


class _Waits:
    """In the waiter: which thread makes which wait that may be interrupted."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._threads: dict[int, int] = {}

    def run(self, token: int, act: Callable[..., Result], args: Sequence[Any]) -> Result:
        if not token:
            return act(*args)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (POKE_SIGNAL,))
        with self._lock:
            self._threads[token] = _thread.get_native_id()
        try:
            return act(*args)
        finally:
            with self._lock:
                del self._threads[token]

    def poke(self, token: int) -> None:
        with self._lock:
            if token in self._threads:
                poke(self._threads[token])


_waits = _Waits()


def _answer(message: bytes, fds: Sequence[int]) -> None:
    given: list[OwnedFd] = []
    with socket.socket(fileno=fds[0]) as answer:
        try:
            (act, args, identity, token), given = _unpacked(message, fds[1:])
            with acting_as(identity):
                outcome = (0, _waits.run(token, act, args))
        except OSError as error:
            outcome = (error.errno or errno.EIO, None)
        except Exception:
            outcome = (errno.EIO, None)
        packed, results = _packed(outcome)
        try:
            socket.send_fds(answer, [packed], results)
        except OSError:
            pass  # nobody waits any more
    for fd in results:
        os.close(fd)
    for descriptor in given:
        descriptor.close()


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.fds: list[int] = []

    def persistent_id(self, value: object) -> int | None:
        if not isinstance(value, OwnedFd):
            return None
        self.fds.append(value.fd)
        return len(self.fds) - 1


class _Unpacker(pickle.Unpickler):
    def __init__(self, packed: bytes, fds: Sequence[int]) -> None:
        super().__init__(io.BytesIO(packed))
        self.given: list[OwnedFd] = [OwnedFd(fd) for fd in fds]

    def persistent_load(self, position: Any) -> OwnedFd:
        return self.given[int(position)]


def _packed(value: object) -> tuple[bytes, list[int]]:
    """Descriptors travel beside: (the bytes, the descriptors)."""
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(value)
    return file.getvalue(), packer.fds


def _unpacked(packed: bytes, fds: Sequence[int]) -> tuple[Any, list[OwnedFd]]:
    unpacker = _Unpacker(packed, fds)
    return unpacker.load(), unpacker.given
