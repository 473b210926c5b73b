"""The number of a copy is its original's: in a later run on the same changes as well, and nobody else's."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable

import pytest
from harness.forked import in_child
from harness.places import Place

from sandlockd.overlay import plans
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.identity import ORIGIN_ATTRIBUTE
from sandlockd.overlay.view import Found
from sandlockd.store import storage
from sandlockd.store.making import Making
from sandlockd.store.tree import Tree

_NAMES = (b"file", b"closed", b"dir", b"dir/in", b"link", b"fifo", b"hard")
_LAST_BITS = (1 << 62) - 1


class _Run:
    """One run after the other on one storage."""

    def __init__(self, place: Place) -> None:
        self.work, self.state = os.fsencode(place.work), os.fsencode(place.state)
        os.chmod(self.state, 0o700)
        os.umask(0)
        self.tree = Tree(self.work, storage.create(self.state, self.work), _thread.allocate_lock())

    def again(self) -> None:
        self.tree.close()
        self.tree = Tree(self.work, storage.open_existing(self.state), _thread.allocate_lock())

    def find(self, name: bytes) -> Found:
        found = self.tree.side(None).view.at(name)
        assert found is not None
        return found

    def do(self, steps: plans.Steps, making: Making | None = None) -> None:
        opened = self.tree.side(None).executor.carry_out(steps, making or Making())
        if opened is not None:
            opened.close()

    def copy(self, name: bytes) -> None:
        self.do(plans.change_metadata(self.find(name)))

    def make(self, name: bytes, kind: Kind) -> None:
        self.do(plans.create(self.find(name), kind), Making(target=b"x"))

    def rename(self, old: bytes, new: bytes) -> None:
        self.do(plans.rename(self.find(old), self.find(new)))

    def remove(self, name: bytes) -> None:
        self.do(plans.unlink(self.find(name)))

    def upper(self, name: bytes) -> int:
        return os.lstat(self.state + b"/upper/" + name).st_ino

    def lower(self, name: bytes) -> int:
        return os.lstat(self.work + b"/" + name).st_ino

    def told(self, name: bytes) -> int:
        device, inode = self.tree.origins.told(self.upper(name))
        assert device == os.stat(self.work).st_dev
        return inode


def _furnish(place: Place) -> None:
    (place.work / "dir").mkdir()
    for name in ("file", "dir/in", "closed"):
        (place.work / name).write_bytes(b"x")
    (place.work / "closed").chmod(0)
    os.link(place.work / "file", place.work / "hard")
    os.symlink("x", place.work / "link")
    os.mkfifo(place.work / "fifo")


def _run(place: Place, action: Callable[[_Run], None]) -> None:
    def check() -> None:
        _furnish(place)
        run = _Run(place)
        action(run)
        run.tree.close()

    assert in_child(check, place.user) == 0


def _may_copy(name: bytes) -> bool:
    return name != b"closed" or os.geteuid() == 0


def test_every_kind_of_copy_is_told_as_its_original_in_a_later_run(place: Place) -> None:
    def check(run: _Run) -> None:
        copied = [name for name in _NAMES if _may_copy(name)]
        for name in copied:
            run.copy(name)
        for _ in range(3):
            assert [run.told(name) for name in copied] == [run.lower(name) for name in copied]
            run.again()

    _run(place, check)


def test_a_copy_that_its_owner_may_not_read_is_known_again(place: Place) -> None:
    def check(run: _Run) -> None:
        run.copy(b"file")
        os.chmod(run.state + b"/upper/file", 0)
        run.again()
        assert run.told(b"file") == run.lower(b"file")
        assert os.lstat(run.state + b"/upper/file").st_mode & 0o777 == 0

    _run(place, check)


def test_a_renamed_copy_keeps_the_number(place: Place) -> None:
    def check(run: _Run) -> None:
        for name in (b"file", b"link", b"fifo", b"dir"):
            run.rename(name, b"moved-" + name)
        for _ in range(2):
            for name in (b"file", b"link", b"fifo", b"dir"):
                assert run.told(b"moved-" + name) == run.lower(name)
            assert run.told(b"moved-dir/in") == run.lower(b"dir/in")
            run.again()

    _run(place, check)


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.SYMLINK, Kind.FIFO, Kind.DIRECTORY])
def test_what_is_made_anew_is_told_by_its_own_number(place: Place, kind: Kind) -> None:
    """Also where the file system gives it the copy's, in the same tick of the clock."""

    def check(run: _Run) -> None:
        for name in (b"link", b"fifo", b"file"):
            run.copy(name)
            copy = run.upper(name)
            run.remove(name)
            for number in range(20):
                run.make(b"%b-%d" % (name, number), kind)
            made = [b"%b-%d" % (name, number) for number in range(20)]
            if copy in map(run.upper, made):
                assert run.told(made[0]) != run.lower(name)
            assert [run.told(new) for new in made] == [run.upper(new) for new in made]
        run.again()
        for name in (b"link", b"fifo", b"file"):
            for number in range(20):
                new = b"%b-%d" % (name, number)
                assert run.told(new) == run.upper(new)

    _run(place, check)


def test_of_two_that_bear_one_record_one_is_the_copy(place: Place) -> None:
    def check(run: _Run) -> None:
        run.copy(b"file")
        run.make(b"new", Kind.FILE)
        record = os.getxattr(run.state + b"/upper/file", ORIGIN_ATTRIBUTE)
        os.setxattr(run.state + b"/upper/new", ORIGIN_ATTRIBUTE, record)
        run.again()
        told = {run.told(b"file"), run.told(b"new")}
        assert len(told) == 2 and run.lower(b"file") in told

    _run(place, check)


def test_a_new_object_with_the_number_of_an_original_that_is_gone_is_told_another(place: Place) -> None:
    def check(run: _Run) -> None:
        run.copy(b"dir/in")
        inode = run.lower(b"dir/in")
        os.unlink(run.work + b"/dir/in")
        assert run.told(b"dir/in") == inode
        assert run.tree.origins.told(inode)[1] & _LAST_BITS == inode
        assert run.tree.origins.told(inode)[1] != inode

    _run(place, check)


def test_a_line_that_an_end_cut_off_is_passed_over(place: Place) -> None:
    def check(run: _Run) -> None:
        run.copy(b"link")
        with open(run.state + b"/origins", "ab") as file:
            file.write(b"12345 678")
        run.again()
        assert run.told(b"link") == run.lower(b"link")
        run.copy(b"fifo")
        run.again()
        assert (run.told(b"link"), run.told(b"fifo")) == (run.lower(b"link"), run.lower(b"fifo"))

    _run(place, check)
