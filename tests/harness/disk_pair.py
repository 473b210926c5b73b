"""The model and the executor on a real disk beside a plain directory, in which the kernel does the same calls."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

from harness.file_operations import Copied, Operation, aimed, on_real, random_operation
from harness.memory_layers import Node
from harness.plain_files import ROOT, Left
from sandlockd.kernel import beneath
from sandlockd.kernel.fds import OwnedFd
from sandlockd.kernel.paths import self_link
from sandlockd.overlay import lookup
from sandlockd.overlay.copyup import shown_links
from sandlockd.overlay.entries import KINDS, FsError, Kind
from sandlockd.overlay.view import Found, View
from sandlockd.store import storage
from sandlockd.store.access import DiskAccess
from sandlockd.store.executor import Executor
from sandlockd.store.layer import DirectoryLayer, HardLinks
from sandlockd.store.making import Making
from sandlockd.store.watches import Watches

_MAKING = {"mkdir": 0o755, "symlink": 0o777}

LONG_AGO_NS = 1_000_000_000_000_000_001

# kind, mode, owner, group, content, link count, attributes; times apart
Described = tuple[object, ...]


def described(path: bytes, root: bytes) -> Described:
    status = os.lstat(path)
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    content = b""
    if kind is Kind.SYMLINK:
        content = os.readlink(path)
        if content == root or content.startswith(root + b"/"):
            content = ROOT + content[len(root) :]
    elif kind is Kind.FILE:
        with open(path, "rb") as file:
            content = file.read()
    names = [] if kind is Kind.SYMLINK else os.listxattr(path)
    attributes = {name: os.getxattr(path, name) for name in names if not _is_ours(name)}
    links = 0 if kind is Kind.DIRECTORY else status.st_nlink
    return kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, content, links, attributes


def _is_ours(name: str) -> bool:
    return name.startswith(("user.overlay.", "user.sandlockd."))


def real(root: bytes) -> dict[bytes, Described]:
    shown = {b"": described(root, root)}
    for above, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(above, name)
            shown[os.path.relpath(path, root)] = described(path, root)
    return shown


def times(root: bytes) -> dict[bytes, int]:
    return {path: old_time(os.lstat(os.path.join(root, path)).st_mtime_ns) for path in real(root)}


def old_time(mtime_ns: int) -> int:
    """A modification time from `age`, or 0: changed since."""
    return mtime_ns if mtime_ns < LONG_AGO_NS + 1_000_000_000 else 0


def age(root: bytes) -> None:
    """Give everything a time of its own, with nanoseconds, the same in each tree that has the same names."""
    seen: set[int] = set()
    for number, path in enumerate(sorted(real(root))):
        name = os.path.join(root, path)
        inode = os.lstat(name).st_ino
        if inode not in seen:
            os.utime(name, ns=(LONG_AGO_NS, LONG_AGO_NS + 1001 * number), follow_symlinks=False)
            seen.add(inode)


class Disk(Copied):
    """A storage and its executor; operations as the model's."""

    def __init__(self, workdir: bytes, path: bytes, *, create: bool) -> None:
        self.storage = (storage.create if create else storage.open_existing)(path, workdir)
        lower = DirectoryLayer(self.storage.workdir)
        self.upper_layer = DirectoryLayer(self.storage.upper, with_opaque=True)
        access = DiskAccess(self.upper_layer, lower, None)
        self.view = View(ROOT, self.upper_layer, lower, access=access, siblings=HardLinks(lower))
        self.known = Watches()
        self.disk = Executor(self.view, self.storage.upper, self.storage.work, lower, known=self.known)
        self.enter = lookup.entrance([self.view])

    def call(self, operation: Operation) -> int:
        """Returns the errno. Raises `Left`."""
        try:
            steps, path = self.steps(operation)
            mode = _MAKING.get(operation.call, 0o644)
            opened = self.disk.carry_out(steps, Making(mode=mode, target=operation.other))
            if opened is not None:
                opened.close()
            self._real_finish(operation, path)
        except (FsError, OSError) as error:
            assert error.errno is not None
            return error.errno
        return 0

    def _real_finish(self, operation: Operation, path: bytes) -> None:
        if operation.call not in ("open", "truncate", "chmod"):
            return
        found = self.view.at(path)
        assert found is not None
        if found.upper is None:
            return
        with self.opened(found) as opened:
            name = self_link(opened.fd)
            if operation.call == "chmod":
                os.chmod(name, operation.number)
            elif operation.call == "truncate":
                os.truncate(name, operation.number)
            elif found.kind is Kind.FILE and {"write", "truncate"} & operation.flags:
                truncate = os.O_TRUNC if "truncate" in operation.flags else 0
                fd = os.open(name, os.O_RDWR | truncate)
                if "write" in operation.flags:
                    os.pwrite(fd, b"%d" % operation.number * operation.number, 0)
                os.close(fd)

    def opened(self, found: Found) -> OwnedFd:
        layer = self.storage.workdir if found.upper is None else self.storage.upper
        return beneath.open_below(layer.fd, found.path, os.O_PATH)

    def shown(self, root: bytes) -> dict[bytes, Described]:
        """What the model shows, with the metadata of the upper where it is there."""
        shown: dict[bytes, Described] = {}
        self.mtimes: dict[bytes, int] = {}

        def below(found: Found) -> None:
            layer = b"/proc/self/fd/%d" % (
                self.storage.workdir.fd if found.upper is None else self.storage.upper.fd
            )
            path = os.readlink(layer) + b"/" + found.path if found.path else os.readlink(layer)
            told = described(path, root)
            links = told[5]
            assert isinstance(links, int)
            shown[found.path] = (*told[:5], shown_links(found, links) if links else 0, *told[6:])
            self.mtimes[found.path] = old_time(os.lstat(path).st_mtime_ns)
            if found.kind is Kind.DIRECTORY:
                for name in self.view.names(found):
                    below(self.view.child(found, name))

        below(self.view.top())
        return shown

    def close(self) -> None:
        self.storage.close()


