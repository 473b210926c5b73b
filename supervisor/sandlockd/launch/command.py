"""Which file a command is: what execvp(3) would find, told apart from what it would not."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"


class CommandError(Exception):
    """The command cannot be run. exit_status: 126 or 127, as a shell's."""

    def __init__(self, exit_status: int, text: str) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def find_command(name: bytes, environment: Mapping[bytes, bytes], directory: bytes | None) -> bytes:
    """The path to execute, as execvp(3) would name it: a script sees it as its $0.

    directory: where a relative path starts; None: the working directory.

    Raises:
        CommandError: 127 not found, 126 a directory or not executable.
    """
    problem = errno.ENOENT
    for path in candidates(name, environment):
        error = _check(located(path, directory))
        if not error:
            return path
        if problem == errno.ENOENT and (error not in _NOT_THERE or b"/" in name):
            problem = error
    raise problem_with(name, problem)


def candidates(name: bytes, environment: Mapping[bytes, bytes]) -> tuple[bytes, ...]:
    """The paths that a command may be, in their order: itself, or where PATH leads.

    Raises CommandError.
    """
    if not name:
        raise CommandError(127, "the command is empty: no such file")
    if b"/" in name:
        return (name,)
    return tuple(
        os.path.join(part or b".", name) for part in environment.get(b"PATH", DEFAULT_PATH).split(b":")
    )


_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)


def problem_with(name: bytes, error: int) -> CommandError:
    """None of the candidates was found (ENOENT, ENOTDIR), or the first one that was there cannot be executed.

    error: EISDIR; ENOEXEC: it is not executable; or what it was looked at with.
    """
    shown = os.fsdecode(name)
    if error in _NOT_THERE and b"/" not in name:
        return CommandError(127, f"{shown}: command not found in PATH")
    if error == errno.ENOENT:
        return CommandError(127, f"{shown}: no such file")
    if error == errno.EISDIR:
        return CommandError(126, f"{shown}: is a directory")
    if error == errno.ENOEXEC:
        return CommandError(126, f"{shown}: not an executable file; chmod +x makes a script one")
    return CommandError(126, f"{shown}: {os.strerror(error)}")


def located(path: bytes, directory: bytes | None) -> bytes:
    """Where the path leads from the directory that the program starts in."""
    return path if directory is None else os.path.join(directory, path)


def _check(place: bytes) -> int:
    """0, or an errno, as problem_with has them. native/child.c does the same for a further program."""
    try:
        mode = os.stat(place).st_mode
    except OSError as error:
        return error.errno or errno.EIO
    if stat.S_ISDIR(mode):
        return errno.EISDIR
    return 0 if stat.S_ISREG(mode) and os.access(place, os.X_OK) else errno.ENOEXEC
