"""By which way a path goes: name by name, from where the caller stands, as the kernel would walk it for the caller.

Where it ends does not tell enough: `/proc/1234/../version` ends at a file that everybody may see, and for a number that
is free it does not. So each name that is looked for in /proc is judged, in the opened directory, whatever led there:
`..`, a symbolic link, a magic link, a descriptor.
"""

from __future__ import annotations

import errno
import os
import re
import stat

from sandlockd.handlers import procfiles
from sandlockd.handlers.private import members
from sandlockd.kernel import acts, procfs
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from sandlockd.handlers.context import Caller

    # Where the way comes by something that does not exist: is that the last name?
    Missing = Literal["last", "before"]

_LINKS_MAX = 40  # path_resolution(7)
_OF_PROCESS = re.compile(rb"\A(\d+)(?:/task/\d+)?(?=/|\Z)")
_ELSEWHERE = b"0"  # nobody has this number, nor what is below it
# Spelled out, and with nothing behind a link: what comes after the number cannot lead to another process.
_PLAIN = re.compile(rb"/proc(?:/(?:(\d+)|[a-z-]+))?(/task(?:/\d+(?:/\w+)?)?|/\w+)?")
# In each there is a directory or file for each network interface of the machine.
_OF_INTERFACES = re.compile(
    rb"(?:sys/net/ipv[46]/(?:conf|neigh)|\d+/(?:task/\d+/)?net/dev_snmp6)(?:/([^/]+).*)?"
)
_INTERFACES_OF_ALL = (b"all", b"default", b"lo")
_NUMBERED = re.compile(rb"/proc/(\d+)(?:/|$)")


def missing(
    caller: Caller, text: bytes, dirfd: int, *, follow: bool, in_root: bool = False
) -> Missing | None:
    """Does the path come by something that does not exist for the caller? None: no, or the kernel finds an error.

    in_root: what the path starts from is its `/` (RESOLVE_IN_ROOT).
    Raises Gone, MayWait, and OSError where we could not look.
    """
    plain = None if caller.context.hidden or in_root else _PLAIN.fullmatch(text)
    if plain is not None:
        number = int(plain[1] or 0)
        if not number or number in (caller.tid, caller.tgid) or members.belongs(caller.context, number):
            return None
        return "before" if plain[2] else "last"
    try:
        if not in_root and _is_elsewhere(caller, text, dirfd):
            return None
        with _Walk(caller) as walk:
            return walk.go(text, dirfd, follow=follow, in_root=in_root)
    except OSError as error:
        if is_ours(error):
            raise
        return None


def is_ours(error: OSError) -> bool:
    """Did we lack what the kernel needs none of? Then it finds what is there: the call must not be left to it."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _is_elsewhere(caller: Caller, text: bytes, dirfd: int) -> bool:
    """C tells of most paths, at a tenth of the cost, that they do not come by /proc. Not for a worker."""
    if caller.context.index is None:
        return False
    try:
        base = b"" if text.startswith(b"/") else os.readlink(procfs.directory_of(caller.tid, dirfd))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False  # deeper than a path can tell: but there is a way up
    caller.require_alive()
    if base[:1] != b"/" and text[:1] != b"/":
        return False
    return not caller.context.engine.comes_by_asker(base, text)


def is_missing(caller: Caller, path: bytes) -> bool:
    """Of an absolute path by its letters, canonical up to there: is the first name in /proc a stranger's number?"""
    match = _NUMBERED.match(path)
    return match is not None and not members.belongs(caller.context, int(match[1]))


def exists(caller: Caller, inside: bytes) -> bool:
    """Of a path relative to /proc, canonical: is it there for the caller?"""
    first = inside.partition(b"/")[0]
    if first.isdigit() and not members.belongs(caller.context, int(first)):
        return False
    match = _OF_INTERFACES.fullmatch(inside)
    if match is not None and match[1] is not None and match[1] not in _INTERFACES_OF_ALL:
        return False
    hidden = caller.context.hidden
    return not hidden or b"/proc/" + _OF_PROCESS.sub(b"self", inside, count=1) not in hidden


