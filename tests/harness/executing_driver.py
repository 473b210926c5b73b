"""A supervisor that starts further programs in its sandbox when it is told to, as a script:

    python executing_driver.py [--without-pump] POLICY COMMAND...

Without the pump, the loop's task serves alone (notify/loop.py).

The program's standard streams are the driver's own standard error, and nothing to read. Orders come as JSON Lines on
standard input:

    ["execute", argv, stdin, output, cwd, environment]  paths of files; output is appended to, or the same terminal;
                                    stdin may be one of _LEADING_OUT, too
    ["signal", serial, number]      to a further program
    ["signal_first", number]
    ["counts"], ["kill"]

Answers and news are JSON Lines on standard output: {"serial"} or {"refused", "exit_status"}; {"started": serial,
"pid"}; {"ended": serial, "status", "error", "exit_status", "signal", "with_sandbox"}; {"counts"}; {"stopped": signal}
of the first program; and at the end {"result"}.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import trio

from sandlockd.audit.log import AuditLog
from sandlockd.audit.state import state_directory
from sandlockd.kernel.orphans import become_subreaper
from sandlockd.launch.prepare import Prepared, raise_own_descriptor_limit
from sandlockd.notify import loop
from sandlockd.sandbox.executing import CannotExecute, Execution
from sandlockd.sandbox.keeping import Keeper
from sandlockd.sandbox.policies import load_policy
from sandlockd.sandbox.result import Result
from sandlockd.sandbox.run import Asked, Run
from sandlockd.sandbox.sandbox import Sandbox


def _owned() -> int:
    """Of which we are told by SIGIO when there is something to read."""
    fd, other = os.pipe2(os.O_CLOEXEC)
    os.close(other)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    return fd


_LEADING_OUT = {
    "datagrams": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
    "unconnected": lambda: socket.socket(socket.AF_INET).detach(),
    "local": lambda: socket.socket(socket.AF_UNIX).detach(),
    "owned": _owned,
}


def _tell(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _started(execution: Execution) -> None:
    _tell(started=execution.serial, pid=execution.pid)


def _ended(execution: Execution) -> None:
    _tell(
        ended=execution.serial,
        status=execution.status,
        error=execution.error,
        exit_status=execution.exit_status,
        signal=execution.signal,
        with_sandbox=execution.ended_with_sandbox,
    )


class _Host:
    def __init__(self) -> None:
        self._executions: dict[int, Execution] = {}

    @staticmethod
    def say(text: str) -> None:
        print(text, file=sys.stderr)

    def begun(self, run: Run, prepared: Prepared, audit: AuditLog) -> None:
        pass

    def release(self) -> None:
        """There is no keeper."""

    def supervise(
        self, run: Run, sandbox: Sandbox, audit: AuditLog, spared: Sequence[int], keeper: Keeper | None
    ) -> None:
        try:
            become_subreaper(spared)
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            sandbox.start(
                stdio=(null, 2, 2),
                descriptor_limit=raise_own_descriptor_limit(),
                umask=run.umask,
                new_session=True,
            )
            os.close(null)
            sandbox.on_stopped = lambda number: _tell(stopped=number)
            _tell(init=sandbox.init_pid)
            trio.run(self._serve, sandbox)
        finally:
            sandbox.close()

    async def _serve(self, sandbox: Sandbox) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey, sandbox)
            await sandbox.serve()
            nursery.cancel_scope.cancel()

    async def _obey(self, sandbox: Sandbox) -> None:
        pending = b""
        while True:
            await trio.lowlevel.wait_readable(0)
            read = os.read(0, 1 << 16)
            if not read:
                return
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                self._do(sandbox, *json.loads(line))

    def _do(self, sandbox: Sandbox, what: str, *given: Any) -> None:
        match what:
            case "execute":
                self._execute(sandbox, *given)
            case "signal":
                sandbox.signal_execution(self._executions[given[0]], given[1])
            case "signal_first":
                sandbox.signal(given[0])
            case "counts":
                _tell(counts=self._counts(sandbox))
            case "kill":
                sandbox.kill("test")

    @staticmethod
    def _counts(sandbox: Sandbox) -> dict[str, int]:
        return {
            "index": len(sandbox.index),
            "listeners": sandbox.engine.further,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "descriptors_of_init": len(os.listdir(f"/proc/{sandbox.init_pid}/fd")),
        }

    def _execute(
        self,
        sandbox: Sandbox,
        argv: list[str],
        stdin: str,
        output: str,
        cwd: str | None,
        environment: dict[str, str],
    ) -> None:
        if stdin in _LEADING_OUT:
            read = _LEADING_OUT[stdin]()
        else:
            flags = os.O_RDWR if stdin == output else os.O_RDONLY
            read = os.open(stdin, flags | os.O_NOCTTY | os.O_CLOEXEC)
        written = read
        if stdin != output:
            written = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            execution = sandbox.execute(
                [os.fsencode(word) for word in argv],
                stdio=(read, written, written),
                environment={os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
                cwd=None if cwd is None else os.fsencode(cwd),
                on_started=_started,
                on_ended=_ended,
            )
        except CannotExecute as error:
            _tell(refused=str(error), exit_status=error.exit_status)
        else:
            self._executions[execution.serial] = execution
            _tell(serial=execution.serial)
        finally:
            for fd in {read, written}:
                os.close(fd)


async def _no_epoll() -> int:
    return -1


def main() -> None:
    words = sys.argv[1:]
    if words[0] == "--without-pump":
        del words[0]
        loop.epoll_of_trio = _no_epoll
    policy, *command = words
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    result = Result()
    asked = Asked(
        load_policy([policy]),
        (policy,),
        [os.fsencode(word) for word in command],
        is_quiet=True,
        may_execute=True,
    )
    state = state_directory(dict(os.environ), os.geteuid(), os.path.expanduser("~"))
    Run(asked, result, _Host(), state).run()
    _tell(result=result.as_dict())


if __name__ == "__main__":
    main()
