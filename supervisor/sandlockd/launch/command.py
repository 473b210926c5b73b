"""Which file a command is: what execvp(3) would find, told apart from what it would not."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"


class CommandError(Exception):
    """The command cannot be run. exit_status: 126 or 127, as a shell's."""

    def __init__(self, exit_status: int, text: str, *, is_no_directory: bool = False) -> None:
        super().__init__(text)
        self.exit_status = exit_status
        self.is_no_directory = is_no_directory  # of no interest while PATH is searched


def find_command(name: bytes, environment: Mapping[bytes, bytes], directory: bytes | None) -> bytes:
    """The path to execute, as execvp(3) would name it: a script sees it as its $0.

    directory: where a relative path starts; None: the working directory.

    Raises:
        CommandError: 127 not found, 126 a directory or not executable.
    """
    shown = os.fsdecode(name)
    if not name:
        raise CommandError(127, "the command is empty: no such file")
    if b"/" in name:
        _check(name, directory, shown)
        return name
    problem: CommandError | None = None
    for part in environment.get(b"PATH", DEFAULT_PATH).split(b":"):
        path = os.path.join(part or b".", name)
        try:
            _check(path, directory, shown)
            return path
        except CommandError as error:
            if error.exit_status == 126 and not error.is_no_directory and problem is None:
                problem = error
    if problem is not None:
        raise problem
    raise CommandError(127, f"{shown}: command not found in PATH")


def located(path: bytes, directory: bytes | None) -> bytes:
    """Where the path leads from the directory that the program starts in."""
    return path if directory is None else os.path.join(directory, path)


def _check(path: bytes, directory: bytes | None, shown: str) -> None:
    place = located(path, directory)
    try:
        mode = os.stat(place).st_mode
    except FileNotFoundError:
        raise CommandError(127, f"{shown}: no such file") from None
    except OSError as error:
        raise CommandError(
            126, f"{shown}: {error.strerror}", is_no_directory=isinstance(error, NotADirectoryError)
        ) from None
    if stat.S_ISDIR(mode):
        raise CommandError(126, f"{shown}: is a directory")
    if not stat.S_ISREG(mode) or not os.access(place, os.X_OK):
        raise CommandError(126, f"{shown}: not an executable file; chmod +x makes a script one")
