"""A supervisor with a keeper, that dies of one act of its program's at a chosen step, as a script:

    python dying_driver.py POLICY WORKDIR RESULT STEP NUMBER COMMAND...

STEP: `received` (nothing was looked at), `begun` (it is about to be done), `done`, `noted` (that it is done),
`prepared` (it is about to be answered), `answered`. NUMBER: which act of those that Python does, from 1 on; 0: it does
not die. The policy has [audit] level = "all", so that C does none. RESULT: what came of the run, as JSON:
{"exit_status", "error", "deaths", "acts"}; it is there when all is over, written by whoever is left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import trio

from sandlockd.audit.log import AuditLog
from sandlockd.audit.state import state_directory
from sandlockd.kernel.engine import Engine
from sandlockd.kernel.orphans import become_subreaper
from sandlockd.launch.prepare import Prepared, raise_own_descriptor_limit
from sandlockd.notify import dispatch
from sandlockd.policy.inputs import Overrides
from sandlockd.sandbox.keeping import Keeper
from sandlockd.sandbox.policies import load_policy
from sandlockd.sandbox.result import Result
from sandlockd.sandbox.run import Asked, Run
from sandlockd.sandbox.sandbox import Sandbox

_CHANGES = {
    "mkdir",
    "open",
    "openat",
    "link",
    "symlink",
    "rename",
    "renameat2",
    "unlink",
    "rmdir",
    "mknod",
    "bind",
}


class _Death:
    """At one step of one act; in the first supervisor only."""

    def __init__(self, step: str, number: int) -> None:
        self._step = step
        self._number = number
        self.acts = 0
        self._dies_of = 0  # the call
        self.is_armed = number > 0

    def come(self, step: str, request: Any) -> None:
        if self.is_armed and step == self._step and request.notif_id == self._dies_of:
            os.kill(os.getpid(), signal.SIGKILL)

    def begins(self, request: Any) -> None:
        self.acts += 1
        if self.acts == self._number:
            self._dies_of = request.notif_id

    def patch(self) -> None:
        acts, acted, handle, reply = Engine.acts, Engine.acted, dispatch.Dispatcher.dispatch, dispatch.reply

        def new_acts(engine: Engine, request: Any, noted: int = 0) -> None:
            self.begins(request)
            acts(engine, request, noted)
            self.come("begun", request)

        def new_acted(engine: Engine, request: Any) -> None:
            self.come("done", request)
            acted(engine, request)
            self.come("noted", request)

        def new_handle(dispatcher: dispatch.Dispatcher, request: Any) -> None:
            # Which act it will come to, nobody knows yet: the next one, most likely.
            if self._step == "received" and self.acts + 1 == self._number and self.is_armed:
                if _name(request.nr) in _CHANGES:
                    os.kill(os.getpid(), signal.SIGKILL)
            handle(dispatcher, request)

        def new_reply(engine: Engine, request: Any, *more: Any) -> Any:
            self.come("prepared", request)
            found = reply(engine, request, *more)
            self.come("answered", request)
            return found

        Engine.acts, Engine.acted = new_acts, new_acted  # type: ignore[method-assign]
        dispatch.Dispatcher.dispatch = new_handle  # type: ignore[method-assign]
        dispatch.reply = new_reply


def _name(number: int) -> str:
    from sandlockd.kernel.syscalls import ROWS, number_of

    return next((row.name for row in ROWS if number_of(row.name) == number), "")


class _Host:
    def __init__(self, death: _Death) -> None:
        self._death = death
        self.deaths = 0

    @staticmethod
    def say(text: str) -> None:
        print(text, file=sys.stderr)

    def begun(self, run: Run, prepared: Prepared, audit: AuditLog) -> None:
        pass

    def release(self) -> None:
        os.close(1)

    def supervise(
        self, run: Run, sandbox: Sandbox, audit: AuditLog, spared: Sequence[int], keeper: Keeper | None
    ) -> None:
        assert keeper is not None
        try:
            become_subreaper(spared)
            if keeper.left is None:
                sandbox.start(descriptor_limit=raise_own_descriptor_limit(), umask=run.umask)
                os.close(1)
            else:
                self.deaths = keeper.left.deaths
                self._death.is_armed = False
                sandbox.take_over(keeper.left, lambda serial: (lambda _: None, lambda _: None))
            trio.run(sandbox.serve)
        finally:
            sandbox.close()


def main() -> None:
    policy, workdir, output, step, number, *command = sys.argv[1:]
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    death = _Death(step, int(number))
    death.patch()
    host = _Host(death)
    loaded = load_policy([policy], Overrides(workdir=os.fsencode(workdir), on_exit="commit"))
    result = Result()
    asked = Asked(loaded, (policy,), [os.fsencode(word) for word in command], is_quiet=True, is_kept=True)
    state = state_directory(dict(os.environ), os.geteuid(), "")
    Run(asked, result, host, state).run()
    told = {
        "exit_status": result.exit_status,
        "error": result.error,
        "deaths": host.deaths,
        "acts": death.acts,
    }
    with open(f"{output}.new", "w") as file:
        json.dump(told, file)
    os.rename(f"{output}.new", output)


if __name__ == "__main__":
    main()
