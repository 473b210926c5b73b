"""Every way to ask whether a process is there, for one number: each must give what a free number gives."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from harness.removing import remove_tree
from harness.running import Runner
from security.raw_calls import AT_EMPTY_PATH, AT_FDCWD, Buffer, Bytes, Ref, Script

from sandlockd.kernel.syscalls import ROWS, native_architecture

_NOFOLLOW = 0x100
POLICY = '[filesystem]\nbase = true\n[proc]\npids = "own"\n'


def a_free_number() -> int:
    """Of nobody now, and so far from the last one given that nobody gets it."""
    top = int(Path("/proc/sys/kernel/pid_max").read_text())
    last = int(Path("/proc/loadavg").read_text().split()[-1])
    number = (last + top // 2) % top
    while number < 1000 or Path(f"/proc/{number}").exists():
        number = (number + 1) % top
    return number


def spellings(number: int) -> list[str]:
    """Absolute paths that come by the process, by which way ever."""
    return [
        f"/proc/{number}",
        f"/proc/{number}/",
        f"//proc/./{number}//status",
        f"/proc/{number}/status",
        f"/proc/{number}/task",
        f"/proc/{number}/task/{number}/comm",
        f"/proc/{number}/../version",
        f"/proc/{number}/../self/comm",
        f"/proc/{number}/../../etc/passwd",
        f"/proc/{number}/task/{number}/../../../uptime",
        f"/proc/{number}/root/etc/passwd",
        f"/proc/{number}/cwd",
        f"/proc/{number}/exe",
        f"/proc/{number}/fd/0",
        f"/proc/{number}/ns/mnt",
        f"/proc/self/../{number}",
        f"/proc/self/../{number}/../version",
        f"/proc/self/root/proc/{number}/status",
        f"/proc/thread-self/root/proc/{number}",
        f"/proc/self/task/../../{number}/comm",
        f"/proc/self/cwd/{'../' * 12}proc/{number}/stat",
        f"/usr/../proc/{number}/stat",
        f"/dev/fd/../../{number}/stat",
        f"/etc/mtab/../../../{number}",
        f"/etc/mtab/../{number}",
    ]


def links(number: int) -> dict[str, str]:
    """What links to make, and where they lead."""
    return {
        "process": f"/proc/{number}",
        "root": f"/proc/{number}/root",
        "dots": f"/proc/{number}/../../etc",
        "proc": "/proc",
        "me": "/proc/self/root",
    }


def executables(number: int, work: Path) -> dict[str, bytes]:
    """Scripts and a program whose interpreter is a file of the process, or is found by way of it."""
    return {
        "script": b"#!/proc/%d/exe\n" % number,
        "spaced": b"#! \t/proc/%d/root/usr/bin/env x\n" % number,
        "linked": b"#!%b/process/exe" % os.fsencode(work),
        "nested": b"#!%b/script\n" % os.fsencode(work),
        "dotted": b"#!/proc/self/../%d/../version\n" % number,
        "relative": b"#!proc/%d/exe\n" % number,
        "program": _program(b"/proc/%d/exe\0" % number),
    }


def _program(loader: bytes) -> bytes:
    """An ELF file that asks for a loader, and has nothing more to it."""
    machine = {"x86_64": 62, "aarch64": 183}[os.uname().machine]
    head = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head += struct.pack("=HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    return head + struct.pack("=IIQQQQQQ", 3, 4, 120, 0, 0, len(loader), len(loader), 1) + loader


def _executes(script: Script, work: Path) -> None:
    for name in executables(0, work):
        nothing = Bytes(bytes(8)), Bytes(bytes(8))
        script.execve(work / name, *nothing)
        script.close(script.openat(AT_FDCWD, work / name, os.O_RDONLY))
        script.execve(work / name, *nothing)
        script.access(work / name, os.X_OK)
        script.newfstatat(AT_FDCWD, work / name, Buffer(144), 0)
        script.execve(work / name, *nothing)
        script.execve(work / ".." / work.name / name, *nothing)
        opened = script.openat(AT_FDCWD, work / name, os.O_PATH)
        script.execveat(opened, b"", *nothing, AT_EMPTY_PATH)
        script.close(opened)


def make_links(runner: Runner, number: int) -> None:
    """In the work directory, emptied, with a file. It stays the one that was granted."""
    work = runner.work
    for path in work.iterdir():
        remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, target in links(number).items():
        (work / name).symlink_to(target)
    runner.place.file("work/file", "x")
    for name, content in executables(number, work).items():
        (work / name).write_bytes(content)
        (work / name).chmod(0o755)
    runner.place.give(work)


def through_links(number: int) -> list[str]:
    return [
        *("process", "process/status", "process/../version", "process/task/../../self/comm", "root"),
        *(
            "root/etc/passwd",
            "root/../etc/passwd",
            "dots/passwd",
            "dots",
            f"proc/{number}",
            f"proc/{number}/stat",
        ),
        *(f"proc/self/../{number}/../version", f"me/proc/{number}/comm", f"proc/{number}/root/etc/passwd"),
    ]


def _looks(script: Script, path: str | Path, at: int | Ref = AT_FDCWD) -> None:
    """Calls that only look; at: where a relative path starts."""
    for flags in (
        os.O_RDONLY,
        os.O_PATH,
        os.O_PATH | os.O_NOFOLLOW,
        os.O_RDONLY | os.O_DIRECTORY,
        os.O_WRONLY,
    ):
        script.openat(at, path, flags | os.O_NONBLOCK)
    script.openat(at, path, os.O_RDWR | os.O_CREAT, 0o600)
    script.openat(at, path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    script.newfstatat(at, path, Buffer(144), 0)
    script.newfstatat(at, path, Buffer(144), _NOFOLLOW | AT_EMPTY_PATH)
    script.newfstatat(at, path, Buffer(144), 1 << 20)
    script.statx(at, path, 0, 0x7FF, Buffer(256))
    script.statx(at, path, _NOFOLLOW, 0x7FF, Buffer(256))
    script.statx(at, path, 0x6000, 0x7FF, Buffer(256))
    script.faccessat(at, path, os.F_OK)
    script.faccessat(at, path, 8)
    script.faccessat2(at, path, os.R_OK, 0x200)
    script.readlinkat(at, path, Buffer(256), 256)
    script.readlinkat(at, path, Buffer(256), 0)
    script.name_to_handle_at(at, path, Bytes(struct.pack("=Ii", 128, 0) + bytes(128)), Buffer(8), 0)
    script.name_to_handle_at(at, path, Bytes(struct.pack("=Ii", 128, 0) + bytes(128)), Buffer(8), 1 << 20)


def _absolute_looks(script: Script, path: str | Path) -> None:
    script.open(path, os.O_RDONLY | os.O_NONBLOCK)
    script.stat(path, Buffer(144))
    script.lstat(path, Buffer(144))
    script.access(path, os.F_OK)
    script.readlink(path, Buffer(256), 256)
    script.statfs(path, Buffer(120))
    script.getxattr(path, b"user.x", Buffer(64), 64)
    script.lgetxattr(path, b"", Buffer(64), 64)
    script.listxattr(path, Buffer(64), 64)
    watches = script.inotify_init1(0)
    script.inotify_add_watch(watches, path, 2)
    script.inotify_add_watch(-1, path, 2)
    script.chdir(path)
    script.chdir(b"/")


def _changes(script: Script, path: str | Path, work: Path) -> None:
    """None of them does anything to what is not there."""
    script.chmod(path, 0o600)
    script.fchmodat(AT_FDCWD, path, 0o600)
    script.chown(path, os.geteuid(), -1)
    script.lchown(path, os.geteuid(), -1)
    script.utimensat(AT_FDCWD, path, 0, 0)
    script.utime(path, 0)
    script.setxattr(path, b"user.x", b"y", 1, 0)
    script.removexattr(path, b"user.x")
    script.truncate(path, 0)
    script.mkdir(path, 0o700)
    script.rmdir(path)
    script.unlink(path)
    script.unlinkat(AT_FDCWD, path, 0x200)
    script.mknod(path, 0o100600, 0)
    script.symlink(b"x", path)
    script.rename(path, work / "taken")
    script.rename(work / "file", path)
    script.rename(work / "missing" / "file", path)
    script.link(path, work / "taken")
    script.link(work / "file", path)
    script.execve(path, Bytes(bytes(8)), Bytes(bytes(8)))


def paths(number: int, work: Path) -> Script:
    """By every path, with every call."""
    script = Script()
    _executes(script, work)
    for path in (*spellings(number), *(work / name for name in through_links(number))):
        _looks(script, path)
        _absolute_looks(script, path)
        _changes(script, path, work)
    for directory in ("/proc", "/proc/self", "/", str(work)):
        opened = script.openat(AT_FDCWD, directory, os.O_PATH)
        back = {"/proc": "", "/proc/self": "../", "/": "proc/", str(work): "proc/"}[directory]
        for rest in ("", "/status", "/../version", "/root/etc/passwd", "/task", "/."):
            _looks(script, f"{back}{number}{rest}", opened)
    for directory in ("/proc", "/proc/self/task"):
        script.chdir(directory.encode())
        for rest in ("", "/comm", "/../version"):
            _looks(script, f"{'../' * (directory.count('/') * 2 - 2 and 2)}{number}{rest}")
            _absolute_looks(script, f"./{number}{rest}")
            script.chdir(directory.encode())
    return script


def numbers(number: int) -> Script:
    """With every call that takes a number."""
    script = Script()
    info = Bytes(struct.pack("=iii", 0, 0, -1) + bytes(116))
    for high in (0, 1 << 32):
        one = high | number
        for signal in (0, 10, 999):
            script.kill(one, signal)
            script.kill(-number, signal)
            script.tkill(one, signal)
            script.tgkill(one, one, signal)
            script.rt_sigqueueinfo(one, signal, info)
            script.rt_tgsigqueueinfo(one, one, signal, info)
        script.getpgid(one)
        script.getsid(one)
        for which in range(4):
            script.getpriority(which, one)
            script.ioprio_get(which, one)
        script.setpriority(0, one, 19)
        script.ioprio_set(1, one, 3 << 13)
        script.sched_getparam(one, Buffer(4))
        script.sched_getscheduler(one)
        script.sched_rr_get_interval(one, Buffer(16))
        script.sched_getaffinity(one, 128, Buffer(128))
        script.sched_getattr(one, Buffer(64), 64, 0)
        script.sched_setparam(one, Bytes(bytes(4)))
        script.sched_setscheduler(one, 0, Bytes(bytes(4)))
        script.sched_setaffinity(one, 8, Bytes(struct.pack("=Q", 3)))
        script.sched_setattr(one, Bytes(struct.pack("=IIQiI", 48, 0, 0, 0, 0) + bytes(24)), 0)
        script.prlimit64(one, 7, 0, Buffer(16))
        script.prlimit64(one, 7, Bytes(struct.pack("=QQ", 50, 60)), 0)
        script.get_robust_list(one, Buffer(8), Buffer(8))
        for flags in (0, os.O_NONBLOCK, os.O_EXCL, 1 << 20):
            script.pidfd_open(one, flags)
        script.waitid(1, one, Buffer(128), 5, 0)
        script.wait4(one, Buffer(4), 1, 0)
        script.setpgid(one, 0)
        script.setpgid(one, one)
        script.setpgid(0, one)
        script.capget(Bytes(struct.pack("=Ii", 0x20080522, number)), Buffer(24))
        script.process_vm_readv(one, 0, 0, 0, 0, 0)
        script.process_vm_writev(one, 0, 0, 0, 0, 0)
        script.kcmp(one, one, 0, 0, 0)
        script.kcmp(0, one, 0, 0, 0)
        script.migrate_pages(one, 0, 0, 0)
        script.move_pages(one, 0, 0, 0, 0, 0)
        script.ptrace(16, one, 0, 0)
        script.ptrace(0x4206, one, 0, 0)
        script.prctl(62, 0, one, 0, Buffer(8))
        script.prctl(0x59616D61, number, 0, 0, 0)
        for bits in (0, 1, 2, 4, 6):
            clock = (~number << 3 | bits) & 0xFFFFFFFF
            script.clock_gettime(clock, Buffer(16))
            script.clock_getres(clock, Buffer(16))
            script.clock_nanosleep(clock, 0, Bytes(bytes(16)), 0)
            script.timer_create(clock, 0, Buffer(8))
        script.socketpair(1, 1, 0, Buffer(8))
        namespace = script.openat(AT_FDCWD, b"/proc/self/ns/pid", os.O_RDONLY)
        for command in range(0x8004B706, 0x8004B70A):
            script.ioctl(namespace, command, number)
        event = Bytes(struct.pack("=qiii", 0, 10, 4, number) + bytes(44))  # SIGEV_THREAD_ID
        script.timer_create(0, event, Buffer(4))
        for command in (0x5410, 0x8901, 0x8902):  # TIOCSPGRP, FIOSETOWN, SIOCSPGRP
            for signed in (number, -number):
                script.ioctl(0, command, Bytes(struct.pack("=i", signed)))
                script.ioctl(namespace, command, Bytes(struct.pack("=i", signed)))
        ends = script.eventfd2(0, 0)
        script.fcntl(ends, 8, number)
        script.fcntl(ends, 8, -number)
        for kind in range(3):
            script.fcntl(ends, 15, Bytes(struct.pack("=ii", kind, number)))
    return script


def every_call(number: int) -> Script:
    """Each call of the table that takes a path or a number, with this one and zeros."""
    script = Script(each_alone=True)
    for row in ROWS:
        if row.number(native_architecture()) is None or row.name in _NOT_ASKED:
            continue
        for path in row.paths:
            args: list[int | bytes] = [0] * 6
            args[path.position] = b"/proc/%d/task" % number
            if path.dirfd >= 0:
                args[path.dirfd] = AT_FDCWD
            getattr(script, row.name)(*args)
        for position in row.pids:
            args = [0] * 6
            args[position] = number
            getattr(script, row.name)(*args)
    return script


# They end the child that makes the calls, or wait.
_NOT_ASKED = frozenset(("wait4", "waitid"))


def moved(line: str, by: int) -> str:
    """A line of a script, behind so many others."""
    return " ".join(f"${int(word[1:]) + by}" if word.startswith("$") else word for word in line.split())
