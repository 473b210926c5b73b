"""`proc.pids = "own"`: nothing tells a process outside of the sandbox from a number that is free."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.running import Runner, system_python
from harness.terminal import open_terminal
from harness.waiting import line_of
from security import broken, strangers
from security.canaries import victim
from security.raw_calls import AT_FDCWD, Buffer, Bytes, Outcome, Script, program

Make = Callable[[int, Path], Script]

_MAKERS: dict[str, Make] = {
    "paths": strangers.paths,
    "numbers": lambda number, work: strangers.numbers(number),
    "every call": lambda number, work: strangers.every_call(number),
}


def _told(script: Script, outcomes: list[Outcome], free: list[Outcome]) -> list[str]:
    """Which calls gave something else than for the free number."""
    return [
        f"{index} {script.lines[index]}: {one.error or one.result}, not {other.error or other.result}"
        for index, (one, other) in enumerate(zip(outcomes, free, strict=True))
        if (min(one.result, 0), one.died) != (min(other.result, 0), other.died)
    ]


def _outcomes(runner: Runner, script: Script, number: int) -> list[Outcome]:
    strangers.make_links(runner, number)
    return script.sandboxed(runner, "--write", runner.work, policy=strangers.POLICY)[0]


# Refused to everybody (ptrace), not for no bytes (process_vm_*), or not there on this kernel (PR_SCHED_CORE).
_NOT_AS_BARE = {"ptrace", "process_vm_readv", "process_vm_writev", "prctl"}


@pytest.mark.parametrize("kind", _MAKERS)
def test_whoever_is_outside_answers_as_a_free_number_does(runner: Runner, kind: str) -> None:
    make, number = _MAKERS[kind], strangers.a_free_number()
    free = make(number, runner.work)
    without = _outcomes(runner, free, number)
    if kind != "every call":  # nearly all of it is refused to everybody
        strangers.make_links(runner, number)
        bare = free.bare(runner)
        differing = {free.names[int(line.split()[0])] for line in _told(free, without, bare)}
        assert differing <= _NOT_AS_BARE
    with victim(runner) as (process, _):
        script = make(process.pid, runner.work)
        found = _outcomes(runner, script, process.pid)
        assert process.alive
    assert _told(script, found, without) == []


@pytest.mark.one_user
@pytest.mark.parametrize("kind", _MAKERS)
def test_its_own_keepers_answer_as_a_free_number_does(runner: Runner, kind: str) -> None:
    """The program knows both numbers: its parent is init, and init's parent the supervisor."""
    (runner.place.root / "script").mkdir()
    waiting = ["sh", "-c", 'echo ready; read go; exec "$@"', "sh", program(runner, "calls")]
    line = runner.command_line(
        [*waiting, runner.place.root / "script/calls"],
        options=["--write", runner.work, "--read", runner.place.root / "script"],
        policy=strangers.POLICY,
    )
    make, number = _MAKERS[kind], strangers.a_free_number()
    without = _outcomes(runner, make(number, runner.work), number)
    for target in ("supervisor", "init"):
        with runner.started(line) as process:
            assert process.stdout is not None
            line_of(process.stdout.fileno())
            init = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
            pid = process.pid if target == "supervisor" else init
            strangers.make_links(runner, pid)
            script = make(pid, runner.work)
            script.command(runner)
            out, err = process.communicate(b"go\n", timeout=60)
        assert process.returncode == 0, err
        assert _told(script, script.results(out), without) == [], target


