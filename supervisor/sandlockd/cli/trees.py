"""The copy-on-write tree of a run: its storage is made, or the run does not start."""

from __future__ import annotations

import _thread
import os

from sandlockd.launch.prepare import CannotStart
from sandlockd.store import storage
from sandlockd.store.tree import Tree


def make_tree(workdir: bytes, base: bytes, run_id: str) -> Tree:
    """<base>/runs/<run id>/tree. Raises CannotStart."""
    path = os.path.join(base, b"runs", os.fsencode(run_id), b"tree")
    root = os.path.realpath(workdir)
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        os.mkdir(path, 0o700)
        made = storage.create(path, root)
    except storage.StorageError as error:
        raise CannotStart(str(error)) from None
    except OSError as error:
        raise CannotStart(
            f"{os.fsdecode(path)}: the storage of changes cannot be made: {error.strerror}"
        ) from None
    return Tree(root, made, _thread.allocate_lock())
