"""Starting a program: the plan as C wants it, the control socket, reports and orders.

What the steps between fork and exec are is native/child.c's and native/init.c's; what a failed step means in words
is launch/'s.
"""

from __future__ import annotations

import collections
import errno
import os

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NamedTuple

    from sandlockd.kernel.engine import Engine

STARTED = lib.SLK_REPORT_STARTED
LISTENER = lib.SLK_REPORT_LISTENER
FAILED = lib.SLK_REPORT_FAILED
STOPPED = lib.SLK_REPORT_STOPPED
CONTINUED = lib.SLK_REPORT_CONTINUED
EXITED = lib.SLK_REPORT_EXITED
LIMIT = lib.SLK_REPORT_LIMIT
DONE = lib.SLK_REPORT_DONE
GONE = lib.SLK_REPORT_GONE
EXECUTED = lib.SLK_REPORT_EXECUTED

EXECUTED_MAX: int = lib.SLK_EXECUTED_MAX

LIMIT_TIMEOUT = lib.SLK_LIMIT_TIMEOUT
LIMIT_CPU_TIME = lib.SLK_LIMIT_CPU_TIME
LIMIT_CPU = lib.SLK_LIMIT_CPU
LIMIT_PAUSE = lib.SLK_LIMIT_PAUSE

_PAUSE_PATIENCE_MS = 2000  # init answers at once, unless it waits for a processor or was stopped

STAGES: tuple[str, ...] = (
    "none",
    "fork",
    "subreaper",
    "no_new_privs",
    "signal_scope",
    "throttle",
    "descriptors",
    "signals",
    "session",
    "terminal",
    "stdio",
    "directory",
    "capabilities",
    "landlock",
    "rlimits",
    "seccomp",
    "handover",
    "exec",
    "words",
    "command",
)

if TYPE_CHECKING:

    class Report(NamedTuple):
        kind: int  # one of the constants above
        pid: int
        stage: int  # index into STAGES
        error: int
        status: int  # as wait(2) gives it, or a signal number, or a limit
        stop: int  # how many times the program was stopped so far
        fd: OwnedFd | None
        serial: int  # of the order that started the further program that it is about; else 0
        user_us: int
        system_us: int
        peak_rss_bytes: int  # of the largest single process
        reaped: int
        used_ns: int  # of processors, the lost ones included; 0: not counted
        passed_bytes: int | None  # to write(2) and its like
        stored_bytes: int | None  # to storage

else:  # without importing typing
    Report = collections.namedtuple(
        "Report",
        "kind pid stage error status stop fd serial user_us system_us peak_rss_bytes reaped used_ns passed_bytes"
        " stored_bytes",
    )


class Plan:
    """Everything about the start, by name; see struct slk_launch_plan in native/boundary.h."""

    __slots__ = (
        "argv",
        "blocked_signals",
        "cpu_percent",
        "cpu_time_s",
        "directory",
        "drop_capabilities",
        "engine",
        "environment",
        "executable",
        "filter_program",
        "grace_s",
        "groups",
        "is_kept",
        "keeps_ruleset",
        "kept_capabilities",
        "new_session",
        "rlimits",
        "ruleset_fd",
        "scope_signals",
        "stdio",
        "timeout_s",
        "umask",
        "wait_killable",
    )

    def __init__(
        self,
        *,
        executable: bytes,
        argv: Sequence[bytes],
        environment: Mapping[bytes, bytes],
        filter_program: bytes,
        engine: Engine | None = None,
        ruleset_fd: int = -1,
        directory: bytes | None = None,
        stdio: tuple[int, int, int] = (-1, -1, -1),
        umask: int = -1,
        wait_killable: int = 1,
        scope_signals: bool = True,
        new_session: bool = False,
        kept_capabilities: int | None = None,
        blocked_signals: int = 0,
        rlimits: Sequence[tuple[int, int, int]] = (),
        timeout_s: float | None = None,
        grace_s: float = 0.0,
        cpu_time_s: float | None = None,
        cpu_percent: int | None = None,
        groups: Sequence[bytes] = (),
        keeps_ruleset: bool = False,
        is_kept: bool = False,
    ) -> None:
        """is_kept: who starts it is replaced when he dies (others hold the control socket, too)."""
        self.executable = executable
        self.argv = argv
        self.environment = environment
        self.filter_program = filter_program
        self.engine = engine
        self.ruleset_fd = ruleset_fd
        self.directory = directory
        self.stdio = stdio
        self.umask = umask
        self.wait_killable = wait_killable
        self.scope_signals = scope_signals
        self.new_session = new_session
        self.drop_capabilities = kept_capabilities is not None
        self.kept_capabilities = kept_capabilities or 0
        self.blocked_signals = blocked_signals
        self.rlimits = rlimits
        self.timeout_s = timeout_s
        self.grace_s = grace_s
        self.cpu_time_s = cpu_time_s
        self.cpu_percent = cpu_percent
        self.groups = groups
        self.keeps_ruleset = keeps_ruleset
        self.is_kept = is_kept


