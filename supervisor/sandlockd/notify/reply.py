"""The one place that answers.

Each request is answered exactly once, or its caller is gone. What cannot be done as asked refuses; never Continue.
"""

from __future__ import annotations

import errno
from typing import assert_never

from sandlockd.handlers.answers import Continue, Errno, Fd, Kill, Restart, Settled, Value, Write
from sandlockd.kernel import memory
from sandlockd.kernel.engine import AGAIN, ENTER, LEAVE, OPEN, RETURN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlockd.kernel.engine import Engine, Request


def reply(engine: Engine, request: Request, answer: Settled, kill: Callable[[str], None]) -> int | Restart:
    """Send an answer.

    Returns: what is to be tried again in a moment, where a Restart is not to be had now; an errno where it could not
        be sent as it is and the program got another error instead, which somebody has to tell; else 0. A caller that
        is gone is nobody to answer: the engine counts it.
    """
    if isinstance(answer, Restart):
        tried = _restart(engine, request, answer)
        if isinstance(tried, Restart):
            return tried
        result = tried
    else:
        result = _send(engine, request, answer, kill)
    return 0 if result >= 0 or result == -errno.ENOENT else -result


def _send(
    engine: Engine,
    request: Request,
    answer: Continue | Errno | Value | Fd | Write | Kill,
    kill: Callable[[str], None],
) -> int:
    match answer:
        case Continue():
            return engine.answer_continue(request.slot)
        case Errno(error):
            return engine.answer_errno(request.slot, error)
        case Value(value):
            return engine.answer_value(request.slot, value)
        case Fd(fd, close_on_exec, take_back):
            if take_back is None:
                return engine.hand_over_fd(request.slot, fd, close_on_exec=close_on_exec)
            number = engine.give_fd(request.slot, fd, close_on_exec=close_on_exec)
            if number == -errno.EMFILE:
                take_back()
            return engine.answer_given(request.slot, number)
        case Write():
            return _write(engine, request, answer)
        case Kill(rule):
            result = engine.answer_errno(request.slot, errno.EACCES)
            kill(rule)
            return result
        case _:
            assert_never(answer)


def _write(engine: Engine, request: Request, answer: Write) -> int:
    # Ask before writing: the thread may have died and its number be a stranger's.
    if not engine.alive(request):
        return engine.answer_errno(request.slot, errno.EFAULT)
    try:
        memory.write_memory(request.tid, answer.address, answer.data)
    except OSError:
        return engine.answer_errno(request.slot, errno.EFAULT)
    return engine.answer_value(request.slot, answer.value)


def _restart(engine: Engine, request: Request, answer: Restart) -> int | Restart:
    end = RETURN if answer.returns else LEAVE
    if answer.again:
        end = AGAIN
    if answer.opens:
        end = OPEN
    if answer.enters:
        end = ENTER
    result = engine.answer_restart(
        request.slot, answer.nr, answer.args, end=end, fd=answer.fd, fd_argument=answer.fd_argument
    )
    if result == -errno.EAGAIN:
        return answer._replace(is_retry=True)  # its descriptor is ours still, and not in the program
    answer.abandon()
    if result < 0 and result != -errno.ENOENT:
        engine.answer_errno(request.slot, errno.EIO)  # does nothing where it was answered with EMFILE
    return result
