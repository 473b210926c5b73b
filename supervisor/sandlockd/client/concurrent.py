"""The client for programs under trio. As sync.py, of which it differs in how a step is taken."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Self, TypeVar

import trio

from sandlockd.client import requests
from sandlockd.client.errors import ConnectionBroke
from sandlockd.client.handle import Known
from sandlockd.client.places import socket_path
from sandlockd.client.requests import Program, where_is
from sandlockd.client.steps import Give, Open, Pause, Receive, Send, Steps
from sandlockd.control.objects import Dropped, EventObject, ExecObject, LogRecord, SandboxObject, Version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.client.link import Happened, Link

    # Where `list` is a method, the type needs another name.
    _List = list["AsyncSandbox"]

R = TypeVar("R")
_READ_BYTES = 1 << 16


class Taken:
    """Takes steps, with one socket at a time."""

    def __init__(self) -> None:
        self.socket: trio.socket.SocketType | None = None

    async def each(self, steps: Steps[Any], result: list[Any]) -> AsyncGenerator[Any, None]:
        """Yields what is given; puts what the steps return. Raises what the steps raise."""
        answer: bytes | None = None
        error: OSError | None = None
        while True:
            try:
                step = steps.throw(error) if error is not None else steps.send(answer)
            except StopIteration as over:
                result.append(over.value)
                return
            answer, error = None, None
            if isinstance(step, Give):
                yield step.item
                continue
            try:
                answer = await self._take(step)
            except OSError as failed:
                error = failed

    async def take(self, steps: Steps[R]) -> R:
        """Of steps that give nothing."""
        result: list[R] = []
        async with aclosing(self.each(steps, result)) as given:
            async for _ in given:
                raise AssertionError("an exchange gave something")
        return result[0]

    async def _take(self, step: Open | Send | Receive | Pause) -> bytes | None:
        match step:
            case Open(path=path):
                self.close()
                self.socket = await _connected(path)
            case Send(data=data):
                await self.send(data)
            case Receive():
                assert self.socket is not None
                return bytes(await self.socket.recv(_READ_BYTES))
            case Pause(seconds=seconds):
                await trio.sleep(seconds)
        return None

    async def send(self, data: bytes) -> None:
        assert self.socket is not None
        while data:
            data = data[await self.socket.send(data) :]

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


async def _connected(path: str) -> trio.socket.SocketType:
    """Raises OSError."""
    made = trio.socket.socket(trio.socket.AF_UNIX)
    try:
        await made.connect(path)
    except BaseException:
        made.close()
        raise
    return made


async def _iterate(steps: Steps[Any]) -> AsyncGenerator[Any, None]:
    taken = Taken()
    try:
        async with aclosing(taken.each(steps, [])) as given:
            async for item in given:
                yield item
    finally:
        taken.close()


async def _done(steps: Steps[R]) -> R:
    taken = Taken()
    try:
        return await taken.take(steps)
    finally:
        taken.close()


class AsyncClient:
    """The service at a socket: the one named, SANDLOCKD_SOCKET, the user's own, or the system's. Holds nothing open."""

    def __init__(self, socket: str | None = None) -> None:
        self.socket = socket_path(socket)

    async def run(self, command: Sequence[str], **options: Any) -> AsyncSandbox:
        """Start one. options: as in sandlockd.control.objects.RunRequest.

        Returns when it runs. Raises ApiError (`not-started`: why is in its lines), NoService, ConnectionBroke.
        """
        return AsyncSandbox(self, await _done(requests.run(self.socket, command, options)))

    async def list(self, *, label: Sequence[str] = (), state: str | None = None) -> _List:
        """The newest first. label: `key` or `key=value`; all of them."""
        return [AsyncSandbox(self, one) for one in await _done(requests.listed(self.socket, label, state))]

    async def get(self, identifier: str) -> AsyncSandbox:
        """By id, name, or a beginning or end of an id that is no other's. Raises ApiError: not-found, conflict."""
        return AsyncSandbox(
            self, await _done(requests.inspected(self.socket, where_is(identifier), SandboxObject))
        )

    def events(
        self, *, follow: bool = False, after: int | None = None
    ) -> AsyncGenerator[EventObject | Dropped, None]:
        """Of all sandboxes. follow: those to come, for ever; after: a cursor."""
        return _iterate(requests.events(self.socket, None, follow=follow, after=after))

    async def version(self) -> Version:
        return await _done(requests.version(self.socket))


