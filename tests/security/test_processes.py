"""Processes outside of the sandbox: not signalled, traced, read, nor changed in priority, affinity or limits."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.running import Runner
from harness.waiting import line_of
from security import broken
from security.canaries import SECRET, Victim, victim
from security.raw_calls import Buffer, Bytes, Iovec, Script, program

_HIGH = 1 << 32


def _signals(script: Script, pid: int, number: int) -> None:
    script.kill(pid, number)
    script.kill(_HIGH | pid, number)
    script.kill(-pid, number)  # it leads its group
    script.tkill(pid, number)
    script.tgkill(pid, pid, number)
    script.tgkill(_HIGH | pid, _HIGH | pid, number)
    script.rt_sigqueueinfo(pid, number, Bytes(struct.pack("=iii", number, 0, -1) + bytes(116)))
    script.rt_tgsigqueueinfo(pid, pid, number, Bytes(struct.pack("=iii", number, 0, -1) + bytes(116)))
    pidfd = script.pidfd_open(pid, 0)
    script.pidfd_send_signal(pidfd, number, 0, 0)
    script.pidfd_send_signal(pidfd, number, 0, 4)  # PIDFD_SIGNAL_PROCESS_GROUP


def _other_changes(script: Script, pid: int, address: int) -> None:
    """Nothing here may be about more than this process and its group: it is made bare too, as root even."""
    for high in (0, _HIGH, 0xABCDEF << 32):
        number = high | pid
        script.setpriority(0, number, 5)
        script.setpriority(1, number, 6)  # PRIO_PGRP: it leads its group
        script.sched_setaffinity(number, 8, Bytes(struct.pack("=Q", 1)))
        script.sched_setscheduler(number, 3, Bytes(bytes(4)))  # SCHED_BATCH
        script.sched_setparam(number, Bytes(bytes(4)))
        script.sched_setattr(number, Bytes(struct.pack("=IIQiI", 48, 3, 0, 7, 0) + bytes(24)), 0)
        script.ioprio_set(1, number, 3 << 13)  # idle
        script.ioprio_set(2, number, 3 << 13)
        script.prlimit64(number, 7, Bytes(struct.pack("=QQ", 50, 60)), 0)
        script.ptrace(0x4206, number, 0, 0)  # PTRACE_SEIZE
        script.ptrace(16, number, 0, 0)  # PTRACE_ATTACH
        script.process_vm_readv(number, Iovec(64), 1, _remote(address), 1, 0)
        script.process_vm_writev(number, Iovec(b"written!"), 1, _remote(address), 1, 0)
        script.migrate_pages(number, 8, Bytes(struct.pack("=Q", 1)), Bytes(struct.pack("=Q", 1)))
        script.move_pages(number, 0, 0, 0, 0, 0)
        script.kcmp(number, number, 0, 10, 11)
    pidfd = script.pidfd_open(pid, 0)
    for number in (10, 11, 12):
        fd = script.pidfd_getfd(pidfd, number, 0)
        script.pread64(fd, Buffer(64), 64, 0)
    script.process_madvise(pidfd, Bytes(struct.pack("=QQ", address & ~4095, 4096)), 1, 21, 0)
    script.process_mrelease(pidfd, 0)
    script.setns(pidfd, 0x20000)
    script.prctl(62, 1, pid, 1, 0)  # PR_SCHED_CORE, PR_SCHED_CORE_CREATE
    script.get_robust_list(pid, Buffer(8), Buffer(8))
    script.setpgid(pid, 0)


def _remote(address: int) -> Bytes:
    return Bytes(struct.pack("=QQ", address, len(SECRET)))


def test_signalling_a_process_outside(runner: Runner) -> None:
    with victim(runner) as (process, _):
        script = Script()
        _signals(script, process.pid, signal.SIGKILL)
        outcomes, _ = script.sandboxed(runner)
        assert process.alive
        worked = [n for n, o in zip(script.names, outcomes, strict=True) if o.ok and n != "pidfd_open"]
        assert worked == []
        assert script.bare(runner)[0].ok
        process.process.wait(30)


def test_changing_tracing_and_reading_a_process_outside(runner: Runner) -> None:
    with victim(runner) as (process, address):
        script = Script()
        _other_changes(script, process.pid, address)
        before = process.facts()
        outcomes, ended = script.sandboxed(runner)
        assert process.facts() == before
        assert not any(SECRET in outcome.data for outcome in outcomes)
        worked = [n for n, o in zip(script.names, outcomes, strict=True) if o.ok and n != "pidfd_open"]
        assert worked == []
        assert "law.process_access" in {refusal["rule"] for refusal in ended.refusals}
        # The oracle: each of these works bare. (Tracing stops at the end of the tracer.)
        outcomes = script.bare(runner)
        assert any(SECRET in outcome.data for outcome in outcomes)
        after = process.facts()
        assert {key for key in before if before[key] != after[key]} >= {"affinity", "policy", "limits"}
        worked = {n for n, o in zip(script.names, outcomes, strict=True) if o.ok}
        assert worked >= {"setpriority", "ioprio_set", "ptrace", "process_vm_writev", "pidfd_getfd"}


@contextmanager
def _sandbox(runner: Runner, command: list[object], **popen: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        runner.command_line(command, **popen),  # type: ignore[arg-type]
        **runner.popen_arguments(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.parametrize("target", ["supervisor", "init"])
def test_its_own_keepers(runner: Runner, target: str) -> None:
    """The program knows both: its parent is init, and init's parent the supervisor."""
    script_path = runner.place.root / "script/calls"
    waiting = ["sh", "-c", 'echo ready; read go; exec "$@"', "sh", program(runner, "calls"), script_path]
    (runner.place.root / "script").mkdir()
    options = ["--read", runner.place.root / "script", "--read", runner.compiler.directory]
    with _sandbox(runner, waiting, options=options) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        pid = process.pid if target == "supervisor" else _child_of(process.pid)
        script = Script()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            _signals(script, pid, number)
        _other_changes(script, pid, 0x400000)
        script.command(runner)  # writes the file
        keeper = Victim(process)
        keeper.pid = pid
        before = keeper.facts()
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        out, err = process.communicate(timeout=60)
    outcomes = script.results(out)
    worked = [n for n, o in zip(script.names, outcomes, strict=True) if o.ok and n != "pidfd_open"]
    assert worked == []
    assert process.returncode == 0, err
    assert before["tracer"] == "0"


