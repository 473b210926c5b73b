"""From the path in a call to an opened object, as the caller would find it.

A relative path is looked up from the caller's own magic links (`/proc/<tid>/cwd`, `/proc/<tid>/fd/<n>`), so the
kernel walks from the very directory that the caller means. `self` below /proc means whoever asks, which here would be
us: such paths are rewritten to the caller's before they are opened. Files of procfs that still end up at our own are
the caller's again (procfiles); what lies behind our magic links is judged as any other object.
"""

from __future__ import annotations

import collections
import errno
import os
import re

from sandlockd.kernel import acts, procfs
from sandlockd.kernel.paths import AT_FDCWD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.context import Caller
    from sandlockd.kernel.fds import OwnedFd
    from sandlockd.kernel.files import Files
    from sandlockd.kernel.paths import Object
    from sandlockd.kernel.syscalls import PathOperand

# Links by which a path reaches the asker's own /proc without naming it, where the machine has them.
_ASKER = {
    b"/dev/fd": b"/proc/self/fd",
    b"/dev/stdin": b"/proc/self/fd/0",
    b"/dev/stdout": b"/proc/self/fd/1",
    b"/dev/stderr": b"/proc/self/fd/2",
    b"/etc/mtab": b"/proc/self/mounts",
}

# Of a process: what no part of the path, but the link itself, leads to.
_MAGIC_LINK = re.compile(rb"/proc/\d+/(task/\d+/)?(cwd|root|exe|fd/\d+)")

# What a call names. text: as the program wrote it. link: the caller's magic link that walk starts from, or None where
# walk is absolute. shown: absolute by its letters, for records; never what is authorised.
Place = collections.namedtuple("Place", "text link walk shown")


def normalise(path: bytes) -> bytes:
    """Take `.`, `..` and double slashes out of an absolute path, by its letters."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part and part != b".":
            parts.append(part)
    return b"/" + b"/".join(parts)


def place_of(caller: Caller, text: bytes, dirfd: int) -> Place:
    """Where a path of the call leads from. Raises OSError: ENOENT empty, EBADF or ENOTDIR a dirfd that is none."""
    if not text:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    link = None if text.startswith(b"/") else procfs.directory_of(caller.tid, dirfd)
    whole = text if link is None else _target_of(caller, link) + b"/" + text
    rewritten = as_asked_by(caller, whole)
    if rewritten is not None:
        return Place(text, None, rewritten, normalise(rewritten))
    return Place(text, link, text, normalise(whole))


def _target_of(caller: Caller, link: bytes) -> bytes:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        caller.require_alive()
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return link  # deeper than any path is long: only for showing


def as_asked_by(caller: Caller, whole: bytes) -> bytes | None:
    """What means "whoever asks", as the caller's own; None: it means the same for us.

    Only the beginning of the path is replaced, and only where no `..` comes before: what `..` behind a magic link
    means, the kernel knows. A path that gets to /proc/self in any other way ends at our own, and is seen there.
    """
    start, rest = _first_components(whole, 2)
    asker = _ASKER.get(start)
    if asker is not None and os.path.islink(start):
        whole = asker + rest
        start, rest = _first_components(whole, 2)
    if start == b"/proc/self":
        return b"/proc/%d" % caller.tgid + rest
    if start == b"/proc/thread-self":
        return b"/proc/%d/task/%d" % (caller.tgid, caller.tid) + rest
    return None


def _first_components(path: bytes, count: int) -> tuple[bytes, bytes]:
    """(the first components, normalised; the rest as it is written). Nothing first where `..` is among them."""
    first = b""
    rest = path
    while count:
        rest = rest.lstrip(b"/")
        part, slash, behind = rest.partition(b"/")
        if part == b"..":
            return b"", path
        rest = slash + behind
        if part and part != b".":
            first += b"/" + part
            count -= 1
        elif not part:
            break
    return first, rest


def is_own_process(caller: Caller, place: Place) -> bool:
    """Does the path name a descriptor of the caller's own, and nothing behind it?"""
    return (
        place.link is None
        and re.fullmatch(rb"/proc/%d/(task/\d+/)?fd/\d+/?" % caller.tgid, place.walk) is not None
    )


def operand(caller: Caller, which: int = 0) -> PathOperand:
    return caller.context.rows[caller.request.nr].paths[which]


def dirfd_of(caller: Caller, which: int = 0) -> int:
    """The dirfd argument, as the int that the kernel takes it for."""
    position = operand(caller, which).dirfd
    if position < 0:
        return AT_FDCWD
    return as_int(caller.request.args[position])


def as_int(argument: int) -> int:
    """An argument as the kernel takes it where it takes an int: the low half of the register."""
    value = int(argument) & 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def open_object(caller: Caller, place: Place, *, follow: bool, resolve: int = 0) -> OwnedFd:
    """The object itself, opened for nothing but looking (O_PATH). Raises OSError as the caller's lookup would."""
    flags = os.O_PATH | (0 if follow else os.O_NOFOLLOW)
    return _walk(caller, place, place.walk, flags, resolve)


def open_parent(caller: Caller, place: Place, resolve: int = 0) -> tuple[OwnedFd, bytes]:
    """The directory that holds, or will hold, the last name of the path; and that name.

    Raises OSError; EINVAL, EBUSY or EEXIST are the caller's to find for `.`, `..` and the root: name is then empty.
    """
    head, slash, name = place.walk.rstrip(b"/").rpartition(b"/")
    if name in (b"", b".", b".."):
        return _walk(caller, place, place.walk, os.O_PATH | os.O_DIRECTORY, resolve), b""
    directory = head or (b"/" if slash else b".")
    return _walk(caller, place, directory, os.O_PATH | os.O_DIRECTORY, resolve), name


def _walk(caller: Caller, place: Place, path: bytes, flags: int, resolve: int) -> OwnedFd:
    """From the very directory that the caller means: its link is opened as ourselves, what follows as the caller."""
    files = caller.context.files
    if place.link is None:
        if _MAGIC_LINK.fullmatch(path) and not flags & os.O_NOFOLLOW:
            return files.jump(path, flags, identity=caller.identity)
        return files.open(None, path, flags, resolve=resolve, identity=caller.identity)
    with files.jump(place.link) as base:
        caller.require_alive()
        return files.open(base, path, flags, resolve=resolve, identity=caller.identity)


def child_path(parent: Object, name: bytes) -> bytes:
    if not name:
        return bytes(parent.path)
    return bytes(parent.path.rstrip(b"/") + b"/" + name)


def describe_child(files: Files, parent: OwnedFd, name: bytes) -> Object | None:
    """What a name in an opened directory stands for, links not followed; None where there is nothing."""
    try:
        with files.open(parent, name, os.O_PATH | os.O_NOFOLLOW) as child:
            return files.run(acts.describe, child)
    except FileNotFoundError:
        return None
