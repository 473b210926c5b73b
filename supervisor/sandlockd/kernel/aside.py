"""What may have to wait for the lock of a file is done aside: by another thread, for which the loop waits a moment.

The kernel holds a file's lock (i_rwsem) as long as one write(2) to it takes, which may be gigabytes, or be fed from
memory that a slow file system fills. Changing its mode, its owner, its length, or one of its names waits for that lock,
and no signal ends the wait. Nearly always it is free: then the thread is done within the moment, and the loop goes on
as if it had made the call itself, some tens of microseconds later. Else Unfinished is raised: what was begun goes on,
once, and whoever asked for it is answered when it is over.

A name cannot be changed without the lock of the directory that it is in, which the kernel takes first and holds while
it waits. So that nobody else has to wait for that, `first` waits for the file's lock alone, holding nothing; only then
the change is begun.
"""

from __future__ import annotations

import _thread
import collections
import contextlib
import errno
import os
import time

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PATIENCE_S = 0.002
_NONE: frozenset[tuple[int, int]] = frozenset()
_THREADS_MAX = 192  # files that are waited for at a time; whoever needs another one waits for one of them


class Unfinished(Exception):
    """It goes on without the loop. has_begun: False: it only waits for a lock, and nothing is going to be done."""

    def __init__(self, job: Job, *, has_begun: bool) -> None:
        super().__init__()
        self.job = job
        self.has_begun = has_begun


class NotYet(Exception):
    """Nothing was done: it is to be asked for again when `turn` is free.

    had_lock: by then somebody has had the locks of all its files, so that they were free once.
    """

    def __init__(self, turn: Turn, *, had_lock: bool) -> None:
        super().__init__()
        self.turn = turn
        self.had_lock = had_lock


class Turn:
    """What somebody has and others wait for, without a thread each."""

    def __init__(self) -> None:
        self._told: collections.deque[Callable[[], None]] = collections.deque()

    @property
    def is_taken(self) -> bool:
        raise NotImplementedError

    def when_free(self, tell: Callable[[], None]) -> None:
        """tell: is called once, by any thread: here, or by whoever has it when he gives it up. Must not raise."""
        self._told.append(tell)
        if not self.is_taken:  # perhaps given up since it was last asked, and nobody comes any more
            self._tell_all()

    def _tell_all(self) -> None:
        while True:
            try:
                tell = self._told.popleft()
            except IndexError:
                return
            tell()


