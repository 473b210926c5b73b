"""What a supervisor tells the control plane, in turn: what does not go out now goes a little later.

A program that stops, goes on and is refused all the time fills no memory with it.
"""

from __future__ import annotations

import errno
import os
import select
import time

from sandlockd.audit.records import Failure
from sandlockd.control import messages
from sandlockd.control.channel import Closed
from sandlockd.control.messages import Continued, Denied, Ended, Said, Stopped
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.audit.log import AuditLog
    from sandlockd.audit.records import Refusal
    from sandlockd.control.channel import Channel

_LAST_WORD_PATIENCE_MS = 10_000
_UNSENT_MAX = 64
_DENIED_PER_S = 20
_TARGET_CHARACTERS, _RULE_CHARACTERS = 512, 256


class Teller:
    """channel: borrowed. is_alone: the control plane is gone."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._unsent: list[tuple[messages.Message, OwnedFd | None]] = []
        self._said = 0
        self._denied_left, self._denied_at, self._denied_unsaid = float(_DENIED_PER_S), time.monotonic(), 0
        self.is_alone = False

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def tell(self, message: messages.Message, beside: OwnedFd | None = None) -> None:
        """Never waits. beside: goes with it; stays the caller's.

        Of what is said for people only some is kept for later, and of stops that are over nothing.
        """
        unsent = self._unsent
        last = unsent[-1][0] if unsent else None
        if isinstance(message, Said) and len(unsent) >= _UNSENT_MAX:
            return
        if (isinstance(message, Continued) and isinstance(last, Stopped)) or (
            isinstance(message, Stopped) and isinstance(last, (Stopped, Continued))
        ):
            unsent.pop()
        unsent.append((message, None if beside is None else OwnedFd(os.dup(beside.fd))))
        self.send_on()

    def send_on(self) -> bool:
        """True: nothing is left to be sent, or nobody to send it to."""
        try:
            while self._unsent:
                message, beside = self._unsent[0]
                self._channel.send(message, () if beside is None else (beside.fd,))
                if beside is not None:
                    beside.close()
                del self._unsent[0]
        except BlockingIOError:
            return False
        except Closed:
            self.is_alone = True
        return True

    def say(self, text: str) -> None:
        """One line for a person."""
        self._said += 1
        if self._said <= messages.MAX_LINES:
            # Who reads this asks the service why, which may keep its runs elsewhere.
            text = text.replace("sandlockd explain ", "sandlockctl explain ")
            self.tell(Said(messages.line(text)))

    def denied(self, audit: AuditLog, event: Refusal | Failure, count: int) -> None:
        """For AuditLog.on_refusal. Never waits, never raises. A program may be refused in any number of ways."""
        now = time.monotonic()
        self._denied_left = min(
            self._denied_left + (now - self._denied_at) * _DENIED_PER_S, float(_DENIED_PER_S)
        )
        self._denied_at = now
        if self._denied_left < 1 or len(self._unsent) >= _UNSENT_MAX:
            self._denied_unsaid += 1
            return
        self._denied_left -= 1
        refusal = event.refusal if isinstance(event, Failure) else event
        target = refusal.path if refusal.path is not None else refusal.target
        text = target.decode("utf-8", "backslashreplace") if isinstance(target, bytes) else str(target or "")
        said, self._denied_unsaid = self._denied_unsaid, 0
        rule = refusal.rule[:_RULE_CHARACTERS]
        self.tell(Denied(refusal.call, text[:_TARGET_CHARACTERS], rule, count, audit.denials, said))

    def last_word(self, message: Ended) -> None:
        """Waits. Raises TimeoutError."""
        self._unsent.append((message, None))
        deadline = time.monotonic() + _LAST_WORD_PATIENCE_MS / 1000
        while not self.send_on():
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "the control plane does not read")
            waiting = select.poll()
            waiting.register(self._channel.fileno(), select.POLLOUT)
            waiting.poll(100)
