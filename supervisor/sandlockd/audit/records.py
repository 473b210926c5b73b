"""The records of an audit log, and how each becomes one line of JSON.

Typed and frozen. Nothing here opens a file or reads a clock: the log does, and passes times and counts in.
The fields are documented in docs/audit.md; readers outside rely on the names.
"""

from __future__ import annotations

import enum
import errno as errno_module
import time

from sandlockd.audit.jsonline import base64_of, field, is_utf8, quote, quote_bytes, quote_or_null
from sandlockd.policy.frozen import Value
from sandlockd.policy.verdict import Want

SCHEMA = 1

# Texts that could be long are cut: a record is one write(2), and a log is bounded.
TEXT_CHARACTERS_MAX = 8192
COMMAND_BYTES_MAX = 16384


class Level(enum.Enum):
    """`[audit] level` of the policy."""

    OFF = "off"  # nothing is written; refusals are still counted
    DENIALS = "denials"
    ALL = "all"  # what was allowed, too


class Refusal(Value):
    """A call that was refused with `errno`, and the rule that refused it.

    pid, birth: the PidKey of the process. tid: the thread that called. command: its comm.
    target: the second object of the call: where a rename or link leads, an address to connect to.
    wanted: what the call wanted of the object, or a word for what has no Want (`connect`).
    remedy: the policy line that would allow it, from the Verdict; None where nothing may.
    """

    kind = "refusal"

    call: str
    rule: str
    path: bytes | None = None
    target: bytes | str | None = None
    wanted: Want | str = ""
    pid: int = 0
    birth: int = 0
    tid: int = 0
    command: bytes | str = b""
    errno: int = errno_module.EACCES
    remedy: str | None = None

    def key(self) -> tuple[object, ...]:
        """Events with the same key are counted in one record."""
        return (self.kind, self.call, self.path, self.target, self.rule, self.errno, self.command)

    def body(self) -> str:
        """The fields of the record that are this event's own, as JSON without braces."""
        outcome = f'"errno":{quote(errno_name(self.errno))},"remedy":{quote_or_null(self.remedy)}'
        return f"{_attempt_fields(self)},{outcome}"


class Allowed(Value):
    """A call that was not refused; written at level `all` only. Fields as in Refusal.

    answer: `continued` to the kernel, whose result nobody here knows; `descriptor`, `value` or the name of an errno
        where sandlockd gave the result itself.
    """

    kind = "allowed"

    call: str
    rule: str
    path: bytes | None = None
    target: bytes | str | None = None
    wanted: Want | str = ""
    pid: int = 0
    birth: int = 0
    tid: int = 0
    command: bytes | str = b""
    answer: str = "continued"

    def key(self) -> tuple[object, ...]:
        return (self.kind, self.call, self.path, self.target, self.rule, self.command, self.answer)

    def body(self) -> str:
        return f'{_attempt_fields(self)},"answer":{quote(self.answer)}'


class Failure(Value):
    """A handler that raised. The program was refused (law 3: errors refuse); the cause is here."""

    kind = "error"

    refusal: Refusal
    traceback: str

    def key(self) -> tuple[object, ...]:
        return (self.kind, *self.refusal.key()[1:])

    def body(self) -> str:
        # The end of a traceback names the error.
        return f'{self.refusal.body()},"traceback":{quote(self.traceback[-TEXT_CHARACTERS_MAX:])}'


class Note(Value):
    """Something a reader of the log should know: a stacked filter, a listener attempt, a missing feature.

    subject: one stable word per kind of note, `stacked-filter`; text: one line for people.
    """

    kind = "note"

    subject: str
    text: str
    pid: int = 0
    birth: int = 0
    tid: int = 0
    command: bytes | str = b""

    def key(self) -> tuple[object, ...]:
        return (self.kind, self.subject, self.text, self.command)

    def body(self) -> str:
        subject = f'"subject":{quote(self.subject)},"text":{quote(self.text[:TEXT_CHARACTERS_MAX])}'
        return f"{_caller_fields(self)},{subject}"


class More(Value):
    """Events that found no record of their own, counted together: no path, no process, but never dropped.

    of: the kind that is counted. For notes `call` is empty and `rule` the subject.
    """

    kind = "more"

    of: str
    call: str
    rule: str

    def key(self) -> tuple[object, ...]:
        return (self.of, self.call, self.rule)

    def body(self) -> str:
        return f'"of":{quote(self.of)},"call":{quote(self.call)},"rule":{quote(self.rule)}'


