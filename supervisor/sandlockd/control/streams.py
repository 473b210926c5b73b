"""The program's end of the streams is a pipe or a terminal; ours is here: what comes is logged, what is to go in goes
in.

Whoever follows reads the log. So a program is never kept waiting by who watches it, only by our disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import termios

import trio

from sandlockd.control.logs import Stream
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.control.logs import Log

_READ_BYTES = 1 << 16
_ROWS, _COLUMNS = 24, 80


class InputClosed(Exception):
    """Nobody reads the program's standard input any more, or it never had one."""


class Streams:
    """Owns our ends; the program's until `given` is called."""

    def __init__(self, log: Log, *, tty: bool, stdin: bool, size: tuple[int, int] | None = None) -> None:
        """size: rows and columns, of a terminal. Raises OSError."""
        self._log = log
        self._sources: list[tuple[OwnedFd, Stream]] = []
        self._input: OwnedFd | None = None
        self._terminal: OwnedFd | None = None
        self._writing = trio.Lock()
        self._theirs: list[OwnedFd] = []
        try:
            if tty:
                self._open_terminal(*(size or (_ROWS, _COLUMNS)))
            else:
                self._open_pipes(stdin=stdin)
        except BaseException:
            self.close()
            raise

    def _open_terminal(self, rows: int, columns: int) -> None:
        ours, theirs = (OwnedFd(fd) for fd in os.openpty())
        self._terminal = self._input = ours
        self._sources.append((ours, Stream.TTY))
        self._theirs.append(theirs)
        os.set_blocking(ours.fd, False)
        self.resize(rows, columns)

    def _open_pipes(self, *, stdin: bool) -> None:
        if stdin:
            reader, writer = (OwnedFd(fd) for fd in os.pipe2(os.O_CLOEXEC))
            self._theirs.append(reader)
            self._input = writer
            os.set_blocking(writer.fd, False)
        else:
            self._theirs.append(OwnedFd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)))
        for stream in (Stream.STDOUT, Stream.STDERR):
            reader, writer = (OwnedFd(fd) for fd in os.pipe2(os.O_CLOEXEC))
            self._theirs.append(writer)
            self._sources.append((reader, stream))
            os.set_blocking(reader.fd, False)

    @property
    def theirs(self) -> tuple[int, int, int]:
        """The program's standard input, output and error."""
        first, *more = (end.fd for end in self._theirs)
        return (first, *more) if more else (first, first, first)  # type: ignore[return-value]

    def own_terminal(self, uid: int) -> None:
        """The program is to be able to open its terminal again by name. Raises OSError."""
        if self._terminal is not None:
            os.fchown(self._theirs[0].fd, uid, -1)
            os.fchmod(self._theirs[0].fd, 0o620)

    def given(self) -> None:
        """The program, or who starts it, has its own now."""
        for end in self._theirs:
            end.close()
        self._theirs.clear()

    async def log_all(self) -> None:
        """Until nobody can write any more."""
        async with trio.open_nursery() as nursery:
            for source, stream in self._sources:
                nursery.start_soon(self._log_one, source, stream)

    async def _log_one(self, source: OwnedFd, stream: Stream) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(source.fd)
                data = os.read(source.fd, _READ_BYTES)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if error.errno == errno.EIO:  # of a terminal: nobody has the other side open
                    return
                raise
            if not data:
                return
            self._log.append(stream, data)

    async def write(self, data: bytes) -> None:
        """To the program, all of it: it may take long to read. Raises InputClosed."""
        async with self._writing:
            while data:
                if self._input is None:
                    raise InputClosed
                try:
                    data = data[os.write(self._input.fd, data) :]
                except BlockingIOError:
                    with contextlib.suppress(trio.ClosedResourceError):
                        await trio.lowlevel.wait_writable(self._input.fd)
                except OSError:
                    self.end_input()
                    raise InputClosed from None

    def end_input(self) -> None:
        """The program reads the end of its input. Of a terminal: what is sent is the character for it."""
        if self._input is None:
            return
        if self._terminal is not None:
            with contextlib.suppress(OSError):
                os.write(self._terminal.fd, b"\x04")
            return
        trio.lowlevel.notify_closing(self._input.fd)
        self._input.close()
        self._input = None

    @property
    def has_input(self) -> bool:
        return self._input is not None

    @property
    def is_terminal(self) -> bool:
        return self._terminal is not None

    def resize(self, rows: int, columns: int) -> None:
        """Raises OSError."""
        if self._terminal is not None:
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(self._terminal.fd, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        self.given()
        ends = [source for source, _ in self._sources]
        if self._input is not None and self._input not in ends:
            ends.append(self._input)
        for end in ends:
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(end.fd)
            end.close()
        self._sources.clear()
        self._input = self._terminal = None
