"""Which line of a TOML text each key and each element of an array stands on. tomllib does not tell.

Pure, and only for text that tomllib has accepted: on anything else the answer is undefined. Walks with a
stack of its own, so depth of nesting costs no recursion.
"""

from __future__ import annotations

import bisect

TYPE_CHECKING = False
if TYPE_CHECKING:
    Place = tuple[str | int, ...]

_BLANK = " \t\r"
_SPACE = " \t\r\n"
_KEY_END = frozenset("=.] \t")
_SCALAR_END = frozenset(",]}#\n")


def line_map(text: str) -> dict[Place, int]:
    """The 1-based line of everything: ("filesystem", "read", 0) is the first element of that array."""
    return _Scanner(text).scan()


class _Scanner:
    """One pass over the text. `_at` is the offset of what comes next."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._found: dict[Place, int] = {}
        self._newlines = [offset for offset, char in enumerate(text) if char == "\n"]
        self._tables_in: dict[Place, int] = {}  # arrays of tables: how many there are so far

    def scan(self) -> dict[Place, int]:
        header: Place = ()
        while self._skip_blank():
            if self._text[self._at] == "[":
                header = self._header()
            else:
                self._key_and_value(header)
        return self._found

    def _note(self, place: Place, offset: int) -> None:
        self._found.setdefault(place, bisect.bisect_left(self._newlines, offset) + 1)

    def _skip_blank(self) -> bool:
        """Skip space, newlines and comments; whether anything is left."""
        text = self._text
        while self._at < len(text):
            if text[self._at] in _SPACE:
                self._at += 1
            elif text[self._at] == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            else:
                return True
        return False

    def _header(self) -> Place:
        """`[a.b]` or `[[a.b]]`; the place of the table that it opens."""
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        parts = self._key()
        self._at += 2 if is_array else 1
        place: Place = ()
        for position, part in enumerate(parts):
            place = (*place, part)
            self._note(place, start)
            if is_array and position == len(parts) - 1:
                self._tables_in[place] = self._tables_in.get(place, 0) + 1
            if place in self._tables_in:  # a name of such an array means its newest table
                place = (*place, self._tables_in[place] - 1)
                self._note(place, start)
        return place

    def _key(self) -> list[str]:
        """A key with its dots, up to the `=` or `]` after it."""
        parts = []
        while True:
            self._skip(_BLANK)
            if self._text[self._at] in "\"'":
                start = self._at
                self._string()
                parts.append(_unquoted(self._text[start : self._at]))
            else:
                start = self._at
                while self._text[self._at] not in _KEY_END:
                    self._at += 1
                parts.append(self._text[start : self._at])
            self._skip(_BLANK)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _skip(self, chars: str) -> None:
        while self._text[self._at] in chars:
            self._at += 1

    def _keyed(self, table: Place) -> Place:
        """`a.b =` within a table: notes it and stands before the value."""
        start = self._at
        place = table
        for part in self._key():
            place = (*place, part)
            self._note(place, start)
        self._at += 1
        self._skip(_BLANK)
        return place

    def _key_and_value(self, header: Place) -> None:
        """One value with all that is nested in it."""
        place = self._keyed(header)
        # What is open: the place of the array or inline table, and the index of the array's next element or
        # None.
        is_open: list[tuple[Place, int | None]] = []
        while True:
            char = self._text[self._at]
            if char == "[":
                self._at += 1
                is_open.append((place, 0))
            elif char == "{":
                self._at += 1
                is_open.append((place, None))
            else:
                self._scalar(char)
            next_place = self._next_within(is_open)
            if next_place is None:
                return
            place = next_place

    def _next_within(self, is_open: list[tuple[Place, int | None]]) -> Place | None:
        """Close what ends here; the place of the next nested value, or None when the outermost is over."""
        while is_open:
            self._skip_blank()
            if self._text[self._at] == ",":
                self._at += 1
                continue
            table, index = is_open.pop()
            if self._text[self._at] in "]}":
                self._at += 1
                continue
            if index is None:
                is_open.append((table, None))
                return self._keyed(table)
            is_open.append((table, index + 1))
            self._note((*table, index), self._at)
            return (*table, index)
        return None

    def _scalar(self, first: str) -> None:
        if first in "\"'":
            self._string()
            return
        while self._at < len(self._text) and self._text[self._at] not in _SCALAR_END:
            self._at += 1

    def _string(self) -> None:
        self._at = string_end(self._text, self._at)


def string_end(text: str, at: int) -> int:
    """The offset behind the string that begins here, -1 if it does not end. One pass, whatever the text."""
    quote = text[at]
    is_long = text.startswith(quote * 3, at)
    quotes = quote * 3 if is_long else quote
    at += len(quotes)
    end = text.find(quotes, at)
    while end >= 0 and quote == '"':
        escape = text.find("\\", at, end)
        if escape < 0:
            break
        at = escape + 2
        if at > end:  # the quote itself was escaped
            end = text.find(quotes, at)
    if end < 0:
        return -1
    end += len(quotes)
    # Up to two quotes may stand before the closing three.
    extra = 2 if is_long else 0
    while extra and text.startswith(quote, end):
        end, extra = end + 1, extra - 1
    return end


def _unquoted(key: str) -> str:
    if key[0] == "'" or "\\" not in key:
        return key[1:-1]
    import tomllib

    value: str = tomllib.loads(f"key = {key}")["key"]
    return value
