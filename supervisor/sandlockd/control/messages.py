"""What the control plane, the zygote and the supervisors say to one another, and when each may say it.

Pure: nothing here opens, sends or waits.

A supervisor runs as the user who asked for the sandbox, so to the control plane it is that user: what it sends is
checked whole, by type, and against the table of what may come in the stage that its sandbox is in. Whatever else it
sends ends it. (OpenSSH's monitor is built like this: README.privsep.)
"""

from __future__ import annotations

import enum
from typing import Any, Final, TypeVar

import msgspec

VERSION: Final = 1
MAX_BYTES: Final = (
    16 << 20
)  # of one message; the arguments and the environment of a program are at most 6 MiB
MAX_LINES: Final = 1000  # that a supervisor may say for people


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One packet. Descriptors go beside it, in the order that the message names them."""


# ---- control plane to zygote, and back


class Fork(Message, frozen=True, tag="fork"):
    """Make a supervisor. With one descriptor: its end of a channel."""

    ticket: int


class Forked(Message, frozen=True, tag="forked"):
    """With one descriptor: its pidfd."""

    ticket: int
    pid: int


class NotForked(Message, frozen=True, tag="not-forked"):
    ticket: int
    errno: int


class Reaped(Message, frozen=True, tag="reaped"):
    """status: as wait(2) gives it."""

    pid: int
    status: int


# ---- control plane to supervisor


class PolicyText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy that was read already. directory: absolute; relative paths in it start there."""

    name: str
    directory: bytes
    content: bytes


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for besides the policies, as on the command line (policy.inputs.Overrides)."""

    read: tuple[bytes, ...] = ()
    write: tuple[bytes, ...] = ()
    deny: tuple[bytes, ...] = ()
    env: tuple[bytes, ...] = ()
    clean_env: bool = False
    workdir: bytes | None = None
    on_exit: str | None = None
    dry_run: bool = False
    allow_net: tuple[str, ...] = ()
    disk: str | None = None
    memory: str | None = None
    processes: str | None = None
    timeout: str | None = None


class Start(Message, frozen=True, tag="start"):
    """Become this user and run it. With three descriptors: standard input, output and error.

    policies: presets or files by name, or texts; none: base.
    environment: of the program, as far as the policy passes it on.
    state_dir: where the run is recorded; None: where the user's own are.
    """

    uid: int
    command: tuple[bytes, ...]
    cwd: bytes
    environment: dict[bytes, bytes] = {}
    policies: tuple[str | PolicyText, ...] = ()
    settings: Settings = Settings()
    name: str | None = None
    state_dir: bytes | None = None


class Signal(Message, frozen=True, tag="signal"):
    """To the program."""

    number: int


class Stop(Message, frozen=True, tag="stop"):
    """SIGTERM to the program; after the grace SIGKILL to all of the sandbox."""

    grace_s: float


class Kill(Message, frozen=True, tag="kill"):
    """All of the sandbox."""


Order = Start | Signal | Stop | Kill


# ---- supervisor to control plane


class Ready(Message, frozen=True, tag="ready"):
    version: int


class Said(Message, frozen=True, tag="said"):
    """One line for a person."""

    text: str


class Began(Message, frozen=True, tag="began"):
    """The run is on record, its program not started yet."""

    run_id: str
    policy_digest: str


class Started(Message, frozen=True, tag="started"):
    """pid: of the sandbox's init, whose descendants all its processes are."""

    pid: int


class Stopped(Message, frozen=True, tag="stopped"):
    """By job control."""

    signal: int


class Continued(Message, frozen=True, tag="continued"):
    pass


class Ended(Message, frozen=True, tag="ended"):
    """The last word: nothing of the sandbox is left, and what was to become of its changes has. status: as the status
    file has it (sandbox.result).
    """

    status: dict[str, Any]
    exit_status: int


Report = Ready | Said | Began | Started | Stopped | Continued | Ended


# ---- when


class Stage(enum.Enum):
    """Of a supervisor, as the control plane sees it."""

    FORKED = "forked"
    WARM = "warm"  # it waits for what it is to run
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    OVER = "over"


# What a supervisor may report, and the stage after it.
_NEXT: Final[dict[tuple[Stage, type[Message]], Stage]] = {
    (Stage.FORKED, Ready): Stage.WARM,
    (Stage.STARTING, Said): Stage.STARTING,
    (Stage.STARTING, Began): Stage.STARTING,
    (Stage.STARTING, Started): Stage.RUNNING,
    (Stage.STARTING, Ended): Stage.OVER,
    (Stage.RUNNING, Said): Stage.RUNNING,
    (Stage.RUNNING, Stopped): Stage.PAUSED,
    (Stage.RUNNING, Continued): Stage.RUNNING,  # of a stop that was over before it was told
    (Stage.RUNNING, Ended): Stage.OVER,
    (Stage.PAUSED, Said): Stage.PAUSED,
    (Stage.PAUSED, Stopped): Stage.PAUSED,
    (Stage.PAUSED, Continued): Stage.RUNNING,
    (Stage.PAUSED, Ended): Stage.OVER,
}
# What a supervisor may be told. One that is just ending may get an order too late: that is no mistake.
_ORDERS: Final[dict[Stage, frozenset[type[Message]]]] = {
    Stage.FORKED: frozenset(),
    Stage.WARM: frozenset({Start}),
    Stage.STARTING: frozenset({Signal, Stop, Kill}),
    Stage.RUNNING: frozenset({Signal, Stop, Kill}),
    Stage.PAUSED: frozenset({Signal, Stop, Kill}),
    Stage.OVER: frozenset(),
}


class Unfit(Exception):
    """Malformed, or not in this stage. Ends the connection that it came by."""


def after(stage: Stage, message: Message) -> Stage:
    """Raises Unfit."""
    try:
        return _NEXT[stage, type(message)]
    except KeyError:
        raise Unfit(f"{type(message).__name__} while {stage.value}") from None


def may_order(stage: Stage, order: type[Message]) -> bool:
    return order in _ORDERS[stage]


# ---- as bytes

_M = TypeVar("_M", bound=Message)
_encoder = msgspec.msgpack.Encoder()
_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
_to_zygote = msgspec.msgpack.Decoder(Fork)
_from_zygote: msgspec.msgpack.Decoder[Forked | NotForked | Reaped] = msgspec.msgpack.Decoder(
    Forked | NotForked | Reaped
)


def encoded(message: Message) -> bytes:
    return _encoder.encode(message)


def order_from(data: bytes) -> Order:
    """Raises Unfit."""
    return _decoded(_orders, data)


def report_from(data: bytes) -> Report:
    """Raises Unfit."""
    return _decoded(_reports, data)


def for_zygote_from(data: bytes) -> Fork:
    """Raises Unfit."""
    return _decoded(_to_zygote, data)


def of_zygote_from(data: bytes) -> Forked | NotForked | Reaped:
    """Raises Unfit."""
    return _decoded(_from_zygote, data)


def _decoded(decoder: msgspec.msgpack.Decoder[_M], data: bytes) -> _M:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unfit(str(error)) from None
