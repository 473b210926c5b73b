"""The filter as the kernel runs it: installed in a child, with a supervisor that refuses all it is asked.

The supervisor answers with an errno that no kernel gives, so a call's result tells who answered it: that
errno, the supervisor; ENOSYS, the filter; anything else, the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import ledger
from hypothesis import given, settings
from hypothesis import strategies as st

from sandlockd.kernel.syscalls import (
    AUDIT_ARCH,
    BY_NAME,
    ROWS,
    Treatment,
    native_architecture,
    number_of,
)
from sandlockd.kernel.syscalls_arguments import ALL64
from sandlockd.launch import filter as filters
from sandlockd.launch.filter_plan import FilterPlan, decisions, treatment_of

SUPERVISOR = -777  # its answer
FILTER = -errno.ENOSYS
_TIMEOUT_S = 20
_NOBODY = 65534
_HIGH = 1 << 32
_NONE = (0,) * 6

_PR_SET_NO_NEW_PRIVS = 38
_NEW_LISTENER = 1 << 3
_NOTIF_RECV = 0xC0502100
_NOTIF_SEND = 0xC0182101
_REQUEST = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp

CLOSED = FilterPlan()
OPEN = FilterPlan(network_closed=False)
GIVEN = FilterPlan(give_back=frozenset({"ptrace", "sysv_ipc", "mqueue", "personality", "dumpable"}))
DENYING = FilterPlan(deny=(("uname", "syscalls.deny[0]"), ("ioctl", "syscalls.deny[1]")))
TREES = FilterPlan(trees=True)
OWN = FilterPlan(own_pids=True, give_back=frozenset({"ptrace"}))
COUNTED = FilterPlan(processes_limited=True)
HIDING = FilterPlan(processors_hidden=True, own_pids=True)
PLANS = [CLOSED, OPEN, GIVEN, DENYING, TREES, OWN, COUNTED, HIDING]

x86_64_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 has more than one way in")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(number: int, *arguments: int) -> int:
    """A raw system call. >= 0: the result; < 0: -errno."""
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(a & ALL64) for a in arguments))
    return -ctypes.get_errno() if result == -1 else int(result)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _install(program: bytes) -> int:
    """Install the filter in this process. Returns the listener."""
    text = ctypes.create_string_buffer(program)
    described = _Program(len(program) // 8, ctypes.addressof(text))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = call(number_of("seccomp"), 1, _NEW_LISTENER, ctypes.addressof(described))
    if listener < 0:
        raise OSError(-listener, os.strerror(-listener))
    return listener


class Outcome(NamedTuple):
    status: int  # as os.waitstatus_to_exitcode gives it
    results: list[int]
    seen: list[int]  # the numbers that the supervisor was asked about


def confined(plan: FilterPlan, body: Callable[[], Sequence[int]], *, supervised: bool = True) -> Outcome:
    """Run body in a child under the plan's filter. Without a supervisor the listener is closed at once."""
    program = filters.build(plan)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _child(program, body, theirs)
    seen: list[int] = []
    with ours:
        theirs.close()
        _, (listener,), _, _ = socket.recv_fds(ours, 16, 1)
        thread = threading.Thread(target=_supervise, args=(listener, seen))
        if supervised:
            thread.start()
        else:
            os.close(listener)
        ours.send(b"go")
        received = b"".join(iter(lambda: ours.recv(65536), b""))
        _, status = os.waitpid(pid, 0)
        if supervised:
            thread.join(_TIMEOUT_S)
            os.close(listener)
    results = [result for (result,) in struct.iter_unpack("=q", received)]
    return Outcome(os.waitstatus_to_exitcode(status), results, seen)


