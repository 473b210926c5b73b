"""What a commit left with another ctime, and nothing else of it changed: what was moved away and back when it was taken
back, and the other names of what it replaced, removed or linked to.

No call sets a ctime. So the storage remembers, for these objects, which ctime now stands for the one that was seen:
else the next try, or the commit of the rest, would find all of them changed. File `restored`, a JSON record per line.
Its space is reserved before anything is touched: a commit is taken back where the disk is full.
"""

from __future__ import annotations

import contextlib
import json
import os

from sandlockd.kernel import beneath, flushing
from sandlockd.kernel.beneath import CONFINED
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import openat2
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import Facts, Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME = b"restored"
_NEXT_NAME = _NAME + b".new"
_READ_BYTES = 1 << 20
_RECORD_BYTES = 4 * len(f"{-1 << 63}, ") + 2  # at most


class Restored:
    """By device and inode: the ctime now, and the ctime that it stands for."""

    def __init__(self, known: dict[tuple[int, int], tuple[int, int]] | None = None) -> None:
        self._known = known or {}

    @classmethod
    def read(cls, directory: OwnedFd) -> Restored:
        """Of a storage. One that cannot be read says nothing: what it would excuse is a conflict then."""
        known = {}
        try:
            with openat2(directory.fd, _NAME, os.O_RDONLY | os.O_NONBLOCK, resolve=CONFINED) as file:
                text = b""
                while block := os.read(file.fd, _READ_BYTES):
                    text += block
            for line in text.splitlines():
                device, inode, now_ns, was_ns = json.loads(line)
                known[device, inode] = now_ns, was_ns
        except (OSError, ValueError, TypeError, AttributeError):
            return cls()
        return cls(known)

    def applied(self, facts: Facts) -> Facts:
        now_ns, was_ns = self._known.get((facts.device, facts.inode), (0, 0))
        return facts._replace(ctime_ns=was_ns) if now_ns == facts.ctime_ns else facts

    def reserve(self, directory: OwnedFd, count: int) -> None:
        """Space for so many more. Raises OSError: ENOSPC ..."""
        self.release(directory)
        size = (len(self._known) + count) * _RECORD_BYTES
        with beneath.create_file(directory, _NEXT_NAME, os.O_WRONLY, 0o600) as file:
            try:
                if size:
                    os.posix_fallocate(file.fd, 0, size)
            except OSError:
                self.release(directory)
                raise

    @staticmethod
    def release(directory: OwnedFd) -> None:
        """What was reserved, if anything."""
        with contextlib.suppress(FileNotFoundError):
            beneath.unlink(directory, _NEXT_NAME)

    def add(self, directory: OwnedFd, found: Iterable[tuple[Identity, Facts]]) -> None:
        """What is again, or still, as it was but for its ctime. On disk; uses the reserve up.

        found: how it was, and how it is, with ctimes as they are. What is not as it was is left out.
        """
        for before, facts in found:
            if (
                before.kind is not Kind.DIRECTORY
                and facts.identity._replace(ctime_ns=before.ctime_ns) == before
            ):
                self._known[before.device, before.inode] = facts.ctime_ns, before.ctime_ns
        text = b"".join(json.dumps([*key, *times]).encode() + b"\n" for key, times in self._known.items())
        try:
            file = openat2(directory.fd, _NEXT_NAME, os.O_WRONLY, resolve=CONFINED)
        except FileNotFoundError:
            file = beneath.create_file(directory, _NEXT_NAME, os.O_WRONLY, 0o600)
        with file:
            size = len(text)
            while text:
                text = text[os.write(file.fd, text) :]
            os.ftruncate(file.fd, size)
            flushing.flush(file)
        beneath.rename(directory, _NEXT_NAME, directory, _NAME)
