"""File calls for one call of a program, on the loop, of which those that may wait are made elsewhere one by one.

A handler that needs the loop (it looks at the trees, under their lock) cannot be run in a worker as a whole. So what
would wait is a question: MayWait is raised, a worker thread has it answered (Patient), and the handler is asked again
from the start. It then is given this answer where it asks the same of the same object, and what was done is not done
again.
"""

from __future__ import annotations

import os

from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.files import MayWait
from sandlockd.kernel.mounts import mount_id
from sandlockd.kernel.paths import self_link
from sandlockd.kernel.status import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from sandlockd.kernel.files import Patient, Prompt
    from sandlockd.kernel.paths import Identity

    Result = TypeVar("Result")

_ANSWERS_MAX = 400  # 40 links, each of them a few; each answer has the handler begin anew
_DONT_SYNC = 0x4000  # AT_STATX_DONT_SYNC: no server is asked (statx(2))


class _Given(OwnedFd):
    """A duplicate of what an answer is."""

    __slots__ = ("answer",)

    def __init__(self, fd: int, answer: int) -> None:
        super().__init__(fd)
        self.answer = answer


class _Question:
    def __init__(
        self, key: object, ask: Callable[..., Any], args: tuple[Any, ...], more: dict[str, Any]
    ) -> None:
        self.key = key
        self.ask = ask
        self.args = tuple(OwnedFd(os.dup(arg.fd)) if isinstance(arg, OwnedFd) else arg for arg in args)
        self.more = more

    def close(self) -> None:
        for arg in self.args:
            if isinstance(arg, OwnedFd):
                arg.close()


class Questions:
    """The `Files` of one call. Used by one thread at a time: the loop's, or the worker's that asks."""

    def __init__(self, prompt: Prompt, patient: Patient) -> None:
        self._prompt = prompt
        self._patient = patient
        self._answers: dict[object, tuple[int, Any]] = {}
        self._question: _Question | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        return (*self._prompt.pids, *self._patient.pids)

    def open(
        self,
        base: OwnedFd | None,
        path: bytes,
        flags: int,
        *,
        resolve: int = 0,
        identity: Identity | None = None,
    ) -> OwnedFd:
        args, more = (base, path, flags), {"resolve": resolve, "identity": identity}
        return self._asked(self._prompt.open, self._patient.open, args, more)  # type: ignore[no-any-return]

    def jump(self, link: bytes, flags: int = 0, *, identity: Identity | None = None) -> OwnedFd:
        more = {"identity": identity}
        return self._asked(self._prompt.jump, self._patient.jump, (link, flags), more)  # type: ignore[no-any-return]

    def run(self, act: Callable[..., Result], *args: Any, identity: Identity | None = None) -> Result:
        more = {"identity": identity}
        return self._asked(self._prompt.run, self._patient.run, (act, *args), more)  # type: ignore[no-any-return]

    def wait_for(self, act: Callable[..., Result], *args: Any, identity: Identity | None = None) -> Result:
        """From a worker thread."""
        return self._patient.wait_for(act, *args, identity=identity)

    def _asked(
        self,
        at_once: Callable[..., Any],
        ask: Callable[..., Any],
        args: tuple[Any, ...],
        more: dict[str, Any],
    ) -> Any:
        key = (ask.__name__, *map(_key, args), *more.values())
        if key in self._answers:
            return self._given(*self._answers[key])
        try:
            return at_once(*args, **more)
        except MayWait:
            if len(self._answers) >= _ANSWERS_MAX:
                raise RuntimeError("one call waits for too many answers of a slow file system") from None
            self._forget_question()
            self._question = _Question(key, ask, args, more)
            raise

    @staticmethod
    def _given(number: int, result: Any) -> Any:
        if isinstance(result, OSError):
            raise OSError(result.errno, os.strerror(result.errno or 0))
        return _Given(os.dup(result.fd), number) if isinstance(result, OwnedFd) else result

    def ask(self) -> None:
        """In a worker: have the question answered that made the handler give up. Raises WaiterGone."""
        question = self._question
        assert question is not None
        result: Any
        try:
            result = question.ask(*question.args, **question.more)
        except OSError as error:
            result = error
        except BaseException:
            self.close()
            raise
        self._answers[question.key] = len(self._answers), result
        self._forget_question()

    def _forget_question(self) -> None:
        question, self._question = self._question, None
        if question is not None:
            question.close()

    def close(self) -> None:
        """A second time does nothing."""
        self._forget_question()
        answers, self._answers = self._answers, {}
        for _, result in answers.values():
            if isinstance(result, OwnedFd):
                result.close()


def _key(arg: Any) -> object:
    """Equal for the same object, also where another descriptor is one of it."""
    if isinstance(arg, _Given):
        return "answer", arg.answer
    if not isinstance(arg, OwnedFd):
        return arg
    status = Status(arg, flags=_DONT_SYNC)
    try:
        shown = os.readlink(self_link(arg.fd))
    except OSError:
        shown = b""  # longer than the kernel can tell
    return mount_id(arg), status.inode, shown
