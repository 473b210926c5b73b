"""What handlers do with opened objects on behalf of a caller: one function for one system call, or for a few.

Each takes descriptors, bytes and numbers only, so that it can be made in another process as well (kernel/waiter.py).
An object is named by its descriptor, never by its path again; a new or old name in it by the opened directory and that
one name. All raise OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, ffi, lib
from sandlockd.kernel.paths import AT_FDCWD, RESOLVE_CACHED, Object, openat2, self_link
from sandlockd.kernel.paths import describe as describe_fd
from sandlockd.kernel.paths import describe_at_length as describe_at_length_fd
from sandlockd.kernel.status import STATX_BASIC, STATX_BORN, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def open_at(base: OwnedFd | None, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> OwnedFd:
    """openat2(2), from an opened directory or (None) by an absolute path."""
    return openat2(AT_FDCWD if base is None else base.fd, path, flags, mode=mode, resolve=resolve)


def reopen(opened: OwnedFd, flags: int) -> OwnedFd:
    """That very object, opened for something."""
    return openat2(AT_FDCWD, self_link(opened.fd), flags)


def reopen_at_once(opened: OwnedFd, flags: int) -> OwnedFd:
    """As reopen, and BlockingIOError where it would wait: for the holder of a lease, for the other end of a FIFO."""
    file = reopen(opened, flags | os.O_NONBLOCK)
    let_block(file, flags)
    return file


def let_block(file: OwnedFd, flags: int) -> None:
    """Take back an O_NONBLOCK that was only for our own opening."""
    if not flags & os.O_NONBLOCK:
        fcntl.fcntl(file.fd, fcntl.F_SETFL, fcntl.fcntl(file.fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def describe(opened: OwnedFd) -> Object:
    return describe_fd(opened.fd)


def describe_at_length(opened: OwnedFd) -> Object:
    return describe_at_length_fd(opened.fd)


def number_of(opened: OwnedFd) -> tuple[int, int]:
    """(device, inode)."""
    status = os.fstat(opened.fd)
    return status.st_dev, status.st_ino


def status_of(opened: OwnedFd, mask: int = STATX_BASIC) -> Status:
    return Status(opened, mask)


def first_bytes(opened: OwnedFd, count: int) -> bytes:
    return os.pread(opened.fd, count, 0)


def bytes_at(opened: OwnedFd, offset: int, count: int) -> bytes:
    return os.pread(opened.fd, count, offset)


def is_procfs(opened: OwnedFd) -> bool:
    return bool(check(lib.slk_is_procfs(opened.fd)))


# ---- names in an opened directory


def make_directory(parent: OwnedFd, name: bytes, mode: int) -> None:
    os.mkdir(name, mode, dir_fd=parent.fd)


def make_node(parent: OwnedFd, name: bytes, mode: int) -> None:
    os.mknod(name, mode, dir_fd=parent.fd)


def read_link(parent: OwnedFd, name: bytes) -> bytes:
    return os.readlink(name, dir_fd=parent.fd)


def make_symlink(parent: OwnedFd, name: bytes, target: bytes) -> None:
    os.symlink(target, name, dir_fd=parent.fd)


def make_link(opened: OwnedFd, parent: OwnedFd, name: bytes) -> None:
    os.link(self_link(opened.fd), name, dst_dir_fd=parent.fd, follow_symlinks=True)


def born_ns(opened: OwnedFd) -> int | None:
    """When it was made; None where the file system does not know."""
    return Status(opened, STATX_BORN).born_ns


def kind_of(opened: OwnedFd) -> int:
    """S_IFMT of its mode: also of what has a path that is longer than any call can tell."""
    return stat.S_IFMT(os.fstat(opened.fd).st_mode)


def is_socket(opened: OwnedFd) -> bool:
    return stat.S_ISSOCK(os.fstat(opened.fd).st_mode)


def remove_directory(parent: OwnedFd, name: bytes) -> None:
    os.rmdir(name, dir_fd=parent.fd)


def remove_file(parent: OwnedFd, name: bytes) -> None:
    os.unlink(name, dir_fd=parent.fd)


def rename(old_parent: OwnedFd, old: bytes, new_parent: OwnedFd, new: bytes, flags: int) -> None:
    """renameat2(2)."""
    check(lib.slk_renameat2(old_parent.fd, old, new_parent.fd, new, flags))


# ---- an opened object


def truncate(opened: OwnedFd, length: int, flags: int) -> None:
    """flags: with O_NONBLOCK it raises BlockingIOError instead of waiting for the holder of a lease."""
    with reopen(opened, os.O_WRONLY | flags) as file:
        os.ftruncate(file.fd, length)


def truncate_unopened(opened: OwnedFd, length: int) -> None:
    """truncate(2): it may wait for the holder of a lease."""
    os.truncate(self_link(opened.fd), length)


def set_mode(opened: OwnedFd, mode: int) -> None:
    check(lib.slk_fchmodat(AT_FDCWD, self_link(opened.fd), mode, 1))


def set_owner(opened: OwnedFd, uid: int, gid: int) -> None:
    """Of the object itself, a symbolic link included. 0xffffffff: leave as it is."""
    check(lib.slk_fchownat_empty(opened.fd, uid, gid))


def set_times(opened: OwnedFd, times: tuple[int, int, int, int]) -> None:
    """(atime s, atime ns, mtime s, mtime ns), with UTIME_NOW and UTIME_OMIT as utimensat(2) has them."""
    at_empty_path = 0x1000
    check(lib.slk_utimensat(opened.fd, b"", *times, at_empty_path))


def set_xattr(opened: OwnedFd, name: bytes, value: bytes, flags: int) -> None:
    check(lib.slk_setxattr(self_link(opened.fd), name, value, len(value), flags, 1))


def remove_xattr(opened: OwnedFd, name: bytes) -> None:
    check(lib.slk_removexattr(self_link(opened.fd), name, 1))


def get_xattr(opened: OwnedFd, name: bytes, size: int) -> tuple[int, bytes]:
    """(length, value); with size 0 only the length."""
    buffer = ffi.new("char[]", size) if size else ffi.NULL
    length = check(lib.slk_getxattr(self_link(opened.fd), name, buffer, size, 1))
    return length, bytes(ffi.buffer(buffer, length)) if size else b""


def list_xattr(opened: OwnedFd, size: int) -> bytes:
    buffer = ffi.new("char[]", size)
    length = check(lib.slk_listxattr(self_link(opened.fd), buffer, size, 1))
    return bytes(ffi.buffer(buffer, length))


# What takes the lock of a file (kernel/aside.py): of an object that is opened, or of one that has a name.
_LOCKING = frozenset(
    (
        remove_file,
        rename,
        make_link,
        truncate,
        truncate_unopened,
        set_mode,
        set_owner,
        set_times,
        set_xattr,
        remove_xattr,
    )
)


OF_NAMES = frozenset((remove_file, rename, make_link))


def takes_lock(act: object, args: tuple[Any, ...]) -> bool:
    """Whether it may wait as long as somebody else's write to a file takes."""
    return act in _LOCKING or (act is reopen_at_once and bool(args[1] & os.O_TRUNC))


