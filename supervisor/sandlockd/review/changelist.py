"""The list of changes for people (text) and programs (JSON Lines).

Pure rendering. Names are the program's choice: what does not print is escaped, so that a list cannot write to the
terminal, nor look like two lines. Deletions come first; nothing is ever cut off.
"""

from __future__ import annotations

import json
import os
import stat
from typing import NamedTuple

from sandlockd.audit import jsonline
from sandlockd.overlay.changes import Change, What
from sandlockd.overlay.entries import FILE_TYPES, Kind
from sandlockd.overlay.identity import Facts, Identity
from sandlockd.policy.spelling import printable
from sandlockd.store.content import SPARSE_PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

_WORDS = {
    What.DELETED: "deleted",
    What.ADDED: "added",
    What.MODIFIED: "modified",
    What.METADATA: "metadata",
    What.REPLACED: "replaced",
    What.RENAMED: "renamed",
}
_NOBODY_ELSE = {Kind.SYMLINK: "symbolic link", Kind.FIFO: "FIFO", Kind.SOCKET: "socket"}


class Row(NamedTuple):
    """A change, and the lower object as it is now, where there is one."""

    change: Change
    old: Facts | None


class Style(NamedTuple):
    """Escape sequences; empty where there is no terminal."""

    added: str = ""
    deleted: str = ""
    changed: str = ""
    mark: str = ""
    strong: str = ""
    end: str = ""


PLAIN = Style()
COLOURED = Style("\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[1;31m", "\x1b[1m", "\x1b[0m")


def style_for(fd: int) -> Style:
    """Colour only on a terminal, and not where NO_COLOR says no."""
    return COLOURED if os.isatty(fd) and not os.environ.get("NO_COLOR") else PLAIN


def shown(path: bytes) -> str:
    """A path as a terminal may have it."""
    return printable(path.decode("utf-8", "backslashreplace"))


def counts(changes: Iterable[Change]) -> dict[str, int]:
    """How many of each kind; a deleted directory counts with all that was in it."""
    found = dict.fromkeys(_WORDS.values(), 0)
    for change in changes:
        number = change.total if change.what is What.DELETED else 1
        found[_WORDS[change.what]] += number
        if change.what is What.REPLACED:
            found["deleted"] += len(change.below)
    return found


def summary(changes: Collection[Change]) -> str:
    """`3 changes: 1 deleted, 2 added`"""
    return counted(counts(changes))


def counted(found: Mapping[str, int]) -> str:
    """The same of what `counts` has found."""
    total = sum(found.values())
    told = ", ".join(f"{number} {word}" for word, number in found.items() if number)
    return f"{total} change{'s' if total != 1 else ''}: {told}" if total else "no changes"


def list_lines(rows: Collection[Row], style: Style = PLAIN, *, numbered: bool = False) -> Iterator[str]:
    """One line per change, and one for each object below a directory that goes. Numbers are places in `rows`."""
    width = len(str(len(rows))) if numbered else 0
    for place, row in enumerate(rows, 1):
        if row.change.is_folded:
            continue
        start = f"{place:>{width}} " if numbered else ""
        yield start + _line(row, style)
        for path, identity in row.change.below:
            mode = stat.filemode(FILE_TYPES.get(identity.kind, 0) | identity.mode)
            told = f"{mode} {_size(identity.kind, identity.size_bytes):>7} {shown(path)}"
            yield " " * len(start) + f"{style.deleted}D{style.end} {told}"


def _line(row: Row, style: Style) -> str:
    change = row.change
    is_gone = change.what is What.DELETED
    seen: Facts | Identity | None = change.base if is_gone else change.facts
    assert seen is not None
    colour = {What.DELETED: style.deleted, What.ADDED: style.added}.get(change.what, style.changed)
    mode = stat.filemode(FILE_TYPES.get(seen.kind, 0) | seen.mode)
    slash = "/" if seen.kind is Kind.DIRECTORY else ""
    notes = "; ".join(_notes(row))
    told = f"{colour}{change.what.value}{style.end} {mode} {_size(seen.kind, seen.size_bytes):>7}"
    told += f" {shown(change.path) or '.'}{slash}"
    if change.facts is not None and change.facts.kind is Kind.SYMLINK:
        told += f" -> {shown(bytes.fromhex(change.content))}"
    if notes:
        told += f" ({notes})"
    if change.marks:
        told += f"  {style.mark}! {', '.join(change.marks)}{style.end}"
    return told


