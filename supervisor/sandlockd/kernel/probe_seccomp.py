"""Seccomp user notification as a run uses it: init, a program under a small filter, and the engine.

Needs no Landlock, so what is missing there is not taken for a fault here.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from sandlockd.kernel import launching, memory, procfs
from sandlockd.kernel.engine import Engine, Request
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import lib
from sandlockd.kernel.probe import Broken, Missing
from sandlockd.kernel.syscalls import AUDIT_ARCH, native_architecture, number_of

_PATIENCE_MS = 5000
_RET_ALLOW = 0x7FFF0000  # linux/seccomp.h
_RET_NOTIFY = 0x7FC00000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_OFFSET_NR, _OFFSET_ARCH = 0, 4  # struct seccomp_data


def _filter(trapped: Sequence[int]) -> bytes:
    code = [
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_JUMP_EQUAL, 1, 0, AUDIT_ARCH[native_architecture()]),
        (_RETURN, 0, 0, _RET_ALLOW),
        (_LOAD, 0, 0, _OFFSET_NR),
    ]
    code += [(_JUMP_EQUAL, len(trapped) - at, 0, number) for at, number in enumerate(trapped)]
    code += [(_RETURN, 0, 0, _RET_ALLOW), (_RETURN, 0, 0, _RET_NOTIFY)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _rows(trapped: Sequence[int]) -> list[tuple[int, ...]]:
    nothing = (-1,) * 5  # no argument is known: the engine asks about each call
    count = max(trapped) + 1
    return [
        (lib.SLK_CALL_SLOW if number in trapped else lib.SLK_CALL_NONE, *nothing, 0, 0, 0)
        for number in range(count)
    ]


class Trial:
    """A program that is about to be executed, its filter installed and its listener here."""

    def __init__(
        self,
        command: Sequence[bytes],
        trapped: Sequence[str],
        *,
        wait_killable: bool = False,
        stdout: int = -1,
    ) -> None:
        """Raises Missing, Broken."""
        numbers = [number_of(name) for name in trapped if number_of(name) >= 0]
        self.engine = Engine(
            rows=_rows(numbers),
            zones=(),
            native_arch=AUDIT_ARCH[native_architecture()],
            openers=(-1, -1, -1, -1),
            slow_lookups=False,
        )
        plan = launching.Plan(
            executable=command[0],
            argv=command,
            environment={b"PATH": b"/usr/bin:/bin"},
            filter_program=_filter(numbers),
            stdio=(-1, stdout, -1),
            wait_killable=wait_killable,
            scope_signals=False,
        )
        self._init_pid, self.control = launching.start(plan)
        self.pid = 0
        listener = None
        while self.pid == 0 or listener is None:
            report = self._report()
            if report.kind == launching.STARTED:
                self.pid = report.pid
            elif report.kind == launching.LISTENER:
                listener = report.fd
            else:
                raise _failure(report)
        self.engine.attach(listener)

    def _report(self) -> launching.Report:
        report = launching.read_report(self.control.fd, _PATIENCE_MS)
        if report is None:
            raise Broken("the new process did not report in time")
        return report

    def next_request(self) -> Request:
        state, requests, _ = self.engine.pump(-1, _PATIENCE_MS / 1000)
        for request in requests:
            return request
        raise Broken(f"no notification arrived (state {state})")

    def serve(self, answer: Callable[[Request], None]) -> int:
        """Answer until the program ends: its wait(2) status."""
        deadline = time.monotonic() + _PATIENCE_MS / 1000
        while time.monotonic() < deadline:
            _, requests, ended = self.engine.pump(self.control.fd, 0.1)
            for request in requests:
                answer(request)
            if ended:
                report = self._report()
                if report.kind == launching.EXITED:
                    return report.status
                if report.kind == launching.FAILED:
                    raise _failure(report)
        raise Broken("the program did not end in time")

    def close(self) -> None:
        """End what is left of it."""
        self.control.close()
        os.waitpid(self._init_pid, 0)
        self.engine.close()

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _failure(report: launching.Report) -> Exception:
    if report.kind != launching.FAILED:
        return Broken("the new process ended at once")
    step = launching.STAGES[report.stage]
    text = f"step {step}: {os.strerror(report.error)} ({errno.errorcode.get(report.error, report.error)})"
    absent = step == "seccomp" and report.error in (errno.EINVAL, errno.ENOSYS)
    return Missing(text) if absent else Broken(text)


def _program(name: str) -> bytes:
    found = shutil.which(name, path="/usr/bin:/bin:/usr/local/bin") or shutil.which(name)
    if found is None:
        raise Broken(f"no program {name!r} to try it with")
    return os.fsencode(found)


def _trial(**more: bool) -> Trial:
    return Trial([_program("true")], ["execve"], **more)


def user_notification() -> str:
    """The program's execve is seen, and goes on when we say so."""
    with _trial() as trial:
        request = trial.next_request()
        if request.tid != trial.pid:
            raise Broken(f"the notification names thread {request.tid}, the program is {trial.pid}")
        trial.engine.answer_continue(request.slot)
        status = trial.serve(lambda further: _let_on(trial, further))
    if status != 0:
        raise Broken(f"the program ended with wait status {status}")
    return "an execve was received and answered"


