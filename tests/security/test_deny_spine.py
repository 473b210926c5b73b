"""The spine: the directories on the way to what `deny` names. Beside it, everything goes on as it would."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from harness.running import Runner
from security.denied_world import build_world, denials
from security.raw_calls import AT_FDCWD, Script


def test_the_spine_is_of_use(runner: Runner) -> None:
    """Beside a denied name everything else goes on as it would: made, listed, moved, removed, with its modes."""

    def prepare(work: Path) -> None:
        build_world(runner)

    script = (
        "umask 027; ls -a . a | grep -v secret | grep -v private; cat a/beside; echo new > a/new; mkdir a/made;"
        " mkfifo a/pipe; ln -s beside a/soft; cat a/soft; ln a/beside a/hard; mv a/beside a/moved; cat a/moved a/hard;"
        " echo more >> a/new; cat a/new; rm a/hard a/pipe; rmdir a/made; mkdir -p top; mv a/new top-new; cat top-new;"
        " chmod 600 a/moved; touch -d @1000000 a/moved; : > a/moved; mv top-new a/; ls -l --time-style=+ a"
        " | grep -v total"
        " | grep -v secret | grep -v private"
    )
    work = runner.work
    runner.both(["sh", "-c", script], prepare=prepare, options=denials(work))


def test_a_directory_made_on_the_spine_is_of_use(runner: Runner) -> None:
    def prepare(work: Path) -> None:
        build_world(runner)

    script = (
        "mkdir -p made/deep && echo text > made/deep/file && cat made/deep/file && mv made/deep/file ."
        " && rm -r made"
    )
    runner.both(["sh", "-c", script], prepare=prepare, options=denials(runner.work))


def test_a_program_built_on_the_spine_is_executed_by_the_next_run_only(runner: Runner) -> None:
    """The kernel grants nothing new in a run, and execution is the kernel's to grant: refused, and told why."""
    work = build_world(runner)
    options = ["--write", work, *denials(work)]
    build = ["sh", "-c", "cp /bin/true built && chmod +x built && ./built"]
    ended = runner.sandboxed(build, options=options, cwd=work)
    assert ended.returncode == 126
    assert [(refusal["call"], refusal["rule"]) for refusal in ended.refusals] == [
        ("execve", "law.new_beside_denied")
    ]
    assert runner.sandboxed(["./built"], options=options, cwd=work).returncode == 0


def test_what_is_made_on_the_spine_belongs_to_who_made_it(runner: Runner) -> None:
    """As root: a program that has become somebody else makes things as that one."""
    work = build_world(runner)
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
    outcomes, _ = script.sandboxed(runner, "--write", work, *denials(work))
    for name, mode in (("file", 0o644), ("made", 0o755)):
        status = (work / "a" / name).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65534, mode)
    assert [outcome.error for outcome in outcomes[-2:]] == ["EACCES", "EPERM"]
