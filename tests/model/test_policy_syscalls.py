"""What a policy says about system calls, and that everybody means the same by it."""

from __future__ import annotations

from model.test_policy_fakes import policy_of

from sandlockd.kernel.syscalls import BY_NAME
from sandlockd.launch.filter_plan import GIVABLE
from sandlockd.launch.filter_plan import UNDENIABLE as UNDENIABLE_OF_THE_FILTER
from sandlockd.policy.syscalls import GIVE_BACK, UNDENIABLE, compile_syscalls, refusal
from sandlockd.policy.verdict import Verdict


def test_deny_names_calls_with_their_rules_and_beats_allow() -> None:
    rules = compile_syscalls(policy_of("[syscalls]\ndeny = ['mount', 'ptrace']\nallow = ['ptrace']\n"))
    assert dict(rules.denied) == {"mount": "syscalls.deny[0]", "ptrace": "syscalls.deny[1]"}
    assert rules.given_back == {"ptrace"}
    assert rules.calls == {"process_vm_readv", "process_vm_writev"}


def test_a_refused_law_that_can_be_given_back_says_how() -> None:
    assert refusal("law.ptrace", "ptrace") == Verdict(False, "law.ptrace", '[syscalls] allow = ["ptrace"]')
    assert refusal("law.sysv_ipc", "shmget").remedy == '[syscalls] allow = ["sysv_ipc"]'
    assert refusal("law.io_uring", "io_uring_setup") == Verdict(False, "law.io_uring")
    assert refusal("network", "socket").remedy is None
    assert refusal("ptrace", "ptrace").remedy is None
    assert refusal("syscalls.deny[0]", "mount").remedy == 'remove "mount" from [syscalls] deny'


def test_the_filter_gives_back_and_keeps_what_the_policy_says() -> None:
    assert set(GIVE_BACK) == GIVABLE
    assert UNDENIABLE >= UNDENIABLE_OF_THE_FILTER
    assert {call for calls in GIVE_BACK.values() for call in calls} - {"dumpable"} <= BY_NAME.keys()
