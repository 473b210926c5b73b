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
from security.canaries import ATTRIBUTE, ATTRIBUTE_SECRET, SECRET, snapshot
from security.raw_calls import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, Buffer, Bytes, Outcome, Script

Attack = Callable[[Script, Path], None]


def _world(runner: Runner) -> Path:
    """work/ with a denied file and a denied directory two levels down, and innocent things beside them."""
    place = runner.place
    place.file("work/a/secret", SECRET)
    place.file("work/a/private/file", SECRET)
    place.file("work/a/beside", "beside")
    place.file("work/other/file", "other")
    os.setxattr(place.work / "a/secret", ATTRIBUTE, ATTRIBUTE_SECRET)
    place.give(place.work)
    return place.work


def _denials(work: Path) -> list[object]:
    return ["--deny", work / "a/secret", "--deny", work / "a/private"]


def _read(script: Script, fd: object) -> None:
    script.read(fd, Buffer(64), 64)  # type: ignore[arg-type]


def _by_name(script: Script, work: Path) -> None:
    _read(script, script.openat(AT_FDCWD, work / "a/secret", os.O_RDONLY))
    _read(script, script.openat(AT_FDCWD, work / "a/private/file", os.O_RDONLY))
    _read(script, script.open(work / "a/secret", os.O_RDWR))


def _by_dots(script: Script, work: Path) -> None:
    _read(script, script.openat(AT_FDCWD, f"{work}/other/../a/./secret", os.O_RDONLY))
    _read(script, script.openat(AT_FDCWD, f"{work}//a//private/../secret", os.O_RDONLY))


def _by_working_directory(script: Script, work: Path) -> None:
    script.chdir(work / "a")
    _read(script, script.openat(AT_FDCWD, b"secret", os.O_RDONLY))
    script.chdir(b"private")
    _read(script, script.openat(AT_FDCWD, b"file", os.O_RDONLY))
    _read(script, script.openat(AT_FDCWD, b"../secret", os.O_RDONLY))


def _by_a_symbolic_link(script: Script, work: Path) -> None:
    script.symlink(work / "a/secret", work / "other/link")
    _read(script, script.openat(AT_FDCWD, work / "other/link", os.O_RDONLY))
    script.symlink(b"../a", work / "other/directory")
    _read(script, script.openat(AT_FDCWD, work / "other/directory/private/file", os.O_RDONLY))


def _by_a_hard_link(script: Script, work: Path) -> None:
    script.link(work / "a/secret", work / "other/hard")
    _read(script, script.openat(AT_FDCWD, work / "other/hard", os.O_RDONLY))
    script.link(work / "a/private/file", work / "beside-a")
    _read(script, script.openat(AT_FDCWD, work / "beside-a", os.O_RDONLY))
    script.linkat(AT_FDCWD, work / "a/secret", AT_FDCWD, work / "a/second", 0)
    _read(script, script.openat(AT_FDCWD, work / "a/second", os.O_RDONLY))


def _by_a_hard_link_of_a_descriptor(script: Script, work: Path) -> None:
    fd = script.openat(AT_FDCWD, work / "a/secret", os.O_PATH)
    script.linkat(fd, b"", AT_FDCWD, work / "other/hard", AT_EMPTY_PATH)
    _read(script, script.openat(AT_FDCWD, work / "other/hard", os.O_RDONLY))
    script.linkat(AT_FDCWD, b"/proc/self/fd/3", AT_FDCWD, work / "hard2", AT_SYMLINK_FOLLOW)
    _read(script, script.openat(AT_FDCWD, work / "hard2", os.O_RDONLY))


def _by_renaming_it(script: Script, work: Path) -> None:
    script.rename(work / "a/secret", work / "other/moved")
    _read(script, script.openat(AT_FDCWD, work / "other/moved", os.O_RDONLY))


def _by_renaming_it_in_place(script: Script, work: Path) -> None:
    script.rename(work / "a/secret", work / "a/moved")
    _read(script, script.openat(AT_FDCWD, work / "a/moved", os.O_RDONLY))


def _by_renaming_its_parent(script: Script, work: Path) -> None:
    script.rename(work / "a", work / "b")
    _read(script, script.openat(AT_FDCWD, work / "b/secret", os.O_RDONLY))


