"""Who makes the file calls of a handler: Prompt on the loop, Patient in a worker thread.

A lookup may wait for a server that never answers. So on the loop those calls are made that cannot wait, and for the
others MayWait is raised: then the handler is asked again in a worker thread, where the calls are made by a process that
nobody waits for (kernel/waiter.py).
"""

from __future__ import annotations

import _thread
import errno
import os

from sandlockd.kernel import acts
from sandlockd.kernel.aside import Aside
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.launching import poke
from sandlockd.kernel.mounts import Mounts, mount_id
from sandlockd.kernel.paths import (
    AT_FDCWD,
    DELETED,
    RESOLVE_CACHED,
    RESOLVE_NO_XDEV,
    acting_as,
    openat2,
    self_link,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol, TypeVar

    from sandlockd.kernel.paths import Identity
    from sandlockd.kernel.waiter import Waiter

    Result = TypeVar("Result")

    class Files(Protocol):
        """Who makes the file calls of a handler. All raise OSError."""

        @property
        def pids(self) -> tuple[int, ...]:
            """Whose `/proc/self` it may be."""

        def open(
            self,
            base: OwnedFd | None,
            path: bytes,
            flags: int,
            *,
            resolve: int = 0,
            identity: Identity | None = None,
        ) -> OwnedFd:
            """Look up from an opened directory or (None) an absolute path. flags: O_PATH and what goes with it."""

        def jump(self, link: bytes, flags: int = 0, *, identity: Identity | None = None) -> OwnedFd:
            """Where a magic link of /proc leads, opened for nothing but looking."""

        def run(self, act: Callable[..., Result], *args: Any, identity: Identity | None = None) -> Result:
            """A function of kernel/acts.py. Raises aside.Unfinished where it goes on, without us."""

        def wait_for(
            self, act: Callable[..., Result], *args: Any, identity: Identity | None = None
        ) -> Result:
            """As run, from a worker thread, with what run has been given before: for the other end of a FIFO."""


class MayWait(Exception):
    """Nothing was done. Ask again where waiting keeps nobody else."""


class Many(MayWait):
    """There are more processes or threads to look at than others may wait for."""


class Prompt:
    """Without a slow file system mounted (kernel/mounts.py) every call is a short one.

    With one, a lookup is made from the kernel's caches (RESOLVE_CACHED), or within one local mount that it may not
    leave (RESOLVE_NO_XDEV), or not at all; and nothing is asked of objects that are elsewhere.
    """

    def __init__(self, mounts: Mounts) -> None:
        self._mounts = mounts
        self.aside = Aside()
        self.pids = (os.getpid(),)

    def open(
        self,
        base: OwnedFd | None,
        path: bytes,
        flags: int,
        *,
        resolve: int = 0,
        identity: Identity | None = None,
    ) -> OwnedFd:
        dirfd = AT_FDCWD if base is None else base.fd
        if not self._mounts.any_slow:
            return openat2(dirfd, path, flags, resolve=resolve, identity=identity)
        try:
            return openat2(dirfd, path, flags, resolve=resolve | RESOLVE_CACHED, identity=identity)
        except BlockingIOError:
            pass
        try:
            with self._root_for(base, path) as (root, rest):
                return openat2(root, rest, flags, resolve=resolve | RESOLVE_NO_XDEV, identity=identity)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise MayWait from None
            raise

    def slow_in(self, directory: bytes) -> frozenset[bytes]:
        """Where in a directory, relative to it, something is mounted that may keep a lookup waiting. b"": all of it."""
        points = (mount.point for mount in self._mounts.slow_in(directory))
        return frozenset(point[len(directory) + 1 :] for point in points)

    def _root_for(self, base: OwnedFd | None, path: bytes) -> _Root:
        """A directory of a local mount, and the path from there. Raises MayWait."""
        if base is not None:
            if not self._mounts.is_local(base) or path.startswith(b"/"):
                raise MayWait
            return _Root(None, base.fd, path)
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        mount = None if b".." in parts else self._mounts.local_above(b"/" + b"/".join(parts))
        if mount is None:
            raise MayWait
        try:
            root = openat2(AT_FDCWD, mount.point, os.O_PATH, resolve=RESOLVE_CACHED)
        except OSError:
            raise MayWait from None
        rest = parts[mount.point.rstrip(b"/").count(b"/") :]
        if mount_id(root) != mount.mount_id or not rest:
            root.close()
            raise MayWait
        slash = b"/" if path.endswith((b"/", b"/.")) else b""
        return _Root(root, root.fd, b"/".join(rest) + slash)

    def jump(self, link: bytes, flags: int = 0, *, identity: Identity | None = None) -> OwnedFd:
        if self._mounts.jumps_may_wait:
            raise MayWait
        return openat2(AT_FDCWD, link, os.O_PATH | flags, identity=identity)

    def run(self, act: Callable[..., Result], *args: Any, identity: Identity | None = None) -> Result:
        # What was opened before the first slow file system was mounted is not on it.
        if self._mounts.any_slow_known:
            for arg in args:
                if isinstance(arg, OwnedFd) and not self._is_prompt(arg):
                    raise MayWait
        if acts.takes_lock(act, args):
            return self._run_aside(act, args, identity)  # type: ignore[no-any-return]
        with acting_as(identity):
            return act(*args)

    def _run_aside(self, act: Callable[..., Any], args: tuple[Any, ...], identity: Identity | None) -> Any:
        kept = _Kept(act, args, identity)
        first = kept.until_unlocked if act in acts.OF_NAMES else None
        return self.aside.run(kept, files=acts.locked_by(act, args), first=first, release=kept.close)

    @staticmethod
    def wait_for(act: Callable[..., Result], *args: Any, identity: Identity | None = None) -> Result:
        # What waits so in a thread of ours waits for no server: a signal that kills us ends it.
        with acting_as(identity):
            return act(*args)

    def _is_prompt(self, opened: OwnedFd) -> bool:
        # A name that ends so is looked up to tell what it means (paths.describe).
        return self._mounts.is_local(opened) and not os.readlink(self_link(opened.fd)).endswith(DELETED)


class _Kept:
    """An act with duplicates of its descriptors: whoever asked for it may have closed his own when it is made."""

    __slots__ = ("_act", "_args", "_identity")

    def __init__(self, act: Callable[..., Any], args: tuple[Any, ...], identity: Identity | None) -> None:
        self._act = act
        self._args = tuple(OwnedFd(os.dup(arg.fd)) if isinstance(arg, OwnedFd) else arg for arg in args)
        self._identity = identity

    def __call__(self) -> Any:
        with acting_as(self._identity):
            return self._act(*self._args)

    def until_unlocked(self) -> None:
        acts.until_names_unlocked(self._act, self._args)

    def close(self) -> None:
        for arg in self._args:
            if isinstance(arg, OwnedFd):
                arg.close()


class _Root:
    """A directory and a path from there, for the length of a block."""

    __slots__ = ("_fd", "_owned", "_rest")

    def __init__(self, owned: OwnedFd | None, fd: int, rest: bytes) -> None:
        self._owned = owned
        self._fd = fd
        self._rest = rest

    def __enter__(self) -> tuple[int, bytes]:
        return self._fd, self._rest

    def __exit__(self, *exc_info: object) -> None:
        if self._owned is not None:
            self._owned.close()


class Patient:
    """Used by many threads at a time."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._waiter: Waiter | None = None

    @property
    def pid(self) -> int:
        return self._waiter.pid if self._waiter is not None else 0

    @property
    def pids(self) -> tuple[int, ...]:
        return (self.pid,) if self.pid else ()

    def open(
        self,
        base: OwnedFd | None,
        path: bytes,
        flags: int,
        *,
        resolve: int = 0,
        identity: Identity | None = None,
    ) -> OwnedFd:
        return self.run(acts.open_at, base, path, flags, 0, resolve, identity=identity)

    def jump(self, link: bytes, flags: int = 0, *, identity: Identity | None = None) -> OwnedFd:
        return self.open(None, link, os.O_PATH | flags, identity=identity)

    def run(self, act: Callable[..., Result], *args: Any, identity: Identity | None = None) -> Result:
        """Raises OSError, WaiterGone."""
        return self._running().run(act, *args, identity=identity)

    def wait_for(self, act: Callable[..., Result], *args: Any, identity: Identity | None = None) -> Result:
        """Raises OSError, WaiterGone."""
        return self._running().wait_for(act, *args, identity=identity)

    def _running(self) -> Waiter:
        with self._lock:
            if self._waiter is None:
                from sandlockd.kernel.waiter import Waiter  # late: hardly any run needs it

                self._waiter = Waiter()
            return self._waiter

    def poke(self, thread: int) -> None:
        """Interrupt what wait_for does, of these files or of Prompt, for a worker thread."""
        poke(thread)
        with self._lock:
            waiter = self._waiter
        if waiter is not None:
            waiter.poke(thread)

    def close(self) -> None:
        """Whoever still waits waits no longer."""
        with self._lock:
            if self._waiter is not None:
                self._waiter.close()