def _child(program: bytes, body: Callable[[], Sequence[int]], control: socket.socket) -> None:
    try:
        signal.alarm(_TIMEOUT_S)
        if os.getuid() == 0:  # a broken filter must not vhangup or reboot the machine that tests it
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        listener = _install(program)
        socket.send_fds(control, [b"listener"], [listener])
        os.close(listener)
        control.recv(2)
        for result in body():
            control.send(struct.pack("=q", result))
        os._exit(0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(99)


def _supervise(listener: int, seen: list[int]) -> None:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while poll.poll()[0][1] & select.POLLIN:
        request = bytearray(_REQUEST.size)
        try:
            fcntl.ioctl(listener, _NOTIF_RECV, request)
            notif_id, _, _, number, *_ = _REQUEST.unpack(request)
            seen.append(number)
            fcntl.ioctl(listener, _NOTIF_SEND, _ANSWER.pack(notif_id, 0, SUPERVISOR, 0))
        except OSError as error:
            if error.errno != errno.ENOENT:  # the caller is gone
                raise


def answered(plan: FilterPlan, *calls: tuple[int | str, tuple[int, ...]]) -> list[int]:
    """What the calls return under the plan."""
    numbers = [(number_of(name) if isinstance(name, str) else name, args) for name, args in calls]
    outcome = confined(plan, lambda: [call(number, *args) for number, args in numbers])
    assert outcome.status == 0
    return outcome.results


# ---- the program, by our own interpreter: every number, every plan


def _run(plan: FilterPlan, number: int, arguments: tuple[int, ...]) -> int:
    instructions = list(struct.iter_unpack("=HBBI", filters.build(plan)))
    return filters.run(instructions, number, arguments, AUDIT_ARCH[native_architecture()])


@pytest.mark.parametrize("plan", PLANS)
def test_every_number_has_a_defined_treatment_and_the_program_gives_it(plan: FilterPlan) -> None:
    for number in range(601):
        for arguments in (_NONE, (1,) * 6, (ALL64,) * 6):
            expected = filters.action(treatment_of(plan, number, arguments))
            assert _run(plan, number, arguments) == expected, number
    assert _run(plan, 0xFFFFFFFF, _NONE) == filters.ENOSYS


_WORDS = st.one_of(
    st.integers(0, ALL64),
    st.integers(0, 64),
    st.sampled_from([0x5412, 0x541C, 0x40086602, 0x80086601, 0x40049409, 0x4B49, 0x10000000, 0x80]),
)


@settings(max_examples=300)
@given(
    st.sampled_from(PLANS),
    st.sampled_from([row.name for row in ROWS if row.treatment in (Treatment.SLOW, Treatment.REFUSE)]),
    st.tuples(_WORDS, _WORDS, _WORDS, _WORDS, _WORDS, _WORDS),
    st.booleans(),
)
def test_the_program_agrees_with_the_plan_for_any_arguments(
    plan: FilterPlan, name: str, arguments: tuple[int, ...], high: bool
) -> None:
    number = number_of(name)
    if number < 0:
        return
    if high:
        arguments = tuple(argument & 0xFFFFFFFF | _HIGH for argument in arguments)
    assert _run(plan, number, arguments) == filters.action(treatment_of(plan, number, arguments))


@pytest.mark.parametrize("plan", PLANS)
def test_a_program_fits_the_kernel(plan: FilterPlan) -> None:
    program = filters.build(plan)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 1000  # BPF_MAXINSNS is 4096; a jump of 255 is where libseccomp gets slower


def test_a_wrong_program_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_terminal_rules(*_: object) -> bytes:
        return built.replace(struct.pack("=HBBI", 0x15, 0, 0, 0x5412)[4:], struct.pack("=I", 0x5413))

    built = filters.build(CLOSED)
    monkeypatch.setattr(filters, "_export", without_terminal_rules)
    with pytest.raises(filters.FilterError, match="0x5412"):
        filters.build.__wrapped__(CLOSED)


def test_a_missing_libseccomp_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise OSError("libseccomp.so.2: cannot open shared object file")

    monkeypatch.setattr(filters, "_pyseccomp", missing)
    with pytest.raises(filters.FilterError, match="install libseccomp2"):
        filters.build.__wrapped__(CLOSED)


def test_importing_trio_runs_no_program() -> None:
    """Its supervisor would run the first gcc of PATH, where ldconfig does not know a library."""
    code = (
        "import sys; from sandlockd.kernel.libraries import known_libraries\n"
        "def hook(event, arguments):\n"
        "    assert event not in ('subprocess.Popen', 'os.exec', 'os.posix_spawn', 'os.system'), arguments\n"
        "sys.addaudithook(hook)\n"
        "with known_libraries(): import trio\n"
        "trio.run(trio.to_thread.run_sync, int)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_pyseccomp_leaves_ctypes_util_as_it_was() -> None:
    script = (
        "import sandlockd.launch.filter as f, sys, ctypes; f._pyseccomp()\n"
        "assert 'ctypes.util' not in sys.modules and not hasattr(ctypes, 'util')\n"
        "import ctypes.util; assert ctypes.util.find_library('c')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# ---- the kernel


def test_every_call_that_is_always_trapped_reaches_the_supervisor() -> None:
    trapped = [n for n, d in decisions(CLOSED).items() if d.trapped and d.conditions is None]
    assert len(trapped) > 100
    outcome = confined(CLOSED, lambda: [call(number, *(ALL64,) * 6) for number in trapped])
    assert outcome.status == 0
    wrong = [number for number, result in zip(trapped, outcome.results, strict=True) if result != SUPERVISOR]
    assert wrong == []
    assert outcome.seen == trapped


def test_every_number_that_is_not_ours_gives_enosys() -> None:
    decided = decisions(CLOSED)
    unknown = [n for n in range(601) if n not in decided or decided[n].treatment is Treatment.ENOSYS]
    outcome = confined(CLOSED, lambda: [call(number, *(ALL64,) * 6) for number in unknown])
    assert outcome.results == [FILTER] * len(unknown)
    assert outcome.seen == []


_TRAPPED_BY_ARGUMENTS = [
    ("ioctl", (-1, 0x5412)),  # TIOCSTI
    ("ioctl", (-1, _HIGH | 0x5412)),
    ("ioctl", (-1, 0xFFFFFFFF << 32 | 0x5412)),
    ("ioctl", (_HIGH, 0x541C)),  # TIOCLINUX
    ("ioctl", (-1, _HIGH | 0x541C)),
    ("ioctl", (-1, 0x5423)),  # TIOCSETD
    ("ioctl", (-1, 0x540C)),  # TIOCEXCL
    ("ioctl", (-1, 0x4B49)),  # KDSKBSENT
    ("ioctl", (-1, 0x40086602)),  # FS_IOC_SETFLAGS
    ("ioctl", (-1, _HIGH | 0x40086602)),
    ("ioctl", (-1, 0x40046602)),  # FS_IOC32_SETFLAGS
    ("ioctl", (-1, 0x401C5820)),  # FS_IOC_FSSETXATTR
    ("ioctl", (-1, 0x40087602)),  # FS_IOC_SETVERSION
    ("ioctl", (-1, 0x40806685)),  # FS_IOC_ENABLE_VERITY
    ("ioctl", (-1, 0x800C6613)),  # FS_IOC_SET_ENCRYPTION_POLICY
    ("ioctl", (-1, 0xC0506617)),  # FS_IOC_ADD_ENCRYPTION_KEY
    ("ioctl", (-1, 0xC0045877)),  # FIFREEZE
    ("ioctl", (-1, 0xC0045878)),  # FITHAW
    ("ioctl", (-1, 0x5000940E)),  # BTRFS_IOC_SUBVOL_CREATE
    ("ioctl", (-1, 0x40047211)),  # FAT_IOCTL_SET_ATTRIBUTES
    ("sched_setaffinity", (1, 0, 0)),
    ("sched_setaffinity", (_HIGH | 1, 0, 0)),
    ("sched_setparam", (-1, 0)),
    ("sched_setscheduler", (1, -1, 0)),
    ("sched_setattr", (1, 0, -1)),
    ("migrate_pages", (1, 0, 0, 0)),
    ("move_pages", (1, 0, 0, 0, 0, -1)),
    ("prlimit64", (1, 7, 1, 0)),
    ("prlimit64", (_HIGH | 1, 7, 1, 0)),
    ("prlimit64", (1, 7, _HIGH, 0)),  # a new limit whose address ends in 32 zeros
    ("setpriority", (0, 1, 0)),
    ("setpriority", (1, 0, 0)),  # PRIO_PGRP
    ("setpriority", (2, 0, 0)),  # PRIO_USER
    ("setpriority", (_HIGH | 2, 0, 0)),
    ("ioprio_set", (1, 1, 0)),
    ("ioprio_set", (2, 0, 0)),
    ("ioprio_set", (3, 0, 0)),
    ("clone", (0x10000000,)),  # CLONE_NEWUSER
    ("clone", (0x20000 | 17,)),  # CLONE_NEWNS | SIGCHLD
    ("clone", (_HIGH | 0x40000000,)),  # CLONE_NEWNET
    ("unshare", (0x10000000,)),
    ("unshare", (0x80,)),  # CLONE_NEWTIME
    ("personality", (0x40000,)),  # ADDR_NO_RANDOMIZE
    ("personality", (_HIGH | 0x400000,)),  # READ_IMPLIES_EXEC
    ("prctl", (4, 0)),  # PR_SET_DUMPABLE
    ("prctl", (_HIGH | 4, 0)),
    ("prctl", (4, 2)),
    ("prctl", (4, _HIGH | 1)),
    ("prctl", (22, 1)),  # PR_SET_SECCOMP
    ("prctl", (_HIGH | 22, 1)),
    ("seccomp", (1, 0, 0)),  # SECCOMP_SET_MODE_FILTER
    ("seccomp", (_HIGH | 1, 0, 0)),
    ("socket", (1, 1, 0)),
    ("socket", (2, 1, 0)),
    ("socket", (40, 1, 0)),  # AF_VSOCK
    ("socketpair", (1, 2, 0, 0)),  # SOCK_DGRAM
    ("socketpair", (1, 3, 0, 0)),  # SOCK_RAW, which AF_UNIX takes for SOCK_DGRAM
    ("socketpair", (1, _HIGH | 2, 0, 0)),
    ("socketpair", (30, 1, 0, 0)),  # AF_TIPC
]


def test_arguments_that_are_ours_to_judge_reach_the_supervisor_whatever_their_high_bits() -> None:
    results = answered(CLOSED, *_TRAPPED_BY_ARGUMENTS)
    escaped = [
        case for case, result in zip(_TRAPPED_BY_ARGUMENTS, results, strict=True) if result != SUPERVISOR
    ]
    assert escaped == []


# (call, arguments, what the kernel gives): all fail for a reason of the kernel's own, or change nothing.
_PASSED_BY_ARGUMENTS = [
    ("ioctl", (-1, 0x5401), -errno.EBADF),  # TCGETS
    ("ioctl", (-1, _HIGH | 0x5401), -errno.EBADF),
    ("ioctl", (-1, 0x80086601), -errno.EBADF),  # FS_IOC_GETFLAGS
    ("ioctl", (-1, 0x801C581F), -errno.EBADF),  # FS_IOC_FSGETXATTR
    ("ioctl", (-1, 0x40049409), -errno.EBADF),  # FICLONE
    ("ioctl", (-1, 0x4020940D), -errno.EBADF),  # FICLONERANGE
    ("ioctl", (-1, 0xC020660B), -errno.EBADF),  # FS_IOC_FIEMAP
    ("sched_setaffinity", (0, 0, 0), -errno.EINVAL),
    ("sched_setaffinity", (_HIGH, 0, 0), -errno.EINVAL),  # the kernel sees pid 0
    ("sched_setparam", (0, 0), -errno.EINVAL),
    ("sched_setattr", (0, 0, -1), -errno.EINVAL),
    ("prlimit64", (0, -1, 0, 0), -errno.EINVAL),
    ("prlimit64", (_HIGH, -1, 1, 0), -errno.EFAULT),
    ("setpriority", (0, 0, 0), 0),
    ("setpriority", (_HIGH, _HIGH, 0), 0),
    ("clone", (0x800,), -errno.EINVAL),  # CLONE_SIGHAND without CLONE_VM
    ("unshare", (0,), 0),
    ("personality", (0xFFFFFFFF,), 0),
    ("personality", (ALL64,), 0),
    ("personality", (0,), 0),
    ("prctl", (4, 1), 0),
    ("prctl", (_HIGH | 4, 1), 0),
    ("prctl", (3,), 1),  # PR_GET_DUMPABLE
    ("seccomp", (2, 0, 0), -errno.EFAULT),  # SECCOMP_GET_ACTION_AVAIL
    ("socketpair", (1, 1, 0, 0), -errno.EFAULT),
    ("socketpair", (1, 5, 0, 0), -errno.EFAULT),
    ("socketpair", (1, 1 | 0o2000000, 0, 0), -errno.EFAULT),  # SOCK_CLOEXEC
]


def test_arguments_that_are_the_programs_own_affair_never_leave_the_kernel() -> None:
    calls = [(name, arguments) for name, arguments, _ in _PASSED_BY_ARGUMENTS]
    outcome = confined(CLOSED, lambda: [call(number_of(name), *args) for name, args in calls])
    assert outcome.seen == []
    for (name, arguments, expected), result in zip(_PASSED_BY_ARGUMENTS, outcome.results, strict=True):
        assert result == expected, (name, arguments)


@pytest.mark.parametrize(
    ("plan", "name", "arguments"),
    [
        (OPEN, "socket", (1, 1, 0)),
        (OPEN, "socket", (10, 2, 0)),
        (GIVEN, "personality", (0x40000,)),
        (GIVEN, "prctl", (4, 2)),
        (GIVEN, "shmget", (-1, 0, 0)),
        (GIVEN, "mq_unlink", (0,)),
        (GIVEN, "ptrace", (-1, 0, 0, 0)),
    ],
)
def test_what_a_policy_gives_back_the_kernel_answers(
    plan: FilterPlan, name: str, arguments: tuple[int, ...]
) -> None:
    assert answered(plan, (name, arguments))[0] not in (SUPERVISOR, FILTER)


def test_with_network_rules_a_family_that_no_rule_can_name_is_refused() -> None:
    assert answered(OPEN, ("socket", (40, 1, 0)), ("socket", (_HIGH | 30, 1, 0))) == [SUPERVISOR] * 2


def test_a_denied_call_is_refused_and_its_neighbours_are_not() -> None:
    outcome = answered(DENYING, ("uname", (0,)), ("ioctl", (-1, 0x5401)), ("getuid", ()))
    assert outcome[:2] == [SUPERVISOR] * 2
    assert outcome[2] >= 0


def test_ordinary_work_is_not_trapped(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+b") as file:

        def work() -> list[int]:
            file.write(b"text")
            file.flush()
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(writing, b"x")
                os._exit(7)
            os.read(reading, 1)
            thread = threading.Thread(target=file.tell)
            thread.start()
            thread.join()
            return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.fstat(file.fileno()).st_size]

        outcome = confined(CLOSED, work)
    assert outcome == Outcome(0, [7, 4], [])


def test_without_a_supervisor_trapped_calls_fail_closed() -> None:
    names = ("openat", "mount", "chmod", "ptrace", "socket")
    outcome = confined(
        CLOSED,
        lambda: [call(number_of(name), *_NONE) for name in names if number_of(name) >= 0],
        supervised=False,
    )
    assert set(outcome.results) == {-errno.ENOSYS}
    assert outcome.status == 0


def test_a_datagram_pair_cannot_reach_a_socket_outside() -> None:
    with ledger.directory("filter") as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        os.chmod(directory, 0o711)
        path = f"{directory}/host"
        host.bind(path)
        os.chmod(path, 0o777)

        def reach() -> list[int]:
            try:
                one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                with one, two:
                    one.sendto(b"hello", path)
            except OSError as error:
                return [-(error.errno or 0)]
            return [0]

        assert reach() == [0]  # the attack works where nothing stops it
        assert confined(CLOSED, reach).results == [SUPERVISOR]


@x86_64_only
def test_a_call_of_the_x32_kind_kills() -> None:
    outcome = confined(CLOSED, lambda: [call(0x40000000 | number_of("getpid"))])
    assert outcome.status == -signal.SIGSYS


_INT_80 = """
int main(void)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory"); /* getpid of i386 */
    return result > 0 ? 42 : 43;
}
"""


@x86_64_only
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_int_0x80_kills(tmp_path: Path) -> None:
    source, library = tmp_path / "int80.c", tmp_path / "int80.so"
    source.write_text(_INT_80.replace("main", "enter"))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    enter = ctypes.CDLL(str(library)).enter
    child = os.fork()
    if child == 0:
        os._exit(enter())
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 42:
        pytest.skip("this kernel has no 32-bit calls")
    assert confined(CLOSED, lambda: [enter()]).status == -signal.SIGSYS


def test_the_newest_calls_are_known_by_number() -> None:
    newest = ("fchmodat2", "open_tree_attr", "open_tree", "pidfd_getfd")
    assert answered(CLOSED, *((name, (ALL64,) * 6) for name in newest)) == [SUPERVISOR] * len(newest)
    assert answered(CLOSED, ("mseal", (0, 0, 0))) == [0]
    assert BY_NAME["mseal"].x86_64 == 462