def test_with_a_tree_as_well(runner: Runner) -> None:
    """Links that only the tree has lead there, too."""
    make, number = strangers.paths, strangers.a_free_number()
    policy = strangers.POLICY.replace("[proc]", f'workdir = "{runner.work}"\non_exit = "discard"\n[proc]')

    def outcomes(script: Script, pid: int) -> list[Outcome]:
        strangers.make_links(runner, pid)
        prepared = Script()
        for name, target in strangers.links(pid).items():
            (runner.work / name).unlink()
            prepared.symlink(target.encode(), runner.work / name)
        for name in list(strangers.executables(pid, runner.work))[::2]:
            prepared.chmod(runner.work / name, 0o755)  # of which there is a copy now
        shift = len(prepared.lines)
        prepared.lines += [strangers.moved(line, shift) for line in script.lines]
        prepared.names += script.names
        return prepared.sandboxed(runner, policy=policy)[0][shift:]

    without = outcomes(make(number, runner.work), number)
    with victim(runner) as (process, _):
        script = make(process.pid, runner.work)
        found = outcomes(script, process.pid)
    assert _told(script, found, without) == []


def test_from_a_directory_that_was_removed(runner: Runner) -> None:
    """What is above it is still there, links included."""
    with victim(runner) as (process, _):
        strangers.make_links(runner, process.pid)
        script = Script()
        script.mkdir(runner.work / "gone", 0o700)
        script.chdir(runner.work / "gone")
        script.rmdir(runner.work / "gone")
        asked = [b"../process", b"../root/../etc/passwd", b"../dots/passwd", b"../me/etc/passwd", b"../file"]
        for path in asked:
            script.newfstatat(AT_FDCWD, path, Buffer(144), 0)
        outcomes, _ = script.sandboxed(runner, "--write", runner.work, policy=strangers.POLICY)
    assert [outcome.error for outcome in outcomes[3:]] == ["ENOENT"] * 3 + [""] * 2


def _from_deep_down(number: int) -> Script:
    """From there up again: no name of it can be read, but each way leads somewhere."""
    script = Script()
    for _ in range(42):
        script.mkdir(b"d" * 100, 0o700)
        script.chdir(b"d" * 100)
    script.mkdir(b"deepest", 0o700)
    up = b"../" * 60
    ways = (
        b"%bproc/%d",
        b"%bproc/%d/../version",
        b"deepest/../%bproc/%d",
        b"./deepest/../%bproc/%d/../version",
    )
    for path in (*(way % (up, number) for way in ways), up):
        script.newfstatat(AT_FDCWD, path, Buffer(144), 0)
        script.openat(AT_FDCWD, path, os.O_PATH)
    opened = script.openat(AT_FDCWD, b".", os.O_RDONLY)
    script.getdents64(opened, Buffer(1024), 1024)
    return script


def test_from_a_directory_that_is_deeper_than_a_path_can_tell(runner: Runner) -> None:
    with victim(runner) as (process, _):
        script = _from_deep_down(process.pid)
        outcomes, _ = script.sandboxed(runner, "--write", runner.work, policy=strangers.POLICY)
    assert [outcome.error for outcome in outcomes[85:]] == ["ENOENT"] * 8 + [""] * 4


_GROUPS = """
import os, sys
for group in map(int, sys.argv[1:]):
    try:
        os.tcsetpgrp(0, group)
        print("taken", end=" ")
    except OSError as error:
        print(error.strerror.replace(" ", "-"), end=" ")
own = os.fork()
if own == 0:
    os.setpgid(0, 0)
    os.read(0, 1)
    os._exit(0)
os.setpgid(own, own)
os.tcsetpgrp(0, own)
print(os.tcgetpgrp(0) == own, "and-over", flush=True)
os.kill(own, 9)
"""


def _at_a_terminal(runner: Runner, expected: bytes, patch: str = "") -> None:
    number = strangers.a_free_number()
    with victim(runner) as (process, _):
        line = runner.command_line(
            [system_python(), "-c", _GROUPS, str(number), str(process.pid), str(os.getpgid(process.pid))],
            policy=strangers.POLICY,
        )
        words = [os.fsdecode(word) for word in (broken.command_line(patch, line) if patch else line)]
        place = {"user": runner.place.user, "cwd": str(runner.work), "environment": runner.environment()}
        with open_terminal(words, **place) as terminal:
            terminal.expect(expected)
            terminal.wait()


