"""What clients send and are sent: the types that validate, and that the OpenAPI document is made from.

Pure. Unknown fields are refused. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from sandlockd.control.records import Event, Record

API_VERSION = "1"
MAX_BODY_BYTES = 2 << 20
MAX_WORDS = 4096

# Without what follows the $ a line feed at the end would pass (re, and not ECMA 262).
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$(?!\n)"
Name = Annotated[str, Meta(pattern=NAME_PATTERN, description="letters, digits, _ . -; at most 63")]
Text = Annotated[str, Meta(max_length=128 << 10, pattern="^[^\\x00]*$")]
Word = Annotated[str, Meta(max_length=4096, pattern="^[^\\x00]*$")]
Path = Annotated[str, Meta(min_length=1, max_length=4096, pattern="^[^\\x00]*$")]
LabelKey = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$(?!\n)")]
LabelValue = Annotated[str, Meta(max_length=256, pattern="^[^\\x00]*$")]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=64)]
Paths = Annotated[list[Path], Meta(max_length=MAX_WORDS)]
Variable = Annotated[str, Meta(pattern="^[^=\\x00]+$", max_length=4096)]
Environment = Annotated[dict[Variable, Text], Meta(max_length=MAX_WORDS)]
Side = Annotated[int, Meta(ge=1, le=65535)]


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A body of a request."""


class PolicyGiven(Asked):
    """A policy as text. directory: absolute; relative paths in it start there (default: the request's cwd)."""

    text: Annotated[str, Meta(max_length=1 << 20)]
    name: Annotated[str, Meta(min_length=1, max_length=4096)] = "policy_text"
    directory: Annotated[str, Meta(pattern="^/[^\\x00]*$", max_length=4096)] | None = None


class RunRequest(Asked):
    """What is to run, and how. All but the command may come from the policy; what is named here beats it.

    policy, policies: names of presets or of files in the service's policy directory, or texts; they add up; none: base.
    cwd: where it starts (default: /). env: added to its environment.
    environment: what its environment is made from; what is not in it is as in a login of yours.
    quiet: without the closing lines about refusals and the like.
    tty: a terminal of rows x columns in place of three pipes. stdin: its input is open for attach (default: empty).
    """

    command: Annotated[list[Text], Meta(max_length=MAX_WORDS)] = []
    policy: Name | None = None
    policies: Annotated[list[Name | PolicyGiven], Meta(max_length=64)] = []
    policy_text: Annotated[str, Meta(max_length=1 << 20)] | None = None
    env: Environment = {}
    environment: Environment | None = None
    clean_env: bool = False
    cwd: Annotated[str, Meta(pattern="^/[^\\x00]*$", max_length=4096)] = "/"
    name: Name | None = None
    labels: Labels = {}
    tty: bool = False
    rows: Side = 24
    columns: Side = 80
    stdin: bool = False
    timeout: Word | None = None
    on_exit: Annotated[str, Meta(pattern="^(commit|discard|keep)$")] | None = None
    dry_run: bool = False
    workdir: Path | None = None
    read: Paths = []
    write: Paths = []
    deny: Paths = []
    allow_net: Annotated[list[Word], Meta(max_length=256)] = []
    memory: Word | None = None
    processes: Word | None = None
    disk: Word | None = None
    quiet: bool = False


class ExecRequest(Asked):
    """A further command in a sandbox that runs, behind the same walls.

    cwd, environment: as those of the first program, if they are not given. env: added. tty, rows, columns, stdin: as
    of a sandbox.
    """

    command: Annotated[list[Text], Meta(min_length=1, max_length=MAX_WORDS)]
    cwd: Annotated[str, Meta(pattern="^/[^\\x00]*$", max_length=4096)] | None = None
    env: Environment = {}
    environment: Environment | None = None
    tty: bool = False
    rows: Side = 24
    columns: Side = 80
    stdin: bool = False


class StopRequest(Asked):
    """grace_s: between SIGTERM to the program and the end of all."""

    grace_s: Annotated[float, Meta(ge=0, le=3600)] | None = None


class SignalRequest(Asked):
    """signal: its number, or its name with or without SIG. group: to the program's process group, as ^C on a terminal
    is; else to the program alone.
    """

    signal: Annotated[int, Meta(ge=1, le=64)] | Annotated[str, Meta(pattern=r"^[A-Za-z0-9+-]{1,16}$")]
    group: bool = False


