"""Files of /proc that name objects: told as programs know them, where the kernel would name what an upper has.

`maps` and its like, `fdinfo` and `locks`. Where nothing of an upper directory comes up, the program gets the kernel's
own file; else a sealed copy of what it said when it was opened, with the names and numbers of the tree.
"""

from __future__ import annotations

import os
import re
from functools import partial

from sandlockd.handlers import copies
from sandlockd.handlers.answers import Fd, Later
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.entries import FsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.handlers.answers import Answer
    from sandlockd.handlers.context import Caller
    from sandlockd.kernel.numbers import Number
    from sandlockd.store.tree import Tree

    Tell = Callable[[Caller, bytes], bytes]

_READ_BYTES = 1 << 18
_AT_ONCE_BYTES = 1 << 16  # on the loop; some 600 mappings
_DELETED = b" (deleted)"
_NAME_COLUMN = (
    72  # show_vma_header_prefix of fs/proc/task_mmu.c: the head is filled up, and one space follows
)
_MAPPING = re.compile(
    rb"^([0-9a-f]+-[0-9a-f]+ \S{4} [0-9a-f]+ )([0-9a-f]+:[0-9a-f]+) (\d+) +(/.*)$", re.MULTILINE
)
_NUMA_FILE = re.compile(rb" file=(/\S+)")
_OCTAL = re.compile(rb"\\([0-7]{3})")
_INODE = re.compile(rb"^ino:\t(\d+)$", re.MULTILINE)
_WATCH = re.compile(rb"^(inotify wd:\S+ ino:)([0-9a-f]+) sdev:([0-9a-f]+)", re.MULTILINE)
_LOCK = re.compile(rb"(?<= )([0-9a-f]+:[0-9a-f]+):(\d+)(?= \d+ )")
_IN_DESCRIPTORS = re.compile(rb"(/proc/\d+/(?:task/\d+/)?)fdinfo/(\d+)")


def tell(caller: Caller, path: bytes, file: OwnedFd, *, close_on_exec: bool) -> Answer | Later | None:
    """What is served instead of a file of /proc, opened for reading: path. None: the file itself."""
    if not caller.context.trees:
        return None
    leaf = path.rpartition(b"/")[2]
    described = _IN_DESCRIPTORS.fullmatch(path)
    if described is not None:
        return _told(
            caller, file, partial(_descriptor, link=described[1] + b"fd/" + described[2]), close_on_exec
        )
    if path == b"/proc/locks":
        return _told(caller, file, locks, close_on_exec)
    if leaf == b"maps" and _is_short(file):
        return _told(caller, file, _mappings, close_on_exec)
    if leaf in (b"maps", b"smaps", b"numa_maps"):
        # Of many mappings, and of all their pages, which are counted: that may take long.
        tell_all = _numa_mappings if leaf == b"numa_maps" else _mappings
        held = OwnedFd(os.dup(file.fd))
        work = partial(_told_or_itself, caller, held, tell_all, close_on_exec)
        return Later(work, lambda answer: answer, held.close)
    return None


def _told_or_itself(caller: Caller, held: OwnedFd, tell: Tell, close_on_exec: bool) -> Answer:
    with held:
        return _told(caller, held, tell, close_on_exec) or Fd(held.take(), close_on_exec)


def _is_short(file: OwnedFd) -> bool:
    """A file of /proc tells a page at a time."""
    left = _AT_ONCE_BYTES
    while left > 0:
        size = len(os.read(file.fd, left))
        if not size:
            break
        left -= size
    os.lseek(file.fd, 0, os.SEEK_SET)
    return left > 0


def _told(caller: Caller, file: OwnedFd, tell: Tell, close_on_exec: bool) -> Answer | None:
    parts: list[bytes] = []
    while block := os.read(file.fd, _READ_BYTES):
        parts.append(block)
    text = b"".join(parts)
    told = tell(caller, text)
    if told != text:
        return copies.give(caller, told, close_on_exec=close_on_exec)
    os.lseek(file.fd, 0, os.SEEK_SET)
    return None


# ---- numbers


def _told_number(tree: Tree, inode: int) -> Number:
    """Of an object that is in the upper for sure."""
    return tree.origins.told(inode)


def _device(tree: Tree, device: int, written: bytes) -> bytes:
    """As it is written, unless another one is told: btrfs writes others here than stat tells."""
    if device == os.fstat(tree.storage.upper.fd).st_dev:
        return written
    return b"%02x:%02x" % (os.major(device), os.minor(device))


