"""Being attached: what the sandbox writes comes out here, our input and signals go in, and a terminal is its terminal.

One loop that waits for nothing but poll(2): a slow reader of ours keeps back its own output only, a program that does
not read keeps back our input only, and a signal is passed on at once.
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
import signal
import stat
import time
from typing import NamedTuple

from sandlockd.client.errors import ServiceError
from sandlockd.client.link import Exit, Lost, Output
from sandlockd.client.sync import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from sandlockd.client.sync import Attachment, Execution

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_OURS = (signal.SIGHUP, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
_OF_KEYS = (signal.SIGINT, signal.SIGQUIT)  # that a terminal sends
_BY_KEY = 0x80  # beside the number of a signal that it has sent
_QUICKLY_S = 1.0  # ^C again within it means more than ^C
_AGAIN_S = 0.5  # longer than this takes only a connection that is made again
_WAITING_MAX_BYTES = 1 << 18  # that were read and not yet passed on
_READ_BYTES = 1 << 16
_LEAVE, _LEAVE_TIMES = b"\x1d", 3  # ^]
_BELOW_PIPE = 4096  # poll(2) says that so much can be written to a pipe


class Ended(NamedTuple):
    """exit: None: it goes on, and we have left."""

    exit: Exit | None


class _Left(Exception):
    """By a signal, while there was no connection."""


def attached(program: Sandbox | Execution, *, passes_input: bool, tail: int | None = None) -> Ended:
    """Until it has ended. Raises ServiceError."""
    with program.attach(tail=tail) as attachment:
        here = _Here(program, attachment, passes_input=passes_input)
        with here.signals():
            return here.follow()


class _Here:
    def __init__(self, program: Sandbox | Execution, attachment: Attachment, *, passes_input: bool) -> None:
        self._program = program
        self._attachment = attachment
        self._has_input = passes_input
        self._is_raw = passes_input and program.known.tty and os.isatty(0)
        self._output: collections.deque[tuple[int, memoryview]] = collections.deque()
        self._waiting_bytes = 0
        self._broken: set[int] = set()
        self._exit: Exit | None = None
        self._has_left = False
        self._interrupts: list[float] = []
        self._leaves = 0
        self._left_at = 0.0
        self._stepping_since: float | None = None
        self._woken = -1
        self._raw = _Raw(self._is_raw)

    # ---- the loop

    def follow(self) -> Ended:
        """Raises ServiceError."""
        try:
            with self._raw:
                self._resize()
                self._step()  # something may have come with the connection
                while not (self._has_left or (self._exit is not None and not self._output)):
                    self._turn()
        except _Left:
            self._has_left = True
        return Ended(None if self._has_left else self._exit)

    def _turn(self) -> None:
        for fd, _ in self._ready():
            if fd == self._woken:
                self._take_signals()
            elif fd == 0:
                self._read_input()
            elif fd in (1, 2):
                self._write_output()
            else:
                self._step()

    def _ready(self) -> list[tuple[int, int]]:
        waiting = select.poll()
        waiting.register(self._woken, select.POLLIN)
        unsent = self._attachment.unsent
        if self._exit is None:
            events = select.POLLIN if self._waiting_bytes < _WAITING_MAX_BYTES else 0
            waiting.register(self._attachment.fileno(), events | (select.POLLOUT if unsent else 0))
            if self._has_input and unsent < _WAITING_MAX_BYTES:
                waiting.register(0, select.POLLIN)
        if self._output:
            waiting.register(self._output[0][0], select.POLLOUT)
        return waiting.poll()

    def _step(self) -> None:
        """Raises ServiceError, _Left."""
        self._stepping_since = time.monotonic()
        try:
            happened = self._attachment.step()
        finally:
            self._stepping_since = None
        for one in happened:
            match one:
                case Output(stream=stream, data=data):
                    self._put(2 if stream == "stderr" else 1, data)
                case Lost(bytes=number):
                    words = (
                        f"sandlockctl: {number} bytes of what it wrote are lost: they were not read in time\n"
                    )
                    self._put(2, words.encode())
                case Exit():
                    self._exit = one

    # ---- output

    def _put(self, fd: int, data: bytes) -> None:
        if fd not in self._broken and data:
            self._output.append((fd, memoryview(data)))
            self._waiting_bytes += len(data)

    def _write_output(self) -> None:
        fd, data = self._output[0]
        at_once = _READ_BYTES if _is_file(fd) else _BELOW_PIPE
        try:
            written = os.write(fd, data[:at_once])
        except BlockingIOError:
            return
        except OSError:
            # Nobody reads it any more. That ends the output, not the program.
            self._broken.add(fd)
            self._output = collections.deque((other, rest) for other, rest in self._output if other != fd)
            self._waiting_bytes = sum(len(rest) for _, rest in self._output)
            return
        self._waiting_bytes -= written
        if written == len(data):
            self._output.popleft()
        else:
            self._output[0] = fd, data[written:]

    # ---- input

    def _read_input(self) -> None:
        try:
            data = os.read(0, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._has_input = False
            self._attachment.end_input()
            return
        if self._is_raw and self._is_leaving(data):
            self._has_left = True
            return
        self._attachment.send(data)

    def _is_leaving(self, data: bytes) -> bool:
        now = time.monotonic()
        if data.strip(_LEAVE) or now - self._left_at > _QUICKLY_S:
            self._leaves = 0
        if not data.strip(_LEAVE):
            self._leaves += len(data)
            self._left_at = now
        return self._leaves >= _LEAVE_TIMES

    # ---- signals

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._woken = reader
        before = {number: signal.signal(number, self._caught) for number in (*_PASSED_ON, *_OURS)}
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            with self._keys(writer):
                yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)

    @contextlib.contextmanager
    def _keys(self, writer: int) -> Iterator[None]:
        """What a key of our terminal sends is for the program's process group, as if that was here; what somebody sends
        us is for the program. A handler in Python is not told which it is, sigwaitinfo(2) is.
        """
        import threading

        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_KEYS)
        is_over = threading.Event()
        main = threading.get_ident()

        def hear() -> None:
            while (heard := signal.sigwaitinfo(_OF_KEYS)) and not is_over.is_set():
                if self._waits_for_service():
                    signal.pthread_kill(main, signal.SIGHUP)  # there it leaves by a handler
                with contextlib.suppress(BlockingIOError):  # that many wait already
                    os.write(writer, bytes([heard.si_signo | (_BY_KEY if heard.si_code > 0 else 0)]))

        hearing = threading.Thread(target=hear, daemon=True)
        hearing.start()
        try:
            yield
        finally:
            is_over.set()
            assert hearing.ident is not None
            signal.pthread_kill(hearing.ident, _OF_KEYS[0])
            hearing.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        """Its number is in the pipe, too. Who waits for a service to come back is not to wait for that."""
        if self._waits_for_service() and number in (*_PASSED_ON, signal.SIGHUP):
            raise _Left

    def _waits_for_service(self) -> bool:
        since = self._stepping_since
        return since is not None and time.monotonic() - since > _AGAIN_S

    def _take_signals(self) -> None:
        for heard in os.read(self._woken, 256):
            number, by_key = heard & ~_BY_KEY, bool(heard & _BY_KEY)
            match number:
                case signal.SIGINT:
                    self._interrupted(by_key=by_key)
                case signal.SIGHUP:
                    self._has_left = True
                case signal.SIGWINCH:
                    self._resize()
                case signal.SIGTSTP:
                    self._stop()
                case signal.SIGCONT:
                    pass  # of _stop, which goes on there
                case _:
                    self._pass_on(number, to_group=by_key)

    def _interrupted(self, *, by_key: bool) -> None:
        now = time.monotonic()
        self._interrupts = [when for when in self._interrupts if now - when < _QUICKLY_S] + [now]
        if self._exit is not None:
            self._output.clear()  # whoever should read it does not
        elif len(self._interrupts) == 1:
            self._pass_on(signal.SIGINT, to_group=by_key)
        elif len(self._interrupts) == 2:
            self._end(signal.SIGTERM)
        else:
            self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        """Of a sandbox all; of a further command in one, that, and what is in its process group."""
        program = self._program
        if isinstance(program, Sandbox):
            self._aside(program.stop if number == signal.SIGTERM else program.kill)
        else:
            self._pass_on(number, to_group=True)

    def _pass_on(self, number: int, *, to_group: bool) -> None:
        """Not by the stream: there it would stand behind input that nobody reads."""
        self._aside(lambda: self._program.signal(int(number), group=to_group))

    @staticmethod
    def _aside(act: Callable[[], object]) -> None:
        """Stopping is answered when it has ended, and we are to see how."""
        import threading

        def acted() -> None:
            with contextlib.suppress(ServiceError):  # it has ended meanwhile: we are told
                act()

        threading.Thread(target=acted, daemon=True).start()

    def _stop(self) -> None:
        """As in the foreground it stands still with us, unless its terminal is its own: then keys stop it."""
        has_terminal = self._program.known.tty
        if not has_terminal:
            self._hold(True)
        self._raw.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._raw.enter()
        if has_terminal:
            self._resize()
        else:
            self._hold(False)

    def _hold(self, is_held: bool) -> None:
        """Not by SIGTSTP: nothing is stopped by that in a session without a shell (setpgid(2), orphaned groups)."""
        program = self._program
        with contextlib.suppress(ServiceError):  # it has ended meanwhile: we are told
            if not isinstance(program, Sandbox):
                program.signal(int(signal.SIGSTOP if is_held else signal.SIGCONT), group=True)
            elif is_held:
                program.pause()
            else:
                program.resume()

    def _resize(self) -> None:
        if not self._is_raw:
            return
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(0)
            if size.lines and size.columns:
                self._attachment.resize(size.lines, size.columns)


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


class _Raw:
    """Our terminal passes everything on while it lasts, and is as it was afterwards."""

    def __init__(self, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._before: list[object] | None = None

    def enter(self) -> None:
        if not self._is_wanted:
            return
        import termios
        import tty

        self._before = termios.tcgetattr(0)
        tty.setraw(0, termios.TCSADRAIN)

    def leave(self) -> None:
        if self._before is None:
            return
        import termios

        # From the background it would stop us (tcsetattr(3)), and leave the terminal as it is.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
        try:
            with contextlib.suppress(termios.error):  # it has gone
                termios.tcsetattr(0, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTTOU,))
        self._before = None

    def __enter__(self) -> _Raw:
        self.enter()
        return self

    def __exit__(self, *raised: object) -> None:
        self.leave()
