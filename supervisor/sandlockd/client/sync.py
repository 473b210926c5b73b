"""The client for programs without an event loop."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Self, TypeVar

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
    _List = list["Sandbox"]

R = TypeVar("R")
_READ_BYTES = 1 << 16
_READS_MAX = 16  # before who waits for what came gets it


class Taken:
    """Takes steps, with one socket at a time."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None

    def take(self, steps: Steps[R]) -> Generator[Any, None, R]:
        """Yields what is given. Raises what the steps raise."""
        answer: bytes | None = None
        error: OSError | None = None
        while True:
            try:
                step = steps.throw(error) if error is not None else steps.send(answer)
            except StopIteration as over:
                return over.value  # type: ignore[no-any-return]
            answer, error = None, None
            if isinstance(step, Give):
                yield step.item
                continue
            try:
                answer = self._take(step)
            except OSError as failed:
                error = failed

    def _take(self, step: Open | Send | Receive | Pause) -> bytes | None:
        match step:
            case Open(path=path):
                self.close()
                self.socket = _connected(path)
            case Send(data=data):
                assert self.socket is not None
                self.socket.sendall(data)
            case Receive():
                assert self.socket is not None
                return self.socket.recv(_READ_BYTES)
            case Pause(seconds=seconds):
                time.sleep(seconds)
        return None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


def _connected(path: str) -> socket.socket:
    """Raises OSError."""
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(path)
    except BaseException:
        made.close()
        raise
    return made


def _iterate(steps: Steps[R]) -> Generator[Any, None, R]:
    taken = Taken()
    try:
        return (yield from taken.take(steps))
    finally:
        taken.close()


def _done(steps: Steps[R]) -> R:
    """Of steps that give nothing."""
    each = _iterate(steps)
    try:
        next(each)
    except StopIteration as over:
        return over.value  # type: ignore[no-any-return]
    raise AssertionError("an exchange gave something")


class Client:
    """The service at a socket: the one named, SANDLOCKD_SOCKET, the user's own, or the system's. Holds nothing open."""

    def __init__(self, socket: str | None = None) -> None:
        self.socket = socket_path(socket)

    def run(self, command: Sequence[str], **options: Any) -> Sandbox:
        """Start one. options: as in sandlockd.control.objects.RunRequest.

        Returns when it runs. Raises ApiError (`not-started`: why is in its lines), NoService, ConnectionBroke.
        """
        return Sandbox(self, _done(requests.run(self.socket, command, options)))

    def list(self, *, label: Sequence[str] = (), state: str | None = None) -> _List:
        """The newest first. label: `key` or `key=value`; all of them."""
        return [Sandbox(self, one) for one in _done(requests.listed(self.socket, label, state))]

    def get(self, identifier: str) -> Sandbox:
        """By id, name, or a beginning or end of an id that is no other's. Raises ApiError: not-found, conflict."""
        return Sandbox(self, _done(requests.inspected(self.socket, where_is(identifier), SandboxObject)))

    def events(self, *, follow: bool = False, after: int | None = None) -> Iterator[EventObject | Dropped]:
        """Of all sandboxes. follow: those to come, for ever; after: a cursor."""
        return _iterate(requests.events(self.socket, None, follow=follow, after=after))

    def version(self) -> Version:
        return _done(requests.version(self.socket))


class _Running(Known[Program]):
    """One that can end: what a sandbox and a further command in one have in common."""

    def __init__(self, client: Client, known: Program) -> None:
        self._client = client
        self.known = known

    def _asked(self, verb: str, **body: Any) -> Self:
        steps = requests.asked(self._client.socket, self._where, type(self.known), verb, **body)
        self.known = _done(steps)
        return self

    def refresh(self) -> Self:
        self.known = _done(requests.inspected(self._client.socket, self._where, type(self.known)))
        return self

    def wait(self, timeout_s: float | None = None) -> Self:
        """Until it has ended, or the time is up: `ended` says which."""
        steps = requests.waited(self._client.socket, self._where, type(self.known), timeout_s)
        self.known = _done(steps)
        return self

    def signal(self, signal: int | str, *, group: bool = False) -> Self:
        """To its program. A number, or a name as TERM. group: to the program's process group, as ^C on a terminal."""
        return self._asked("signal", signal=signal, group=group or None)

    def logs(
        self,
        *,
        follow: bool = False,
        stream: str | None = None,
        after: int | None = None,
        tail: int | None = None,
    ) -> Iterator[LogRecord | Dropped]:
        """What it wrote. follow: until it has ended. stream: stdout, stderr or tty. tail: the last so many records."""
        steps = requests.logs(
            self._client.socket, self._where, follow=follow, stream=stream, after=after, tail=tail
        )
        return _iterate(steps)

    def attach(self, *, after: int | None = None, tail: int | None = None) -> Attachment:
        """To its streams, from the beginning, a cursor, or the last so many records on."""
        from sandlockd.client.link import Link

        is_terminal = self.known.tty
        return Attachment(
            self._client.socket, Link(self._where, after=after, tail=tail, is_terminal=is_terminal)
        )


class Execution(_Running[ExecObject]):
    """A further command in a sandbox, as of the last answer: `exit_status` and all of ExecObject are its attributes."""


