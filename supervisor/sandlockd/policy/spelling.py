"""Paths as a policy spells them: text to bytes (`~`, `$VAR`, `${VAR}`, relative), and bytes back to text.

Pure: `..` through a symbolic link and what a variable holds come from the Context that the caller filled.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.policy.inputs import Context

PATH_MAX_BYTES = 4095  # without the NUL (linux/limits.h)
_NAME_START = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_NAME = _NAME_START | frozenset("0123456789")
_POLICY_NAME_START = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_POLICY_NAME = _POLICY_NAME_START | frozenset("_.-")
_POLICY_NAME_MAX = 63
POLICY_ENDING = ".toml"


class Misspelt(Exception):
    """Text that is no path; the argument is the sentence."""


class Undefined(Misspelt):
    """A path that needs a variable which is not set, or is empty."""


def printable(text: str) -> str:
    """One line that a terminal shows and does not obey: what is not printable becomes an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def is_policy_name(text: str) -> bool:
    """A name that a policy directory may have a policy by (`NAME.toml`): never a path, nor the name of a file."""
    return (
        0 < len(text) <= _POLICY_NAME_MAX
        and text[0] in _POLICY_NAME_START
        and _POLICY_NAME.issuperset(text)
        and not text.endswith(POLICY_ENDING)
    )


def toml_string(text: str) -> str:
    """A TOML basic string. Control and format characters are escaped: the text may be hostile."""
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char.isprintable():
            out.append(char)
        elif ord(char) <= 0xFFFF:
            out.append(f"\\u{ord(char):04X}")
        else:
            out.append(f"\\U{ord(char):08X}")
    return '"' + "".join(out) + '"'


def spelled(path: bytes) -> str:
    """The text that `expanded` turns back into this absolute path, whatever bytes it holds."""
    text = path.decode("utf-8", "surrogateescape").replace("$", "$$")
    if text.isascii() or not any("\udc80" <= char <= "\udcff" for char in text):
        return text
    return "".join(
        f"${{0x{ord(char) - 0xDC00:02x}}}" if "\udc80" <= char <= "\udcff" else char for char in text
    )


def expanded(text: str, around: Context) -> bytes:
    """Replace a leading `~`, `$NAME`, `${NAME}`, `${0xNN}` (that byte) and `$$` (a dollar sign).

    Raises:
        Undefined: a variable that is not set or empty: an empty one would turn "$DATA/" into "/".
        Misspelt: anything else that cannot be a path.
    """
    if not text:
        raise Misspelt("is empty, and a path is needed")
    start = b""
    if text[0] == "~":
        user, slash, rest = text[1:].partition("/")
        if user:
            raise Misspelt(f"~{user} is not looked up; write the path of that home directory")
        if not around.home:
            raise Undefined("~ cannot be expanded: no home directory is known")
        start, text = around.home, slash + rest
    path = start + _with_variables(text, around)
    if b"\0" in path:
        raise Misspelt("contains a NUL character, which no path can")
    return path


def _with_variables(text: str, around: Context) -> bytes:
    head, *pieces = text.split("$")
    if not pieces:
        return head.encode()
    out = [head.encode()]
    rest = text[len(head) :]
    while rest:
        if rest[0] != "$":
            plain = rest.partition("$")[0]
            out.append(plain.encode())
            rest = rest[len(plain) :]
        elif rest.startswith("$$"):
            out.append(b"$")
            rest = rest[2:]
        else:
            value, rest = _variable(rest, around)
            out.append(value)
    return b"".join(out)


def _variable(rest: str, around: Context) -> tuple[bytes, str]:
    """The value of the variable that `rest` begins with, and what follows it."""
    if rest.startswith("${"):
        name, brace, after = rest[2:].partition("}")
        if not brace:
            raise Misspelt('has "${" without "}"')
        if len(name) == 4 and name.startswith("0x") and name[2:].isalnum():
            try:
                return bytes.fromhex(name[2:]), after
            except ValueError:
                pass
    else:
        end = 1
        while end < len(rest) and rest[end] in _NAME:
            end += 1
        name, after = rest[1:end], rest[end:]
    if not name or name[0] not in _NAME_START or not _NAME.issuperset(name):
        raise Misspelt('has a "$" without a variable name; write "$$" for a dollar sign')
    value = around.environment.get(name.encode())
    if value is None:
        raise Undefined(f"the variable {name} is not set")
    if not value:
        raise Undefined(f"the variable {name} is empty")
    return value, after


def absolute(path: bytes, directory: bytes, around: Context) -> bytes:
    """The path without `.`, `//` and `..`, made absolute from `directory`.

    `..` after a symbolic link means the parent of what the link leads to, as the kernel has it: the part
    before it is resolved by the Context.

    Raises:
        Misspelt: longer than a path can be.
    """
    if not path.startswith(b"/"):
        path = directory + b"/" + path
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if parts:
                before = around.resolve(b"/" + b"/".join(parts))
                parts = [name for name in before.split(b"/") if name][:-1]
        elif part not in (b"", b"."):
            parts.append(part)
    result = b"/" + b"/".join(parts)
    if len(result) > PATH_MAX_BYTES:
        raise Misspelt(f"is {len(result)} bytes long; a path has at most {PATH_MAX_BYTES}")
    return result


def parent_of(path: bytes) -> bytes:
    """The directory of an absolute path; of "/" it is "/"."""
    return path[: path.rfind(b"/")] or b"/"


def fits(name: bytes, pattern: bytes) -> bool:
    """Whether one name is what the pattern means: `*` stands for any bytes, also none; all else for itself."""
    first, star, rest = pattern.partition(b"*")
    if not star or not name.startswith(first):
        return name == pattern
    *more, last = rest.split(b"*")
    if len(name) < len(first) + len(last) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in more:  # the earliest place is as good as any: what comes behind has the most room then
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def is_within(path: bytes, top: bytes) -> bool:
    """Whether the path is `top` or lies beneath it. Both absolute and normalised."""
    return path == top or top == b"/" or path.startswith(top + b"/")
