"""`sandlockd run`: a command in the foreground, with the terminal, the signals and the exit status it would have bare.

Order counts here: the program is started before anything is imported that only supervision needs.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time

from sandlockd.audit.log import AuditLog
from sandlockd.audit.records import Level, Note, RunEnd, RunHeader
from sandlockd.audit.state import StateError, own_state_directory
from sandlockd.cli.ending import INTERRUPTED, closed_streams, unforeseen
from sandlockd.cli.ending import say as write_line
from sandlockd.cli.policy_files import (
    compile_file_rules,
    load_policy,
    temporary_root,
    working_directory,
    written_paths,
)
from sandlockd.kernel import launching
from sandlockd.kernel.orphans import become_subreaper, remember_children
from sandlockd.launch.prepare import (
    CannotStart,
    prepare,
    raise_own_descriptor_limit,
    refuse_descriptors_that_lead_out,
    require_room_in_files,
)
from sandlockd.launch.private_directory import PrivateDirectory, sweep
from sandlockd.launch.temporary import NAME as TEMPORARY_NAME
from sandlockd.launch.temporary import temporary_of
from sandlockd.launch.wall import WallError
from sandlockd.policy.errors import PolicyErrors
from sandlockd.sandbox.limits import TERM_GRACE_S, Limits, size_text
from sandlockd.sandbox.result import SANDBOX_FAILED, Result, require_replaceable, write_status_file
from sandlockd.sandbox.sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from hashlib import _Hash

    from sandlockd.cli.capture import Capture
    from sandlockd.cli.trees import RunTree
    from sandlockd.cli.verbose import Verbose
    from sandlockd.launch.prepare import Prepared
    from sandlockd.policy.inputs import Overrides
    from sandlockd.policy.model import Policy
    from sandlockd.store.tree import Tree

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
# To clean up with, where memory is what ended the run. Untouched until then: address space only. Without any, CPython
# 3.11 does not raise MemoryError where a call needs room for frames: it crashes.
_SPARE_BYTES = 1 << 20


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
        _require_tree_for(options.overrides, policy)
        _Foreground(options, policy, result).run()
    except Exception as error:  # the program, if there was one, has been ended
        lines, exit_status = _told(error)
        for line in lines:
            say(line)
        result.went_wrong(_in_one(lines), exit_status)
    return _write_status(options, result)


def _require_tree_for(overrides: Overrides, policy: Policy) -> None:
    """Who says --dry-run or --on-exit discard counts on nothing being changed. Raises CannotStart."""
    said = "--dry-run" if overrides.dry_run else "--on-exit" if overrides.on_exit is not None else None
    if said is not None and policy.filesystem.workdir is None:
        raise CannotStart(
            f"{said} is about the changes in a copy-on-write tree, and this run has none: what it may write, it writes"
            " for good; give --workdir, or leave it out"
        )


def _told(error: BaseException) -> tuple[tuple[str, ...], int]:
    """In lines for a person, and as the exit status of sandlockd."""
    match error:
        case PolicyErrors():
            return tuple(map(str, error.errors)), SANDBOX_FAILED
        case CannotStart():
            return (str(error), *error.further), error.exit_status
        case StateError():
            return (str(error),), SANDBOX_FAILED
        case KeyboardInterrupt():
            return ("interrupted before the start",), INTERRUPTED
        case _:
            return (unforeseen(error),), SANDBOX_FAILED


def _in_one(lines: Sequence[str]) -> str:
    return "; ".join(lines)


def _write_status(options: Options, result: Result) -> int:
    if options.status_file is not None:
        try:
            write_status_file(options.status_file, result)
        except OSError as error:
            say(f"--status-file {options.status_file}: {error.strerror}")
            return result.exit_status or 125
    return result.exit_status


class _Foreground:
    def __init__(self, options: Options, policy: Policy, result: Result) -> None:
        """result: what comes of the run, whatever raises."""
        self._options = options
        self._result = result
        self._policy = policy
        self._state_dir = own_state_directory()
        self._old_mask: set[int] = set()
        self._umask = 0o022
        # What we were started without the program shall be without.
        first, second, third = (-2 if fd in closed_streams else -1 for fd in (0, 1, 2))
        self._stdio = (first, second, third)
        self._terminate_by: float | None = None
        self._verbose: Verbose | None = None
        self._limits = Limits(policy.limits, trees=policy.filesystem.workdir is not None)

    def run(self) -> None:
        """Raises CannotStart, PolicyErrors, StateError, and what nobody foresaw."""
        # What we make on behalf has the caller's umask; what we make for ourselves names its mode.
        self._umask = os.umask(0)
        require_room_in_files()
        remember_children()
        sweep()
        spare = bytearray(_SPARE_BYTES)
        private = PrivateDirectory()
        try:
            prepared = self._prepare(private)
            try:
                self._run_prepared(prepared, private)
            finally:
                spare.clear()
                prepared.close()
            if self._result.error is not None:
                say(self._result.error)
        finally:
            spare.clear()
            problem = private.remove()
            if problem is not None:
                say(problem)
            os.umask(self._umask)

    def _run_prepared(self, prepared: Prepared, private: PrivateDirectory) -> None:
        run_tree = None
        try:
            with self._audit() as audit:
                self._begin(audit, prepared)
                try:
                    self._limits.use_groups(audit.run_id, prepared)
                    run_tree = self._make_tree(prepared, audit.run_id)
                    spared = () if run_tree is None else (run_tree.disposer_pid,)
                    self._run_in(self._trees(prepared, run_tree, private), prepared, audit, spared)
                finally:
                    for line in self._limits.leave_groups():
                        say(line)
            if run_tree is not None:
                counted = self._options.status_file is not None
                run_tree.dispose(self._result, say, quiet=self._options.quiet, counted=counted)
        except BaseException:
            if run_tree is not None:
                run_tree.abandon(say, has_run=self._result.has_run)
            raise

    def _run_in(
        self, trees: tuple[Tree, ...], prepared: Prepared, audit: AuditLog, spared: Sequence[int]
    ) -> None:
        """spared: children of ours that are no processes of the sandbox."""
        try:
            sandbox = Sandbox(
                prepared,
                audit,
                result=self._result,
                terminal_device=_terminal_device(),
                trees=trees,
                limits=self._limits,
            )
        except BaseException:
            for tree in trees:
                tree.close()
            raise
        self._run_sandbox(sandbox, audit, spared)

    def _prepare(self, private: PrivateDirectory) -> Prepared:
        """Raises CannotStart, PolicyErrors."""
        root = temporary_root(self._policy)
        places = self._places()
        if root is None:
            rules = compile_file_rules(self._policy, self._state_dir, places=places, private=[private.path])
            refuse_descriptors_that_lead_out()
            return prepare(self._policy, rules, self._options.command, private.path)
        rules = compile_file_rules(self._policy, self._state_dir, places=places, layers=[private.path])
        refuse_descriptors_that_lead_out()
        temporary = temporary_of(root, rules)
        return prepare(self._policy, rules, self._options.command, TEMPORARY_NAME, temporary)

    def _places(self) -> list[bytes]:
        """Where changes are kept, besides the state directory."""
        from sandlockd.review.places import in_use, known, place_for

        files = self._policy.filesystem
        own = None
        if files.storage is not None:
            own = os.path.realpath(files.storage)
        elif files.workdir is not None:
            own = place_for(os.path.realpath(files.workdir), self._state_dir)
        found = known(self._state_dir)
        return [*(path for path in found if in_use(path)), *([own] if own is not None else [])]

    def _trees(
        self, prepared: Prepared, run_tree: RunTree | None, private: PrivateDirectory
    ) -> tuple[Tree, ...]:
        """The innermost first. Raises CannotStart."""
        if run_tree is None or prepared.temporary is None:
            return () if run_tree is None else (run_tree.tree,)
        from sandlockd.cli.trees import make_temporary

        try:
            written, disk = written_paths(self._policy), self._limits.disk
            tree = make_temporary(prepared, private.path, written, run_tree.tree, disk)
            try:
                prepared.wall.grant_upper(tree.upper_path)
            except WallError as error:
                tree.close()
                raise CannotStart(str(error)) from None
        except BaseException:
            run_tree.tree.close()
            run_tree.close()
            raise
        if prepared.entered is not None and not os.listdir(prepared.entered) and not self._options.quiet:
            say(
                "/tmp is the run's own, and the working directory is empty there: --write or --read grants the real one"
            )
        return run_tree.tree, tree

    def _make_tree(self, prepared: Prepared, run_id: str) -> RunTree | None:
        """Raises CannotStart."""
        files = self._policy.filesystem
        if files.workdir is None:
            return None
        from sandlockd.cli.trees import RunTree  # only where there are trees

        is_dry_run = self._options.overrides.dry_run
        run_tree = RunTree(files, self._state_dir, run_id, is_dry_run=is_dry_run, disk=self._limits.disk)
        if not self._options.quiet:
            for line in run_tree.kept_before:
                say(line)
        try:
            prepared.wall.grant_upper(run_tree.tree.upper_path)
        except WallError as error:
            run_tree.tree.close()
            run_tree.close()
            raise CannotStart(str(error)) from None
        return run_tree

    @contextlib.contextmanager
    def _audit(self) -> Iterator[AuditLog]:
        """The log of the run, which has an end and the reason in it whatever raises."""
        audit = AuditLog(self._state_dir, level=Level(self._policy.audit.level))
        self._result.run_id = audit.run_id
        try:
            yield audit
        except BaseException as error:
            lines, exit_status = _told(error)
            self._result.went_wrong(_in_one(lines), exit_status)
            raise
        finally:
            self._close_audit(audit)

    def _begin(self, audit: AuditLog, prepared: Prepared) -> None:
        audit.begin(
            RunHeader(
                run_id=audit.run_id,
                command=prepared.argv,
                cwd=working_directory(),
                policy_sources=tuple(self._options.policies) or ("base",),
                policy_digest=_digest(self._policy),
                version=_version(),
                uid=os.geteuid(),
                pid=os.getpid(),
                level=Level(self._policy.audit.level),
                name=self._options.name,
            )
        )
        for feature in prepared.wall.missing:
            audit.note(Note(subject="missing-feature", text=f"{feature}: the policy runs without it"))
            if not self._options.quiet:
                say(f"running without {feature}, as [degrade] allows")
        if self._options.verbose:
            self._verbose = _verbose(prepared, audit, self._options)

    def _run_sandbox(self, sandbox: Sandbox, audit: AuditLog, spared: Sequence[int]) -> None:
        capture: Capture | None = None
        try:
            capture = self._capture()
            self._old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*_PASSED_ON, *_HELD_OFF))
            become_subreaper(spared)
            with launching.signal_fd(_PASSED_ON) as signals:
                sandbox.on_stopped = lambda number: self._stop_with(sandbox, number)
                sandbox.start(
                    stdio=self._stdio if capture is None else capture.stdio,
                    blocked_signals=sum(1 << (number - 1) for number in self._old_mask),
                    descriptor_limit=raise_own_descriptor_limit(),
                    umask=self._umask,
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
                self._end_capture(capture, audit)
            if self._verbose is not None and calls is not None:
                self._verbose.ended(sandbox.result, audit, calls)

    def _capture(self) -> Capture | None:
        """Raises CannotStart."""
        limit_bytes = self._limits.output_bytes
        if limit_bytes is None:
            return None
        from sandlockd.cli.capture import RULE, Capture  # only where it is asked for

        told = f"sandlockd: {RULE}: {size_text(limit_bytes)} were passed on, the rest is dropped\n"
        try:
            return Capture(limit_bytes, self._stdio, "" if self._options.quiet else told)
        except OSError as error:
            raise CannotStart(f"{RULE}: standard output cannot be captured: {error.strerror}") from None

    def _end_capture(self, capture: Capture | None, audit: AuditLog) -> None:
        cut = None if capture is None else capture.close(self._result)
        if cut is not None:
            audit.note(Note(subject="limits.output", text=cut))

    def _close_audit(self, audit: AuditLog) -> None:
        result = self._result
        result.denials = audit.denials
        audit.close(
            RunEnd(
                reason=result.reason.value,
                exit_code=result.exit_code,
                signal=result.signal,
                rule=result.rule,
                wall_s=result.wall_s,
                error=result.error,
                has_run=result.has_run,
                exit_status=result.exit_status,
            )
        )
        if not self._options.quiet:
            for line in audit.closing_lines(failed=not result.succeeded or result.error is not None):
                say(line.removeprefix("sandlockd: "))

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


def _verbose(prepared: Prepared, audit: AuditLog, options: Options) -> Verbose:
    from sandlockd.cli.verbose import Verbose  # only where it is asked for

    verbose = Verbose(say)
    verbose.starting(prepared, audit, tuple(options.policies) or ("base",))
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


def _digest(policy: Policy) -> str:
    """Of the effective policy; sources of its lines do not count."""
    return _sha256()(repr(policy).encode("utf-8", "surrogateescape")).hexdigest()


def _sha256() -> Callable[[bytes], _Hash]:
    """As `random` does it: hashlib loads OpenSSL, 2 ms."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]  # since Python 3.12
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]
        except ImportError:
            from hashlib import sha256
    return sha256  # type: ignore[no-any-return]


def _version() -> str:
    from sandlockd import __version__

    return __version__
