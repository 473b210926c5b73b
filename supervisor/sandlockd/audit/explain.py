"""A run's log for people (text) or programs (JSON Lines): what was refused, to whom, by which rule, the fix.

Pure rendering: nothing here opens a file. What the program chose (names, paths, arguments) is shown escaped,
so that it cannot write to the terminal. Refuses to invent a remedy: the line shown came from the evaluator
that enforced.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from sandlockd.audit import laws
from sandlockd.audit.jsonline import without_surrogates
from sandlockd.audit.read import Record, RunLog, number, text

_REFUSED = ("refusal", "error")
_CALLERS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Style:
    """How words stand out; empty strings where there is no terminal."""

    strong: str = ""
    refused: str = ""
    allowed: str = ""
    end: str = ""


PLAIN = Style()
COLOURED = Style(strong="\x1b[1m", refused="\x1b[31m", allowed="\x1b[32m", end="\x1b[0m")


@dataclass(slots=True)
class _Group:
    """The same refusal, whichever of the run's processes met it."""

    first: Record
    count: int = 0
    callers: dict[str, None] = field(default_factory=dict)


def explanation(log: RunLog, style: Style = PLAIN) -> str:
    """Everything there is to say of a run, as lines that end in a newline."""
    refusals = [event for event in log.events if event["kind"] in _REFUSED]
    blocks = [_heading(log, style)]
    blocks += [_refusal(group, style) for group in _grouped(refusals)]
    blocks += [_more(event, style) for event in log.events if _is_more_refusals(event)]
    blocks.append(_notes(log))
    blocks.append(_gaps(log))
    return "\n".join(block for block in blocks if block)


def json_lines(log: RunLog) -> Iterator[str]:
    """One JSON object per line, each event once with its newest count, then what the log says of itself."""
    for record in (log.header, *log.events, log.end):
        if record is not None:
            yield _json(record)
    yield _json(
        {
            "kind": "log",
            "run": log.run_id,
            "running": _is_going_on(log),
            "damaged_lines": log.damaged,
            "cut_short": log.cut_short,
        }
    )


def printable(words: str) -> str:
    """Text as a terminal may have it: what does not print is written as an escape."""
    return "".join(
        letter if letter.isprintable() else _escape(ord(letter)) for letter in without_surrogates(words)
    )


def refusal_count(log: RunLog) -> int:
    """All refusals of the run: from its end record, or the sum of what was written so far."""
    if log.end is not None:
        return number(log.end, "denials")
    counted = [event for event in log.events if event["kind"] in _REFUSED or _is_more_refusals(event)]
    return sum(number(event, "count") for event in counted)


def _allowed_count(log: RunLog) -> int:
    if log.end is not None:
        return number(log.end, "allowed")
    found = [event for event in log.events if "allowed" in (event["kind"], event.get("of"))]
    return sum(number(event, "count") for event in found)


