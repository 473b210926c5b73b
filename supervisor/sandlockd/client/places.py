"""Where the service listens."""

from __future__ import annotations

import os

SYSTEM = "/run/sandlockd/control.sock"


def socket_path(named: str | None = None) -> str:
    """The one that is named, else SANDLOCKD_SOCKET, else the user's own, else the system's.

    Of the last two the first one that is there; where neither is, that of the user, who could start one.
    """
    chosen = named or os.environ.get("SANDLOCKD_SOCKET")
    if chosen:
        return os.path.abspath(chosen)
    candidates = _candidates()
    return next((path for path in candidates if os.path.exists(path)), candidates[0])


def is_named(named: str | None = None) -> bool:
    """Somebody said where it is: then it is an error if it is not there."""
    return bool(named or os.environ.get("SANDLOCKD_SOCKET"))


def _candidates() -> list[str]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    own = [f"{runtime}/sandlockd/control.sock"] if runtime.startswith("/") else []
    # Root's own is the system's (sandlockd serve).
    return [SYSTEM, *own] if os.geteuid() == 0 else [*own, SYSTEM]
