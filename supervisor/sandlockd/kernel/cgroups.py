"""Control groups of our own: where they can be had, and what they hold a program to.

A group is ours if we made it. It is made in the group that we are in ourselves, where that is ours to use:
- version 1: whoever may make one there (root, or whom the directory was given to). A hierarchy for each controller.
- version 2: the controller is enabled there for groups below already (the topmost group of the machine); or nobody is
  in it but us, and it was delegated to us. A group that has controllers for those below it may have no processes of its
  own (cgroups(7), "no internal processes"), so we move into a group of our own first, and back in the end. Nobody else
  is ever moved, and nothing that others made is changed or removed.

Only the program and what it starts is in the group: init and we are outside, and tell how it ended.

A group whose run was killed is removed by init (native/init.c), or by the next run that makes one in the same place.
Who lives holds a lock on its group (flock(2)), and the kernel removes none that has anybody in it.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import fcntl
import os
import stat
import time

from sandlockd.kernel.cgroup_places import NotOurs, is_delegated, own_place, words, write
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from sandlockd.kernel.cgroup_places import Place

# A variable of the environment: as if none were to be had.
WITHOUT = "SANDLOCKD_NO_CGROUPS"
MEMORY, PIDS, CPU = b"memory", b"pids", b"cpu"
PREFIX = b"sandlockd-"
_OWN = b".own"  # behind the name: where we are ourselves meanwhile
_PROBE = b"doctor"  # and a number
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 3
_REMOVAL_PATIENCE_S, _REMOVAL_STEP_S = 1.0, 0.002
_SYSTEMD = "/run/systemd/system"  # sd_booted(3)


class Group:
    """A group that we made; removed with close()."""

    __slots__ = ("_directory", "path", "version")

    def __init__(self, parent: bytes, name: bytes, version: int) -> None:
        """Raises NotOurs, OSError."""
        self.path = parent + b"/" + name
        self.version = version
        os.mkdir(self.path, 0o755)
        try:
            self._directory = OwnedFd(os.open(self.path, _DIRECTORY))
            # A sweep has it in hand: then it is gone in a moment.
            fcntl.flock(self._directory.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.stat(b"cgroup.procs", dir_fd=self._directory.fd)
            if version == 2 and self.read(b"cgroup.type") != b"domain\n":
                raise NotOurs("it is a threaded one, and takes no processes (cgroups(7))")
        except BaseException:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
            raise

    def open(self, name: bytes, flags: int = os.O_RDONLY) -> OwnedFd:
        """Raises OSError."""
        return OwnedFd(os.open(name, flags | os.O_CLOEXEC, dir_fd=self._directory.fd))

    def read(self, name: bytes) -> bytes:
        """Raises OSError."""
        with self.open(name) as file:
            return os.read(file.fd, 1 << 16)

    def write(self, name: bytes, value: bytes) -> None:
        """Raises OSError."""
        with self.open(name, os.O_WRONLY) as file:
            os.write(file.fd, value)

    def take(self, pid: int) -> None:
        """From now on this process, and what it starts, is in it. Raises OSError."""
        self.write(b"cgroup.procs", b"%d" % pid)

    def close(self) -> bool:
        """Everybody in it is dead. False: it could not be removed."""
        try:
            removed = _remove(self.path, _REMOVAL_PATIENCE_S)
        finally:
            self._directory.close()
        return removed


def _made(place: Place, name: bytes) -> Group:
    """Raises NotOurs, OSError."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            return Group(place.path, name, place.version)
    return Group(place.path, name, place.version)  # somebody swept it before we had the lock, again and again