def _let_on(trial: Trial, request: Request) -> None:
    trial.engine.answer_continue(request.slot)


def errno_answer() -> str:
    """A refusal reaches the program: its exec fails with the errno we chose."""
    with _trial() as trial:
        trial.engine.answer_errno(trial.next_request().slot, errno.EXFULL)
        while True:
            report = trial._report()
            if report.kind == launching.FAILED and report.error == errno.EXFULL:
                return "a refused call gave the errno that was chosen"
            if report.kind in (launching.EXITED, launching.DONE, launching.GONE):
                raise Broken("a refused call was not refused")


def id_valid() -> str:
    """A notification is known to be alive, and no longer when its program is dead."""
    with _trial() as trial:
        request = trial.next_request()
        if not trial.engine.alive(request):
            raise Broken("a waiting call is said to be gone")
        launching.order_kill(trial.control.fd)
        deadline = time.monotonic() + _PATIENCE_MS / 1000
        while trial.engine.alive(request):
            if time.monotonic() > deadline:
                raise Broken("a dead program's call is said to be waiting")
            time.sleep(0.001)
        trial.engine.answer_errno(request.slot, errno.EIO)
    return "a dead caller is noticed"


def sync_wake_up() -> str:
    """Raises Missing: everything works, slower."""
    with _trial() as trial:
        if not trial.engine.sync_wake_up:
            raise Missing("the listener does not take SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP")
    return "the listener takes the flag"


def wait_killable() -> str:
    with _trial(wait_killable=True) as trial:
        trial.engine.answer_continue(trial.next_request().slot)
    return "the filter takes the flag"


def addfd_send() -> str:
    """cat opens a name that does not exist, and prints what we put in its place."""
    name = b"/sandlockd-doctor-" + os.urandom(8).hex().encode()
    given, giver = os.pipe2(os.O_CLOEXEC)
    output, writing = os.pipe2(os.O_CLOEXEC)
    owned = [OwnedFd(fd) for fd in (given, giver, output, writing)]
    try:
        os.write(giver, b"injected")
        owned[1].close()
        with Trial([_program("cat"), name], ["open", "openat"], stdout=writing) as trial:
            owned[3].close()
            status = trial.serve(lambda request: _give(trial, request, name, given))
        text = os.read(output, 64)
    finally:
        for one in owned:
            one.close()
    if status != 0 or text != b"injected":
        raise Broken(f"the program read {text!r} and ended with wait status {status}")
    return "a descriptor was put into a program"


def _give(trial: Trial, request: Request, name: bytes, fd: int) -> None:
    position = 1 if request.nr == number_of("openat") else 0
    if memory.read_path(request.tid, request.args[position]) == name:
        trial.engine.answer_fd(request.slot, fd, close_on_exec=True)
    else:
        trial.engine.answer_continue(request.slot)


def no_new_privs() -> str:
    """The program that waits in its execve cannot gain privileges any more."""
    with _trial() as trial:
        request = trial.next_request()
        with open(f"/proc/{request.tid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        trial.engine.answer_errno(request.slot, errno.EIO)
    if fields.get(b"NoNewPrivs", b"").strip() != b"1":
        raise Broken("the program still may gain privileges")
    return "the program cannot gain privileges"


def caller_facts() -> str:
    """What a supervisor reads about a caller: its memory and its status (Yama, hidepid)."""
    with _trial() as trial:
        request = trial.next_request()
        path = memory.read_path(request.tid, request.args[0])
        status = procfs.status(request.tid)
        trial.engine.answer_errno(request.slot, errno.EIO)
    if path != _program("true") or status.tgid != request.tid:
        raise Broken(f"read {path!r} of process {status.tgid}, which is not what it holds")
    return "a program's memory and status can be read"
