"""A supervisor driven by hand, as a script: runs a command under a policy and measures itself between its steps.

    python supervisor_driver.py POLICY MILESTONES COMMAND...

The command is given pipes. For each milestone it writes a line; the driver then waits until only the command itself
is left in the index, notes its own descriptors, memory and index, and writes a line back. In the end it prints JSON:
{"milestones": [{"line", "index", "descriptors", "rss_kib", "registered"}], "status", "exits", "phase"}.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from typing import Any

import trio

from sandlockd.audit.log import AuditLog
from sandlockd.audit.state import state_directory
from sandlockd.kernel.orphans import become_subreaper, remember_children
from sandlockd.launch.prepare import prepare, raise_own_descriptor_limit
from sandlockd.sandbox.policies import compile_file_rules, load_policy
from sandlockd.sandbox.sandbox import Sandbox

_SETTLED_WITHIN_S = 10


def new_sandbox(policy_name: str, command: list[bytes], private: bytes) -> Sandbox:
    """As the foreground command makes one, with its state where SANDLOCKD_STATE_DIR says."""
    state = state_directory(dict(os.environ), os.geteuid(), os.path.expanduser("~"))
    policy = load_policy([policy_name])
    rules = compile_file_rules(policy, state, private=[private])
    return Sandbox(prepare(policy, rules, command, private), AuditLog(state))


def _measured(sandbox: Sandbox, line: str) -> dict[str, Any]:
    gc.collect()
    with open("/proc/self/status") as file:
        fields = dict(row.split(":", 1) for row in file.read().splitlines())
    return {
        "line": line,
        "index": len(sandbox.index),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "rss_kib": int(fields["VmRSS"].split()[0]),
        "registered": sandbox.index.registered,
    }


async def _milestones(
    sandbox: Sandbox, count: int, from_program: int, to_program: int
) -> list[dict[str, Any]]:
    found = []
    for _ in range(count):
        line = b""
        while not line.endswith(b"\n"):
            await trio.lowlevel.wait_readable(from_program)
            line += os.read(from_program, 1)
        with trio.move_on_after(_SETTLED_WITHIN_S):
            while len(sandbox.index) > 1:
                await trio.sleep(0.005)
        found.append(_measured(sandbox, line.decode().strip()))
        os.write(to_program, b"\n")
    return found


async def _drive(sandbox: Sandbox, count: int, from_program: int, to_program: int) -> dict[str, Any]:
    exits: list[Any] = []
    sandbox.on_process_exit = exits.append
    milestones: list[dict[str, Any]] = []

    async def observe() -> None:
        milestones.extend(await _milestones(sandbox, count, from_program, to_program))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(observe)
        await sandbox.serve()
        nursery.cancel_scope.cancel()
    sandbox.close()
    return {
        "milestones": milestones,
        "status": sandbox.result.as_dict(),
        "exits": [[exit.key.tgid, exit.code, exit.signal] for exit in exits],
        "phase": sandbox.phase.value,
        "index": len(sandbox.index),
    }


def main() -> None:
    policy, count, *command = sys.argv[1:]
    private = os.fsencode(os.environ["TMPDIR"])
    sandbox = new_sandbox(policy, [os.fsencode(word) for word in command], private)
    program_in, to_program = os.pipe2(os.O_CLOEXEC)
    from_program, program_out = os.pipe2(os.O_CLOEXEC)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    remember_children()
    become_subreaper()
    sandbox.start(stdio=(program_in, program_out, -1), descriptor_limit=raise_own_descriptor_limit())
    os.close(program_in)
    os.close(program_out)
    print(json.dumps(trio.run(_drive, sandbox, int(count), from_program, to_program)))


if __name__ == "__main__":
    main()
