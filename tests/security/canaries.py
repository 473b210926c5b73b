"""Things outside of the policy, and whether an attack has touched them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.running import Runner
from harness.waiting import line_of

SECRET = b"the-canary-sings-7f3a"
ATTRIBUTE = "user.canary"
ATTRIBUTE_SECRET = b"the-canary-hums-91c2"

# Path below the root -> what was found there.
Snapshot = dict[str, dict[str, Any]]


def snapshot(root: Path) -> Snapshot:
    """Content, mode, owner, times, attributes and links of everything at and below root. Access times apart:
    looking changes them."""
    found: Snapshot = {}
    for path in (root, *sorted(root.rglob("*"))):
        status = path.lstat()
        facts: dict[str, Any] = {
            "mode": stat.filemode(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "mtime": status.st_mtime_ns,
            "links": status.st_nlink,
            "size": status.st_size,
        }
        if not path.is_symlink():
            names = os.listxattr(path)
            facts["attributes"] = {name: os.getxattr(path, name) for name in names}
        if path.is_symlink():
            facts["content"] = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            facts["content"] = path.read_bytes()
        found[str(path.relative_to(root))] = facts
    return found


def changed(before: Snapshot, after: Snapshot) -> set[str]:
    """What differs: names of facts, "created", "removed"."""
    aspects = set()
    if after.keys() - before.keys():
        aspects.add("created")
    if before.keys() - after.keys():
        aspects.add("removed")
    for name in before.keys() & after.keys():
        one, other = before[name], after[name]
        aspects |= {fact for fact in one.keys() | other.keys() if one.get(fact) != other.get(fact)}
    return aspects


def outside(runner: Runner, name: str = "outside") -> Path:
    """A directory of the user's that no policy of these tests grants, with a canary in it."""
    directory = runner.place.root / name
    runner.place.file(f"{name}/canary", SECRET, 0o640)
    runner.place.file(f"{name}/script", "#!/bin/sh\necho " + SECRET.decode() + "\n", 0o755)
    (directory / "sub").mkdir()
    (directory / "empty").mkdir()
    runner.place.file(f"{name}/sub/canary", SECRET, 0o600)
    os.symlink("canary", directory / "link")
    os.setxattr(directory / "canary", ATTRIBUTE, ATTRIBUTE_SECRET)
    runner.place.give(directory)
    os.utime(directory / "canary", ns=(10**18, 10**18))
    return directory


class Victim:
    """A process of the same user outside of any sandbox, which waits."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def facts(self) -> dict[str, Any]:
        """What a program may try to change about it. Raises ProcessLookupError."""
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        return {
            "nice": os.getpriority(os.PRIO_PROCESS, self.pid),
            "affinity": sorted(os.sched_getaffinity(self.pid)),
            "policy": os.sched_getscheduler(self.pid),
            "limits": Path(f"/proc/{self.pid}/limits").read_text(),
            "io": _libc.syscall(252, 1, self.pid),  # ioprio_get
            "signals": [status[name] for name in ("SigPnd", "ShdPnd", "SigIgn", "SigCgt")],
            "stopped": status["State"][0] in "TtZX",
            "tracer": status["TracerPid"],
            "oom": Path(f"/proc/{self.pid}/oom_score_adj").read_text(),
            "group": Path(f"/proc/{self.pid}/autogroup").read_text() if _autogroup() else "",
        }


_libc = ctypes.CDLL(None)


def _autogroup() -> bool:
    return Path("/proc/self/autogroup").exists()


# Prints the address of its secret, then waits until stdin closes. It holds a pipe, a memfd and a deleted file,
# each with the secret, as descriptors 10, 11 and 12.
VICTIM_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char secret[64];

int main(int argc, char **argv)
{
	int ends[2], memfd = memfd_create("victim", 0), file;
	char byte;

	strcpy(secret, argv[1]);
	if (pipe(ends) < 0 || write(ends[1], secret, strlen(secret)) < 0 || write(memfd, secret, strlen(secret)) < 0)
		return 1;
	file = open(argv[2], O_RDWR | O_CREAT | O_EXCL, 0600);
	if (file < 0 || write(file, secret, strlen(secret)) < 0 || unlink(argv[2]) < 0)
		return 2;
	dup2(ends[0], 10);
	dup2(memfd, 11);
	dup2(file, 12);
	fchmod(10, 0600);
	fchmod(11, 0600);
	printf("%lu\n", (unsigned long)secret);
	fflush(stdout);
	return (int)read(0, &byte, 1);
}
"""


@contextlib.contextmanager
def victim(runner: Runner, directory: Path | None = None) -> Iterator[tuple[Victim, int]]:
    """(the process, the address of the secret in its memory)."""
    program = runner.compiler.compile(VICTIM_SOURCE)
    deleted = (directory or runner.place.home) / "deleted"
    arguments = runner.popen_arguments(
        runner.place.home, env={"VICTIM_SECRET": SECRET.decode()}, stdin=subprocess.PIPE
    )
    with subprocess.Popen(
        [program, SECRET, deleted], stdout=subprocess.PIPE, start_new_session=True, **arguments
    ) as process:
        assert process.stdout is not None
        try:
            address = int(line_of(process.stdout.fileno()))
            yield Victim(process), address
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
