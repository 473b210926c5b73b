"""Descriptors with an owner."""

from __future__ import annotations

import os
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class OwnedFd:
    """A duty to close. `fd` is for calls; `take()` hands the duty on."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """Raises ValueError once it is closed or taken: a stale number may be somebody else's file."""
        if self._fd < 0:
            raise ValueError("this descriptor is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def fileno(self) -> int:
        return self.fd

    def take(self) -> int:
        fd = self.fd
        self._fd = -1
        return fd

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> OwnedFd:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def unless_interrupted(self) -> Iterator[None]:
        """Closed after the block, unless that raised InterruptedError and will be run again."""
        try:
            yield
        except InterruptedError:
            raise
        except BaseException:
            self.close()
            raise
        self.close()

    def __repr__(self) -> str:
        return f"OwnedFd({self._fd})"