def _upper_number(caller: Caller, device: int, inode: int) -> tuple[Tree, Number] | None:
    """Of an object that is known by its number alone. On the device of the lower tree only copies are known so."""
    for tree in caller.context.trees:
        if os.fstat(tree.storage.upper.fd).st_dev == device:
            told = tree.origins.told(inode)
            if told != (device, inode) and (told[0] != device or tree.origins.is_copy(inode)):
                return tree, told
    return None


# ---- mappings


def _mappings(caller: Caller, text: bytes) -> bytes:
    return _MAPPING.sub(partial(_mapping, caller), text)


def _mapping(caller: Caller, match: re.Match[bytes]) -> bytes:
    head, device, inode, written = match.groups()
    path = written.replace(b"\\012", b"\n")
    for tree in caller.context.trees:
        in_upper = path.startswith(tree.upper_path + b"/")
        if not in_upper and not tree.may_hold(path):
            continue
        name = _name(caller, tree, path, int(inode))
        if in_upper:
            told_device, told_inode = _told_number(tree, int(inode))
            device, inode = _device(tree, told_device, device), b"%d" % told_inode
        filled = (b"%b%b %b " % (head, device, inode)).ljust(_NAME_COLUMN)
        return filled + b" " + name.replace(b"\n", b"\\012")
    return match[0]


def _numa_mappings(caller: Caller, text: bytes) -> bytes:
    return _NUMA_FILE.sub(partial(_numa_file, caller), text)


def _numa_file(caller: Caller, match: re.Match[bytes]) -> bytes:
    path = _OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), match[1])
    for tree in caller.context.trees:
        if path.startswith(tree.upper_path + b"/") or tree.may_hold(path):
            name = _name(caller, tree, path, None)
            return b" file=" + re.sub(rb"[\n\t= ]", lambda char: b"\\%03o" % ord(char[0]), name)
    return match[0]


def _name(caller: Caller, tree: Tree, real: bytes, inode: int | None) -> bytes:
    """What the program calls an object of the tree; inode: its own, None where that is not known."""
    with caller.context.trees_held():
        name = tree.virtual_path(real)
        if name is None:
            return real
        if name.endswith(_DELETED) or inode is None:
            return name
        return name if _is_there(caller, tree, name, inode) else name + _DELETED


def _is_there(caller: Caller, tree: Tree, name: bytes, inode: int) -> bool:
    """Does the name still show this object, or the copy of it?"""
    try:
        found = tree.side(caller.identity).view.at(tree.inside(name))
    except FsError:
        return True
    if found is None or found.visible is None:
        return False
    if inode in (entry.inode for entry in (found.lower, found.upper) if entry is not None):
        return True
    return found.upper is not None and tree.origins.told(found.upper.inode)[1] == inode


# ---- descriptors and locks


def _descriptor(caller: Caller, text: bytes, *, link: bytes) -> bytes:
    text = _WATCH.sub(partial(_watch, caller), locks(caller, text))
    try:
        target = os.readlink(link)
        trees = [tree for tree in caller.context.trees if target.startswith(tree.upper_path + b"/")]
        if not trees:
            return text
        status = os.stat(link)
    except OSError:
        return text
    for tree in trees:
        if status.st_dev == os.fstat(tree.storage.upper.fd).st_dev:
            return _INODE.sub(b"ino:\t%d" % _told_number(tree, status.st_ino)[1], text)
    return text


def _watch(caller: Caller, match: re.Match[bytes]) -> bytes:
    device = int(match[3], 16)  # as the kernel has it in itself (MKDEV of linux/kdev_t.h)
    found = _upper_number(caller, os.makedev(device >> 20, device & 0xFFFFF), int(match[2], 16))
    if found is None:
        return match[0]
    _, (told_device, inode) = found
    return b"%b%x sdev:%x" % (match[1], inode, os.major(told_device) << 20 | os.minor(told_device))


def locks(caller: Caller, text: bytes) -> bytes:
    return _LOCK.sub(partial(_lock, caller), text)


def _lock(caller: Caller, match: re.Match[bytes]) -> bytes:
    major, minor = (int(number, 16) for number in match[1].split(b":"))
    found = _upper_number(caller, os.makedev(major, minor), int(match[2]))
    if found is None:
        return match[0]
    tree, (device, inode) = found
    return b"%b:%d" % (_device(tree, device, match[1]), inode)
