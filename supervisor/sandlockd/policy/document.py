"""One policy as a tree, with the line that each of its values stands on.

Pure: text to tree. What the keys mean is sandlockd.policy.load's.
"""

from __future__ import annotations

from sandlockd.policy.errors import PolicyError, PolicyErrors
from sandlockd.policy.inputs import MAX_POLICY_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sandlockd.policy.inputs import Source
    from sandlockd.policy.lines import Place

_KEY_PARTS_MAX = 64
_KEY_LIMITS = frozenset("=,[]{}\n")  # none of them is within a dotted key, outside of its strings


class Document:
    """A parsed policy.

    Raises:
        PolicyErrors: too large, not UTF-8, or not TOML. Only the first of these can be known.
    """

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.directory = source.directory
        self._text: str | None = None
        self._lines: dict[Place, int] | None = None
        self.table: Mapping[str, Any]
        if source.table is not None:
            self.table = source.table
            return
        self._text = _text_of(source)
        self.table = _tree_of(source.name, self._text)

    def line(self, place: Place) -> int | None:
        """The line of a value, or of the nearest thing around it; None where there are no lines."""
        if self._text is None:
            return None
        if self._lines is None:
            from sandlockd.policy.lines import line_map

            self._lines = line_map(self._text)
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    def where(self, place: Place) -> str:
        """`my.toml:12`, or the name alone where there are no lines."""
        line = self.line(place)
        return self.name if line is None else f"{self.name}:{line}"


def _text_of(source: Source) -> str:
    size_bytes = len(source.content) if source.size_bytes is None else source.size_bytes
    if size_bytes > MAX_POLICY_BYTES:
        raise _whole(source.name, None, f"is {size_bytes} bytes; a policy has at most {MAX_POLICY_BYTES}")
    try:
        text = source.content.decode()
    except UnicodeDecodeError as error:
        bad = source.content[error.start]
        line = source.content.count(b"\n", 0, error.start) + 1
        raise _whole(source.name, line, f"is not UTF-8 (byte 0x{bad:02x}); save it as UTF-8") from None
    if text.startswith("\ufeff"):
        raise _whole(source.name, 1, "begins with a byte order mark; save it as UTF-8 without one")
    return text


def _tree_of(name: str, text: str) -> dict[str, Any]:
    import tomllib  # 8 ms that presets do not cost

    deep = _deep_key_line(text)
    if deep is not None:
        raise _whole(name, deep, f"has a key of more than {_KEY_PARTS_MAX} parts, too deep for a policy")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _whole(name, None, "is nested too deeply for a policy") from None
    except ValueError as error:  # TOMLDecodeError, and int() on thousands of digits
        message, line = _with_line(str(error), text)
        raise _whole(name, line, f"is not TOML: {message}") from None


def _deep_key_line(text: str) -> int | None:
    """The line of a dotted key with too many parts: tomllib takes minutes for 100 kB of them."""
    if not any(line.count(".") >= _KEY_PARTS_MAX for line in text.split("\n")):
        return None
    from sandlockd.policy.lines import string_end

    at = dots = 0
    while 0 <= at < len(text) and dots < _KEY_PARTS_MAX:
        char = text[at]
        if char in "\"'":
            at = string_end(text, at)
        elif char == "#":
            at = text.find("\n", at)
        else:
            dots = 0 if char in _KEY_LIMITS else dots + (char == ".")
            at += 1
    return text.count("\n", 0, at) + 1 if dots >= _KEY_PARTS_MAX else None


def _with_line(message: str, text: str) -> tuple[str, int | None]:
    """Split "Invalid value (at line 3, column 5)"."""
    said, paren, place = message.rpartition(" (at ")
    if not paren:
        return message, None
    if place == "end of document)":
        return f"{said}, where the file ends", text.count("\n", 0, max(len(text) - 1, 0)) + 1
    digits = place.removeprefix("line ").partition(",")[0]
    column = place.rpartition(" ")[2].removesuffix(")")
    return f"{said}, at column {column}", int(digits) if digits.isdigit() else None


def _whole(name: str, line: int | None, message: str) -> PolicyErrors:
    return PolicyErrors([PolicyError(name, line, "", message)])
