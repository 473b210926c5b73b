"""inotify instances of the program, by duplicates of their descriptors: which watches they have, with which mask."""

from __future__ import annotations

import re

from sandlockd.kernel.native import check, lib
from sandlockd.kernel.paths import self_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.fds import OwnedFd

ATTRIB, MOVED_FROM, MOVED_TO, CREATE, DELETE, MOVE_SELF = 0x4, 0x40, 0x80, 0x100, 0x200, 0x800
EXCL_UNLINK, ONLYDIR, ONESHOT = 0x4000000, 0x1000000, 0x80000000
# Every watch tells of it anyway; a mask must not be empty (inotify_add_watch(2), EINVAL).
_UNMOUNT = 0x2000
_WATCH = re.compile(r"^inotify wd:([0-9a-f]+) ino:([0-9a-f]+) sdev:\S+ mask:([0-9a-f]+)", re.MULTILINE)


def masks_of(instance: OwnedFd) -> dict[tuple[int, int], int]:
    """What each of its watches is for, by the watch's number and the object's inode number.

    The kernel makes all of the text at the first read, however little is asked for (fs/proc/fd.c, seq_fdinfo_open):
    7 ms for 3,000 watches. So it is to be asked once for all that is done at one time.
    """
    with open(f"/proc/self/fdinfo/{instance.fd}", encoding="ascii", errors="replace") as file:
        found = _WATCH.findall(file.read())
    return {(int(wd, 16), int(inode, 16)): int(mask, 16) for wd, inode, mask in found}


def set_mask(instance: OwnedFd, opened: OwnedFd, wd: int, mask: int) -> None:
    """Of the watch on that object. Should the program have removed it in this moment, it stays removed."""
    found = check(lib.slk_inotify_add_watch(instance.fd, self_link(opened.fd), mask or _UNMOUNT))
    if found != wd:
        check(lib.slk_inotify_rm_watch(instance.fd, found))