def start(plan: Plan) -> tuple[int, OwnedFd]:
    """Fork init, which forks the program: (init's pid, the control socket, which is the leash)."""
    keep: list[object] = []

    def text(value: bytes) -> object:
        cdata = ffi.new("char[]", value)
        keep.append(cdata)
        return cdata

    def vector(values: Sequence[bytes]) -> object:
        cdata = ffi.new("char *[]", [*(text(value) for value in values), ffi.NULL])
        keep.append(cdata)
        return cdata

    native = ffi.new("struct slk_launch_plan *")
    native.executable = text(plan.executable)
    native.argv = vector(plan.argv)
    native.shell_argv = vector([b"/bin/sh", plan.executable, *plan.argv[1:]])
    native.envp = vector([name + b"=" + value for name, value in plan.environment.items()])
    native.directory = ffi.NULL if plan.directory is None else text(plan.directory)
    native.filter = ffi.from_buffer(plan.filter_program)
    native.filter_length = len(plan.filter_program) // 8
    native.engine = ffi.NULL if plan.engine is None else plan.engine.native
    native.wait_killable = plan.wait_killable
    native.scope_signals = plan.scope_signals
    native.new_session = plan.new_session
    native.keeps_ruleset = plan.keeps_ruleset
    native.is_kept = plan.is_kept
    native.drop_capabilities = plan.drop_capabilities
    native.kept_capabilities = plan.kept_capabilities
    native.stdio = list(plan.stdio)
    native.ruleset_fd = plan.ruleset_fd
    native.umask = plan.umask
    native.blocked_signals = plan.blocked_signals
    native.rlimit_count = len(plan.rlimits)
    for index, (resource, soft, hard) in enumerate(plan.rlimits):
        limit = native.rlimits[index]
        limit.resource, limit.soft, limit.hard = resource, soft, hard
    native.timeout_ns = _nanoseconds(plan.timeout_s)
    native.grace_ns = _nanoseconds(plan.grace_s)
    native.cpu_time_ns = _nanoseconds(plan.cpu_time_s)
    native.cpu_percent = plan.cpu_percent or 0
    for index, path in enumerate(plan.groups):
        native.groups[index] = text(path)
    control = ffi.new("int *")
    init_pid = check(lib.slk_launch(native, control))
    return init_pid, OwnedFd(control[0])


def _nanoseconds(seconds: float | None) -> int:
    """0: never."""
    return 0 if seconds is None else max(int(seconds * 1e9), 1)


def read_report(control_fd: int, timeout_ms: int = 0) -> Report | None:
    """The next report, or None when none came in time (-1: wait for ever)."""
    native = ffi.new("struct slk_report *")
    while True:
        result = lib.slk_report_read(control_fd, timeout_ms, native)
        if result != -4:  # EINTR: a Python signal handler may want to run; poll again
            break
    if check(result) == 0:
        return None
    return Report(
        native.kind,
        native.pid,
        native.stage,
        native.error,
        native.status,
        native.stop,
        OwnedFd(native.fd) if native.fd >= 0 else None,
        native.serial,
        native.user_us,
        native.system_us,
        native.peak_rss_bytes,
        native.reaped,
        native.used_ns,
        _told(native.passed_bytes),
        _told(native.stored_bytes),
    )


def _told(number: int) -> int | None:
    return None if number == lib.SLK_NOT_TOLD else number


