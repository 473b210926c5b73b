"""Further programs in a sandbox that runs: started on request, told of, counted.

What such a program is allowed is what the first one is: init forks it from the same plan, behind the same Landlock
rules and the same filter, whose listener the same engine serves (native/exec_order.c). It finds its command and its
working directory by itself, as a program of the sandbox, and so sees what the others have changed.

Nothing here waits: who asks is told later, in the reports of init.
"""

from __future__ import annotations

import os
import signal

from sandlockd.audit.records import Note
from sandlockd.kernel import launching
from sandlockd.launch.command import CommandError, candidates, located, problem_with
from sandlockd.launch.prepare import CannotStart, refuse_descriptors_that_lead_out, why_not_executed
from sandlockd.policy.spelling import printable
from sandlockd.sandbox.result import SANDBOX_FAILED
from sandlockd.sandbox.starting import why_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandlockd.audit.log import AuditLog
    from sandlockd.kernel.engine import Engine
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.kernel.launching import Report
    from sandlockd.launch.prepare import Prepared
    from sandlockd.sandbox.keeping import Keeper, Left
    from sandlockd.sandbox.limits import Limits

    Told = Callable[["Execution"], None]

_SHOWN_CHARACTERS = 256
_KEPT_BYTES = 4096  # of its command, and of its directory, for words about it


class CannotExecute(Exception):
    """It was not even tried. One line; exit_status: what a shell would say."""

    def __init__(self, text: str, exit_status: int = SANDBOX_FAILED) -> None:
        super().__init__(text)
        self.exit_status = exit_status


class Execution:
    """One further program, and what came of it."""

    def __init__(
        self,
        serial: int,
        argv: tuple[bytes, ...],
        directory: bytes | None,
        paths: tuple[bytes, ...],
        on_started: Told | None,
        on_ended: Told | None,
        ticket: int = 0,
    ) -> None:
        """ticket: the asker's, by which whoever replaces this supervisor knows who is to be told."""
        self.ticket = ticket
        self.serial = serial
        self.argv = argv
        self.directory = directory
        self.paths = paths  # that the command may be
        self.pid = 0  # until it is there
        self.has_ended = False
        self.status: int | None = None  # as wait(2) gives it; None also where init could not make it
        self.error: str | None = None  # one line, why it did not become the command, or could not be served
        self.ended_with_sandbox = False  # killed with all others
        self._error_status = SANDBOX_FAILED
        self._on_started, self._on_ended = on_started, on_ended

    @property
    def signal(self) -> int | None:
        """That ended it."""
        if self.error is not None or self.status is None or not os.WIFSIGNALED(self.status):
            return None
        return os.WTERMSIG(self.status)

    @property
    def exit_status(self) -> int:
        """As a shell tells it; 126 or 127 where it could not be executed, 125 where that is not the command's fault."""
        if self.error is not None or self.status is None:
            return self._error_status
        return 128 + os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else os.WEXITSTATUS(self.status)

    def started(self, pid: int) -> None:
        self.pid = pid
        if self._on_started is not None:
            self._on_started(self)

    def failed(self, text: str, exit_status: int = SANDBOX_FAILED) -> None:
        """Its end is still to come. The first reason counts."""
        if self.error is None:
            self.error, self._error_status = text, exit_status

    def ended(self, status: int | None) -> None:
        self.status, self.has_ended = status, True
        if self._on_ended is not None:
            self._on_ended(self)


