"""Committing on a real disk: the tree becomes what the program saw, and nothing else happens to it."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import committing, killing
from harness.disk_pair import Described, real, times, walk
from harness.forked import in_child
from harness.fresh_disk import on_a_fresh_disk
from harness.kept_runs import KeptRun, call, new_file
from harness.places import Place
from harness.removing import remove_tree

from sandlockd.kernel import beneath
from sandlockd.kernel.paths import openat2
from sandlockd.overlay import journal
from sandlockd.overlay.commit import CommitPlan
from sandlockd.overlay.journal import Next
from sandlockd.review import reviewing
from sandlockd.review.reviewing import NotCommitted, open_review
from sandlockd.store import commit_forward, committer
from sandlockd.store.commit_forward import Forward
from sandlockd.store.committer import Conflicted, NotAsApproved

_SEEDS = range(25)


@pytest.mark.parametrize("seed", _SEEDS)
def test_a_commit_makes_of_the_real_tree_what_the_program_saw(place: Place, seed: int) -> None:
    def compare() -> None:
        places, disk = walk(place.root / "work", random.Random(seed), 80)
        disk.close()
        committing.commit(places.store)
        assert real(places.work) == real(places.plain)
        assert not committing.temporaries(places.work)
        shown, wanted = times(places.work), times(places.plain)
        files = [path for path in real(places.work) if str(real(places.work)[path][0]) != "Kind.DIRECTORY"]
        assert {path: shown[path] for path in files} == {path: wanted[path] for path in files}
        assert committing.listed(places.store) == []
        assert not committing.is_pending(places.store)

    assert in_child(compare, place.user) == 0


Tree = dict[bytes, Described]
_WHO = "what somebody else wrote"


def _kept(place: Place) -> KeptRun:
    """All kinds of changes in a small tree."""
    work = place.work
    for directory in ("d/e", "new-parent", "gone-dir"):
        (work / directory).mkdir(parents=True)
    for name in ("written", "touched", "gone", "gone-dir/in", "d/moved", "d/e/deep"):
        (work / name).write_text(f"content of {name}")
    return KeptRun(
        place,
        [
            call("open", b"written", b"", "write", number=7),
            call("chmod", b"touched", number=0o600),
            call("unlink", b"gone"),
            call("unlink", b"gone-dir/in"),
            call("rmdir", b"gone-dir"),
            new_file(b"new-parent/new"),
            call("open", b"d/e/deep", b"", "write", number=5),
            call("rename", b"d/moved", b"moved"),
        ],
    ).ended()


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_text(_WHO)
    other.rename(path)


def _overwrite(path: Path) -> None:
    with open(path, "r+") as file:
        file.write(_WHO)
        file.truncate()


_CHANGED_UNDERNEATH: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "replaced": ("written", _replace, "changed: inode"),
    "written in place": ("written", _overwrite, "changed: size, mtime"),
    "touched, and the times put back": (
        "written",
        lambda path: os.utime(path, ns=(1, path.stat().st_mtime_ns)),
        "changed: ctime",
    ),
    "its mode changed": ("touched", lambda path: path.chmod(0o640), "changed: ctime, mode"),
    "gone": ("written", Path.unlink, "is gone"),
    "to be deleted, changed": ("gone", _overwrite, "changed: size, mtime"),
    "renamed, changed": ("d/moved", _overwrite, "changed: size, mtime"),
    "appeared": ("new-parent/new", lambda path: path.write_text(_WHO), "appeared"),
    "appeared in what goes": (
        "gone-dir/fresh",
        lambda path: path.write_text(_WHO),
        "appeared in a directory that goes",
    ),
    "its directory gone": (
        "d/e/deep",
        lambda path: path.parent.rename(path.parent.with_name("away")),
        "the directory that it is in is gone",
    ),
    "its directory a link": (
        "d/e/deep",
        lambda path: (path.parent.rename(path.parent.with_name("away")), path.parent.symlink_to("away")),
        "the directory that it is in is gone",
    ),
}


@pytest.mark.parametrize("when", ["before the list", "after the list"])
@pytest.mark.parametrize("how", _CHANGED_UNDERNEATH)
def test_what_changed_underneath_is_named_and_nothing_is_done(place: Place, how: str, when: str) -> None:
    def check() -> None:
        run = _kept(place)
        name, change, reason = _CHANGED_UNDERNEATH[how]
        changed: Tree = {}

        def change_it() -> None:
            change(place.work / name)
            changed.update(real(os.fsencode(place.work)))

        if when == "before the list":
            change_it()
        with pytest.raises(Conflicted) as raised:
            committing.commit(run.storage, before=change_it if when == "after the list" else lambda: None)
        found = {conflict.path: conflict.reason for conflict in raised.value.conflicts}
        assert os.fsencode(name) in found
        if when == "after the list":
            assert reason in found[os.fsencode(name)]
        assert real(os.fsencode(place.work)) == changed
        assert not committing.is_pending(run.storage)

    assert in_child(check, place.user) == 0


@pytest.mark.parametrize(
    "how", ["replaced", "written in place", "to be deleted, changed", "appeared", "gone"]
)
def test_what_is_forced_by_name_is_overwritten_or_deleted(place: Place, how: str) -> None:
    def check() -> None:
        run = _kept(place)
        name, change, _ = _CHANGED_UNDERNEATH[how]
        change(place.work / name)
        with pytest.raises(Conflicted):
            committing.commit(run.storage, force=[b"gone-dir/in"])
        committing.commit(run.storage, force=[os.fsencode(name)])
        assert not os.path.lexists(place.work / "gone")
        assert (place.work / "written").read_text().startswith("7777777")
        assert (place.work / "new-parent/new").read_text() == "333"
        assert committing.listed(run.storage) == []

    assert in_child(check, place.user) == 0


_MEANWHILE = {"written": _replace, "gone": _replace, "new-parent/new": _replace, "touched": _overwrite}


def _somebody_comes_between(place: Place, run: KeptRun, name: str, number: int) -> None:
    """At the call of this number of a commit. In a child: what is wrapped stays so."""
    path = place.work / name
    killing.before_each(lambda at: _MEANWHILE[name](path) if at == number and path.parent.exists() else None)
    with contextlib.suppress(Conflicted, FileNotFoundError):
        committing.commit(run.storage)


def _calls(place: Place) -> int:
    run = _kept(place)
    counts = place.root / "home/count"

    def count() -> None:
        asked = killing.before_each(lambda number: None)
        committing.commit(run.storage)
        counts.write_text(str(asked()))

    assert in_child(count) == 0
    return int(counts.read_text())


@pytest.mark.one_user
@pytest.mark.parametrize("name", _MEANWHILE)
def test_what_somebody_does_between_two_calls_of_a_commit_is_never_lost(place: Place, name: str) -> None:
    def check() -> None:
        calls = _calls(place)
        for number in range(0, calls, 1 if place.user.is_root else 3):
            _anew(place)
            run = _kept(place)
            status = in_child(functools.partial(_somebody_comes_between, place, run, name, number))
            assert status == 0, number
            assert (place.work / name).read_text() == _WHO, number
            assert not committing.temporaries(os.fsencode(place.work)), number
            assert not committing.is_pending(run.storage)

    assert on_a_fresh_disk(place, lambda: in_child(check, place.user)) == 0


def _anew(place: Place) -> None:
    for path in (place.work, place.state):
        for below in path.iterdir():
            remove_tree(below) if below.is_dir() and not below.is_symlink() else below.unlink()


@pytest.mark.one_user
@pytest.mark.parametrize("change", [_replace, _overwrite], ids=["replaced", "written in place"])
def test_what_somebody_does_before_a_commit_is_taken_back_is_never_lost(
    place: Place, change: Callable[[Path], object]
) -> None:
    """The disk is full at the last moment; somebody was there before, at any call."""

    def full(_: CommitPlan) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def attempt(run: KeptRun, number: int) -> None:
        journal.landed = full
        killing.before_each(lambda at: change(place.work / "written") if at == number else None)
        with pytest.raises((OSError, Conflicted)):
            committing.commit(run.storage)

    def check() -> None:
        for number in range(0, _calls(place), 1 if place.user.is_root else 5):
            _anew(place)
            run = _kept(place)
            assert in_child(functools.partial(attempt, run, number)) == 0, number
            assert not committing.is_pending(run.storage)
            text = (place.work / "written").read_text()
            # More calls than before are made to take it back, so all of these numbers came.
            assert text == _WHO, number
            for left in committing.temporaries(os.fsencode(place.work)):
                assert Path(os.fsdecode(left)).read_text() == "content of written"
            assert (place.work / "gone").exists() and not (place.work / "moved").exists()

    assert on_a_fresh_disk(place, lambda: in_child(check, place.user)) == 0


def test_without_the_second_look_the_same_test_fails(place: Place) -> None:
    def check() -> None:
        for number in range(_calls(place)):
            _anew(place)
            run = _kept(place)

            def attempt(run: KeptRun = run, number: int = number) -> None:
                Forward._is_what_was = staticmethod(lambda *_: True)  # type: ignore[method-assign]
                _somebody_comes_between(place, run, "written", number)

            in_child(attempt)
            if (place.work / "written").read_text() != _WHO:
                return
        pytest.fail("nothing was lost")

    if not place.user.is_root:
        pytest.skip("once is enough")
    assert in_child(check, place.user) == 0


def test_somebody_who_comes_after_a_kill_loses_nothing_and_is_told(place: Place) -> None:
    """The new file was in its place already; the old one waits aside."""

    def check() -> None:
        for number in range(0, _calls(place), 1 if place.user.is_root else 3):
            _anew(place)
            run = _kept(place)

            def killed(run: KeptRun = run, number: int = number) -> None:
                killing.killed_before(number)
                committing.commit(run.storage)

            in_child(killed)
            if not committing.is_pending(run.storage):
                continue
            _replace(place.work / "written")
            had_landed = False
            try:
                committing.go_on(run.storage)
                had_landed = True
            except Conflicted as error:
                assert "written" in str(error)
                assert committing.is_pending(run.storage)
            assert (place.work / "written").read_text() == _WHO
            if had_landed:
                continue
            outcome = committing.take_back(run.storage)
            assert outcome is not None and (place.work / "written").read_text() == _WHO
            for path, aside in outcome.leftovers:
                assert path == b"written"
                assert (place.work / os.fsdecode(aside)).read_text() == "content of written"

    assert on_a_fresh_disk(place, lambda: in_child(check, place.user)) == 0


def test_what_is_not_as_it_was_listed_is_not_committed(place: Place) -> None:
    def check() -> None:
        for name, change in (
            ("written", _overwrite),
            ("written", lambda path: _same_times(path, "8888888 of written")),
            ("written", lambda path: path.chmod(0o4755)),
            ("new-parent/new", lambda path: (path.unlink(), path.symlink_to("/etc/passwd"))),
            ("touched", lambda path: path.chmod(0o666)),
            ("touched", lambda path: os.setxattr(path, "user.color", b"red")),
        ):
            _anew(place)
            run = _kept(place)
            before = real(os.fsencode(place.work))
            with pytest.raises((NotAsApproved, OSError)):
                committing.commit(run.storage, before=lambda c=change, n=name, r=run: c(r.upper / n))
            assert real(os.fsencode(place.work)) == before, name
            assert not committing.is_pending(run.storage)

    assert in_child(check, place.user) == 0


def _same_times(path: Path, text: str) -> None:
    status = path.stat()
    assert status.st_size == len(text)
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_chosen_part_is_committed_and_the_rest_stays_to_be_committed(place: Place) -> None:
    def check() -> None:
        run = _kept(place)
        committing.commit(run.storage, [b"new-parent", b"gone"])
        assert (place.work / "new-parent/new").read_text() == "333"
        assert not (place.work / "gone").exists() and (place.work / "gone-dir/in").exists()
        left = {row.path for row in committing.listed(run.storage)}
        assert left == {b"written", b"touched", b"gone-dir", b"d/e/deep", b"moved"}
        committing.commit(run.storage)
        assert committing.listed(run.storage) == []

    assert in_child(check, place.user) == 0


@pytest.mark.parametrize("first", [b"one", b"linked-3", b"gone"])
@pytest.mark.parametrize("fails", [True, False])
def test_the_other_names_of_what_was_committed_or_taken_back_count_as_unchanged(
    place: Place, first: bytes, fails: bool
) -> None:
    """Of each object that has several, a part of the names is committed first, or tried."""

    def tried(run: KeptRun) -> None:
        def fail(number: int) -> None:
            if number == 1:
                raise OSError(errno.EIO, "a disk that fails")

        killing.before_each(fail, [(beneath, "rename")])
        with pytest.raises(OSError, match="a disk that fails"):
            committing.commit(run.storage, [first, b"x"])

    def check() -> None:
        for name in ("one", "linked", "gone", "x"):
            (place.work / name).write_text(f"content of {name}")
            os.link(place.work / name, place.work / f"{name}-2")
        run = KeptRun(
            place,
            [
                call("open", b"one", b"", "write", number=7),
                call("unlink", b"linked"),
                call("link", b"linked-2", b"linked"),
                call("link", b"linked-2", b"linked-3"),
                call("unlink", b"gone"),
                call("unlink", b"gone-2"),
                call("unlink", b"x"),
            ],
        ).ended()
        if fails:
            assert in_child(functools.partial(tried, run)) == 0
        else:
            committing.commit(run.storage, [first])
        committing.commit(run.storage, tag="again")
        assert committing.listed(run.storage) == []

    assert in_child(check, place.user) == 0


def test_a_link_in_the_place_of_a_directory_leads_no_commit_out_of_the_tree(place: Place) -> None:
    """Even were all else that is compared not compared; and so it does where lookups are not confined."""

    out = place.root / "home/out"

    def swapped(is_confined: bool) -> None:
        run = _kept(place)
        (out / "e").mkdir(parents=True)
        (out / "e/deep").write_text("content of d/e/deep")

        def swap(at: int) -> None:
            if at == 8:
                (place.work / "d").rename(place.work / "away")
                (place.work / "d").symlink_to(out)

        for module in (committer, commit_forward):
            module.conflicts = lambda *_: []  # type: ignore[assignment]
        commit_forward.next_step = lambda *_: Next.DO  # type: ignore[assignment]
        Forward._is_what_was = staticmethod(lambda *_: True)  # type: ignore[method-assign]
        if not is_confined:
            beneath.open_below = lambda fd, path, flags, identity=None: openat2(fd, path or b".", flags)
            beneath._DIRECTORY = os.O_DIRECTORY
        killing.before_each(swap)
        with contextlib.suppress(Conflicted, OSError):
            committing.commit(run.storage)
        assert (place.work / "d").is_symlink()
        is_as_before = (
            os.listdir(out / "e") == ["deep"] and (out / "e/deep").read_text() == "content of d/e/deep"
        )
        os._exit(0 if is_as_before else 9)

    assert in_child(lambda: swapped(True), place.user) == 0
    _anew(place)
    remove_tree(out)
    assert in_child(lambda: swapped(False), place.user) == 9


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_leaves_the_tree_as_it_was_and_there_is_one_clear_line(place: Place) -> None:
    if not place.user.is_root:
        pytest.skip("mounting needs root")

    def check() -> None:
        import ctypes
        import subprocess

        if ctypes.CDLL(None).unshare(0x20000):
            os._exit(77)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place.work)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            os._exit(77)
        for number in range(4):
            (place.work / f"f{number}").write_bytes(bytes([number]) * 100_000)
        run = KeptRun(place, [call("open", b"f%d" % n, b"", "write", number=2) for n in range(4)])
        (run.upper / "f3").write_bytes(os.urandom(900_000))
        run.ended()
        before = real(os.fsencode(place.work))
        with open_review(run.state_dir, run.run_id) as review:
            with pytest.raises(NotCommitted, match="No space left on device") as raised:
                review.commit()
            assert "nothing was committed" in raised.value.lines[0]
            assert real(os.fsencode(place.work)) == before
            (run.upper / "f3").write_bytes(b"small")
            review.look()
            review.commit()
        assert (place.work / "f3").read_bytes() == b"small"

    status = in_child(check)
    if status == 77:
        pytest.skip("nothing can be mounted here")
    assert status == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_commit_taken_back_on_a_full_disk_can_be_tried_again(place: Place) -> None:
    """There is no space then for what it must remember, and nothing that it made whose end would give some."""
    if not place.user.is_root:
        pytest.skip("mounting needs root")

    def tried(run: KeptRun, filler: Path) -> None:
        def fail(number: int) -> None:
            if number == 1:
                with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        killing.before_each(fail, [(beneath, "rename")])
        with pytest.raises(OSError, match="No space left"):
            committing.commit(run.storage)

    def check() -> None:
        import ctypes
        import subprocess

        if ctypes.CDLL(None).unshare(0x20000):
            os._exit(77)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place.root)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            os._exit(77)
        place.make_directories()
        for name in ("one", "two"):
            (place.work / name).write_text(f"content of {name}")
        run = KeptRun(place, [call("unlink", b"one"), call("unlink", b"two")]).ended()
        assert in_child(functools.partial(tried, run, place.root / "filler")) == 0
        assert sorted(os.listdir(place.work)) == ["one", "two"]
        (place.root / "filler").unlink()
        committing.commit(run.storage, tag="again")
        assert os.listdir(place.work) == []

    status = in_child(check)
    if status == 77:
        pytest.skip("nothing can be mounted here")
    assert status == 0


def test_two_commits_to_one_directory_exclude_each_other(place: Place) -> None:
    def check() -> None:
        reviewing.LOCK_PATIENCE_S = 0.5
        one, two = _kept(place), KeptRun(place, [new_file(b"of two")]).ended()
        with (
            open_review(one.state_dir, one.run_id) as first,
            open_review(two.state_dir, two.run_id) as second,
            first._locked(),
        ):
            with pytest.raises(NotCommitted, match="goes on"):
                second.commit()
        assert not (place.work / "of two").exists()

    assert in_child(check, place.user) == 0
