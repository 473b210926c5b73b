"""The seccomp filter of a plan as a BPF program, built by libseccomp.

Nothing here installs it: the child does, in C, between fork and exec. What is built is proved on the spot:
each call that arguments decide is run through the program by a small interpreter and compared with the plan.
libseccomp does not promise an order among overlapping rules of one call, and a filter that came out otherwise
must never be used.
"""

from __future__ import annotations

import errno
import importlib
import os
import struct
import sys
import types
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from sandlockd.kernel.libraries import known_libraries
from sandlockd.kernel.syscalls import AUDIT_ARCH, Treatment, native_architecture
from sandlockd.kernel.syscalls_arguments import ALL64, Compare, Conditions
from sandlockd.launch.filter_plan import FilterPlan, decisions

if TYPE_CHECKING:
    import pyseccomp

ALLOW: Final = 0x7FFF0000  # SECCOMP_RET_* (linux/seccomp.h)
NOTIFY: Final = 0x7FC00000
ENOSYS: Final = 0x00050000 | errno.ENOSYS
KILL_PROCESS: Final = 0x80000000

_ARGUMENTS: Final = 6
_NEEDED_BYTES: Final = 4 << 20  # for a filter that traps all that can be, and to spare


class FilterError(RuntimeError):
    """No filter can be built here: libseccomp is missing, refuses a rule, or built what was not asked for."""


@lru_cache(maxsize=32)
def build(plan: FilterPlan) -> bytes:
    """The plan's program: struct sock_filter[], for seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER.

    Default ENOSYS; any architecture but the native one kills the process, x32 and i386 included.
    Raises: BadPlan, FilterError, MemoryError.
    """
    try:
        seccomp = _pyseccomp()
        bytes(_NEEDED_BYTES)  # libseccomp 2.5 frees what it never allocated, where it finds no more memory
        program = _export(_rules(seccomp, plan))
    except (ImportError, OSError, RuntimeError) as cause:
        raise FilterError(
            f"libseccomp cannot build the filter: {cause}; install libseccomp2 2.5 or newer"
        ) from cause
    _prove(plan, program)
    return program


def _rules(seccomp: types.ModuleType, plan: FilterPlan) -> pyseccomp.SyscallFilter:
    rules = seccomp.SyscallFilter(ENOSYS)
    rules.set_attr(seccomp.Attr.ACT_BADARCH, KILL_PROCESS)
    rules.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree over the numbers: a call tests 10, not 300
    # By number throughout: libseccomp 2.5 does not know the newest names.
    for number, decision in decisions(plan).items():
        if decision.treatment is Treatment.ENOSYS:
            continue
        if decision.conditions is None:
            rules.add_rule(NOTIFY if decision.trapped else ALLOW, number)
        else:
            _conditional_rules(seccomp, rules, number, decision.conditions)
    return rules


def _conditional_rules(
    seccomp: types.ModuleType, rules: pyseccomp.SyscallFilter, number: int, conditions: Conditions
) -> None:
    """One call whose arguments decide.

    libseccomp has no "otherwise" for one call. A comparison that always holds is that: `argument 0 >= 0` is
    tested after the equalities. (A rule without comparisons would replace all others of the call.)
    """
    for clause in conditions.clauses:
        compares = [_argument(seccomp, compare) for compare in clause.compares]
        rules.add_rule(NOTIFY if clause.trapped else ALLOW, number, *compares)
    rules.add_rule(NOTIFY if conditions.otherwise_trapped else ALLOW, number, seccomp.Arg(0, seccomp.GE, 0))


def _argument(seccomp: types.ModuleType, compare: Compare) -> pyseccomp.Arg:
    if compare.mask == ALL64:
        operation = seccomp.EQ if compare.equal else seccomp.NE
        return seccomp.Arg(compare.argument, operation, compare.value)
    if not compare.equal:
        raise FilterError("libseccomp cannot compare a part of an argument for being different")
    return seccomp.Arg(compare.argument, seccomp.MASKED_EQ, compare.mask, compare.value)


