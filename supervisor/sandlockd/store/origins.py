"""Whose copy each object of the upper is, as far as programs are told its device and inode number.

Files and directories bear a record (overlay/identity.py). The kernel gives no attributes to links, FIFOs and sockets:
those are in the file `origins` of the storage, a line each, and the last line counts that is of an object's own inode
number and time of birth:

    INODE BORN_NS DEVICE INODE_OF_THE_ORIGINAL
    INODE BORN_NS                               of a new object, which took over both within one tick of the clock

Written before the copy shows. Where a file system knows no time of birth nothing is written, and the numbers are
remembered for as long as the supervisor lives.
"""

from __future__ import annotations

import contextlib
import os
import stat

from sandlockd.kernel import beneath
from sandlockd.kernel.beneath import CONFINED
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.numbers import Numbers, read_origin
from sandlockd.kernel.paths import openat2
from sandlockd.kernel.status import STATX_BORN, Status
from sandlockd.overlay.entries import Kind
from sandlockd.store.lending import lent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sandlockd.kernel.numbers import Number
    from sandlockd.overlay.entries import Name
    from sandlockd.store.storage import Storage

ORIGINS_NAME = b"origins"
_READ_BYTES = 1 << 20
_BEARS_RECORD = (Kind.FILE, Kind.DIRECTORY)


class Origins:
    """storage: borrowed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.numbers = Numbers(storage.workdir, storage.upper)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        self._file = openat2(storage.directory.fd, ORIGINS_NAME, flags, mode=0o600, resolve=CONFINED)
        # By inode and time of birth; None: a new object.
        self._written: dict[tuple[int, int], Number | None] = {}
        for line in self._lines():
            numbers = [int(word) for word in line.split() if word.isdigit()]
            if len(numbers) in (2, 4):
                origin = (numbers[2], numbers[3]) if len(numbers) == 4 else None
                self._written[numbers[0], numbers[1]] = origin

    def _lines(self) -> Iterator[bytes]:
        """Whole ones: the last may have been cut off by an end, and is closed then."""
        text = b""
        while block := os.pread(self._file.fd, _READ_BYTES, len(text)):
            text += block
        if text and not text.endswith(b"\n"):
            os.write(self._file.fd, b"?\n")
        yield from text.split(b"\n")[:-1]

    def read(self, path: bytes, rows: Iterable[Name]) -> None:
        """What a directory of the upper has: rows. Raises OSError."""
        with beneath.open_directory(self._storage.upper.fd, path) as directory:
            for name, kind, inode in rows:
                origin = (
                    None if kind is Kind.WHITEOUT else self._origin_of(directory, path, name, kind, inode)
                )
                if origin is not None:
                    self.numbers.copied(inode, origin)

    def _origin_of(
        self, directory: OwnedFd, path: bytes, name: bytes, kind: Kind, inode: int
    ) -> Number | None:
        if kind in _BEARS_RECORD:
            try:
                return read_origin(directory, name)
            except PermissionError:
                return self._of_closed(directory, path + b"/" + name if path else name)
        if not self._written:
            return None
        with beneath.open_below(directory.fd, name, os.O_PATH) as opened:
            born_ns = Status(opened, STATX_BORN).born_ns
        return None if born_ns is None else self._written.get((inode, born_ns))

    def _of_closed(self, directory: OwnedFd, path: bytes) -> Number | None:
        """Of what its owner, who we are, may not read."""
        name = path.rpartition(b"/")[2]
        with (
            beneath.open_below(directory.fd, name, os.O_PATH) as opened,
            lent(self._storage.work, opened, path, stat.S_IRUSR),
        ):
            return read_origin(directory, name)

    def record(self, copy: OwnedFd, original: os.stat_result) -> None:
        """Of a copy that does not show yet, and bears no record. Raises OSError: ENOSPC ..."""
        born_ns = Status(copy, STATX_BORN).born_ns
        if born_ns is not None:
            self._write((os.fstat(copy.fd).st_ino, born_ns), (original.st_dev, original.st_ino))

    def copied(self, copy: OwnedFd, original: os.stat_result) -> None:
        """It shows."""
        self.numbers.copied(os.fstat(copy.fd).st_ino, (original.st_dev, original.st_ino))

    def made(self, new: OwnedFd) -> None:
        """A new object of the upper."""
        status = os.fstat(new.fd)
        self.numbers.made(status.st_ino)
        if not self._written or stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            return
        born_ns = Status(new, STATX_BORN).born_ns
        if born_ns is not None and self._written.get((status.st_ino, born_ns)) is not None:
            with contextlib.suppress(
                OSError
            ):  # without it, a later run on these changes takes it for the copy
                self._write((status.st_ino, born_ns), None)

    def _write(self, key: tuple[int, int], origin: Number | None) -> None:
        numbers = key if origin is None else (*key, *origin)
        os.write(self._file.fd, b" ".join(b"%d" % number for number in numbers) + b"\n")
        self._written[key] = origin

    def told(self, inode: int) -> Number:
        """What programs are told of the object of the upper that has this inode number."""
        return self.numbers.told(inode)

    def is_copy(self, inode: int) -> bool:
        """Of an inode number of the upper's file system, wherever it is there."""
        return self.numbers.is_copy(inode)

    def close(self) -> None:
        self._file.close()
        self.numbers.close()
