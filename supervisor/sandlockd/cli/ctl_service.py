"""What all verbs share that talk to the service: finding it, one line for what went wrong, and exit statuses."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import msgspec

from sandlockd.cli.ending import say as write_line
from sandlockd.client.errors import ApiError, NoService, ServiceError
from sandlockd.client.places import is_named
from sandlockd.client.sync import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from sandlockd.client.sync import Execution, Sandbox

DONE, REFUSED, BROKEN = 0, 1, 125
_USED_WRONGLY = (400, 404)


def say(text: str) -> None:
    write_line("sandlockctl", text)


def client_of(options: argparse.Namespace) -> Client:
    return Client(options.socket)


def found_or_none(options: argparse.Namespace, identifier: str) -> Sandbox | None:
    """Of the service; None: there is no service, or it knows nothing of that. Raises ServiceError."""
    try:
        return client_of(options).get(identifier)
    except NoService:
        if is_named(options.socket):
            raise
    except ApiError as error:
        if error.status != 404:
            raise
    return None


def program_of(sandbox: Sandbox, options: argparse.Namespace) -> Sandbox | Execution:
    """The sandbox, or the further command in it that --exec names. Raises ApiError."""
    return sandbox if options.exec is None else sandbox.execution(options.exec)


def told(error: ServiceError, about: str = "") -> int:
    """The exit status. about: which sandbox it was asked of, where there may be several."""
    if not isinstance(error, ApiError):
        say(str(error))
        return BROKEN
    lines = [error.detail] if error.status == 409 and error.detail not in error.lines else error.lines
    for line in lines:
        of = "" if not about or about in line else f"{about}: "
        say(of + line + _hint(error))
    return REFUSED if error.status < 500 and error.status not in _USED_WRONGLY else BROKEN


def _hint(error: ApiError) -> str:
    """What to type next."""
    document = error.document
    if error.status == 404 and "has no command" in error.detail:
        return f": see sandlockctl exec --list {error.detail.partition(' ')[0]}"
    if error.status == 404 and "lines" not in document and "policy" not in error.detail:
        return ": see sandlockctl ps --all"
    if isinstance(document.get("candidates"), list):
        return f": {' '.join(map(str, document['candidates']))}"
    allowed = document.get("allowed_states")
    if isinstance(allowed, list):
        return f"; it may be {', '.join(map(str, allowed))}"
    return ""


def each(options: argparse.Namespace, act: Callable[[Sandbox], int | None]) -> int:
    """For every one that is named; the exit status is that of the last that went wrong."""
    client, status = client_of(options), DONE
    for identifier in options.ids:
        try:
            status = act(client.get(identifier)) or status
        except ApiError as error:
            status = told(error, about=identifier)
    return status


# ---- printing


def put(line: str) -> None:
    """A line, now: somebody may follow."""
    sys.stdout.write(line + "\n")


def put_json(what: Any) -> None:
    put(msgspec.json.encode(what).decode())


@contextlib.contextmanager
def until_interrupted() -> Iterator[None]:
    """^C ends what is followed, and nothing is wrong with that."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stdout.flush()


def seconds_of(text: str, option: str) -> float:
    """Raises SystemExit."""
    from sandlockd.policy import values
    from sandlockd.policy.errors import BadValue

    try:
        return values.duration(text, None)  # type: ignore[arg-type]  # it needs none
    except BadValue as error:
        say(f"{option} {error}")
        raise SystemExit(BROKEN) from None


def command_line(words: Sequence[str]) -> str:
    from sandlockd.policy.spelling import printable

    return printable(" ".join(words))
