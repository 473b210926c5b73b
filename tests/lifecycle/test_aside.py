"""Acts that may wait for a lock: the loop waits a moment, each act is made once, and what goes on ends without it."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from harness.forked import in_child
from harness.users import User
from harness.waiting import until

from sandlockd.kernel import acts
from sandlockd.kernel.aside import Aside, NotYet, TreesLock, Unfinished
from sandlockd.kernel.fds import OwnedFd


def test_what_is_free_is_done_and_its_error_is_raised() -> None:
    aside = Aside()
    assert _outcome(aside, lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        _outcome(aside, lambda: os.stat("/nonexistent"))


def test_what_waits_goes_on_once_without_the_loop() -> None:
    aside, free, told = Aside(), threading.Event(), []

    def act() -> int:
        free.wait()
        told.append("done")
        return 7

    with pytest.raises(Unfinished) as raised:
        aside.run(act, left=lambda: told.append("left"), ended=lambda: told.append("ended"))
    assert raised.value.has_begun
    assert _outcome(aside, lambda: 8) == 8  # by another thread
    assert told == ["left"]
    free.set()
    assert raised.value.job.wait() == 7
    assert told == ["left", "done", "ended"]


def test_what_only_waited_when_the_loop_left_is_never_begun() -> None:
    aside, free, told = Aside(), threading.Event(), []
    with pytest.raises(Unfinished) as raised:
        aside.run(
            lambda: told.append("done"),
            first=lambda: _wait(free),
            left=lambda: told.append("left"),
            ended=lambda: told.append("ended"),
            release=lambda: told.append("released"),
        )
    assert not raised.value.has_begun
    free.set()
    assert raised.value.job.wait() is None
    assert told == ["released"]


def test_the_end_waits_for_what_has_begun_and_lets_nothing_else_begin() -> None:
    aside, free, other, told = Aside(), threading.Event(), threading.Event(), []
    with pytest.raises(Unfinished):
        aside.run(lambda: _wait(free))
    with pytest.raises(Unfinished):
        aside.run(lambda: told.append("done"), first=lambda: _wait(other))
    assert not aside.close(0.05)
    free.set()
    assert aside.close(10)
    with pytest.raises(BlockingIOError):
        aside.run(lambda: told.append("done"), release=lambda: told.append("released"))
    other.set()
    until(lambda: not aside._jobs, "the end of all")
    assert told == ["released"]


def test_whatever_fails_at_its_end_an_act_is_over() -> None:
    def fail() -> None:
        raise ValueError

    aside, free = Aside(), threading.Event()
    with pytest.raises(Unfinished) as raised:
        aside.run(lambda: _wait(free), ended=fail, release=fail)
    free.set()
    with pytest.raises(ValueError):
        raised.value.job.wait()
    assert aside.close(10)


def test_threads_that_the_kernel_refuses_are_not_counted(as_user: User) -> None:
    if as_user.is_root:
        pytest.skip("RLIMIT_NPROC does not bind root")

    def check() -> None:
        aside = Aside()
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
        for _ in range(300):
            with pytest.raises(BlockingIOError):
                aside.run(lambda: 7)
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
        assert _outcome(aside, lambda: 7) == 7

    assert in_child(check, as_user) == 0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is but one CPU to be on")
def test_a_thread_is_kept_on_our_cpu_only_while_we_wait_for_it() -> None:
    aside, free, ours = Aside(), threading.Event(), os.sched_getaffinity(0)
    seen = [
        _outcome(aside, lambda: (threading.get_native_id(), len(os.sched_getaffinity(0)))) for _ in range(10)
    ]
    assert len({thread for thread, _ in seen}) == 1
    assert 1 in {cpus for _, cpus in seen}

    def act() -> set[int]:
        free.wait()
        return os.sched_getaffinity(0)

    with pytest.raises(Unfinished) as raised:
        aside.run(act)
    free.set()
    assert raised.value.job.wait() == ours


def test_a_descriptor_that_nobody_asks_for_any_more_is_closed() -> None:
    aside, free = Aside(), threading.Event()
    reading, writing = os.pipe()
    os.close(writing)

    def act() -> OwnedFd:
        free.wait()
        return OwnedFd(reading)

    with pytest.raises(Unfinished) as raised:
        aside.run(act)
    raised.value.job.abandon()
    free.set()
    until(lambda: not os.path.exists(f"/proc/self/fd/{reading}"), "its end")


def test_when_all_threads_wait_the_next_has_its_turn_with_the_first_that_is_over() -> None:
    aside, free, told, turns = Aside(), threading.Event(), [], []
    waiting = []
    try:
        with pytest.raises(NotYet) as raised:
            for _ in range(1000):
                try:
                    aside.run(free.wait, release=lambda: told.append("released"))
                except Unfinished as unfinished:
                    waiting.append(unfinished.job)
        assert told == ["released"]
        assert not raised.value.had_lock
        raised.value.turn.when_free(lambda: turns.append("free"))
        assert not turns
    finally:
        free.set()
    assert all(job.wait() for job in waiting)
    until(lambda: turns == ["free"], "the turn")
    assert len(told) == len(waiting) + 1
    assert _outcome(aside, lambda: 7) == 7


def test_one_file_takes_one_thread_however_many_change_it() -> None:
    aside, free, told = Aside(), threading.Event(), []
    one, other = (1, 2), (1, 3)
    with pytest.raises(Unfinished) as raised:
        aside.run(lambda: _wait(free), files=frozenset((one,)))
    for files, had_lock in [((one,), True), ((one, other), False)] * 300:
        with pytest.raises(NotYet) as later:
            aside.run(
                lambda: told.append("done"), files=frozenset(files), release=lambda: told.append("released")
            )
        assert later.value.turn is raised.value.job
        assert later.value.had_lock == had_lock
    assert told == ["released"] * 600
    assert _outcome(aside, lambda: 7, {other}) == 7
    turns: list[str] = []
    later.value.turn.when_free(lambda: turns.append("free"))
    free.set()
    until(lambda: turns == ["free"], "the turn")
    assert _outcome(aside, lambda: 7, {one, other}) == 7
    later.value.turn.when_free(lambda: turns.append("at once"))
    assert turns == ["free", "at once"]


def test_the_files_of_a_name_are_known_by_their_numbers(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).touch()
    numbers = {name: _number(tmp_path / name.decode()) for name in (b"one", b"other")}
    with (
        OwnedFd(os.open(tmp_path, os.O_PATH)) as parent,
        OwnedFd(os.open(tmp_path / "one", os.O_PATH)) as one,
    ):
        assert acts.locked_by(acts.set_mode, (one, 0o600)) == {numbers[b"one"]}
        assert acts.locked_by(acts.make_link, (one, parent, b"new")) == {numbers[b"one"]}
        assert acts.locked_by(acts.remove_file, (parent, b"other")) == {numbers[b"other"]}
        assert acts.locked_by(acts.remove_file, (parent, b"missing")) == set()
        both = acts.locked_by(acts.rename, (parent, b"one", parent, b"other", 0))
        assert both == set(numbers.values())


def test_a_lock_that_another_thread_gives_up_tells_all_who_wait() -> None:
    lock, told = TreesLock(), []
    assert lock.acquire()
    for number in range(3):
        lock.when_free(lambda number=number: told.append(number))
    assert not told
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert told == [0, 1, 2]
    lock.when_free(lambda: told.append(3))
    assert told == [0, 1, 2, 3]


def _outcome(aside: Aside, act: Callable[[], object], files: Iterable[tuple[int, int]] = ()) -> object:
    """Also where the machine is too busy for the moment to be enough."""
    try:
        return aside.run(act, files=frozenset(files))
    except Unfinished as unfinished:
        return unfinished.job.wait()


def _wait(event: threading.Event) -> None:
    event.wait()


def _number(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
