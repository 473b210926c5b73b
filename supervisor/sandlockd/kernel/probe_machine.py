"""What else of the machine a run uses or may use later: processes, directories, file systems."""

from __future__ import annotations

import os
import platform
import stat
import tempfile

from sandlockd.kernel import memory, orphans, pidfd, procfs
from sandlockd.kernel.native import check, ffi, lib
from sandlockd.kernel.probe import Broken, Missing

_HELD_FOR_NS = 20_000_000


def kernel_version() -> str:
    return f"Linux {platform.release()} on {platform.machine()}"


def process_memory() -> str:
    """A child's memory, which differs from ours at the same address (process_vm_readv(2))."""
    text = ffi.new("char[16]", b"of the parent")
    address = int(ffi.cast("uintptr_t", text))
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        ffi.buffer(text)[:12] = b"of the child"
        os.write(tell, b"r")
        signal_wait()
    try:
        os.read(ready, 1)
        found = memory.read_memory(pid, address, 12)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    if found != b"of the child":
        raise Broken(f"read {found!r}, not what the child holds")
    return "a child's memory can be read"


def signal_wait() -> None:
    """Until killed."""
    import signal

    while True:
        signal.pause()


def pidfd_identity() -> str:
    """A process is told from a later one of the same number by an inode that is never given again (Linux 6.9)."""
    births = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            signal_wait()
        with pidfd.open_pidfd(pid) as owned:
            again = os.pidfd_open(pid)
            same = os.fstat(owned.fd).st_ino == os.fstat(again).st_ino
            births.append(os.fstat(owned.fd).st_ino)
            os.close(again)
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            if not pidfd.is_dead(owned.fd):
                raise Broken("a dead process is said to live")
        if not same:
            raise Broken("two descriptors of one process differ")
    if births[0] == births[1]:
        raise Missing("pidfds share one inode; the start time is used instead")
    return "each process has an inode of its own"


def subreaper() -> str:
    """An orphan of our descendants becomes our child."""
    orphans.remember_children()
    orphans.become_subreaper()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        orphan = os.fork()
        if orphan == 0:
            os.close(writing)
            signal_wait()
        os.write(writing, orphan.to_bytes(4, "little"))
        os._exit(0)
    os.waitpid(child, 0)
    orphan = int.from_bytes(os.read(reading, 4), "little")
    parent = procfs.parent_of(orphan)
    orphans.kill_orphans()
    if parent != os.getpid():
        raise Broken(f"an orphan went to process {parent}")
    return "orphans come to init"


def held_processes() -> str:
    """Who computes is held by ptrace(2), where no cgroup keeps limits.cpu, and is let go again."""
    held, free = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    check(lib.slk_throttle_try(_HELD_FOR_NS, held, free))
    held_ns, free_ns = int(held[0]), int(free[0])
    if held_ns > _HELD_FOR_NS // 10:
        raise Broken(f"who was held used {held_ns // 1000} microseconds of a processor")
    if not free_ns:
        raise Broken("who was let go does not go on")
    return "for limits.cpu, who computes can be held, and let go"


def temporary_directory() -> str:
    """Where a program's private directory is made: a file there can be written and executed."""
    parent = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="sandlockd-doctor-", dir=parent) as path:
        script = os.path.join(path, "script")
        with open(script, "w") as file:
            file.write("#!/bin/sh\nexit 0\n")
        os.chmod(script, 0o700)
        if stat.S_IMODE(os.stat(path).st_mode) != 0o700:
            raise Broken(f"{parent}: a private directory is not private there")
        if os.statvfs(path).f_flag & os.ST_NOEXEC:
            return f"{parent}, mounted noexec: what a program builds there cannot be run"
    return parent


def user_xattrs(scratch: str) -> str:
    path = os.path.join(scratch, "file")
    with open(path, "w"):
        pass
    os.setxattr(path, "user.overlay.opaque", b"y")
    if os.getxattr(path, "user.overlay.opaque") != b"y":
        raise Broken("an extended attribute did not stay")
    return f"user.* attributes on {scratch}"


def whiteouts(scratch: str) -> str:
    """Character device 0:0, which an ordinary user may make (Linux 5.8)."""
    path = os.path.join(scratch, "whiteout")
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0))
    if not stat.S_ISCHR(os.lstat(path).st_mode):
        raise Broken("it is not a character device")
    return f"whiteouts on {scratch}"
