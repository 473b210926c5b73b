"""What the filter of one sandbox does with each call, before it is a program.

Pure. From the system call table and what a policy says about calls comes, for each number, who answers it and
under which arguments. The BPF program, the C fast path's rows and the audit's rule names are three views of
that, so they cannot disagree.
"""

from __future__ import annotations

import errno
from functools import lru_cache
from typing import Final, NamedTuple

from sandlockd.kernel.syscalls import BY_NAME, ROWS, Effect, Syscall, Treatment, native_architecture
from sandlockd.kernel.syscalls_arguments import (
    ARGUMENTS,
    ASKED,
    OWN_PIDS,
    REFUSED_WITH,
    SOCKET_OPEN,
    UNIX_STREAMS,
    Clause,
    Conditions,
)
from sandlockd.policy.syscalls import GIVE_BACK, UNDENIABLE

# Laws that a policy may give back; the kernel (Landlock's domains, Yama) judges the calls then.
GIVABLE: Final = frozenset(GIVE_BACK)

# (treatment, dirfd, path, flags, dirfd2, path2, refuse_errno, need, need2, act, buffer, mode, is_always_trapped,
# may_touch):
# struct slk_call in native/boundary.h.
CallRow = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int]

# (number, argument, mask, value, refuse_errno): struct slk_refusal in native/boundary.h.
Refusal = tuple[int, int, int, int, int]

_C_TREATMENT: Final = {
    Treatment.PASS: 0,
    Treatment.ENOSYS: 0,
    Treatment.BEHALF: 0,
    Treatment.NOTICE: 5,
    Treatment.SEE: 6,
    Treatment.COUNT: 8,
    Treatment.GROW: 0,
    Treatment.TELL: 0,
    Treatment.MEMORY: 7,
    Treatment.OPEN: 1,
    Treatment.PATH: 2,
    Treatment.SLOW: 3,
    Treatment.REFUSE: 4,
}
_NO_ROW: Final[CallRow] = (0, -1, -1, -1, -1, -1, 0, 0, 0, 0, -1, -1, 0, 0)

# With trees: (enum slk_act, where what stat tells goes, the mode's position).
_OPEN, _STAT, _LSTAT, _STATX, _ACCESS, _READLINK, _CHDIR, _EXECUTE = range(1, 9)
_GETDENTS, _FSTAT, _GETCWD, _ATTRIBUTE, _UMASK, _IDS, _MKDIR, _UNLINK, _RMDIR, _RENAME = range(9, 19)
_ACTS: Final[dict[str, tuple[int, int, int]]] = {
    **dict.fromkeys(("open", "openat", "creat"), (_OPEN, -1, -1)),
    "stat": (_STAT, 1, -1),
    "lstat": (_LSTAT, 1, -1),
    "newfstatat": (_STAT, 2, -1),
    "statx": (_STATX, 4, 3),
    "access": (_ACCESS, -1, 1),
    "faccessat": (_ACCESS, -1, 2),
    "faccessat2": (_ACCESS, -1, 2),
    "readlink": (_READLINK, -1, -1),
    "readlinkat": (_READLINK, -1, -1),
    "chdir": (_CHDIR, -1, -1),
    "execve": (_EXECUTE, -1, -1),
    **dict.fromkeys(("getdents", "getdents64"), (_GETDENTS, -1, -1)),
    "fstat": (_FSTAT, 1, -1),
    "getcwd": (_GETCWD, -1, -1),
    **dict.fromkeys(("fgetxattr", "flistxattr"), (_ATTRIBUTE, -1, -1)),
    "umask": (_UMASK, -1, -1),
    # Whether groups, and how many.
    "setuid": (_IDS, 0, 1),
    "setgid": (_IDS, 1, 1),
    "setreuid": (_IDS, 0, 2),
    "setregid": (_IDS, 1, 2),
    "setresuid": (_IDS, 0, 3),
    "setresgid": (_IDS, 1, 3),
    "setfsuid": (_IDS, 0, 1),
    "setfsgid": (_IDS, 1, 1),
    "setgroups": (_IDS, 1, 0),
    "capset": (_IDS, 0, 0),
    "mkdir": (_MKDIR, -1, 1),
    "mkdirat": (_MKDIR, -1, 2),
    **dict.fromkeys(("unlink", "unlinkat"), (_UNLINK, -1, -1)),
    "rmdir": (_RMDIR, -1, -1),
    **dict.fromkeys(("rename", "renameat", "renameat2"), (_RENAME, -1, -1)),
}
_NO_ACT: Final = (0, -1, -1)
_LISTS: Final = frozenset(("getdents", "getdents64"))
# Where memory is limited: enum slk_asks, in the place of the mode's position.
_BRK, _MMAP, _MPROTECT, _MREMAP, _OBJECT = range(5)
_ASKS: Final[dict[str, tuple[int, int, int]]] = {
    "brk": (0, -1, _BRK),
    "mmap": (0, -1, _MMAP),
    "mprotect": (0, -1, _MPROTECT),
    "pkey_mprotect": (0, -1, _MPROTECT),
    "mremap": (0, -1, _MREMAP),
    "memfd_create": (0, -1, _OBJECT),
}
# What they make, nobody tells us of; what they put into a pipe is no process's any more (a huge page with each byte).
_UNCOUNTED: Final = frozenset({"memfd_secret", "vmsplice", "splice"})
_LOOKS: Final = Effect.READ | Effect.EXECUTE | Effect.LIST | Effect.SEE


