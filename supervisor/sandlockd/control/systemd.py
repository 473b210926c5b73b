"""What systemd wants to hear of a service, and what it hands over (sd_notify(3), sd_listen_fds(3)). Without it:
nothing.
"""

from __future__ import annotations

import os
import socket

_FIRST_FD = 3


def notify(*words: str) -> None:
    """`READY=1`, `WATCHDOG=1`, `STATUS=...`: to who started us, if it wants to know. Raises OSError."""
    where = os.environ.get("NOTIFY_SOCKET")
    if not where:
        return
    address = "\0" + where[1:] if where.startswith("@") else where
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
        line.sendto("\n".join(words).encode(), address)


def watchdog_s() -> float | None:
    """How often we are to say that we live, at least."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not microseconds or not microseconds.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1e6


def given_sockets() -> list[socket.socket]:
    """Those that systemd listens on for us (socket activation). Raises OSError."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    found = []
    for fd in range(_FIRST_FD, _FIRST_FD + count):
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return found
