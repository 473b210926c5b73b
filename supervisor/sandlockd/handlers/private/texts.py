"""Files of /proc without what is the machine's or somebody else's: their text, made of the kernel's own.

Pure: nothing here opens a file or reads a process. What is not understood is left out.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Shown = Callable[[bytes], bool]  # is what is mounted at this path (as it is written) shown?

# The lines before the first row (net/ipv4, net/unix, ... of the kernel). Of files that are not here nothing is left.
_HEADINGS = {
    **dict.fromkeys(
        b"tcp tcp6 udp udp6 udplite udplite6 raw raw6 unix netlink packet route arp igmp".split(), 1
    ),
    **dict.fromkeys(b"dev wireless".split(), 2),
}
_LOCK = re.compile(rb"\d+:(?: ->)? +\S+ +\S+ +\S+ +(-?\d+) ")


def load_averages(text: bytes, threads: int, last: int) -> bytes:
    """loadavg: how many threads there are, and the last number that was given, are those of the sandbox."""
    averages = text.split()[:3]
    return b" ".join((*averages, b"1/%d" % threads, b"%d" % last)) + b"\n"


def locks(text: bytes, is_own: Callable[[int], bool]) -> bytes:
    """locks: those of the sandbox, and whoever in it waits for one. -1: of an open file, whoever has that."""
    kept = []
    for line in text.splitlines(keepends=True):
        match = _LOCK.match(line)
        if match is not None and int(match[1]) > 0 and is_own(int(match[1])):
            kept.append(line)
    return b"".join(kept)


def mount_info(text: bytes, shown: Shown) -> bytes:
    """mountinfo: where something is mounted that the program may see, its kind and its number; not from where."""
    kept = []
    for line in text.splitlines():
        left, dash, right = line.partition(b" - ")
        fields, kind = left.split(b" "), right.split(b" ")[0]
        if dash and len(fields) >= 6 and shown(fields[4]):
            fields[3] = b"/"
            kept.append(b" ".join((*fields[:6], b"-", kind, kind, fields[5].split(b",")[0])) + b"\n")
    return b"".join(kept)


def mount_table(text: bytes, shown: Shown) -> bytes:
    """mounts: likewise."""
    kept = []
    for line in text.splitlines():
        fields = line.split(b" ")
        if len(fields) == 6 and shown(fields[1]):
            flags = b",".join(flag for flag in fields[3].split(b",") if flag in _MOUNT_FLAGS)
            kept.append(b" ".join((fields[2], fields[1], fields[2], flags, b"0", b"0")) + b"\n")
    return b"".join(kept)


# mount(8), "Filesystem-independent mount options": the others are the file system's.
_MOUNT_FLAGS = frozenset(b"rw ro nosuid nodev noexec noatime nodiratime relatime nosymfollow".split())


def mount_statistics(text: bytes, shown: Shown) -> bytes:
    """mountstats: likewise; a line that goes with a mount before it begins with a tab."""
    kept = []
    for line in text.splitlines():
        words = line.split(b" ")
        if words[0] == b"device" and len(words) >= 8 and shown(words[4]):
            kept.append(b" ".join((b"device", words[7], *words[2:8])) + b"\n")
    return b"".join(kept)


def network(name: bytes, beginning: bytes) -> bytes:
    """A file of net/: the sockets, addresses and routes in it are the machine's. beginning: more than its heading."""
    count = _HEADINGS.get(name, 0)
    return b"".join(beginning.splitlines(keepends=True)[:count])
