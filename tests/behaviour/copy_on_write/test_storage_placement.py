"""Where a run's changes are kept: on the workdir's own file system where that is safe, else in the state directory.

Real small file systems; they need root, and are unmounted whatever happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.interpreter import SANDLOCKCTL
from harness.running import Ended, Runner
from security import broken
from security.canaries import changed, snapshot

_SIZE = "8m"


@contextlib.contextmanager
def _mounted(runner: Runner, *options: str) -> Iterator[Path]:
    """An empty tmpfs of the user's, with a workdir in it: work/file."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = runner.place.root / "disk"
    disk.mkdir()
    given = ",".join([f"size={_SIZE}", "mode=755", *options])
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", given, "tmpfs", disk], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.decode().strip()}")
    try:
        (disk / "work").mkdir()
        (disk / "work/file").write_text("old\n")
        try:
            os.setxattr(disk / "work", "user.test", b"1")
        except OSError:
            pytest.skip("this kernel's tmpfs has no user attributes")
        runner.place.give(disk)
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
        disk.rmdir()


def _run(runner: Runner, disk: Path, script: str, how: str = "keep", *options: Any) -> str:
    """The id of the run."""
    line = ["--workdir", disk / "work", "--on-exit", how, *options]
    ended = runner.sandboxed(["sh", "-c", script], options=line, cwd=disk / "work")
    assert ended.returncode == 0, ended
    return str(sorted(runner.place.state.glob("runs/*"))[-1].name)


def _control(runner: Runner, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [SANDLOCKCTL, *words],
        capture_output=True,
        check=False,
        **runner.popen_arguments(stdin=subprocess.DEVNULL),
    )


def _kept(runner: Runner) -> list[Any]:
    listed = _control(runner, "ps", "--json")
    return [json.loads(line) for line in listed.stdout.splitlines()]


def test_it_lies_on_the_workdirs_file_system_and_goes_with_the_changes(runner: Runner) -> None:
    with _mounted(runner) as disk:
        run_id = _run(runner, disk, "echo new > file; echo added > added")
        storage = disk / ".sandlockd" / run_id
        for path in (storage, storage.parent):
            status = path.stat()
            assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (runner.place.user.uid, 0o700)
        assert (storage / "upper").stat().st_dev == (disk / "work").stat().st_dev
        assert [run["id"] for run in _kept(runner)] == [run_id]
        assert (disk / "work/file").read_text() == "old\n"
        committed = _control(runner, "commit", run_id)
        assert committed.returncode == 0, committed
        assert (disk / "work/file").read_text() == "new\n"
        assert sorted(os.listdir(disk)) == ["work"]


def test_discarding_leaves_nothing_there(runner: Runner) -> None:
    with _mounted(runner) as disk:
        _run(runner, disk, "echo new > file", "discard")
        assert sorted(os.listdir(disk)) == ["work"]


def _attacked(runner: Runner, disk: Path, patch: str | None) -> tuple[Ended, set[str]]:
    """By a later run that is granted the whole disk."""
    run_id = _run(runner, disk, "echo new > file")
    storage = disk / ".sandlockd"
    before = snapshot(storage / run_id)
    script = (
        f"cat {storage}/{run_id}/upper/file; echo evil > {storage}/{run_id}/upper/file; chmod 777 {storage};"
    )
    script += f" ls {storage}; mv {storage} {disk}/moved; echo done > {disk}/done"
    command, options = ["sh", "-c", script], ["--write", disk]
    if patch is None:
        ended = runner.sandboxed(command, options=options)
    else:
        ended = broken.run(runner, patch, command, options=options)
    assert (disk / "done").exists(), ended
    return ended, changed(before, snapshot(storage / run_id)) if storage.exists() else {"moved"}


def test_no_later_run_gets_at_it(runner: Runner) -> None:
    """Whatever it is granted: the changes are what somebody is going to commit."""
    with _mounted(runner) as disk:
        ended, changes = _attacked(runner, disk, None)
        assert ended.stdout == b"", ended
        assert changes == set()
        assert {refusal["rule"] for refusal in ended.refusals} == {"law.state"}


def test_but_one_would_if_it_were_not_remembered(runner: Runner) -> None:
    with _mounted(runner) as disk:
        _, changes = _attacked(
            runner, disk, "from sandlockd.review import places; places.known = lambda state_dir: []"
        )
        assert changes


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_not_where_others_may_write(runner: Runner, mode: int) -> None:
    with _mounted(runner) as disk:
        disk.chmod(mode)
        run_id = _run(runner, disk, "echo new > file")
        assert sorted(os.listdir(disk)) == ["work"]
        assert (runner.place.state / "runs" / run_id / "tree/upper/file").read_text() == "new\n"


def test_not_where_the_directory_is_somebody_elses(runner: Runner) -> None:
    with _mounted(runner) as disk:
        os.chown(disk, 4242, 4242)
        run_id = _run(runner, disk, "echo new > file")
        assert sorted(os.listdir(disk)) == ["work"]
        assert (runner.place.state / "runs" / run_id / "tree/upper/file").read_text() == "new\n"
        assert _control(runner, "commit", run_id).returncode == 0
        assert (disk / "work/file").read_text() == "new\n"


