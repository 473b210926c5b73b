"""Names below a directory that is held open: looked up without leaving it, following no link.

One function is one system call that shows, and a lookup before it where a path is longer than a name. A test ends the
process before each of them. All raise OSError.
"""

from __future__ import annotations

import collections
import errno
import os
import stat

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import check, ffi, lib
from sandlockd.kernel.paths import AT_FDCWD, native_identity, openat2, self_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NamedTuple

    from sandlockd.kernel.paths import Identity

CONFINED = lib.SLK_RESOLVE_CONFINED
RENAME_EXCHANGE = 2
RENAME_NOREPLACE = 1
RENAME_WHITEOUT = 4
_PATH_MAX = 4096  # linux/limits.h, with the NUL
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW

if TYPE_CHECKING:

    class Seen(NamedTuple):
        """What lstat(2) says, and whether a directory bears the opaque mark (False where that was not asked)."""

        mode: int
        device: int
        inode: int
        links: int
        special: int
        uid: int
        gid: int
        is_opaque: bool

else:  # without importing typing
    Seen = collections.namedtuple("Seen", "mode device inode links special uid gid is_opaque")


def look(
    directory_fd: int, path: bytes, *, with_opaque: bool = False, identity: Identity | None = None
) -> Seen:
    """Three system calls, and a fourth where a directory's opaque mark is asked for."""
    if len(path) >= _PATH_MAX:
        with _nearer(directory_fd, path, identity) as above:
            return look(above.fd, path[_cut(path) + 1 :], with_opaque=with_opaque, identity=identity)
    native, _groups = (ffi.NULL, None) if identity is None else native_identity(identity)
    entry = ffi.new("struct slk_layer_entry *")
    check(lib.slk_layer_entry(directory_fd, path, with_opaque, native, entry))
    return Seen(
        entry.mode,
        entry.device,
        entry.inode,
        entry.links,
        entry.special,
        entry.uid,
        entry.gid,
        bool(entry.is_opaque),
    )


def open_below(directory_fd: int, path: bytes, flags: int, identity: Identity | None = None) -> OwnedFd:
    """flags: without O_CREAT. b"" is the directory itself. path: of any length, unlike those of system calls."""
    if len(path) >= _PATH_MAX:
        with _nearer(directory_fd, path, identity) as above:
            return open_below(above.fd, path[_cut(path) + 1 :], flags, identity)
    if not path:
        # Not as `.`: that is a name in the directory, and not to be had where its owner has closed it to himself.
        return openat2(AT_FDCWD, self_link(directory_fd), flags & ~os.O_NOFOLLOW, identity=identity)
    return openat2(directory_fd, path, flags | os.O_NOFOLLOW, resolve=CONFINED, identity=identity)


def _cut(path: bytes) -> int:
    """Where a path is so short that it can be walked at once, and as long as that."""
    return path.rindex(b"/", 0, _PATH_MAX)


def _nearer(directory_fd: int, path: bytes, identity: Identity | None) -> OwnedFd:
    return open_below(directory_fd, path[: _cut(path)], os.O_PATH | _DIRECTORY, identity)


def rows(directory: OwnedFd) -> Iterator[tuple[bytes, int, int]]:
    """(name, type as in st_mode, inode), without `.` and `..`; type 0 is a whiteout. One stat for a device."""
    os.lseek(directory.fd, 0, os.SEEK_SET)  # btrfs lists what was there when it was opened or rewound
    yield from rows_left(directory)


def rows_left(directory: OwnedFd) -> Iterator[tuple[bytes, int, int]]:
    """The same, from where the descriptor is."""
    with os.scandir(directory.fd) as entries:
        for entry in entries:
            yield os.fsencode(entry.name), _type_of(entry), entry.inode()


def dots_ahead(directory: OwnedFd) -> int:
    """Which of `.` (1) and `..` (2) are still to be listed, from where this directory is read. Reads it to its end."""
    return check(lib.slk_dots_ahead(directory.fd))


