"""How a run ended, and the exit status and status file that tell it."""

from __future__ import annotations

import enum
import errno
import os
import signal as signals
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.launching import Report

SANDBOX_FAILED = 125
TIMED_OUT = 124
INTERRUPTED = 130

# How long calls wait for their answer is counted by these.
LATENCY_BOUNDS_NS = (*(n * 10**e for e in (3, 4, 5, 6, 7) for n in (2, 5, 10)), 10**9)


class Reason(enum.Enum):
    EXITED = "exited"
    SIGNALED = "signaled"
    MEMORY = "memory"  # limits.memory was passed
    TIMEOUT = "timeout"  # limits.timeout was over
    DISK = "disk"  # limits.disk was passed by writing
    KILLED = "killed"  # by sandlockd: asked to end, or by a rule, as limits.cpu_time is one
    SANDBOX_ERROR = "sandbox_error"


class Result:
    """What the status file holds."""

    def __init__(self) -> None:
        self.reason = Reason.SANDBOX_ERROR
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.rule: str | None = None
        self.error: str | None = None  # one line: the step, why, what to do
        self.has_run = False  # the program was started
        self.exit_status = SANDBOX_FAILED  # of sandlockd itself
        self.wall_s = 0.0
        self.user_s = 0.0
        self.system_s = 0.0
        self.counted_s = 0.0  # of all processes, where limits.cpu_time is kept by counting
        self.peak_memory_bytes = 0
        # At least so many. Forking is not trapped, and no source that every user has counts it: those are told
        # that init reaped (orphans), or that lived long enough to be registered.
        self.processes = 0
        self.disk_bytes: int | None = None  # what the trees held in the end, where that is limited
        # What processes gave to write(2) and its like, wherever it went, and what the kernel wrote to storage for it.
        self.passed_bytes: int | None = None  # None: this kernel does not count it
        self.stored_bytes: int | None = None
        self.copied_bytes: int | None = None  # of data, into trees; None: there are none
        # Of standard output and error, where that is limited: passed on, and dropped above the limit.
        self.output_bytes: int | None = None
        self.cut_bytes: int | None = None
        self.kept_by: dict[str, str] = {}  # limits that a cgroup may keep: what did
        self.calls: dict[str, int] = {}
        self.handlers: list[dict[str, object]] = []
        self.latencies: tuple[list[int], list[int]] | None = None  # as of Engine.latencies
        self.denials = 0
        self.run_id: str | None = None
        self.changes: dict[str, object] | None = None  # of a copy-on-write tree, and what became of them

    def not_disposed(self, problem: str) -> None:
        """What the program changed is not where it was to be: that is no success."""
        self.error = problem if self.error is None else f"{self.error}; {problem}"
        self.exit_status = self.exit_status or SANDBOX_FAILED

    def went_wrong(self, text: str, exit_status: int = SANDBOX_FAILED) -> None:
        """Something raised. How the program ended, where that is known, stays so. Twice for the same: as once."""
        if self.error is not None and self.error.endswith(text):
            return
        if self.reason is Reason.SANDBOX_ERROR:
            self.failed(text, exit_status)
        else:
            self.not_disposed(text)

    def program_ended(self, status: int, *, killed: bool = False) -> None:
        """status: as wait(2) gives it."""
        if os.WIFSIGNALED(status):
            self.signal = os.WTERMSIG(status)
            self.exit_status = 128 + self.signal
            self.reason = Reason.SIGNALED
        else:
            self.exit_code = os.WEXITSTATUS(status)
            self.exit_status = self.exit_code
            self.reason = Reason.EXITED
        if killed:
            self.reason = Reason.KILLED

    def killed_whole(self, rule: str | None) -> None:
        """Ended by us before the program's own end was told."""
        self.reason = Reason.KILLED
        self.rule = rule
        self.signal = signals.SIGKILL
        self.exit_status = 128 + signals.SIGKILL

    def over_limit(self, reason: Reason, rule: str, text: str) -> None:
        """Everything was ended for it; if the program was faster in ending itself, it counts all the same.

        Of time, it was asked to end first: how it did is told, too.
        """
        self.reason = reason
        self.rule = rule
        self.error = f"{rule}: {text}"
        if reason is Reason.TIMEOUT:
            self.exit_status = TIMED_OUT
            return
        self.exit_code = None
        self.signal = signals.SIGKILL
        self.exit_status = 128 + signals.SIGKILL

    def failed(self, text: str, exit_status: int = SANDBOX_FAILED) -> None:
        self.reason = Reason.SANDBOX_ERROR
        self.error = text
        self.exit_code = self.signal = None
        self.exit_status = exit_status

    def usage_told(self, report: Report) -> None:
        self.user_s, self.system_s = report.user_us / 1e6, report.system_us / 1e6
        self.counted_s = report.used_ns / 1e9
        self.passed_bytes, self.stored_bytes = report.passed_bytes, report.stored_bytes
        self.peak_memory_bytes = report.peak_rss_bytes
        self.processes = report.reaped

    @property
    def cpu_s(self) -> float:
        """With limits.cpu_time, that of children whom nobody waited for is in it; the kernel adds them to nobody."""
        return max(self.user_s + self.system_s, self.counted_s)

    @property
    def succeeded(self) -> bool:
        return self.reason is Reason.EXITED and self.exit_code == 0

    def as_dict(self) -> dict[str, object]:
        return {
            "run": self.run_id,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "reason": self.reason.value,
            "rule": self.rule,
            "error": self.error,
            "usage": {
                "wall": round(self.wall_s, 6),
                "cpu": round(self.cpu_s, 6),
                "user": round(self.user_s, 6),
                "system": round(self.system_s, 6),
                "peak_memory": self.peak_memory_bytes,
                "processes": self.processes,
                "processes_exact": False,
                "disk": self.disk_bytes,
                "output": self.output_bytes,
                "output_cut": self.cut_bytes,
                "written": self.passed_bytes,
                "written_to_storage": self.stored_bytes,
                "copied_up": self.copied_bytes,
                "kept_by": self.kept_by,
                "calls": self.calls,
                "handlers": self.handlers,
            },
            "changes": self.changes,
            "denials": self.denials,
        }


def require_replaceable(path: str) -> None:
    """The status file takes the place of what is there: that may be an older one, not a device, FIFO or link.

    Raises OSError.
    """
    if not os.path.basename(path):
        raise FileNotFoundError(errno.ENOENT, "a file must be named")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        directory = os.path.dirname(path) or os.curdir
        if not os.path.isdir(directory):
            raise FileNotFoundError(errno.ENOENT, "there is no such directory") from None
        return
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is there and no ordinary file: it would be replaced")


def write_status_file(path: str, result: Result) -> None:
    """Whole or not at all: a reader never sees half of it. Raises OSError."""
    import json

    require_replaceable(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(result.as_dict(), file)
            file.write("\n")
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
