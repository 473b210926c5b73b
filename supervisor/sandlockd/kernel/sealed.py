"""A file that holds what we say, and that nobody can change."""

from __future__ import annotations

import fcntl
import os

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import AT_FDCWD, openat2, self_link

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def file_of(data: bytes) -> OwnedFd:
    """Opened for reading. Raises OSError."""
    with OwnedFd(os.memfd_create("told", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)) as file:
        view = memoryview(data)
        while view:
            view = view[os.write(file.fd, view) :]
        fcntl.fcntl(file.fd, fcntl.F_ADD_SEALS, _SEALS)
        os.fchmod(file.fd, 0o444)  # as most of /proc: nor is it opened again for writing, by its magic link
        return openat2(AT_FDCWD, self_link(file.fd), os.O_RDONLY)
