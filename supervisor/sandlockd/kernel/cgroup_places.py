"""Where in cgroupfs we are ourselves, and what that place is."""

from __future__ import annotations

import collections
import contextlib
import os

from sandlockd.kernel.paths import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from sandlockd.kernel.paths import Mount

    class Place(NamedTuple):
        """A directory of cgroupfs that we are in."""

        path: bytes
        version: int

else:  # without importing typing
    Place = collections.namedtuple("Place", "path version")

_KINDS = (b"cgroup", b"cgroup2")
_DELEGATED = ("user.delegate", "trusted.delegate")  # systemd.resource-control(5), Delegate=
_OWN_GROUPS = "/proc/self/cgroup"


class NotOurs(Exception):
    """One line for people: why not."""


def mount_points() -> list[bytes]:
    """Where the files of groups are to be seen: who may write there is held by none."""
    return [mount.point for mount in mounts() if mount.kind in _KINDS]


def own_place(controller: bytes, found: list[Mount]) -> Place | None:
    """Where we are, in the hierarchy that has this controller."""
    own = _named(controller)
    if own is None:
        return None
    version, path = own
    for mount in reversed(found):  # the uppermost of those at one place
        if mount.kind != _KINDS[version - 1]:
            continue
        if version == 1 and controller not in mount.options.split(b","):
            continue
        root = mount.root.rstrip(b"/")
        if path != root and not path.startswith(root + b"/"):
            continue  # another part of the hierarchy
        place = Place(mount.point + path[len(root) :].rstrip(b"/"), version)
        if _holds_us(place):
            return place
    return None


def _named(controller: bytes) -> tuple[int, bytes] | None:
    """(version, path) as the kernel tells it."""
    own: tuple[int, bytes] | None = None
    try:
        with open(_OWN_GROUPS, "rb") as file:
            lines = file.readlines()
    except OSError:
        return None  # a kernel without cgroups
    for line in lines:
        number, names, path = line.rstrip(b"\n").split(b":", 2)
        if controller in names.split(b","):
            return 1, path
        if number == b"0":
            own = (2, path)
    return own


def _holds_us(place: Place) -> bool:
    try:
        return b"%d" % os.getpid() in words(place, b"cgroup.procs")
    except OSError:
        return False


def is_delegated(path: bytes) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(path, name) == b"1":
                return True
    return False


def words(place: Place, name: bytes) -> list[bytes]:
    """Raises OSError."""
    with open(place.path + b"/" + name, "rb", buffering=0) as file:
        return file.readall().split()


def write(place: Place, name: bytes, value: bytes) -> None:
    """Raises OSError."""
    with open(place.path + b"/" + name, "wb", buffering=0) as file:
        file.write(value)
