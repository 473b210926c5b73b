"""Handles of files (name_to_handle_at(2)), as the kernel puts them into a program's memory."""

from __future__ import annotations

from sandlockd.kernel.native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.fds import OwnedFd

HEAD_BYTES = 8  # struct file_handle: handle_bytes, handle_type
BYTES_MAX = lib.SLK_HANDLE_BYTES_MAX
_MOUNT_ID_UNIQUE = 0x001  # Linux 6.12
OPTIONS = _MOUNT_ID_UNIQUE | 0x002 | 0x200  # AT_HANDLE_CONNECTABLE (Linux 6.13), AT_HANDLE_FID (6.5)


def handle_of(opened: OwnedFd, flags: int) -> tuple[bytes, bytes]:
    """(struct file_handle, the id of its mount). flags: of OPTIONS. Raises OSError: EOPNOTSUPP ..."""
    handle = ffi.new("char[]", HEAD_BYTES + BYTES_MAX)
    mount_id = ffi.new("char[]", 8)
    check(lib.slk_handle_of(opened.fd, flags, handle, mount_id))
    length = int.from_bytes(ffi.buffer(handle, 4)[:], "little")
    size = 8 if flags & _MOUNT_ID_UNIQUE else 4
    return bytes(ffi.buffer(handle, HEAD_BYTES + length)), bytes(ffi.buffer(mount_id, size))
