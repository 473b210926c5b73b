"""The oracle of the copy-on-write model behaves as a directory of the real file system does."""

from __future__ import annotations

import errno
import os
import stat

from harness import ledger
from harness.file_operations import Operation, aimed, on_plain, on_real, operations, picks
from harness.memory_layers import Node, described, groups
from harness.plain_files import ROOT, Left, PlainFiles
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandlockd.overlay.entries import Kind

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
}


def real_tree(root: bytes) -> dict[bytes, Node]:
    shown: dict[bytes, Node] = {}
    for above, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(above, name)
            status = os.lstat(path)
            node = Node(_KINDS[stat.S_IFMT(status.st_mode)], stat.S_IMODE(status.st_mode))
            node.inode = status.st_ino
            if node.kind is Kind.SYMLINK:
                node.content = os.readlink(path)
                if node.content.startswith(root):
                    node.content = ROOT + node.content[len(root) :]
            elif node.kind is Kind.FILE:
                with open(path, "rb") as file:
                    node.content = file.read()
            shown[os.path.relpath(path, root)] = node
    return shown


# A name as the tree's root has it, in another directory.
_INTO_ANOTHER = [
    (Operation("mkdir", b"a"), (7, 7)),
    (Operation("mkdir", b"b"), (7, 7)),
    (Operation("rename", b"a", b"b/t"), (7, 7)),
]


@example(_INTO_ANOTHER)
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(operations, picks), min_size=10, max_size=40))
def test_the_oracle_does_what_a_real_directory_does(
    calls: list[tuple[Operation, tuple[int, int]]],
) -> None:
    files = PlainFiles(Node(Kind.DIRECTORY, 0o755))
    before = os.getcwd()
    mask = os.umask(0)
    with ledger.directory("oracle") as above:
        root = os.fsencode(above) + ROOT
        os.mkdir(root)
        os.chdir(root)
        try:
            for operation, at in calls:
                call = aimed(operation, at, files.top)
                try:
                    expected = on_plain(files, call)
                except Left:
                    continue
                onto_root = call.call == "rename" and call.other.endswith(b"/t") and expected == errno.EEXIST
                if expected == errno.EBUSY or onto_root:
                    continue  # the tree's root by its name: ours stays where it is, this directory need not
                # A writer of a FIFO that nobody reads is no matter of the tree.
                assert on_real(root, call) in ({expected, errno.ENXIO} if expected == 0 else {expected}), call
            real, shown = real_tree(root), files.shown()
            assert {path: described(node) for path, node in real.items()} == {
                path: described(node) for path, node in shown.items()
            }
            assert groups(real) == groups(shown)
        finally:
            os.chdir(before)
            os.umask(mask)
