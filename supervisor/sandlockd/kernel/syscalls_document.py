"""docs/syscalls.md, from the table: `python -m sandlockd.kernel.syscalls_document > docs/syscalls.md`.

Nothing at run time imports this.
"""

import errno
from typing import Final

from sandlockd.kernel.syscalls import ROWS, Effect, Follow, PathOperand, Syscall, Treatment
from sandlockd.kernel.syscalls_arguments import (
    ALL64,
    ARGUMENTS,
    LOW32,
    OWN_PIDS,
    REFUSED_WITH,
    SOCKET_OPEN,
    UNIX_STREAMS,
    Compare,
    Conditions,
)

_HEAD: Final = """\
# System calls

Generated from `supervisor/sandlockd/kernel/syscalls_table.py`; a test keeps this page equal to it.

What sandlockd does with every system call of Linux up to 7.0 on x86_64 and aarch64. A number that is not
listed gives ENOSYS, as on a kernel that does not know it. A process that calls through another architecture
(`int 0x80`, x32) is killed.

| treatment | answered by |
|---|---|
| pass | the kernel; sandlockd never sees the call |
| notice | the kernel; with a copy-on-write tree sandlockd takes note that it was called |
| behalf | as enosys; with a copy-on-write tree sandlockd, on behalf |
| see | as pass; with a copy-on-write tree, or `proc.pids = "own"`, sandlockd, where the path leads there |
| memory | as pass; where memory is limited, sandlockd: what fits into what is left goes on |
| tell | as pass; where a limit, or `proc.pids = "own"`, changes what is told, sandlockd (`rseq`: as enosys) |
| count | as pass; where the number of processes is limited the kernel, as long as there is room, and `clone` likewise |
| grow | as pass; where what copy-on-write trees hold is limited, sandlockd, on behalf |
| open | sandlockd, by the flags of open(2) and the rules about the path |
| path | sandlockd, by the rules about the path or paths |
| slow | sandlockd, in Python |
| refuse | sandlockd, with the errno given; the refusal is in the audit log under the rule's name |
| enosys | the kernel, with ENOSYS: programs fall back to an older call |

Arguments count from 0. "follows" says whether a symbolic link in the last place of a path is followed.
"""

_ARGUMENTS_HEAD: Final = """
## Calls that arguments decide

The first line that holds decides. What passes never leaves the kernel; what is trapped is treated as the
table says.
"""

_OWN_PIDS_HEAD: Final = """
## Calls that could tell of other processes

With `proc.pids = "own"`, these instead of what stands above; `ptrace` where it is given back. What is trapped is
answered by sandlockd. So are `getdents` and `getdents64`, of directories of `/proc`, and where not all processors are
shown, of those in `/sys` that list them.
"""


def markdown() -> str:
    """The page."""
    parts = [_HEAD]
    for treatment in Treatment:
        rows = [row for row in ROWS if row.treatment is treatment]
        parts.append(f"\n## {treatment.value} ({len(rows)})\n\n{_heading(treatment)}")
        parts += [_line(row) for row in rows]
    parts.append(_ARGUMENTS_HEAD)
    parts += [_conditions(name, conditions) for name, conditions in ARGUMENTS.items()]
    parts.append(
        _conditions("socketpair, and socket with copy-on-write trees, without network rules", UNIX_STREAMS)
    )
    parts.append(_conditions("socket, with network rules", SOCKET_OPEN))
    parts.append(_OWN_PIDS_HEAD)
    parts += [_conditions(name, conditions) for name, conditions in OWN_PIDS.items()]
    return "".join(parts)


def _heading(treatment: Treatment) -> str:
    columns = ["call", "x86_64", "aarch64", "paths, descriptors, processes"]
    if treatment in (Treatment.SLOW, Treatment.REFUSE):
        columns.append("rule")
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"


def _line(row: Syscall) -> str:
    cells = [f"`{row.name}`", _number(row.x86_64), _number(row.aarch64), _operands(row)]
    if row.treatment is Treatment.REFUSE:
        cells.append(f"`{row.rule}`, {_errno(row.errno)}")
    elif row.treatment is Treatment.SLOW:
        cells.append(f"`{row.rule}`" if row.rule else "")
    return f"| {' | '.join(cells)} |\n"


def _errno(number: int) -> str:
    return (
        "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode[number]
    )  # ENOTSUP is the same number


def _number(number: int | None) -> str:
    return "" if number is None else str(number)


def _operands(row: Syscall) -> str:
    found = [_path(path) for path in row.paths]
    if row.fds:
        found.append(f"descriptor {_list(row.fds)}")
    if row.pids:
        found.append(f"process {_list(row.pids)}")
    return "; ".join(found)


def _list(positions: tuple[int, ...]) -> str:
    return ", ".join(str(position) for position in positions)


def _path(path: PathOperand) -> str:
    place = f"path {path.position}" if path.dirfd < 0 else f"path {path.position} from {path.dirfd}"
    effects = ", ".join(str(effect.name).lower() for effect in Effect if effect in path.effect)
    match path.follow:
        case Follow.ALWAYS:
            follows = "follows"
        case Follow.NEVER:
            follows = "does not follow"
        case Follow.OPEN:
            follows = "follows as open says"
        case Follow.IF_FLAG:
            follows = f"follows with flag {path.follow_flag:#x}"
        case Follow.UNLESS_FLAG:
            follows = f"follows without flag {path.follow_flag:#x}"
    return f"{place} ({effects}; {follows})"


def _conditions(name: str, conditions: Conditions) -> str:
    lines = [f"\n**{name}**\n\n"]
    for clause in conditions.clauses:
        tests = " and ".join(_compare(compare) for compare in clause.compares)
        rule = f" by `{clause.rule}`" if clause.rule else ""
        lines.append(f"- {_verb(trapped=clause.trapped)}{rule} where {tests}\n")
    lines.append(f"- otherwise {_verb(trapped=conditions.otherwise_trapped)}\n")
    if name in REFUSED_WITH:
        lines.append("\nWhat is refused gets, instead of the errno given above:\n\n")
        lines += [f"- {_errno(error)} where {_compare(test)}\n" for test, error in REFUSED_WITH[name]]
    return "".join(lines)


def _verb(*, trapped: bool) -> str:
    return "trapped" if trapped else "passes"


def _compare(compare: Compare) -> str:
    operator = "=" if compare.equal else "is not"
    if compare.mask == ALL64:
        subject = f"argument {compare.argument}"
    elif compare.mask == LOW32:
        subject = f"the low 32 bits of argument {compare.argument}"
    else:
        subject = f"argument {compare.argument} & {compare.mask:#x}"
    return f"{subject} {operator} {compare.value:#x}"


if __name__ == "__main__":
    print(markdown(), end="")
