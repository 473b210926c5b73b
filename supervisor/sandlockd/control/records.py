"""What is kept of a sandbox and of what happened to it.

Pure. Times are in ns since the epoch. Fields that later versions add have defaults; those that are gone are ignored.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sandlockd.control.states import State


class Record(msgspec.Struct, omit_defaults=True):
    """One sandbox.

    status: of its run, as the status file has it, once it has ended.
    policies: as they were named. on_exit: as it was asked for.
    supervisor_birth: with its pid, who it is (clock ticks since the boot, proc_pid_stat(5)).
    """

    id: str
    uid: int
    owner: str
    command: list[str]
    cwd: str
    created_ns: int
    name: str = ""
    state: State = State.CREATED
    labels: dict[str, str] = {}
    policies: list[str] = []
    policy_digest: str | None = None
    tty: bool = False
    stdin: bool = False
    started_ns: int | None = None
    ended_ns: int | None = None
    pid: int | None = None
    supervisor_pid: int | None = None
    supervisor_birth: int | None = None
    memory_limit: int | None = None
    error: str | None = None
    status: dict[str, Any] | None = None
    exit_status: int | None = None
    said: list[str] = []


class Event(msgspec.Struct, omit_defaults=True):
    """number: counts up over all sandboxes. kind: `created`, a state, `denied`, `removed` ..."""

    number: int
    time_ns: int
    sandbox: str
    uid: int
    kind: str
    data: dict[str, Any] = {}
