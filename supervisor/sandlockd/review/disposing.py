"""What becomes of the changes when a run ends: `on_exit`, `on_error` and `--dry-run`, in a process of its own.

The supervisor need not be able to write to the real tree, and is to lock itself one day (it does not yet); what it
starts then could not either, since a Landlock domain is inherited. So the process that commits is forked before
(`Disposer`), where it may come to that, holds
nothing but two pipes while the program runs, and executes itself anew when it is told to begin, so that nothing of what
it is then was in a process that the program talked to. If the supervisor is killed it just ends, and the changes are
kept.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from typing import NamedTuple

from sandlockd.kernel.native import check, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from sandlockd.review.reviewing import Review

_READ_BYTES = 1 << 16


class Request(NamedTuple):
    """how: commit, discard, keep or ask. is_dry_run: print the list and discard, whatever `how` says."""

    state_dir: bytes
    run_id: str
    how: str
    is_dry_run: bool = False


class Disposed(NamedTuple):
    """state: `none` (nothing changed), `kept`, `committed`, `discarded`, or `unknown`.

    changes: for the status file: state, digest and counts of what the program changed.
    lines: for a person, on standard error.
    problem: why it is not as it was to be; one line. The changes are then kept.
    """

    state: str
    changes: dict[str, object] | None
    lines: tuple[str, ...] = ()
    problem: str | None = None


def dispose(request: Request) -> Disposed:
    """In this process. Never raises: what goes wrong is the problem, and the changes are kept."""
    from sandlockd.review.kept import NoChanges
    from sandlockd.review.reviewing import CannotReview, open_review

    try:
        with open_review(request.state_dir, request.run_id) as review:
            return _disposed(request, review)
    except (CannotReview, NoChanges) as error:
        return _unlisted(request) or Disposed("unknown", None, problem=str(error))
    except OSError as error:
        return Disposed("unknown", None, problem=f"the changes of run {request.run_id}: {error.strerror}")


def _unlisted(request: Request) -> Disposed | None:
    """To discard them, nobody needs to look at changes that cannot be listed."""
    from sandlockd.review.dropping import drop

    if request.how != "discard" or request.is_dry_run:
        return None
    lines: list[str] = []
    if drop(request.state_dir, request.run_id, unseen=True, say=lines.append) is None:
        return None
    return Disposed("discarded", None, tuple(lines))


def _disposed(request: Request, review: Review) -> Disposed:
    from sandlockd.review.changelist import counts, list_lines, style_for, summary
    from sandlockd.review.reviewing import NotCommitted

    if review.pending is not None:
        return Disposed("unknown", None, problem="a commit is under way")
    told: dict[str, object] = {"digest": review.digest, "counts": counts(review.changes)}

    def done(state: str, *lines: str, problem: str | None = None) -> Disposed:
        return Disposed(state, {"state": state, **told}, lines, problem)

    if not review.rows:
        if request.how == "commit" and not request.is_dry_run:
            return done("none", *_only_times(review))
        return done("none", *review.discard().notes)
    if request.is_dry_run:
        lines = [*list_lines(review.rows, style_for(2)), f"{summary(review.changes)}; nothing was kept"]
        return done("discarded", *lines, *review.discard().notes)
    match request.how:
        case "discard":
            return done("discarded", *review.discard().notes)
        case "commit":
            try:
                finished = review.commit()
            except NotCommitted as error:
                review.keep()
                reason = f"not committed: {error.lines[0]}"
                return done("kept", *error.lines, _kept_line(review), problem=reason)
            return done("committed", *finished.notes)
        case "ask":
            state = _ask(review)
            if state is not None:
                if state == "kept":
                    review.keep()
                return done(state, *([_kept_line(review)] if state == "kept" else []))
            review.keep()
            return done("kept", "nobody can be asked: there is no terminal", _kept_line(review))
        case _:
            review.keep()
            return done("kept", _kept_line(review))


def _only_times(review: Review) -> tuple[str, ...]:
    """Times of directories are nothing to be looked at: each name that came and went leaves one. They are committed."""
    from sandlockd.review.reviewing import NotCommitted

    try:
        return review.commit().notes
    except NotCommitted as error:
        lost = f"the times of directories were not committed: {error.lines[0]}"
        return (lost, *review.discard().notes)


def _kept_line(review: Review) -> str:
    from sandlockd.review.changelist import summary

    if not review.rows:
        return "no changes are left"
    return f"{summary(review.changes)}, kept: sandlockctl diff {review.run_id}"


def _ask(review: Review) -> str | None:
    """On the terminal, whatever stdin and stdout are. None: there is none."""
    from sandlockd.review.asking import Asking
    from sandlockd.review.changelist import style_for

    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    if os.tcgetpgrp(terminal) != os.getpgrp():  # in the background
        os.close(terminal)
        return None
    with _sane(terminal), open(terminal, "r+b", buffering=0) as both:

        def put(text: str) -> None:
            data = text.encode("utf-8", "backslashreplace")
            while data:
                data = data[both.write(data) or 0 :]

        def get() -> str | None:
            try:
                line = both.readline()
            except OSError:  # EIO: we are in the background, or the terminal is gone
                return None
            return line.decode("utf-8", "surrogateescape") if line else None

        asking = Asking(review, get, lambda line: put(line + "\n"), put, style_for(terminal))
        return asking.run()


@contextlib.contextmanager
def _sane(terminal: int) -> Iterator[None]:
    """Lines and echo, whatever the program left behind. What was typed for the program is no answer to us."""
    import termios

    before = termios.tcgetattr(terminal)
    sane = termios.tcgetattr(terminal)
    sane[0] |= termios.ICRNL | termios.BRKINT
    sane[1] |= termios.OPOST | termios.ONLCR
    sane[3] |= termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, sane)
        yield
    finally:
        with contextlib.suppress(OSError, termios.error, ValueError):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


# ---- the process


class Disposer:
    """To be made before the supervisor starts threads or becomes a subreaper."""

    def __init__(self, *, may_commit: bool = True) -> None:
        """Forks at once, or, where nothing is to be done to the real tree, starts the process when it is asked."""
        self.pid = 0
        if may_commit:
            self._begin(_forked)

    def _begin(self, started: Callable[[int, int], int]) -> None:
        asked, self._asking = os.pipe2(os.O_CLOEXEC)
        self._answers, answering = os.pipe2(os.O_CLOEXEC)
        try:
            self.pid = started(asked, answering)
        finally:
            os.close(asked)
            os.close(answering)
            if not self.pid:
                os.close(self._asking)
                os.close(self._answers)

    def dispose(self, request: Request) -> Disposed:
        """Have it done, and wait for it. When the program is dead, and its storage closed by whoever used it."""
        import json  # not at the start of a run

        told = {**request._asdict(), "state_dir": os.fsdecode(request.state_dir)}
        answer = b""
        try:
            if not self.pid:
                self._begin(_spawned)
            _write(self._asking, json.dumps(told).encode() + b"\n")
            while block := os.read(self._answers, _READ_BYTES):
                answer += block
            found = json.loads(answer)
            return Disposed(found["state"], found["changes"], tuple(found["lines"]), found["problem"])
        except (OSError, ValueError, KeyError, TypeError):
            problem = (
                f"the process that was to {request.how} the changes ended: sandlockctl ps shows what is kept"
            )
            return Disposed("unknown", None, problem=problem)
        finally:
            self.close()

    def close(self) -> None:
        """Without a request, it just ends."""
        if self.pid:
            os.close(self._asking)
            os.close(self._answers)
            with contextlib.suppress(ChildProcessError):  # it is a child of who forked it
                os.waitpid(self.pid, 0)
            self.pid = 0


def _write(fd: int, text: bytes) -> None:
    while text:
        text = text[os.write(fd, text) :]


def _command() -> list[str]:
    return [sys.executable, "-I", "-m", __name__, "3", "4"]


def _forked(asked_fd: int, answering_fd: int) -> int:
    pid = os.fork()
    if pid == 0:
        _wait_after_fork(asked_fd, answering_fd)
    return pid


def _spawned(asked_fd: int, answering_fd: int) -> int:
    """There may be threads by now. The terminal is none of its business: it asks nobody."""
    places = list(zip(map(_beyond, (asked_fd, answering_fd)), (3, 4), strict=True))
    try:
        return os.posix_spawn(
            sys.executable,
            _command(),
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                *((os.POSIX_SPAWN_DUP2, fd, number) for fd, number in places),
            ],
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            setsigmask=(),
        )
    finally:
        for fd, _ in places:
            os.close(fd)


def _wait_after_fork(asked_fd: int, answering_fd: int) -> NoReturn:
    """Hold nothing, and begin anew when told to. stderr is kept: it is for people."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # ^C is for the program
        with contextlib.suppress(OSError), open("/proc/self/comm", "wb") as comm:
            comm.write(b"sandlockd-kept")  # for people
        null = os.open("/dev/null", os.O_RDWR)
        ours = [_beyond(fd) for fd in (null, null, asked_fd, answering_fd)]
        for fd, number in zip(ours, (0, 1, 3, 4), strict=True):
            os.dup2(fd, number)
        check(lib.slk_close_from(5, 0))
        waiting = select.poll()
        waiting.register(3, select.POLLIN)
        if waiting.poll()[0][1] & select.POLLIN:
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            # The terminal stops those in the background that use it; we want an error.
            for number in (signal.SIGTTIN, signal.SIGTTOU):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.umask(0)
            os.execv(sys.executable, _command())
    finally:
        os._exit(0)


def _beyond(fd: int) -> int:
    """The same with a number that is not wanted for another."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)


def _main(asked_fd: int, answering_fd: int) -> None:
    import json

    with open(asked_fd, "rb") as asked:
        told = json.loads(asked.readline())
    request = Request(os.fsencode(told["state_dir"]), told["run_id"], told["how"], told["is_dry_run"])
    try:
        done = dispose(request)
    except Exception as error:  # a module that cannot be imported, no memory
        told_error = f"{type(error).__name__}: {' '.join(str(error).split())}"
        done = Disposed("unknown", None, problem=f"the changes are kept as they are: {told_error}")
    _write(answering_fd, json.dumps(done._asdict()).encode())


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
