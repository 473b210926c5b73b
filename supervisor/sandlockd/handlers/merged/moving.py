"""chdir and execve in a tree: the kernel does them where it finds what the program sees; else it is told to enter or
execute an injected descriptor (native/rewrite.c), so that the process really is there.

A script cannot be executed by a descriptor that is closed on exec, and would call itself /dev/fd/N. So its first line
is read here, as the kernel reads it (fs/binfmt_script.c), and the interpreter is executed with the arguments that the
kernel would have made: the script is called what the program called it. They go to a page that the caller maps first.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from sandlockd.handlers import interpreters, lookup, record
from sandlockd.handlers.answers import LANDLOCK_FILES, Backstop, Continue, Errno, Restart
from sandlockd.handlers.leased import read_at_once
from sandlockd.handlers.merged.doing import Call, denied, kernel_finds
from sandlockd.handlers.merged.opening import open_by_name
from sandlockd.handlers.merged.places import Elsewhere, Place, resolve
from sandlockd.kernel import acts, beneath, memory
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import AT_FDCWD
from sandlockd.kernel.syscalls import number_of
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.lookup import Goal
from sandlockd.policy.verdict import FileIdentity, Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.answers import Answer

_SEEN = Continue(Backstop.ONLY_TELLS)
_AT_EMPTY_PATH, _AT_SYMLINK_NOFOLLOW = 0x1000, 0x100
_INTERPRETERS_MAX = 4  # exec_binprm of fs/exec.c: then ELOOP
_POINTERS_AT_ONCE = 512
_ARGUMENTS_MAX = 1 << 20
_PAGE = 4096
_PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS = 3, 0x22
_NOWHERE = (1 << 64) - 1


# ---- chdir


def change_directory(call: Call) -> Answer | Elsewhere:
    place = call.place(Goal.FOLLOW)
    if isinstance(place, Elsewhere):
        return place
    found = place.found
    if found.kind is not Kind.DIRECTORY:
        return Errno(errno.ENOTDIR)
    access = found.view.access
    try:
        if access is not None:
            access.search(found)
    except FsError as error:
        return Errno(error.errno)
    if kernel_finds(call, place, follow=True):
        return _SEEN
    with place.tree.open_described(found) as described:
        if not call.caller.act(beneath.may_access, described, os.X_OK):
            return Errno(errno.EACCES)
        if not call.caller.act(beneath.may_access, described, os.R_OK):
            if kernel_finds(call, place, follow=True, in_upper=True):
                return _SEEN  # from where it is in the upper
            # What we inject lists it, and another thread may take a duplicate of that meanwhile.
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            return open_by_name(call, place, flags, enters=True) or Errno(errno.EACCES)
    layer = place.tree.storage.workdir if found.lower is not None else place.tree.storage.upper
    return enter(beneath.open_below(layer.fd, found.path, os.O_RDONLY | os.O_DIRECTORY))


def enter(directory: OwnedFd) -> Answer:
    """Takes the descriptor."""
    return Restart(Backstop.OWN_DESCRIPTORS, number_of("fchdir"), (0,) * 6, directory.take(), returns=True)


# ---- execve


def execute(call: Call) -> Answer | Elsewhere:
    if not call.caller.request.path:
        return Elsewhere(None)
    is_at = call.name == "execveat"
    if is_at and call.arg(4) & ~(_AT_EMPTY_PATH | _AT_SYMLINK_NOFOLLOW):
        return Errno(errno.EINVAL)
    follow = not (is_at and call.arg(4) & _AT_SYMLINK_NOFOLLOW)
    place = call.place(Goal.FOLLOW if follow else Goal.NOFOLLOW)
    if isinstance(place, Elsewhere):
        return place
    if place.found.kind is Kind.SYMLINK:
        return Errno(errno.ELOOP)
    refusal = denied(call, place, Want.EXECUTE)
    if refusal is not None:
        return refusal
    return _Execution(call).run(place)


def execute_outside(call: Call, text: bytes) -> Answer:
    """What a link of a tree leads to."""
    return _Execution(call).run(Elsewhere(text))


class _Execution:
    """One execve under way. words: what comes before the program's own arguments, from the second on."""

    def __init__(self, call: Call) -> None:
        self.call = call
        first = 1 if call.name == "execveat" else 0
        self.path_address = call.arg(first)
        self.arguments_address, self.environment_address = call.arg(first + 1), call.arg(first + 2)

    def run(self, target: Place | Elsewhere) -> Answer:
        words: list[bytes] = []
        name = self._written_name()
        for _ in range(_INTERPRETERS_MAX + 1):
            opened = self._open(target)
            if not isinstance(opened, OwnedFd):
                return opened
            with opened:
                line = self._first_line(opened)
                if self.call.caller.context.hidden is not None and not self._is_shown(opened, line):
                    return Errno(errno.ENOENT)
                is_known = (
                    not words and isinstance(target, Place) and kernel_finds(self.call, target, follow=True)
                )
                if line is None:
                    if is_known:
                        return LANDLOCK_FILES
                    return self._binary(opened, words)
                if not is_known and beneath.is_being_written(opened):
                    return Errno(errno.ETXTBSY)
                interpreter, argument = line
                if not interpreter:
                    return Errno(errno.ENOEXEC)
                after = resolve(self.call.caller, interpreter, AT_FDCWD, Goal.FOLLOW)
                if is_known and isinstance(after, Elsewhere):
                    return LANDLOCK_FILES  # the kernel finds both
            words = [interpreter, *([argument] if argument else []), name, *words[1:]]
            name, target = interpreter, after
            if isinstance(target, Elsewhere) and target.text is None:
                target = Elsewhere(interpreter)
        return Errno(errno.ELOOP)

    def _first_line(self, opened: OwnedFd) -> tuple[bytes, bytes] | None:
        head = self.call.caller.context.files.run(acts.first_bytes, opened, interpreters.FIRST_LINE)
        return interpreters.of_script(head)

    def _is_shown(self, opened: OwnedFd, line: tuple[bytes, bytes] | None) -> bool:
        """The kernel would tell whether the interpreter is a process's that does not exist for the program."""
        from sandlockd.handlers.private import executing  # only where it is wanted

        caller = self.call.caller
        return executing.is_shown(caller, executing.loader(caller, opened) if line is None else line[0])

    def _written_name(self) -> bytes:
        """What a script is called: the path as it was written, from a descriptor through /dev/fd (execveat(2))."""
        text = self.call.text()
        dirfd = lookup.dirfd_of(self.call.caller)
        return text if text.startswith(b"/") or dirfd == AT_FDCWD else b"/dev/fd/%d/%b" % (dirfd, text)

    def _open(self, target: Place | Elsewhere) -> OwnedFd | Answer:
        """That file, for reading, if it may be executed."""
        caller = self.call.caller
        if isinstance(target, Place):
            if target.found.kind is not Kind.FILE:
                return Errno(errno.EACCES)
            refusal = denied(self.call, target, Want.EXECUTE)
            if refusal is not None:
                return refusal
            seen = target.tree.open_shown(target.found)
        else:
            assert target.text is not None
            seen = lookup.open_object(caller, lookup.place_of(caller, target.text, AT_FDCWD), follow=True)
        with seen:
            if isinstance(target, Elsewhere):
                found = caller.describe(seen)
                if not stat.S_ISREG(found.mode) or found.proc:
                    return Errno(errno.EACCES)
                identity = FileIdentity(found.device, found.inode)
                verdict = caller.context.rules.judge(found.path, Want.EXECUTE, identity)
                if not verdict.allowed:
                    return record.refuse(verdict, path=found.path, wanted=Want.EXECUTE)
            if not caller.act(beneath.may_access, seen, os.X_OK):
                return Errno(errno.EACCES)
            # As the caller: another of its threads may read from the descriptor. What it may execute and not read
            # it does not execute here.
            return read_at_once(seen, caller.act, caller.wait_for)

    def _binary(self, opened: OwnedFd, words: list[bytes]) -> Answer:
        execveat = number_of("execveat")
        if not words:
            empty = self.path_address + len(self.call.text())  # its NUL is an empty path
            args = (0, empty, self.arguments_address, self.environment_address, _AT_EMPTY_PATH, 0)
            return Restart(LANDLOCK_FILES.backstop, execveat, args, opened.take(), returns=False)
        scratch = self._scratch(words)
        if not isinstance(scratch, int):
            return scratch
        args = (0, scratch, scratch + 8, self.environment_address, _AT_EMPTY_PATH, 0)
        return Restart(LANDLOCK_FILES.backstop, execveat, args, opened.take(), returns=False)

    def _scratch(self, words: list[bytes]) -> int | Answer:
        """The address of an empty string, 8 bytes long, in the caller's memory; behind it is the argument vector."""
        caller = self.call.caller
        own = self._own_arguments()
        vector_bytes = 8 * (len(words) + len(own) + 1)
        size = 8 + vector_bytes + sum(len(word) + 1 for word in words)
        mapped = caller.context.engine.restart_result(caller.tid)
        if mapped is None:
            args = (0, (size + _PAGE - 1) & -_PAGE, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, _NOWHERE, 0)
            return Restart(Backstop.OWN_MEMORY, number_of("mmap"), args, -1, returns=True, again=True)
        if mapped < 0 and mapped > -4096:
            return Errno(-mapped)
        addresses, texts, at = [], b"", mapped + 8 + vector_bytes
        for word in words:
            addresses.append(at + len(texts))
            texts += word + b"\0"
        vector = struct.pack(f"={len(words) + len(own) + 1}Q", *addresses, *own, 0)
        caller.require_alive()
        memory.write_memory(caller.tid, mapped, bytes(8) + vector + texts)
        return mapped

    def _own_arguments(self) -> list[int]:
        """The addresses of the program's arguments, without the first. Raises OSError: EFAULT, E2BIG."""
        found: list[int] = []
        at = self.arguments_address
        while at and len(found) < _ARGUMENTS_MAX:
            # Page by page: what follows the last one may not be mapped.
            count = min(_POINTERS_AT_ONCE, (_PAGE - at % _PAGE) // 8 or 1)
            data = memory.read_memory(self.call.caller.tid, at, 8 * count)
            for (address,) in struct.iter_unpack("=Q", data):
                if not address:
                    return found[1:]
                found.append(address)
            at += 8 * count
        if at:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        return []
