"""Which device and inode number programs are told of what the upper directory has (native/numbers.c)."""

from __future__ import annotations

from sandlockd.kernel.native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.fds import OwnedFd

    Number = tuple[int, int]  # st_dev, st_ino


class Numbers:
    """Of one tree. Objects of the upper are named by their own inode numbers."""

    __slots__ = ("_native",)

    def __init__(self, lower: OwnedFd, upper: OwnedFd) -> None:
        holder = ffi.new("struct slk_numbers **")
        check(lib.slk_numbers_create(lower.fd, upper.fd, holder))
        self._native = holder[0]

    @property
    def native(self) -> ffi.CData:
        native: ffi.CData = self._native
        return native

    def copied(self, copy: int, origin: Number) -> bool:
        """It is a copy. False: another copy bears this number, so it is told by its own."""
        return bool(check(lib.slk_numbers_copied(self._native, copy, *origin)))

    def made(self, inode: int) -> None:
        """A new object has this number."""
        lib.slk_numbers_made(self._native, inode)

    def told(self, inode: int) -> Number:
        number = ffi.new("struct slk_number *")
        lib.slk_numbers_told(self._native, inode, number)
        return number.device, number.inode

    def is_copy(self, inode: int) -> bool:
        """Is an original's number told of it?"""
        told = self.told(inode)[1]
        return told not in (inode, inode | lib.SLK_NUMBER_FOREIGN)

    def close(self) -> None:
        native, self._native = self._native, ffi.NULL
        lib.slk_numbers_destroy(native)


def read_origin(directory: OwnedFd, name: bytes) -> Number | None:
    """In the record that a copy bears; None where there is none. Raises OSError: EACCES, of what we may not read."""
    number = ffi.new("struct slk_number *")
    if not check(lib.slk_read_origin(directory.fd, name, number)):
        return None
    return number.device, number.inode
