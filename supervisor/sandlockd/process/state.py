"""All that is kept per process, in one place, so that dropping the entry drops everything."""

from __future__ import annotations

from sandlockd.process.key import PidKey, Tgid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.fds import OwnedFd


class PerProcessState:
    """One process of the sandbox. Owns its pidfd and whatever `own` was given."""

    __slots__ = ("_owned", "first_seen", "key", "pidfd", "threads")

    def __init__(self, key: PidKey, pidfd: OwnedFd, first_seen: float) -> None:
        self.key = key
        self.pidfd = pidfd
        self.first_seen = first_seen  # seconds, monotonic
        self.threads: set[int] = set()  # thread ids that asked something
        self._owned: list[OwnedFd] = []

    @property
    def tgid(self) -> Tgid:
        return Tgid(self.key.tgid)

    def own(self, descriptor: OwnedFd) -> None:
        """Close it when the process ends."""
        self._owned.append(descriptor)

    def close(self) -> None:
        owned, self._owned = self._owned, []
        for descriptor in owned:
            descriptor.close()
        self.pidfd.close()