def _type_of(entry: os.DirEntry[str]) -> int:
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_symlink():
        return stat.S_IFLNK
    status = entry.stat(follow_symlinks=False)
    return 0 if is_whiteout(status.st_mode, status.st_rdev) else stat.S_IFMT(status.st_mode)


def is_whiteout(mode: int, special: int) -> bool:
    return stat.S_ISCHR(mode) and special == 0


# ---- what changes something


def create_file(parent: OwnedFd, name: bytes, flags: int, mode: int) -> OwnedFd:
    # With O_EXCL no link is followed (open(2)); O_NOFOLLOW would stay among the flags that the program sees.
    flags |= os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return OwnedFd(os.open(name, flags, mode, dir_fd=parent.fd))


def create_unnamed(parent: OwnedFd, flags: int, mode: int) -> OwnedFd:
    return OwnedFd(os.open(b".", flags | os.O_TMPFILE | os.O_CLOEXEC, mode, dir_fd=parent.fd))


def make_directory(parent: OwnedFd, name: bytes, mode: int) -> None:
    os.mkdir(name, mode, dir_fd=parent.fd)


def make_node(parent: OwnedFd, name: bytes, mode: int, device: int = 0) -> None:
    """mode: with its type."""
    os.mknod(name, mode, device, dir_fd=parent.fd)


def make_symlink(parent: OwnedFd, name: bytes, target: bytes) -> None:
    os.symlink(target, name, dir_fd=parent.fd)


def link(source_parent: OwnedFd, source: bytes, parent: OwnedFd, name: bytes) -> None:
    os.link(source, name, src_dir_fd=source_parent.fd, dst_dir_fd=parent.fd, follow_symlinks=False)


def link_opened(opened: OwnedFd, parent: OwnedFd, name: bytes) -> None:
    os.link(self_link(opened.fd), name, dst_dir_fd=parent.fd, follow_symlinks=True)


def rename(old_parent: OwnedFd, old: bytes, new_parent: OwnedFd, new: bytes, flags: int = 0) -> None:
    check(lib.slk_renameat2(old_parent.fd, old, new_parent.fd, new, flags))


def unlink(parent: OwnedFd, name: bytes) -> None:
    os.unlink(name, dir_fd=parent.fd)


def remove_directory(parent: OwnedFd, name: bytes) -> None:
    os.rmdir(name, dir_fd=parent.fd)


def set_attribute(opened: OwnedFd, name: bytes, value: bytes) -> None:
    os.setxattr(self_link(opened.fd), name, value)


def attribute(opened: OwnedFd, name: bytes) -> bytes | None:
    try:
        return os.getxattr(self_link(opened.fd), name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def set_times(opened: OwnedFd, accessed_ns: int, modified_ns: int) -> None:
    """Of the object itself; also of an O_PATH descriptor."""
    accessed, modified = divmod(accessed_ns, 1_000_000_000), divmod(modified_ns, 1_000_000_000)
    at_empty_path = 0x1000
    check(lib.slk_utimensat(opened.fd, b"", *accessed, *modified, at_empty_path))


def set_owner_and_mode(opened: OwnedFd, uid: int, gid: int, mode: int) -> None:
    """uid, gid: 0xffffffff leaves it."""
    check(lib.slk_fchownat_empty(opened.fd, uid, gid))
    os.chmod(self_link(opened.fd), mode)


def may_access(opened: OwnedFd, mode: int) -> bool:
    """By the file system identity of this thread."""
    result = lib.slk_may_access(opened.fd, mode)
    if result == -errno.EACCES:
        return False
    check(result)
    return True


def is_being_written(opened: OwnedFd) -> bool:
    """Whether it cannot be executed for that (ETXTBSY). Kernels before 6.14 do not tell: False."""
    return bool(lib.slk_may_execute(opened.fd) == -errno.ETXTBSY)


def open_directory(parent_fd: int, path: bytes) -> OwnedFd:
    """To look from, and to make names in."""
    return open_below(parent_fd, path, os.O_PATH | _DIRECTORY)
