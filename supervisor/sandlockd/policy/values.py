"""One function per kind of value: from what TOML (or an option) holds to what the policy holds, or BadValue.

Pure. A kind knows nothing of the key that it is used for; ranges that differ by key are built by the makers
here. Nothing is corrected: what is not meant the way it is written is refused with what would be right.
"""

from __future__ import annotations

from sandlockd.policy.errors import BadValue, suggestion
from sandlockd.policy.inputs import PathKind
from sandlockd.policy.spelling import (
    Misspelt,
    Undefined,
    absolute,
    expanded,
    is_within,
    printable,
    toml_string,
)
from sandlockd.policy.syscalls import GIVE_BACK, UNDENIABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Final

    from sandlockd.policy.inputs import Scope
    from sandlockd.policy.model import NetworkRule

    Kind = Callable[[object, Scope], object]

# Kernel features that a run may do without, if `[degrade] allow` names them.
FEATURES: Final = (
    "landlock.scope_signal",
    "landlock.scope_abstract_unix",
    "landlock.tcp",
    "landlock.ioctl_dev",
    "landlock.truncate",
    "landlock.refer",
    "seccomp.wait_killable",
    "hard_links",
)

_SIZE_UNITS: Final = {
    "": 1,
    "K": 1 << 10,
    "M": 1 << 20,
    "G": 1 << 30,
    "T": 1 << 40,
    "P": 1 << 50,
    "E": 1 << 60,
}
_SIZE_MAX: Final = (1 << 63) - 1
_TIME_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME_MAX_S: Final = 366 * 86400.0
_CPU_MAX_PERCENT: Final = 100 * 8192  # NR_CPUS of the largest kernels
_DIGITS: Final = frozenset("0123456789")


