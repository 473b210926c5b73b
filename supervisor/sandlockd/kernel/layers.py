"""The index of an upper directory that C asks in the fast path (native/layers.c), and Python instead of the disk."""

from __future__ import annotations

import itertools

from sandlockd.kernel.native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = lib.SLK_LAYER_FILE
DIRECTORY = lib.SLK_LAYER_DIRECTORY
SYMLINK = lib.SLK_LAYER_SYMLINK
WHITEOUT = lib.SLK_LAYER_WHITEOUT
OTHER = lib.SLK_LAYER_OTHER
MERGED = lib.SLK_LAYER_MERGED
ACL = lib.SLK_LAYER_ACL


class Layers:
    """Paths are bytes relative to the upper directory; b"" is its root, which is always there."""

    __slots__ = ("_native",)

    def __init__(self) -> None:
        holder = ffi.new("struct slk_layers **")
        check(lib.slk_layers_create(holder))
        self._native = holder[0]

    @property
    def native(self) -> ffi.CData:
        native: ffi.CData = self._native
        return native

    def has(self, path: bytes) -> bool:
        return bool(lib.slk_layers_find(self._native, path))

    def find(self, path: bytes) -> tuple[int, int]:
        """(the kind, 0 where there is nothing; the flags)."""
        found = int(lib.slk_layers_find(self._native, path))
        return found & 0xFF, found >> 8

    def rows(self, path: bytes) -> Iterator[tuple[bytes, int]]:
        """Name and kind of what a directory has. Nothing may change meanwhile."""
        name = ffi.new("char[256]")
        for number in itertools.count():
            kind = int(lib.slk_layers_row(self._native, path, number, name))
            if not kind:
                return
            yield ffi.string(name), kind

    def set(self, path: bytes, kind: int, flags: int = 0) -> None:
        """Raises FileNotFoundError where the directory above it is not there."""
        check(lib.slk_layers_set(self._native, path, kind, flags), path)

    def drop(self, path: bytes) -> None:
        lib.slk_layers_drop(self._native, path)

    def clear(self, path: bytes) -> None:
        lib.slk_layers_clear(self._native, path)

    def unmerge(self, path: bytes) -> None:
        lib.slk_layers_unmerge(self._native, path)

    def watch(self, path: bytes) -> None:
        """C leaves names in this directory, and in those in it, alone from now on."""
        lib.slk_layers_watch(self._native, path)

    def lose_links(self) -> None:
        lib.slk_layers_lose_links(self._native)

    def move(self, source: bytes, path: bytes) -> None:
        check(lib.slk_layers_move(self._native, source, path), source)

    def exchange(self, first: bytes, second: bytes) -> None:
        check(lib.slk_layers_exchange(self._native, first, second), first)

    def close(self) -> None:
        native, self._native = self._native, ffi.NULL
        lib.slk_layers_destroy(native)
