"""Every call that names a file or changes what a descriptor leads to, as a plan for attacks/every_call.c.

What is here is compared with the table of system calls: a call that is new there must be added here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.running import Ended, Runner
from security.raw_calls import program

from sandlockd.kernel.syscalls import ROWS, Kind, Treatment, number_of

# How a path is swapped, and a descriptor: see attacks/every_call.c.
_PATH, _PATH_AT, _FD = "tldc", "tldcf", "o"
_WAYS_OF_PROCESSES = 3


@dataclass(frozen=True)
class Call:
    """One line of the plan. name: of what is swapped: canary, new (is not there), empty (a directory), sub, script."""

    syscall: str
    words: str
    name: str = "canary"

    @property
    def how(self) -> str:
        if self.syscall.startswith("exec"):
            return "x"
        return "r" if self.name in ("new", "fifo", "empty") or self.syscall.startswith(_MOVES) else "-"

    @property
    def only_tells(self) -> bool:
        """Of nothing that is not visible anyway. Whether it is there, its stat."""
        words = self.words.split()
        return self.syscall in _TELLS or words in (["p", f"i{os.O_PATH}"], ["d", "p", f"h{os.O_PATH}", "i24"])

    @property
    def label(self) -> str:
        return f"{self.syscall}:{self.words}:{self.name}".replace(" ", ",")[:60]

    @property
    def ways(self) -> str:
        words = self.words.split()
        if "o" in words:
            return _FD
        if self.syscall in ("chdir", "fchdir") or self.how == "x":
            return "tld"
        return _PATH_AT if "d" in words else _PATH


_MOVES: Final = ("rename", "unlink", "rmdir", "link", "chdir", "fchdir")
_TELLS: Final = (
    "stat lstat newfstatat statx statfs access faccessat faccessat2 readlink readlinkat name_to_handle_at chdir fstat"
    " fchdir listxattr llistxattr flistxattr inotify_add_watch"
).split()


def _s(text: str) -> str:
    return "s" + text.encode().hex()


_AT: Final = "i-100"
_NOFOLLOW: Final = f"i{0x100}"
_RAW: Final[list[tuple[str, ...]]] = [
    ("open", f"p i{os.O_RDWR}"),
    ("open", "p i3"),  # the fourth access mode
    ("open", f"p i{os.O_RDONLY}"),
    ("open", f"p i{os.O_WRONLY | os.O_TRUNC}"),
    ("open", f"p i{os.O_RDONLY | os.O_DIRECTORY}", "sub"),
    ("open", f"p i{os.O_RDWR | os.O_CREAT} i420", "new"),
    ("open", f"p i{os.O_RDWR | os.O_CREAT | os.O_EXCL} i420", "new"),
    ("open", f"p i{os.O_RDWR | os.O_TMPFILE} i420", "empty"),
    ("open", f"p i{os.O_PATH}"),
    ("creat", "p i420"),
    ("creat", "p i420", "new"),
    ("openat", f"d p i{os.O_RDWR}"),
    ("openat", f"d p i{os.O_RDONLY | os.O_DIRECTORY}", "sub"),
    ("openat", f"d p i{os.O_RDWR | os.O_CREAT} i420", "new"),
    ("openat2", f"d p h{os.O_RDWR} i24"),
    ("openat2", f"d p h{os.O_PATH} i24"),
    ("stat", "p b"),
    ("lstat", "p b"),
    ("newfstatat", "d p b i0"),
    ("statx", f"d p i0 i{0x7FF} b"),
    ("statfs", "p b"),
    ("access", "p i4"),
    ("faccessat", "d p i4"),
    ("faccessat2", "d p i4 i0"),
    ("readlink", f"p b i{4096}", "link"),
    ("readlinkat", f"d p b i{4096}", "link"),
    ("name_to_handle_at", "d p k z i0"),
    ("chdir", "p", "sub"),
    ("truncate", "p i3"),
    ("rename", "p x"),
    ("rename", "y p", "new"),
    ("rename", "y p"),
    ("renameat", f"d p {_AT} x"),
    ("renameat", f"{_AT} y d p", "new"),
    ("renameat2", f"d p {_AT} x i1"),
    ("renameat2", f"{_AT} y d p i1", "new"),
    ("renameat2", f"d p {_AT} y i2"),
    ("renameat2", f"{_AT} y d p i0"),
    ("mkdir", "p i493", "new"),
    ("mkdirat", "d p i493", "new"),
    ("rmdir", "p", "empty"),
    ("unlink", "p"),
    ("unlinkat", "d p i0"),
    ("unlinkat", f"d p i{0x200}", "empty"),
    ("link", "p x"),
    ("link", "y p", "new"),
    ("linkat", f"d p {_AT} x i0"),
    ("linkat", f"d p {_AT} x i{0x400}"),
    ("linkat", f"{_AT} y d p i0", "new"),
    ("symlink", f"{_s('/etc')} p", "new"),
    ("symlinkat", f"{_s('/etc')} d p", "new"),
    ("mknod", f"p i{stat.S_IFREG | 0o644} i0", "new"),
    ("mknod", f"p i{stat.S_IFIFO | 0o644} i0", "fifo"),  # a name that nobody opens, and then waits
    ("mknodat", f"d p i{stat.S_IFREG | 0o644} i0", "new"),
    ("mknodat", f"d p i{stat.S_IFSOCK | 0o644} i0", "new"),
    ("chmod", f"p i{0o604}"),
    ("fchmodat", f"d p i{0o604}"),
    ("fchmodat2", f"d p i{0o604} i0"),
    ("fchmodat2", f"d p i{0o604} {_NOFOLLOW}"),
    ("chown", "p OWNER GROUP"),
    ("lchown", "p OWNER GROUP"),
    ("fchownat", "d p OWNER GROUP i0"),
    ("utime", "p z"),
    ("utimes", "p z"),
    ("futimesat", "d p z"),
    ("utimensat", "d p z i0"),
    ("utimensat", f"d p z {_NOFOLLOW}"),
    ("setxattr", f"p {_s('user.raced')} {_s('x')} i1 i0"),
    ("lsetxattr", f"p {_s('user.raced')} {_s('x')} i1 i0"),
    ("getxattr", f"p {_s('user.canary')} b i4096"),
    ("lgetxattr", f"p {_s('user.canary')} b i4096"),
    ("listxattr", "p b i4096"),
    ("llistxattr", "p b i4096"),
    ("removexattr", f"p {_s('user.canary')}"),
    ("lremovexattr", f"p {_s('user.canary')}"),
    ("inotify_add_watch", f"n p i{0xFFF}"),
    ("execve", "p v v", "script"),
    ("execveat", "d p v v i0", "script"),
    ("fstat", "o b"),
    ("fchdir", "o", "sub"),
    ("fchmod", f"o i{0o604}"),
    ("fchown", "o OWNER GROUP"),
    ("ftruncate", "o i3"),
    ("fallocate", "o i0 i0 i3"),
    ("fsetxattr", f"o {_s('user.raced')} {_s('x')} i1 i0"),
    ("fgetxattr", f"o {_s('user.canary')} b i4096"),
    ("flistxattr", "o b i4096"),
    ("fremovexattr", f"o {_s('user.canary')}"),
    ("getdents", "o b i4096", "sub"),
    ("getdents64", "o b i4096", "sub"),
    ("ioctl", f"o i{0x40086602} z"),  # FS_IOC_SETFLAGS
    ("fchmodat2", f"o {_s('')} i{0o604} i{0x1000}"),
    ("fchownat", f"o {_s('')} OWNER GROUP i{0x1000}"),
    ("linkat", f"o {_s('')} {_AT} x i{0x1000}"),
    ("openat2", f"o {_s('the-canary-listed')} h{os.O_RDWR} i24", "sub"),
]
CALLS: Final = [Call(*row) for row in _RAW]

# Calls with a path or a descriptor that have nothing to race, and why.
NOT_RACED: Final = {
    "umount2 mount pivot_root chroot acct swapon swapoff quotactl": "refused whatever they name",
    "bind connect getsockopt": "raced in test_unix_sockets.py",
    "inotify_rm_watch": "of a watch, whose path was judged",
    "process_madvise process_mrelease": "of processes",
    "splice vmsplice": "with limits.memory only, and then refused whatever they name",
    "mmap": "of a descriptor that was judged when it was opened; what a race may gain stands in the security model",
}


def to_be_raced() -> Iterable[str]:
    """The names of all calls of the table that are judged by what they name."""
    for row in ROWS:
        if row.number("x86_64") is None or row.treatment in (Treatment.REFUSE, Treatment.ENOSYS):
            continue
        if row.kind is Kind.PATH or (row.kind is Kind.DESCRIPTOR and row.treatment is not Treatment.PASS):
            yield row.name


@dataclass(frozen=True)
class Counted:
    """What a call came to while it was raced in one way."""

    label: str
    way: str
    calls: int
    met: int
    began_allowed: int
    began_denied: int
    succeeded: int
    leaks: int


def command(
    runner: Runner,
    mode: str,
    limit_ms: int,
    denied: Path,
    calls: Iterable[Call] = CALLS,
    *,
    repair: bool = False,
) -> list[Any]:
    """denied: a directory like that of canaries.outside."""
    user = runner.place.user
    owner, group = ("i1", "i1") if user.is_root else (f"i{user.uid}", f"i{user.gid}")
    lines = []
    for call in calls:
        number = number_of(call.syscall)
        if number < 0:  # another architecture
            continue
        ways = (
            call.ways.replace("c", "").replace("f", "").replace("o", "") if mode == "processes" else call.ways
        )
        if ways:
            words = call.words.replace("OWNER", owner).replace("GROUP", group)
            lines.append(f"{call.label} {number} {call.name} {ways} {call.how} {words}")
    plan = runner.place.file("plan/calls", "\n".join(lines) + "\n")
    places = [runner.work / "allowed", denied, runner.work / "scratch"]
    line = [program(runner, "every_call"), mode, str(limit_ms), *places, plan]
    return [*line, "repair"] if repair else line


def prepare(runner: Runner, denied: Path) -> None:
    """What is allowed is a directory of the same names, beside one to work in."""
    (denied / "sub/the-canary-listed").write_bytes(b"the-canary-listed")
    runner.place.give(denied)
    for name, content in (("canary", "allowed"), ("script", "#!/bin/sh\n"), ("sub/canary", "allowed")):
        runner.place.file(f"work/allowed/{name}", content, 0o755 if name == "script" else 0o644)
    runner.place.file("work/scratch/beside", "beside")
    (runner.work / "allowed/empty").mkdir()
    (runner.work / "allowed/link").symlink_to("canary")
    os.setxattr(runner.work / "allowed/canary", "user.canary", b"allowed")
    runner.place.give(runner.work)


def counted(ended: Ended) -> list[Counted]:
    assert ended.returncode == 0, ended
    found = []
    for line in ended.stdout.decode().splitlines():
        label, way, *numbers = line.split()
        found.append(Counted(label, way, *map(int, numbers)))
    return found