def _by_exchanging_its_parent(script: Script, work: Path) -> None:
    script.renameat2(AT_FDCWD, work / "other", AT_FDCWD, work / "a", 2)  # RENAME_EXCHANGE
    _read(script, script.openat(AT_FDCWD, work / "other/secret", os.O_RDONLY))


def _by_exchanging_it(script: Script, work: Path) -> None:
    script.renameat2(AT_FDCWD, work / "a/beside", AT_FDCWD, work / "a/secret", 2)
    _read(script, script.openat(AT_FDCWD, work / "a/beside", os.O_RDONLY))


def _by_moving_the_directory_above_it_away(script: Script, work: Path) -> None:
    script.mkdir(work / "other/new", 0o755)
    script.rename(work / "a", work / "other/new/a")
    _read(script, script.openat(AT_FDCWD, work / "other/new/a/secret", os.O_RDONLY))


def _by_a_descriptor_of_its_parent(script: Script, work: Path) -> None:
    for flags in (os.O_PATH, os.O_RDONLY | os.O_DIRECTORY):
        fd = script.openat(AT_FDCWD, work / "a", flags)
        _read(script, script.openat(fd, b"secret", os.O_RDONLY))
        _read(script, script.openat(fd, b"private/file", os.O_RDONLY))


def _by_a_descriptor_of_itself(script: Script, work: Path) -> None:
    script.openat(AT_FDCWD, work / "a/secret", os.O_PATH)  # 3: looking needs no right
    _read(script, script.openat(AT_FDCWD, b"/proc/self/fd/3", os.O_RDONLY))
    _read(script, script.openat(AT_FDCWD, b"/dev/fd/3", os.O_RDONLY))
    script.openat(AT_FDCWD, work / "a/private", os.O_PATH)
    fd = script.dup(3)
    _read(script, script.openat(fd, b"", os.O_RDONLY))


def _by_openat2(script: Script, work: Path) -> None:
    fd = script.openat(AT_FDCWD, work, os.O_PATH)
    for resolve in (0, 0x01, 0x02, 0x04, 0x08, 0x10, 0x20):
        how = Bytes(os.O_RDONLY.to_bytes(8, "little") + bytes(8) + resolve.to_bytes(8, "little"))
        _read(script, script.openat2(fd, b"a/secret", how, 24))
        _read(script, script.openat2(fd, b"/a/secret", how, 24))


def _by_the_root_of_proc(script: Script, work: Path) -> None:
    _read(script, script.openat(AT_FDCWD, f"/proc/self/root{work}/a/secret", os.O_RDONLY))
    _read(script, script.openat(AT_FDCWD, f"/proc/thread-self/root{work}/a/private/file", os.O_RDONLY))


def _by_the_working_directory_of_proc(script: Script, work: Path) -> None:
    script.chdir(work / "a")
    _read(script, script.openat(AT_FDCWD, b"/proc/self/cwd/secret", os.O_RDONLY))
    script.chdir(work / "other")
    _read(script, script.openat(AT_FDCWD, b"/proc/self/cwd/../a/secret", os.O_RDONLY))


def _by_dots_behind_a_descriptor_of_proc(script: Script, work: Path) -> None:
    script.openat(AT_FDCWD, work / "other", os.O_PATH)  # 3
    _read(script, script.openat(AT_FDCWD, b"/proc/self/fd/3/../a/secret", os.O_RDONLY))
    script.openat(AT_FDCWD, work / "a/private", os.O_PATH)  # 4 bare
    _read(script, script.openat(AT_FDCWD, b"/proc/self/fd/3/../a/private/file", os.O_RDONLY))


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


def secrets_in(outcomes: list[Outcome]) -> list[int]:
    """The calls that gave a secret away."""
    return [
        index
        for index, outcome in enumerate(outcomes)
        if SECRET in outcome.data or ATTRIBUTE_SECRET in outcome.data
    ]


