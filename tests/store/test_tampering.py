"""A storage that somebody has changed, with a commit under way in it: refused with a reason, and the tree stays whole.

Whoever can write in a storage is its user, so that this is not about an attacker inside of it, but about what must not
be believed all the same: a link, somebody else's file, half a journal, another digest.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import committing, killing
from harness.disk_pair import real
from harness.forked import in_child
from harness.places import Place
from store.test_commit_crash import Crash, without_waiting_for_the_disk

from sandlockd.overlay.journal import BadJournal
from sandlockd.store.committer import Conflicted, NotAsApproved
from sandlockd.store.storage import StorageError


def _away(path: Path) -> Path:
    path.rename(path.with_name(path.name + ".away"))
    return path.with_name(path.name + ".away")


def _linked(path: Path) -> None:
    path.symlink_to(_away(path))


def _fifo(path: Path) -> None:
    _away(path)
    os.mkfifo(path, 0o600)


def _directory(path: Path) -> None:
    _away(path)
    path.mkdir(mode=0o700)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _replaced(path: Path, old: bytes, new: bytes) -> None:
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new, 1))


def _digest_changed(journal: Path) -> None:
    text = journal.read_bytes()
    at = text.index(b'"digest"') + 12
    journal.write_bytes(text[:at] + (b"0" if text[at : at + 1] != b"0" else b"1") + text[at + 1 :])


def _lines_swapped(journal: Path) -> None:
    first, second, third, *rest = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([first, third, second, *rest]))


_TAMPERING: dict[str, Callable[[Path], object]] = {
    "the storage is a link": _linked,
    "the storage may be written by its group": lambda store: store.chmod(0o770),
    "the storage may be read by others": lambda store: store.chmod(0o704),
    "the storage is a file": lambda store: (_away(store), store.touch()),
    "the storage is gone": _away,
    "work is a link": lambda store: _linked(store / "work"),
    "work may be written by its group": lambda store: (store / "work").chmod(0o720),
    "work is a FIFO": lambda store: _fifo(store / "work"),
    "work is gone": lambda store: _away(store / "work"),
    "upper is a link": lambda store: _linked(store / "upper"),
    "upper is a FIFO": lambda store: _fifo(store / "upper"),
    "upper is gone": lambda store: _away(store / "upper"),
    "meta is a link": lambda store: _linked(store / "meta"),
    "meta is a FIFO": lambda store: _fifo(store / "meta"),
    "meta is a directory": lambda store: _directory(store / "meta"),
    "meta is empty": lambda store: _emptied(store / "meta"),
    "meta is a list": lambda store: (store / "meta").write_text("[]"),
    "meta is of another format": lambda store: _replaced(store / "meta", b'"format": 1', b'"format": 2'),
    "meta is of another directory": lambda store: _replaced(store / "meta", b'"inode": ', b'"inode": 1'),
    "the journal is a link": lambda store: _linked(store / "journal"),
    "the journal is a FIFO": lambda store: _fifo(store / "journal"),
    "the journal is a directory": lambda store: _directory(store / "journal"),
    "the journal has another digest": lambda store: _digest_changed(store / "journal"),
    "the journal's lines are swapped": lambda store: _lines_swapped(store / "journal"),
    "the journal has more behind it": lambda store: (store / "journal").write_bytes(
        (store / "journal").read_bytes() + b"nonsense\n{}\n"
    ),
}
_REFUSED = (StorageError, BadJournal, OSError)


def _half_committed(crash: Crash) -> tuple[bytes, Path]:
    """Killed in the middle of showing what is new."""
    work, store = crash.anew()

    def run() -> None:
        killing.killed_before(crash.calls * 2 // 3)
        committing.commit(store)

    assert in_child(run) == -signal.SIGKILL
    assert (Path(os.fsdecode(store)) / "journal").exists()
    return work, Path(os.fsdecode(store))


@pytest.mark.parametrize("how", _TAMPERING)
def test_it_is_refused_and_nothing_more_happens(place: Place, how: str) -> None:
    def check() -> None:
        without_waiting_for_the_disk()
        work, store = _half_committed(Crash(place))
        before = real(work)
        _TAMPERING[how](store)
        for act in (committing.go_on, committing.take_back, committing.commit, committing.listed):
            if act is committing.listed and "journal" in how:
                continue  # it asks nothing of it
            with pytest.raises(_REFUSED) as refusal:
                act(os.fsencode(store))
            assert str(refusal.value).count("\n") == 0 and len(str(refusal.value)) > 10
            assert real(work) == before

    assert in_child(check, place.user) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="giving away needs root")
@pytest.mark.parametrize("what", [".", "work"])
def test_what_is_somebody_elses_is_refused(place: Place, what: str) -> None:
    made: list[tuple[bytes, Path]] = []

    def make() -> None:
        made.append(_half_committed(Crash(place)))

    assert in_child(make, place.user) == 0
    store = place.work / "store"
    os.chown(store / what, 4242, -1)

    def check() -> None:
        with pytest.raises((StorageError, PermissionError)):
            committing.go_on(os.fsencode(store))

    assert in_child(check, place.user) == 0


def test_a_journal_whose_last_line_is_cut_off_is_ended_all_the_same(place: Place) -> None:
    """It was being written at the kill."""

    def all_lengths() -> None:
        without_waiting_for_the_disk()
        crash = Crash(place)
        _, store = _half_committed(crash)
        whole = (store / "journal").read_bytes()
        last_line = whole.rstrip(b"\n").rindex(b"\n") + 1
        assert len(whole) - last_line > 15
        for length in range(last_line, len(whole)):
            work, store = _half_committed(crash)
            text = (store / "journal").read_bytes()
            (store / "journal").write_bytes(text[: len(text) - (len(whole) - length)])
            committing.go_on(os.fsencode(store))
            assert real(work) == crash.new, length
            assert not committing.temporaries(work)

    assert in_child(all_lengths, place.user) == 0


def test_a_journal_cut_off_further_up_is_ended_or_refused_and_tears_nothing(place: Place, soak: bool) -> None:
    """Flushed lines are missing: the tree is further than the journal says."""

    def all_lengths() -> None:
        without_waiting_for_the_disk()
        crash = Crash(place)
        _, store = _half_committed(crash)
        whole = (store / "journal").read_bytes()
        outcomes = set()
        for length in range(whole.index(b'"begin"'), len(whole), 29 if soak else 97):
            work, store = _half_committed(crash)
            (store / "journal").write_bytes((store / "journal").read_bytes()[:length])
            try:
                committing.go_on(os.fsencode(store))
            except (BadJournal, Conflicted, NotAsApproved):
                outcomes.add("refused")
            else:
                outcomes.add("ended")
                assert real(work) == crash.new, length
            crash.require_whole(work)
        assert outcomes == {"ended", "refused"}

    assert in_child(all_lengths, place.user) == 0


def test_a_journal_with_any_byte_changed_is_not_acted_upon(place: Place) -> None:
    def all_bytes() -> None:
        without_waiting_for_the_disk()
        work, store = _half_committed(Crash(place))
        before = real(work)
        journal = store / "journal"
        whole = journal.read_bytes()
        last_line = whole.rstrip(b"\n").rindex(b"\n") + 1  # was being written at the kill, for all we know
        for at in range(0, last_line - 1, 23):
            journal.write_bytes(whole[:at] + bytes([whole[at] ^ 0x04]) + whole[at + 1 :])
            with pytest.raises(BadJournal):
                committing.go_on(os.fsencode(store))
        assert real(work) == before

    assert in_child(all_bytes, place.user) == 0
