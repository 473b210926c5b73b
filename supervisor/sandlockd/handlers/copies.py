"""What is handed over in the place of a file: a sealed copy of what the program is told."""

from __future__ import annotations

import errno
import os

from sandlockd.handlers.answers import Fd
from sandlockd.kernel import sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.handlers.context import Caller


def give(caller: Caller, text: bytes, *, close_on_exec: bool) -> Fd:
    """Where memory is limited it counts, as what memfd_create makes: a program can keep many open. Raises OSError."""
    memory = caller.context.memory
    if memory is not None and not memory.asks(len(text)):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    with sealed.file_of(text) as file:
        if memory is not None and not memory.is_by_group:
            memory.note(file)
        return Fd(file.take(), close_on_exec)
