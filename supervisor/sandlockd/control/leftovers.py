"""What a run has left, worked on for its user: by a supervisor that has become that user (control/work.py), whose
answer is a stranger's here. It is bounded, and typed where something depends on it.
"""

from __future__ import annotations

import os
import pwd

import msgspec
import trio

from sandlockd.control.messages import Work, Worked
from sandlockd.control.pool import NoneToBeHad
from sandlockd.control.problems import Broken, Conflict, NotFound, Problem, Unavailable
from sandlockd.control.supervisors import OutOfStage, SupervisorLost
from sandlockd.kernel.fds import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any

    from sandlockd.control.config import Config
    from sandlockd.control.pool import Pool
    from sandlockd.control.sandboxes import Sandbox
    from sandlockd.control.supervisors import Supervisor

_READ_BYTES = 1 << 16
_CHANGING = ("commit", "discard", "forget")
_LOOK_PATIENCE_S = 120.0  # at all changes of one that has ended
_ANSWER_BYTES = 1 << 20  # of what a worker, which is its user's, may say in one piece


class _Listed(msgspec.Struct):
    """The first line of a list of changes."""

    digest: str
    counts: dict[str, int]


class _Left(msgspec.Struct):
    """Of what was done: how many changes are kept still."""

    left: int


class Leftovers:
    """Of all sandboxes. state_dir: of the service, where its own user's runs are."""

    def __init__(self, config: Config, state_dir: str, pool: Pool) -> None:
        self.config = config
        self._state_dir = state_dir
        self._pool = pool
        self._working: set[Supervisor] = set()
        self._one_is_done = trio.lowlevel.ParkingLot()

    def state_dir_of(self, uid: int) -> bytes:
        """Where that user's runs are recorded. Raises OSError."""
        if uid == os.geteuid():
            return os.fsencode(self._state_dir)
        if self.config.keeping.users_dir is not None:
            return _own_directory(self.config.keeping.users_dir, uid)
        try:
            home = pwd.getpwuid(uid).pw_dir
        except KeyError:
            raise OSError(f"the user database has no user {uid}") from None
        return os.fsencode(f"{home}/.local/state/sandlockd")

    async def work(self, sandbox: Sandbox, verb: str, **options: Any) -> AsyncIterator[bytes]:
        """The answer, in pieces. Raises Problem, before the first one or, if something breaks meanwhile, after any."""
        uid = sandbox.record.uid
        try:
            supervisor = await self._pool.take()
        except NoneToBeHad as error:
            raise Unavailable(str(error)) from None
        reader, is_done = None, False
        self._working.add(supervisor)
        try:
            reader, writer = (OwnedFd(fd) for fd in os.pipe2(os.O_CLOEXEC))
            with writer:
                order = Work(uid, verb, sandbox.id, self.state_dir_of(uid), **options)
                supervisor.order(order, (writer.fd,))
            os.set_blocking(reader.fd, False)
            async for chunk in _chunks(reader):
                yield chunk
            worked = await supervisor.next_report()
            is_done = True
        except (SupervisorLost, OutOfStage, OSError) as error:
            raise Broken(f"{verb} of {sandbox.id} was not done: {error}") from None
        finally:
            if reader is not None:
                reader.close()
            self._working.discard(supervisor)
            self._one_is_done.unpark_all()
            # Who only looks, or has said its last word, has nothing to finish; and its user may have stopped it.
            if is_done or verb not in _CHANGING:
                supervisor.end()
            supervisor.close()  # who changes something sees that when it has done it
        assert isinstance(worked, Worked)
        _require_done(worked)

    async def end_all(self, patience_s: float) -> None:
        """What is under way is done, or killed: a commit is finished or taken back by the next one (its journal).
        Whoever works is its user's, who may have stopped it.
        """
        with trio.move_on_after(patience_s):
            while self._working:
                await self._one_is_done.park()
        for supervisor in self._working:
            supervisor.end()

    async def done(self, sandbox: Sandbox, verb: str, **options: Any) -> tuple[bytes, int]:
        """The answer to what changes something, and how many changes are left. Raises Problem."""
        answer = b""
        with trio.CancelScope(shield=True):  # it is not left half done because a client has gone
            async for chunk in self.work(sandbox, verb, **options):
                answer += chunk
                if len(answer) > _ANSWER_BYTES:
                    raise Broken(f"{verb} of {sandbox.id}: the answer is too long")
        try:
            return answer, msgspec.json.decode(answer, type=_Left).left
        except msgspec.MsgspecError as error:
            raise Broken(f"{verb} of {sandbox.id}: the answer is none: {error}") from None

    async def changes(self, sandbox: Sandbox) -> dict[str, Any] | None:
        head = b""
        try:
            with trio.fail_after(_LOOK_PATIENCE_S):
                async for chunk in self.work(sandbox, "changes"):
                    if b"\n" not in head and len(head) < _ANSWER_BYTES:
                        head += chunk
            first = msgspec.json.decode(head.split(b"\n", 1)[0], type=_Listed)
        except NotFound:
            return None  # it had no tree, or one that was not begun
        except (Problem, msgspec.MsgspecError, trio.TooSlowError):
            return {"state": "unknown"}  # they cannot be listed now: they are not lost by that
        if not any(first.counts.values()):
            return None
        return {"state": "kept", "digest": first.digest, "counts": first.counts}


async def _chunks(reader: OwnedFd) -> AsyncIterator[bytes]:
    while True:
        try:
            await trio.lowlevel.wait_readable(reader.fd)
            chunk = os.read(reader.fd, _READ_BYTES)
        except BlockingIOError:
            continue
        if not chunk:
            return
        yield chunk


def _require_done(worked: Worked) -> None:
    """Raises Problem."""
    detail, lines = (worked.lines[0] if worked.lines else "it was not done"), list(worked.lines)
    match worked.outcome:
        case "done":
            return
        case "refused":
            raise Conflict(detail, lines=lines)
        case "none":
            raise NotFound(detail, lines=lines)
        case _:
            raise Broken(detail, lines=lines)


def _own_directory(root: str, uid: int) -> bytes:
    """Raises OSError."""
    path = f"{root}/{uid}"
    try:
        os.mkdir(path, 0o700)
        os.chown(path, uid, -1, follow_symlinks=False)
    except FileExistsError:
        if os.lstat(path).st_uid != uid:
            raise OSError(f"{path} does not belong to user {uid}") from None
    return os.fsencode(path)
