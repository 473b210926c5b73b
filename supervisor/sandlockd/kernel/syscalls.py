"""The system call table: the rows of `syscalls_table` as typed values.

Pure. Importing this parses some 400 short lines (about 2 ms) and nothing more; launching and supervising need
it.
"""

import enum
import errno as errnos
import os
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from sandlockd.kernel.syscalls_table import TABLE

Architecture = Literal["x86_64", "aarch64"]


class Treatment(enum.Enum):
    """Who answers a call."""

    PASS = "pass"  # the kernel, untouched
    NOTICE = "notice"  # PASS without copy-on-write trees; with them the kernel, and C takes note
    BEHALF = "behalf"  # ENOSYS without copy-on-write trees; with them Python, which never lets it go on
    SEE = "see"  # PASS without copy-on-write trees; with them C, by where the path leads, else Python
    COUNT = "count"  # PASS without a limit of processes; with it C, which lets it go on while there is room
    GROW = "grow"  # PASS without a limit of what copy-on-write trees hold; with it Python, which never lets it go on
    MEMORY = "memory"  # PASS without a limit of memory; with it C, by what is left; else Python
    TELL = "tell"  # PASS where no limit changes what it tells of the machine; else Python, or ENOSYS
    OPEN = "open"  # the C fast path, by the flags of open(2); else Python
    PATH = "path"  # the C fast path, by the row's rights; else Python
    SLOW = "slow"  # Python
    REFUSE = "refuse"  # C, with the row's errno, never with Continue; told to Python for the audit
    ENOSYS = "enosys"  # the kernel, as if it were older


class Effect(enum.Flag):
    """What a call does to the object at a path."""

    READ = enum.auto()
    WRITE = enum.auto()
    CREATE = enum.auto()
    DELETE = enum.auto()
    METADATA = enum.auto()  # changes mode, owner, times, attributes, link count, or what is mounted there
    EXECUTE = enum.auto()
    LIST = enum.auto()
    SEE = enum.auto()  # learns that it exists, and what stat, statfs, readlink or getxattr tell


class Follow(enum.Enum):
    """Whether a symbolic link in the last place of a path is followed."""

    ALWAYS = "always"
    NEVER = "never"
    TELL = "tell"  # PASS where no limit changes what it tells of the machine; else Python, or ENOSYS
    OPEN = "open"  # O_NOFOLLOW, O_CREAT with O_EXCL, and openat2's resolve decide
    IF_FLAG = "if"
    UNLESS_FLAG = "unless"


class Kind(enum.Enum):
    """What a call names first among its arguments."""

    PATH = "path"
    DESCRIPTOR = "descriptor"
    PROCESS = "process"
    OTHER = "other"


class PathOperand(NamedTuple):
    """One path among a call's arguments. Positions are of arguments, from 0.

    dirfd: where a relative path starts; -1: the working directory.
    follow_flag: the bit in the call's flags that IF_FLAG and UNLESS_FLAG mean; otherwise 0.
    need: LANDLOCK_ACCESS_FS_* bits that the call can never do without here. Only the least: what more it
    takes (a
        directory is renamed, a device is made) the kernel judges.
    """

    position: int
    dirfd: int
    effect: Effect
    follow: Follow
    follow_flag: int
    need: int


class Syscall(NamedTuple):
    """One row. flags: the position of the flags of the paths, -1 where there are none.

    rule, errno: of a refusal; "" and 0 where the row has none.
    """

    name: str
    x86_64: int | None
    aarch64: int | None
    treatment: Treatment
    paths: tuple[PathOperand, ...]
    flags: int
    fds: tuple[int, ...]
    pids: tuple[int, ...]
    rule: str
    errno: int

    @property
    def kind(self) -> Kind:
        if self.paths:
            return Kind.PATH
        if self.fds:
            return Kind.DESCRIPTOR
        return Kind.PROCESS if self.pids else Kind.OTHER

    def number(self, architecture: Architecture) -> int | None:
        return self.x86_64 if architecture == "x86_64" else self.aarch64


