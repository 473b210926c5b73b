"""System calls a policy denies or gives back, and the verdict for one that was refused.

Pure. What is refused without a word in any policy (the laws) is the launcher's to install; here is only
which of it a policy may give back, and how a refusal is told.
"""

from __future__ import annotations

from sandlockd.policy.frozen import Value
from sandlockd.policy.spelling import toml_string
from sandlockd.policy.verdict import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from sandlockd.policy.model import Policy

# What `[syscalls] allow` may name, with the calls that each gives back. Short on purpose: each is something
# that ordinary programs need and that the wall (Landlock's domain, the signal scope) still confines to the
# sandbox, or that harms only who asks for it.
GIVE_BACK: Final[Mapping[str, tuple[str, ...]]] = {
    # Debuggers. Landlock refuses tracing whatever is outside of the caller's domain (landlock(7)).
    "ptrace": ("ptrace", "process_vm_readv", "process_vm_writev"),
    # Databases. The keys are the machine's: programs outside can meet the sandbox there.
    "sysv_ipc": (
        "shmget",
        "shmat",
        "shmctl",
        "shmdt",
        "semget",
        "semop",
        "semctl",
        "semtimedop",
        "msgget",
        "msgsnd",
        "msgrcv",
        "msgctl",
    ),
    # The same for POSIX queues.
    "mqueue": ("mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr"),
    # setarch, wine, debuggers that turn address randomisation off: weakens only the program itself.
    "personality": ("personality",),
    # prctl(PR_SET_DUMPABLE, 0): gpg and ssh-agent. It blinds the supervisor, which then refuses what it
    # cannot read.
    "dumpable": ("dumpable",),
}

# What `[syscalls] deny` cannot name: no program starts or ends without them.
UNDENIABLE: Final = frozenset(
    (
        "read",
        "write",
        "close",
        "futex",
        "exit",
        "exit_group",
        "rt_sigreturn",
        "restart_syscall",
        "sendmsg",
        "execve",
    )
)


class SyscallRules(Value):
    """What the policy changes about system calls.

    denied: each call with the rule that denies it, `syscalls.deny[0]`. It beats `allow`.
    given_back: groups of GIVE_BACK.
    calls: what the groups give back, without what is denied.
    """

    denied: Mapping[str, str]
    given_back: frozenset[str]
    calls: frozenset[str]


def compile_syscalls(policy: Policy) -> SyscallRules:
    """The policy's `[syscalls]`, ready for the filter."""
    denied: dict[str, str] = {}
    for index, name in enumerate(policy.syscalls.deny):
        denied.setdefault(name, f"syscalls.deny[{index}]")
    groups = frozenset(policy.syscalls.allow)
    calls = {call for group in groups for call in GIVE_BACK[group]}
    return SyscallRules(denied=denied, given_back=groups, calls=frozenset(calls.difference(denied)))


def refusal(rule: str, call: str) -> Verdict:
    """The verdict for a call that the filter or a handler refused.

    rule: `law.<x>`, or `syscalls.deny[0]`. A law may be given back if GIVE_BACK has its name.
    call: the name of the call.
    """
    if rule.startswith("syscalls.deny"):
        return Verdict(False, rule, f"remove {toml_string(call)} from [syscalls] deny")
    group = rule.removeprefix("law.")
    if group == rule or group not in GIVE_BACK:
        return Verdict(False, rule)
    return Verdict(False, rule, f"[syscalls] allow = [{toml_string(group)}]")