def test_something_else_with_its_name_is_left_alone(runner: Runner) -> None:
    with _mounted(runner) as disk:
        for make in (lambda path: path.write_text("mine"), lambda path: path.symlink_to("work"), Path.mkdir):
            place = disk / ".sandlockd"
            make(place)
            runner.place.give(disk)
            before = os.lstat(place)
            _run(runner, disk, "echo new > file", "discard")
            assert os.path.samestat(os.lstat(place), before)
            assert os.listdir(disk / "work") == ["file"]
            place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()


def test_the_policys_storage_beats_it(runner: Runner) -> None:
    with _mounted(runner) as disk:
        chosen = runner.place.root / "chosen"
        policy = (
            f'[filesystem]\nbase = true\nworkdir = "{disk}/work"\non_exit = "keep"\nstorage = "{chosen}"\n'
        )
        ended = runner.sandboxed(["sh", "-c", f"echo new > {disk}/work/file"], policy=policy)
        assert ended.returncode == 0, ended
        assert sorted(os.listdir(disk)) == ["work"]
        assert len(os.listdir(chosen)) == 1


def test_a_read_only_workdir_is_as_read_only_as_bare_and_not_committed_to(runner: Runner) -> None:
    with _mounted(runner) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        run_id = _run(runner, disk, "echo new > file || cat file; echo added > added; cat added")
        assert (runner.place.state / "runs" / run_id / "tree/upper/added").read_text() == "added\n"
        refused = _control(runner, "commit", run_id)
        assert refused.returncode != 0
        assert b"read-only" in refused.stderr.lower(), refused
        assert os.listdir(disk / "work") == ["file"]
        assert [run["id"] for run in _kept(runner)] == [run_id]


def test_a_full_disk_is_enospc_to_the_program_and_tears_nothing(runner: Runner) -> None:
    with _mounted(runner) as disk:
        (disk / "work/large").write_bytes(b"x" * (3 << 20))
        runner.place.give(disk)
        script = (
            "dd if=/dev/zero of=filler bs=64k 2>&1 | grep -c 'No space left'; echo y >> large 2>/dev/null"
            " && echo copied; rm filler; cat file;"
            " echo z >> large && tail -c 2 large; mkdir d && mv file d && cat d/file"
        )
        line = ["--workdir", disk / "work", "--on-exit", "discard"]
        ended = runner.sandboxed(["sh", "-c", script], options=line, cwd=disk / "work")
        assert ended.stdout == b"1\nold\nz\nold\n", ended
        assert (disk / "work/large").read_bytes() == b"x" * (3 << 20)
        assert sorted(os.listdir(disk / "work")) == ["file", "large"]
        assert sorted(os.listdir(disk)) == ["work"]


# ---- where the policy chooses it


def _chosen(runner: Runner) -> Path:
    chosen = runner.place.root / "around" / "chosen"
    chosen.mkdir(parents=True)
    runner.place.give(chosen.parent)
    return chosen


def _policy(runner: Runner, storage: Path, more: str = "") -> str:
    return (
        'extends = ["base"]\n[filesystem]\n'
        f'workdir = "{runner.work}"\nstorage = "{storage}"\non_exit = "keep"\n{more}'
    )


@pytest.mark.parametrize("kind", ["read", "write", "execute"])
@pytest.mark.parametrize("where", ["", "/in"])
def test_a_chosen_storage_that_the_policy_grants_is_refused(runner: Runner, kind: str, where: str) -> None:
    chosen = _chosen(runner)
    (chosen / "in").mkdir()
    ended = runner.sandboxed(["true"], policy=_policy(runner, chosen, f'{kind} = ["{chosen}{where}"]\n'))
    assert ended.returncode == 125
    (line,) = ended.stderr.decode().splitlines()
    assert str(chosen) in line and "law.state" in line, line
    assert os.listdir(chosen) == ["in"]


def test_a_chosen_storage_in_what_is_granted_is_out_of_reach(runner: Runner) -> None:
    """In that run, and in every later one."""
    chosen = _chosen(runner)
    script = (
        f"echo mine > {runner.work}/made; ls {chosen}; echo x > {chosen}/x; mkdir {chosen}/y; mv {chosen} {chosen}-2;"
        f" cat {chosen}/*/upper/made; rm -rf {chosen}; echo beside > {chosen}-not"
    )
    options = ["--write", chosen.parent]
    ended = runner.sandboxed(["sh", "-c", script], policy=_policy(runner, chosen), options=options)
    assert ended.stdout == b"", ended
    assert Path(f"{chosen}-not").read_text() == "beside\n"
    (kept,) = chosen.iterdir()
    assert (kept / "upper/made").read_text() == "mine\n"
    before = snapshot(chosen)
    later = runner.sandboxed(["sh", "-c", script], policy='extends = ["base"]\n', options=options)
    assert later.stdout == b""
    assert changed(before, snapshot(chosen)) == set()
    assert {record["rule"] for record in later.refusals if str(chosen) in record["path"]} == {"law.state"}
