"""What a killed supervisor leaves in the temporary directory goes at the next start; nothing else does."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from harness.running import Runner
from harness.waiting import line_of, until
from security.canaries import changed, outside, snapshot

from sandlockd.launch import private_directory

_FILL = 'echo "$TMPDIR"; mkdir -p "$TMPDIR/a/b"; echo text > "$TMPDIR/a/b/c"; ln -s /etc "$TMPDIR/a/etc";'


def _name() -> str:
    return f"sandlockd-{os.urandom(6).hex()}"


def _directories(runner: Runner) -> set[str]:
    return {name for name in os.listdir(runner.place.temporary) if name.startswith("sandlockd-")}


def _killed(runner: Runner) -> Path:
    """The directory of a run whose supervisor was killed, with the program's files in it."""
    runner.may_leave_temporary = True
    with runner.started(runner.command_line(["sh", "-c", _FILL + "echo ready; exec sleep 1000"])) as process:
        assert process.stdout is not None
        left = Path(line_of(process.stdout.fileno()).decode().strip())
        assert line_of(process.stdout.fileno()) == b"ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (left / "a/b/c").exists()
    return left


def test_what_a_killed_supervisor_left_goes_at_the_next_start(runner: Runner) -> None:
    left = [_killed(runner) for _ in range(3)]

    def start() -> bool:
        """init of the dead run may still be on its way out, with the lock in hand."""
        assert runner.sandboxed(["true"]).returncode == 0
        return not any(path.exists() for path in left)

    until(start, "the leftovers to go", limit_s=10)
    assert _directories(runner) == set()
    assert Path("/etc/passwd").exists()


def test_a_living_neighbour_keeps_its_directory(runner: Runner) -> None:
    script = _FILL + "echo ready; read -r line; cat $TMPDIR/a/b/c"
    with runner.started(runner.command_line(["sh", "-c", script])) as neighbour:
        assert neighbour.stdout is not None and neighbour.stdin is not None
        living = Path(line_of(neighbour.stdout.fileno()).decode().strip())
        assert line_of(neighbour.stdout.fileno()) == b"ready\n"
        dead = _killed(runner)
        line = runner.command_line(["true"], options=["--status-file", runner.place.root / "other.json"])

        def start() -> bool:
            assert runner.run(line).returncode == 0
            return not dead.exists()

        until(start, "the dead one's to go", limit_s=10)
        assert _directories(runner) == {living.name}
        neighbour.stdin.write(b"\n")
        neighbour.stdin.flush()
        assert line_of(neighbour.stdout.fileno()) == b"text\n"
        assert neighbour.wait() == 0
    assert _directories(runner) == set()


def test_what_is_not_a_dead_runs_stays(runner: Runner) -> None:
    """Another name, another mode, a link, a file."""
    runner.may_leave_temporary = True
    temporary = runner.place.temporary
    directory = outside(runner)
    before = snapshot(directory)
    kept = {
        "short": "sandlockd-0123456789a",
        "long": "sandlockd-0123456789abc",
        "upper": "sandlockd-0123456789AB",
        "words": "sandlockd-notes",
        "mode": _name(),
    }
    for name in kept.values():
        (temporary / name).mkdir(mode=0o700)
        (temporary / name / "file").write_text("mine")
    (temporary / kept["mode"]).chmod(0o755)
    link, file = _name(), _name()
    (temporary / link).symlink_to(directory)
    (temporary / file).write_text("mine")
    runner.place.give(temporary)
    runner.sandboxed(["true"])
    assert _directories(runner) == {*kept.values(), link, file}
    assert all((temporary / name / "file").read_text() == "mine" for name in kept.values())
    assert changed(before, snapshot(directory)) == set()


def test_another_users_stays(runner: Runner) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a directory somebody else's")
    runner.may_leave_temporary = True
    foreign = runner.place.temporary / _name()
    foreign.mkdir(mode=0o700)
    owner = 4242 if runner.place.user.is_root else 0
    os.chown(foreign, owner, owner)
    runner.sandboxed(["true"])
    assert _directories(runner) == {foreign.name}


