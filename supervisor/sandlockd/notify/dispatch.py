"""One table from call number to handler, and what happens around a handler.

A handler that raises has refused: the program gets EACCES (a decision could not be made) or EIO (an object could not
be had), the audit log gets the cause.
"""

from __future__ import annotations

import errno
import time
from functools import partial
from typing import Any

from sandlockd.handlers.answers import (
    EACCES,
    EIO,
    Answer,
    Errno,
    Later,
    Refused,
    Restart,
    Settled,
    Value,
    when_free,
    when_over,
)
from sandlockd.kernel.aside import NotYet, Unfinished
from sandlockd.kernel.engine import (
    REASON_CROWDED,
    REASON_FAILED,
    REASON_GRANTED,
    REASON_LOOKUP,
    REASON_REFUSED,
    REASON_UNREADABLE,
    RESUMED_ACT,
)
from sandlockd.kernel.files import MayWait
from sandlockd.notify.reply import reply
from sandlockd.process.key import Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandlockd.handlers.allowed import AllowedCalls
    from sandlockd.kernel.aside import Turn
    from sandlockd.kernel.engine import Engine, Request

    Handler = Callable[[Request], Answer | Later]
    StartTask = Callable[[Callable[[], Any]], None]

_WORKERS_MAX = 256
_TRY_AGAIN_AFTER_S = 0.01
_TRY_AGAIN_AFTER_S_PER_CALL = 0.02  # a try takes 2 ms of the loop: it is for others, however many wait
# Reading the program's memory failed: what the call itself would have returned.
_MEMORY_ERRORS = frozenset((errno.EFAULT, errno.ENAMETOOLONG))


