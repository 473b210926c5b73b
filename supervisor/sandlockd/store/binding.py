"""A socket that is bound to a name in the upper directory, under the address that the program gave.

The kernel remembers the address as it was given to bind, and tells it to whoever asks. So bind is made with that very
text, in a directory in work that is laid out for it: where the text leads there, the socket comes into being, in a
directory like the one that it is renamed to. Nobody else makes names there, so that nothing can lead it elsewhere.

An address that cannot be laid out (a link that leads back to a directory in which the socket is to have the link's own
name), or whose root cannot be had on this machine, is bound by its last name alone.
"""

from __future__ import annotations

from typing import NamedTuple

from sandlockd.kernel import beneath, sockets
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.store.making import Making

_OPEN_TO_CALLER = 0o777  # nobody else gets as far as here
_HEIGHT = b"up"  # what `..` leaves


class Binding(NamedTuple):
    """socket: a duplicate of the program's, borrowed. address: a sockaddr_un as it was given, of a file."""

    socket: OwnedFd
    address: bytes

    @property
    def path(self) -> bytes:
        return self.address[sockets.FAMILY_BYTES :].partition(b"\0")[0]


class Layout(NamedTuple):
    """Directories below one that is fresh, each after the one that it is in.

    start: where the text is looked up from. last: where it leads to, apart from its last name.
    """

    directories: tuple[bytes, ...]
    start: bytes
    last: bytes


def lay_out(path: bytes) -> Layout | None:
    """What must be there for bind to find its way; None: it cannot."""
    *parts, name = [part for part in path.split(b"/") if part not in (b"", b".")]
    height = 0 if path.startswith(b"/") else _climbs(parts)
    at = [_HEIGHT] * height
    directories = [b"/".join(at[: length + 1]) for length in range(height)]
    start = b"/".join(at)
    for part in parts:
        if part == b"..":
            at = at[:-1]  # above the root is the root
            continue
        at.append(part)
        if b"/".join(at) not in directories:
            directories.append(b"/".join(at))
    if b"/".join([*at, name]) in directories:
        return None
    return Layout(tuple(directories), start, b"/".join(at))


def _climbs(parts: list[bytes]) -> int:
    """How far up a text goes from where it is looked up."""
    depth = lowest = 0
    for part in parts:
        depth += -1 if part == b".." else 1
        lowest = min(lowest, depth)
    return -lowest


def bind_below(
    base: OwnedFd, binding: Binding, making: Making, make_alike: Callable[[OwnedFd], None]
) -> OwnedFd:
    """Bind the socket below a fresh directory, in one that was made like the one that it is for. Raises OSError.

    Returns: that directory, in which it has the last name of its address.
    """
    name = binding.path.rpartition(b"/")[2]
    layout = lay_out(binding.path)
    for path in layout.directories if layout else ():
        beneath.make_directory(base, path, _OPEN_TO_CALLER)
    made = beneath.open_directory(base.fd, layout.last if layout else b"")
    try:
        make_alike(made)
        if layout is None or not _is_bound_as_given(base, binding, making, layout):
            address = sockets.address_of_path(name)
            _bind(binding, address, making, directory=made)
    except BaseException:
        made.close()
        raise
    return made


def _is_bound_as_given(base: OwnedFd, binding: Binding, making: Making, layout: Layout) -> bool:
    try:
        if binding.path.startswith(b"/"):
            _bind(binding, binding.address, making, root=base)
        else:
            with beneath.open_directory(base.fd, layout.start) as start:
                _bind(binding, binding.address, making, directory=start)
    except sockets.Refused:
        return False
    return True


def _bind(
    binding: Binding,
    address: bytes,
    making: Making,
    *,
    root: OwnedFd | None = None,
    directory: OwnedFd | None = None,
) -> None:
    places = {"root": root, "directory": directory}
    sockets.bind(binding.socket, address, **places, umask=making.umask, identity=making.identity)