def test_at_a_terminal(runner: Runner) -> None:
    """tcsetpgrp: which groups there are."""
    _at_a_terminal(runner, rb"(No-such-process ){3}True and-over")


_PEER = """
import socket, struct
at = socket.socket(fileno=0)
for length in (12, 4, 0):
    told = at.getsockopt(socket.SOL_SOCKET, 17, length) if length else b""
    print(told.hex(), end=" ")
try:
    print(at.getsockopt(socket.SOL_SOCKET, 77))
except OSError as error:
    print(error.errno)
one, other = socket.socketpair()
print(struct.unpack("=iII", one.getsockopt(socket.SOL_SOCKET, 17, 12))[0] == __import__("os").getpid())
"""


@pytest.mark.parametrize("tree", [False, True])
def test_whoever_is_at_the_other_end_of_a_socket_has_no_number(runner: Runner, tree: bool) -> None:
    policy = strangers.POLICY
    if tree:
        policy = policy.replace("[proc]", f'workdir = "{runner.work}"\non_exit = "discard"\n[proc]')
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ended = runner.sandboxed([system_python(), "-c", _PEER], policy=policy, stdin=theirs)
    ids = struct.pack("=iII", 0, os.geteuid(), os.getegid()).hex()
    assert ended.stdout.decode().split() == [ids, "00000000", str(errno.ENODATA), "True"], ended


# ---- the tests above can fail ----

_BROKEN = {
    "everybody belongs to the sandbox": (
        "from sandlockd.handlers.private import members\nmembers.belongs = lambda context, pid: pid > 0\n",
        {"openat", "newfstatat", "kill", "getpgid", "pidfd_open", "clock_gettime", "capget"},
    ),
    "only where a path ends is looked at": (
        "from sandlockd.handlers.private import walk\nwalk.missing = lambda *a, **k: None\n",
        {"newfstatat", "statx", "access", "readlink", "statfs", "chdir", "name_to_handle_at", "mkdir"},
    ),
    "C lets a path go on by where its letters lead": (
        "from sandlockd.kernel import engine\nmake = engine.Engine.__init__\n"
        "engine.Engine.__init__ = lambda self, **k: make(self, **{**k, 'own_pids': False})\n",
        {"newfstatat", "stat", "open"},
    ),
    "calls that look are not trapped": (
        "from sandlockd.launch import filter_plan as plan\nplan._tells_of_proc = lambda row: False\n",
        {"newfstatat", "stat", "access", "readlink", "statfs", "chdir"},
    ),
    "numbers are not trapped": (
        "from sandlockd.launch import filter_plan as plan\nplan.OWN_PIDS = {}\n",
        {
            "kill",
            "tkill",
            "getsid",
            "getpriority",
            "ioprio_get",
            "sched_getaffinity",
            "prlimit64",
            "pidfd_open",
            "fcntl",
        },
    ),
    "interpreters are not looked at": (
        "from sandlockd.handlers.private import executing\nexecuting.is_shown = lambda caller, name: True\n",
        {"execve", "execveat"},
    ),
}


@pytest.mark.one_user
@pytest.mark.parametrize("check", _BROKEN)
def test_with_the_check_removed_somebody_outside_is_told_from_nobody(runner: Runner, check: str) -> None:
    patch, telling = _BROKEN[check]
    number = strangers.a_free_number()

    def outcomes(pid: int) -> tuple[Script, list[Outcome]]:
        strangers.make_links(runner, pid)
        script = strangers.paths(pid, runner.work)
        script.chdir(b"/")
        more = strangers.numbers(pid)
        shift = len(script.lines)
        script.lines += [strangers.moved(line, shift) for line in more.lines]
        script.names += more.names
        options = ["--write", str(runner.work)]
        return script, broken.results(runner, patch, script, *options, policy=strangers.POLICY)

    _, without = outcomes(number)
    with victim(runner) as (process, _):
        script, found = outcomes(process.pid)
    told = {script.names[int(line.split()[0])] for line in _told(script, found, without)}
    assert told >= telling


