"""`limits.output` in the foreground: which of our standard output and error the program does not get itself, and how
what it wrote comes to its end.

Devices are left to the program: a terminal is to be one, and what /dev/null gets fills nothing. Where both go one way
(`2>&1`, `>>log 2>>log`), it gets one pipe for both, so that the order stays.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import time

from sandlockd.kernel import launching
from sandlockd.kernel.output import Output, has_one_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.sandbox.result import Result

RULE = "limits.output"
_OUTPUT, _ERROR = 1, 2
# Where the program did not end as it should, its last words are waited for so long.
_LAST_WORDS_S = 1.0
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Capture:
    """stdio: what the program is to be started with; -1 is ours."""

    def __init__(self, limit_bytes: int, stdio: tuple[int, int, int], told: str) -> None:
        """told: one line for standard error, when something is dropped; or empty. Raises OSError."""
        self._output: Output | None = None
        self._writers: list[OwnedFd] = []
        self._is_given_up = False
        self.stdio = stdio
        captured = [fd for fd in (_OUTPUT, _ERROR) if stdio[fd] == -1 and _is_to_be_captured(fd)]
        if not captured:
            return
        self._output = Output(limit_bytes, told.encode(), _ERROR if told else -1)
        as_one = len(captured) > 1 and has_one_order(*captured)
        for fd in captured:
            if not (as_one and self._writers):
                self._writers.append(self._output.add(fd))
            self.stdio = (*self.stdio[:fd], self._writers[-1].fd, *self.stdio[fd + 1 :])  # type: ignore[assignment]

    def started(self) -> None:
        """The program has what it writes to. Raises OSError."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        if self._output is not None:
            self._output.start()

    def finish(self, signal_fd: int, end_by: float | None) -> None:
        """Nothing of the sandbox is left: wait until all that it wrote has been passed on, or a signal ends that.

        As long as that takes: somebody reads it. end_by: we were asked to end, and do it then (monotonic).
        """
        self._wait(signal_fd, end_by)
        self._is_given_up = True

    def close(self, result: Result) -> str | None:
        """What was not passed on by now is lost; the result tells what became of it.

        Returns: what is to go on record, if anything was dropped.
        """
        for writer in self._writers:
            writer.close()
        output = self._output
        if output is None:
            return None
        if not self._is_given_up:
            self._wait(-1, time.monotonic() + _LAST_WORDS_S)
        self._output = None
        state = output.state()
        output.close()
        result.output_bytes, result.cut_bytes = state.passed, state.dropped
        if not state.done:
            result.not_disposed(f"{RULE}: ended before all that the program wrote had been passed on")
        if state.error:
            result.not_disposed(
                f"standard output or error: {os.strerror(state.error)}; what the program wrote after that is lost"
            )
        if not state.dropped:
            return None
        return f"{state.passed} bytes were passed on, and {state.dropped} dropped"

    def _wait(self, signal_fd: int, end_by: float | None) -> None:
        if self._output is None:
            return
        self._output.ended()
        done_fd = self._output.done_fd
        waiting = select.poll()
        for fd in (done_fd, signal_fd) if signal_fd >= 0 else (done_fd,):
            waiting.register(fd, select.POLLIN)
        while not self._output.state().done:
            left_ms = None if end_by is None else max(end_by - time.monotonic(), 0.0) * 1000
            ready = [fd for fd, _ in waiting.poll(left_ms)]
            if not ready or (signal_fd in ready and _asked_to_end(signal_fd)):
                return
            if done_fd in ready:
                os.read(done_fd, 8)


def _asked_to_end(signal_fd: int) -> bool:
    """There is no program any more that signals could be passed on to."""
    while (taken := launching.read_signal(signal_fd)) is not None:
        if taken[0] == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif taken[0] in _ENDING:
            return True
    return False


def _is_to_be_captured(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False  # it is not open
    return not stat.S_ISCHR(mode) and not stat.S_ISBLK(mode)
