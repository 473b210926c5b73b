"""A storage that is not ours alone, not whole, or laid into its own tree is refused, with the reason."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.disk_pair import Disk
from harness.forked import in_child
from harness.places import Place

from sandlockd.store import storage
from sandlockd.store.storage import StorageError

_ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _paths(place: Place) -> tuple[bytes, bytes]:
    return os.fsencode(place.state), os.fsencode(place.work)


def _refused(place: Place, reason: str, *, workdir: bytes | None = None, create: bool = False) -> None:
    path, work = _paths(place)
    with pytest.raises(StorageError, match=reason):
        (storage.create if create else storage.open_existing)(path, workdir or work)


def _made(place: Place) -> None:
    os.chmod(place.state, 0o700)
    storage.create(*_paths(place)).close()


def _replace(path: Path, by: Callable[[Path], object]) -> None:
    path.rename(path.with_name("away"))
    by(path)


_TAMPERING: dict[str, tuple[Callable[[Path], object], str]] = {
    "opened to others": (lambda state: state.chmod(0o750), "has mode 0750"),
    "work opened to others": (lambda state: (state / "work").chmod(0o777), "has mode 0777"),
    "upper is a link": (
        lambda state: _replace(state / "upper", lambda path: path.symlink_to("/etc")),
        "is a link",
    ),
    "work is a link": (
        lambda state: _replace(state / "work", lambda path: path.symlink_to("/etc")),
        "is a link",
    ),
    "upper is a file": (lambda state: _replace(state / "upper", Path.touch), "is no directory"),
    "upper is missing": (lambda state: (state / "upper").rename(state / "x"), "is missing"),
    "meta is missing": (lambda state: (state / "meta").unlink(), "missing or damaged"),
    "meta is damaged": (lambda state: (state / "meta").write_text("{"), "missing or damaged"),
    "meta is a link": (
        lambda state: _replace(state / "meta", lambda path: path.symlink_to("away")),
        "missing or damaged",
    ),
}


@pytest.mark.parametrize("how", _TAMPERING)
def test_a_storage_that_was_tampered_with_is_refused(place: Place, how: str) -> None:
    def check() -> None:
        _made(place)
        tamper, reason = _TAMPERING[how]
        tamper(place.state)
        _refused(place, reason)

    assert in_child(check, place.user) == 0


@_ROOT_ONLY
def test_a_storage_of_somebody_else_is_refused(place: Place) -> None:
    if not place.user.is_root:
        pytest.skip("giving away needs root")
    _made(place)
    os.chown(place.state, 4242, 4242)
    assert in_child(lambda: _refused(place, "belongs to uid 4242")) == 0


@_ROOT_ONLY
def test_another_file_system_inside_is_refused(place: Place) -> None:
    if not place.user.is_root:
        pytest.skip("mounting needs root")
    _made(place)

    def check() -> None:
        if ctypes.CDLL(None).unshare(0x20000):
            os._exit(77)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", f"{place.state}/upper"], check=True
        )
        _refused(place, "another file system")

    assert in_child(check) == 0


def test_a_directory_that_is_not_empty_is_no_new_storage(place: Place) -> None:
    def check() -> None:
        os.chmod(place.state, 0o700)
        (place.state / "x").touch()
        _refused(place, "not empty", create=True)

    assert in_child(check, place.user) == 0


def test_a_workdir_that_holds_its_storage_or_lies_in_it_is_refused(place: Place) -> None:
    def check() -> None:
        os.chmod(place.state, 0o700)
        _refused(place, "the root", workdir=b"/", create=True)
        _refused(place, "contains the storage", workdir=os.fsencode(place.root), create=True)
        os.symlink(place.root, place.home / "link")
        _refused(place, "contains the storage", workdir=os.fsencode(place.home / "link"), create=True)
        _refused(place, "lies in the storage|contains", workdir=os.fsencode(place.state), create=True)
        inside = place.state / "w"
        inside.mkdir()
        _refused(place, "lies in the storage", workdir=os.fsencode(inside), create=True)
        _refused(place, "cannot be the workdir", workdir=os.fsencode(place.root / "none"), create=True)

    assert in_child(check, place.user) == 0


def test_a_storage_of_another_workdir_is_refused(place: Place) -> None:
    def check() -> None:
        _made(place)
        _refused(place, "says that it is of", workdir=os.fsencode(place.home))

    assert in_child(check, place.user) == 0


def test_the_root_of_the_tree_is_as_the_workdir_is(place: Place) -> None:
    def check() -> None:
        os.chmod(place.work, 0o2751)
        os.utime(place.work, ns=(1, 123456789))
        _made(place)
        status = (place.state / "upper").stat()
        assert stat.S_IMODE(status.st_mode) == 0o2751
        assert status.st_mtime_ns == 123456789

    assert in_child(check, place.user) == 0


def test_what_was_being_made_is_swept_at_the_next_opening(place: Place) -> None:
    def check() -> None:
        _made(place)
        left = place.state / "work/#7"
        (left / "closed/below").mkdir(parents=True)
        (left / "closed/below/f").touch()
        (left / "closed").chmod(0)
        disk = Disk(os.fsencode(place.work), os.fsencode(place.state), create=False)
        assert sorted(os.listdir(place.state / "work")) == ["stage", "whiteout"]
        disk.close()

    assert in_child(check, place.user) == 0
