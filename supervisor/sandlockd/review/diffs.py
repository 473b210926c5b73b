"""What changed in a file: a unified diff of text, of anything else sizes and hashes.

What is compared is chosen by the program, and so is what it costs: what is too large or too different is not
compared line by line, but shown whole or by its hash.
"""

from __future__ import annotations

import difflib
import os

from sandlockd.kernel import beneath, copying
from sandlockd.kernel.fds import OwnedFd
from sandlockd.overlay.changes import What
from sandlockd.overlay.entries import Kind
from sandlockd.policy.spelling import printable
from sandlockd.review.changelist import PLAIN, Row, Style, shown
from sandlockd.store.content import content_digest
from sandlockd.store.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXT_BYTES_MAX = 1 << 20
# Comparing costs up to the product of the numbers of lines, where they are chosen to make it so.
_LINES_PRODUCT_MAX = 4_000_000
_CONTEXT = 3
_DEV_NULL = "/dev/null"


class _Side:
    """One version of a file. text: None where it is not shown as text."""

    def __init__(self, name: str, file: OwnedFd | None) -> None:
        self.name = name
        self.size_bytes = 0
        self.digest = ""
        self.text: bytes | None = b""
        if file is None:
            return
        self.size_bytes = os.fstat(file.fd).st_size
        self.text = None
        if self.size_bytes <= _TEXT_BYTES_MAX:
            content = _read(file)
            if b"\0" not in content:
                self.text = content
        self.digest = content_digest(file)

    def told(self) -> str:
        return f"{self.size_bytes} bytes, sha256 {self.digest}" if self.digest else "nothing"


def _read(file: OwnedFd) -> bytes:
    parts, offset = [], 0
    while offset <= _TEXT_BYTES_MAX and (block := os.pread(file.fd, 1 << 16, offset)):
        parts.append(block)
        offset += len(block)
    return b"".join(parts)


def diff_lines(row: Row, storage: Storage, style: Style = PLAIN) -> Iterator[str]:
    """Of one change; nothing where the list has said everything."""
    change = row.change
    if change.is_folded:
        return
    source = change.source or change.path
    yield f"{style.strong}diff a/{shown(source)} b/{shown(change.path)}{style.end}"
    yield from _headers(row)
    if change.base is not None and change.what in (What.DELETED, What.REPLACED):
        gone = [(change.path, change.base.kind), *((path, base.kind) for path, base in change.below)]
        for path, kind in gone:
            is_replaced = path == change.path and change.what is What.REPLACED
            if kind is Kind.FILE and not (is_replaced and _is_file(row)):
                yield from _compared(_lower(storage, path), _Side(_DEV_NULL, None), style)
            elif kind is Kind.SYMLINK:
                target = shown(_target(storage.workdir, path))
                yield f"{style.deleted}-symbolic link {shown(path)} to {target}{style.end}"
    if change.what is What.DELETED or change.facts is None or change.link_to is not None:
        return
    if change.facts.kind is Kind.SYMLINK:
        if change.what is What.MODIFIED:
            yield f"{style.deleted}-{shown(_target(storage.workdir, source))}{style.end}"
        yield f"{style.added}+{shown(bytes.fromhex(change.content))}{style.end}"
    elif _is_file(row) and change.what is not What.METADATA:
        has_old = change.base is not None and change.base.kind is Kind.FILE
        old = _lower(storage, source) if has_old else _Side(_DEV_NULL, None)
        yield from _compared(old, _upper(storage, change.path), style)


def _is_file(row: Row) -> bool:
    return row.change.facts is not None and row.change.facts.kind is Kind.FILE


def _headers(row: Row) -> Iterator[str]:
    change, facts, base = row.change, row.change.facts, row.change.base
    is_link = facts is not None and facts.kind is Kind.SYMLINK
    if is_link:
        pass  # it has no mode of its own
    elif change.what is What.DELETED and base is not None:
        yield f"deleted mode {base.mode:04o}"
    elif base is None and facts is not None:
        yield f"new mode {facts.mode:04o}"
    elif facts is not None and base is not None and base.mode != facts.mode:
        yield f"old mode {base.mode:04o}"
        yield f"new mode {facts.mode:04o}"
    if change.source is not None:
        yield f"rename from {shown(change.source)}"
        yield f"rename to {shown(change.path)}"
    if change.link_to is not None:
        yield f"a further name of {shown(change.link_to)}"


def _target(layer: OwnedFd, path: bytes) -> bytes:
    try:
        with beneath.open_below(layer.fd, path, os.O_PATH) as opened:
            return os.readlink(b"", dir_fd=opened.fd)
    except OSError as error:
        return os.fsencode(f"({error.strerror})")


def _lower(storage: Storage, path: bytes) -> _Side:
    return _side(storage.workdir, path, f"a/{shown(path)}")


def _upper(storage: Storage, path: bytes) -> _Side:
    return _side(storage.upper, path, f"b/{shown(path)}")


def _side(layer: OwnedFd, path: bytes, name: str) -> _Side:
    try:
        with beneath.open_below(layer.fd, path, os.O_PATH) as seen, copying.open_source(seen) as file:
            return _Side(name, file)
    except OSError as error:
        side = _Side(f"{name} ({error.strerror})", None)
        side.text = None
        return side


def _compared(old: _Side, new: _Side, style: Style) -> Iterator[str]:
    if old.text is None or new.text is None:
        if old.digest != new.digest or not old.digest:
            yield f"{style.deleted}--- {old.name}: {old.told()}{style.end}"
            yield f"{style.added}+++ {new.name}: {new.told()}{style.end}"
        return
    if old.text == new.text:
        return
    yield f"{style.deleted}--- {old.name}{style.end}"
    yield f"{style.added}+++ {new.name}{style.end}"
    for line in _hunks(old.text, new.text):
        colour = {"-": style.deleted, "+": style.added, "@": style.changed}.get(line[0], "")
        yield f"{colour}{line}{style.end if colour else ''}"


def _lines(text: bytes) -> list[str]:
    """What shows is compared; a line without its end is told apart."""
    lines = text.decode("utf-8", "backslashreplace").split("\n")
    last = lines.pop()
    return [*(line + "\n" for line in lines), *([last] if last else [])]


def _hunks(old: bytes, new: bytes) -> Iterator[str]:
    one, two = _lines(old), _lines(new)
    start = 0
    while start < min(len(one), len(two)) and one[start] == two[start]:
        start += 1
    end = 0
    while end < min(len(one), len(two)) - start and one[-1 - end] == two[-1 - end]:
        end += 1
    if (len(one) - start - end) * (len(two) - start - end) > _LINES_PRODUCT_MAX:
        yield from _whole(one, two, start, end)
        return
    for line in list(difflib.unified_diff(one, two, n=_CONTEXT))[2:]:
        yield from _shown(line)


def _whole(one: list[str], two: list[str], start: int, end: int) -> Iterator[str]:
    before, after = one[start : len(one) - end], two[start : len(two) - end]
    yield f"@@ -{start + 1},{len(before)} +{start + 1},{len(after)} @@"
    for line in before:
        yield from _shown("-" + line)
    for line in after:
        yield from _shown("+" + line)


def _shown(line: str) -> Iterator[str]:
    yield "\t".join(map(printable, line.rstrip("\n").split("\t")))
    if not line.endswith("\n"):
        yield "\\ No newline at end of file"
