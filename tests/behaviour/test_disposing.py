"""What becomes of the changes at the end of a run: on_exit, on_error, --dry-run, and asking on a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.forked import in_child
from harness.kept_runs import KeptRun, call, new_file
from harness.places import Place, tree_of
from harness.running import SYSTEM_PATH
from harness.terminal import Terminal, open_terminal

from sandlockd.audit import state
from sandlockd.review import kept
from sandlockd.review.changelist import list_lines
from sandlockd.review.disposing import Disposed, Disposer, Request, dispose
from sandlockd.review.reviewing import open_review

_CHANGES = [
    new_file(b"new"),
    call("unlink", b"gone"),
    call("open", b"written", b"", "write", number=3),
]


def _kept(place: Place, *more: bytes) -> KeptRun:
    for name in ("gone", "written"):
        (place.work / name).write_text(f"content of {name}\n")
    return KeptRun(place, [*_CHANGES, *map(new_file, more)]).ended()


def _is_kept(place: Place) -> bool:
    return kept.kept_runs(os.fsencode(place.state)) != []


def _request(run: KeptRun, how: str, *, is_dry_run: bool = False) -> Request:
    return Request(run.state_dir, run.run_id, how, is_dry_run)


@pytest.mark.parametrize("how", ["commit", "discard", "keep"])
def test_the_changes_are_disposed_of_as_the_policy_says(place: Place, how: str) -> None:
    def check() -> None:
        run = _kept(place)
        before = tree_of(place.work)
        done = dispose(_request(run, how))
        assert done.state == {"commit": "committed", "discard": "discarded", "keep": "kept"}[how]
        assert done.problem is None
        assert done.changes is not None and done.changes["state"] == done.state
        counted = done.changes["counts"]
        assert isinstance(counted, dict)
        assert (counted["added"], counted["deleted"], counted["modified"]) == (1, 1, 1)
        assert (tree_of(place.work) != before) is (how == "commit")
        assert _is_kept(place) is (how == "keep")
        if how == "keep":
            assert f"sandlockctl diff {run.run_id}" in done.lines[-1]

    assert in_child(check, place.user) == 0


def test_nothing_changed_is_nothing_kept(place: Place) -> None:
    def check() -> None:
        run = KeptRun(place).ended()
        assert dispose(_request(run, "keep")).state == "none"
        assert not _is_kept(place)

    assert in_child(check, place.user) == 0


@pytest.mark.parametrize("how", ["commit", "discard", "keep"])
def test_where_only_times_of_directories_are_new_nothing_is_asked_and_a_commit_sets_them(
    place: Place, how: str
) -> None:
    def check() -> None:
        (place.work / "dir" / "below").mkdir(parents=True)
        for path in ("dir/below", "dir"):
            os.utime(place.work / path, ns=(1, 1_000_000_000))
        came_and_went = [new_file(b"dir/below/new"), call("unlink", b"dir/below/new")]
        run = KeptRun(place, came_and_went).ended()
        seen_ns = (run.upper / "dir" / "below").stat().st_mtime_ns
        assert seen_ns != 1_000_000_000
        done = dispose(_request(run, how))
        assert (done.state, done.problem, done.lines) == ("none", None, ())
        assert not _is_kept(place)
        left_ns = [(place.work / path).stat().st_mtime_ns for path in ("dir/below", "dir")]
        assert left_ns == [seen_ns if how == "commit" else 1_000_000_000, 1_000_000_000]

    assert in_child(check, place.user) == 0


@pytest.mark.parametrize("chosen_ns", [1_000_000_000, 1 << 62])
@pytest.mark.parametrize("how", ["commit", "keep"])
def test_a_time_that_was_given_to_a_directory_is_a_change(place: Place, how: str, chosen_ns: int) -> None:
    def check() -> None:
        for name in ("dir", "other", "back"):
            (place.work / name).mkdir()
            (place.work / name).chmod(0o755)
        as_before_ns = (place.work / "back").stat().st_mtime_ns
        copied = [call("chmod", name, number=0o755) for name in (b"dir", b"other", b"back")]
        came_and_went = [new_file(b"other/new"), call("unlink", b"other/new")]
        run = KeptRun(place, [*copied, *came_and_went])
        os.utime(run.upper / "dir", ns=(chosen_ns, chosen_ns))
        os.utime(run.upper / "back", ns=(chosen_ns, chosen_ns))
        os.utime(run.upper / "back", ns=(chosen_ns, as_before_ns))
        run.ended()
        (place.work / "back" / "by somebody else").touch()
        done = dispose(_request(run, how))
        assert done.changes is not None and done.changes["counts"] == {
            **dict.fromkeys(["added", "deleted", "modified", "replaced", "renamed"], 0),
            "metadata": 1,
        }
        assert done.state == {"commit": "committed", "keep": "kept"}[how]
        if how == "keep":
            with open_review(run.state_dir, run.run_id) as review:
                assert [line.split()[-2:] for line in list_lines(review.rows)] == [["dir/", "(times)"]]
                review.commit()
        assert (place.work / "dir").stat().st_mtime_ns == chosen_ns
        assert not _is_kept(place)

    assert in_child(check, place.user) == 0


def test_a_dry_run_prints_the_list_and_keeps_nothing(place: Place) -> None:
    def check() -> None:
        run = _kept(place)
        before = tree_of(place.work)
        done = dispose(_request(run, "commit", is_dry_run=True))
        assert done.state == "discarded"
        assert [line.split()[0] for line in done.lines[:-1]] == ["D", "A", "M"]
        assert done.lines[-1].startswith("3 changes")
        assert tree_of(place.work) == before and not _is_kept(place)

    assert in_child(check, place.user) == 0


def test_a_commit_that_is_refused_keeps_the_changes_and_says_why(place: Place) -> None:
    def check() -> None:
        run = _kept(place, b"conftest.py")
        done = dispose(_request(run, "commit"))
        assert done.state == "kept" and done.problem is not None and "conftest.py" in done.problem
        assert _is_kept(place) and not (place.work / "new").exists()

    assert in_child(check, place.user) == 0


def test_a_run_whose_storage_is_gone_or_broken_is_a_problem_and_no_exception(place: Place) -> None:
    def check() -> None:
        run = _kept(place)
        (Path(os.fsdecode(run.storage)) / "meta").write_text("{")
        done = dispose(_request(run, "commit"))
        assert done.state == "unknown" and done.problem is not None and "damaged" in done.problem

    assert in_child(check, place.user) == 0


# ---- the process of its own


def test_the_process_that_commits_was_there_before_and_holds_nothing(place: Place) -> None:
    def check() -> None:
        reading, writing = os.pipe()
        disposer = Disposer()
        os.close(writing)
        assert os.read(reading, 1) == b""  # it is nowhere open
        done = disposer.dispose(_request(_kept(place), "commit"))
        assert done == Disposed("committed", done.changes)
        assert (place.work / "new").read_text() == "333"

    assert in_child(check, place.user) == 0


def test_who_will_not_commit_is_started_when_it_is_asked(place: Place) -> None:
    def check() -> None:
        run = _kept(place)
        disposer = Disposer(may_commit=False)
        assert disposer.pid == 0
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        done = disposer.dispose(_request(run, "discard"))
        assert done == Disposed("discarded", done.changes) and done.changes is not None
        assert not _is_kept(place) and not (place.work / "new").exists()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    assert in_child(check, place.user) == 0


def test_whoever_dies_before_it_asks_leaves_the_changes_kept(place: Place) -> None:
    def check() -> None:
        run = _kept(place)

        def supervisor() -> None:
            disposer = Disposer()
            (place.home / "pid").write_text(str(disposer.pid))
            os.kill(os.getpid(), signal.SIGKILL)

        assert in_child(supervisor) == -signal.SIGKILL
        pid = int((place.home / "pid").read_text())
        with contextlib.suppress(ProcessLookupError):
            with open(f"/proc/{pid}/comm") as comm:
                assert comm.read() != "python"
        assert _is_kept(place)
        assert dispose(_request(run, "discard")).state == "discarded"

    assert in_child(check, place.user) == 0


def test_a_process_that_was_killed_is_a_problem_and_the_changes_are_kept(place: Place) -> None:
    def check() -> None:
        run = _kept(place)
        disposer = Disposer()
        os.kill(disposer.pid, signal.SIGKILL)
        done = disposer.dispose(_request(run, "commit"))
        assert done.state == "unknown" and done.problem is not None
        assert _is_kept(place)

    assert in_child(check, place.user) == 0


# ---- asking

_ASK = """
import json, os, sys
sys.path.insert(0, {tests!r})
from sandlockd.review.disposing import Disposer, Request
disposer = Disposer()
done = disposer.dispose(Request(os.fsencode({state!r}), {run!r}, "ask"))
for line in done.lines:
    print("said:", line)