def test_the_priority_of_all_processes_of_the_user(runner: Runner) -> None:
    """Sandboxed only, and as a user who has nothing else: it would change everything that the user runs."""
    if os.geteuid() != 0 or runner.place.user.is_root:
        pytest.skip("needs a user who exists for these tests only")
    with victim(runner) as (process, _):
        script = Script()
        for high in (0, _HIGH):
            for who in (0, runner.place.user.uid):
                script.setpriority(high | 2, who, 5)  # PRIO_USER
                script.ioprio_set(high | 3, who, 3 << 13)  # IOPRIO_WHO_USER
        before = process.facts()
        outcomes, _ = script.sandboxed(runner)
        assert [outcome.error for outcome in outcomes] == ["EPERM"] * 8
        assert process.facts() == before


def test_killing_everybody_kills_nobody_outside(runner: Runner) -> None:
    """kill(-1) and kill(0) reach what is in the sandbox, and nothing else of the user's."""
    with victim(runner) as (process, _):
        script = Script()
        script.kill(process.pid, signal.SIGCONT)
        # Before everybody: a broken scope must not take the machine that tests it along.
        assert script.sandboxed(runner)[0][0].error == "EPERM"
        for everybody in ("-1", "0"):
            ended = runner.sandboxed(["sh", "-c", f"trap : TERM; kill -TERM -- {everybody}; echo went on"])
            assert (ended.returncode, ended.stdout) == (0, b"went on\n")
            ended = runner.sandboxed(["sh", "-c", f"kill -KILL -- {everybody}; echo went on"])
            assert ended.returncode in (0, 137)
            assert process.alive
        assert process.facts()["stopped"] is False


