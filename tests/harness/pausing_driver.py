"""A supervisor that pauses its sandbox when it is told to, as a script:

    python pausing_driver.py POLICY OUTPUT COMMAND...

The program's standard output is OUTPUT. Orders come as JSON Lines on standard input: ["pause"], ["resume"],
["signal", number], ["stop"], ["kill"], ["write", text for the program's standard input], ["flicker", how many times].
Each is answered with {"is_paused"}, and "cannot" where it could not pause; a flicker goes on after that. The last line
is {"status"}. What is said for people goes to standard error.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from typing import Any

import trio

from sandlockd.audit.log import AuditLog
from sandlockd.audit.state import state_directory
from sandlockd.kernel.orphans import become_subreaper
from sandlockd.launch.prepare import Prepared, raise_own_descriptor_limit
from sandlockd.sandbox.keeping import Keeper
from sandlockd.sandbox.pausing import CannotPause
from sandlockd.sandbox.policies import load_policy
from sandlockd.sandbox.result import Result
from sandlockd.sandbox.run import Asked, Run
from sandlockd.sandbox.sandbox import Sandbox


def _tell(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


class _Host:
    def __init__(self, output: str) -> None:
        self._output_fd = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._program_in, self._to_program = os.pipe2(os.O_CLOEXEC)

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
            sandbox.start(
                stdio=(self._program_in, self._output_fd, -1),
                descriptor_limit=raise_own_descriptor_limit(),
                umask=run.umask,
                new_session=True,
            )
            os.close(self._program_in)
            _tell(init=sandbox.init_pid)
            trio.run(self._serve, sandbox)
        finally:
            sandbox.close()

    async def _serve(self, sandbox: Sandbox) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey, sandbox, nursery)
            await sandbox.serve()
            nursery.cancel_scope.cancel()

    async def _obey(self, sandbox: Sandbox, nursery: trio.Nursery) -> None:
        pending = b""
        while True:
            await trio.lowlevel.wait_readable(0)
            read = os.read(0, 1 << 16)
            if not read:
                return
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                self._do(sandbox, nursery, *json.loads(line))

    def _do(self, sandbox: Sandbox, nursery: trio.Nursery, what: str, *argument: Any) -> None:
        told: dict[str, Any] = {}
        match what:
            case "pause":
                try:
                    sandbox.pause()
                except CannotPause as error:
                    told["cannot"] = str(error)
            case "resume":
                sandbox.resume()
            case "signal":
                sandbox.signal(argument[0])
            case "stop":
                sandbox.asked_to_end()
                sandbox.signal(signal.SIGTERM)
            case "kill":
                sandbox.kill("test")
            case "write":
                os.write(self._to_program, argument[0].encode())
            case "flicker":
                nursery.start_soon(self._flicker, sandbox, argument[0])
        _tell(is_paused=sandbox.is_paused, **told)

    @staticmethod
    async def _flicker(sandbox: Sandbox, times: int) -> None:
        turns = random.Random(times)
        for _ in range(times):
            sandbox.pause()
            await trio.sleep(turns.choice((0, 0, 0.001, 0.004)))
            sandbox.resume()
            await trio.sleep(turns.choice((0, 0.001, 0.003)))


def main() -> None:
    policy, output, *command = sys.argv[1:]
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    result = Result()
    asked = Asked(load_policy([policy]), (policy,), [os.fsencode(word) for word in command], is_quiet=True)
    state = state_directory(dict(os.environ), os.geteuid(), os.path.expanduser("~"))
    Run(asked, result, _Host(output), state).run()
    _tell(status=result.as_dict())


if __name__ == "__main__":
    main()