def toml_type(value: object) -> str:
    """The type of a value in TOML's words, with its article."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string"}
    return names.get(type(value), "a date or time")


def _shown(value: object) -> str:
    if isinstance(value, str):
        return toml_string(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) and abs(value) < 1e21 else toml_type(value)


def text(value: object, scope: Scope) -> str:
    """A string without NUL, taken literally."""
    if not isinstance(value, str):
        raise BadValue(f"must be a string, not {toml_type(value)}")
    if "\0" in value:
        raise BadValue("contains a NUL character, which no argument or variable can")
    return value


def boolean(value: object, scope: Scope) -> bool:
    if not isinstance(value, bool):
        raise BadValue(f"must be true or false, not {_shown(value)}")
    return value


def one_of(*choices: str) -> Kind:
    """A string that is one of these."""

    def choice(value: object, scope: Scope) -> str:
        said = " or ".join(f'"{name}"' for name in choices)
        if not isinstance(value, str):
            raise BadValue(f"must be {said}, not {toml_type(value)}")
        if value not in choices:
            raise BadValue(f"must be {said}, not {_shown(value)}{suggestion(value, choices)}")
        return value

    choice.choices = choices  # type: ignore[attr-defined]  # for the schema
    return choice


def integer(low: int, high: int, what: str) -> Kind:
    """A whole number in a range. An option may give it as text."""

    def count(value: object, scope: Scope) -> int:
        if isinstance(value, bytes) and value.isdigit() and len(value) < 20:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            given = repr(value.decode("utf-8", "replace")) if isinstance(value, bytes) else _shown(value)
            raise BadValue(f"must be a whole number of {what}, such as 64, not {given}")
        if not low <= value <= high:
            raise BadValue(f"must be from {low} to {high} {what}, not {_shown(value)}")
        return value

    count.bounds = (low, high)  # type: ignore[attr-defined]  # for the schema
    return count


def _number(value: str) -> float | int | None:
    """Digits with at most one point between them. float() would take "1e9", "inf", "1_0" and spaces."""
    whole, point, part = value.partition(".")
    if not whole or not _DIGITS.issuperset(whole + part) or (point and not part) or len(value) > 30:
        return None
    return float(value) if point else int(whole)


def size(value: object, scope: Scope) -> int:
    """Bytes: "512M", "1.5G", or a number. K, M, G, T are powers of 1024."""
    number: float | int | None
    if isinstance(value, str):
        digits = value.rstrip("KMGTPE")
        number, unit = _number(digits), value[len(digits) :]
        if number is None or unit not in _SIZE_UNITS:
            raise BadValue(f'must be a size such as "512M" or "2G" (K, M, G, T), not {_shown(value)}')
        number = int(number * _SIZE_UNITS[unit])
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        raise BadValue(f'must be a size such as "512M", not {toml_type(value)}')
    if number <= 0:
        raise BadValue(f"must be more than nothing, not {_shown(value)}")
    if number > _SIZE_MAX:
        raise BadValue(f"is larger than any size a machine can count (8E - 1), {_shown(value)}")
    return number


def duration(value: object, scope: Scope) -> float:
    """Seconds: "30s", "1h30m", "500ms", or a number."""
    if isinstance(value, str):
        seconds = _duration_of(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) < 1e18 else 1e18
    else:
        raise BadValue(f'must be a duration such as "30s" or "5m", not {toml_type(value)}')
    if not seconds > 0:  # also refuses nan
        raise BadValue(f"must be longer than nothing, not {_shown(value)}")
    if seconds > _TIME_MAX_S:
        raise BadValue(f'must be at most "366d", not {_shown(value)}')
    return seconds


def _duration_of(value: str) -> float:
    total, rest, last = 0.0, value, float("inf")
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        letters = digits
        while letters < len(rest) and rest[letters].isalpha():
            letters += 1
        number, unit = _number(rest[:digits]), _TIME_UNITS.get(rest[digits:letters])
        if number is None or unit is None or unit >= last:
            raise BadValue(f'must be a duration such as "30s", "5m" or "1h30m", not {_shown(value)}')
        total, rest, last = total + number * unit, rest[letters:], unit
    if not value:
        raise BadValue('must be a duration such as "30s", not ""')
    return total


def percent(value: object, scope: Scope) -> int:
    """Percent of one CPU: "150%", or 150."""
    number: float | int | None = None
    if isinstance(value, str) and value.endswith("%"):
        number = _number(value[:-1])
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if number is None or number != int(number):
        raise BadValue(f'must be a percentage of one CPU such as "150%", not {_shown(value)}')
    if not 1 <= number <= _CPU_MAX_PERCENT:
        raise BadValue(f'must be from "1%" to "{_CPU_MAX_PERCENT}%", not {_shown(value)}')
    return int(number)


def umask(value: object, scope: Scope) -> int:
    """ "022": octal digits in a string, because TOML's 022 is an error and 22 would be decimal."""
    if not isinstance(value, str):
        raise BadValue(f'must be a string of octal digits such as "022", not {toml_type(value)}')
    if not value or len(value) > 4 or not frozenset("01234567").issuperset(value) or int(value, 8) > 0o777:
        raise BadValue(f'must be octal digits from "000" to "777", not {_shown(value)}')
    return int(value, 8)


def variable_name(value: object, scope: Scope) -> str:
    name = text(value, scope)
    if not name or "=" in name:
        raise BadValue(f'{_shown(name)} cannot be the name of a variable (empty, or with a "=")')
    return name


def _member(value: object, what: str, names: Collection[str]) -> str:
    if not isinstance(value, str):
        raise BadValue(f"must be the name of {what}, not {toml_type(value)}")
    if value not in names:
        near = suggestion(value, names)
        listed = near or (
            "; it may be " + ", ".join(f'"{name}"' for name in names) if len(names) < 20 else ""
        )
        raise BadValue(f"{_shown(value)} is not {what}{listed}")
    return value


def feature(value: object, scope: Scope) -> str:
    return _member(value, "a feature that a run can do without", FEATURES)


def syscall(value: object, scope: Scope) -> str:
    if isinstance(value, str) and value in UNDENIABLE:
        raise BadValue(f"{_shown(value)} cannot be denied: no program runs without it")
    return _member(value, "a system call that is known here", scope.context.syscall_names())


def give_back(value: object, scope: Scope) -> str:
    if isinstance(value, str):
        for group, calls in GIVE_BACK.items():
            if value in calls and group != value:
                raise BadValue(f'{_shown(value)} is given back with its group only; write "{group}"')
    return _member(value, "a call that may be given back", tuple(GIVE_BACK))


# --- paths ---


