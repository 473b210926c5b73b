"""What `-v` says on standard error: at the start what is granted and by what it is enforced, each refusal as it
happens, at the end what was used.

Imported for `-v` only. While the program runs nothing waits for whoever reads: a thread of its own writes, and what it
cannot get rid of is dropped and counted. Everything that the program chose is shown escaped.
"""

from __future__ import annotations

import _thread
import os
import queue
import shlex

from sandlockd.audit.records import Failure, Refusal, errno_name, wanted_words
from sandlockd.kernel import landlock
from sandlockd.launch.temporary import described
from sandlockd.policy import base_tree
from sandlockd.policy.spelling import printable
from sandlockd.policy.verdict import Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandlockd.audit.log import AuditLog
    from sandlockd.kernel.engine import Counts
    from sandlockd.launch.prepare import Prepared
    from sandlockd.policy import model
    from sandlockd.policy.files import Grant
    from sandlockd.sandbox.result import Result

_WAITING_MAX = 1000
# How long a line may keep its refusal waiting, so that it stands before what the program says of it. Who does not read
# costs this once, not each time.
_LINE_PATIENCE_S = 0.002
_END_PATIENCE_S = 1.0
_MIB = 1 << 20


class Verbose:
    """say: writes one line; may wait for its reader."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._written: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each line
        self._waiting = 0
        self._finished: _thread.LockType | None = None
        self._dropped = 0

    def starting(self, prepared: Prepared, audit: AuditLog, policies: tuple[str, ...]) -> None:
        """Nothing runs yet: whoever reads may take its time."""
        for line in _start_lines(prepared, audit, policies):
            self._say(line)

    def refusal(self, event: Refusal | Failure, count: int) -> None:
        """For AuditLog.on_refusal. Never waits, never raises."""
        self._later(_refusal_line(event, count))

    def ended(self, result: Result, audit: AuditLog, calls: Counts) -> None:
        """Waits for what is still to be written, within reason."""
        if self._dropped:
            self._later(f"{self._dropped} lines are missing here: nobody read them in time")
        for line in _end_lines(result, audit, calls):
            self._later(line)
        self._lines.put(None)
        if self._finished is not None:
            self._finished.acquire(timeout=_END_PATIENCE_S)

    def _later(self, line: str) -> None:
        if self._waiting:
            self._take_written(0.0)
        is_read = self._waiting == 0
        if self._waiting >= _WAITING_MAX:
            self._dropped += 1
            return
        self._lines.put(line)
        self._waiting += 1
        if self._finished is None:
            self._finished = _thread.allocate_lock()
            self._finished.acquire()
            _thread.start_new_thread(self._write, (self._finished,))
        if is_read:
            self._take_written(_LINE_PATIENCE_S)

    def _take_written(self, patience_s: float) -> None:
        try:
            while self._waiting:
                self._written.get(patience_s > 0, patience_s)
                self._waiting -= 1
        except queue.Empty:
            return

    def _write(self, finished: _thread.LockType) -> None:
        while (line := self._lines.get()) is not None:
            self._say(line)
            self._written.put(None)
        finished.release()


def _shown(text: bytes | str) -> str:
    return printable(text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text)


def _start_lines(prepared: Prepared, audit: AuditLog, policies: tuple[str, ...]) -> Iterator[str]:
    where = prepared.directory or os.fsencode(os.path.realpath(os.curdir))
    words = (shlex.quote(argument.decode("utf-8", "backslashreplace")) for argument in prepared.argv)
    yield f"run {audit.run_id}: {_shown(' '.join(words))}"
    yield f"executes {_shown(prepared.executable)} in {_shown(where)}"
    yield f"policy: {', '.join(map(_shown, policies))}; audit level {prepared.policy.audit.level}"
    yield from _grant_lines(prepared.rules.grants())
    yield described(prepared.temporary)
    yield from _deny_lines(prepared)
    yield from _enforcement_lines(prepared)


def _grant_lines(grants: tuple[Grant, ...]) -> Iterator[str]:
    """base's on one line for each right; the policy's own one by one."""
    together: dict[tuple[str, Want], list[str]] = {}
    for grant in grants:
        together.setdefault((grant.rule, grant.want), []).append(_shown(grant.path))
    for (rule, want), paths in together.items():
        yield f"grants {wanted_words(want)}: {' '.join(paths)} ({rule})"


def _deny_lines(prepared: Prepared) -> Iterator[str]:
    denied: dict[str, list[str]] = {}
    secrets = 0
    for hole in prepared.rules.holes():
        if hole.rule == base_tree.SECRETS_RULE:
            secrets += 1
        else:
            denied.setdefault(hole.rule, []).append(_shown(hole.path))
    for rule, paths in denied.items():
        yield f"denies {' '.join(dict.fromkeys(paths))} ({rule})"
    if secrets:
        yield f"denies {secrets} files and patterns that hold secrets ({base_tree.SECRETS_RULE})"


def _enforcement_lines(prepared: Prepared) -> Iterator[str]:
    missing = prepared.wall.missing
    scopes = (
        "signals and abstract sockets stay inside"
        if prepared.wall.scope_signals
        else "signals are not scoped"
    )
    granted = sum(1 for zone in prepared.wall.zones.values() if zone.rights)
    yield f"enforced by Landlock (ABI {landlock.abi()}): {granted} rules for files, {scopes}"
    instructions = len(prepared.filter_program) // 8
    plan = prepared.filter_plan
    network = "no network" if plan.network_closed else "network by rules"
    yield f"enforced by seccomp: a filter of {instructions} instructions, {network}"
    limits = _limits(prepared.policy.limits)
    if limits:
        yield f"limited: {'; '.join(limits)}"
    if prepared.given_back:
        yield f"given back: {' '.join(sorted(prepared.given_back))}"
    if missing:
        yield f"runs without: {' '.join(missing)} ([degrade] allow)"


def _limits(limits: model.Limits) -> list[str]:
    """Those that say how much; what trees may hold is told with them."""
    found = []
    if limits.timeout is not None:
        found.append(f"{limits.timeout:g} s of time, then SIGTERM")
    if limits.cpu_time is not None:
        found.append(f"{limits.cpu_time:g} s of processors, all together")
    if limits.open_files is not None:
        found.append(f"{limits.open_files} open files each")
    return found


def _refusal_line(event: Refusal | Failure, count: int) -> str:
    refusal = event.refusal if isinstance(event, Failure) else event
    what = " ".join([refusal.call, *([_shown(refusal.path)] if refusal.path is not None else [])])
    if refusal.target is not None:
        what += f" -> {_shown(refusal.target)}"
    wanted = wanted_words(refusal.wanted)
    purpose = f", to {_shown(wanted)}" if wanted else ""
    times = f", {count} times" if count > 1 else ""
    caller = f"{_shown(refusal.command) or 'a process'} (pid {refusal.pid})"
    return f"refused {what}{purpose}: {errno_name(refusal.errno)} by {refusal.rule}{times}; {caller}"


def _end_lines(result: Result, audit: AuditLog, calls: Counts) -> Iterator[str]:
    how = result.reason.value
    if result.exit_code is not None:
        how += f" with {result.exit_code}"
    if result.signal is not None:
        how += f" by signal {result.signal}"
    yield (
        f"{how} after {result.wall_s:.2f} s; processors {result.cpu_s:.2f} s, peak memory"
        f" {result.peak_memory_bytes / _MIB:.1f} MiB, at least {result.processes} processes"
    )
    if result.kept_by:
        yield f"limits kept by: {'; '.join(f'{name}: {by}' for name, by in result.kept_by.items())}"
    allowed = f", {audit.allowed} on record as allowed" if audit.records_allowed else ""
    yield (
        f"{calls.received} calls asked for: {calls.continued} left to the kernel at once, {calls.to_python} judged;"
        f" {audit.denials} refused{allowed}"
    )