@pytest.mark.parametrize("grant", ["--read", "--write"])
@pytest.mark.parametrize("attack", READING, ids=lambda attack: attack.__name__.strip("_"))
def test_reading_what_is_denied(runner: Runner, attack: Attack, grant: str) -> None:
    work = _world(runner)
    script = Script()
    attack(script, work)
    assert secrets_in(script.bare(runner)), "the attack does not work even bare"
    runner.place.empty_work()
    _world(runner)
    before = snapshot(work / "a/private"), (work / "a/secret").stat().st_ino
    outcomes, ended = script.sandboxed(runner, grant, work, *_denials(work))
    assert secrets_in(outcomes) == []
    assert (snapshot(work / "a/private"), (work / "a/secret").stat().st_ino) == before
    assert (work / "a/secret").read_bytes() == SECRET
    assert (work / "a/secret").stat().st_nlink == 1
    assert ended.refusals or attack in _WITHOUT_RECORD


# What says "no such attribute" or "no such call", and what a test of its own below is about.
_WITHOUT_RECORD = (_by_its_attributes, _by_openat2, _by_dots_behind_a_descriptor_of_proc)


def test_dots_behind_a_magic_link_lead_where_the_kernel_says(runner: Runner) -> None:
    """`..` behind /proc/self/fd/3 is the parent of what descriptor 3 is, whatever the letters say."""
    work = _world(runner)
    script = Script()
    script.openat(AT_FDCWD, work / "other", os.O_PATH)
    fd = script.openat(AT_FDCWD, b"/proc/self/fd/3/../a/beside", os.O_RDONLY)
    _read(script, fd)
    script.openat(AT_FDCWD, b"/proc/self/fd/3/../a/secret", os.O_RDONLY)
    assert script.bare(runner)[2].data == b"beside"
    outcomes, ended = script.sandboxed(runner, "--read", work, *_denials(work))
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

    work = _world(runner)
    script = Script()
    attack(script, work)
    before = denied()
    script.bare(runner)
    assert denied() != before, "the attack does not work even bare"
    runner.place.empty_work()
    _world(runner)
    before = denied()
    outcomes, _ = script.sandboxed(runner, "--write", work, *_denials(work))
    assert denied() == before
    assert not any(outcome.ok for outcome in outcomes if attack is not _changing_metadata), outcomes


# ---- what is put there later ----


