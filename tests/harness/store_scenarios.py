"""Changes of a tree on disk that take each way the executor has, to be ended or refused at any point of it."""

from __future__ import annotations

import ctypes
import os

from harness.disk_pair import Described, Disk
from harness.file_operations import Operation
from harness.places import Place
from sandlockd.kernel import beneath, inotify
from sandlockd.kernel.native import lib
from sandlockd.kernel.paths import self_link
from sandlockd.store import watches
from sandlockd.store.making import Making


def _operation(call: str, path: bytes, other: bytes = b"", *flags: str) -> Operation:
    return Operation(call, path, other, frozenset(flags))


BEFORE = [
    _operation("unlink", b"gone"),
    _operation("mkdir", b"new"),
    _operation("chmod", b"dir/y")._replace(number=0o600),
    _operation("unlink", b"emptied/f"),
    _operation("chmod", b"emptied")._replace(number=0o555),
    _operation("unlink", b"away/f"),
    _operation("rmdir", b"away"),
]
SCENARIOS = {
    "create": _operation("open", b"dir/deep/n", b"", "create"),
    "create over a whiteout": _operation("open", b"gone", b"", "create"),
    "mkdir over a whiteout": _operation("mkdir", b"gone"),
    "mkdir over a removed directory": _operation("mkdir", b"away"),
    "symlink": _operation("symlink", b"dir/l", b"target"),
    "write to a file": _operation("open", b"dir/deep/f", b"", "write"),
    "write to a hard link": _operation("open", b"dir/twin", b"", "write"),
    "write in a closed directory": _operation("open", b"closed/in/f", b"", "write"),
    "unlink a lower file": _operation("unlink", b"dir/deep/f"),
    "unlink a copied file": _operation("unlink", b"dir/y"),
    "rmdir": _operation("rmdir", b"new"),
    "link": _operation("link", b"dir/deep/f", b"new/f"),
    "link over a whiteout": _operation("link", b"dir/deep/f", b"gone"),
    "rename a file": _operation("rename", b"dir/deep/f", b"new/f"),
    "rename a directory": _operation("rename", b"dir", b"new/dir"),
    "rename a directory over a whiteout": _operation("rename", b"dir", b"gone"),
    "rmdir of a closed directory": _operation("rmdir", b"emptied"),
    "rename over a closed directory": _operation("rename", b"new", b"emptied"),
    "exchange": _operation("rename", b"dir", b"new", "exchange"),
}
# Those that take another way where somebody watches the directory.
WATCHED_SCENARIOS = {
    "create over a whiteout": SCENARIOS["create over a whiteout"],
    "mkdir over a whiteout": SCENARIOS["mkdir over a whiteout"],
    "mkdir over a removed directory": SCENARIOS["mkdir over a removed directory"],
    "mkdir of a closed one over a removed directory": _operation("mkdir", b"away")._replace(number=0o555),
    "link over a whiteout": SCENARIOS["link over a whiteout"],
    "write to a file": _operation("open", b"dir/x", b"", "write"),
    "unlink a lower file": _operation("unlink", b"dir/x"),
    "unlink a copied file": _operation("unlink", b"dir/y"),
    "rmdir of a lower directory": _operation("rmdir", b"empty"),
    "rmdir of a copied directory": _operation("rmdir", b"emptied"),
    "rename a directory over a whiteout": SCENARIOS["rename a directory over a whiteout"],
    "rename over a copied directory": _operation("rename", b"new", b"emptied"),
}


def build_lower(place: Place) -> bytes:
    place.file("work/dir/deep/f", "content", 0o640)
    place.file("work/dir/x", "x")
    place.file("work/dir/y", "y")
    place.file("work/gone", "old")
    place.file("work/emptied/f", "f")
    place.file("work/away/f", "f")
    os.mkdir(place.work / "empty")
    os.link(place.work / "dir/x", place.work / "dir/twin")
    place.file("work/closed/in/f", "f")
    place.give(place.work)
    os.chmod(place.work / "closed/in", 0o555)
    os.chmod(place.work / "closed", 0o555)
    return os.fsencode(place.work)


def do(disk: Disk, operation: Operation) -> None:
    steps, _ = disk.steps(operation)
    opened = disk.disk.carry_out(steps, Making(mode=operation.number or 0o750, target=operation.other))
    if opened is not None:
        opened.close()


def shown_tree(disk: Disk) -> dict[bytes, Described]:
    """Without link counts: the names of a lower object that is copied up join the copy one after the other."""
    shown = disk.shown(b"/nowhere")  # no target of a link leads there
    return {path: (*told[:5], *told[6:]) for path, told in shown.items()}


def watch_all(disk: Disk) -> int:
    """All directories of the upper, by an instance of ours."""
    instance = ctypes.CDLL(None).inotify_init1(os.O_CLOEXEC)
    assert instance >= 0
    for path in (b"", b"dir", b"emptied"):
        with beneath.open_below(disk.storage.upper.fd, path, os.O_PATH) as opened:
            mask = watches.ALL | inotify.ONLYDIR
            wd = lib.slk_inotify_add_watch(instance, self_link(opened.fd), mask)
            disk.known.add(os.fstat(opened.fd).st_ino, os.getpid(), instance, wd, mask)
    return instance
