"""The journal of a commit: what is written before and after each action, and what a rerun does next.

Pure. One record per line, `CRC32 JSON`: the checksum of the JSON in eight hexadecimal digits. Paths are text
with surrogate escapes. In order:

    {"version": 1, "digest": D, "tag": T, "root": [DEVICE, INODE], "count": N, "notes": M}   the head
    {"action": I, ...}                        N times: the whole plan, since the changes cannot be listed again
                                              once some of them are done
    {"former": I, ...}, {"lent": PATH, ...}   M in all: what an action that changes something in place takes
                                              away; directories that are opened to us meanwhile
    {"sealed": N}                             fsync; only now may the first action begin
    {"begin": I}                              before an action
    {"staged": I, "device": D, "inode": I}    fsync; the temporary of a write, symlink, node or link is complete
    {"done": I}                               after an action
    {"undoing": N}                            fsync; from here on everything is taken back
    {"landed": N}                             fsync; all directories are synced: only what was there before is
                                              left to be removed, and nothing is taken back any more
    {"ended": N}                              fsync; nothing is left to do

A last line without its newline, or with a wrong checksum, was being written at the kill and counts as absent.
Without `sealed` nothing was done. A rerun goes through all actions again and asks `next_step` for each, `done`
or not: after a loss of power a rename that was done may be undone.
"""

from __future__ import annotations

import enum
import json
from binascii import crc32
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

from sandlockd.overlay.commit import STAGED, Action, CommitPlan, Do, matches
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import Facts, Identity

VERSION = 1


class BadJournal(Exception):
    """The file is not a journal of this version, or was changed by somebody: one line saying where."""


class Former(NamedTuple):
    """What an object was like, before it is changed in place. attributes: those that go with a copy."""

    uid: int
    gid: int
    mode: int
    atime_ns: int
    mtime_ns: int
    attributes: tuple[tuple[bytes, bytes], ...]


class Journal(NamedTuple):
    """What a journal says.

    former: by action. lent: the mode of each directory that is opened to us meanwhile.
    staged: (st_dev, st_ino) of the temporaries by action.
    """

    plan: CommitPlan
    former: dict[int, Former]
    lent: dict[bytes, int]
    begun: Set[int]
    staged: Mapping[int, tuple[int, int]]
    done: Set[int]
    is_undoing: bool
    has_landed: bool
    has_ended: bool


class Next(enum.Enum):
    """What to do about an action in a rerun."""

    DO = enum.auto()  # from its beginning, removing the temporary first if one is there
    SKIP = enum.auto()  # it is in effect; remove the temporary if one is there, and write that it is done
    CONFLICT = enum.auto()  # somebody else was here in between: stop, and name the path


def encode_plan(
    plan: CommitPlan, former: Mapping[int, Former] | None = None, lent: Mapping[bytes, int] | None = None
) -> bytes:
    """The head, the plan, what goes with it, and the seal."""
    notes = [_former_record(number, was) for number, was in (former or {}).items()]
    notes += [{"lent": _text(path), "mode": mode} for path, mode in (lent or {}).items()]
    count = len(plan.actions)
    head = {
        "version": VERSION,
        "digest": plan.digest,
        "tag": plan.tag,
        "root": list(plan.root),
        "count": count,
        "notes": len(notes),
    }
    lines = [head, *(_action_record(action) for action in plan.actions), *notes, {"sealed": count}]
    return b"".join(_line(record) for record in lines)


def begin(action: Action) -> bytes:
    """The record before an action."""
    return _line({"begin": action.number})


def staged(action: Action, device: int, inode: int) -> bytes:
    """The record between the temporary and its rename."""
    return _line({"staged": action.number, "device": device, "inode": inode})


def done(action: Action) -> bytes:
    """The record after an action."""
    return _line({"done": action.number})


def undoing(plan: CommitPlan) -> bytes:
    """The record before anything is taken back."""
    return _line({"undoing": len(plan.actions)})


def landed(plan: CommitPlan) -> bytes:
    """The record between the last action and the removal of what was there before."""
    return _line({"landed": len(plan.actions)})


def ended(plan: CommitPlan) -> bytes:
    """The last record."""
    return _line({"ended": len(plan.actions)})


def read_journal(text: bytes) -> Journal | None:
    """Read a journal; None where it was not sealed, and so nothing was done.

    Raises:
        BadJournal: a line that is wrong elsewhere than at the end, or another version.
    """
    records = _records(text)
    if not records:
        return None
    try:
        return _journal(records)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadJournal(f"a record has not the form of version {VERSION}: {error!r}") from error