def lists_interfaces(inside: bytes) -> bool:
    """Is it a directory of theirs? What it has of the machine's own does not exist for the program."""
    match = _OF_INTERFACES.fullmatch(inside)
    return match is not None and match[1] is None


class _Walk:
    """Owns the directory that it has come to."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._files = caller.context.files
        self._at: OwnedFd | None = None
        self._todo: list[bytes] = []  # the next name last
        self._links = 0
        self._root: OwnedFd | None = None  # what the walk is confined to

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for owned in (self._at, self._root):
            if owned is not None:
                owned.close()

    def go(self, text: bytes, dirfd: int, *, follow: bool, in_root: bool) -> Missing | None:
        """Raises OSError where the kernel will find an error as well."""
        caller = self._caller
        if text.startswith(b"/") and not in_root:
            self._enter(self._open(None, b"/"))
        else:
            self._enter(self._files.jump(procfs.directory_of(caller.tid, dirfd)))
            caller.require_alive()
            if self._is_missing(self._inside()):
                return "before"
        if in_root:
            self._root = OwnedFd(os.dup(self._directory.fd))
        self._prepend(text)
        follow = follow or text.endswith(b"/")
        while self._todo:
            if not self._step(self._todo.pop(), follow=follow):
                return "before" if self._todo else "last"
        return None

    @property
    def _directory(self) -> OwnedFd:
        assert self._at is not None
        return self._at

    def _enter(self, directory: OwnedFd) -> None:
        if self._at is not None:
            self._at.close()
        self._at = directory

    def _open(self, base: OwnedFd | None, name: bytes, flags: int = 0) -> OwnedFd:
        return self._files.open(base, name, os.O_PATH | flags, identity=self._caller.identity)

    def _prepend(self, path: bytes) -> None:
        self._todo += [name for name in path.split(b"/") if name][::-1]

    def _inside(self) -> bytes | None:
        """Where in /proc the walk is; None: elsewhere."""
        if not self._files.run(acts.is_procfs, self._directory):
            return None
        inside = procfiles.below_mount(self._caller.describe(self._directory).path)
        # Mounted elsewhere, of some other namespace perhaps: its numbers are nobody's.
        return _ELSEWHERE if inside is None else inside

    def _is_missing(self, inside: bytes | None) -> bool:
        return bool(inside) and not exists(self._caller, inside or b"")

    def _step(self, name: bytes, *, follow: bool) -> bool:
        """False: there is no such thing."""
        if name == b".":
            return True
        if name == b"..":
            if self._root is None or not os.path.sameopenfile(self._root.fd, self._directory.fd):
                self._enter(self._open(self._directory, b".."))
            return True
        follow = follow or bool(self._todo)
        inside = self._inside()
        if inside is not None:
            if self._is_asker(inside, name) and follow:
                return True
            if self._is_missing(b"/".join((inside, name)) if inside else name):
                return False
        child = self._open(self._directory, name, os.O_NOFOLLOW)
        if not follow or self._files.run(acts.kind_of, child) != stat.S_IFLNK:
            self._enter(child)
            return True
        with child:
            self._follow(child, inside, name)
        return True

    def _is_asker(self, inside: bytes, name: bytes) -> bool:
        """`self` would be us: the names that stand for it are put in its place."""
        instead: Iterable[bytes] = ()
        if not inside and name == b"self":
            instead = (b"%d" % self._caller.tgid,)
        elif not inside and name == b"thread-self":
            instead = (b"%d" % self._caller.tid, b"task", b"%d" % self._caller.tgid)
        if instead and exists(self._caller, name):
            self._todo += instead
            return True
        return False

    def _follow(self, link: OwnedFd, inside: bytes | None, name: bytes) -> None:
        self._links += 1
        if self._links > _LINKS_MAX:
            raise OSError("too many links")
        if inside is not None and _OF_PROCESS.match(inside):
            self._enter(self._open(self._directory, name))  # a magic one: it leads to an object
            return
        target = self._files.run(acts.read_link, link, b"")
        if target.startswith(b"/"):
            self._enter(self._open(None, b"/") if self._root is None else OwnedFd(os.dup(self._root.fd)))
        self._prepend(target)
