"""What a request asks for, as a supervisor is told it.

Pure.
"""

from __future__ import annotations

import os
import signal

from sandlockd.control.messages import Settings
from sandlockd.control.problems import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.control.objects import RunRequest


def environment_of(request: RunRequest) -> dict[bytes, bytes]:
    given = request.environment or {}
    return {os.fsencode(name): os.fsencode(value) for name, value in given.items()}


def settings_of(request: RunRequest) -> Settings:
    encode = os.fsencode
    return Settings(
        read=tuple(map(encode, request.read)),
        write=tuple(map(encode, request.write)),
        deny=tuple(map(encode, request.deny)),
        env=tuple(encode(f"{name}={value}") for name, value in request.env.items()),
        clean_env=request.clean_env,
        workdir=None if request.workdir is None else encode(request.workdir),
        on_exit=request.on_exit,
        dry_run=request.dry_run,
        allow_net=tuple(request.allow_net),
        disk=request.disk,
        memory=request.memory,
        processes=request.processes,
        timeout=request.timeout,
    )


def signal_number(asked: int | str) -> int:
    """Raises Invalid."""
    if isinstance(asked, int):
        return asked
    name = asked.upper()
    if name.isdigit() and 1 <= int(name) <= 64:
        return int(name)
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    except KeyError:
        raise Invalid(f"{asked!r} is no signal: a number, or a name as TERM") from None
