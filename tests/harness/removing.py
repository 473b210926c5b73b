"""Removing what a test has made."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def remove_tree(path: Path) -> None:
    """All of it, however deep and whatever modes a test left behind (we own it, or are root).

    Directories are moved to the top before they are emptied: no path grows longer than two names below it.
    """
    if not os.path.lexists(path):
        return
    path.chmod(0o700)
    mark = secrets.token_hex(4)  # a removal that was killed may have left its own
    waiting, moved = [str(path)], 0
    while waiting:
        directory = waiting.pop()
        with os.scandir(directory) as entries:
            for entry in list(entries):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                moved += 1
                target = path / f".removing-{mark}-{moved}"
                os.rename(entry.path, target)
                waiting.append(str(target))
        if directory != str(path):
            os.rmdir(directory)
    path.rmdir()
