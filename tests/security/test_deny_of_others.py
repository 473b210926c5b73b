"""What is denied stays out of reach whatever others did before the start and do meanwhile."""

from __future__ import annotations

import os
import subprocess

import pytest
from harness.running import Runner
from harness.waiting import line_of
from security.canaries import SECRET
from security.denied_world import build_world, denials, read_some, secrets_in
from security.raw_calls import AT_FDCWD, Script

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
    work = build_world(runner)
    program = ["sh", "-c", "echo ready; read go; cat a/secret; ln a/secret x; mv a/secret y; cat x y"]
    with subprocess.Popen(
        runner.command_line(program, options=["--write", work, *denials(work)]),
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
    work = build_world(runner)
    (work / "other/deep").mkdir()
    os.link(work / "a/secret", work / "other/deep/hard")
    os.link(work / "a/private/file", work / "hard")
    runner.place.give(work)
    script = Script()
    for path in (work / "other/deep/hard", work / "hard"):
        fd = script.openat(AT_FDCWD, path, os.O_RDONLY)
        read_some(script, fd)
        script.truncate(path, 3)
    script.rename(work / "hard", work / "soft")
    script.rename(work / "other/deep", work / "shallow")
    assert len(secrets_in(script.bare(runner))) == 2
    runner.place.empty_work()
    build_world(runner)
    (work / "other/deep").mkdir()
    os.link(work / "a/secret", work / "other/deep/hard")
    os.link(work / "a/private/file", work / "hard")
    runner.place.give(work)
    outcomes, _ = script.sandboxed(runner, "--write", work, *denials(work))
    assert secrets_in(outcomes) == []
    assert (work / "a/secret").read_bytes() == (work / "a/private/file").read_bytes() == SECRET


def test_a_bind_mount_made_before_the_start(runner: Runner, as_user: object) -> None:
    """The denied directory under a second name by a mount, in a granted place."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    work = build_world(runner)
    (work / "other/mounted").mkdir()
    runner.place.give(work)
    script = Script()
    for name in ("secret", "private/file"):
        read_some(script, script.openat(AT_FDCWD, work / "other/mounted" / name, os.O_RDONLY))
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
        command, options=["--read", work, "--read", runner.place.root / "script", *denials(work)]
    )
    ended = runner.run([*mount, *line], **as_root)
    assert ended.returncode == 0, ended.stderr
    assert secrets_in(script.results(ended.stdout)) == []
