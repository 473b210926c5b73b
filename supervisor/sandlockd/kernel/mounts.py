"""Which places can keep a lookup waiting: the mount table, read anew whenever it has changed.

A file system that is not known to be answered by the kernel alone (FUSE, the network, automounts, whatever is new) is
slow: a lookup there waits for a server, which may be any program of the user's, and may never answer.
"""

from __future__ import annotations

import os
import select

from sandlockd.kernel import paths
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.paths import Mount

# What /proc/self/mountinfo calls them.
_LOCAL = frozenset(
    b"bcachefs binfmt_misc bpf btrfs cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs erofs exfat ext2 ext3 "
    b"ext4 f2fs fusectl hfsplus hugetlbfs iso9660 jfs mqueue nilfs2 nsfs ntfs3 overlay proc pstore ramfs resctrl "
    b"rootfs rpc_pipefs securityfs selinuxfs squashfs sysfs tmpfs tracefs udf vfat xfs zfs".split()
)
# Slow, but what a magic link leads to is there without asking (struct dentry_operations, d_weak_revalidate).
_JUMPED_TO_AT_ONCE = frozenset((b"autofs", b"fuse", b"fuseblk"))


def watch_changes() -> OwnedFd:
    """poll(2) says POLLPRI for it, once for each change of the mount table."""
    return OwnedFd(os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC))


def _kind(mount: Mount) -> bytes:
    return mount.kind.partition(b".")[0]  # fuse.sshfs


class Mounts:
    """Used by one thread at a time.

    Each question reads the table again if the kernel says that it has changed (proc_pid_mounts(5): POLLPRI): what
    was mounted before the program asked is known.
    """

    def __init__(self) -> None:
        self._changes = watch_changes()
        self._poll = select.poll()
        self._poll.register(self._changes.fd, select.POLLPRI)
        self._read()

    def _read(self) -> None:
        found = paths.mounts()
        slow = {_kind(mount) for mount in found} - _LOCAL
        self.any_slow_known = bool(slow)  # when the table was last read
        self._jumps_wait = bool(slow - _JUMPED_TO_AT_ONCE)
        # Of several at one point the last is on top.
        self._at = {b"" if mount.point == b"/" else mount.point: mount for mount in found}

    def refresh(self) -> None:
        if self._poll.poll(0):
            self._read()

    @property
    def any_slow(self) -> bool:
        self.refresh()
        return self.any_slow_known

    @property
    def jumps_may_wait(self) -> bool:
        """May following a magic link of /proc wait, apart from what comes behind it?"""
        self.refresh()
        return self._jumps_wait

    @property
    def local_ids(self) -> list[int]:
        """Mounts where no lookup waits. Empty where even asking which mount an object is on may (statx on 9p)."""
        self.refresh()
        if self._jumps_wait:
            return []
        return [mount.mount_id for mount in self._at.values() if _kind(mount) in _LOCAL]

    def local_above(self, path: bytes) -> Mount | None:
        """The mount that an absolute path without `.` and `..` leads into, by its letters; None: a slow one."""
        mount = self._above(path)
        return mount if mount is not None and _kind(mount) in _LOCAL else None

    def _above(self, path: bytes) -> Mount | None:
        at = path.rstrip(b"/")
        while (mount := self._at.get(at)) is None and at:
            at = at[: at.rindex(b"/")]
        return mount

    def slow_in(self, directory: bytes) -> list[Mount]:
        """Those in a directory (canonical), and the one that it lies on itself."""
        self.refresh()
        if not self.any_slow_known:
            return []
        below = [
            mount
            for point, mount in self._at.items()
            if point.startswith(directory.rstrip(b"/") + b"/") and _kind(mount) not in _LOCAL
        ]
        around = self._above(directory)
        return below if around is None or _kind(around) in _LOCAL else [around, *below]

    def is_local(self, opened: OwnedFd) -> bool:
        """Can the kernel tell about this object without asking a server? False also where that is not known."""
        try:
            shown = os.readlink(paths.self_link(opened.fd))
        except OSError:
            return False  # longer than the kernel can tell
        if not shown.startswith(b"/"):
            return True  # pipe:[7], anon_inode:inotify
        mount = self.local_above(shown)
        return mount is not None and mount_id(opened) == mount.mount_id

    def close(self) -> None:
        self._changes.close()


def mount_id(opened: OwnedFd) -> int:
    """As in mountinfo."""
    return check(lib.slk_mount_id(opened.fd))