class Sandbox(_Running[SandboxObject]):
    """One sandbox, as of the last answer: `state`, `exit_status` and all of SandboxObject are its attributes."""

    def exec(self, command: Sequence[str], **options: Any) -> Execution:
        """Start a further command in it. options: as in sandlockd.control.objects.ExecRequest."""
        steps = requests.execute(self._client.socket, self._where, command, options)
        return Execution(self._client, _done(steps))

    def execution(self, number: int) -> Execution:
        """A further command by its number. Raises ApiError: not-found."""
        where = where_is(self.known.id, number)
        return Execution(self._client, _done(requests.inspected(self._client.socket, where, ExecObject)))

    def executions(self) -> list[Execution]:
        found = _done(requests.executions(self._client.socket, self._where))
        return [Execution(self._client, one) for one in found]

    def stop(self, grace_s: float | None = None) -> Self:
        """SIGTERM to its program, and after the grace the end of all. Returns when it has ended."""
        return self._asked("stop", grace_s=grace_s)

    def kill(self) -> Self:
        """Returns when it has ended."""
        return self._asked("kill")

    def pause(self) -> Self:
        return self._asked("pause")

    def resume(self) -> Self:
        return self._asked("resume")

    def remove(self, *, force: bool = False) -> None:
        """force: end it first, and drop its changes."""
        _done(requests.removed(self._client.socket, self._where, force=force))

    def events(self, *, follow: bool = False, after: int | None = None) -> Iterator[EventObject | Dropped]:
        """What happened to it. follow: until it is removed."""
        return _iterate(requests.events(self._client.socket, self._where, follow=follow, after=after))

    def stats(self) -> dict[str, Any]:
        """What it uses now: cpu (seconds), memory (bytes), processes, calls, denials. Of one that has ended: usage."""
        found: dict[str, Any] = _done(requests.asked_for(self._client.socket, self._where, "stats"))
        return found

    def processes(self) -> list[dict[str, Any]]:
        found = _done(requests.asked_for(self._client.socket, self._where, "processes"))
        return list(found["processes"])

    def denials(self) -> list[dict[str, Any]]:
        """The records of its audit log that tell of refusals."""
        return list(_iterate(requests.records(self._client.socket, self._where, "denials")))

    def explain(self) -> str:
        """The same for people, with what would allow it."""
        return _done(requests.text(self._client.socket, self._where, "denials", format="text"))

    def changes(self, *, diff: bool = False, paths: Sequence[str] = ()) -> list[dict[str, Any]]:
        """The first record is of all, the others one a change. diff: with what changed in files."""
        how = "json" if diff else None
        steps = requests.records(self._client.socket, self._where, "changes", diff=how, path=list(paths))
        return list(_iterate(steps))

    def diff(self, *, paths: Sequence[str] = (), only_list: bool = False) -> str:
        """The same for people."""
        how = "list" if only_list else "text"
        return _done(requests.text(self._client.socket, self._where, "changes", diff=how, path=list(paths)))

    def commit(
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
        return _done(steps)

    def discard(self, *, paths: Sequence[str] = ()) -> dict[str, Any]:
        return _done(requests.acted(self._client.socket, self._where, "discard", paths=list(paths)))


class Attachment:
    """The streams of a sandbox. Iterating gives what it writes, and in the end how it ended.

    Never waits when something is to be sent: that is put by, and goes out when there is room (`unsent` bytes of it).
    Programs with a loop of their own wait for `fileno()`, for writing too while something is unsent, and call `step`.
    What is on its way to the program when a connection breaks may be lost; of what comes from it nothing is.
    """

    def __init__(self, path: str, link: Link) -> None:
        from sandlockd.client import link as links

        self._path = path
        self._link = link
        self._links = links
        self._taken = Taken()
        self._connect(links.connected(path, link))

    def _connect(self, steps: Steps[None]) -> None:
        try:
            for _ in self._taken.take(steps):
                raise AssertionError("connecting gave something")
        except BaseException:
            self.close()
            raise
        assert self._taken.socket is not None
        self._taken.socket.setblocking(False)

    @property
    def unsent(self) -> int:
        return len(self._link.to_send)

    def fileno(self) -> int:
        return -1 if self._taken.socket is None else self._taken.socket.fileno()

    def send(self, data: bytes) -> None:
        """To its standard input."""
        self._link.input(data)
        self._flush()

    def end_input(self) -> None:
        self._link.end_of_input()
        self._flush()

    def resize(self, rows: int, columns: int) -> None:
        self._link.resize(rows, columns)
        self._flush()

    def signal(self, signal: int | str, *, group: bool = False) -> None:
        self._link.signal(signal, group=group)
        self._flush()

    def _flush(self) -> None:
        """A connection that broke is noticed, and made again, where it is read."""
        if self._taken.socket is None:
            return
        waiting = self._link.to_send
        try:
            while waiting:
                del waiting[: self._taken.socket.send(waiting)]
        except BlockingIOError:
            pass
        except OSError:
            waiting.clear()

    def step(self) -> list[Happened]:
        """What can be had without waiting; the last is Exit, if it has ended. A broken connection is made again, which
        takes a moment.

        Raises NoService, ConnectionBroke, ApiError.
        """
        try:
            self._flush()
            self._receive()
        except (ConnectionBroke, OSError):
            self._connect(self._links.connected_again(self._path, self._link))
        return self._link.taken()

    def _receive(self) -> None:
        """Raises OSError, ConnectionBroke, ApiError."""
        assert self._taken.socket is not None
        for _ in range(_READS_MAX):
            if self._link.exit is not None:
                return
            try:
                data = self._taken.socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            self._link.received(data)
            self._flush()

    def __iter__(self) -> Iterator[Happened]:
        while True:
            found = self.step()
            yield from found
            if self._link.exit is not None:
                self.close()
                return
            if not found:
                waiting = select.poll()
                waiting.register(self.fileno(), select.POLLIN | (select.POLLOUT if self.unsent else 0))
                waiting.poll()

    def close(self) -> None:
        """Detach: the program goes on."""
        self._taken.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