print("ended:", json.dumps(done._asdict()), flush=True)
"""


@contextlib.contextmanager
def _asking(place: Place, *more: bytes) -> Iterator[Terminal]:
    told = place.root / "home/run"
    assert in_child(lambda: told.write_text(_kept(place, *more).run_id), place.user) == 0
    tests = str(Path(__file__).parents[1])
    script = _ASK.format(tests=tests, state=str(place.state), run=told.read_text())
    environment = {
        "PATH": SYSTEM_PATH,
        "HOME": str(place.home),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    words = [sys.executable, "-c", script]
    with open_terminal(words, user=place.user, cwd="/", environment=environment) as terminal:
        terminal.expect(rb"3? ?changes: .*\[k\]eep \[D\]iscard\? " if not more else rb"\[D\]iscard\? ")
        yield terminal


def _ended(terminal: Terminal) -> str:
    found = terminal.expect(rb"ended: (\{.*?\})\r\n")
    assert terminal.wait() == 0
    return str(json.loads(found.group(1))["state"])


def test_ask_shows_the_list_and_a_diff_and_commits(place: Place) -> None:
    with _asking(place) as terminal:
        assert b"D -rw" in terminal.screen and b"gone" in terminal.screen
        terminal.send(b"d\n")
        terminal.expect(rb"\+333.*\? ")
        terminal.send(b"c\n")
        assert _ended(terminal) == "committed"
    assert (place.work / "new").exists() and not (place.work / "gone").exists()


@pytest.mark.parametrize("keys", [b"k\n", b"\x04", b"\x03"], ids=["k", "end of input", "^C"])
def test_ask_keeps_when_told_so_or_told_nothing(place: Place, keys: bytes) -> None:
    with _asking(place) as terminal:
        terminal.send(keys)
        if keys != b"\x03":  # which reaches the program's supervisor as well: what that does is not ours
            assert _ended(terminal) == "kept"
    assert not (place.work / "new").exists()
    assert in_child(lambda: _require_kept(place), place.user) == 0


def _require_kept(place: Place) -> None:
    assert [run.run_id for run in kept.kept_runs(os.fsencode(place.state))] == state.run_ids(
        os.fsencode(place.state)
    )


def test_ask_discards_only_by_a_capital(place: Place) -> None:
    with _asking(place) as terminal:
        terminal.send(b"x\n")
        terminal.expect(rb"D  discard all.*\? ")
        terminal.send(b"D\n")
        assert _ended(terminal) == "discarded"
    assert (place.work / "gone").exists()


def test_ask_commits_what_was_selected_and_goes_on_with_the_rest(place: Place) -> None:
    with _asking(place) as terminal:
        terminal.send(b"s\n")
        terminal.expect(rb"numbers or paths: ")
        terminal.send(b"2-3\n")
        terminal.expect(rb"of 2 selected\)\? ")
        terminal.send(b"c\n")
        terminal.expect(rb"committed\..*1 change: 1 deleted.*\? ")
        terminal.send(b"s\n")
        terminal.expect(rb"paths: ")
        terminal.send(b"nowhere\n")
        terminal.expect(rb"nowhere: nothing changed here.*\? ")
        terminal.send(b"k\n")
        assert _ended(terminal) == "kept"
    assert (place.work / "new").exists() and (place.work / "gone").exists()


def test_ask_asks_once_more_for_what_runs_later_by_itself(place: Place) -> None:
    with _asking(place, b"conftest.py") as terminal:
        assert b"! pytest" in terminal.screen
        terminal.send(b"c\n")
        terminal.expect(rb"These run later.*conftest.py.*back\? ")
        terminal.send(b"\n")
        terminal.expect(rb"\[D\]iscard\? ")
        assert not (place.work / "new").exists()
        terminal.send(b"c\n")
        terminal.expect(rb"back\? ")
        terminal.send(b"w\n")
        terminal.expect(rb"committed\..*conftest.py.*\? ")
        terminal.send(b"c\n")
        terminal.expect(rb"back\? ")
        terminal.send(b"y\n")
        assert _ended(terminal) == "committed"
    assert (place.work / "conftest.py").exists()


def test_without_a_terminal_nobody_is_asked_and_the_changes_are_kept(place: Place) -> None:
    def check() -> None:
        os.setsid()
        done = dispose(_request(_kept(place), "ask"))
        assert done.state == "kept" and "no terminal" in done.lines[0]

    assert in_child(check, place.user) == 0