class Places:
    """plain: where the kernel acts. work: the lower tree, the same at first. store: the storage."""

    def __init__(self, root: Path) -> None:
        for name in ("plain", "lower"):
            os.makedirs(os.fsencode(root / name) + ROOT, 0o755)
        # `..` and a path from the root lead back to the tree by its name.
        self.plain, self.work = os.fsencode(root / "plain") + ROOT, os.fsencode(root / "lower") + ROOT
        self.store = os.fsencode(root / "store")
        os.mkdir(self.store, 0o700)

    def node(self) -> Node:
        """The plain tree, for aiming at what is there."""
        return _node_of(self.plain)

    def in_plain(self, operation: Operation) -> int:
        with chdir(self.plain):
            return on_real(self.plain, operation)


def _node_of(path: bytes) -> Node:
    node = Node(KINDS[stat.S_IFMT(os.lstat(path).st_mode)])
    if node.kind is Kind.DIRECTORY:
        for name in sorted(os.listdir(path)):
            node.children[name] = _node_of(path + b"/" + name)
    return node


@contextlib.contextmanager
def chdir(path: bytes) -> Iterator[None]:
    before = os.getcwd()
    mask = os.umask(0)
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)
        os.umask(mask)


def built(root: Path, chance: random.Random, count: int = 40) -> Places:
    """Two equal trees."""
    places = Places(root)
    for _ in range(count):
        operation, at = random_operation(chance, "build")
        operation = aimed(operation, at, places.node())
        for tree in (places.plain, places.work):
            with chdir(tree):
                on_real(tree, operation)
    age(places.plain)
    age(places.work)
    return places


def walk(root: Path, chance: random.Random, count: int = 60) -> tuple[Places, Disk]:
    """Random calls on both; after each the same errno and the same tree, in the end the same times."""
    places = built(root, chance)
    untouched = real(places.work), times(places.work)
    disk = Disk(places.work, places.store, create=True)
    assert disk.shown(places.work) == real(places.plain)
    for _ in range(count):
        operation, at = random_operation(chance, "change")
        if operation.call == "chmod" and os.geteuid() != 0:
            operation = operation._replace(number=0o750)  # else we could not look at the tree ourselves
        both(places, disk, aimed(operation, at, places.node()))
    assert disk.mtimes == times(places.plain)
    assert (real(places.work), times(places.work)) == untouched
    assert sorted(os.listdir(places.store + b"/work")) == [b"stage", b"whiteout"]
    return places, disk


def both(places: Places, disk: Disk, operation: Operation) -> None:
    if operation.call == "rename" and operation.other.endswith(ROOT):
        return  # the tree's root by its name: ours stays where it is, a plain directory need not
    try:
        got = disk.call(operation)
    except Left:
        return
    if got == errno.EBUSY:
        return  # likewise
    expected = places.in_plain(operation)
    # Opening a FIFO is no matter of the tree.
    assert got == expected or (got, expected) == (0, errno.ENXIO), (operation, got, expected)
    shown, plain = disk.shown(places.work), real(places.plain)
    paths = sorted(shown.keys() | plain.keys())
    differing = [
        (path, shown.get(path), plain.get(path)) for path in paths if shown.get(path) != plain.get(path)
    ]
    assert differing == [], (operation, differing)