class Dispatcher:
    """Sends each request to its handler, and the handler's answer back."""

    def __init__(
        self,
        engine: Engine,
        handlers: Mapping[int, Handler],
        *,
        in_a_worker: Callable[[], Mapping[int, Handler]],
        mounts_changed: Callable[[], None],
        put_on_record: Callable[[Request, Refused], Errno],
        refused: Callable[[Request], None],
        unreadable: Callable[[Request], None],
        unserved: Callable[[Request], None],
        failed: Callable[[Request, Exception, int], None],
        unsent: Callable[[Request, Answer, int], None],
        allowed: AllowedCalls | None,
        interrupt: Callable[[Request], bool],
        poke: Callable[[int], None],
        kill: Callable[[str], None],
        as_done: Callable[[Request, Settled], Answer],
    ) -> None:
        """handlers: for the loop; they raise MayWait where in_a_worker's would wait. Most programs never need those:
        they are made when the first of them is.

        refused, unserved: answered by C, to be put on record. unreadable: will be refused.
        failed: a handler raised, and this errno is the answer. unsent: this answer could not be sent, for that errno.
        allowed: puts on record what is not refused, at audit level `all`.
        interrupt: answer a call that waits by having its caller take its pending signals; False: not to be had.
        poke: interrupt what a worker thread waits for.
        as_done: the answer to what a supervisor before us has begun, and perhaps done.
        """
        self._engine = engine
        self._handlers = handlers
        self._make_in_a_worker = in_a_worker
        self._in_a_worker: Mapping[int, Handler] | None = None
        self._mounts_changed = mounts_changed
        self._put_on_record = put_on_record
        self._refused = refused
        self._unreadable = unreadable
        self._unserved = unserved
        self._tell_failed = failed
        self._unsent = unsent
        self._allowed = allowed
        self._interrupt = interrupt
        self._poke = poke
        self._kill = kill
        self._as_done = as_done
        self._tried_again = 0  # calls that wait for their turn in _try_again
        self._awaiting_turns = 0
        self.untold = 0  # failures that could not even be put on record
        self._workers: Any = None
        self._waiting: list[Callable[[], Any]] = []
        self._start_task: StartTask | None = None

    def dispatch(self, request: Request) -> None:
        """Answer now, or start the task that will. Never raises, never waits."""
        if self._engine.is_kept:
            self._engine.handles(request)
        if request.reason in (REASON_REFUSED, REASON_CROWDED):
            self._tell(request, partial(self._refused, request))  # answered by C already
            return
        if request.reason == REASON_FAILED:
            self._tell(request, partial(self._unserved, request))
            return
        if self._allowed is not None:
            self._allowed.begin(request)
        answer = self._guarded(request, partial(self._ask, request))
        if isinstance(answer, Later):
            self._start(request, answer)
        else:
            self._send(request, answer)

    def _start(self, request: Request, later: Later) -> None:
        work = partial(self._work, request, later)
        if self._start_task is None:
            self._waiting.append(work)
            return
        try:
            self._start_task(work)
        except Exception as error:  # the loop has ended
            later.abandon()
            self._failed(request, error, EIO)
            self._send(request, EIO)

    @property
    def has_waiting(self) -> bool:
        """Is there work that only a nursery can do, and no nursery yet?"""
        return bool(self._waiting)

    def start_tasks_with(self, start_task: StartTask) -> None:
        """From now on there is a nursery; what waited for it starts."""
        self._start_task = start_task
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            start_task(work)

    def _failed(self, request: Request, error: Exception, answer: Errno) -> Errno:
        """Telling may fail as well; the program is refused all the same, and the next request has its turn."""
        try:
            self._tell_failed(request, error, answer.error)
        except Exception:
            self.untold += 1
        return answer

    def _tell(self, request: Request, tell: Callable[[], None]) -> None:
        """Put on record what is settled."""
        try:
            tell()
        except Exception as error:
            self._failed(request, error, EACCES)

    def _guarded(self, request: Request, ask: Callable[[], Answer | Later]) -> Answer | Later:
        try:
            return ask()
        except Unfinished as unfinished:
            if unfinished.has_begun:
                return when_over(unfinished, _done)
            return when_free(unfinished.job, lambda: self._from_the_start(request))
        except NotYet as busy:
            return when_free(busy.turn, partial(self._ask, request))
        except Gone:
            return EIO  # frees the slot; there is nobody to read it
        except Exception as error:
            return self._failed(request, error, EIO if isinstance(error, OSError) else EACCES)

    def _ask(self, request: Request) -> Answer | Later:
        if request.reason == REASON_UNREADABLE:
            if request.path_error in _MEMORY_ERRORS:
                return Errno(request.path_error)
            self._unreadable(request)  # a process that hides its memory from us is not let through
            return EACCES
        if request.reason == REASON_LOOKUP:
            self._mounts_changed()
        if request.reason == REASON_GRANTED and self._allowed is not None:
            return self._allowed.granted(request)
        handler = self._handlers.get(request.nr)
        if handler is None:
            raise LookupError(f"no handler for call number {request.nr}")
        try:
            return handler(request)
        except MayWait:
            return self._from_the_start(request)

    def _from_the_start(self, request: Request) -> Later:
        """All over again, where it may wait: what was looked at so far may be another by then."""
        if self._in_a_worker is None:
            self._in_a_worker = self._make_in_a_worker()
        return Later(partial(self._in_a_worker[request.nr], request), _as_it_is, _nothing)

    async def _work(self, request: Request, later: Later) -> None:
        """In a task: wait for the worker, then answer. A caller that dies meanwhile leaves its worker behind."""
        answer: Answer | Later | None = later
        try:
            while isinstance(answer, Later):
                later = answer
                answer = await self._step(request, later)
        except BaseException:
            # Cancelled: the sandbox is ending. What the worker holds is given up where it is known whether it still
            # runs (notify/waits.py): closed under it, the number of a checked object could be another one's.
            self._send(request, EIO)
            raise
        if answer is not None:
            self._send(request, answer)

    async def _step(self, request: Request, later: Later) -> Answer | Later | None:
        """None: it is answered."""
        import trio  # late: a program that ends at once never needs it

        from sandlockd.notify.waits import Interrupted, in_a_worker

        if self._workers is None:
            self._workers = trio.CapacityLimiter(_WORKERS_MAX)
        if later.until is not None:
            return await self._when_free(request, later, later.until)
        if not self._workers.available_tokens:
            later.abandon()
            # Waiting here would let one blocked open block another for ever.
            full = BlockingIOError(
                errno.EAGAIN, f"{_WORKERS_MAX} calls of the program wait in workers already"
            )
            return self._failed(request, full, Errno(errno.EAGAIN))
        try:
            result = await in_a_worker(
                request,
                later,
                self._workers,
                alive=self._engine.alive,
                interrupt=self._have_interrupted,
                poke=self._poke,
            )
        except Interrupted:
            return None
        except Gone:
            return EIO  # frees the slot; there is nobody to read it
        except OSError as error:
            return Errno(error.errno or errno.EIO)
        except Exception as error:
            return self._failed(request, error, EACCES)
        return self._guarded(request, partial(later.then, result))

    async def _when_free(self, request: Request, later: Later, turn: Turn) -> Answer | Later:
        from sandlockd.notify.waits import until_free

        self._awaiting_turns += 1
        try:
            await until_free(turn, partial(self._engine.alive, request), lambda: self._awaiting_turns)
        except BaseException as error:
            later.abandon()
            if isinstance(error, Gone):
                return EIO  # frees the slot; there is nobody to read it
            raise
        finally:
            self._awaiting_turns -= 1
        try:
            result = later.work()
        except OSError as error:
            return Errno(error.errno or errno.EIO)
        except Exception as error:
            return self._failed(request, error, EACCES)
        return self._guarded(request, partial(later.then, result))

    def _have_interrupted(self, request: Request) -> bool:
        tell = None
        try:
            if self._allowed is not None:
                tell = self._allowed.interrupted(request)
        except Exception:
            self.untold += 1
        if not self._interrupt(request):
            return False
        if tell is not None:
            try:
                tell()
            except Exception:
                self.untold += 1
        return True

    def _send(self, request: Request, answer: Answer) -> None:
        """Never raises: what was received together with this request has its turn, too."""
        try:
            if request.is_resumed == RESUMED_ACT and not isinstance(answer, Refused):
                answer = self._as_done(request, answer)
            settled: Settled = self._recorded(request, answer) if isinstance(answer, Refused) else answer
            is_new = not isinstance(settled, Restart) or not settled.is_retry
            if self._allowed is not None and is_new:
                self._tell_allowed(self._allowed, request, settled)
            error = reply(self._engine, request, settled, self._kill)
        except Exception as raised:
            self._failed(request, raised, EIO)
            self._engine.answer_errno(request.slot, errno.EIO)  # does nothing where it was answered before
            return
        if isinstance(error, Restart):
            self._try_again(request, error)
        elif error:
            self._tell(request, partial(self._unsent, request, settled, error))

    def _try_again(self, request: Request, restart: Restart) -> None:
        """A thread of its process is in execve, which may take as long as a file system takes to answer."""
        self._tried_again += 1
        interval_s = max(_TRY_AGAIN_AFTER_S, _TRY_AGAIN_AFTER_S_PER_CALL * self._tried_again)

        def then(_: object) -> Answer:
            self._tried_again -= 1
            return restart

        def gave_up() -> None:
            self._tried_again -= 1
            restart.abandon()

        self._start(request, Later(partial(time.sleep, interval_s), then, gave_up))

    def _recorded(self, request: Request, refused: Refused) -> Errno:
        try:
            return self._put_on_record(request, refused)
        except Exception as error:
            return self._failed(request, error, Errno(refused.error))

    def _tell_allowed(self, allowed: AllowedCalls, request: Request, answer: Settled) -> None:
        try:
            allowed.tell(request, answer)
        except Gone:
            pass  # nobody is there any more to have been allowed anything
        except Exception:
            self.untold += 1


def _done(_: object) -> Answer:
    return Value(0)  # as of every call that comes to one act, but for an open


def _as_it_is(answer: Answer | Later) -> Answer | Later:
    return answer


def _nothing() -> None:
    """There is nothing to release."""
