"""What Landlock enforces here: each right is withheld once, and the kernel must refuse.

Each probe restricts the calling process for ever: for children only (probe.in_child).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import termios
from collections.abc import Callable

from sandlockd.kernel import landlock
from sandlockd.kernel.native import check, lib
from sandlockd.kernel.probe import Broken, Missing, refused


def abi() -> str:
    """Raises Missing."""
    version = lib.slk_landlock_abi()
    if version == -errno.EOPNOTSUPP:
        raise Missing("built into this kernel, but switched off at boot")
    if version < 0:
        raise Missing(f"this kernel has no Landlock ({os.strerror(-version)})")
    return f"ABI {version}"


def _require(version: int) -> None:
    abi()
    found = landlock.abi()
    if found < version:
        raise Missing(f"Landlock ABI {found}; it came with ABI {version}")


def _enter(ruleset: landlock.Ruleset) -> None:
    check(lib.slk_landlock_restrict(ruleset.fd))


def _file(*parts: str) -> str:
    path = os.path.join(*parts)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write("text")
    return path


def _must_work(what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError as error:
        raise Broken(f"{what} failed: {error.strerror}") from error


def _must_not(what: str, action: Callable[[], object], *errnos: int) -> None:
    if not refused(action, *errnos):
        raise Broken(f"{what} was not refused")


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def files(scratch: str) -> str:
    """A granted directory can be read, the one beside it cannot."""
    abi()
    granted, beside = _file(scratch, "granted", "file"), _file(scratch, "beside", "file")
    ruleset = landlock.Ruleset(handled_fs=landlock.READ_FILE)
    ruleset.allow_path(os.fsencode(os.path.dirname(granted)), landlock.READ_FILE)
    _enter(ruleset)
    _must_work("reading what is granted", lambda: _read(granted))
    _must_not("reading what is not granted", lambda: _read(beside), errno.EACCES)
    return "a granted file could be read, one beside it not"


def refer(scratch: str) -> str:
    """ABI 2. A file moves between directories that both have the right, and into no other."""
    _require(2)
    moved = _file(scratch, "from", "file")
    for name in ("to", "closed"):
        os.mkdir(os.path.join(scratch, name))
    ruleset = landlock.Ruleset(handled_fs=landlock.REFER | landlock.MAKE_REG | landlock.REMOVE_FILE)
    for name, rights in (
        ("from", ruleset.handled_fs),
        ("to", ruleset.handled_fs),
        ("closed", landlock.MAKE_REG),
    ):
        ruleset.allow_path(os.fsencode(os.path.join(scratch, name)), rights)
    _enter(ruleset)
    arrived = os.path.join(scratch, "to", "file")
    _must_work("moving a file between granted directories", lambda: os.rename(moved, arrived))
    closed = os.path.join(scratch, "closed", "file")
    _must_not("moving it into another", lambda: os.rename(arrived, closed), errno.EXDEV, errno.EACCES)
    return "moving a file between directories is judged"


def truncate(scratch: str) -> str:
    """ABI 3."""
    _require(3)
    path = _file(scratch, "file")
    ruleset = landlock.Ruleset(handled_fs=landlock.TRUNCATE)
    _enter(ruleset)
    _must_not("truncating", lambda: os.truncate(path, 0), errno.EACCES)
    return "truncating a file was refused"


def tcp() -> str:
    """ABI 4. Connecting over loopback works, and is refused afterwards."""
    _require(4)
    with socket.socket() as server:
        _must_work("listening on 127.0.0.1 before any restriction", lambda: _listen(server))
        address = server.getsockname()
        _must_work("connecting to 127.0.0.1 before any restriction", lambda: _connect(address))
        _enter(landlock.Ruleset(handled_fs=0, handled_net=landlock.NET_CONNECT_TCP | landlock.NET_BIND_TCP))
        _must_not("connecting", lambda: _connect(address), errno.EACCES)
    return "a TCP connection was refused"


def _listen(server: socket.socket) -> None:
    server.bind(("127.0.0.1", 0))
    server.listen()


def _connect(address: tuple[str, int]) -> None:
    with socket.socket() as client:
        client.connect(address)


def ioctl_dev() -> str:
    """ABI 5. On /dev/null, which answers ENOTTY to whoever may ask."""
    _require(5)

    def ask() -> None:
        with open("/dev/null", "rb") as file:
            fcntl.ioctl(file, termios.TCGETS, bytes(256))

    if not refused(ask, errno.ENOTTY):
        raise Broken("/dev/null behaves like a terminal")
    _enter(landlock.Ruleset(handled_fs=landlock.IOCTL_DEV))
    _must_not("ioctl on a device", ask, errno.EACCES)
    return "ioctl on a device was refused"


def scope_signal() -> str:
    """ABI 6. The parent can be signalled, and afterwards not."""
    _require(6)
    parent = os.getppid()
    _must_work("signalling the parent before any restriction", lambda: os.kill(parent, 0))
    _enter(landlock.Ruleset(handled_fs=0, scoped=landlock.SCOPE_SIGNAL))
    _must_not("signalling the parent", lambda: os.kill(parent, 0), errno.EPERM)
    _must_work("signalling itself", lambda: os.kill(os.getpid(), 0))
    return "signalling a process outside was refused"


def scope_abstract_unix() -> str:
    """ABI 6. The socket was made before the restriction, so it is one from outside."""
    _require(6)
    with socket.socket(socket.AF_UNIX) as server:
        address = f"\0sandlockd-doctor-{os.getpid()}-{os.urandom(6).hex()}"
        server.bind(address)
        server.listen()
        _must_work("connecting before any restriction", lambda: _connect_unix(address))
        _enter(landlock.Ruleset(handled_fs=0, scoped=landlock.SCOPE_ABSTRACT_UNIX_SOCKET))
        _must_not("connecting", lambda: _connect_unix(address), errno.EPERM)
    return "connecting to an abstract socket outside was refused"


def _connect_unix(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