class RunHeader(Value):
    """The first record of a log. command: argv; policy_sources: files and presets in the order given."""

    run_id: str
    command: tuple[bytes, ...]
    cwd: bytes
    policy_sources: tuple[str, ...]
    policy_digest: str
    version: str
    uid: int
    pid: int
    level: Level
    name: str | None = None

    def line(self, time_ns: int) -> bytes:
        argv, cut = _shortened(self.command)
        exact = "" if all(map(is_utf8, argv)) else f',"command_b64":[{",".join(map(base64_of, argv))}]'
        sources = ",".join(map(quote, self.policy_sources))
        return _line(
            f'"kind":"run","schema":{SCHEMA},"time":"{timestamp(time_ns)}","run":{quote(self.run_id)},'
            f'"name":{quote_or_null(self.name)},"command":[{",".join(map(quote_bytes, argv))}]{exact},'
            f'"command_cut":{_bool(cut)},{field("cwd", self.cwd)},"policy_sources":[{sources}],'
            f'"policy_digest":{quote(self.policy_digest)},"version":{quote(self.version)},'
            f'"uid":{self.uid},"pid":{self.pid},"level":{quote(self.level.value)}'
        )


class RunEnd(Value):
    """How the run ended. reason: as in the status file (exited, signaled, timeout, ...).

    error: one line, where something went wrong. has_run: the program was started. exit_status: sandlockd's own.
    """

    reason: str
    exit_code: int | None = None
    signal: int | None = None
    rule: str | None = None
    wall_s: float = 0.0
    error: str | None = None
    has_run: bool = True
    exit_status: int = 0

    def line(
        self, time_ns: int, *, denials: int, allowed: int | None, unrecorded: int, log_failure: str | None
    ) -> bytes:
        return _line(
            f'"kind":"end","time":"{timestamp(time_ns)}","reason":{quote(self.reason)},'
            f'"exit_code":{_number(self.exit_code)},"signal":{_number(self.signal)},'
            f'"rule":{quote_or_null(self.rule)},"wall_s":{self.wall_s:.3f},"error":{_text_or_null(self.error)},'
            f'"has_run":{_bool(self.has_run)},"exit_status":{self.exit_status},"denials":{denials},'
            f'"allowed":{_number(allowed)},'
            f'"unrecorded":{unrecorded},"log_failure":{quote_or_null(log_failure)}'
        )


def event_line(
    event: Refusal | Allowed | Failure | Note | More, *, number: int, first_ns: int, last_ns: int, count: int
) -> bytes:
    """One record. A later line with the same number replaces this one: the same event, counted further."""
    return _line(
        f'"kind":"{event.kind}","number":{number},"time":"{timestamp(first_ns)}","last":"{timestamp(last_ns)}",'
        f'"count":{count},{event.body()}'
    )


def timestamp(time_ns: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest_ns // 1_000_000:03d}Z"


def errno_name(number: int) -> str:
    """EACCES for 13; an unknown number as its digits."""
    return errno_module.errorcode.get(number) or str(number)


def wanted_words(wanted: Want | str) -> str:
    """`read+write`, in the words of the policy language."""
    if isinstance(wanted, str):
        return wanted
    return "+".join(member.name.lower() for member in wanted if member.name)


def _attempt_fields(event: Refusal | Allowed) -> str:
    wanted = quote(wanted_words(event.wanted))
    return (
        f'{_caller_fields(event)},"call":{quote(event.call)},{field("path", event.path)},'
        f'{field("target", event.target)},"wanted":{wanted},"rule":{quote(event.rule)}'
    )


def _caller_fields(event: Refusal | Allowed | Note) -> str:
    return f'"pid":{event.pid},"birth":{event.birth},"tid":{event.tid},{field("command", event.command)}'


def _line(body: str) -> bytes:
    return f"{{{body}}}\n".encode()


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _text_or_null(value: str | None) -> str:
    return quote_or_null(None if value is None else value[:TEXT_CHARACTERS_MAX])


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _shortened(argv: tuple[bytes, ...]) -> tuple[list[bytes], bool]:
    """As many arguments as fit in COMMAND_BYTES_MAX, and whether that left something out."""
    kept: list[bytes] = []
    room = COMMAND_BYTES_MAX
    for argument in argv:
        # The one byte is for the quotes: a million empty arguments are not free either.
        if len(argument) + 1 > room:
            return kept, True
        room -= len(argument) + 1
        kept.append(argument)
    return kept, False
