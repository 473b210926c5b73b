"""Modes, owners, times and attributes, which Landlock does not judge: unchanged where the policy gives no writing."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest
from harness.places import Place
from harness.running import Runner
from harness.waiting import line_of
from security import broken
from security.canaries import ATTRIBUTE, ATTRIBUTE_SECRET, SECRET, changed, outside, snapshot, victim
from security.raw_calls import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, Buffer, Bytes, Outcome, Script

_TIMES = Bytes(struct.pack("=qqqq", 7, 7, 9, 9))
_NUMBER_OF_GETFLAGS, _NUMBER_OF_SETFLAGS = 0x80086601, 0x40086602
_NODUMP = 0x40


def _attacks(directory: Path, *, by_path: bool = True) -> Script:
    """Every way to change metadata of the canary in a directory that may be read.

    by_path: the object is found anew for each call.
    """
    script = Script()
    canary = directory / "canary"
    reading = script.openat(AT_FDCWD, canary, os.O_RDONLY)  # 3
    looking = script.openat(AT_FDCWD, canary, os.O_PATH)  # 4
    parent = script.openat(AT_FDCWD, directory, os.O_PATH)  # 5
    mode, uid = 0o606, -1
    if by_path:
        script.chmod(canary, mode)
        script.fchmodat(AT_FDCWD, canary, mode)
        script.fchmodat(parent, b"canary", mode)
        script.fchmodat2(parent, b"canary", mode, 0)
        script.fchmodat2(parent, b"canary", mode, AT_SYMLINK_NOFOLLOW)
        script.chmod(directory / "link", mode)
        script.chmod(f"{directory}/sub/../canary", mode)
        script.chmod(directory, 0o777)
        for call in ("chown", "lchown"):
            getattr(script, call)(canary, uid, uid)
        script.fchownat(parent, b"canary", uid, uid, 0)
        script.utime(canary, Bytes(struct.pack("=qq", 7, 9)))
        script.utimes(canary, _TIMES)
        script.futimesat(parent, b"canary", _TIMES)
        script.utimensat(parent, b"canary", _TIMES, 0)
        script.utimensat(AT_FDCWD, directory / "link", _TIMES, AT_SYMLINK_NOFOLLOW)
        script.setxattr(canary, b"user.more", b"x", 1, 0)
        script.lsetxattr(canary, ATTRIBUTE.encode(), b"x", 1, 0)
        script.removexattr(canary, ATTRIBUTE.encode())
        script.lremovexattr(canary, ATTRIBUTE.encode())
    for name in (b"/proc/self/fd/3", b"/proc/self/fd/4", b"/dev/fd/4", b"/proc/thread-self/fd/3"):
        script.chmod(name, mode)
        script.utimensat(AT_FDCWD, name, _TIMES, 0)
        script.setxattr(name, b"user.more", b"x", 1, 0)
        script.removexattr(name, ATTRIBUTE.encode())
    script.fchmod(reading, mode)
    script.fchmodat2(reading, b"", mode, AT_EMPTY_PATH)
    script.fchmodat2(looking, b"", mode, AT_EMPTY_PATH)
    script.fchown(reading, uid, uid)
    script.fchownat(looking, b"", uid, uid, AT_EMPTY_PATH)
    script.utimensat(reading, 0, _TIMES, 0)
    script.utimensat(looking, b"", _TIMES, AT_EMPTY_PATH)
    script.fsetxattr(reading, b"user.more", b"x", 1, 0)
    script.fremovexattr(reading, ATTRIBUTE.encode())
    script.ioctl(reading, _NUMBER_OF_SETFLAGS, Bytes(struct.pack("=q", _NODUMP)))
    script.ioctl(reading, _NUMBER_OF_SETFLAGS | 1 << 32, Bytes(struct.pack("=q", _NODUMP)))
    script.ioctl(reading, 0x401C5820, Bytes(struct.pack("=IIIII8x", 0x80, 0, 0, 0, 0)))  # FS_IOC_FSSETXATTR
    return script


def test_changing_what_may_only_be_read(runner: Runner) -> None:
    directory = outside(runner, "readable")
    script = _attacks(directory)
    before = snapshot(directory)
    bare = script.bare(runner)
    assert changed(before, snapshot(directory)) >= {"mode", "mtime", "attributes"}
    assert sum(outcome.ok for outcome in bare) > 30
    remade = runner.place.root / "readable2"
    directory.rename(remade)
    directory = outside(runner, "readable")
    before = snapshot(directory)
    outcomes, ended = script.sandboxed(runner, "--read", directory)
    assert changed(before, snapshot(directory)) == set()
    assert [outcome.ok for outcome in outcomes[:3]] == [True] * 3
    passed = [script.names[index] for index, outcome in enumerate(outcomes[3:], 3) if outcome.ok]
    assert passed == []
    assert ended.refusals


def test_changing_what_may_not_even_be_read(runner: Runner) -> None:
    directory = outside(runner)
    before = snapshot(directory)
    script = _attacks(directory)
    outcomes, _ = script.sandboxed(runner)
    assert changed(before, snapshot(directory)) == set()
    assert [script.names[index] for index, outcome in enumerate(outcomes) if outcome.ok] == [
        "openat",
        "openat",
    ]


def test_changing_what_may_be_written_does_what_it_does_bare(runner: Runner) -> None:
    """Same results, call by call, and the same metadata in the end."""
    script, results, snapshots = None, [], []
    for sandboxed in (False, True):
        runner.place.empty_work()
        outside(runner, "work")
        script = _attacks(runner.work)
        outcomes = script.sandboxed(runner, "--write", runner.work)[0] if sandboxed else script.bare(runner)
        # The ioctls that change flags are refused whatever the policy grants (law.file_flags).
        results.append([outcome.result for outcome in outcomes[:-3]])
        found = snapshot(runner.work)
        for facts in found.values():
            if facts["mtime"] > 10**18:
                facts["mtime"] = "now"
        snapshots.append(found)
    assert script is not None
    differing = [
        (script.names[index], script.lines[index], one, other)
        for index, (one, other) in enumerate(zip(*results, strict=True))
        if one != other
    ]
    assert differing == []
    assert snapshots[0] == snapshots[1]


def test_a_descriptor_that_only_looks_changes_nothing(runner: Runner) -> None:
    """fchmod and its like give EBADF for an O_PATH descriptor, also where the policy lets the file be written."""
    outside(runner, "work")
    script = Script()
    fd = script.openat(AT_FDCWD, runner.work / "canary", os.O_PATH)
    script.fchmod(fd, 0o600)
    script.fchown(fd, -1, -1)
    script.fsetxattr(fd, b"user.x", b"x", 1, 0)
    script.fremovexattr(fd, ATTRIBUTE.encode())
    expected = script.bare(runner)
    assert [outcome.error for outcome in expected[1:]] == ["EBADF"] * 4
    assert script.sandboxed(runner, "--write", runner.work)[0] == expected


# ---- through the supervisor's eyes ----


def _modes(pid: int, fds: list[int]) -> list[int]:
    return [os.stat(f"/proc/{pid}/fd/{fd}").st_mode for fd in fds]


@pytest.mark.parametrize("through_a_link", [False, True], ids=["by-name", "through-a-link"])
def test_the_pipes_and_memory_files_of_other_processes(runner: Runner, through_a_link: bool) -> None:
    """The supervisor may look at descriptors of any process of the user; the program may not change them by it."""
    numbers = [10, 11, 12]
    with victim(runner) as (process, _):
        os.chmod(f"/proc/{process.pid}/fd/12", 0o600)
        script = Script()
        for number in numbers:
            target = f"/proc/{process.pid}/fd/{number}".encode()
            if through_a_link:
                link = runner.work / f"link{number}"
                script.symlink(target, link)
                target = os.fsencode(link)
            script.chmod(target, 0o606)
            script.utimensat(AT_FDCWD, target, _TIMES, 0)
            script.setxattr(target, b"user.x", b"x", 1, 0)
        before = _modes(process.pid, numbers)
        script.bare(runner)
        assert _modes(process.pid, numbers) != before
        runner.place.empty_work()
        for number in numbers:
            os.chmod(f"/proc/{process.pid}/fd/{number}", 0o600)
        before = _modes(process.pid, numbers)
        outcomes, _ = script.sandboxed(runner, "--write", runner.work)
        assert _modes(process.pid, numbers) == before
    assert not any(o.ok for o, name in zip(outcomes, script.names, strict=True) if name != "symlink")


def test_the_descriptors_of_the_supervisor_through_links_to_self(runner: Runner) -> None:
    """A link to /proc/self/fd/N that the program makes must not mean the supervisor's N to the supervisor."""
    program = (
        "for n in 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do ln -s /proc/self/fd/$n l$n; done;"
        " echo ready; read go; for l in l*; do chmod 7 $l 2>/dev/null; done; echo done; read go"
    )
    with subprocess.Popen(
        runner.command_line(["sh", "-c", program], options=["--write", runner.work]),
        **runner.popen_arguments(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        line_of(process.stdout.fileno())
        fds = [int(name) for name in os.listdir(f"/proc/{process.pid}/fd") if int(name) > 2]
        before = dict(zip(fds, _modes(process.pid, fds), strict=True))
        assert before
        process.stdin.write(b"go\n")
        process.stdin.flush()
        line_of(process.stdout.fileno())
        # The loop may close and open others as it goes; what stayed is what counts.
        now = {fd: mode for fd in before if (mode := _mode_or_none(process.pid, fd)) is not None}
        process.communicate(b"go\n", timeout=30)
    assert now == {fd: before[fd] for fd in now}


def _mode_or_none(pid: int, fd: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/fd/{fd}").st_mode
    except OSError:
        return None


# ---- as root: the supervisor has more rights than the program, and must not lend them ----


def _needs_root(place: Place) -> None:
    if not place.user.is_root:
        pytest.skip("only a root supervisor has rights to lend")


def _capless(script: Script) -> None:
    """Drop every capability, as a root program may (capset(2), version 3)."""
    script.capset(Bytes(struct.pack("=Ii", 0x20080522, 0)), Bytes(bytes(24)))


def test_attributes_that_need_a_dropped_capability(runner: Runner) -> None:
    """trusted.* needs CAP_SYS_ADMIN, which the program does not have; an overlay mount would act on them."""
    _needs_root(runner.place)
    outside(runner, "work")
    script = Script()
    for name in (b"trusted.overlay.opaque", b"trusted.x", b"security.x"):
        script.setxattr(runner.work / "canary", name, b"y", 1, 0)
    os.setxattr(runner.work / "sub/canary", "trusted.secret", SECRET)
    script.getxattr(runner.work / "sub/canary", b"trusted.secret", Buffer(64), 64)
    script.removexattr(runner.work / "sub/canary", b"trusted.secret")
    before = snapshot(runner.work)
    outcomes, _ = script.sandboxed(runner, "--write", runner.work)
    assert changed(before, snapshot(runner.work)) == set()
    assert not any(outcome.ok for outcome in outcomes), outcomes
    assert SECRET not in outcomes[3].data


def test_a_program_that_dropped_its_capabilities_borrows_none(runner: Runner) -> None:
    """Root without capabilities may not change a stranger's file; nor when the supervisor does it on its behalf."""
    _needs_root(runner.place)
    outside(runner, "work")
    for path in (runner.work / "canary", runner.work / "sub"):
        os.chown(path, 65534, 65534)
    script = Script()
    _capless(script)
    script.chmod(runner.work / "canary", 0o777)
    script.chown(runner.work / "canary", 0, 0)
    script.setxattr(runner.work / "canary", b"user.more", b"x", 1, 0)
    script.utimensat(AT_FDCWD, runner.work / "canary", _TIMES, 0)
    script.chown(runner.work / "empty", 12345, 12345)
    before = snapshot(runner.work)
    bare = script.bare(runner)
    assert [outcome.ok for outcome in bare[1:]] == [False] * 5
    outcomes, _ = script.sandboxed(runner, "--write", runner.work)
    assert changed(before, snapshot(runner.work)) == set()
    assert [outcome.error for outcome in outcomes] == [outcome.error for outcome in bare]


def test_a_program_that_gave_up_root_gets_nothing_done_as_root(runner: Runner) -> None:
    _needs_root(runner.place)
    outside(runner, "work")
    runner.work.chmod(0o777)
    script = Script()
    script.setgroups(0, 0)
    script.setresgid(65534, 65534, 65534)
    script.setresuid(65534, 65534, 65534)
    script.chmod(runner.work / "script", 0o777)
    script.chown(runner.work / "script", 65534, 65534)
    script.setxattr(runner.work / "script", b"user.x", b"x", 1, 0)
    script.setxattr(runner.work / "script", b"trusted.x", b"x", 1, 0)
    script.getxattr(runner.work / "canary", ATTRIBUTE.encode(), Buffer(64), 64)  # mode 640, root's
    before = snapshot(runner.work)
    outcomes, _ = script.sandboxed(runner, "--write", runner.work)
    assert changed(before, snapshot(runner.work)) == set()
    assert not any(outcome.ok for outcome in outcomes[3:]), outcomes
    assert ATTRIBUTE_SECRET not in outcomes[-1].data


# ---- the tests above can fail ----


@pytest.mark.parametrize(
    ("patch", "aspects"),
    [
        (broken.ALLOW_ALL_PATHS, {"mode", "mtime", "attributes"}),
        (broken.give_back("chmod", "fchmod", "fchmodat", "fchmodat2"), {"mode"}),
        (broken.give_back("utime", "utimes", "utimensat", "futimesat"), {"mtime"}),
        (broken.give_back("setxattr", "lsetxattr", "fsetxattr"), {"attributes"}),
    ],
    ids=["judgement", "chmod", "utime", "setxattr"],
)
def test_the_attack_succeeds_with_the_check_removed(runner: Runner, patch: str, aspects: set[str]) -> None:
    directory = outside(runner, "readable")
    before = snapshot(directory)
    broken.results(runner, patch, _attacks(directory), "--read", directory)
    assert changed(before, snapshot(directory)) >= aspects


def test_flags_of_a_readable_file_can_be_set_when_ioctl_is_given_back(runner: Runner) -> None:
    directory = outside(runner, "readable")
    script = Script()
    fd = script.openat(AT_FDCWD, directory / "canary", os.O_RDONLY)
    script.ioctl(fd, _NUMBER_OF_SETFLAGS, Bytes(struct.pack("=q", _NODUMP)))
    script.ioctl(fd, _NUMBER_OF_GETFLAGS, Buffer(8))
    assert _flags(script.sandboxed(runner, "--read", directory)[0]) & _NODUMP == 0
    assert _flags(broken.results(runner, broken.give_back("ioctl"), script, "--read", directory)) & _NODUMP


def _flags(outcomes: list[Outcome]) -> int:
    if not outcomes[2].ok:
        pytest.skip("this file system has no flags")
    return int.from_bytes(outcomes[2].data, "little")