class Groups:
    """Those of one run. To be made before anything is forked: we may have to move ourselves."""

    def __init__(self, name: bytes, wanted: Collection[bytes], family: Collection[int] = ()) -> None:
        """Never fails: what is not to be had has its reason in `lacking`.

        family: processes besides ourselves that may be moved with us.
        """
        self._name = PREFIX + name
        self._family = (os.getpid(), *family)
        self._groups: dict[bytes, Group] = {}  # by the directory that each is in
        self._by_controller: dict[bytes, Group] = {}
        self._left: tuple[Place, Group, bytes] | None = None  # where we were, where we are, what was enabled
        self.lacking: dict[bytes, str] = {}
        found = mounts()
        places = {controller: own_place(controller, found) for controller in wanted}
        for path in {place.path for place in places.values() if place is not None}:
            sweep(path)
        for controller, place in places.items():
            if place is None:
                self.lacking[controller] = "no cgroup of ours is to be seen here"
                continue
            self._find(controller, place, wanted)

    def _find(self, controller: bytes, place: Place, wanted: Collection[bytes]) -> None:
        where = os.fsdecode(place.path)
        try:
            self._by_controller[controller] = self._group(controller, place, wanted)
        except NotOurs as reason:
            self.lacking[controller] = f"{where}: {reason}"
        except OSError as error:
            self.lacking[controller] = f"{where}: {error.strerror}"

    def _group(self, controller: bytes, place: Place, wanted: Collection[bytes]) -> Group:
        """Raises NotOurs, OSError."""
        if place.version == 2:
            self._enable(controller, place, wanted)
        group = self._groups.get(place.path)
        if group is None:
            group = self._groups[place.path] = _made(place, self._name)
        return group

    # ---- version 2

    def _enable(self, controller: bytes, place: Place, wanted: Collection[bytes]) -> None:
        """Raises NotOurs, OSError."""
        if controller in words(place, b"cgroup.subtree_control"):
            return
        available = words(place, b"cgroup.controllers")
        if controller not in available:
            raise NotOurs(f"it has no controller {os.fsdecode(controller)}")
        if not os.path.exists(place.path + b"/cgroup.type"):
            raise NotOurs(f"the controller {os.fsdecode(controller)} is not enabled in the topmost group")
        if {int(pid) for pid in words(place, b"cgroup.procs")} - set(self._family):
            raise NotOurs("there are other processes in it, and they are not ours to move")
        if os.path.isdir(_SYSTEMD) and not is_delegated(place.path):
            raise NotOurs("systemd has not delegated it (Delegate=yes)")
        own = _made(place, self._name + _OWN)
        enabled = b" ".join(b"+" + name for name in wanted if name in available)
        try:
            for pid in self._family:
                own.take(pid)
            write(place, b"cgroup.subtree_control", enabled)
        except BaseException:
            self._move_back(place, own)
            raise
        self._left = (place, own, enabled)

    def _move_back(self, place: Place, own: Group) -> None:
        """Whoever is there by now is a child of ours."""
        for pid in own.read(b"cgroup.procs").split():
            with contextlib.suppress(OSError):
                # It has ended, or others made groups here with controllers: then it stays where it is.
                write(place, b"cgroup.procs", pid)
        own.close()

    # ---- in use

    def of(self, controller: bytes) -> Group | None:
        return self._by_controller.get(controller)

    def drop(self, controller: bytes, reason: str) -> None:
        """It does not do what it should: the limit is kept without it."""
        if self._by_controller.pop(controller, None) is not None:
            self.lacking[controller] = reason

    @property
    def in_use(self) -> tuple[Group, ...]:
        return tuple(dict.fromkeys(self._by_controller.values()))

    @property
    def paths(self) -> tuple[bytes, ...]:
        """Of all that were made, and are to be removed."""
        return tuple(group.path for group in self._groups.values())

    def take(self, pid: int) -> None:
        """Raises OSError."""
        for group in self.in_use:
            group.take(pid)

    def close(self) -> list[bytes]:
        """All of the program is dead. Returns: what could not be removed."""
        left = [group.path for group in self._groups.values() if not group.close()]
        self._groups.clear()
        self._by_controller.clear()
        if self._left is not None:
            place, own, enabled = self._left
            self._left = None
            with contextlib.suppress(OSError):
                write(place, b"cgroup.subtree_control", enabled.replace(b"+", b"-"))
            self._move_back(place, own)
            left += [own.path] if os.path.exists(own.path) else []
        return left


def hasten(wanted: Collection[bytes]) -> None:
    """Somebody will be moved soon. The first move in a while waits some 15 ms for the processors, and the next do not
    (rcu_sync_enter() of kernel/rcu/sync.c, for cgroup_threadgroup_rwsem). So we are moved now, to where we are.
    """
    found = mounts()
    place = next(filter(None, (own_place(controller, found) for controller in wanted)), None)
    if place is None or not os.access(place.path, os.W_OK):
        return
    with contextlib.suppress(OSError):
        file = OwnedFd(os.open(place.path + b"/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        _thread.start_new_thread(_move_to_where_we_are, (file,))


def _move_to_where_we_are(file: OwnedFd) -> None:
    with file, contextlib.suppress(OSError):
        os.write(file.fd, b"0")


# ---- leftovers


def sweep(directory: bytes) -> None:
    """Remove what runs left in this group whose supervisor is dead."""
    try:
        names = [name for name in os.listdir(directory) if _is_of_a_run(name)]
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            _sweep_one(directory + b"/" + name)


def _is_of_a_run(name: bytes) -> bool:
    """Others may begin the names of theirs likewise. As audit.state.new_run_id makes it, or a run of doctor's."""
    if not name.startswith(PREFIX):
        return False
    began, _, number = name[len(PREFIX) :].removesuffix(_OWN).rpartition(b"-")
    if began == _PROBE:
        return number.isdigit()
    return len(began) == len(b"20260101T000000.000") and not began.translate(None, b"0123456789T.")


def _sweep_one(path: bytes) -> None:
    """Raises OSError."""
    with OwnedFd(os.open(path, _DIRECTORY)) as group:
        status = os.fstat(group.fd)
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            return
        fcntl.flock(group.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # EWOULDBLOCK: its run lives
        os.rmdir(path)  # EBUSY: somebody is in it, or below


def _remove(path: bytes, patience_s: float) -> bool:
    end = time.monotonic() + patience_s
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            # The last of them may still be on its way out.
            if error.errno != errno.EBUSY or time.monotonic() > end:
                return False
            time.sleep(_REMOVAL_STEP_S)
        else:
            return True
