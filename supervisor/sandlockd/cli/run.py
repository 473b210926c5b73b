"""`sandlockd run`: a command in the foreground, with the terminal, the signals and the exit status it would have bare.

Order counts here: the program is started before anything is imported that only supervision needs.
"""

from __future__ import annotations

import gc
import os
import signal
import time

from sandlockd.audit.records import Note
from sandlockd.audit.state import own_state_directory
from sandlockd.cli.ending import closed_streams
from sandlockd.cli.ending import say as write_line
from sandlockd.kernel import launching
from sandlockd.kernel.orphans import become_subreaper
from sandlockd.launch.prepare import CannotStart, raise_own_descriptor_limit
from sandlockd.sandbox.limits import TERM_GRACE_S, size_text
from sandlockd.sandbox.policies import load_policy, require_tree_for
from sandlockd.sandbox.result import SANDBOX_FAILED, Result, require_replaceable, write_status_file
from sandlockd.sandbox.run import Asked, Run, in_one, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlockd.audit.log import AuditLog
    from sandlockd.cli.capture import Capture
    from sandlockd.cli.verbose import Verbose
    from sandlockd.launch.prepare import Prepared
    from sandlockd.policy.inputs import Overrides
    from sandlockd.sandbox.keeping import Keeper
    from sandlockd.sandbox.limits import Limits
    from sandlockd.sandbox.sandbox import Sandbox

EARLY_S = 2.0  # how long we do without trio, where nothing asks for it: importing it takes 80 ms of a CPU

# What is passed on to the program. SIGKILL and SIGSTOP cannot be caught; SIGCHLD and faults are our own.
_PASSED_ON = tuple(
    signal.Signals(number)
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTSTP,
        signal.SIGWINCH,
        signal.SIGCONT,
    )
)
# Only kept from stopping us: the terminal sends them to whoever of the group uses it in the background.
_HELD_OFF = (signal.SIGTTIN, signal.SIGTTOU)