def locked_by(act: object, args: tuple[Any, ...]) -> frozenset[tuple[int, int]]:
    """The numbers of the files whose locks it takes. Of names, what the kernel's caches know: nobody waits for it."""
    if act not in (remove_file, rename):
        return frozenset((number_of(args[0]),))
    found = set()
    for parent, name in zip(args[0:4:2], args[1:4:2], strict=False):
        try:
            with openat2(parent.fd, name, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_CACHED) as seen:
                found.add(number_of(seen))
        except OSError:
            pass  # not known, or not there
    return frozenset(found)


def until_unlocked(opened: OwnedFd) -> None:
    """Wait for the lock of a file, and do nothing: it is asked to lose an attribute that it does not have.

    removexattr(2) takes the lock of the inode first, and no other (vfs_removexattr of fs/xattr.c).
    """
    try:
        remove_xattr(opened, b"user.sandlockd.none")
    except OSError as error:
        if error.errno not in _NOTHING_REMOVED:
            raise


def until_names_unlocked(act: object, args: Sequence[Any]) -> None:
    """Before an act on names: wait for the locks of the files that have them. Nothing where they have no such names."""
    if act is make_link:
        until_unlocked(args[0])
    elif act is remove_file or act is rename:
        for parent, name in zip(args[0:4:2], args[1:4:2], strict=False):
            _until_name_unlocked(parent, name)


def _until_name_unlocked(parent: OwnedFd, name: bytes) -> None:
    try:
        with open_at(parent, name, os.O_PATH | os.O_NOFOLLOW) as seen:
            if stat.S_ISREG(os.fstat(seen.fd).st_mode):
                until_unlocked(seen)
    except OSError:
        pass  # the act finds the error


_NOTHING_REMOVED = frozenset((errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EROFS))


def add_watch(instance: OwnedFd, opened: OwnedFd, mask: int) -> int:
    return check(lib.slk_inotify_add_watch(instance.fd, self_link(opened.fd), mask))


def duplicate_of(pid: int, fd: int) -> OwnedFd:
    """A descriptor of another process, as ours (pidfd_getfd(2)): EBADF, EPERM, ESRCH."""
    with OwnedFd(os.pidfd_open(pid)) as process:
        return duplicate_of_process(process, fd)


def duplicate_of_process(process: OwnedFd, fd: int) -> OwnedFd:
    """process: a pidfd."""
    return OwnedFd(check(lib.slk_pidfd_getfd(process.fd, fd)))