def _notes(row: Row) -> Iterator[str]:
    change, old = row
    facts, base = change.facts, change.base
    if change.source is not None:
        yield f"from {shown(change.source)}"
    if change.link_to is not None:
        yield f"a further name of {shown(change.link_to)}"
    if change.below:
        yield f"with {len(change.below)} below"
    if facts is None or base is None:
        return
    if base.kind is not facts.kind:
        yield f"was a {_NOBODY_ELSE.get(base.kind, base.kind.name.lower())}"
        return
    if facts.kind is Kind.FILE and base.size_bytes != facts.size_bytes:
        yield f"was {_size(base.kind, base.size_bytes)}"
    if facts.kind is not Kind.SYMLINK and base.mode != facts.mode:
        yield f"mode {base.mode:04o} -> {facts.mode:04o}"
    if old is not None and (old.uid, old.gid) != (facts.uid, facts.gid):
        yield f"owner {old.uid}:{old.gid} -> {facts.uid}:{facts.gid}"
    if old is not None and old.attributes != facts.attributes:
        yield "attributes"
    same = old is not None and old[5:8] == facts[5:8] and old.attributes == facts.attributes
    if change.what is What.METADATA and same:
        yield "times"


def _size(kind: Kind, size_bytes: int) -> str:
    if kind is not Kind.FILE:
        return "-"
    if size_bytes < 1000:
        return str(size_bytes)
    size, units = size_bytes / 1024, "KMGTP"
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.1f}{units[0]}"


def json_record(row: Row, diff: str | None = None, *, with_diff: bool = False) -> dict[str, object]:
    """Stable names; a path that is not UTF-8 is there a second time, exactly, in base64."""
    change, old = row
    facts, base = change.facts, change.base
    record: dict[str, object] = {
        "kind": "change",
        "what": change.what.value,
        **json_path("path", change.path),
    }
    record["type"] = (facts or base or _none()).kind.value
    if facts is not None:
        record |= {"size": facts.size_bytes, "mode": f"{facts.mode:04o}", "uid": facts.uid, "gid": facts.gid}
        if facts.kind is Kind.FILE:
            is_sparse = change.content.startswith(SPARSE_PREFIX)
            record["sparse_digest" if is_sparse else "sha256"] = change.content
        if facts.kind is Kind.SYMLINK:
            record |= json_path("target", bytes.fromhex(change.content))
    if base is not None:
        record["was"] = {"type": base.kind.value, "size": base.size_bytes, "mode": f"{base.mode:04o}"}
        if old is not None:
            record["was"] |= {"uid": old.uid, "gid": old.gid}  # type: ignore[operator]
    if change.source is not None:
        record |= json_path("source", change.source)
    if change.link_to is not None:
        record |= json_path("link_to", change.link_to)
    if change.below:
        record["below"] = [{**json_path("path", path), "type": at.kind.value} for path, at in change.below]
    record["marks"] = list(change.marks)
    if with_diff:
        record["diff"] = diff
    return record


def _none() -> Identity:
    raise ValueError("a change of nothing")


def json_path(name: str, path: bytes) -> dict[str, str]:
    if jsonline.is_utf8(path):
        return {name: path.decode("utf-8")}
    return {
        name: path.decode("utf-8", "backslashreplace"),
        f"{name}_b64": json.loads(jsonline.base64_of(path)),
    }


def json_line(record: dict[str, object]) -> str:
    """Harmless on a terminal, as every line of JSON that we write: see audit/jsonline.py."""
    # ascii: everything that is not printable, and more, is an escape.
    return json.dumps(record, ensure_ascii=True)