class WaitRequest(Asked):
    """timeout_s: 0: at once. None: as long as it takes."""

    timeout_s: Annotated[float, Meta(ge=0, le=86400)] | None = None


class CommitRequest(Asked):
    """digest: of the list that was reviewed; the changes are refused if they are others by now.

    paths: relative to the tree; none: all. force: paths that may be overwritten although they changed underneath.
    skip_marked: leave out, and keep, what runs later by itself.
    """

    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    paths: Paths = []
    force: Paths = []
    skip_marked: bool = False


class DiscardRequest(Asked):
    """paths: relative to the tree; none: all."""

    paths: Paths = []


class SandboxObject(msgspec.Struct):
    """One sandbox. pid: of its init, whose descendants all its processes are. reason: why it ended.

    denials: how many refusals. changes: state, digest and counts. usage: as in the status file.
    """

    id: str
    name: str | None
    state: str
    labels: dict[str, str]
    owner: str
    uid: int
    command: list[str]
    cwd: str
    policies: list[str]
    policy_digest: str | None
    tty: bool
    stdin: bool
    created: str
    started: str | None
    ended: str | None
    pid: int | None
    supervisor_pid: int | None
    keeper_pid: int | None
    supervisor_deaths: int
    exit_status: int | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    rule: str | None
    error: str | None
    denials: int
    changes: dict[str, Any] | None
    usage: dict[str, Any] | None


class ExecObject(msgspec.Struct):
    """A further command. number: its own in its sandbox. state: running, or exited."""

    sandbox: str
    number: int
    state: str
    command: list[str]
    tty: bool
    stdin: bool
    started: str | None
    ended: str | None
    pid: int | None
    exit_status: int | None
    exit_code: int | None
    signal: int | None
    error: str | None


class SandboxList(msgspec.Struct):
    """next: the cursor of the next page, if there is one."""

    sandboxes: list[SandboxObject]
    next: str | None


class EventObject(msgspec.Struct):
    """cursor: what to ask for after, to go on behind this one."""

    cursor: int
    time: str
    sandbox: str
    event: str
    data: dict[str, Any]


class LogRecord(msgspec.Struct):
    """data: text; base64 instead, in `data_base64`, where it is not UTF-8."""

    cursor: int
    time: str
    stream: str
    data: str | None = None
    data_base64: str | None = None


class Dropped(msgspec.Struct):
    """In a stream: what came before had gone already. Of logs bytes, of events their number."""

    dropped: int


class Version(msgspec.Struct):
    version: str
    api: str


def rfc3339(time_ns: int | None) -> str | None:
    if time_ns is None:
        return None
    seconds, rest = divmod(time_ns, 10**9)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{rest // 1000:06d}Z"


def sandbox_object(
    record: Record, denials: int = 0, keeper_pid: int | None = None, deaths: int = 0
) -> SandboxObject:
    """denials, keeper_pid, deaths: of one that is running. deaths: how many supervisors of it have died so far."""
    status = record.status or {}
    return SandboxObject(
        id=record.id,
        name=record.name or None,
        state=record.state.value,
        labels=record.labels,
        owner=record.owner,
        uid=record.uid,
        command=record.command,
        cwd=record.cwd,
        policies=record.policies,
        policy_digest=record.policy_digest,
        tty=record.tty,
        stdin=record.stdin,
        created=rfc3339(record.created_ns) or "",
        started=rfc3339(record.started_ns),
        ended=rfc3339(record.ended_ns),
        pid=record.pid,
        supervisor_pid=record.supervisor_pid,
        keeper_pid=keeper_pid,
        supervisor_deaths=deaths,
        exit_status=record.exit_status,
        exit_code=status.get("exit_code"),
        signal=status.get("signal"),
        reason=status.get("reason"),
        rule=status.get("rule"),
        error=record.error,
        denials=status.get("denials", denials),
        changes=status.get("changes"),
        usage=status.get("usage"),
    )


def event_object(event: Event) -> EventObject:
    time = rfc3339(event.time_ns) or ""
    return EventObject(event.number + 1, time, event.sandbox, event.kind, event.data)
