"""The state directory: where it is, who may own it, which runs it keeps."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sandlockd.audit import state
from sandlockd.audit.log import AuditLog
from sandlockd.audit.records import RunEnd

END = RunEnd(reason="exited", exit_code=0)
SECOND_NS = 1_000_000_000


def run_started_at(directory: Path, time_ns: int, *, closed: bool = True) -> AuditLog:
    log = AuditLog(directory, clock_ns=lambda: time_ns)
    if closed:
        log.close(END)
    return log


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"SANDLOCKD_STATE_DIR": "/x/y", "XDG_STATE_HOME": "/xdg"}, 0, b"/x/y"),
        ({"XDG_STATE_HOME": "/xdg"}, 0, b"/var/lib/sandlockd"),
        ({"XDG_STATE_HOME": "/xdg"}, 1000, b"/xdg/sandlockd"),
        ({"XDG_STATE_HOME": "relative"}, 1000, b"/home/u/.local/state/sandlockd"),
        ({"SANDLOCKD_STATE_DIR": ""}, 1000, b"/home/u/.local/state/sandlockd"),
    ],
)
def test_the_state_directory_follows_the_environment(
    environ: dict[str, str], uid: int, expected: bytes
) -> None:
    assert state.state_directory(environ, uid, "/home/u") == expected


def test_a_relative_state_directory_is_refused_with_the_fix() -> None:
    with pytest.raises(state.StateError, match="absolute path"):
        state.state_directory({"SANDLOCKD_STATE_DIR": "here"}, 1000, "/home/u")


def test_run_ids_sort_by_time_and_differ_within_a_millisecond() -> None:
    earlier, later = state.new_run_id(999 * SECOND_NS), state.new_run_id(1000 * SECOND_NS)
    assert earlier < later
    assert len({state.new_run_id(SECOND_NS) for _ in range(50)}) == 50


def test_everything_made_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        log = AuditLog(tmp_path / "made" / "here", "20260101T000000.000-aaaaaa")
    finally:
        os.umask(before)
    made = tmp_path / "made"
    run = made / "here" / "runs" / log.run_id
    for directory in (made, made / "here", made / "here" / "runs", run):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "audit.jsonl").stat().st_mode) == 0o600
    log.close(END)


def test_a_state_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "state"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(state.StateError, match="may be written by others: chmod go-w"):
        AuditLog(open_to_all)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_a_state_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "state"
    foreign.mkdir(0o700)
    os.chown(foreign, 65534, 65534)
    with pytest.raises(state.StateError, match="belongs to user 65534"):
        AuditLog(foreign)


@pytest.mark.parametrize("place", ["state", "state/runs"])
def test_a_symlink_in_place_of_the_directory_is_refused(tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o700)
    link = tmp_path / place
    link.parent.mkdir(mode=0o700, exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(state.StateError, match="symbolic link"):
        AuditLog(tmp_path / "state")
    assert list(elsewhere.iterdir()) == []


def test_a_symlink_in_place_of_the_run_directory_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    runs = tmp_path / "state" / "runs"
    runs.mkdir(parents=True, mode=0o700)
    tmp_path.joinpath("state").chmod(0o700)
    (runs / "20260101T000000.000-aaaaaa").symlink_to(elsewhere)
    with pytest.raises(FileExistsError):
        AuditLog(tmp_path / "state", "20260101T000000.000-aaaaaa")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "../../etc"])
def test_a_run_id_that_is_a_path_reaches_nothing(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(FileNotFoundError):
        state.open_log(os.fsencode(tmp_path), run_id)
    if run_id:
        with pytest.raises(ValueError, match="not a run id"):
            AuditLog(tmp_path, run_id)


def test_a_fifo_in_place_of_a_log_does_not_hold_the_reader(tmp_path: Path) -> None:
    log = run_started_at(tmp_path, SECOND_NS)
    path = tmp_path / "runs" / log.run_id / "audit.jsonl"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FileNotFoundError):
        state.open_log(os.fsencode(tmp_path), log.run_id)


def test_no_state_directory_means_no_runs(tmp_path: Path) -> None:
    assert state.run_ids(os.fsencode(tmp_path / "none")) == []
    assert not (tmp_path / "none").exists()


def test_the_newest_run_comes_first_and_foreign_names_are_left_out(tmp_path: Path) -> None:
    logs = [run_started_at(tmp_path, second * SECOND_NS) for second in (5, 9, 7)]
    (tmp_path / "runs" / "notes\x1b[2J-abc").mkdir()
    assert state.run_ids(os.fsencode(tmp_path)) == [logs[1].run_id, logs[2].run_id, logs[0].run_id]


def test_the_beginning_or_end_of_an_id_is_enough_if_it_is_the_only_one() -> None:
    ids = ["20260102T000000.000-bbbbbb", "20260101T000000.000-aaaaaa"]
    assert state.matching_runs(ids, "bbbbbb") == ids[:1]
    assert state.matching_runs(ids, "20260101") == ids[1:]
    assert state.matching_runs(ids, "2026") == ids
    assert state.matching_runs(ids, "") == []


def test_only_a_run_whose_writer_lives_is_running(tmp_path: Path) -> None:
    log = run_started_at(tmp_path, SECOND_NS, closed=False)
    log_fd = state.open_log(os.fsencode(tmp_path), log.run_id)
    assert state.is_running(log_fd)
    log.close(END)
    assert not state.is_running(log_fd)
    os.close(log_fd)


def test_the_oldest_runs_go_and_the_newest_stay(tmp_path: Path) -> None:
    logs = [run_started_at(tmp_path, second * SECOND_NS) for second in range(6)]
    assert state.prune(os.fsencode(tmp_path), kept=2) == 4
    assert state.run_ids(os.fsencode(tmp_path)) == [logs[5].run_id, logs[4].run_id]


def test_closing_a_run_keeps_a_hundred(tmp_path: Path) -> None:
    for second in range(state.RUNS_KEPT + 3):
        run_started_at(tmp_path, second * SECOND_NS)
    assert len(state.run_ids(os.fsencode(tmp_path))) == state.RUNS_KEPT


def test_a_run_that_goes_on_is_never_pruned(tmp_path: Path) -> None:
    oldest = run_started_at(tmp_path, SECOND_NS, closed=False)
    run_started_at(tmp_path, 2 * SECOND_NS)
    assert state.prune(os.fsencode(tmp_path), kept=0) == 1
    assert state.run_ids(os.fsencode(tmp_path)) == [oldest.run_id]
    oldest.close(END)


def test_a_run_that_holds_more_than_its_log_is_never_pruned(tmp_path: Path) -> None:
    log = run_started_at(tmp_path, SECOND_NS)
    (tmp_path / "runs" / log.run_id / "upper").mkdir()
    assert state.prune(os.fsencode(tmp_path), kept=0) == 0
    assert (tmp_path / "runs" / log.run_id / "audit.jsonl").exists()


def test_what_a_killed_start_left_is_pruned(tmp_path: Path) -> None:
    run_started_at(tmp_path, SECOND_NS)
    (tmp_path / "runs" / "20250101T000000.000-cccccc").mkdir()
    assert state.prune(os.fsencode(tmp_path), kept=0) == 2


def test_a_run_whose_changes_are_kept_is_never_pruned_and_what_was_committed_is(tmp_path: Path) -> None:
    state_dir = os.fsencode(tmp_path)
    kept, committed = (run_started_at(tmp_path, second * SECOND_NS) for second in (1, 2))
    path = Path(os.fsdecode(state.run_path(state_dir, kept.run_id)))
    (path / "tree").mkdir()
    journal = Path(os.fsdecode(state.run_path(state_dir, committed.run_id))) / "committed-1"
    journal.write_text("x")
    for second in range(3, 8):
        run_started_at(tmp_path, second * SECOND_NS)
    assert state.prune(state_dir, kept=2) == 4
    assert (path / "audit.jsonl").exists() and not journal.parent.exists()
    assert kept.run_id in state.run_ids(state_dir)


def test_a_run_has_a_directory_also_without_a_log(tmp_path: Path) -> None:
    run_id = state.new_run_id(SECOND_NS)
    path = state.make_run(os.fsencode(tmp_path / "state"), run_id)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert state.make_run(os.fsencode(tmp_path / "state"), run_id) == path
    with pytest.raises(FileNotFoundError):
        state.run_path(os.fsencode(tmp_path / "state"), "../state")
