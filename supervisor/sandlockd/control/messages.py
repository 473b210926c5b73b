"""What the control plane, the zygote and the supervisors say to one another, and when each may say it.

Pure: nothing here opens, sends or waits.

A supervisor runs as the user who asked for the sandbox, so to the control plane it is that user: what it sends is
checked whole, by type, and against the table of what may come in the stage that its sandbox is in. Whatever else it
sends ends it. (OpenSSH's monitor is built like this: README.privsep.)
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Final, TypeVar

import msgspec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = 1
MAX_BYTES: Final = (
    16 << 20
)  # of one message; the arguments and the environment of a program are at most 6 MiB
MAX_REPORT_BYTES: Final = 1 << 20  # of what a supervisor says: more is not looked at
MAX_LINES: Final = 1000  # that a supervisor may say for people
# What the control plane keeps of a supervisor's words, in characters and bytes: they are its user's, who may have many.
MAX_TEXT: Final = 4096
MAX_POLICY_BYTES: Final = 256 << 10
MAX_STATUS_BYTES: Final = 64 << 10
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Word = Annotated[str, msgspec.Meta(max_length=256)]
Shown = Annotated[tuple[Text, ...], msgspec.Meta(max_length=64)]


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
    """A policy that was read already. directory: absolute; relative paths in it start there. identity: of its file
    (policy.inputs.Source), if it was one of the service's.
    """

    name: str
    directory: bytes
    content: bytes
    identity: bytes = b""


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

    policies: presets by name, or texts; none: base. policy_dir: where those are that they extend by name.
    environment: of the program, as far as the policy passes it on.
    state_dir: where the run is recorded; None: where the user's own are. run_id: what it is called there.
    memory: what is left of what this user may have, in bytes; limits.memory must be set, and not more.
    quiet: without the closing lines about refusals and the like.
    """

    uid: int
    command: tuple[bytes, ...]
    cwd: bytes
    environment: dict[bytes, bytes] = {}
    policies: tuple[str | PolicyText, ...] = ()
    policy_dir: bytes | None = None
    settings: Settings = Settings()
    name: str | None = None
    state_dir: bytes | None = None
    run_id: str | None = None
    memory: int | None = None
    quiet: bool = False


class Work(Message, frozen=True, tag="work"):
    """Become this user and do that with what a run has left. With one descriptor: where the answer is written.

    verb: `changes`, `diff`, `commit`, `discard`, `denials` or `forget` (control/work.py). options: bytes or true, by
    name.
    """

    uid: int
    verb: str
    run_id: str
    state_dir: bytes | None = None
    paths: tuple[bytes, ...] = ()
    force: tuple[bytes, ...] = ()
    digest: str | None = None
    skip_marked: bool = False
    drops_changes: bool = False  # of `forget`; else kept changes are refused
    as_text: bool = False


class Signal(Message, frozen=True, tag="signal"):
    """To the program, or to its process group."""

    number: int
    to_group: bool = False


class Stop(Message, frozen=True, tag="stop"):
    """SIGTERM to the program; after the grace SIGKILL to all of the sandbox."""

    grace_s: float


class Kill(Message, frozen=True, tag="kill"):
    """All of the sandbox."""


class Pause(Message, frozen=True, tag="pause"):
    """Whoever of the sandbox wants a processor is held; no program is told."""


class Resume(Message, frozen=True, tag="resume"):
    pass


class Ask(Message, frozen=True, tag="ask"):
    """what: `processes` or `stats`."""

    ticket: int
    what: str


class Execute(Message, frozen=True, tag="execute"):
    """A further program in the sandbox. With three descriptors: standard input, output and error.

    cwd, environment: None: as those of the first one. env: added to it, NAME=VALUE.
    """

    ticket: int
    command: tuple[bytes, ...]
    cwd: bytes | None = None
    environment: dict[bytes, bytes] | None = None
    env: tuple[bytes, ...] = ()


class SignalFurther(Message, frozen=True, tag="signal-further"):
    """To a further program, or to its process group."""

    ticket: int
    number: int
    to_group: bool = False


Order = Start | Work | Signal | Stop | Kill | Pause | Resume | Ask | Execute | SignalFurther


# ---- supervisor to control plane


class Ready(Message, frozen=True, tag="ready"):
    version: int


class Said(Message, frozen=True, tag="said"):
    """One line for a person."""

    text: Text


class Began(Message, frozen=True, tag="began"):
    """The run is on record, its program not started yet. command: as it is shown (`shown`)."""

    run_id: Word
    policy_digest: Word
    command: Shown = ()
    memory: int | None = None  # limits.memory, bytes


class Started(Message, frozen=True, tag="started"):
    """pid: of the sandbox's init, whose descendants all its processes are."""

    pid: int


class Kept(Message, frozen=True, tag="kept"):
    """There is somebody who replaces a supervisor that dies. With one descriptor: his pidfd."""


class Replaced(Message, frozen=True, tag="replaced"):
    """Who says this goes on in the place of one that has died. With one descriptor: a pidfd of himself."""


class Effective(Message, frozen=True, tag="effective"):
    """What the policies come to, as JSON (policy/show.py)."""

    policy: Annotated[bytes, msgspec.Meta(max_length=MAX_POLICY_BYTES)]


class Stopped(Message, frozen=True, tag="stopped"):
    """By job control."""

    signal: int


class Continued(Message, frozen=True, tag="continued"):
    pass


class Paused(Message, frozen=True, tag="paused"):
    pass


