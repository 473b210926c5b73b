"""The one place that answers.

Each request is answered exactly once, or its caller is gone. What cannot be done as asked refuses; never Continue.
"""

from __future__ import annotations

import os
from typing import assert_never

from sandlockd.handlers.answers import Answer, Continue, Errno, Fd, Kill, Value, Write
from sandlockd.kernel import memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.kernel.engine import Engine, Request

_EFAULT = 14


def reply(engine: Engine, request: Request, answer: Answer, kill: Callable[[str], None]) -> None:
    """Send an answer. A caller that is gone is nobody to answer: the engine counts it."""
    match answer:
        case Continue():
            engine.answer_continue(request.slot)
        case Errno(error):
            engine.answer_errno(request.slot, error)
        case Value(value):
            engine.answer_value(request.slot, value)
        case Fd(fd, close_on_exec):
            try:
                engine.answer_fd(request.slot, fd, close_on_exec=close_on_exec)
            finally:
                os.close(fd)
        case Write():
            _write(engine, request, answer)
        case Kill(rule):
            engine.answer_errno(request.slot, 13)
            kill(rule)
        case _:
            assert_never(answer)


def _write(engine: Engine, request: Request, answer: Write) -> None:
    # Ask before writing: the thread may have died and its number be a stranger's.
    if not engine.alive(request.slot):
        engine.answer_errno(request.slot, _EFAULT)
        return
    try:
        memory.write_memory(request.tid, answer.address, answer.data)
    except OSError:
        engine.answer_errno(request.slot, _EFAULT)
    else:
        engine.answer_value(request.slot, answer.value)
