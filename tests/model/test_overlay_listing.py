"""The merged listing: its rows, the records that programs get, and offsets that stay what they are."""

from __future__ import annotations

import errno
import struct

import pytest
from harness.memory_layers import MemoryLayer, Node
from harness.plain_files import ROOT
from hypothesis import given
from hypothesis import strategies as st

from sandlockd.overlay import listing
from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.listing import Row
from sandlockd.overlay.view import View

names = st.binary(min_size=1, max_size=20).filter(
    lambda name: not {*b"/\0"} & {*name} and name not in (b".", b"..")
)


def view_of(lower: dict[bytes, Kind], upper: dict[bytes, Kind]) -> tuple[View, MemoryLayer]:
    below, above = Node(Kind.DIRECTORY), Node(Kind.DIRECTORY)
    below.children = {name: Node(kind) for name, kind in lower.items()}
    above.children = {name: Node(kind) for name, kind in upper.items()}
    layer = MemoryLayer(above, 2)
    return View(ROOT, layer, MemoryLayer(below, 1)), layer


def rows(view: View) -> list[Row]:
    return listing.rows(view.top(), inode=1, parent_inode=2)


def read_all(view: View, size_bytes: int) -> list[bytes]:
    offset, read = 0, []
    while taken := listing.take(rows(view), offset, size_bytes):
        read += [row.name for row in taken]
        offset = taken[-1].offset + 1
    return read


def test_a_whiteout_hides_and_the_upper_wins_but_a_merged_directory_is_the_lower_one() -> None:
    lower = {b"gone": Kind.FILE, b"both": Kind.FILE, b"dir": Kind.DIRECTORY, b"kind": Kind.FILE}
    upper = {b"gone": Kind.WHITEOUT, b"both": Kind.FILE, b"dir": Kind.DIRECTORY, b"kind": Kind.SYMLINK}
    view, layer = view_of(lower, {**upper, b"new": Kind.FIFO})
    shown = {row.name: (row.kind, row.in_upper) for row in rows(view)[2:]}
    assert shown == {
        b"both": (Kind.FILE, True),
        b"dir": (Kind.DIRECTORY, False),
        b"kind": (Kind.SYMLINK, True),
        b"new": (Kind.FIFO, True),
    }
    layer.top.children[b"dir"].opaque = True
    assert [row.in_upper for row in rows(view) if row.name == b"dir"] == [True]


def test_each_directory_begins_with_itself_and_its_parent() -> None:
    view, _ = view_of({}, {})
    assert [(row.name, row.inode, row.kind) for row in rows(view)] == [
        (b".", 1, Kind.DIRECTORY),
        (b"..", 2, Kind.DIRECTORY),
    ]
    assert listing.directory_links(rows(view)) == 2


@given(st.sets(names), st.sets(names), st.sets(names), st.integers(48, 400))
def test_any_buffer_reads_each_name_once(
    lower: set[bytes], upper: set[bytes], gone: set[bytes], size: int
) -> None:
    hidden = dict.fromkeys(gone, Kind.WHITEOUT)
    view, _ = view_of(dict.fromkeys(lower, Kind.FILE), dict.fromkeys(upper, Kind.FILE) | hidden)
    read = read_all(view, size)
    assert len(read) == len(set(read))
    assert set(read) == {b".", b".."} | ((lower | upper) - gone)


@given(st.sets(names, min_size=2), st.sets(names), st.data())
def test_what_stays_is_read_once_however_the_directory_changes(
    lower: set[bytes], upper: set[bytes], data: st.DataObject
) -> None:
    view, layer = view_of(dict.fromkeys(lower, Kind.FILE), dict.fromkeys(upper, Kind.FILE))
    touched: set[bytes] = set()
    read: list[bytes] = []
    offset = 0
    while taken := listing.take(rows(view), offset, 64):
        read += [row.name for row in taken]
        offset = taken[-1].offset + 1
        name = data.draw(st.sampled_from(sorted(lower | upper)) | names)
        if name in layer.top.children:
            del layer.top.children[name]
        else:
            layer.top.children[name] = Node(data.draw(st.sampled_from([Kind.WHITEOUT, Kind.FILE])))
        touched.add(name)
    stayed = (lower | upper) - touched
    assert sorted(name for name in read if name in stayed) == sorted(stayed)


def test_a_buffer_too_small_for_one_row_is_einval() -> None:
    view, _ = view_of({b"n" * 100: Kind.FILE}, {})
    with pytest.raises(FsError) as failed:
        listing.take(rows(view), listing.after_lower(1, 1), 64)
    assert failed.value.errno == errno.EINVAL
    assert listing.take(rows(view), listing.after_lower(1, 0), 64) == []


@given(st.sets(names))
def test_the_records_are_those_of_getdents(lower: set[bytes]) -> None:
    view, _ = view_of(dict.fromkeys(lower, Kind.SOCKET), {})
    listed = rows(view)
    for encoded, is_64 in ((listing.encode64(listed), True), (listing.encode(listed), False)):
        seen, at = [], 0
        while at < len(encoded):
            inode, offset, size = struct.unpack_from("<QqH", encoded, at)
            record = encoded[at : at + size]
            kind = record[18] if is_64 else record[-1]
            name = record[19 if is_64 else 18 :].split(b"\0")[0]
            seen.append((name, inode, offset, kind))
            at += size
        assert seen == [(row.name, row.inode, row.offset + 1, listing.D_TYPE[row.kind]) for row in listed]


@pytest.mark.parametrize("owed", [(), (b".",), (b"..",), (b".", b"..")])
def test_a_stream_that_is_taken_over_gets_the_dots_that_it_is_owed_once_and_ends(
    owed: tuple[bytes, ...],
) -> None:
    view, _ = view_of({b"a": Kind.FILE, b"b": Kind.FILE}, {b"c": Kind.FILE})
    found = view.at(b"")
    assert found is not None
    bits = sum({b".": 1, b"..": 2}[name] for name in owed)
    offset, seen = listing.after_lower(2, 1, bits), []
    while taken := listing.take(
        listing.rows(found, inode=1, parent_inode=2, owed=listing.owed_at(offset)), offset, 64
    ):
        seen += [row.name for row in taken]
        offset = taken[-1].offset + 1
        assert len(seen) < 10
    assert sorted(seen) == sorted([*owed, b"b", b"c"])