class Options:
    """What the command line of `run` says, besides the policy."""

    def __init__(
        self,
        *,
        policies: Sequence[str],
        overrides: Overrides,
        command: Sequence[bytes],
        name: str | None = None,
        status_file: str | None = None,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self.policies = policies
        self.overrides = overrides
        self.command = command
        self.name = name
        self.status_file = status_file
        self.quiet = quiet
        self.verbose = verbose


def say(text: str) -> None:
    """One line to stderr; a closed one is no reason to fail."""
    write_line("sandlockd", text)


def run(options: Options) -> int:
    """The exit status of sandlockd."""
    result = Result()
    if options.status_file is not None:
        try:
            require_replaceable(options.status_file)
        except OSError as error:
            say(f"--status-file {options.status_file}: {error.strerror}")
            return SANDBOX_FAILED
    try:
        policy = load_policy(options.policies, options.overrides)
        require_tree_for(options.overrides, policy)
        asked = Asked(
            policy,
            tuple(options.policies) or ("base",),
            options.command,
            name=options.name,
            is_dry_run=options.overrides.dry_run,
            is_quiet=options.quiet,
            counts_changes=options.status_file is not None,
            terminal_device=_terminal_device(),
        )
        Run(asked, result, _Foreground(options), own_state_directory()).run()
    except Exception as error:  # the program, if there was one, has been ended
        lines, exit_status = told(error)
        for line in lines:
            say(line)
        result.went_wrong(in_one(lines), exit_status)
    return _write_status(options, result)


def _write_status(options: Options, result: Result) -> int:
    if options.status_file is not None:
        try:
            write_status_file(options.status_file, result)
        except OSError as error:
            say(f"--status-file {options.status_file}: {error.strerror}")
            return result.exit_status or 125
    return result.exit_status


class _Foreground:
    """The host of a run with a terminal: it is in our process group, and reads and writes as we do."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._old_mask: set[int] = set()
        # What we were started without the program shall be without.
        first, second, third = (-2 if fd in closed_streams else -1 for fd in (0, 1, 2))
        self._stdio = (first, second, third)
        self._terminate_by: float | None = None
        self._verbose: Verbose | None = None

    @staticmethod
    def say(text: str) -> None:
        say(text)

    def begun(self, run: Run, prepared: Prepared, audit: AuditLog) -> None:
        if self._options.verbose:
            self._verbose = _verbose(prepared, audit, run.asked.sources)

    def release(self) -> None:
        """There is no keeper."""

    def supervise(
        self, run: Run, sandbox: Sandbox, audit: AuditLog, spared: Sequence[int], keeper: Keeper | None
    ) -> None:
        capture: Capture | None = None
        try:
            capture = self._capture(run.limits)
            self._old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*_PASSED_ON, *_HELD_OFF))
            become_subreaper(spared)
            with launching.signal_fd(_PASSED_ON) as signals:
                sandbox.on_stopped = lambda number: self._stop_with(sandbox, number)
                sandbox.start(
                    stdio=self._stdio if capture is None else capture.stdio,
                    blocked_signals=sum(1 << (number - 1) for number in self._old_mask),
                    descriptor_limit=raise_own_descriptor_limit(),
                    umask=run.umask,
                )
                if capture is not None:
                    capture.started()
                gc.freeze()  # what a start made stays: the collector need not look at it again
                gc.enable()
                _let_go_of_stdio()
                self._serve(sandbox, signals.fd)
                if capture is not None:
                    capture.finish(signals.fd, self._terminate_by)
        finally:
            calls = sandbox.engine.counts() if self._verbose is not None else None
            try:
                sandbox.close()
            finally:
                _end_capture(capture, audit, run.result)
            if self._verbose is not None and calls is not None:
                self._verbose.ended(sandbox.result, audit, calls)

    def _capture(self, limits: Limits) -> Capture | None:
        """Raises CannotStart."""
        limit_bytes = limits.output_bytes
        if limit_bytes is None:
            return None
        from sandlockd.cli.capture import RULE, Capture  # only where it is asked for

        told = f"sandlockd: {RULE}: {size_text(limit_bytes)} were passed on, the rest is dropped\n"
        try:
            return Capture(limit_bytes, self._stdio, "" if self._options.quiet else told)
        except OSError as error:
            raise CannotStart(f"{RULE}: standard output cannot be captured: {error.strerror}") from None

    # ---- serving ----

    def _serve(self, sandbox: Sandbox, signal_fd: int) -> None:
        early_until = time.monotonic() + EARLY_S
        while (
            not (sandbox.over or sandbox.needs_tasks or self._terminate_by) and time.monotonic() < early_until
        ):
            sandbox.serve_early(early_until, signal_fd)
            self._take_signals(sandbox, signal_fd)
        if sandbox.over:
            return
        sandbox.settle()
        self._import_while_serving(sandbox)
        if not sandbox.over:
            import trio

            trio.run(self._serve_on, sandbox, signal_fd)

    @staticmethod
    def _import_while_serving(sandbox: Sandbox) -> None:
        """Importing trio takes 80 ms: the program is served by another thread meanwhile."""
        import _thread

        from sandlockd.kernel.libraries import known_libraries

        stop, stopper = os.pipe2(os.O_CLOEXEC)
        finished = _thread.allocate_lock()
        finished.acquire()

        def serve() -> None:
            try:
                sandbox.serve_early(None, stop)
                sandbox.settle()
            finally:
                finished.release()

        _thread.start_new_thread(serve, ())
        try:
            with known_libraries():
                import sandlockd.notify.loop
                import sandlockd.notify.waits  # 1.5 ms, during which the loop would serve nobody
                import sandlockd.process.watcher  # noqa: F401 - imported for serve()
        finally:
            os.write(stopper, b"x")
            finished.acquire()
            os.close(stop)
            os.close(stopper)

    async def _serve_on(self, sandbox: Sandbox, signal_fd: int) -> None:
        import trio

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_signals_on, sandbox, signal_fd)
            await sandbox.serve()
            nursery.cancel_scope.cancel()

    async def _pass_signals_on(self, sandbox: Sandbox, signal_fd: int) -> None:
        import trio

        while True:
            with trio.move_on_at(trio.current_time() + self._grace_left()):
                await trio.lowlevel.wait_readable(signal_fd)
            self._take_signals(sandbox, signal_fd)
            if self._terminate_by is not None and time.monotonic() >= self._terminate_by:
                self._terminate_by = None
                sandbox.kill("SIGTERM")

    def _grace_left(self) -> float:
        return 1e9 if self._terminate_by is None else max(self._terminate_by - time.monotonic(), 0.0)

    # ---- signals and job control ----

    def _take_signals(self, sandbox: Sandbox, signal_fd: int) -> None:
        while (taken := launching.read_signal(signal_fd)) is not None:
            number, code, _ = taken
            if number == signal.SIGCONT:
                sandbox.go_on()
            elif code <= 0:
                # Sent by a process, to us alone as far as we can know. What the terminal sends (code > 0) goes to the
                # whole process group, and the program is in it.
                sandbox.signal(number)
            elif number == signal.SIGTSTP:
                sandbox.read_reports()
                if sandbox.stopped_by == signal.SIGSTOP:
                    # ^Z cannot stop it once more, so no stop will be told; but the shell wants its terminal back.
                    self._stop_with(sandbox, number)
            if number == signal.SIGTERM:
                sandbox.asked_to_end()
                self._terminate_by = self._terminate_by or time.monotonic() + TERM_GRACE_S

    def _stop_with(self, sandbox: Sandbox, number: int) -> None:
        """The program was stopped (^Z): stop too, so that the shell sees its job stopped; go on with it.

        Not for SIGSTOP: that comes from some process, perhaps one of the sandbox that means to continue it, and could
        not if we stood still.
        """
        if number not in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU) or not _has_terminal():
            return  # nobody does job control here; a stopped supervisor would only stop other processes too
        os.kill(os.getpid(), signal.SIGSTOP)
        sandbox.go_on()


def _end_capture(capture: Capture | None, audit: AuditLog, result: Result) -> None:
    cut = None if capture is None else capture.close(result)
    if cut is not None:
        audit.note(Note(subject="limits.output", text=cut))


def _verbose(prepared: Prepared, audit: AuditLog, sources: tuple[str, ...]) -> Verbose:
    from sandlockd.cli.verbose import Verbose  # only where it is asked for

    verbose = Verbose(say)
    verbose.starting(prepared, audit, sources)
    audit.on_refusal = verbose.refusal
    return verbose


def _has_terminal() -> bool:
    try:
        fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    os.close(fd)
    return True


def _terminal_device() -> int | None:
    """st_rdev of the terminal that the program is given."""
    for fd in (0, 1, 2):
        try:
            if os.isatty(fd):
                return os.fstat(fd).st_rdev
        except OSError:
            continue  # not open
    return None


def _let_go_of_stdio() -> None:
    """A pipe must end when the program closes it, not when we do. stderr stays: we may have to say something."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
