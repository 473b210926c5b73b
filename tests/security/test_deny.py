"""What `deny` names stays out of reach although a grant around it allows it, by whatever way it is reached."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.running import Runner
from harness.waiting import line_of, until
from security import broken
from security.canaries import ATTRIBUTE, SECRET, snapshot
from security.denied_world import build_world, denials, read_some, secrets_in
from security.raw_calls import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, Buffer, Bytes, Script

Attack = Callable[[Script, Path], None]


def _by_name(script: Script, work: Path) -> None:
    read_some(script, script.openat(AT_FDCWD, work / "a/secret", os.O_RDONLY))
    read_some(script, script.openat(AT_FDCWD, work / "a/private/file", os.O_RDONLY))
    read_some(script, script.open(work / "a/secret", os.O_RDWR))


def _by_dots(script: Script, work: Path) -> None:
    read_some(script, script.openat(AT_FDCWD, f"{work}/other/../a/./secret", os.O_RDONLY))
    read_some(script, script.openat(AT_FDCWD, f"{work}//a//private/../secret", os.O_RDONLY))


def _by_working_directory(script: Script, work: Path) -> None:
    script.chdir(work / "a")
    read_some(script, script.openat(AT_FDCWD, b"secret", os.O_RDONLY))
    script.chdir(b"private")
    read_some(script, script.openat(AT_FDCWD, b"file", os.O_RDONLY))
    read_some(script, script.openat(AT_FDCWD, b"../secret", os.O_RDONLY))


def _by_a_symbolic_link(script: Script, work: Path) -> None:
    script.symlink(work / "a/secret", work / "other/link")
    read_some(script, script.openat(AT_FDCWD, work / "other/link", os.O_RDONLY))
    script.symlink(b"../a", work / "other/directory")
    read_some(script, script.openat(AT_FDCWD, work / "other/directory/private/file", os.O_RDONLY))


def _by_a_hard_link(script: Script, work: Path) -> None:
    script.link(work / "a/secret", work / "other/hard")
    read_some(script, script.openat(AT_FDCWD, work / "other/hard", os.O_RDONLY))
    script.link(work / "a/private/file", work / "beside-a")
    read_some(script, script.openat(AT_FDCWD, work / "beside-a", os.O_RDONLY))
    script.linkat(AT_FDCWD, work / "a/secret", AT_FDCWD, work / "a/second", 0)
    read_some(script, script.openat(AT_FDCWD, work / "a/second", os.O_RDONLY))


def _by_a_hard_link_of_a_descriptor(script: Script, work: Path) -> None:
    fd = script.openat(AT_FDCWD, work / "a/secret", os.O_PATH)
    script.linkat(fd, b"", AT_FDCWD, work / "other/hard", AT_EMPTY_PATH)
    read_some(script, script.openat(AT_FDCWD, work / "other/hard", os.O_RDONLY))
    script.linkat(AT_FDCWD, b"/proc/self/fd/3", AT_FDCWD, work / "hard2", AT_SYMLINK_FOLLOW)
    read_some(script, script.openat(AT_FDCWD, work / "hard2", os.O_RDONLY))


def _by_renaming_it(script: Script, work: Path) -> None:
    script.rename(work / "a/secret", work / "other/moved")
    read_some(script, script.openat(AT_FDCWD, work / "other/moved", os.O_RDONLY))


def _by_renaming_it_in_place(script: Script, work: Path) -> None:
    script.rename(work / "a/secret", work / "a/moved")
    read_some(script, script.openat(AT_FDCWD, work / "a/moved", os.O_RDONLY))


def _by_renaming_its_parent(script: Script, work: Path) -> None:
    script.rename(work / "a", work / "b")
    read_some(script, script.openat(AT_FDCWD, work / "b/secret", os.O_RDONLY))


def _by_exchanging_its_parent(script: Script, work: Path) -> None:
    script.renameat2(AT_FDCWD, work / "other", AT_FDCWD, work / "a", 2)  # RENAME_EXCHANGE
    read_some(script, script.openat(AT_FDCWD, work / "other/secret", os.O_RDONLY))


def _by_exchanging_it(script: Script, work: Path) -> None:
    script.renameat2(AT_FDCWD, work / "a/beside", AT_FDCWD, work / "a/secret", 2)
    read_some(script, script.openat(AT_FDCWD, work / "a/beside", os.O_RDONLY))


def _by_moving_the_directory_above_it_away(script: Script, work: Path) -> None:
    script.mkdir(work / "other/new", 0o755)
    script.rename(work / "a", work / "other/new/a")
    read_some(script, script.openat(AT_FDCWD, work / "other/new/a/secret", os.O_RDONLY))


def _by_a_descriptor_of_its_parent(script: Script, work: Path) -> None:
    for flags in (os.O_PATH, os.O_RDONLY | os.O_DIRECTORY):
        fd = script.openat(AT_FDCWD, work / "a", flags)
        read_some(script, script.openat(fd, b"secret", os.O_RDONLY))
        read_some(script, script.openat(fd, b"private/file", os.O_RDONLY))


def _by_a_descriptor_of_itself(script: Script, work: Path) -> None:
    script.openat(AT_FDCWD, work / "a/secret", os.O_PATH)  # 3: looking needs no right
    read_some(script, script.openat(AT_FDCWD, b"/proc/self/fd/3", os.O_RDONLY))
    read_some(script, script.openat(AT_FDCWD, b"/dev/fd/3", os.O_RDONLY))
    script.openat(AT_FDCWD, work / "a/private", os.O_PATH)
    fd = script.dup(3)
    read_some(script, script.openat(fd, b"", os.O_RDONLY))


def _by_openat2(script: Script, work: Path) -> None:
    fd = script.openat(AT_FDCWD, work, os.O_PATH)
    for resolve in (0, 0x01, 0x02, 0x04, 0x08, 0x10, 0x20):
        how = Bytes(os.O_RDONLY.to_bytes(8, "little") + bytes(8) + resolve.to_bytes(8, "little"))
        read_some(script, script.openat2(fd, b"a/secret", how, 24))
        read_some(script, script.openat2(fd, b"/a/secret", how, 24))


def _by_the_root_of_proc(script: Script, work: Path) -> None:
    read_some(script, script.openat(AT_FDCWD, f"/proc/self/root{work}/a/secret", os.O_RDONLY))
    read_some(script, script.openat(AT_FDCWD, f"/proc/thread-self/root{work}/a/private/file", os.O_RDONLY))


def _by_the_working_directory_of_proc(script: Script, work: Path) -> None:
    script.chdir(work / "a")
    read_some(script, script.openat(AT_FDCWD, b"/proc/self/cwd/secret", os.O_RDONLY))
    script.chdir(work / "other")
    read_some(script, script.openat(AT_FDCWD, b"/proc/self/cwd/../a/secret", os.O_RDONLY))


def _by_dots_behind_a_descriptor_of_proc(script: Script, work: Path) -> None:
    script.openat(AT_FDCWD, work / "other", os.O_PATH)  # 3
    read_some(script, script.openat(AT_FDCWD, b"/proc/self/fd/3/../a/secret", os.O_RDONLY))
    script.openat(AT_FDCWD, work / "a/private", os.O_PATH)  # 4 bare
    read_some(script, script.openat(AT_FDCWD, b"/proc/self/fd/3/../a/private/file", os.O_RDONLY))


def _by_access_mode_three(script: Script, work: Path) -> None:
    """Neither reading nor writing, says the kernel, and asks Landlock for nothing; attributes can be read by it."""
    fd = script.openat(AT_FDCWD, work / "a/secret", 3)
    script.fgetxattr(fd, ATTRIBUTE.encode(), Buffer(64), 64)


def _by_its_attributes(script: Script, work: Path) -> None:
    script.getxattr(work / "a/secret", ATTRIBUTE.encode(), Buffer(64), 64)
    script.openat(AT_FDCWD, work / "a/secret", os.O_PATH)
    script.getxattr(b"/proc/self/fd/3", ATTRIBUTE.encode(), Buffer(64), 64)


READING: list[Attack] = [
    _by_name,
    _by_dots,
    _by_working_directory,
    _by_a_symbolic_link,
    _by_a_hard_link,
    _by_a_hard_link_of_a_descriptor,
    _by_renaming_it,
    _by_renaming_it_in_place,
    _by_renaming_its_parent,
    _by_exchanging_its_parent,
    _by_exchanging_it,
    _by_moving_the_directory_above_it_away,
    _by_a_descriptor_of_its_parent,
    _by_a_descriptor_of_itself,
    _by_openat2,
    _by_the_root_of_proc,
    _by_the_working_directory_of_proc,
    _by_dots_behind_a_descriptor_of_proc,
    _by_access_mode_three,
    _by_its_attributes,
]


@pytest.mark.parametrize("grant", ["--read", "--write"])
@pytest.mark.parametrize("attack", READING, ids=lambda attack: attack.__name__.strip("_"))
def test_reading_what_is_denied(runner: Runner, attack: Attack, grant: str) -> None:
    work = build_world(runner)
    script = Script()
    attack(script, work)
    assert secrets_in(script.bare(runner)), "the attack does not work even bare"
    runner.place.empty_work()
    build_world(runner)
    before = snapshot(work / "a/private"), (work / "a/secret").stat().st_ino
    outcomes, ended = script.sandboxed(runner, grant, work, *denials(work))
    assert secrets_in(outcomes) == []
    assert (snapshot(work / "a/private"), (work / "a/secret").stat().st_ino) == before
    assert (work / "a/secret").read_bytes() == SECRET
    assert (work / "a/secret").stat().st_nlink == 1
    assert ended.refusals or attack in _WITHOUT_RECORD


# What says "no such attribute" or "no such call", and what a test of its own below is about.
_WITHOUT_RECORD = (_by_its_attributes, _by_openat2, _by_dots_behind_a_descriptor_of_proc)


def test_dots_behind_a_magic_link_lead_where_the_kernel_says(runner: Runner) -> None:
    """`..` behind /proc/self/fd/3 is the parent of what descriptor 3 is, whatever the letters say."""
    work = build_world(runner)
    script = Script()
    script.openat(AT_FDCWD, work / "other", os.O_PATH)
    fd = script.openat(AT_FDCWD, b"/proc/self/fd/3/../a/beside", os.O_RDONLY)
    read_some(script, fd)
    script.openat(AT_FDCWD, b"/proc/self/fd/3/../a/secret", os.O_RDONLY)
    assert script.bare(runner)[2].data == b"beside"
    outcomes, ended = script.sandboxed(runner, "--read", work, *denials(work))
    assert outcomes[2].data == b"beside"
    assert outcomes[3].error == "EACCES"
    assert [refusal["path"] for refusal in ended.refusals] == [str(work / "a/secret")]


# ---- changing what is denied ----


def _writing(script: Script, work: Path) -> None:
    fd = script.openat(AT_FDCWD, work / "a/secret", os.O_WRONLY)
    script.write(fd, b"overwritten", 11)
    script.open(work / "a/secret", os.O_WRONLY | os.O_TRUNC)
    script.creat(work / "a/secret", 0o644)


def _truncating(script: Script, work: Path) -> None:
    script.truncate(work / "a/secret", 1)
    script.open(work / "a/secret", os.O_RDONLY | os.O_TRUNC)
    script.open(work / "a/secret", 3 | os.O_TRUNC)


def _removing(script: Script, work: Path) -> None:
    script.unlink(work / "a/secret")
    script.unlink(work / "a/private/file")
    script.rmdir(work / "a/private")


def _replacing(script: Script, work: Path) -> None:
    script.rename(work / "a/beside", work / "a/secret")
    script.rename(work / "other/file", work / "a/private/file")
    script.renameat2(AT_FDCWD, work / "other", AT_FDCWD, work / "a/private", 2)


def _creating_below(script: Script, work: Path) -> None:
    script.openat(AT_FDCWD, work / "a/private/new", os.O_WRONLY | os.O_CREAT, 0o644)
    script.mkdir(work / "a/private/directory", 0o755)
    script.symlink(b"target", work / "a/private/symlink")
    script.mknod(work / "a/private/fifo", stat.S_IFIFO | 0o644, 0)
    script.link(work / "other/file", work / "a/private/hard")
    script.rename(work / "other/file", work / "a/private/moved")
    script.openat(AT_FDCWD, work / "a/private", os.O_TMPFILE | os.O_RDWR, 0o600)


def _changing_metadata(script: Script, work: Path) -> None:
    script.chmod(work / "a/secret", 0o777)
    script.chmod(work / "a/private", 0o777)
    script.setxattr(work / "a/secret", b"user.more", b"x", 1, 0)
    script.removexattr(work / "a/secret", ATTRIBUTE.encode())
    script.utimensat(AT_FDCWD, work / "a/secret", Bytes(bytes(32)), 0)
    script.openat(AT_FDCWD, work / "a/secret", os.O_PATH)
    script.chmod(b"/proc/self/fd/9", 0o777)


CHANGING: list[Attack] = [_writing, _truncating, _removing, _replacing, _creating_below, _changing_metadata]


@pytest.mark.parametrize("attack", CHANGING, ids=lambda attack: attack.__name__.strip("_"))
def test_changing_what_is_denied(runner: Runner, attack: Attack) -> None:
    def denied() -> object:
        inside = {name: facts for name, facts in snapshot(work / "a").items() if name != "beside"}
        del inside["."]
        return inside

    work = build_world(runner)
    script = Script()
    attack(script, work)
    before = denied()
    script.bare(runner)
    assert denied() != before, "the attack does not work even bare"
    runner.place.empty_work()
    build_world(runner)
    before = denied()
    outcomes, _ = script.sandboxed(runner, "--write", work, *denials(work))
    assert denied() == before
    assert not any(outcome.ok for outcome in outcomes if attack is not _changing_metadata), outcomes


# ---- without the supervisor ----


def test_a_stopped_supervisor_leaks_nothing(runner: Runner) -> None:
    """Calls that need it wait; those that the kernel decides alone are decided as before."""
    work = build_world(runner)
    program = ["sh", "-c", "echo ready; read go; cat a/secret >&2; cat a/beside; echo done"]
    with subprocess.Popen(
        runner.command_line(program, options=["--write", work, *denials(work)]),
        **runner.popen_arguments(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        line_of(process.stdout.fileno())
        process.send_signal(signal.SIGSTOP)
        try:
            process.stdin.write(b"go\n")
            process.stdin.flush()
            until(lambda: _waits_for_an_answer(process.pid), "a call that waits for the supervisor")
        finally:
            process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=30)
    assert SECRET not in out + err
    assert out == b"besidedone\n"


def test_a_killed_supervisor_leaks_nothing_and_takes_the_program_along(runner: Runner) -> None:
    runner.may_leave_temporary = True  # nobody is left to remove it
    work = build_world(runner)
    program = ["sh", "-c", "echo ready; while :; do cat a/secret a/beside other/file; done"]
    with subprocess.Popen(
        runner.command_line(program, options=["--write", work, *denials(work)]),
        **runner.popen_arguments(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT),
    ) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        line_of(process.stdout.fileno())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()  # ends when the last process of the sandbox has ended
    assert SECRET not in rest


def _waits_for_an_answer(supervisor: int) -> bool:
    """Is there a descendant in seccomp_do_user_notification (/proc/<pid>/wchan), or else in openat (syscall)?"""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat_text = Path(f"/proc/{name}/stat").read_text()
            call = Path(f"/proc/{name}/syscall").read_text()
        except OSError:
            continue
        group_leader = int(stat_text[stat_text.rindex(")") + 2 :].split()[2])
        if (
            call.split()[0] in ("59", "257", "2")
            and group_leader == os.getpgid(supervisor)
            and int(name) != supervisor
        ):
            return True
    return False


# ---- the tests above can fail ----


@pytest.mark.parametrize(
    ("attack", "patch"),
    [
        (_by_name, broken.ALLOW_ALL_PATHS),
        (_by_name, broken.NO_HOLES),
        (_by_a_symbolic_link, broken.ALLOW_ALL_PATHS),
        (_by_a_descriptor_of_its_parent, broken.ALLOW_ALL_PATHS),
        (_by_renaming_it_in_place, broken.ALLOW_ALL_PATHS),
        (_by_a_hard_link, broken.ALLOW_ALL_PATHS),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else None,
)
def test_the_attack_succeeds_with_the_check_removed(runner: Runner, attack: Attack, patch: str) -> None:
    work = build_world(runner)
    script = Script()
    attack(script, work)
    outcomes = broken.results(runner, patch, script, "--write", work, *denials(work))
    assert secrets_in(outcomes) or patch == broken.NO_HOLES


def test_without_a_hole_in_the_wall_a_wrong_supervisor_would_leak(runner: Runner) -> None:
    """With both gone the secret is read; with the hole alone it is not, however wrong the supervisor is."""
    work = build_world(runner)
    script = Script()
    fd = script.openat(AT_FDCWD, work / "a/secret", os.O_RDONLY)
    read_some(script, fd)
    continue_all = (
        "from sandlockd.handlers import opening, answers\n"
        "opening.handle = lambda context, request: answers.LANDLOCK_FILES\n"
    )
    options = ["--write", work, *denials(work)]
    assert secrets_in(broken.results(runner, continue_all + broken.NO_HOLES, script, *options))
    assert not secrets_in(broken.results(runner, continue_all, script, *options))