class TreesLock(Turn):
    """A lock whose holder may be another thread than who releases it."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = _thread.allocate_lock()
        self.acquire = self._lock.acquire

    def release(self) -> None:
        self._lock.release()
        if self._told:
            self._tell_all()

    @property
    def is_taken(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class Job(Turn):
    """One act. Its thread ends it once; the loop leaves it once, or has its outcome before."""

    def __init__(
        self,
        act: Callable[[], Any],
        files: frozenset[tuple[int, int]],
        first: Callable[[], None] | None,
        left: Callable[[], None] | None,
        ended: Callable[[], None] | None,
        release: Callable[[], None],
    ) -> None:
        super().__init__()
        self.files = files
        self._act = act
        self._release_held = release
        self._first = first
        self._left = left
        self._ended = ended
        self._guard = _thread.allocate_lock()
        self._over = _thread.allocate_lock()
        self._over.acquire()
        self._has_begun = first is None
        self._is_left = False
        self._is_over = False
        self._is_told = False
        self._is_abandoned = False
        self._result: Any = None
        self._error: BaseException | None = None

    def carry_out(self) -> None:
        """In the thread that it was given to."""
        try:
            if self._may_begin():
                self._result = self._act()
        except Unfinished:  # whoever asked would take it for that of this act
            self._error = RuntimeError("an act within an act goes on without it")
        except BaseException as error:
            self._error = error
        self._settle(self._release_held)
        with self._guard:
            self._is_over = True
            if self._is_left and self._has_begun and self._ended is not None:
                self._settle(self._ended)
            if self._is_abandoned:
                self._settle(self._release)

    def _settle(self, end: Callable[[], None]) -> None:
        """Whatever it raises, all of the ends are made, and whoever waits is told."""
        try:
            end()
        except BaseException as error:
            self._error = self._error or error

    def tell(self) -> None:
        """It is over."""
        self._is_told = True
        self._over.release()
        self._tell_all()

    @property
    def is_taken(self) -> bool:
        return not self._is_told

    def _may_begin(self) -> bool:
        if self._first is None:
            return True
        self._first()
        with self._guard:
            self._has_begun = not self._is_left
            return self._has_begun

    def leave(self) -> Unfinished | None:
        """On the loop, whose patience has ended. None: it is over."""
        with self._guard:
            if self._is_over:
                return None
            self._is_left = True
            if self._has_begun and self._left is not None:
                self._left()
            return Unfinished(self, has_begun=self._has_begun)

    @property
    def has_begun(self) -> bool:
        with self._guard:
            return self._has_begun

    def is_over_within(self, patience_s: float) -> bool:
        if not self._over.acquire(timeout=patience_s):
            return False
        self._over.release()
        return True

    def wait(self) -> Any:
        """In a worker: what came of it. Raises what it raised."""
        self._over.acquire()
        self._over.release()
        return self.outcome()

    def outcome(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result

    def abandon(self) -> None:
        """Nobody asks for its outcome any more: the one who asked is gone. What was begun goes on."""
        with self._guard:
            self._is_abandoned = True
            if self._is_over:
                self._release()

    def _release(self) -> None:
        if isinstance(self._result, OwnedFd):
            self._result.close()


def _nothing() -> None:
    """There is nothing to release."""


class Aside:
    """The threads. They are started when first needed, and end with us."""

    def __init__(self) -> None:
        self._idle: collections.deque[_Helper] = collections.deque()
        self._jobs: set[Job] = set()  # that are not over
        self._left: set[Job] = set()  # what goes on without the loop, and perhaps some that are over
        self._count = 0
        self._is_closed = False

    def run(
        self,
        act: Callable[[], Any],
        *,
        files: frozenset[tuple[int, int]] = _NONE,
        first: Callable[[], None] | None = None,
        left: Callable[[], None] | None = None,
        ended: Callable[[], None] | None = None,
        release: Callable[[], None] = _nothing,
    ) -> Any:
        """On the loop. first: waits, and does nothing; where the loop's patience ends meanwhile, act is not begun.

        files: the numbers (device, inode) of those whose locks it takes, as far as they are known. left: called where
        patience ends after act has begun, before anything else; ended: called after act in that case, by its thread.
        release: called once, whatever happens. Raises: what act raises; Unfinished; NotYet; OSError EAGAIN: there are
        no threads to be had.
        """
        try:
            self._require_turn(files)
            helper = self._helper()
            job = Job(act, files, first, left, ended, release)
        except BaseException:
            release()
            raise
        self._jobs.add(job)
        helper.take(job)
        if not job.is_over_within(PATIENCE_S):
            helper.roam()
            self._left.add(job)
            unfinished = job.leave()
            if unfinished is not None:
                raise unfinished
        return job.outcome()

    def _require_turn(self, files: frozenset[tuple[int, int]]) -> None:
        """Raises NotYet."""
        if self._left:
            self._left = {job for job in self._left if job.is_taken}
        for job in self._left:
            if not files.isdisjoint(job.files):
                raise NotYet(job, had_lock=files <= job.files)

    def _helper(self) -> _Helper:
        full = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if self._is_closed:
            raise full
        try:
            return self._idle.pop()
        except IndexError:
            pass
        helper = None
        if self._count < _THREADS_MAX:
            with contextlib.suppress(RuntimeError):  # the kernel has no more threads for us
                helper = _Helper(self._idle, self._jobs)
        if helper is None:
            for job in self._left:
                if job.is_taken:
                    raise NotYet(job, had_lock=False)
            try:
                return self._idle.pop()  # that of a job which is over just now
            except IndexError:
                raise full from None
        self._count += 1
        return helper

    def close(self, patience_s: float) -> bool:
        """When nobody asks any more. True: what has begun is over, and nothing else is going to begin.

        False: it goes on, with all that it uses.
        """
        self._is_closed = True
        end_s = time.monotonic() + patience_s
        begun = [job for job in list(self._jobs) if job.has_begun]
        return all(job.is_over_within(max(0.0, end_s - time.monotonic())) for job in begun)


class _Helper:
    def __init__(self, idle: collections.deque[_Helper], jobs: set[Job]) -> None:
        self._idle = idle
        self._jobs = jobs
        self._job: Job | None = None
        self._tid = 0
        self._cpu = -1
        self._wake = _thread.allocate_lock()
        self._wake.acquire()
        _thread.start_new_thread(self._serve, ())

    def take(self, job: Job) -> None:
        """It wakes on the CPU of the loop, which goes to sleep: to wake another one takes 50 us, twice."""
        if self._tid:
            self._cpu = lib.slk_stay_near(self._tid, self._cpu)
        self._job = job
        self._wake.release()

    def roam(self) -> None:
        """The loop does not wait for it any more."""
        if self._cpu >= 0:
            self._cpu = -1
            lib.slk_roam(self._tid)

    def _serve(self) -> None:
        self._tid = _thread.get_native_id()
        while True:
            self._wake.acquire()
            job, self._job = self._job, None
            assert job is not None
            job.carry_out()
            self._jobs.discard(job)
            self._idle.append(self)  # who has been told finds this thread, and starts no other
            job.tell()
            del job
