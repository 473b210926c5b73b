"""What systemd wants to hear of a service, and what it hands over (sd_notify(3), sd_listen_fds(3)). Without it:
nothing.
"""

from __future__ import annotations

import os
import socket

from sandlockd.control.listening import CannotListen

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


def is_journal(fd: int) -> bool:
    """Whether lines that are written there come to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    found = os.fstat(fd)
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def given_sockets() -> list[socket.socket]:
    """Those that systemd listens on for us (socket activation). Raises CannotListen, OSError."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdigit():
        raise CannotListen(f"LISTEN_FDS is {count!r}, and no number of sockets")
    found = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    for one in found:
        _require_fit(one)
    return found


def _require_fit(given: socket.socket) -> None:
    """Only the kernel's word says who connects, and that it gives of Unix stream sockets. Raises CannotListen."""
    is_stream = given.family == socket.AF_UNIX and given.type == socket.SOCK_STREAM
    if not is_stream or not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise CannotListen(
            f"{given.getsockname()!r}, given by systemd, is no listening stream socket of the file system: "
            "sandlockd.socket may have ListenStream= of paths only, and no Accept=yes"
        )