def _order(control_fd: int, kind: int, number: int = 0) -> None:
    native = ffi.new("struct slk_order *")
    native.kind, native.number = kind, number
    check(lib.slk_order_send(control_fd, native))


def order_signal(control_fd: int, signal: int, *, to_group: bool = False) -> None:
    """Ask init to signal the program. to_group: the process group that it leads, if it does.

    Raises OSError EPIPE when init is gone.
    """
    _order(control_fd, lib.SLK_ORDER_SIGNAL_GROUP if to_group else lib.SLK_ORDER_SIGNAL, signal)


def order_continue(control_fd: int, stop: int) -> None:
    """SIGCONT to the program's process group if it is still in this stop, counted from 1 by the reports."""
    _order(control_fd, lib.SLK_ORDER_CONTINUE, stop)


def order_begin(control_fd: int) -> None:
    """The program is about to be executed: from now on its time runs."""
    _order(control_fd, lib.SLK_ORDER_BEGIN)


def order_pause(control_fd: int, engine: Engine) -> bool:
    """Have init hold all that compute, and whoever begins to. Waits for init: whoever ran has been told to stop then.

    engine: that of the plan. False: no answer in time. Raises OSError: EPIPE: init is gone; EPERM: somebody cannot be
    held, or nobody; ENOMEM.
    """
    return bool(
        check(lib.slk_order_init(engine.native, control_fd, lib.SLK_ORDER_PAUSE, 0, _PAUSE_PATIENCE_MS))
    )


def order_resume(control_fd: int) -> None:
    """Let all go on. Nothing happens where they are not paused."""
    _order(control_fd, lib.SLK_ORDER_RESUME)


def order_kill(control_fd: int) -> None:
    """Ask init to end everything in the sandbox now."""
    _order(control_fd, lib.SLK_ORDER_KILL)


def order_execute(
    control_fd: int,
    serial: int,
    stdio: tuple[int, int, int],
    *,
    directory: bytes | None,
    candidates: Sequence[bytes],
    argv: Sequence[bytes],
    environment: Mapping[bytes, bytes],
) -> None:
    """Have init start a further program (native/exec_order.c): the first candidate that is there. Does not wait.

    directory: absolute, where it starts.
    Raises OSError: E2BIG: these are too many words; EPIPE: init is gone; EAGAIN: it has orders enough for now.
    """
    from sandlockd.kernel.sealed import file_of  # only where it is wanted

    directories = [] if directory is None else [directory]
    environments = [name + b"=" + value for name, value in environment.items()]
    head = ffi.new("struct slk_words *", [len(directories), len(candidates), len(argv), len(environments)])
    words = [*directories, *candidates, *argv, *environments]
    data = bytes(ffi.buffer(head)) + b"".join(word + b"\0" for word in words)
    if len(data) > lib.SLK_WORDS_BYTES_MAX:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    with file_of(data) as file:
        check(lib.slk_order_execute(control_fd, serial, ffi.new("int32_t[3]", stdio), file.fd))


def order_signal_executed(control_fd: int, serial: int, signal: int, *, to_group: bool = False) -> None:
    """To the further program that was started with this serial, if it is there still. As order_signal."""
    native = ffi.new("struct slk_order *")
    native.kind = lib.SLK_ORDER_SIGNAL_EXECUTED_GROUP if to_group else lib.SLK_ORDER_SIGNAL_EXECUTED
    native.number, native.serial = signal, serial
    check(lib.slk_order_send(control_fd, native))


POKE_SIGNAL = lib.SLK_POKE_SIGNAL


def poke(thread: int) -> None:
    """Interrupt the call that a thread of ours waits in: it fails with EINTR. Nothing happens when it has ended."""
    check(lib.slk_poke(thread))


def signal_fd(signals: Sequence[int]) -> OwnedFd:
    """signalfd(2); the caller has blocked the signals."""
    mask = 0
    for number in signals:
        mask |= 1 << (number - 1)
    return OwnedFd(check(lib.slk_signal_fd(mask)))


def read_signal(fd: int) -> tuple[int, int, int] | None:
    """(number, si_code, sender's pid), or None when there is none."""
    code, pid = ffi.new("int32_t *"), ffi.new("int32_t *")
    number = check(lib.slk_signal_read(fd, code, pid))
    return (number, code[0], pid[0]) if number else None