class Executions:
    """All of one sandbox. Used by the thread that serves it."""

    def __init__(
        self,
        prepared: Prepared,
        audit: AuditLog,
        engine: Engine,
        limits: Limits | None,
        control_fd: int,
        start_directory: bytes | None,
        keeper: Keeper | None,
    ) -> None:
        """start_directory: absolute, where the first program was started; None: it cannot be told."""
        self._keeper = keeper
        self._prepared = prepared
        self._audit = audit
        self._engine = engine
        self._limits = limits
        self._control_fd = control_fd
        self._start_directory = start_directory
        self._open: dict[int, Execution] = {}  # whose end was not told yet, by serial
        self._last_serial = 0
        self.sandbox_ends = False  # everything is being killed
        self.terminals: set[int] = set()  # st_rdev of those that were given

    def __len__(self) -> int:
        return len(self._open)

    @property
    def open(self) -> list[Execution]:
        """Whose end was not told yet."""
        return list(self._open.values())

    def execute(
        self,
        argv: Sequence[bytes],
        stdio: tuple[int, int, int],
        environment: Mapping[bytes, bytes] | None,
        cwd: bytes | None,
        on_started: Told | None,
        on_ended: Told | None,
        ticket: int,
    ) -> Execution:
        """As Sandbox.execute. Raises CannotExecute, OSError of init."""
        if not argv:
            raise CannotExecute("no command was given")
        whole = {**self._prepared.environment, **(environment or {})}
        if any(b"\0" in word for word in (*argv, *whole, *whole.values(), cwd or b"")):
            raise CannotExecute("a word of the command, its environment or its directory has a NUL in it")
        if any(not name or b"=" in name for name in whole):
            raise CannotExecute("a name in the environment is empty, or has a = in it")
        try:
            paths = candidates(argv[0], whole)
            refuse_descriptors_that_lead_out(stdio)
        except (CommandError, CannotStart) as error:
            raise CannotExecute(str(error), error.exit_status) from None
        self._require_room()
        self._last_serial += 1
        execution = Execution(
            self._last_serial, tuple(argv), self._directory(cwd), paths, on_started, on_ended, ticket
        )
        self._keep(execution)  # first: nobody else would know what init has been told
        try:
            launching.order_execute(
                self._control_fd,
                execution.serial,
                stdio,
                directory=execution.directory,
                candidates=paths,
                argv=argv,
                environment=whole,
            )
        except OSError as error:
            if self._keeper is not None:
                self._keeper.further_over(execution.serial)
            raise CannotExecute(f"{_shown(execution)}: cannot be started: {error.strerror}") from None
        if os.isatty(stdio[0]):
            self.terminals.add(os.fstat(stdio[0]).st_rdev)
        self._open[execution.serial] = execution
        return execution

    def _keep(self, execution: Execution) -> None:
        if self._keeper is None:
            return
        from sandlockd.sandbox.keeping import Further  # only where it is wanted

        words, room = list[bytes](), _KEPT_BYTES
        for word in execution.argv:
            words.append(word[:room])
            room -= len(words[-1])
        directory = execution.directory and execution.directory[:_KEPT_BYTES]
        self._keeper.further(
            execution.serial, Further(tuple(filter(None, words)), directory, execution.pid, execution.ticket)
        )

    def take_over(self, left: Left, revive: Callable[[int], tuple[Told | None, Told | None]]) -> None:
        """Those that a supervisor before us has started. revive: who is told of the one with that ticket."""
        for serial, what in left.further.items():
            execution = Execution(serial, what.argv, what.directory, (), *revive(what.ticket), what.ticket)
            execution.pid = what.pid
            self._open[serial] = execution
        self._last_serial = max((*left.further, *left.further_listeners), default=0)
        # By their numbers open calls know them; of two with one number the first has ended.
        numbered = {number: serial for serial, number in left.further_numbers.items()}
        for number, serial in numbered.items():
            self._engine.attach_further(left.further_listeners[serial], number)
        for serial, listener in left.further_listeners.items():
            if serial not in left.further_numbers:
                self._attach(serial, listener)

    def _attach(self, serial: int, listener: OwnedFd) -> None:
        number = self._engine.attach_further(listener)
        if self._keeper is not None:
            self._keeper.further_number(serial, number)

    def _directory(self, cwd: bytes | None) -> bytes | None:
        """Where it goes by itself, by the names that a program of the sandbox has for it."""
        if cwd is None:
            return self._start_directory
        if self._start_directory is None and not cwd.startswith(b"/"):
            raise CannotExecute(f"{os.fsdecode(cwd)}: give the working directory from / on")
        return os.path.join(self._start_directory or b"/", cwd)

    def _require_room(self) -> None:
        """One that has left processes behind counts for as long as those live: its listener does."""
        coming = sum(not execution.pid for execution in self._open.values())
        if max(len(self._open), self._engine.further + coming) >= launching.EXECUTED_MAX:
            raise CannotExecute(
                f"{launching.EXECUTED_MAX} further programs, or what they have left behind, run in this sandbox"
                " already; wait until one has ended"
            )
        if not self._engine.process_fits():
            raise CannotExecute(
                f"limits.processes: {self._engine.process_limit} processes run in this sandbox already"
            )

    def signal(self, execution: Execution, number: int, *, to_group: bool = False) -> None:
        """To the program itself, or the process group that it leads. Nothing happens when it has ended.

        Raises OSError of init.
        """
        if execution.serial in self._open:
            launching.order_signal_executed(self._control_fd, execution.serial, number, to_group=to_group)

    # ---- reports of init ----

    def on_report(self, report: Report) -> None:
        execution = self._open.get(report.serial)
        if execution is None:  # it was given up with the sandbox
            if report.fd is not None:
                report.fd.close()
        elif report.kind == launching.LISTENER:
            self._begins(execution, report)
        elif report.kind == launching.FAILED:
            execution.failed(*self._why_failed(execution, report))
            if not report.pid:  # there was no process
                self._ended(execution, None)
        elif report.kind == launching.EXECUTED:
            self._ended(execution, report.status)

    def _begins(self, execution: Execution, report: Report) -> None:
        """It waits in the first call that is trapped."""
        try:
            if report.fd is None:
                raise CannotStart("the listener did not arrive; raise the limit of open files")
            with report.fd:
                if self._keeper is not None:
                    self._keeper.further_listener(execution.serial, report.fd.fd)
                self._attach(execution.serial, report.fd)
            if self._limits is not None:
                self._limits.confine(report.pid)
        except (CannotStart, OSError) as error:
            # Without a listener, or out of its limits: it must not become anything.
            execution.failed(f"{_shown(execution)}: cannot be served: {error}")
            self._kill(execution)
        self._note(execution, f"{_shown(execution)} was started in the sandbox", report.pid)
        execution.started(report.pid)
        self._keep(execution)

    def _kill(self, execution: Execution) -> None:
        try:
            self.signal(execution, signal.SIGKILL)
        except (BrokenPipeError, ConnectionResetError):
            pass  # init is gone, and everything with it

    def _ended(self, execution: Execution, status: int | None) -> None:
        del self._open[execution.serial]
        if self._keeper is not None:
            self._keeper.further_over(execution.serial)
        if execution.error is not None:
            self._note(execution, execution.error, execution.pid)
        execution.ended_with_sandbox = self.sandbox_ends and status == signal.SIGKILL
        execution.ended(status)

    def all_ended(self) -> None:
        """Nothing of the sandbox is left."""
        self.sandbox_ends = True
        for execution in list(self._open.values()):
            self._ended(execution, int(signal.SIGKILL))

    def _note(self, execution: Execution, text: str, pid: int) -> None:
        self._audit.note(Note(subject="exec", text=text, pid=pid, command=execution.argv[0]))

    # ---- words ----

    def _why_failed(self, execution: Execution, report: Report) -> tuple[str, int]:
        """(one line, the exit status)"""
        stage, name = launching.STAGES[report.stage], execution.argv[0]
        if stage == "command":
            problem = problem_with(name, report.error)
            return str(problem), problem.exit_status
        if stage == "directory":
            directory = printable(os.fsdecode(execution.directory or b""))
            return f"{directory}: cannot be entered: {os.strerror(report.error)}", SANDBOX_FAILED
        if stage == "exec" and report.status < len(execution.paths):
            # By its letters alone: where a link leads, a server might have to tell.
            path = os.path.normpath(located(execution.paths[report.status], execution.directory))
            refused = why_not_executed(self._prepared, name, path)
            if refused is not None:
                return refused, 126
        return why_failed(report, name)


def _shown(execution: Execution) -> str:
    words = " ".join(printable(os.fsdecode(word)) for word in execution.argv)
    return words if len(words) <= _SHOWN_CHARACTERS else words[: _SHOWN_CHARACTERS - 3] + "..."