def _journal(records: list[dict[str, Any]]) -> Journal | None:
    head = records[0]
    if head["version"] != VERSION:
        raise BadJournal(f"version {head['version']}, this is {VERSION}")
    count = head["count"]
    seal = count + head["notes"] + 1
    if len(records) <= seal:
        return None
    actions = tuple(_action(record) for record in records[1 : count + 1])
    if records[seal] != {"sealed": count} or any(a.number != i for i, a in enumerate(actions)):
        raise BadJournal("the plan is not sealed where it ends")
    former, lent = {}, {}
    for record in records[count + 1 : seal]:
        if "former" in record:
            former[record["former"]] = _former(record)
        else:
            lent[_bytes(record["lent"])] = int(record["mode"])
    begun, finished = set(), set()
    is_undoing = has_landed = has_ended = False
    temporaries = {}
    for record in records[seal + 1 :]:
        match record:
            case {"begin": int(number)}:
                begun.add(number)
            case {"staged": int(number), "device": int(device), "inode": int(inode)}:
                temporaries[number] = device, inode
            case {"done": int(number)}:
                finished.add(number)
            case {"undoing": int()}:
                is_undoing = True
            case {"landed": int()}:
                has_landed = True
            case {"ended": int()}:
                has_ended = True
            case _:
                raise BadJournal(f"an unknown record: {record}")
    device, inode = head["root"]
    plan = CommitPlan(head["digest"], actions, str(head["tag"]), (int(device), int(inode)))
    return Journal(
        plan,
        former,
        lent,
        frozenset(begun),
        temporaries,
        frozenset(finished),
        is_undoing,
        has_landed,
        has_ended,
    )


def next_step(journal: Journal, action: Action, now: Facts | None) -> Next:
    """What a rerun does about an action, from what is at its path now.

    An action that had not begun before the kill is checked as in a first run.
    """
    number = action.number
    if action.do is Do.SYNC:
        return Next.DO
    if action.do in STAGED:
        if now is not None and journal.staged.get(number) == (now.device, now.inode):
            return Next.SKIP
        return Next.DO if matches(action, now) else Next.CONFLICT
    if action.do is Do.DIRECTORY:
        if now is None:
            return Next.DO
        is_ours = number in journal.begun and now.kind is Kind.DIRECTORY
        return Next.SKIP if is_ours else Next.CONFLICT
    if action.do is Do.METADATA:
        return _next_metadata(action, now)
    if now is None:
        return Next.SKIP
    if matches(action, now):
        return Next.DO
    # Once it is gone, a later action may put something else there, and judges that itself.
    return Next.SKIP if number in journal.done else Next.CONFLICT


def _next_metadata(action: Action, now: Facts | None) -> Next:
    """In place, and the same however often it is done: only the object must be the right one."""
    if now is None or action.facts is None or now.kind is not action.facts.kind:
        return Next.CONFLICT
    if action.before is not None and action.before[1:3] != (now.device, now.inode):
        return Next.CONFLICT
    return Next.DO


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":"), sort_keys=True).encode()
    return b"%08x %b\n" % (crc32(text), text)


def _records(text: bytes) -> list[dict[str, Any]]:
    lines = text.split(b"\n")
    lines.pop()  # what is behind the last newline is no record, or was being written
    records = []
    for place, line in enumerate(lines):
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % crc32(body):
            if place == len(lines) - 1:
                break
            raise BadJournal(f"line {place + 1} has a wrong checksum")
        records.append(json.loads(body))
    return records


def _action_record(action: Action) -> dict[str, Any]:
    return {
        "action": action.number,
        "do": action.do.value,
        "path": _text(action.path),
        "before": None if action.before is None else [action.before.kind.value, *action.before[1:]],
        "facts": None if action.facts is None else [action.facts.kind.value, *action.facts[1:]],
        "content": action.content,
        "source": None if action.source is None else _text(action.source),
        "loose": action.is_loose,
    }


def _action(record: dict[str, Any]) -> Action:
    before, facts, source = record["before"], record["facts"], record["source"]
    return Action(
        number=record["action"],
        do=Do(record["do"]),
        path=_bytes(record["path"]),
        before=None if before is None else Identity(Kind(before[0]), *before[1:]),
        facts=None if facts is None else Facts(Kind(facts[0]), *facts[1:]),
        content=record["content"],
        source=None if source is None else _bytes(source),
        is_loose=record["loose"],
    )


def _former_record(number: int, was: Former) -> dict[str, Any]:
    attributes = {_text(name): value.hex() for name, value in was.attributes}
    return {"former": number, **was._asdict(), "attributes": attributes}


def _former(record: dict[str, Any]) -> Former:
    attributes = tuple((_bytes(name), bytes.fromhex(value)) for name, value in record["attributes"].items())
    uid, gid, mode, atime_ns, mtime_ns = (int(record[name]) for name in Former._fields[:-1])
    return Former(uid, gid, mode, atime_ns, mtime_ns, attributes)


def _text(path: bytes) -> str:
    return path.decode(errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
