"""Takes chosen changes out of the upper, so that the lower tree shows again there. The real tree is not touched."""

from __future__ import annotations

import itertools
import os

from sandlockd.kernel import beneath
from sandlockd.overlay.changes import Change, What
from sandlockd.overlay.commit import Refused, choose
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.view import View
from sandlockd.store.inspector import facts_of
from sandlockd.store.real_tree import above, last, make_like
from sandlockd.store.removal import remove
from sandlockd.store.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_RESTORING = frozenset({What.DELETED, What.MODIFIED, What.METADATA, What.REPLACED})


def discard(storage: Storage, view: View, changes: Collection[Change], chosen: Collection[bytes]) -> None:
    """The changes at and below the chosen paths; a rename is both its names. A kill leaves some of them.

    Raises:
        Refused: what was there before cannot come to light without something that was not chosen.
        OSError.
    """
    rows = choose(changes, chosen)
    restored = {row.path for row in rows if row.what in _RESTORING}
    restored |= {row.source for row in rows if row.source is not None}
    for path in sorted(restored):
        _require_through(view, path, restored)
    numbers = itertools.count()
    # What lies deeper first; a name that another object was moved away from when that has gone.
    for row in sorted(rows, key=lambda row: row.path, reverse=True):
        if row.what is What.METADATA and row.facts is not None and row.facts.kind is Kind.DIRECTORY:
            _give_metadata_back(storage, row.path)
        else:
            _take_out(storage, row.path, next(numbers))
    for source in sorted((row.source for row in rows if row.source is not None), reverse=True):
        _take_out(storage, source, next(numbers))


def _require_through(view: View, path: bytes, restored: Collection[bytes]) -> None:
    parent = above(path)
    if not path or parent in restored:
        return
    found = view.at(parent)
    if found is None or found.lower is None:
        shown = os.fsdecode(parent)
        raise Refused(path, f"{shown!r} was made anew, or is gone: choose that, too")


def _give_metadata_back(storage: Storage, path: bytes) -> None:
    with (
        beneath.open_below(storage.workdir.fd, path, os.O_PATH) as lower,
        beneath.open_below(storage.upper.fd, path, os.O_PATH) as upper,
    ):
        make_like(lower, upper, facts_of(lower))


def _take_out(storage: Storage, path: bytes, number: int) -> None:
    """At once, into work: that is swept, if we are killed."""
    name = b"#discarded-%d" % number
    try:
        with beneath.open_directory(storage.upper.fd, above(path)) as parent:
            beneath.rename(parent, last(path), storage.work, name, beneath.RENAME_NOREPLACE)
    except (FileNotFoundError, NotADirectoryError):
        return  # it went with a directory, or never was in the upper
    remove(storage.work, name)