def test_links_in_what_is_left_are_not_followed(runner: Runner) -> None:
    runner.may_leave_temporary = True
    directory = outside(runner)
    before = snapshot(directory)
    left = runner.place.temporary / _name()
    left.mkdir(mode=0o700)
    (left / "d").mkdir()
    (left / "link").symlink_to(directory)
    (left / "d/link").symlink_to(directory / "sub")
    runner.place.give(runner.place.temporary)
    left.chmod(0o700)
    runner.sandboxed(["true"])
    assert not left.exists()
    assert changed(before, snapshot(directory)) == set()


def test_what_is_mounted_in_the_place_of_what_is_left_is_not_entered(runner: Runner) -> None:
    if not runner.place.user.is_root:
        pytest.skip("an ordinary user cannot mount")
    runner.may_leave_temporary = True
    other = runner.place.root / "other"
    other.mkdir(mode=0o700)
    (other / "file").write_text("mine")
    left = runner.place.temporary / _name()
    left.mkdir(mode=0o700)
    script = f'mount --bind {other} {left} && exec "$@"'
    runner.sandboxed(["true"], wrap=["unshare", "--mount", "sh", "-c", script, "sh"])
    assert (other / "file").read_text() == "mine"


def test_a_tree_that_is_moved_while_it_is_removed_leads_nowhere_else(tmp_path: Path) -> None:
    """Another sandbox moves a directory beside something that it may not touch: `..` then leads there."""
    target, evil = tmp_path / _name(), tmp_path / "evil"
    (target / "a/deep").mkdir(parents=True)
    (target / "a/secret").mkdir()
    (evil / "secret").mkdir(parents=True)
    (evil / "secret/file").write_text("precious")
    exchange, moved = private_directory._exchange, []

    def moving(fd: int, name: str) -> int:
        entered = exchange(fd, name)
        if not moved and name in ("deep", "secret"):
            os.rename(target / "a" / name, evil / "moved")
            moved.append(name)
        return entered

    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    private_directory._exchange = moving
    try:
        with pytest.raises(OSError, match="moved"):
            private_directory._remove(os.fsencode(target), fd)
    finally:
        private_directory._exchange = exchange
    assert moved and (evil / "secret/file").read_text() == "precious"


def test_starts_at_the_same_time_do_not_sweep_each_other(runner: Runner, soak: bool) -> None:
    """A directory is unmarked for a moment after it was made: whoever loses it there makes another."""
    count, failed = 400 if soak else 24, []
    line = runner.command_line(
        ["sh", "-c", 'test -d "$TMPDIR" && echo x > "$TMPDIR/f" && cat "$TMPDIR/f"'],
        options=["--status-file", "/dev/null", "--quiet"],
    )
    line = [word for word in line if word not in ("--status-file", "/dev/null")]

    def start() -> None:
        for _ in range(count // 4):
            ended = runner.run(line)
            if ended.stdout != b"x\n":
                failed.append(ended)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_program_may_lock_its_temporary_directory(runner: Runner) -> None:
    flock = "/usr/bin/flock"
    if not os.access(flock, os.X_OK):
        pytest.skip("there is no flock(1)")
    ended = runner.sandboxed(["sh", "-c", f'{flock} -n -x "$TMPDIR" echo locked'])
    assert ended.stdout == b"locked\n"


@pytest.mark.alone
def test_looking_for_leftovers_costs_next_to_nothing(tmp_path: Path, measured: object) -> None:
    for number in range(100):
        (tmp_path / f"somebody's-{number}").mkdir()
    os.environ["TMPDIR"], before = str(tmp_path), os.environ.get("TMPDIR")
    try:
        times = []
        for _ in range(200):
            start = time.perf_counter()
            private_directory.sweep()
            times.append(time.perf_counter() - start)
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
    measured("sweep_us", round(sorted(times)[100] * 1e6))  # type: ignore[operator]
    assert sorted(times)[100] < 0.001
