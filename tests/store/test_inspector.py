"""Looking at what a program left, whatever it left: what is closed to its owner, what is large, what is odd."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest
from harness import committing
from harness.forked import in_child
from harness.kept_runs import KeptRun, call, new_file
from harness.places import Place

from sandlockd.overlay.changes import What, digest
from sandlockd.overlay.identity import decode_origin


def _closed(place: Place) -> KeptRun:
    """Directories and files that their owner may not read, one in the other."""
    (place.work / "f").write_text("f")
    run = KeptRun(
        place,
        [
            call("mkdir", b"d"),
            call("mkdir", b"d/below"),
            new_file(b"d/below/file"),
            call("chmod", b"f", number=0o200),
        ],
    )
    for name, mode in (("d/below/file", 0), ("d/below", 0o300), ("d", 0)):
        (run.upper / name).chmod(mode)
    return run.ended()


def _modes(upper: Path) -> dict[str, int]:
    """Of what can be reached."""
    return {name: stat.S_IMODE((upper / name).stat().st_mode) for name in ("d", "f")}


def test_what_is_closed_to_its_owner_is_listed_and_committed_with_its_mode(place: Place) -> None:
    def check() -> None:
        run = _closed(place)
        rows = {row.path: row for row in committing.listed(run.storage)}
        assert {path: row.facts.mode for path, row in rows.items() if row.facts is not None} == {
            b"d": 0,
            b"d/below": 0o300,
            b"d/below/file": 0,
            b"f": 0o200,
        }
        assert _modes(run.upper) == {"d": 0, "f": 0o200}
        committing.commit(run.storage)
        assert stat.S_IMODE((place.work / "d").stat().st_mode) == 0
        (place.work / "d").chmod(0o700)
        assert stat.S_IMODE((place.work / "d/below").stat().st_mode) == 0o300
        (place.work / "d/below/file").chmod(0o600)
        assert (place.work / "d/below/file").read_text() == "333"
        (place.work / "f").chmod(0o600)

    assert in_child(check, place.user) == 0


def test_a_tree_that_is_closed_to_its_owner_as_a_whole_is_listed_and_committed(place: Place) -> None:
    def check() -> None:
        run = KeptRun(place, [new_file(b"made")])
        run.upper.chmod(0)
        run.ended()
        rows = {row.path: row for row in committing.listed(run.storage)}
        assert rows.keys() == {b"", b"made"}
        assert stat.S_IMODE(run.upper.stat().st_mode) == 0
        committing.commit(run.storage)
        assert stat.S_IMODE(place.work.stat().st_mode) == 0
        place.work.chmod(0o700)
        assert (place.work / "made").read_text() == "333"

    assert in_child(check, place.user) == 0


def test_what_was_opened_to_look_is_closed_again_after_a_kill(place: Place) -> None:
    def check() -> None:
        run = _closed(place)

        def killed() -> None:
            with committing.opened(run.storage):
                os.kill(os.getpid(), signal.SIGKILL)

        assert in_child(killed) == -signal.SIGKILL
        before = digest(committing.listed(run.storage))
        assert _modes(run.upper) == {"d": 0, "f": 0o200}
        assert digest(committing.listed(run.storage)) == before

    assert in_child(check, place.user) == 0


def test_attributes_are_a_change_and_our_own_are_none(place: Place) -> None:
    def check() -> None:
        for name in "ab":
            (place.work / name).write_text(name)
            os.utime(place.work / name, ns=(5, 5))
        run = KeptRun(place, [call("chmod", name, number=0o666) for name in (b"a", b"b")])
        for name in "ab":
            (place.work / name).chmod(0o666)
            os.utime(run.upper / name, ns=(5, 5))
        os.setxattr(run.upper / "a", "user.color", b"red")
        os.setxattr(run.upper / "b", "user.overlay.metacopy", b"")
        run.ended()
        (row,) = committing.listed(run.storage)
        assert (row.what, row.path) == (What.METADATA, b"a")

    assert in_child(check, place.user) == 0


def test_a_copy_says_what_it_is_a_copy_of_and_a_forged_record_says_nothing(place: Place) -> None:
    def check() -> None:
        (place.work / "f").write_text("f")
        status = (place.work / "f").stat()
        run = KeptRun(place, [call("chmod", b"f", number=0o600)])
        value = os.getxattr(run.upper / "f", "user.sandlockd.origin")
        origin = decode_origin(value)
        assert origin is not None and origin.identity[1:3] == (status.st_dev, status.st_ino)
        os.setxattr(run.upper / "f", "user.sandlockd.origin", b"1 f x")
        run.ended()
        assert [row.path for row in committing.listed(run.storage)] == [b"f"]

    assert in_child(check, place.user) == 0


def test_a_link_out_of_the_tree_is_marked_by_where_it_leads_and_not_followed(place: Place) -> None:
    def check() -> None:
        links = {b"out": b"/etc/passwd", b"up": b"../x", b"in": b"f", b"abs": os.fsencode(place.work) + b"/f"}
        run = KeptRun(place, [call("symlink", name, target) for name, target in links.items()]).ended()
        marked = {row.path for row in committing.listed(run.storage) if row.marks}
        assert marked == {b"out", b"up"}
        committing.commit(run.storage)
        assert os.readlink(place.work / "out") == "/etc/passwd"

    assert in_child(check, place.user) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="setuid files of others")
def test_a_set_user_id_file_is_marked(place: Place) -> None:
    def check() -> None:
        run = KeptRun(place, [new_file(b"s")])
        (run.upper / "s").chmod(0o4755)
        run.ended()
        (row,) = committing.listed(run.storage)
        assert row.marks == ("set-user-ID or set-group-ID",)

    assert in_child(check, place.user) == 0
