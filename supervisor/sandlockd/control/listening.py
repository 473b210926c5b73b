"""The control socket: made where nobody else can put anything in its place, and taken over from nobody who lives."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import socket
import stat

from sandlockd.kernel.fds import OwnedFd

_BACKLOG = 1024
_PATH_MAX = 107  # sun_path, unix(7)


class CannotListen(Exception):
    """One line, with the fix in it."""


class ControlSocket:
    """Owns the socket, its name, and the lock beside it, which the one service has that listens there."""

    def __init__(self, path: str, *, mode: int, group: str | None) -> None:
        """group: whose it is; None, or one that is not there: ours. Raises CannotListen."""
        self.path = path
        if len(os.fsencode(path)) > _PATH_MAX:
            raise CannotListen(f"{path}: longer than the {_PATH_MAX} bytes that a socket's name may have")
        directory = os.path.dirname(path) or "."
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
            _require_safe(directory)
            self._lock = _locked(f"{path}.lock")
            self.socket = self._bound(mode, group)
        except OSError as error:
            raise CannotListen(f"{path}: {error.strerror or error}") from None

    def _bound(self, mode: int, group: str | None) -> socket.socket:
        """We have the lock: what is there is a leftover, or somebody else's."""
        self._remove_leftover()
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        umask = os.umask(0o777)  # nobody connects before it has its mode
        try:
            made.bind(self.path)
        finally:
            os.umask(umask)
        gid = _gid_of(group)
        if gid is not None:
            os.chown(self.path, -1, gid, follow_symlinks=False)
        os.chmod(self.path, mode)
        made.listen(_BACKLOG)
        return made

    def _remove_leftover(self) -> None:
        """Raises CannotListen."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise CannotListen(f"{self.path}: is there and no socket: remove it, or choose another --socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as line:
            line.settimeout(1)
            try:
                line.connect(self.path)
            except (ConnectionRefusedError, FileNotFoundError):
                os.unlink(self.path)
                return
            except OSError as error:
                raise CannotListen(f"{self.path}: somebody listens there, perhaps: {error}") from None
        raise CannotListen(f"{self.path}: another service listens there")

    def close(self) -> None:
        self.socket.close()
        try:
            os.unlink(self.path)
            os.unlink(f"{self.path}.lock")
        except FileNotFoundError:
            pass
        self._lock.close()


def _require_safe(directory: str) -> None:
    """Raises CannotListen."""
    found = os.stat(directory)
    if found.st_uid not in (0, os.geteuid()) or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
        raise CannotListen(
            f"{directory}: belongs to, or may be written by, somebody else: who can rename there can take our place"
        )


def _locked(path: str) -> OwnedFd:
    """Raises CannotListen, OSError."""
    while True:
        fd = OwnedFd(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        try:
            fcntl.flock(fd.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd.fd).st_ino == os.stat(path, follow_symlinks=False).st_ino:
                return fd
        except BlockingIOError:
            fd.close()
            raise CannotListen(f"{path.removesuffix('.lock')}: another service listens there") from None
        except FileNotFoundError:
            pass  # one that has just ended removed it
        except OSError as error:
            fd.close()
            if error.errno == errno.ELOOP:
                raise CannotListen(f"{path}: is a symbolic link") from None
            raise
        fd.close()


def _gid_of(group: str | None) -> int | None:
    if group is None or os.geteuid() != 0:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None
