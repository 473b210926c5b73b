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

    def __init__(self, exit_status: int, text: str) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def find_command(name: bytes, environment: Mapping[bytes, bytes], directory: bytes | None) -> bytes:
    """The absolute path of an executable file.

    directory: where a relative path starts; None: the working directory.

    Raises:
        CommandError: 127 not found, 126 a directory or not executable.
    """
    shown = os.fsdecode(name)
    base = directory or os.getcwdb()
    if b"/" in name:
        return _checked(os.path.join(base, name), shown)
    problem: CommandError | None = None
    for part in environment.get(b"PATH", DEFAULT_PATH).split(b":"):
        try:
            return _checked(os.path.join(base, part, name), shown)
        except CommandError as error:
            if error.exit_status == 126 and problem is None:
                problem = error
    if problem is not None:
        raise problem
    raise CommandError(127, f"{shown}: command not found in PATH")


def _checked(path: bytes, shown: str) -> bytes:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise CommandError(127, f"{shown}: no such file") from None
    except OSError as error:
        raise CommandError(126, f"{shown}: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise CommandError(126, f"{shown}: is a directory")
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK):
        raise CommandError(126, f"{shown}: not an executable file; chmod +x makes a script one")
    return path