# AUDIT_ARCH_* (linux/audit.h)
AUDIT_ARCH: Final[dict[Architecture, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# LANDLOCK_ACCESS_FS_* (linux/landlock.h), as the table's words
LANDLOCK_ACCESS_FS: Final = {
    "EXECUTE": 1 << 0,
    "WRITE_FILE": 1 << 1,
    "READ_FILE": 1 << 2,
    "READ_DIR": 1 << 3,
    "REMOVE_DIR": 1 << 4,
    "REMOVE_FILE": 1 << 5,
    "MAKE_CHAR": 1 << 6,
    "MAKE_DIR": 1 << 7,
    "MAKE_REG": 1 << 8,
    "MAKE_SOCK": 1 << 9,
    "MAKE_FIFO": 1 << 10,
    "MAKE_BLOCK": 1 << 11,
    "MAKE_SYM": 1 << 12,
    "REFER": 1 << 13,
    "TRUNCATE": 1 << 14,
    "IOCTL_DEV": 1 << 15,
}

_TREATMENTS: Final = {treatment.value: treatment for treatment in Treatment}
_FOLLOWS: Final = {follow.value: follow for follow in Follow}
_EFFECTS: Final = {
    "r": Effect.READ,
    "w": Effect.WRITE,
    "c": Effect.CREATE,
    "d": Effect.DELETE,
    "m": Effect.METADATA,
    "x": Effect.EXECUTE,
    "l": Effect.LIST,
    "s": Effect.SEE,
}


# Many rows share a shape; parsing each once halves the import.
_effects_seen: Final[dict[str, Effect]] = {}


def _effect(letters: str) -> Effect:
    effect = _effects_seen.get(letters)
    if effect is None:
        effect = Effect(0)
        for letter in letters:
            effect |= _EFFECTS[letter]
        _effects_seen[letters] = effect
    return effect


class _Operands(NamedTuple):
    places: tuple[tuple[int, int], ...]  # (path, dirfd)
    flags: int
    fds: tuple[int, ...]
    pids: tuple[int, ...]


_operands_seen: Final[dict[str, _Operands]] = {"-": _Operands((), -1, (), ())}


def _operands(text: str) -> _Operands:
    seen = _operands_seen.get(text)
    if seen is not None:
        return seen
    places: list[tuple[int, int]] = []
    positions: dict[str, list[int]] = {letter: [] for letter in "dfopit"}
    for operand in text.split(","):
        letter, position = operand[0], int(operand[1:])
        if letter == "p":
            places.append((position, positions["d"].pop() if positions["d"] else -1))
        positions[letter].append(position)
    flags = positions["f"]
    parsed = _Operands(tuple(places), flags[0] if flags else -1, tuple(positions["o"]), tuple(positions["i"]))
    _operands_seen[text] = parsed
    return parsed


def _paths(
    places: tuple[tuple[int, int], ...], effects: str, follows: str, needs: str
) -> tuple[PathOperand, ...]:
    count = len(places)
    follow_words = follows.split(",")
    if len(follow_words) < count:
        follow_words *= count
    need_words = needs.split(",") if needs else [""] * count
    paths = []
    for place, letters, word, need in zip(places, effects.split(","), follow_words, need_words, strict=True):
        follow, _, bit = word.partition(":")
        follow_flag = int(bit, 16) if bit else 0
        right = LANDLOCK_ACCESS_FS[need] if need else 0
        paths.append(PathOperand(*place, _effect(letters), _FOLLOWS[follow], follow_flag, right))
    return tuple(paths)


def _row(line: str) -> Syscall:
    name, x86_64, aarch64, treatment, operands, effects, follows, detail = line.split()
    places, flags, fds, pids = _operands(operands)
    rule = errno = needs = ""
    if treatment == "path":
        needs = detail
    elif detail != "-":
        rule, _, errno = detail.partition(":")
    return Syscall(
        name,
        None if x86_64 == "-" else int(x86_64),
        None if aarch64 == "-" else int(aarch64),
        _TREATMENTS[treatment],
        _paths(places, effects, follows, needs) if places else (),
        flags,
        fds,
        pids,
        rule,
        getattr(errnos, errno or "EPERM") if rule else 0,
    )


ROWS: Final[tuple[Syscall, ...]] = tuple(
    _row(line) for line in TABLE.splitlines() if line and not line.startswith("#")
)
BY_NAME: Final[dict[str, Syscall]] = {row.name: row for row in ROWS}


@lru_cache(maxsize=1)
def native_architecture() -> Architecture:
    """The machine's own. Raises: RuntimeError on one that the table has no numbers for."""
    machine = os.uname().machine
    if machine == "x86_64":
        return "x86_64"
    if machine == "aarch64":
        return "aarch64"
    raise RuntimeError(f"sandlockd knows the system calls of x86_64 and aarch64, not of {machine}")


def numbered(architecture: Architecture) -> dict[int, Syscall]:
    """The rows of an architecture by number."""
    return {number: row for row in ROWS if (number := row.number(architecture)) is not None}


@lru_cache(maxsize=1024)
def number_of(name: str, architecture: Architecture | None = None) -> int:
    """A call's number, -1 where the architecture (default: this machine's) lacks it. Raises: KeyError."""
    number = BY_NAME[name].number(architecture or native_architecture())
    return -1 if number is None else number
