"""A pseudo-terminal with a process on it, as a person would have it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from harness.users import User
from harness.waiting import PATIENCE_S, Patience, until, wait_dead

_READ_BYTES = 65536


class Terminal:
    """One process, leader of its session, and what it wrote so far (`screen`)."""

    def __init__(self, pid: int, master_fd: int, *, is_child: bool = True) -> None:
        """is_child: ours, to be killed and reaped."""
        self.pid = pid
        self._is_child = is_child
        self.screen = b""
        self._master_fd = master_fd
        self._pidfd = os.pidfd_open(pid)
        self._seen = 0
        self._status: int | None = None

    @property
    def fd(self) -> int:
        """Of our side."""
        return self._master_fd

    def send(self, text: bytes) -> None:
        """Keys, as bytes: b"\\x03" is ^C."""
        os.write(self._master_fd, text)

    def expect(self, pattern: bytes, limit_s: float = PATIENCE_S) -> re.Match[bytes]:
        """Wait until a regular expression appears in what came since the last match. Raises Patience."""
        compiled = re.compile(pattern, re.DOTALL)
        end = time.monotonic() + limit_s
        while True:
            found = compiled.search(self.screen, self._seen)
            if found:
                self._seen = found.end()
                return found
            if not self._read(max(end - time.monotonic(), 0)):
                raise Patience(f"{pattern!r} did not appear; the screen has {self.screen[self._seen :]!r}")

    def _read(self, limit_s: float) -> bool:
        ready, _, _ = select.select([self._master_fd], [], [], limit_s)
        if not ready:
            return False
        try:
            chunk = os.read(self._master_fd, _READ_BYTES)
        except OSError:  # EIO: the other side is closed
            return False
        self.screen += chunk
        return bool(chunk)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def foreground_group(self) -> int:
        return os.tcgetpgrp(self._master_fd)

    def bring_to_front(self) -> None:
        """At the next prompt, `fg`; until the terminal is the job's, so that keys are not the shell's."""
        self.expect(rb"\[prompt\]")
        shell = self.foreground_group()
        self.send(b"fg\r")
        self.expect(rb"fg\r\n")
        until(lambda: self.foreground_group() != shell, "the job in the foreground")

    def wait(self, limit_s: float = PATIENCE_S) -> int:
        """As os.waitstatus_to_exitcode. The screen is read to its end. Raises Patience."""
        if self._status is None:
            end = time.monotonic() + limit_s
            while self._read(max(end - time.monotonic(), 0)):
                pass
            wait_dead([self._pidfd], max(end - time.monotonic(), 0.001))
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def close(self) -> None:
        if self._status is None and self._is_child:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._pidfd)
        os.close(self._master_fd)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_terminal(
    argv: Sequence[str],
    *,
    user: User,
    cwd: str,
    environment: Mapping[str, str],
    rows: int = 24,
    columns: int = 80,
) -> Terminal:
    """Start a program on a terminal of its own."""
    master_fd, slave_fd = os.openpty()
    fcntl.ioctl(slave_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    if os.geteuid() == 0:
        os.fchown(slave_fd, user.uid, user.gid)
    pid = os.fork()
    if pid == 0:
        _become(argv, slave_fd, user, cwd, environment)
    os.close(slave_fd)
    os.set_inheritable(master_fd, False)
    return Terminal(pid, master_fd)


def _become(argv: Sequence[str], slave_fd: int, user: User, cwd: str, environment: Mapping[str, str]) -> None:
    try:
        os.setsid()
        fcntl.ioctl(slave_fd, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(slave_fd, fd)
        os.closerange(3, 4096)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        if os.geteuid() != user.uid:
            os.setgroups([])
            os.setgid(user.gid)
            os.setuid(user.uid)
        os.chdir(cwd)
        os.execve(argv[0], list(argv), dict(environment))
    finally:
        os._exit(127)
