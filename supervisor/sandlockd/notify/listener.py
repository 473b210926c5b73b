"""The state of a listener, as poll(2) tells it."""

from __future__ import annotations

import enum

from sandlockd.kernel import engine as engines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.kernel.engine import Engine


class NotifFdState(enum.Enum):
    """PENDING: something to receive. EMPTY: wait. TERMINAL: the last task with the filter is gone, nothing will come.

    RECV blocks on an empty queue whatever O_NONBLOCK says, so it follows PENDING only. POLLHUP, POLLERR and POLLNVAL
    without POLLIN are TERMINAL: waiting on would be a busy loop.
    """

    EMPTY = engines.EMPTY
    PENDING = engines.PENDING
    TERMINAL = engines.TERMINAL


def state_of(engine: Engine) -> NotifFdState:
    return NotifFdState(engine.listener_state())