_ALL_ARE_SHOWN = """
from sandlockd.handlers.private import {module}
{module}.{name} = {instead}
"""


@pytest.mark.one_user
def test_with_tcsetpgrp_let_through_the_kernel_tells_of_groups_outside(runner: Runner) -> None:
    patch = (
        "from sandlockd.launch import filter_plan as plan\nplan.ASKED = {}\n"
        "plan.OWN_PIDS = {name: one for name, one in plan.OWN_PIDS.items() if name != 'ioctl'}\n"
    )
    _at_a_terminal(runner, rb"No-such-process Operation-not-permitted ", patch)


@pytest.mark.one_user
def test_with_peers_let_through_the_kernel_tells_their_number(runner: Runner) -> None:
    patch = _ALL_ARE_SHOWN.format(module="peers", name="tell", instead="lambda *_: peers._SEEN")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ended = broken.run(
            runner, patch, [system_python(), "-c", _PEER], policy=strangers.POLICY, stdin=theirs
        )
    told = bytes.fromhex(ended.stdout.decode().split()[0])
    assert struct.unpack("=iII", told)[0] == os.getpid(), ended


@pytest.mark.one_user
def test_with_deep_directories_taken_for_elsewhere_ways_up_tell(runner: Runner) -> None:
    patch = _ALL_ARE_SHOWN.format(module="walk", name="_is_elsewhere", instead="lambda *_: True")
    with victim(runner) as (process, _):
        script = _from_deep_down(process.pid)
        outcomes = broken.results(runner, patch, script, "--write", str(runner.work), policy=strangers.POLICY)
    assert [outcome.error for outcome in outcomes[85:93]] != ["ENOENT"] * 8


@pytest.mark.one_user
@pytest.mark.parametrize("lacking", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_way_that_we_could_not_look_at_is_not_left_to_the_kernel(runner: Runner, lacking: int) -> None:
    patch = (
        "from sandlockd.handlers.private import walk\n"
        f"def go(*_, **__): raise OSError({lacking}, 'lacking')\nwalk._Walk.go = go\n"
    )
    script = Script()
    script.newfstatat(AT_FDCWD, runner.work / "process", Buffer(144), 0)
    script.execve(runner.work / "relative", Bytes(bytes(8)), Bytes(bytes(8)))
    with victim(runner) as (process, _):
        strangers.make_links(runner, process.pid)
        found = broken.results(runner, patch, script, "--write", str(runner.work), policy=strangers.POLICY)
    assert [outcome.error for outcome in found] == ["EIO"] * 2


_WITHOUT_DESCRIPTORS = """
import resource
from sandlockd.kernel import procfs
leader = procfs.member_leader
def without(tid, init_pid):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        return leader(tid, init_pid)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
procfs.member_leader = without
"""


@pytest.mark.one_user
def test_who_could_not_be_looked_for_is_not_said_to_be_missing(runner: Runner) -> None:
    """Nor there: that there are no descriptors left is known before anybody is looked for."""
    script = Script()
    with victim(runner) as (process, _):
        for number in (strangers.a_free_number(), process.pid):
            script.kill(number, 0)
            script.getpgid(number)
            script.newfstatat(AT_FDCWD, f"/proc/{number}", Buffer(144), 0)
        ended = broken.run(
            runner,
            _WITHOUT_DESCRIPTORS,
            script.command(runner),
            policy=strangers.POLICY,
            options=["--read", runner.place.root / "script"],
        )
    assert [outcome.error for outcome in script.results(ended.stdout)] == ["EIO"] * 6
    assert {one["rule"] for one in ended.refusals} == {"law.errors_refuse"}, ended.refusals
