"""What is in a file, told and compared without reading its holes: a program makes 1 TB of them for nothing.

A digest depends on the bytes alone, not on where a file system keeps zeros as holes, which differs from one copy to the
next. Without a stretch of zeros it is the sha256 of the file, as sha256sum(1) gives it. A stretch is a whole, aligned
unit of 64 KiB. With any, it is `sparse-` and the sha256 over: the sha256 of all other units one after the other, where
the stretches begin and end, and the size.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlockd.kernel.fds import OwnedFd

UNIT_BYTES = 64 * 1024
_READ_BYTES = 16 * UNIT_BYTES
_ZEROS = bytes(UNIT_BYTES)
SPARSE_PREFIX = "sparse-"


def content_digest(file: OwnedFd) -> str:
    """Of a file that is open for reading."""
    data, stretches, end = hashlib.sha256(), [], 0
    for offset, block in _units(file):
        if offset != end:
            stretches.append((end, offset))
        data.update(block)
        end = offset + len(block)
    size = os.fstat(file.fd).st_size
    if end < size:
        stretches.append((end, size))
    if not stretches:
        return data.hexdigest()
    told = hashlib.sha256(b"sandlockd sparse 1\n")
    told.update(data.digest())
    for start, stop in stretches:
        told.update(b"%d-%d\n" % (start, stop))
    told.update(b"%d" % size)
    return SPARSE_PREFIX + told.hexdigest()


def is_content(file: OwnedFd, told: str) -> bool:
    """Whether this is its digest; also of one that a version before `sparse-` told."""
    digest = content_digest(file)
    if digest == told or not digest.startswith(SPARSE_PREFIX) or told.startswith(SPARSE_PREFIX):
        return digest == told
    hashed, offset = hashlib.sha256(), 0
    while block := os.pread(file.fd, _READ_BYTES, offset):
        hashed.update(block)
        offset += len(block)
    return hashed.hexdigest() == told


def same_content(one: OwnedFd, other: OwnedFd) -> bool:
    """Two files that are open for reading."""
    if os.fstat(one.fd).st_size != os.fstat(other.fd).st_size:
        return False
    return all(first == second for first, second in itertools.zip_longest(_units(one), _units(other)))


def _units(file: OwnedFd) -> Iterator[tuple[int, bytes]]:
    """(offset, what is there) of everything but the stretches, in order, in units; the last may be shorter."""
    for start, stop in _stretches_of_data(file):
        while start < stop:
            block = os.pread(file.fd, min(_READ_BYTES, stop - start), start)
            if not block:
                return  # it became shorter
            for place in range(0, len(block), UNIT_BYTES):
                unit = block[place : place + UNIT_BYTES]
                if unit != _ZEROS:
                    yield start + place, unit
            start += len(block)


def _stretches_of_data(file: OwnedFd) -> Iterator[tuple[int, int]]:
    """What is not known to be a hole, widened to whole units; the end of a file always is."""
    size = os.fstat(file.fd).st_size
    last = size - size % UNIT_BYTES
    done = 0
    while done < last:
        try:
            start = os.lseek(file.fd, done, os.SEEK_DATA)
            stop = os.lseek(file.fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # holes up to the end
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            start, stop = done, last  # a file system without: all is data
        start = max(done, start - start % UNIT_BYTES)
        done = min(last, -(-stop // UNIT_BYTES) * UNIT_BYTES)
        if start < done:
            yield start, done
    if last < size:
        yield last, size
