"""What a commit that was taken back left with another ctime, and nothing else of it changed.

No call sets a ctime. So the storage remembers, for what was moved away and back, which ctime now stands for the one
that was seen: else the next try would find all of it changed. File `restored`, a JSON record per line.
"""

from __future__ import annotations

import json
import os

from sandlockd.kernel import beneath, flushing
from sandlockd.kernel.beneath import CONFINED
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import openat2
from sandlockd.overlay.commit import Action
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import Facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NAME = b"restored"
_READ_BYTES = 1 << 20


class Restored:
    """By path: device, inode and ctime now, and the ctime that it stands for."""

    def __init__(self, known: dict[bytes, tuple[int, int, int, int]] | None = None) -> None:
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
                path, device, inode, now_ns, was_ns = json.loads(line)
                known[path.encode(errors="surrogateescape")] = device, inode, now_ns, was_ns
        except (OSError, ValueError, TypeError, AttributeError):
            return cls()
        return cls(known)

    def applied(self, path: bytes, facts: Facts) -> Facts:
        device, inode, now_ns, was_ns = self._known.get(path, (0, 0, 0, 0))
        if (device, inode, now_ns) == (facts.device, facts.inode, facts.ctime_ns):
            return facts._replace(ctime_ns=was_ns)
        return facts

    def add(
        self, directory: OwnedFd, actions: Iterable[Action], seen: Callable[[bytes], Facts | None]
    ) -> None:
        """What is again as it was before these actions. On disk. seen: with ctimes as they are."""
        for action in actions:
            before = action.before
            facts = seen(action.path)
            if before is None or facts is None or before.kind is Kind.DIRECTORY:
                continue
            if facts.identity._replace(ctime_ns=before.ctime_ns) == before:
                self._known[action.path] = *before[1:3], facts.ctime_ns, before.ctime_ns
        lines = [
            json.dumps([path.decode(errors="surrogateescape"), *numbers]).encode() + b"\n"
            for path, numbers in self._known.items()
        ]
        temporary = _NAME + b".new"
        try:
            beneath.unlink(directory, temporary)
        except FileNotFoundError:
            pass
        with beneath.create_file(directory, temporary, os.O_WRONLY, 0o600) as file:
            text = b"".join(lines)
            while text:
                text = text[os.write(file.fd, text) :]
            flushing.flush(file)
        beneath.rename(directory, temporary, directory, _NAME)