class _Running(Known[Program]):
    """One that can end: what a sandbox and a further command in one have in common."""

    def __init__(self, client: AsyncClient, known: Program) -> None:
        self._client = client
        self.known = known

    async def _asked(self, verb: str, **body: Any) -> Self:
        steps = requests.asked(self._client.socket, self._where, type(self.known), verb, **body)
        self.known = await _done(steps)
        return self

    async def refresh(self) -> Self:
        self.known = await _done(requests.inspected(self._client.socket, self._where, type(self.known)))
        return self

    async def wait(self, timeout_s: float | None = None) -> Self:
        """Until it has ended, or the time is up: `ended` says which."""
        steps = requests.waited(self._client.socket, self._where, type(self.known), timeout_s)
        self.known = await _done(steps)
        return self

    async def signal(self, signal: int | str, *, group: bool = False) -> Self:
        """To its program. A number, or a name as TERM. group: to the program's process group, as ^C on a terminal."""
        return await self._asked("signal", signal=signal, group=group or None)

    def logs(
        self,
        *,
        follow: bool = False,
        stream: str | None = None,
        after: int | None = None,
        tail: int | None = None,
    ) -> AsyncGenerator[LogRecord | Dropped, None]:
        """What it wrote. follow: until it has ended. stream: stdout, stderr or tty. tail: the last so many records."""
        steps = requests.logs(
            self._client.socket, self._where, follow=follow, stream=stream, after=after, tail=tail
        )
        return _iterate(steps)

    async def attach(self, *, after: int | None = None, tail: int | None = None) -> AsyncAttachment:
        """To its streams, from the beginning, a cursor, or the last so many records on."""
        from sandlockd.client.link import Link

        is_terminal = self.known.tty
        attachment = AsyncAttachment(
            self._client.socket, Link(self._where, after=after, tail=tail, is_terminal=is_terminal)
        )
        await attachment.connect()
        return attachment


class AsyncExecution(_Running[ExecObject]):
    """A further command in a sandbox, as of the last answer: `exit_status` and all of ExecObject are its attributes."""