def _escape(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _heading(log: RunLog, style: Style) -> str:
    header = log.header or {}
    lines = [f"{style.strong}run {printable(log.run_id)}{style.end}{_name(header)}: {_command(header)}"]
    if header:
        sources = ", ".join(map(printable, _strings(header, "policy_sources"))) or "no policy"
        started = printable(text(header, "time"))
        lines.append(f"  started {started} in {printable(text(header, 'cwd'))}, policy: {sources}")
    count = refusal_count(log)
    refused = "nothing was refused" if count == 0 else f"{count} refusal{'s' if count != 1 else ''}"
    lines.append(f"  {_ending(log)}; {refused}")
    if allowed := _allowed_count(log):
        calls = f"{allowed} call{'s' if allowed != 1 else ''}"
        lines.append(f"  {calls} let through or answered: sandlockd explain --json {printable(log.run_id)}")
    return "\n".join(lines) + "\n"


def _name(header: Record) -> str:
    name = text(header, "name")
    return f" ({printable(name)})" if name else ""


def _command(header: Record) -> str:
    argv = _strings(header, "command")
    if not argv:
        return "command not recorded"
    cut = " ..." if header.get("command_cut") else ""
    return " ".join(printable(shlex.quote(argument)) for argument in argv) + cut


def _ending(log: RunLog) -> str:
    if log.end is None:
        return "still running" if log.running else "its end is not recorded: the supervisor was killed"
    end = log.end
    if end.get("has_run") is False:
        return f"it was not started, exit status {number(end, 'exit_status')}: {_error(end)}"
    how = printable(text(end, "reason")) or "ended"
    if isinstance(end.get("exit_code"), int):
        how += f" with {number(end, 'exit_code')}"
    if number(end, "signal"):
        how += f" by signal {number(end, 'signal')}"
    if text(end, "rule"):
        how += f" ({printable(text(end, 'rule'))})"
    wall = end.get("wall_s")
    if isinstance(wall, (int, float)):
        how += f" after {wall:.1f} s"
    return f"{how}: {_error(end)}" if text(end, "error") else how


def _error(end: Record) -> str:
    return printable(text(end, "error")) or "why is not recorded"


def _grouped(refusals: list[Record]) -> list[_Group]:
    same = ("kind", "call", "path", "path_b64", "target", "target_b64", "rule", "errno", "remedy")
    groups: dict[tuple[str, ...], _Group] = {}
    for record in refusals:
        group = groups.setdefault(tuple(text(record, name) for name in same), _Group(record))
        group.count += number(record, "count")
        group.callers[_caller(record)] = None
    return list(groups.values())


def _caller(record: Record) -> str:
    command = printable(text(record, "command")) or "a process"
    return f"{command} (pid {number(record, 'pid')})"


def _refusal(group: _Group, style: Style) -> str:
    record = group.first
    lines = [_tried(record, group.count, style), f"    by     {_callers(group)}"]
    lines.append(f"    rule   {printable(text(record, 'rule'))}")
    remedy = text(record, "remedy")
    if record["kind"] == "error":
        lines.append(
            "    allow  not a matter of policy: sandlockd failed to judge or answer it, and so refused"
        )
        lines += [f"           {printable(line)}" for line in text(record, "traceback").splitlines()]
    elif remedy:
        first, *rest = remedy.splitlines()
        lines.append(f"    allow  {style.allowed}{printable(first)}{style.end}")
        lines += [f"           {style.allowed}{printable(line)}{style.end}" for line in rest]
    else:
        lines.append(f"    allow  nothing may allow this: {laws.reason(text(record, 'rule'))}")
    return "\n".join(lines) + "\n"


def _tried(record: Record, count: int, style: Style) -> str:
    what = printable(text(record, "call"))
    if text(record, "path"):
        what += f" {printable(text(record, 'path'))}"
    if text(record, "target"):
        what += f" -> {printable(text(record, 'target'))}"
    wanted = f", to {_words(text(record, 'wanted'))}" if text(record, "wanted") else ""
    times = f", {count} times" if count > 1 else ""
    error = printable(text(record, "errno"))
    return f"{style.strong}{what}{style.end}{wanted}: {style.refused}{error}{style.end}{times}"


def _words(wanted: str) -> str:
    """`read+metadata` as "read and change metadata"."""
    words = ["change metadata" if word == "metadata" else printable(word) for word in wanted.split("+")]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _callers(group: _Group) -> str:
    callers = list(group.callers)
    shown = ", ".join(callers[:_CALLERS_SHOWN])
    return shown if len(callers) <= _CALLERS_SHOWN else f"{shown} and {len(callers) - _CALLERS_SHOWN} more"


def _is_more_refusals(event: Record) -> bool:
    return event["kind"] == "more" and event.get("of") in _REFUSED


def _more(record: Record, style: Style) -> str:
    call, rule = printable(text(record, "call")), printable(text(record, "rule"))
    return (
        f"{style.strong}{call}{style.end}: {number(record, 'count')} more refusals\n"
        f"    rule   {rule}\n"
        f"    (only counted: there were too many different ones to write each down)\n"
    )


def _notes(log: RunLog) -> str:
    notes = [event for event in log.events if event["kind"] == "note"]
    if not notes:
        return ""
    lines = ["notes"]
    for note in notes:
        times = f" ({number(note, 'count')} times)" if number(note, "count") > 1 else ""
        by = f", by {_caller(note)}" if number(note, "pid") else ""
        lines.append(f"  {printable(text(note, 'subject'))}: {printable(text(note, 'text'))}{by}{times}")
    return "\n".join(lines) + "\n"


def _gaps(log: RunLog) -> str:
    lines = []
    if log.end is not None and number(log.end, "unrecorded"):
        cause = printable(text(log.end, "log_failure")) or "the log was full"
        lines.append(f"{number(log.end, 'unrecorded')} refusals are counted but not written: {cause}")
    if log.damaged:
        lines.append(f"{log.damaged} damaged line{'s' if log.damaged != 1 else ''} of the log left out")
    if log.cut_short and not _is_going_on(log):
        lines.append("the last line of the log is cut short: the supervisor was killed while writing it")
    if log.end is None and not log.running:
        lines.append("counts may be low: the last repeats of each refusal were not written")
    return "".join(f"{line}\n" for line in lines)


def _is_going_on(log: RunLog) -> bool:
    return log.running and log.end is None


def _strings(record: Record, name: str) -> list[str]:
    value = record.get(name)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _json(record: Record) -> str:
    # ensure_ascii escapes all but one of the characters that a terminal would act on.
    return json.dumps(record, ensure_ascii=True, separators=(",", ":")).replace("\x7f", "\\u007f")