def test_a_new_file_that_has_the_number_of_a_denied_one_that_is_gone_is_not_denied(runner: Runner) -> None:
    """As passwd, when useradd(8) replaced shadow and then passwd."""
    work = runner.place.work
    denied = runner.place.file("work/denied", SECRET)
    number = denied.stat().st_ino
    program = ["sh", "-c", "echo ready; read go; cat moved; cat new"]
    with subprocess.Popen(
        runner.command_line(program, options=["--read", work, "--deny", denied]),
        **runner.popen_arguments(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
    ) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        os.rename(denied, work / "moved")
        assert process.stdin is not None
        os.link(work / "moved", work / "kept")  # so long it has its number
        (work / "moved").unlink()
        runner.place.file("work/moved", "another")
        (work / "kept").unlink()
        spares = []
        while not (work / "new").exists() and len(spares) < 5000:
            spares.append(runner.place.file(f"work/spare{len(spares)}", "harmless"))
            if spares[-1].stat().st_ino == number:
                spares[-1].rename(work / "new")
        if not (work / "new").exists():
            process.communicate(b"go\n", timeout=30)
            pytest.skip("this file system does not give the number away again soon")
        out, err = process.communicate(b"go\n", timeout=30)
    assert out == b"anotherharmless", err


def test_a_file_that_appears_under_the_denied_name_later(runner: Runner) -> None:
    """The name is denied before there is anything by it: neither the program makes it, nor reads what others made."""
    work = runner.place.work
    runner.place.file("work/beside", "beside")
    program = [
        "sh",
        "-c",
        "echo mine > denied; mkdir denied; ln -s beside denied; echo ready; read go; cat denied",
    ]
    with subprocess.Popen(
        runner.command_line(program, options=["--write", work, "--deny", work / "denied"]),
        **runner.popen_arguments(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
    ) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        assert not os.path.lexists(work / "denied")
        runner.place.file("work/denied", SECRET)
        out, err = process.communicate(b"go\n", timeout=30)
    assert SECRET not in out
    assert err.count(b"Permission denied") >= 3


def test_a_link_planted_in_the_place_of_a_missing_directory_above_a_denied_name(runner: Runner) -> None:
    """Whoever stores the secret later, by its name, must not be led to where the program can read it."""
    work = runner.place.work
    (work / "open").mkdir()
    runner.place.give(work)
    program = ["sh", "-c", "ln -s open later; echo ready; read go; cat open/secret"]
    with subprocess.Popen(
        runner.command_line(program, options=["--write", work, "--deny", work / "later/secret"]),
        **runner.popen_arguments(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
    ) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        (work / "later").mkdir(exist_ok=True)
        (work / "later/secret").write_bytes(SECRET)
        out, _ = process.communicate(b"go\n", timeout=30)
    assert SECRET not in out


def test_a_denied_file_that_others_replace_stays_denied(runner: Runner) -> None:
    """An editor saves by renaming: the object is new, the name is not."""
    work = _world(runner)
    program = ["sh", "-c", "echo ready; read go; cat a/secret; ln a/secret x; mv a/secret y; cat x y"]
    with subprocess.Popen(
        runner.command_line(program, options=["--write", work, *_denials(work)]),
        **runner.popen_arguments(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
    ) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        runner.place.file("new", SECRET).rename(work / "a/secret")
        out, _ = process.communicate(b"go\n", timeout=30)
    assert SECRET not in out
    assert (work / "a/secret").read_bytes() == SECRET


# ---- other names that were there before the start ----


def test_a_hard_link_made_before_the_start(runner: Runner) -> None:
    work = _world(runner)
    (work / "other/deep").mkdir()
    os.link(work / "a/secret", work / "other/deep/hard")
    os.link(work / "a/private/file", work / "hard")
    runner.place.give(work)
    script = Script()
    for path in (work / "other/deep/hard", work / "hard"):
        fd = script.openat(AT_FDCWD, path, os.O_RDONLY)
        _read(script, fd)
        script.truncate(path, 3)
    script.rename(work / "hard", work / "soft")
    script.rename(work / "other/deep", work / "shallow")
    assert len(secrets_in(script.bare(runner))) == 2
    runner.place.empty_work()
    _world(runner)
    (work / "other/deep").mkdir()
    os.link(work / "a/secret", work / "other/deep/hard")
    os.link(work / "a/private/file", work / "hard")
    runner.place.give(work)
    outcomes, _ = script.sandboxed(runner, "--write", work, *_denials(work))
    assert secrets_in(outcomes) == []
    assert (work / "a/secret").read_bytes() == (work / "a/private/file").read_bytes() == SECRET


def test_a_bind_mount_made_before_the_start(runner: Runner, as_user: object) -> None:
    """The denied directory under a second name by a mount, in a granted place."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    work = _world(runner)
    (work / "other/mounted").mkdir()
    runner.place.give(work)
    script = Script()
    for name in ("secret", "private/file"):
        _read(script, script.openat(AT_FDCWD, work / "other/mounted" / name, os.O_RDONLY))
    user = runner.place.user
    become = (
        [] if user.is_root else ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    )
    mount = ["unshare", "-m", "sh", "-c", 'mount --bind a other/mounted && exec "$@"', "sh", *become]
    command = script.command(runner)
    as_root = {"user": 0, "group": 0} if not user.is_root else {}
    bare = runner.run([*mount, *command], **as_root)
    assert len(secrets_in(script.results(bare.stdout))) == 2, bare.stderr
    line = runner.command_line(
        command, options=["--read", work, "--read", runner.place.root / "script", *_denials(work)]
    )
    ended = runner.run([*mount, *line], **as_root)
    assert ended.returncode == 0, ended.stderr
    assert secrets_in(script.results(ended.stdout)) == []


# ---- the spine: the directories on the way to a hole ----


def test_the_spine_is_of_use(runner: Runner) -> None:
    """Beside a denied name everything else goes on as it would: made, listed, moved, removed, with its modes."""

    def prepare(work: Path) -> None:
        _world(runner)

    script = (
        "umask 027; ls -a . a | grep -v secret | grep -v private; cat a/beside; echo new > a/new; mkdir a/made;"
        " mkfifo a/pipe; ln -s beside a/soft; cat a/soft; ln a/beside a/hard; mv a/beside a/moved; cat a/moved a/hard;"
        " echo more >> a/new; cat a/new; rm a/hard a/pipe; rmdir a/made; mkdir -p top; mv a/new top-new; cat top-new;"
        " chmod 600 a/moved; touch -d @1000000 a/moved; : > a/moved; mv top-new a/; ls -l --time-style=+ a"
        " | grep -v total"
        " | grep -v secret | grep -v private"
    )
    work = runner.work
    runner.both(["sh", "-c", script], prepare=prepare, options=_denials(work))


def test_a_directory_made_on_the_spine_is_of_use(runner: Runner) -> None:
    def prepare(work: Path) -> None:
        _world(runner)

    script = (
        "mkdir -p made/deep && echo text > made/deep/file && cat made/deep/file && mv made/deep/file ."
        " && rm -r made"
    )
    runner.both(["sh", "-c", script], prepare=prepare, options=_denials(runner.work))


def test_a_program_built_on_the_spine_is_executed_by_the_next_run_only(runner: Runner) -> None:
    """The kernel grants nothing new in a run, and execution is the kernel's to grant: refused, and told why."""
    work = _world(runner)
    options = ["--write", work, *_denials(work)]
    build = ["sh", "-c", "cp /bin/true built && chmod +x built && ./built"]
    ended = runner.sandboxed(build, options=options, cwd=work)
    assert ended.returncode == 126
    assert [(refusal["call"], refusal["rule"]) for refusal in ended.refusals] == [
        ("execve", "law.new_beside_denied")
    ]
    assert runner.sandboxed(["./built"], options=options, cwd=work).returncode == 0


def test_what_is_made_on_the_spine_belongs_to_who_made_it(runner: Runner) -> None:
    """As root: a program that has become somebody else makes things as that one."""
    work = _world(runner)
    if not runner.place.user.is_root:
        pytest.skip("only root can become somebody else")
    work.chmod(0o777)
    (work / "a").chmod(0o777)
    script = Script()
    script.setgroups(0, 0)
    script.setresgid(65534, 65534, 65534)
    script.setresuid(65534, 65534, 65534)
    script.umask(0o022)
    script.openat(AT_FDCWD, work / "a/file", os.O_WRONLY | os.O_CREAT, 0o666)
    script.mkdir(work / "a/made", 0o777)
    script.openat(AT_FDCWD, work / "a/beside", os.O_WRONLY)  # root's, mode 644
    script.chmod(work / "a/beside", 0o777)
    outcomes, _ = script.sandboxed(runner, "--write", work, *_denials(work))
    for name, mode in (("file", 0o644), ("made", 0o755)):
        status = (work / "a" / name).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65534, mode)
    assert [outcome.error for outcome in outcomes[-2:]] == ["EACCES", "EPERM"]


# ---- without the supervisor ----


def test_a_stopped_supervisor_leaks_nothing(runner: Runner) -> None:
    """Calls that need it wait; those that the kernel decides alone are decided as before."""
    work = _world(runner)
    program = ["sh", "-c", "echo ready; read go; cat a/secret >&2; cat a/beside; echo done"]
    with subprocess.Popen(
        runner.command_line(program, options=["--write", work, *_denials(work)]),
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
    work = _world(runner)
    program = ["sh", "-c", "echo ready; while :; do cat a/secret a/beside other/file; done"]
    with subprocess.Popen(
        runner.command_line(program, options=["--write", work, *_denials(work)]),
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
    work = _world(runner)
    script = Script()
    attack(script, work)
    outcomes = broken.results(runner, patch, script, "--write", work, *_denials(work))
    assert secrets_in(outcomes) or patch == broken.NO_HOLES


def test_without_a_hole_in_the_wall_a_wrong_supervisor_would_leak(runner: Runner) -> None:
    """With both gone the secret is read; with the hole alone it is not, however wrong the supervisor is."""
    work = _world(runner)
    script = Script()
    fd = script.openat(AT_FDCWD, work / "a/secret", os.O_RDONLY)
    _read(script, fd)
    continue_all = (
        "from sandlockd.handlers import opening, answers\n"
        "opening.handle = lambda context, request: answers.LANDLOCK_FILES\n"
    )
    options = ["--write", work, *_denials(work)]
    assert secrets_in(broken.results(runner, continue_all + broken.NO_HOLES, script, *options))
    assert not secrets_in(broken.results(runner, continue_all, script, *options))
