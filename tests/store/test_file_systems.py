"""What other file systems than the machine's own do differently: each in an image, mounted for one test alone."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.disk_pair import Disk
from harness.forked import in_child
from harness.places import Place
from harness.store_scenarios import BEFORE, SCENARIOS, build_lower, do, shown_tree

from sandlockd.kernel.fds import OwnedFd
from sandlockd.launch.private_directory import PrivateDirectory
from sandlockd.store.removal import remove

_CLONE_NEWNS = 0x20000
_IMAGE_BYTES = 400 << 20  # xfs makes none below 300 MiB
_NO_MOUNT = 77
_KINDS = {
    "btrfs": ("mkfs.btrfs", "-q"),
    "xfs": ("mkfs.xfs", "-q"),
    "tmpfs": (),
    "ext4": ("mkfs.ext4", "-q", "-F"),
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def _on(kind: str, place: Place, action: Callable[[], None]) -> None:
    """In a mount namespace in which all of the place is on such a file system."""
    maker = _KINDS[kind]
    if maker and not shutil.which(maker[0]):
        pytest.skip(f"no {maker[0]}")

    def mounted() -> None:
        if ctypes.CDLL(None).unshare(_CLONE_NEWNS):
            os._exit(_NO_MOUNT)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        mount = ["mount", "-t", kind, kind, place.root]
        if maker:
            image = place.root / "image"
            with open(image, "wb") as file:
                file.truncate(_IMAGE_BYTES)
            subprocess.run([*maker, image], check=True, capture_output=True)
            mount = ["mount", "-t", kind, "-o", "loop", image, place.root]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            os._exit(_NO_MOUNT)
        place.make_directories()
        os.chmod(place.state, 0o700)
        os._exit(in_child(action, place.user))

    status = in_child(mounted)
    if status == _NO_MOUNT:
        pytest.skip(f"{kind} cannot be mounted here")
    assert status == 0


@pytest.mark.parametrize("kind", _KINDS)
def test_each_way_of_the_executor_leaves_what_it_leaves_on_any(place: Place, kind: str) -> None:
    def check() -> None:
        work = build_lower(place)
        for number, (name, operation) in enumerate(SCENARIOS.items()):
            store = os.fsencode(place.state / str(number))
            os.mkdir(store, 0o700)
            disk = Disk(work, store, create=True)
            for before in BEFORE:
                assert disk.call(before) == 0
            old = shown_tree(disk)
            do(disk, operation)
            new = shown_tree(disk)
            assert new != old or operation.call == "open", name
            disk.close()
            disk = Disk(work, store, create=False)
            assert shown_tree(disk) == new, name
            disk.close()

    _on(kind, place, check)


@pytest.mark.parametrize("kind", _KINDS)
def test_what_a_program_left_is_removed_from_any(place: Place, kind: str) -> None:
    def check() -> None:
        os.environ["TMPDIR"] = str(place.temporary)
        private = PrivateDirectory()
        top = Path(os.fsdecode(private.path))
        for name in ("a/b/c", "d"):
            (top / name).mkdir(parents=True)
            (top / name / "file").touch()
        assert private.remove() is None
        assert os.listdir(place.temporary) == []
        (place.home / "top/a/b/c/d/e/f").mkdir(parents=True)
        with OwnedFd(os.open(place.home, os.O_RDONLY | os.O_DIRECTORY)) as home:
            remove(home, b"top")
        assert os.listdir(place.home) == []

    _on(kind, place, check)
