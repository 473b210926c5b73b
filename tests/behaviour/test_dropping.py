"""What ends a run without another process: nothing changed, or everything is discarded unseen."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.forked import in_child
from harness.interpreter import SANDLOCKCTL, SANDLOCKD
from harness.kept_runs import KeptRun, call, new_file
from harness.places import Place, tree_of
from harness.running import Runner

from sandlockd.kernel import flushing
from sandlockd.review import kept
from sandlockd.review.disposing import Request, dispose
from sandlockd.review.dropping import drop
from sandlockd.store import storage


def _ended(place: Place) -> KeptRun:
    (place.work / "old").write_text("old\n")
    (place.work / "directory").mkdir()
    return KeptRun(place).ended()


def _drop(run: KeptRun, *, unseen: bool = False) -> str | None:
    return drop(run.state_dir, run.run_id, unseen=unseen)


def _kept(run: KeptRun) -> bool:
    return kept.kept_runs(run.state_dir) != []


def _whiteout(run: KeptRun) -> None:
    os.mknod(run.upper / "old", 0o020000)


def _empty_directory(run: KeptRun) -> None:
    (run.upper / "directory").mkdir()


def _mode(run: KeptRun) -> None:
    run.upper.chmod(0o711)


def _attribute(run: KeptRun) -> None:
    os.setxattr(run.upper, "user.of-the-root", b"1")


def _opaque(run: KeptRun) -> None:
    os.setxattr(run.upper, "user.overlay.opaque", b"y")


def _closed(run: KeptRun) -> None:
    run.upper.chmod(0)


_TRACES = [_whiteout, _empty_directory, _mode, _attribute, _opaque, _closed]


def test_a_storage_in_which_nothing_is_goes_without_a_review(place: Place) -> None:
    def check() -> None:
        run = _ended(place)
        before = tree_of(place.work)
        assert _drop(run) == "none"
        assert not _kept(run) and not Path(os.fsdecode(run.storage)).exists()
        assert tree_of(place.work) == before

    assert in_child(check, place.user) == 0


@pytest.mark.parametrize("leave", _TRACES, ids=[trace.__name__[1:] for trace in _TRACES])
def test_whatever_the_upper_has_is_left_to_the_review(place: Place, leave: Callable[[KeptRun], None]) -> None:
    def check() -> None:
        run = _ended(place)
        leave(run)
        assert _drop(run) is None
        assert _kept(run)
        assert _drop(run, unseen=True) == ("discarded" if leave is not _closed or os.geteuid() == 0 else None)

    assert in_child(check, place.user) == 0


def test_the_root_of_another_owner_is_left_to_the_review(place: Place) -> None:
    if place.user.uid != 0:
        pytest.skip("takes root")
    run = _ended(place)
    os.chown(run.upper, 1, 1)
    assert _drop(run) is None and _kept(run)


def test_what_the_real_root_became_meanwhile_is_left_to_the_review(place: Place) -> None:
    def check() -> None:
        run = _ended(place)
        place.work.chmod(0o711)
        assert _drop(run) is None and _kept(run)

    assert in_child(check, place.user) == 0


def test_changes_that_are_discarded_unseen_are_gone_closed_directories_and_all(place: Place) -> None:
    def check() -> None:
        (place.work / "gone").write_text("old\n")
        run = KeptRun(place, [new_file(b"new"), call("mkdir", b"closed"), call("unlink", b"gone")]).ended()
        (run.upper / "closed" / "below").mkdir()
        (run.upper / "closed" / "below").chmod(0)
        (run.upper / "closed").chmod(0)
        before = tree_of(place.work)
        assert _drop(run) is None and _kept(run)
        assert _drop(run, unseen=True) == "discarded"
        assert not _kept(run) and not Path(os.fsdecode(run.storage) + ".gone").exists()
        assert tree_of(place.work) == before

    assert in_child(check, place.user) == 0


def test_what_somebody_is_committing_or_looking_at_is_not_dropped(place: Place) -> None:
    def check() -> None:
        run = _ended(place)
        with storage.open_existing(run.storage):
            assert _drop(run, unseen=True) is None
        journal = Path(os.fsdecode(run.storage)) / "journal"
        journal.touch()
        assert _drop(run, unseen=True) is None and journal.exists()

    assert in_child(check, place.user) == 0


def test_a_storage_that_is_gone_damaged_or_anothers_is_left_to_the_review_to_tell(place: Place) -> None:
    def check() -> None:
        run = _ended(place)
        (Path(os.fsdecode(run.storage)) / "meta").write_text("{")
        assert _drop(run, unseen=True) is None
        assert dispose(Request(run.state_dir, run.run_id, "discard")).state == "unknown"
        assert drop(run.state_dir, "20200101T000000.000-000000", unseen=True) is None

    assert in_child(check, place.user) == 0


# ---- what resists


_FLAGS_GET, _FLAGS_SET, _IMMUTABLE = 0x80086601, 0x40086602, 0x10  # linux/fs.h


@contextlib.contextmanager
def _immutable(directory: Path) -> Iterator[None]:
    """Nobody can remove what is in it, root neither."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        flags = struct.unpack("i", fcntl.ioctl(fd, _FLAGS_GET, bytes(4)))[0]
        fcntl.ioctl(fd, _FLAGS_SET, struct.pack("i", flags | _IMMUTABLE))
        try:
            yield
        finally:
            fcntl.ioctl(fd, _FLAGS_SET, struct.pack("i", flags))
    except OSError as error:
        pytest.skip(f"no immutable directories here: {error}")
    finally:
        os.close(fd)