class BadPlan(ValueError):
    """The plan names a call or a law that cannot be denied or given back."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name


class FilterPlan(NamedTuple):
    """What a policy says about calls.

    deny: (call, rule): refused with EPERM; rule is the audit's name for it, such as `syscalls.deny[0]`.
    give_back: of GIVABLE.
    network_closed: the policy has no network rules, so no socket is made.
    trees: there are copy-on-write trees. disk_limited: and what they hold is limited.
    own_pids: processes outside of the sandbox do not exist for the program.
    memory_limited: how much memory all processes use is limited.
    processes_limited: how many processes there are is limited.
    processors_hidden: not all processors are shown.
    """

    deny: tuple[tuple[str, str], ...] = ()
    give_back: frozenset[str] = frozenset()
    network_closed: bool = True
    trees: bool = False
    disk_limited: bool = False
    own_pids: bool = False
    memory_limited: bool = False
    processes_limited: bool = False
    processors_hidden: bool = False

    @property
    def counts_processes(self) -> bool:
        """How many there are, is how many the sandbox has."""
        return self.own_pids or self.processes_limited


class Decision(NamedTuple):
    """One call under one plan. conditions: where arguments decide; what they do not trap passes.

    rule, refuse_errno: of a refusal; "" and 0 where there is none.
    """

    treatment: Treatment
    rule: str
    refuse_errno: int
    conditions: Conditions | None

    def treatment_of(self, args: tuple[int, ...]) -> Treatment:
        """args: all six, unsigned."""
        if self.conditions is not None and not _clause_for(self.conditions, args).trapped:
            return Treatment.PASS
        return self.treatment

    @property
    def trapped(self) -> bool:
        """Whether any call of this number reaches the supervisor."""
        return self.treatment not in (Treatment.PASS, Treatment.ENOSYS)


_PASS: Final = Decision(Treatment.PASS, "", 0, None)
_UNKNOWN: Final = Decision(Treatment.ENOSYS, "", 0, None)


@lru_cache(maxsize=32)
def decisions(plan: FilterPlan) -> dict[int, Decision]:
    """By number, for this machine; a number that is not there is ENOSYS. Not to be changed: it is shared.

    Raises: BadPlan.
    """
    _check(plan)
    architecture = native_architecture()
    denied: dict[str, str] = {}
    for name, rule in plan.deny:
        denied.setdefault(name, rule)
    decided = {}
    for row in ROWS:
        number = row.number(architecture)
        if number is None:
            continue
        if row.name in denied:
            decided[number] = Decision(Treatment.REFUSE, denied[row.name], errno.EPERM, None)
        else:
            decided[number] = _decide(row, plan)
    return decided


def _check(plan: FilterPlan) -> None:
    for name, _ in plan.deny:
        if name not in BY_NAME:
            raise BadPlan(name, "no such system call")
        if name in UNDENIABLE:
            raise BadPlan(name, "no program can run without this call")
    for law in sorted(plan.give_back - GIVABLE):
        raise BadPlan(law, f"not among what may be given back: {', '.join(sorted(GIVABLE))}")


def _decide(row: Syscall, plan: FilterPlan) -> Decision:
    if row.name in ("socket", "socketpair"):
        return _decide_socket(row, plan)
    if row.treatment is Treatment.COUNT or row.name == "clone":
        return _decide_counted(row, plan)
    if row.treatment in (Treatment.SEE, Treatment.NOTICE, Treatment.BEHALF):
        return _decide_with_trees(row, plan)
    if row.treatment is Treatment.GROW:
        is_limited = plan.disk_limited or plan.memory_limited
        return Decision(Treatment.SLOW, "", 0, None) if is_limited else _PASS
    if row.treatment is Treatment.MEMORY:
        return _decide_memory(row, plan)
    if row.treatment is Treatment.TELL:
        return _decide_told(row, plan)
    conditions = ARGUMENTS.get(row.name)
    if plan.own_pids and row.name in OWN_PIDS:
        conditions = OWN_PIDS[row.name]
        if row.treatment is Treatment.PASS or (row.name == "ptrace" and _given(row.rule, plan)):
            return Decision(Treatment.SLOW, "", 0, conditions if conditions.clauses else None)
        if row.name == "ptrace":
            conditions = None
    if row.treatment is Treatment.REFUSE and _given(row.rule, plan) and not _is_uncounted(row, plan):
        return _PASS
    if conditions is not None:
        kept = tuple(clause for clause in conditions.clauses if not _given(clause.rule, plan))
        conditions = Conditions(kept, conditions.otherwise_trapped)
    return Decision(row.treatment, row.rule, row.errno, conditions)


def _decide_memory(row: Syscall, plan: FilterPlan) -> Decision:
    if not plan.memory_limited:
        return _PASS
    if row.name in _UNCOUNTED:
        return _UNKNOWN
    return Decision(row.treatment, "", 0, ARGUMENTS.get(row.name))


def _decide_told(row: Syscall, plan: FilterPlan) -> Decision:
    if row.name == "rseq":
        return _UNKNOWN if plan.processors_hidden else _PASS
    is_told = plan.processors_hidden
    if row.name == "sysinfo":
        is_told = plan.memory_limited or plan.counts_processes
    if not is_told and plan.own_pids and row.name in OWN_PIDS:
        return Decision(Treatment.SLOW, "", 0, OWN_PIDS[row.name])
    return Decision(Treatment.SLOW, "", 0, None) if is_told else _PASS


def _decide_counted(row: Syscall, plan: FilterPlan) -> Decision:
    if plan.processes_limited:
        return Decision(Treatment.COUNT, row.rule, row.errno, None)  # C refuses what the row's rule refuses
    if row.treatment is Treatment.COUNT:
        return _PASS
    return Decision(row.treatment, row.rule, row.errno, ARGUMENTS[row.name])


def _decide_with_trees(row: Syscall, plan: FilterPlan) -> Decision:
    if not plan.trees and plan.own_pids and row.treatment is Treatment.SEE and _tells_of_proc(row):
        return Decision(row.treatment if row.paths else Treatment.SLOW, "", 0, OWN_PIDS.get(row.name))
    if not plan.trees and plan.processors_hidden and row.name in _LISTS:
        return Decision(Treatment.SLOW, "", 0, None)
    if not plan.trees:
        return _UNKNOWN if row.treatment is Treatment.BEHALF else _PASS
    slow = row.treatment is Treatment.BEHALF or (row.treatment is Treatment.SEE and not row.paths)
    return Decision(Treatment.SLOW if slow else row.treatment, "", 0, ARGUMENTS.get(row.name))


def _tells_of_proc(row: Syscall) -> bool:
    """By its path, or by listing the directory: what a descriptor tells besides, its opening has told."""
    return bool(row.paths) or row.name in _LISTS or row.name in OWN_PIDS


def _decide_socket(row: Syscall, plan: FilterPlan) -> Decision:
    if row.name == "socketpair":
        if not plan.network_closed:
            return _PASS
        return Decision(row.treatment, row.rule, row.errno, UNIX_STREAMS)
    if plan.network_closed:
        return Decision(row.treatment, row.rule, row.errno, UNIX_STREAMS if plan.trees else None)
    return Decision(row.treatment, row.rule, errno.EAFNOSUPPORT, SOCKET_OPEN)


def _given(rule: str, plan: FilterPlan) -> bool:
    return rule.removeprefix("law.") in plan.give_back and rule.startswith("law.")


def _is_uncounted(row: Syscall, plan: FilterPlan) -> bool:
    """System V segments stay when everybody has ended, and nobody tells whose they are."""
    return plan.memory_limited and row.name == "shmget"


def _holds(clause: Clause, args: tuple[int, ...]) -> bool:
    for argument, value, mask, equal in clause.compares:
        if ((args[argument] & mask) == value) != equal:
            return False
    return True


def _clause_for(conditions: Conditions, args: tuple[int, ...]) -> Clause:
    for clause in conditions.clauses:
        if _holds(clause, args):
            return clause
    return Clause(conditions.otherwise_trapped, ())


def treatment_of(plan: FilterPlan, nr: int, args: tuple[int, ...]) -> Treatment:
    """Who answers this call, as the filter must have it. args: all six, unsigned."""
    return decisions(plan).get(nr, _UNKNOWN).treatment_of(args)


def rule_for(plan: FilterPlan, nr: int, args: tuple[int, ...]) -> str:
    """The name of the rule that traps or refuses this call, "" where the rules about paths decide."""
    decision = decisions(plan).get(nr, _UNKNOWN)
    if decision.conditions is None:
        return decision.rule
    return _clause_for(decision.conditions, args).rule or decision.rule


def errno_for(plan: FilterPlan, nr: int, args: tuple[int, ...]) -> int:
    """What a refusal of this call gives the program."""
    for number, argument, mask, value, error in c_refusals(plan):
        if error and number == nr and args[argument] & mask == value:
            return error
    return decisions(plan).get(nr, _UNKNOWN).refuse_errno or errno.EPERM


@lru_cache(maxsize=32)
def c_refusals(plan: FilterPlan) -> tuple[Refusal, ...]:
    """The errnos that arguments decide, in their order; 0: Python does. Not of calls that the policy denies whole."""
    architecture = native_architecture()
    denied = {name for name, _ in plan.deny}
    asked = {name: tuple((one, 0) for one in those) for name, those in ASKED.items() if plan.own_pids}
    return tuple(
        (number, compare.argument, compare.mask, compare.value, error)
        for name, errors in (*asked.items(), *REFUSED_WITH.items())
        if name not in denied and (number := BY_NAME[name].number(architecture)) is not None
        for compare, error in errors
    )


@lru_cache(maxsize=32)
def c_rows(plan: FilterPlan) -> tuple[CallRow, ...]:
    """The fast path's table: a row for each number from 0 to the last known. Raises: BadPlan."""
    decided = decisions(plan)
    architecture = native_architecture()
    rows = [_NO_ROW] * (max(decided) + 1)
    for row in ROWS:
        number = row.number(architecture)
        if number is not None and decided[number].trapped:
            acts = plan.trees or ((plan.own_pids or plan.processors_hidden) and row.name in _LISTS)
            act = _ACTS.get(row.name, _NO_ACT) if acts else _NO_ACT
            act = _ASKS.get(row.name, act)
            always = decided[number].conditions is None
            rows[number] = (*_c_row(row, decided[number]), *act, always, _may_touch(row, decided[number]))
    return tuple(rows)


def _may_touch(row: Syscall, decision: Decision) -> bool:
    """Whether the call may change a copy-on-write tree. Of a descriptor's, the table does not tell what it does."""
    made = (Treatment.REFUSE, Treatment.NOTICE, Treatment.MEMORY, Treatment.COUNT)
    if decision.treatment in made or row.rule:
        return False
    if row.treatment is Treatment.SEE:
        return row.name == "bind"  # which makes a socket
    return any(path.effect & ~_LOOKS for path in row.paths) if row.paths else bool(row.fds)


def _c_row(row: Syscall, decision: Decision) -> tuple[int, int, int, int, int, int, int, int, int]:
    dirfd, path, need = _place(row, 0)
    dirfd2, path2, need2 = _place(row, 1)
    refuses = decision.treatment in (Treatment.REFUSE, Treatment.COUNT)
    refuse_errno = decision.refuse_errno if refuses else 0
    code = _C_TREATMENT[decision.treatment]
    return (code, dirfd, path, row.flags, dirfd2, path2, refuse_errno, need, need2)


def _place(row: Syscall, index: int) -> tuple[int, int, int]:
    if index >= len(row.paths):
        return -1, -1, 0
    path = row.paths[index]
    return path.dirfd, path.position, path.need
