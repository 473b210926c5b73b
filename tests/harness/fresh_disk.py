"""An empty file system for one action, which goes with it."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness import ledger
from harness.places import Place

T = TypeVar("T")

_CLONE_NEWNS = 0x20000
_DISK_SIZE = 2 << 30
_MEMORY = Path("/dev/shm")


# What makes a file system in an image, and how it is mounted.
_MAKERS = {
    "ext4": (
        ["mkfs.ext4", "-q", "-F", "-i", "8192", "-E", "lazy_itable_init=1,nodiscard"],
        "loop,noinit_itable",
    ),
    "xfs": (["mkfs.xfs", "-q", "-K"], "loop"),
}


def why_no_fresh_disk(kind: str) -> str | None:
    maker = _MAKERS[kind][0][0]
    if os.geteuid() != 0:
        return "mounting needs root"
    return None if shutil.which(maker) else f"there is no {maker}"


def on_a_fresh_disk(place: Place, action: Callable[[], T], kind: str = "ext4") -> T:
    """Act in a process of its own, with an empty file system of its own at the place's root, which goes with it.

    A file system that has just lost tens of thousands of files takes 50 times as long to make new ones: ext4 looks for
    inodes that were not in use a moment ago. Without root, or without the tools, it is done where the place is.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read_end)
            with open(write_end, "wb") as pipe:
                pipe.write(pickle.dumps(_outcome(place, action, kind)))
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    result, problem = pickle.loads(data)
    assert problem is None, problem
    return result  # type: ignore[no-any-return]


def _outcome(place: Place, action: Callable[[], T], kind: str) -> tuple[T | None, str | None]:
    try:
        if why_no_fresh_disk(kind) is None:
            _mount_fresh_disk(place, *_MAKERS[kind])
        return action(), None
    except BaseException:
        return None, traceback.format_exc()


def _home_of_images() -> Path:
    """In memory where there is plenty, so that what is flushed waits for no disk."""
    room = os.statvfs(_MEMORY) if _MEMORY.is_dir() else None
    has_room = room is not None and room.f_bavail * room.f_frsize > 2 * _DISK_SIZE
    return _MEMORY if has_room and _available_bytes() > 3 * _DISK_SIZE else ledger.HOME


def _available_bytes() -> int:
    """Of memory, without swapping (proc_meminfo(5))."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _mount_fresh_disk(place: Place, maker: list[str], options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    with ledger.directory("disk", _home_of_images()) as directory:
        image = directory / "image"
        with open(image, "wb") as file:
            file.truncate(_DISK_SIZE)
        subprocess.run([*maker, image], check=True)
        # The loop device keeps the image for as long as it is mounted.
        subprocess.run(["mount", "-o", options, image, place.root], check=True)
    place.make_directories()
