"""Facts about a process from /proc/<pid>. Raises OSError (ENOENT, ESRCH) when it is gone.

Whoever reads here asks afterwards whether the notification is still valid: the number may be a stranger's by now.
"""

from __future__ import annotations

import collections
import errno
import os

from sandlockd.kernel.native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Status(NamedTuple):
        tgid: int  # the leader
        ppid: int
        uids: tuple[int, ...]  # real, effective, saved, file system
        gids: tuple[int, ...]
        groups: tuple[int, ...]  # supplementary
        umask: int
        capabilities: int  # effective

else:  # without importing typing
    Status = collections.namedtuple("Status", "tgid ppid uids gids groups umask capabilities")

_FILE_SIZE = b"Max file size"  # proc_pid_limits(5)


def status(tid: int) -> Status:
    native = ffi.new("struct slk_status *")
    result = lib.slk_status(tid, native)
    if result == -errno.E2BIG:
        return long_status(tid)
    check(result)
    count = native.group_count
    return Status(
        native.tgid,
        native.ppid,
        tuple(native.uids),
        tuple(native.gids),
        tuple(ffi.unpack(native.groups, count)) if count else (),
        native.umask,
        native.capabilities,
    )


def long_status(tid: int) -> Status:
    """The same of a thread with more groups than C reads."""
    with open(f"/proc/{tid}/status", "rb") as file:
        text = file.read()
    fields = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    return Status(
        int(fields[b"Tgid"]),
        int(fields[b"PPid"]),
        tuple(int(value) for value in fields[b"Uid"].split()),
        tuple(int(value) for value in fields[b"Gid"].split()),
        tuple(int(value) for value in fields[b"Groups"].split()),
        int(fields[b"Umask"], 8) if b"Umask" in fields else 0o022,
        int(fields[b"CapEff"], 16),
    )


def tgid_of(tid: int) -> int:
    with open(f"/proc/{tid}/status", "rb") as file:
        text = file.read(512)
    start = text.index(b"Tgid:") + 5
    return int(text[start : text.index(b"\n", start)])


# Ignored by default: without a handler they end no wait. SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
_SILENT = 1 << 16 | 1 << 17 | 1 << 22 | 1 << 27


def has_pending_signal(tid: int) -> bool:
    """Is there a signal that the thread would take if it returned from what it waits in?"""
    with open(f"/proc/{tid}/status", "rb") as file:
        text = file.read()
    masks = {
        line[:6]: int(line[7:], 16)
        for line in text.splitlines()
        if line.startswith((b"Sig", b"ShdPnd")) and not line.startswith(b"SigQ")
    }
    pending = (masks[b"SigPnd"] | masks[b"ShdPnd"]) & ~masks[b"SigBlk"] & ~masks[b"SigIgn"]
    return bool(pending & ~(_SILENT & ~masks[b"SigCgt"]))


def command_of(pid: int) -> str:
    """comm, as the process calls itself: untrusted text. Empty when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read(64).rstrip(b"\n").decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def capabilities_of(tid: int) -> tuple[int, int, int]:
    """Effective, permitted, inheritable."""
    with open(f"/proc/{tid}/status", "rb") as file:
        fields = dict(line.split(b":", 1) for line in file if line.startswith(b"Cap"))
    return int(fields[b"CapEff"], 16), int(fields[b"CapPrm"], 16), int(fields[b"CapInh"], 16)


def io_priority(tid: int) -> int:
    """ioprio_get(2); 0: it has none of its own."""
    return check(lib.slk_io_priority(tid))


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read()
    return int(text[text.rindex(b")") + 2 :].split()[1])


def terminal_of(tid: int) -> int:
    """The device of the terminal that controls its session; 0: none."""
    with open(f"/proc/{tid}/stat", "rb") as file:
        text = file.read()
    kernels = int(text[text.rindex(b")") + 2 :].split()[4])  # new_encode_dev of linux/kdev_t.h
    return os.makedev(kernels >> 8 & 0xFFF, kernels & 0xFF | kernels >> 12 & 0xFFF00)


def threads_of(pid: int) -> list[int]:
    """Of one process. Nobody where it is gone. Raises OSError: that cannot be told."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


_MEMBERS_AT_FIRST = 512


def member_leader(tid: int, init_pid: int) -> int:
    """The leader of a thread below init; 0: it is not there, or somewhere else. Raises OSError: that cannot be told."""
    return check(lib.slk_member_leader(tid, init_pid)) if 0 < tid < 1 << 31 else 0


