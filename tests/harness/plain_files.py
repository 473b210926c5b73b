"""A file system in memory, as simple as it can be: the oracle of the copy-on-write model.

Paths are the program's; the tree is at /t, and nothing else exists: leaving it raises `Left`.
`tests/model/test_overlay_oracle.py` compares it with a real directory.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from harness.memory_layers import Node, everything
from sandlockd.overlay.entries import Kind

ROOT = b"/t"


class Left(Exception):
    """The path leads out of the tree."""


class Failed(Exception):
    """The call fails with this errno."""


class Place:
    """Where a path leads: the directories down to the name, and the name; no name after `.`, `..` and `/`."""

    def __init__(self, dirs: list[Node], name: bytes | None, last: str, slash: bool) -> None:
        self.dirs = dirs
        self.name = name
        self.last = last
        self.slash = slash

    @property
    def node(self) -> Node | None:
        """What is there. A name too long is an error only when it is looked up."""
        _need(len(self.name or b"") <= 255, errno.ENAMETOOLONG)
        return self.dirs[-1] if self.name is None else self.dirs[-1].children.get(self.name)


def _need(condition: bool, number: int) -> None:
    if not condition:
        raise Failed(number)


def _back_in(part: bytes, top: Node) -> list[Node]:
    """Beside the tree, where `..` of its root leads, is nothing but the tree."""
    if part != ROOT[1:]:
        raise Left
    return [top]


class PlainFiles:
    """The oracle. Each operation raises `Failed` or changes the tree."""

    def __init__(self, top: Node) -> None:
        self.top = top

    def find(self, path: bytes, cwd: list[Node], follow: Callable[[bool], bool], count: list[int]) -> Place:
        """follow: whether a link in the last place is followed, from whether a slash is behind it."""
        _need(bool(path), errno.ENOENT)
        _need(len(path) < 4096, errno.ENAMETOOLONG)
        dirs = list(cwd)
        if path.startswith(b"/"):
            if path.startswith(ROOT + b"/") or path == ROOT:
                path, dirs = path[len(ROOT) :] or b"/", [self.top]
            else:
                raise Left
        parts = [part for part in path.split(b"/") if part]
        slash = path.endswith(b"/")
        for place, part in enumerate(parts):
            is_last = place == len(parts) - 1
            if part == b".":
                continue
            if not dirs:
                dirs = _back_in(part, self.top)
                continue
            if part == b"..":
                dirs.pop()
                continue
            node = dirs[-1].children.get(part)
            _need(is_last or len(part) <= 255, errno.ENAMETOOLONG)
            if is_last and not (node and node.kind is Kind.SYMLINK and follow(slash)):
                return Place(dirs, part, "name", slash)
            _need(node is not None, errno.ENOENT)
            assert node is not None
            if node.kind is Kind.SYMLINK:
                count[0] += 1
                _need(count[0] <= 40, errno.ELOOP)
                target = node.content + (b"/" if slash and is_last else b"")
                if is_last:
                    return self.find(target, dirs, follow, count)
                found = self.find(target, dirs, lambda _: True, count)
                node, dirs = found.node, found.dirs
                _need(node is not None, errno.ENOENT)
                assert node is not None
                if found.name is None:
                    continue
            _need(node.kind is Kind.DIRECTORY, errno.ENOTDIR)
            dirs = [*dirs, node]
        if not dirs:
            raise Left
        last = {b".": ".", b"..": ".."}.get(parts[-1], "/") if parts else "/"
        return Place(dirs, None, last, slash)

    def _existing(self, path: bytes, follow: bool) -> Node:
        place = self.find(path, [self.top], lambda slash: follow or slash, [0])
        _need(place.node is not None, errno.ENOENT)
        assert place.node is not None
        _need(not place.slash or place.node.kind is Kind.DIRECTORY, errno.ENOTDIR)
        return place.node

    def _name(self, path: bytes) -> Place:
        return self.find(path, [self.top], lambda _: False, [0])

    def _new(self, path: bytes, kind: Kind) -> tuple[dict[bytes, Node], bytes]:
        place = self._name(path)
        _need(place.name is not None and place.node is None, errno.EEXIST)
        _need(not place.slash or kind is Kind.DIRECTORY, errno.ENOENT)
        assert place.name is not None
        return place.dirs[-1].children, place.name

    def stat(self, path: bytes, follow: bool) -> Kind:
        return self._existing(path, follow).kind

    def make(self, path: bytes, node: Node) -> None:
        directory, name = self._new(path, node.kind)
        directory[name] = node

    def link(self, source: bytes, path: bytes, follow: bool) -> None:
        node = self._existing(source, follow)
        directory, name = self._new(path, Kind.FILE)
        _need(node.kind is not Kind.DIRECTORY, errno.EPERM)
        directory[name] = node

    def unlink(self, path: bytes) -> None:
        place = self._name(path)
        _need(place.name is not None, errno.EISDIR)
        _need(place.node is not None, errno.ENOENT)
        assert place.node is not None and place.name is not None
        _need(place.node.kind is not Kind.DIRECTORY, errno.EISDIR)
        _need(not place.slash, errno.ENOTDIR)
        del place.dirs[-1].children[place.name]

    def rmdir(self, path: bytes) -> None:
        place = self._name(path)
        _need(place.last != ".", errno.EINVAL)
        _need(place.last != "..", errno.ENOTEMPTY)
        _need(place.name is not None, errno.EBUSY)
        _need(place.node is not None, errno.ENOENT)
        assert place.node is not None and place.name is not None
        _need(place.node.kind is Kind.DIRECTORY, errno.ENOTDIR)
        _need(not place.node.children, errno.ENOTEMPTY)
        del place.dirs[-1].children[place.name]

    def rename(self, old: bytes, new: bytes, flag: str) -> None:
        """flag: "", "noreplace" or "exchange"."""
        one, two = self._name(old), self._name(new)
        _need(one.name is not None, errno.EBUSY)
        _need(two.name is not None, errno.EEXIST if flag == "noreplace" else errno.EBUSY)
        source = one.node
        _need(source is not None, errno.ENOENT)
        target = two.node
        assert source is not None and one.name is not None and two.name is not None
        _need(flag != "noreplace" or target is None, errno.EEXIST)
        _need(flag != "exchange" or target is not None, errno.ENOENT)
        is_dir, onto_dir = source.kind is Kind.DIRECTORY, target is not None and target.kind is Kind.DIRECTORY
        _need(flag != "exchange" or onto_dir or not two.slash, errno.ENOTDIR)
        _need(is_dir or not (one.slash or (two.slash and flag != "exchange")), errno.ENOTDIR)
        _need(source not in two.dirs, errno.EINVAL)
        _need(target not in one.dirs, errno.EINVAL if flag == "exchange" else errno.ENOTEMPTY)
        if source is target:
            return
        from_names, to_names = one.dirs[-1].children, two.dirs[-1].children
        if flag == "exchange":
            assert target is not None
            from_names[one.name], to_names[two.name] = target, source
            return
        if target is not None:
            _need(onto_dir or not is_dir, errno.ENOTDIR)
            _need(is_dir or not onto_dir, errno.EISDIR)
            _need(not target.children, errno.ENOTEMPTY)
        del from_names[one.name]
        to_names[two.name] = source

    def open(self, path: bytes, flags: frozenset[str], fresh: Node) -> Node:
        """flags: some of write, create, exclusive, truncate, directory, nofollow."""
        create, exclusive = "create" in flags, "exclusive" in flags
        _need(not (create and "directory" in flags), errno.EINVAL)
        stay = "nofollow" in flags or (create and exclusive)
        place = self.find(
            path, [self.top], lambda slash: (not stay and not slash) if create else (slash or not stay), [0]
        )
        _need(not (create and place.slash and place.name is not None), errno.EISDIR)
        node = place.node
        if node is None:
            _need(create, errno.ENOENT)
            assert place.name is not None
            place.dirs[-1].children[place.name] = fresh
            return fresh
        is_dir = node.kind is Kind.DIRECTORY
        _need(not (create and exclusive), errno.EEXIST)
        _need(not (create and is_dir), errno.EISDIR)
        _need(is_dir or not ("directory" in flags or place.slash), errno.ENOTDIR)
        _need(node.kind is not Kind.SYMLINK, errno.ELOOP)
        _need(not is_dir or not flags & {"write", "truncate"}, errno.EISDIR)
        if "truncate" in flags and node.kind is Kind.FILE:
            node.content = b""
        return node

    def truncate(self, path: bytes, size: int) -> None:
        node = self._existing(path, follow=True)
        _need(node.kind is not Kind.DIRECTORY, errno.EISDIR)
        _need(node.kind is Kind.FILE, errno.EINVAL)
        node.content = node.content[:size].ljust(size, b"\0")

    def chmod(self, path: bytes, mode: int) -> None:
        self._existing(path, follow=True).mode = mode

    def shown(self) -> dict[bytes, Node]:
        """Everything, as the merged view of the model is dumped."""
        return dict(everything(self.top))