def _resisting(place: Place) -> tuple[str, Path]:
    """The id of a run, and its storage; `closed` in the upper is not empty."""
    if os.geteuid() != 0:
        pytest.skip("takes root")

    def make() -> None:
        run = KeptRun(place).ended()
        (run.upper / "closed").mkdir()
        (run.upper / "closed" / "file").touch()

    before = set((place.state / "runs").glob("*"))
    assert in_child(make, place.user) == 0
    (made,) = set((place.state / "runs").glob("*")) - before
    return made.name, made / "tree"


def test_a_storage_that_cannot_be_removed_has_gone_is_told_and_is_removed_by_the_next_look(
    place: Place,
) -> None:
    run_id, storage_path = _resisting(place)
    said: list[str] = []
    gone = storage_path.with_suffix(".gone")
    state_dir = os.fsencode(place.state)

    def check() -> None:
        assert drop(state_dir, run_id, unseen=True, say=said.append) == "discarded"
        assert len(said) == 1 and f"{gone}: " in said[0] and f"sandlockctl discard {run_id}" in said[0]
        going = kept.kept_runs(state_dir)
        assert [one.state for one in going] == [kept.State.GOING] and str(gone) in (going[0].problem or "")
        assert kept.kept_lines(state_dir, os.fsencode(place.work)) == []
        disposed = dispose(Request(state_dir, run_id, "discard"))
        assert disposed.problem is not None and "sandlockctl discard" in disposed.problem

    with _immutable(storage_path / "upper/closed"):
        assert in_child(check, place.user) == 0
    assert in_child(lambda: kept.kept_lines(state_dir, os.fsencode(place.work)), place.user) == 0
    assert not gone.exists()


def test_nothing_is_removed_before_it_is_on_the_disk_that_the_changes_have_gone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails cannot be had here: the call does, as it would then."""

    def fail(directory: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def check() -> None:
        run = _ended(place)
        _empty_directory(run)
        monkeypatch.setattr(flushing, "flush_directory", fail)
        told: list[str] = []
        assert drop(run.state_dir, run.run_id, unseen=True, say=told.append) == "discarded"
        gone = Path(os.fsdecode(run.storage) + ".gone")
        assert len(told) == 1 and f"{gone}: Input/output error" in told[0]
        (seen,) = kept.kept_runs(run.state_dir)
        assert seen.state is kept.State.GOING and seen.problem is not None
        assert "Input/output error" in seen.problem
        assert (gone / "upper" / "directory").is_dir()
        monkeypatch.undo()
        assert not _kept(run) and not gone.exists()

    assert in_child(check, place.user) == 0


def test_sandlockctl_tells_of_what_resists_and_ends_it(place: Place, runner: Runner) -> None:
    run_id, storage_path = _resisting(place)
    other, _ = _resisting(place)  # one that has nothing to do with it is listed as ever

    def control(*words: str) -> tuple[int, bytes]:
        ended = runner.run([SANDLOCKCTL, *words])
        return ended.returncode, ended.stdout + ended.stderr

    with _immutable(storage_path / "upper/closed"):
        status, told = control("discard", run_id)
        assert status == 0 and b"cannot be removed" in told, told
        status, told = control("ps")
        assert status == 0 and b"  going " in told and b"  kept " in told, told
        assert control("diff", run_id)[0] == 1
        status, told = control("discard", run_id)
        assert status == 125 and b"cannot be removed" in told, told
    status, told = control("discard", run_id)
    assert status == 0 and b"what was left of its storage is removed" in told, told
    assert not storage_path.with_suffix(".gone").exists()
    assert control("discard", other)[0] == 0


# ---- whole runs


def _run(runner: Runner, command: str, *options: str) -> None:
    ended = runner.run([SANDLOCKD, "--workdir", runner.work, *options, "--", "sh", "-c", command])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b""), ended


@pytest.mark.parametrize("on_exit", ["commit", "discard", "keep", "ask"])
def test_a_run_that_changed_nothing_says_nothing_and_leaves_nothing(runner: Runner, on_exit: str) -> None:
    runner.place.file("work/file", "text\n")
    _run(runner, "cat file > /dev/null; : > new; rm new; ls > /dev/null", "--on-exit", on_exit)
    assert not list(runner.place.state.glob("runs/*/tree*")) and not list(
        runner.place.state.glob("runs/*/storage")
    )


def test_a_run_that_discards_leaves_neither_changes_nor_their_storage(runner: Runner) -> None:
    runner.place.file("work/file", "text\n")
    before = tree_of(runner.work)
    _run(runner, "echo more >> file; mkdir -p a/b; chmod 0 a/b a; ln -s x y", "--on-exit", "discard")
    assert tree_of(runner.work) == before
    assert not list(runner.place.state.glob("runs/*/tree*")) and not list(
        runner.place.state.glob("runs/*/storage")
    )


@pytest.mark.parametrize("command", ["chmod 711 .", "rm file", "touch -d 2001-01-01 file"])
def test_the_least_change_is_kept(runner: Runner, command: str) -> None:
    runner.place.file("work/file", "text\n")
    ended = runner.run([SANDLOCKD, "--workdir", runner.work, "--", "sh", "-c", command])
    assert ended.returncode == 0
    assert b"1 change" in ended.stderr and b"sandlockctl diff" in ended.stderr