class NotPaused(Message, frozen=True, tag="not-paused"):
    """why: one line for people. All run as before."""

    why: str


class Resumed(Message, frozen=True, tag="resumed"):
    pass


class Denied(Message, frozen=True, tag="denied"):
    """count: how often by now, as the log has it. total: of all refusals. unsaid: so many such words before this one
    were left out.
    """

    call: Word
    target: Text
    rule: Word
    count: int
    total: int
    unsaid: int = 0


class Told(Message, frozen=True, tag="told"):
    """What was asked. problem: why not."""

    ticket: int
    what: dict[str, Any] = {}
    problem: Text | None = None


class Executed(Message, frozen=True, tag="executed"):
    """A further program runs. pid: of it."""

    ticket: int
    pid: int


class NotExecuted(Message, frozen=True, tag="not-executed"):
    """lines: why, for people."""

    ticket: int
    exit_status: int
    lines: tuple[str, ...] = ()


class FurtherEnded(Message, frozen=True, tag="further-ended"):
    """status: as wait(2) gives it."""

    ticket: int
    status: int


class Worked(Message, frozen=True, tag="worked"):
    """The last word of work. outcome: `done`, `refused` (nothing was changed), `none` (nothing is there) or
    `broken`.
    """

    outcome: Word
    lines: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_LINES)] = ()


class Ended(Message, frozen=True, tag="ended"):
    """The last word: nothing of the sandbox is left, and what was to become of its changes has. status: as the status
    file has it (sandbox.result). latencies: how many calls waited so long (LATENCY_BOUNDS_NS, and longer), C's and
    Python's.
    """

    status: dict[str, Any]
    exit_status: int
    latencies: tuple[tuple[int, ...], tuple[int, ...]] | None = None


Report = (
    Ready
    | Said
    | Began
    | Started
    | Kept
    | Replaced
    | Effective
    | Stopped
    | Continued
    | Paused
    | NotPaused
    | Resumed
    | Denied
    | Told
    | Executed
    | NotExecuted
    | FurtherEnded
    | Worked
    | Ended
)


# ---- when


class Stage(enum.Enum):
    """Of a supervisor, as the control plane sees it."""

    FORKED = "forked"
    WARM = "warm"  # it waits for what it is to run
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"  # by job control
    WORKING = "working"
    OVER = "over"


# What a supervisor may report, and the stage after it.
_RUNS: Final = (Stage.RUNNING, Stage.STOPPED)
_AT_ANY_TIME: Final = (
    Said,
    Kept,
    Replaced,
    Effective,
    Paused,
    NotPaused,
    Resumed,
    Denied,
    Told,
    Executed,
    NotExecuted,
    FurtherEnded,
)
_NEXT: Final[dict[tuple[Stage, type[Message]], Stage]] = {
    (Stage.FORKED, Ready): Stage.WARM,
    (Stage.STARTING, Said): Stage.STARTING,
    (Stage.STARTING, Began): Stage.STARTING,
    (Stage.STARTING, Denied): Stage.STARTING,
    (Stage.STARTING, Started): Stage.RUNNING,
    (Stage.STARTING, Ended): Stage.OVER,
    **{(stage, kind): stage for stage in _RUNS for kind in _AT_ANY_TIME},
    **{(stage, Stopped): Stage.STOPPED for stage in _RUNS},
    **{
        (stage, Continued): Stage.RUNNING for stage in _RUNS
    },  # of a stop that was over before it was told, too
    **{(stage, Ended): Stage.OVER for stage in _RUNS},
    (Stage.WORKING, Worked): Stage.OVER,
}
# What a supervisor may be told. One that is just ending may get an order too late: that is no mistake.
_WHILE_IT_RUNS: Final[frozenset[type[Message]]] = frozenset(
    {Signal, Stop, Kill, Pause, Resume, Ask, Execute, SignalFurther}
)
_ORDERS: Final[dict[Stage, frozenset[type[Message]]]] = {
    Stage.FORKED: frozenset(),
    Stage.WARM: frozenset({Start, Work}),
    Stage.STARTING: frozenset({Signal, Stop, Kill}),
    Stage.RUNNING: _WHILE_IT_RUNS,
    Stage.STOPPED: _WHILE_IT_RUNS,
    Stage.WORKING: frozenset(),
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
WITH_DESCRIPTOR: Final[tuple[type[Message], ...]] = (Kept, Replaced)  # of what a supervisor reports

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
    if len(data) > MAX_REPORT_BYTES:
        raise Unfit("a report that is too long")
    report = _decoded(_reports, data)
    if isinstance(report, Ended) and len(data) > MAX_STATUS_BYTES:
        raise Unfit("a status that is too long")
    return report


def shown(words: Sequence[str], room: int = MAX_TEXT) -> tuple[str, ...]:
    """A command, as much of it as lists have room for, in characters."""
    found = list[str]()
    for word in words:
        if len(word) > room or len(found) == 63:
            return (*found, f"{word[: max(room - 1, 0)]}…")
        found.append(word)
        room -= len(word)
    return tuple(found)


def lines(texts: Sequence[str]) -> tuple[str, ...]:
    """What people are told, as many of it as there is room for."""
    found, room = list[str](), MAX_REPORT_BYTES // 2
    for text in map(line, texts[:MAX_LINES]):
        room -= len(text.encode("utf-8", "surrogatepass"))
        if room < 0:
            break
        found.append(text)
    return tuple(found)


def line(text: str) -> str:
    """What a person is told, as much of it as there is room for."""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


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