class AsyncSandbox(_Running[SandboxObject]):
    """One sandbox, as of the last answer: `state`, `exit_status` and all of SandboxObject are its attributes."""

    async def exec(self, command: Sequence[str], **options: Any) -> AsyncExecution:
        """Start a further command in it. options: as in sandlockd.control.objects.ExecRequest."""
        steps = requests.execute(self._client.socket, self._where, command, options)
        return AsyncExecution(self._client, await _done(steps))

    async def execution(self, number: int) -> AsyncExecution:
        """A further command by its number. Raises ApiError: not-found."""
        where = where_is(self.known.id, number)
        return AsyncExecution(
            self._client, await _done(requests.inspected(self._client.socket, where, ExecObject))
        )

    async def executions(self) -> list[AsyncExecution]:
        found = await _done(requests.executions(self._client.socket, self._where))
        return [AsyncExecution(self._client, one) for one in found]

    async def stop(self, grace_s: float | None = None) -> Self:
        """SIGTERM to its program, and after the grace the end of all. Returns when it has ended."""
        return await self._asked("stop", grace_s=grace_s)

    async def kill(self) -> Self:
        """Returns when it has ended."""
        return await self._asked("kill")

    async def pause(self) -> Self:
        return await self._asked("pause")

    async def resume(self) -> Self:
        return await self._asked("resume")

    async def remove(self, *, force: bool = False) -> None:
        """force: end it first, and drop its changes."""
        await _done(requests.removed(self._client.socket, self._where, force=force))

    def events(
        self, *, follow: bool = False, after: int | None = None
    ) -> AsyncGenerator[EventObject | Dropped, None]:
        """What happened to it. follow: until it is removed."""
        return _iterate(requests.events(self._client.socket, self._where, follow=follow, after=after))

    async def stats(self) -> dict[str, Any]:
        """What it uses now: cpu (seconds), memory (bytes), processes, calls, denials. Of one that has ended: usage."""
        found: dict[str, Any] = await _done(requests.asked_for(self._client.socket, self._where, "stats"))
        return found

    async def processes(self) -> list[dict[str, Any]]:
        found = await _done(requests.asked_for(self._client.socket, self._where, "processes"))
        return list(found["processes"])

    async def denials(self) -> list[dict[str, Any]]:
        """The records of its audit log that tell of refusals."""
        return [one async for one in _iterate(requests.records(self._client.socket, self._where, "denials"))]

    async def explain(self) -> str:
        """The same for people, with what would allow it."""
        return await _done(requests.text(self._client.socket, self._where, "denials", format="text"))

    async def changes(self, *, diff: bool = False, paths: Sequence[str] = ()) -> list[dict[str, Any]]:
        """The first record is of all, the others one a change. diff: with what changed in files."""
        how = "json" if diff else None
        steps = requests.records(self._client.socket, self._where, "changes", diff=how, path=list(paths))
        return [one async for one in _iterate(steps)]

    async def diff(self, *, paths: Sequence[str] = (), only_list: bool = False) -> str:
        """The same for people."""
        how = "list" if only_list else "text"
        return await _done(
            requests.text(self._client.socket, self._where, "changes", diff=how, path=list(paths))
        )

    async def commit(
        self,
        *,
        paths: Sequence[str] = (),
        force: Sequence[str] = (),
        digest: str | None = None,
        skip_marked: bool = False,
    ) -> dict[str, Any]:
        """Put its changes into the tree. digest: of the list that was reviewed. Returns what was done."""
        steps = requests.acted(
            self._client.socket,
            self._where,
            "commit",
            paths=list(paths),
            force=list(force),
            digest=digest,
            skip_marked=skip_marked,
        )
        return await _done(steps)

    async def discard(self, *, paths: Sequence[str] = ()) -> dict[str, Any]:
        return await _done(requests.acted(self._client.socket, self._where, "discard", paths=list(paths)))


class AsyncAttachment:
    """The streams of a sandbox. Iterating, by one task at a time, gives what it writes, and in the end how it ended.

    What is on its way to the program when a connection breaks may be lost; of what comes from it nothing is.
    """

    def __init__(self, path: str, link: Link) -> None:
        self._path = path
        self._link = link
        self._taken = Taken()
        self._sending = trio.Lock()

    async def connect(self) -> None:
        from sandlockd.client.link import connected

        try:
            await self._taken.take(connected(self._path, self._link))
        except BaseException:
            self.close()
            raise

    async def send(self, data: bytes) -> None:
        """To its standard input. Returns when it is on its way: a program that does not read keeps us waiting."""
        self._link.input(data)
        await self._flush()

    async def end_input(self) -> None:
        self._link.end_of_input()
        await self._flush()

    async def resize(self, rows: int, columns: int) -> None:
        self._link.resize(rows, columns)
        await self._flush()

    async def signal(self, signal: int | str, *, group: bool = False) -> None:
        self._link.signal(signal, group=group)
        await self._flush()

    async def _flush(self) -> None:
        """A connection that broke is noticed, and made again, where it is read."""
        async with self._sending:
            data = bytes(self._link.to_send)
            self._link.to_send.clear()
            with contextlib.suppress(OSError, trio.ClosedResourceError):
                await self._taken.send(data)

    async def __aiter__(self) -> AsyncIterator[Happened]:
        from sandlockd.client.link import connected_again

        while True:
            try:
                await self._receive()
            except (ConnectionBroke, OSError):
                await self._taken.take(connected_again(self._path, self._link))
            for one in self._link.taken():
                yield one
            if self._link.exit is not None:
                self.close()
                return

    async def _receive(self) -> None:
        """Raises OSError, ConnectionBroke, ApiError."""
        assert self._taken.socket is not None
        self._link.received(await self._taken.socket.recv(_READ_BYTES))
        if self._link.to_send:
            await self._flush()

    def close(self) -> None:
        """Detach: the program goes on."""
        self._taken.close()

    async def __aenter__(self) -> AsyncAttachment:
        return self

    async def __aexit__(self, *raised: object) -> None:
        self.close()