def _path(value: object, scope: Scope) -> bytes | None:
    """An absolute path; None for a `?` whose variable is not set. Bytes (from an option) are literal."""
    try:
        if isinstance(value, bytes):
            if not value or b"\0" in value:
                raise Misspelt("is empty, and a path is needed" if not value else "contains a NUL character")
            return absolute(value, scope.directory, scope.context)
        if not isinstance(value, str):
            raise BadValue(f"must be a path in a string, not {toml_type(value)}")
        return absolute(expanded(value.removeprefix("?"), scope.context), scope.directory, scope.context)
    except Undefined as undefined:
        if isinstance(value, str) and value.startswith("?"):
            return None
        raise BadValue(str(undefined)) from None
    except Misspelt as misspelt:
        raise BadValue(f"the path {misspelt}") from None


def _shown_path(path: bytes) -> str:
    return printable(path.decode("utf-8", "backslashreplace"))


def _is_optional(value: object) -> bool:
    return isinstance(value, str) and value.startswith("?")


def _require_single(value: object) -> None:
    if _is_optional(value):
        raise BadValue('cannot be optional; the leading "?" is for the lists of paths of [filesystem]')


def granted_path(value: object, scope: Scope) -> bytes | None:
    """A path that exists; None for one marked `?` that does not, or that cannot be reached."""
    path = _path(value, scope)
    if path is None:
        return None
    if is_within(path, b"/proc"):
        raise BadValue(f"{_shown_path(path)} cannot be granted: sandlockd answers below /proc itself")
    match scope.context.kind_of(path):
        case PathKind.MISSING | PathKind.UNREADABLE if _is_optional(value):
            return None
        case PathKind.MISSING:
            hint = (
                ""
                if isinstance(value, bytes)
                else f"; write {toml_string('?' + str(value))} if it may be missing"
            )
            raise BadValue(f"{_shown_path(path)} does not exist{hint}")
        case PathKind.UNREADABLE:
            raise BadValue(
                f"{_shown_path(path)} cannot be reached from here (permission, or a loop of links)"
            )
        case _:
            return path


def denied_path(value: object, scope: Scope) -> bytes | None:
    """Any path: a deny holds for what appears later. `?` forgives only a variable that is not set.

    `*` in the last name makes it a pattern. A literal one is not asked for: the pattern denies that file as well.
    """
    path = _path(value, scope)
    directory, _, name = (path or b"").rpartition(b"/")
    if b"*" in directory or b"**" in name:
        raise BadValue(
            f"{_shown(value)}: * stands for a part of the last name of a path, not for directories"
        )
    return path


def any_path(value: object, scope: Scope) -> bytes | None:
    """A path that need not exist."""
    _require_single(value)
    return _path(value, scope)


def directory(value: object, scope: Scope) -> bytes | None:
    """The path of a directory that exists."""
    return _existing(value, scope, PathKind.DIRECTORY, missing_is_fine=False)


def directory_to_be(value: object, scope: Scope) -> bytes | None:
    """The path of a directory that exists or may be made."""
    return _existing(value, scope, PathKind.DIRECTORY, missing_is_fine=True)


def command(value: object, scope: Scope) -> bytes | None:
    """A program: a name that PATH is searched for, or the path of a file."""
    if isinstance(value, str) and value and "/" not in value and value[0] not in "~$":
        return text(value, scope).encode()
    return _existing(value, scope, PathKind.FILE, missing_is_fine=False)


def _existing(value: object, scope: Scope, wanted: PathKind, *, missing_is_fine: bool) -> bytes | None:
    _require_single(value)
    path = _path(value, scope)
    if path is None:
        return None
    kind = scope.context.kind_of(path)
    if kind is wanted or (kind is PathKind.MISSING and missing_is_fine):
        return path
    if kind is PathKind.MISSING:
        raise BadValue(f"{_shown_path(path)} does not exist")
    if kind is PathKind.UNREADABLE:
        raise BadValue(f"{_shown_path(path)} cannot be reached from here (permission, or a loop of links)")
    raise BadValue(f"{_shown_path(path)} is not a {wanted.value}")


# --- network: parsed in a module of its own, which needs ipaddress ---


def network_target(value: object, scope: Scope) -> NetworkRule:
    """Where a connection may go: "example.org:443", "tcp://10.0.0.0/8", ":53"."""
    from sandlockd.policy.network_values import target

    return target(value)


def network_address(value: object, scope: Scope) -> NetworkRule:
    """What may be listened on: "127.0.0.1:8000-8010", ":80"."""
    from sandlockd.policy.network_values import address

    return address(value)
