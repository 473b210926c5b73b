"""The interpreter and sandlockd that tests start, where every user can run them.

A clone of root's own directory has its virtual environment there too, and an ordinary user could run nothing of it.
Then the session works with a copy.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
from pathlib import Path

from harness.ledger import HOME, make_directory


def _everybody_can_reach(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.parents)


def _copy_of(prefix: Path) -> Path:
    directory = make_directory("sandlockd-test-venv", HOME)
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(directory) if os.getpid() == owner else None)
    directory.chmod(0o755)
    copy = directory / "venv"
    shutil.copytree(prefix, copy, symlinks=True)
    for script in (copy / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        text = script.read_bytes()
        if text.startswith(b"#!" + os.fsencode(prefix)):
            script.write_bytes(text.replace(os.fsencode(prefix), os.fsencode(copy), 1))
    return copy


if os.geteuid() == 0 and not _everybody_can_reach(Path(sys.executable)):
    sys.executable = str(_copy_of(Path(sys.prefix)) / "bin" / Path(sys.executable).name)

SANDLOCKD = Path(sys.executable).parent / "sandlockd"
SANDLOCKCTL = SANDLOCKD.with_name("sandlockctl")
