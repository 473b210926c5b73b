"""JSON text that is harmless on a terminal, without the cost of importing json at each start.

Everything that is not printable is escaped: control characters (ESC and C1 included), bidirectional
overrides, line and paragraph separators. So a log that holds file names chosen by an attacker may be shown
with `cat`. Refuses to write lone surrogates: a byte that is not UTF-8 appears as the text `\\xff`, and the
exact bytes as base64 beside it.
"""

from __future__ import annotations

from binascii import b2a_base64

_SHORT = {0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}


class _Escapes(dict[int, str]):
    """A table for str.translate: 256 code points prepared, all others computed each time, not kept."""

    def __missing__(self, code: int) -> str:
        return _escape(code)


def _escape(code: int) -> str:
    if short := _SHORT.get(code):
        return short
    if chr(code).isprintable():
        return chr(code)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    # RFC 8259 section 7: beyond the first plane as a surrogate pair.
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


_ESCAPES = _Escapes((code, _escape(code)) for code in range(256))


def quote(text: str) -> str:
    """A JSON string, quotes included. A lone surrogate becomes the text `\\xff` or `\\ud800`."""
    if text.isprintable():  # a lone surrogate is not printable
        return f'"{text}"' if '"' not in text and "\\" not in text else f'"{text.translate(_ESCAPES)}"'
    return f'"{without_surrogates(text).translate(_ESCAPES)}"'


def quote_or_null(text: str | None) -> str:
    return "null" if text is None else quote(text)


def quote_bytes(raw: bytes) -> str:
    """A JSON string for bytes that are usually UTF-8; others are shown as `\\xff`."""
    return quote(raw.decode("utf-8", "backslashreplace"))


def field(name: str, value: bytes | str | None) -> str:
    """`"name":"text"`, and `,"name_b64":"..."` after it where the text alone would lose the bytes."""
    if value is None:
        return f'"{name}":null'
    raw = value if isinstance(value, bytes) else _bytes_of(value)
    if raw is None:
        return f'"{name}":{quote(str(value))}'
    if is_utf8(raw):
        return f'"{name}":{quote(raw.decode("utf-8"))}'
    return f'"{name}":{quote_bytes(raw)},"{name}_b64":{base64_of(raw)}'


def base64_of(raw: bytes) -> str:
    return f'"{b2a_base64(raw, newline=False).decode("ascii")}"'


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def without_surrogates(text: str) -> str:
    """The same text with every lone surrogate written out, so that it can be encoded as UTF-8."""
    raw = _bytes_of(text)
    if raw is None:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return raw.decode("utf-8", "backslashreplace")


def _bytes_of(text: str) -> bytes | None:
    """The bytes that os.fsdecode turned into this text; None if it holds other surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