def test_a_signal_by_the_owner_of_a_descriptor(runner: Runner) -> None:
    """fcntl(F_SETOWN) names who gets SIGIO when a pipe becomes readable."""
    with victim(runner) as (process, _):
        script = Script()
        script.socketpair(1, 1, 0, Buffer(8))  # 3, 4
        script.fcntl(3, 8, process.pid)  # F_SETOWN
        script.fcntl(3, 10, signal.SIGKILL)  # F_SETSIG
        script.fcntl(3, 4, os.O_ASYNC)
        script.write(4, b"x", 1)
        script.ioctl(3, 0x8901, Bytes(struct.pack("=i", process.pid)))  # FIOSETOWN
        script.write(4, b"x", 1)
        script.sandboxed(runner)
        assert process.alive
        script.bare(runner)
        process.process.wait(30)


def test_the_priority_of_the_session_by_its_autogroup(runner: Runner) -> None:
    """/proc/self/autogroup is the priority of everything in the session, the shell outside included."""
    own = Path("/proc/self/autogroup")
    if not own.exists() or Path("/proc/sys/kernel/sched_autogroup_enabled").read_text() != "1\n":
        pytest.skip("this kernel has no autogroups")
    # The kernel takes a change every 100 ms only, of anybody's, and says EAGAIN in between.
    attack = (
        "n=0; until echo 7 > /proc/self/autogroup || [ $n = 20000 ]; do n=$((n + 1)); done 2>/dev/null;"
        " cat /proc/self/autogroup"
    )
    bare = runner.bare(["sh", "-c", attack], start_new_session=True)
    assert bare.stdout.endswith(b"nice 7\n"), bare
    both = [
        "sh",
        "-c",
        '"$@"; cat /proc/self/autogroup',
        "sh",
        *runner.command_line(["sh", "-c", attack.replace("20000", "2000")]),
    ]
    ended = runner.run(both, start_new_session=True)
    assert ended.stdout.splitlines()[-1].endswith(b"nice 0"), ended


def test_a_thread_of_the_program_may_still_change_itself(runner: Runner) -> None:
    """What is about itself goes on working, with the number as with 0."""
    script = Script()
    own = script.getpid()
    script.setpriority(0, own, 1)
    script.sched_setaffinity(own, 8, Bytes(struct.pack("=Q", 3)))
    script.sched_setscheduler(own, 3, Bytes(bytes(4)))
    script.ioprio_set(1, own, 2 << 13 | 5)
    script.prlimit64(own, 4, Bytes(struct.pack("=QQ", 0, 0)), 0)
    script.kill(own, 0)
    script.tgkill(own, own, 0)
    expected = [outcome.ok for outcome in script.bare(runner)]
    outcomes, ended = script.sandboxed(runner)
    assert [outcome.ok for outcome in outcomes] == expected == [True] * 8
    assert ended.refusals == []


# ---- the tests above can fail ----


@pytest.mark.parametrize(
    ("names", "fact"),
    [
        (("sched_setaffinity",), "affinity"),
        (("sched_setscheduler",), "policy"),
        (("prlimit64",), "limits"),
        (("setpriority",), "nice"),
    ],
)
def test_the_attack_succeeds_when_the_filter_gives_the_call_back(
    runner: Runner, names: tuple[str, ...], fact: str
) -> None:
    """Landlock does not judge these: the filter alone stands there."""
    if runner.place.user.is_root and fact != "limits":
        pytest.skip("the kernel protects a process that has capabilities from one that has dropped them")
    with victim(runner) as (process, address):
        script = Script()
        _other_changes(script, process.pid, address)
        before = process.facts()[fact]
        broken.results(runner, broken.give_back(*names), script)
        assert process.facts()[fact] != before


def test_signals_reach_outside_without_the_scope(runner: Runner) -> None:
    with victim(runner) as (process, _):
        script = Script()
        _signals(script, process.pid, signal.SIGKILL)
        broken.results(runner, broken.NO_SIGNAL_SCOPE, script)
        process.process.wait(30)
