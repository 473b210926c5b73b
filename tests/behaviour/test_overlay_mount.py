"""The kernel's overlayfs mounts what the copy-on-write model leaves in the upper, and shows the same tree."""

from __future__ import annotations

import os
import random
import stat
import subprocess

import pytest
from harness import ledger
from harness.file_operations import random_operation
from harness.memory_layers import Node, Shown
from harness.overlay_pair import Pair

from sandlockd.overlay.entries import Kind

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
}


def write_tree(top: Node, path: bytes, made: dict[int, bytes]) -> None:
    for name, node in top.children.items():
        below = path + b"/" + name
        if node.inode in made:
            os.link(made[node.inode], below, follow_symlinks=False)
            continue
        match node.kind:
            case Kind.DIRECTORY:
                os.mkdir(below)
                write_tree(node, below, made)
                if node.opaque:
                    os.setxattr(below, b"user.overlay.opaque", b"y")
            case Kind.FILE:
                with open(below, "wb") as file:
                    file.write(node.content)
            case Kind.SYMLINK:
                os.symlink(node.content, below)
            case Kind.FIFO:
                os.mkfifo(below)
            case _:
                os.mknod(below, stat.S_IFCHR, 0)
        if node.kind is not Kind.DIRECTORY:
            made[node.inode] = below
        if node.kind not in (Kind.SYMLINK, Kind.WHITEOUT):
            os.chmod(below, node.mode)


def read_tree(root: bytes) -> Shown:
    shown: Shown = {}
    for above, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(above, name)
            mode = os.lstat(path).st_mode
            kind, content = _KINDS[stat.S_IFMT(mode)], b""
            if kind is Kind.SYMLINK:
                mode, content = 0, os.readlink(path)
            elif kind is Kind.FILE:
                with open(path, "rb") as file:
                    content = file.read()
            shown[os.path.relpath(path, root)] = kind, stat.S_IMODE(mode), content
    return shown


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("seed", range(15))
def test_overlayfs_shows_what_the_model_shows(seed: int) -> None:
    chance = random.Random(seed)
    pair = Pair([random_operation(chance, "build") for _ in range(50)])
    for _ in range(60):
        pair.call(*random_operation(chance, "change"))
    # Not in /tmp, which may be a tmpfs without user attributes.
    with ledger.directory("overlay") as place:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{place}/{name}")
        write_tree(pair.lower.top, os.fsencode(f"{place}/lower"), {})
        write_tree(pair.upper.top, os.fsencode(f"{place}/upper"), {})
        options = f"userxattr,lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, f"{place}/merged"]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("overlayfs cannot be mounted here")
        try:
            assert read_tree(os.fsencode(f"{place}/merged")) == pair.shown()
        finally:
            subprocess.run(["umount", f"{place}/merged"], check=True)
