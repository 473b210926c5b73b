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


def mask_of(instance: OwnedFd, wd: int, inode: int) -> int | None:
    """What a watch is for; None: it is gone, or its number is another object's by now."""
    with open(f"/proc/self/fdinfo/{instance.fd}", encoding="ascii", errors="replace") as file:
        for found_wd, found_inode, mask in _WATCH.findall(file.read()):
            if (int(found_wd, 16), int(found_inode, 16)) == (wd, inode):
                return int(mask, 16)
    return None


def set_mask(instance: OwnedFd, opened: OwnedFd, wd: int, mask: int) -> None:
    """Of the watch on that object. Should the program have removed it in this moment, it stays removed."""
    found = check(lib.slk_inotify_add_watch(instance.fd, self_link(opened.fd), mask or _UNMOUNT))
    if found != wd:
        check(lib.slk_inotify_rm_watch(instance.fd, found))
