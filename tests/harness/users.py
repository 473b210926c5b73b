"""Whom a test runs as: root, and an ordinary user who exists for the test session only."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.ledger import new_user_name
from harness.removing import remove_tree
from harness.waiting import until

# Where everybody can make files.
_SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")
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

    def command(self, command: Sequence[Any]) -> list[Any] | None:
        """A command line that runs another one as this user; None where there is none.

        Quicker than popen_arguments(), for which subprocess copies the process that asks, with all that it has.
        """
        if os.geteuid() == self.uid:
            return list(command)
        setpriv = shutil.which("setpriv", path=_ADMINISTRATION["PATH"])
        ids = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        return None if setpriv is None else [setpriv, *ids, "--", *command]

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
    """An ordinary user with a group of its own; gone afterwards, with all that it has in places that are everybody's.

    Needs root.
    Raises: CalledProcessError, FileNotFoundError: the machine's useradd could not. AssertionError: it had something.
    """
    name = new_user_name()
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    subprocess.run(
        [*command, "--shell", "/bin/sh", name], check=True, capture_output=True, env=_ADMINISTRATION
    )
    try:
        entry = pwd.getpwnam(name)
        # What somebody had who had this number before.
        before = shared_of(entry.pw_uid)
        yield User(name, entry.pw_uid, entry.pw_gid)
        left = [one for one in shared_of(entry.pw_uid) if one not in before]
        processes = processes_of(entry.pw_uid)
    finally:
        remove_user(name)
    for one in left:
        _remove(one)
    assert not (left or processes), f"left behind by {name}: {', '.join(left + processes)}"


def remove_user(name: str) -> None:
    """With its processes, without which it would stay."""
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return
    end_processes(uid)
    subprocess.run(["userdel", name], check=True, capture_output=True, env=_ADMINISTRATION)


def end_processes(uid: int) -> None:
    """All of an ordinary user's, at once. Needs root."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)  # all but this one
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    until(lambda: not processes_of(uid), f"the end of the processes of {uid}")


def processes_of(uid: int) -> list[str]:
    """Those that live, by number and name."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            lines = dict(
                line.split(":\t", 1) for line in Path(f"/proc/{name}/status").read_text().splitlines()
            )
            if str(uid) in lines["Uid"].split() and lines["State"][0] not in "ZX":
                found.append(f"process {name} ({lines['Name']})")
    return found


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


def shared_of(uid: int) -> list[str]:
    """What a user has where everybody can make files, and of System V's segments, queues and semaphores."""
    found = []
    for above in _SHARED:
        with contextlib.suppress(FileNotFoundError), os.scandir(above) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_uid == uid:
                        found.append(entry.path)
    for kind in ("shm", "sem", "msg"):
        with contextlib.suppress(FileNotFoundError):
            head, *rows = Path("/proc/sysvipc", kind).read_text().splitlines()
            column = head.split().index("uid")
            found += [f"{kind} {row.split()[1]}" for row in rows if row.split()[column] == str(uid)]
    return found


def _remove(shared: str) -> None:
    if not shared.startswith("/"):
        kind, number = shared.split()
        subprocess.run(["ipcrm", kind, number], check=True, capture_output=True)
    elif os.path.isdir(shared) and not os.path.islink(shared):
        remove_tree(Path(shared))
    else:
        os.unlink(shared)