def _export(rules: pyseccomp.SyscallFilter) -> bytes:
    with open(os.memfd_create("filter"), "w+b", buffering=0) as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _pyseccomp() -> types.ModuleType:
    if "pyseccomp" in sys.modules:
        return sys.modules["pyseccomp"]
    with known_libraries():
        return importlib.import_module("pyseccomp")


# ---- the proof


def _prove(plan: FilterPlan, program: bytes) -> None:
    """Raises: FilterError where the program and the plan differ on a call that arguments decide."""
    instructions = list(struct.iter_unpack("=HBBI", program))
    architecture = AUDIT_ARCH[native_architecture()]
    for number, decision in decisions(plan).items():
        if decision.conditions is None:
            continue
        begin = first_argument(instructions, number, architecture)
        for arguments in _probes(decision.conditions):
            expected = action(decision.treatment_of(arguments))
            found = run(instructions, number, arguments, architecture, begin)
            if found != expected:
                raise FilterError(
                    f"libseccomp built a wrong filter: call {number} {[hex(a) for a in arguments]} "
                    f"gives {found:#x}, not {expected:#x}"
                )


def action(treatment: Treatment) -> int:
    """What the filter returns for a call that is treated so."""
    if treatment is Treatment.PASS:
        return ALLOW
    return ENOSYS if treatment is Treatment.ENOSYS else NOTIFY


def _probes(conditions: Conditions) -> Iterator[tuple[int, ...]]:
    """Arguments at, beside, and (in the bits that must not matter) above each comparison."""
    yield (0,) * _ARGUMENTS
    yield (ALL64,) * _ARGUMENTS
    for clause in conditions.clauses:
        held = [0] * _ARGUMENTS
        for compare in clause.compares:
            held[compare.argument] = compare.value if compare.equal else compare.value + 1
        yield tuple(held)
        for compare in clause.compares:
            above = compare.value | (ALL64 & ~compare.mask or 1 << 32)
            for changed in (compare.value, compare.value ^ 1, above):
                if changed != held[compare.argument]:
                    beside = held.copy()
                    beside[compare.argument] = changed
                    yield tuple(beside)


def run(
    instructions: list[tuple[int, int, int, int]],
    number: int,
    arguments: tuple[int, ...],
    arch: int,
    position: int = 0,
) -> int:
    """What a classic BPF program of libseccomp's returns for a call (struct seccomp_data, seccomp(2)).

    position: where to begin; see first_argument. Raises: FilterError on an instruction that libseccomp does not use.
    """
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *arguments)
    return instructions[_end(instructions, struct.unpack("=16I", data), position, _NO_END)][3]


def first_argument(instructions: list[tuple[int, int, int, int]], number: int, arch: int) -> int:
    """Where a call of this number first loads something that is not its number: the same for all its arguments."""
    words = (number & 0xFFFFFFFF, arch, *(0,) * 14)
    return _end(instructions, words, 0, _ARGUMENTS_AT)


_ARGUMENTS_AT: Final = 16  # in struct seccomp_data
_NO_END: Final = 64


def _end(
    instructions: list[tuple[int, int, int, int]], words: tuple[int, ...], position: int, loads_from: int
) -> int:
    """The position of the return, or of the first load from there on."""
    accumulator = 0
    while True:
        code, if_true, if_false, k = instructions[position]
        position += 1
        if code == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            position += if_true if accumulator == k else if_false
        elif code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            if k >= loads_from:
                return position - 1
            accumulator = words[k >> 2]
        elif code == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= k
        elif code == 0x35:  # BPF_JMP | BPF_JGE | BPF_K
            position += if_true if accumulator >= k else if_false
        elif code == 0x25:  # BPF_JMP | BPF_JGT | BPF_K
            position += if_true if accumulator > k else if_false
        elif code == 0x05:  # BPF_JMP | BPF_JA
            position += k
        elif code == 0x06:  # BPF_RET | BPF_K
            return position - 1
        else:
            raise FilterError(f"libseccomp used the unknown instruction {code:#x}")
