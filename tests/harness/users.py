"""Whom a test runs as: root, and an ordinary user who exists for the test session only."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Where useradd is, also for somebody whose PATH leaves it out.
_ADMINISTRATION = {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


@dataclass(frozen=True)
class User:
    """Somebody with a name in /etc/passwd."""

    name: str
    uid: int
    gid: int

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    def popen_arguments(self) -> dict[str, Any]:
        """What subprocess needs to start a process as this user."""
        if os.geteuid() == self.uid:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def current() -> User:
    entry = pwd.getpwuid(os.geteuid())
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


@contextlib.contextmanager
def temporary_user() -> Iterator[User]:
    """An ordinary user with a group of its own; gone afterwards. Needs root.

    Raises: CalledProcessError, FileNotFoundError: the machine's useradd could not.
    """
    name = f"slt{os.getpid()}"
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    subprocess.run(
        [*command, "--shell", "/bin/sh", name], check=True, capture_output=True, env=_ADMINISTRATION
    )
    try:
        entry = pwd.getpwnam(name)
        yield User(name, entry.pw_uid, entry.pw_gid)
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True, env=_ADMINISTRATION)


def why_unable_to_run(user: User) -> str | None:
    """None when the user can run this interpreter with the package; else the reason, for a skip."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import sandlockd.cli.run"],
            cwd="/",
            capture_output=True,
            text=True,
            **user.popen_arguments(),
        )
    except OSError as error:
        last = str(error)
    else:
        if tried.returncode == 0:
            return None
        last = (tried.stderr.strip().splitlines() or ["no message"])[-1]
    return f"{user.name} cannot run the interpreter below {sys.prefix}: {last}"
