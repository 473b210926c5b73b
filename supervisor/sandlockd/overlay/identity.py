"""Which object something was when it was last looked at, and the record of it that copy-up leaves in the upper.

Pure. The record is the extended attribute `user.sandlockd.origin` of a file or directory in the upper (the
kernel gives other kinds no `user.` attributes). It says which lower object the copy is of, as it was then:

    1 KIND DEVICE INODE SIZE MTIME_NS CTIME_NS MODE PATH

in ASCII, separated by single spaces, numbers decimal but for the mode, which is octal; the path is bytes to the
end, relative to the tree. It is made in the work directory with the copy, and moves with it. A path of more
than 1024 bytes is left out (an attribute must fit into one block on ext4): its rename is then not recognised.
"""

from __future__ import annotations

from typing import NamedTuple

from sandlockd.overlay.entries import Kind

ORIGIN_ATTRIBUTE = b"user.sandlockd.origin"
_VERSION = b"1"
_LONGEST_PATH = 1024


class Identity(NamedTuple):
    """What tells that a lower object is still the one that was seen, unchanged."""

    kind: Kind
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    mode: int


class Facts(NamedTuple):
    """What lstat says of an object, and what its extended attributes come to.

    mode: the permission bits with setuid, setgid and sticky.
    attributes: a digest of the attributes that a program sees (not `user.overlay.*`, `user.sandlockd.*`), "" for none.
    """

    kind: Kind
    device: int
    inode: int
    links: int
    size_bytes: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    special_device: int = 0
    attributes: str = ""

    @property
    def identity(self) -> Identity:
        """What is compared later."""
        return Identity(
            self.kind, self.device, self.inode, self.size_bytes, self.mtime_ns, self.ctime_ns, self.mode
        )


class Origin(NamedTuple):
    """Where a copy comes from. path is b"" where it was too long to be kept."""

    path: bytes
    identity: Identity


def encode_origin(origin: Origin) -> bytes:
    """The value of the attribute."""
    kind, device, inode, size, mtime_ns, ctime_ns, mode = origin.identity
    path = origin.path if len(origin.path) <= _LONGEST_PATH else b""
    numbers = b"%d %d %d %d %d %o" % (device, inode, size, mtime_ns, ctime_ns, mode)
    return b"%b %b %b %b" % (_VERSION, kind.value.encode(), numbers, path)


def decode_origin(value: bytes) -> Origin | None:
    """The record, or None where it is not one that we wrote: then the copy counts as a new object."""
    parts = value.split(b" ", 8)
    if len(parts) != 9 or parts[0] != _VERSION:
        return None
    try:
        kind = Kind(parts[1].decode())
        device, inode, size, mtime_ns, ctime_ns = (int(part) for part in parts[2:7])
        identity = Identity(kind, device, inode, size, mtime_ns, ctime_ns, int(parts[7], 8))
    except ValueError:
        return None
    return Origin(parts[8], identity)