def members(init_pid: int, most: int = 0) -> list[int]:
    """All processes below init, zombies included, by number. It takes some 30 us for each.

    most: E2BIG where there are more; 0: however many there are. Raises OSError.
    """
    capacity = _MEMBERS_AT_FIRST
    while True:
        pids = ffi.new("int32_t[]", capacity)
        count = lib.slk_members(init_pid, most, pids, capacity)
        if count == -errno.EOPNOTSUPP:
            return _members_among_all(init_pid)
        if check(count) <= capacity:
            return list(ffi.unpack(pids, count))
        capacity = 2 * count


def _members_among_all(init_pid: int) -> list[int]:
    """Where the kernel does not tell children (CONFIG_PROC_CHILDREN)."""
    numbers = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in numbers if member_leader(pid, init_pid) == pid]


def descriptor_flags(tid: int, fd: int) -> int:
    """The open flags of a descriptor (octal in fdinfo)."""
    with open(f"/proc/{tid}/fdinfo/{fd}", "rb") as file:
        for line in file:
            if line.startswith(b"flags:"):
                return int(line.split()[1], 8)
    return 0


def is_path_only(tid: int, fd: int) -> bool:
    """Whether it is an O_PATH descriptor: then it is for neither reading nor writing, which its link's mode tells.

    As of one that was opened in the fourth access mode. fdinfo takes five times as long.
    """
    if os.lstat(f"/proc/{tid}/fd/{fd}").st_mode & 0o600:
        return False
    return bool(descriptor_flags(tid, fd) & os.O_PATH)


def lone_thread(tgid: int) -> bool:
    """Whether nobody else uses the descriptors of a process while its one thread waits for us."""
    return len(os.listdir(f"/proc/{tgid}/task")) == 1


class Descriptor(collections.namedtuple("Descriptor", "fd flags position is_locked")):
    """flags: as open(2) has them. is_locked: a lock or lease is held by it, or on its file by its process."""

    __slots__ = ()


def descriptors_of(tgid: int, path: bytes) -> list[Descriptor]:
    """Those of a process that lead to what has this path. Raises OSError."""
    found = []
    for name in os.listdir(f"/proc/{tgid}/fd"):
        if os.readlink(b"/proc/%d/fd/%b" % (tgid, name.encode())) != path:
            continue
        with open(f"/proc/{tgid}/fdinfo/{name}", "rb") as file:
            rows = dict(line.split(b":", 1) for line in file if b":" in line)
        found.append(Descriptor(int(name), int(rows[b"flags"], 8), int(rows[b"pos"]), b"lock" in rows))
    return found


def file_size_limit(tid: int) -> int:
    """RLIMIT_FSIZE of a thread, in bytes: which counts for it, and not for what is done on its behalf."""
    # Not prlimit(2): of a thread with other ids it wants CAP_SYS_RESOURCE, which root need not have. Everybody may read
    # this file.
    with open(f"/proc/{tid}/limits", "rb") as file:
        line = next(line for line in file if line.startswith(_FILE_SIZE))
    soft = line[len(_FILE_SIZE) :].split()[0]
    return (1 << 64) - 1 if soft == b"unlimited" else int(soft)


def protects_hard_links() -> bool:
    """Whether nobody links what he may not write (proc(5), protected_hardlinks)."""
    try:
        with open("/proc/sys/fs/protected_hardlinks", "rb") as file:
            return file.read().strip() != b"0"
    except OSError:
        return True


def directory_of(tid: int, dirfd: int) -> bytes:
    """The magic link that stands for a dirfd argument of that thread."""
    if dirfd == -100:  # AT_FDCWD
        return b"/proc/%d/cwd" % tid
    return b"/proc/%d/fd/%d" % (tid, dirfd)


def is_being_executed(root: bytes, path: bytes, status: os.stat_result) -> bool:
    """Does some process that we may look at execute this file? path: a name of it; root: of its tree."""
    for name in os.listdir(b"/proc"):
        if not name.isdigit():
            continue
        link = b"/proc/%b/exe" % name
        try:
            text = os.readlink(link)
            if text == path:
                return True
            # Not of what lies elsewhere: its server may not answer.
            if (
                status.st_nlink > 1
                and text.startswith(root + b"/")
                and os.path.samestat(os.stat(link), status)
            ):
                return True
        except OSError:
            continue  # it has ended, or is none of ours
    return False
