"""The words that programs of the corpus are made of: a raw system call, and one line that says what it gave.

def exchange(s: Calls) -> None:
    s.renameat2(AT_FDCWD, "file", AT_FDCWD, "dir", RENAME_EXCHANGE)
    s.lstat("dir")

prints

    renameat2(AT_FDCWD, 'file', AT_FDCWD, 'dir', 2) = 0
    lstat('dir') = 0: file 644 0:0 size=8 links=1 mtime=1000000003.000000003

Every name of a system call is a word. Those with a method of their own here also print what the call told. No libc
emulates anything between the program and the kernel: errors are the kernel's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import stat
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EACCESS = AT_REMOVEDIR = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 1, 2, 4
RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_CACHED = 8, 16, 32
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
XATTR_CREATE, XATTR_REPLACE = 1, 2
SEEK_DATA, SEEK_HOLE = 3, 4
O_TMPFILE = os.O_TMPFILE
O_PATH = os.O_PATH

Path = str | bytes
Argument = int | str | bytes | None | ctypes.Array[Any]

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

# struct stat: device, inode, links, mode, uid, gid, rdev, size, mtime, its nanoseconds, ctime, its nanoseconds
_STAT_LAYOUT = {
    "x86_64": ("=QQQIII4xQq8x8x8x8xqqqq", (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)),
    "aarch64": ("=QQIIIIQ8xq4x4x8x8x8xqqqq", (0, 1, 3, 2, 4, 5, 6, 7, 8, 9, 10, 11)),
}
_STATX = "=I12xIIIH2xQQ8x8x16x16xqI4xqI4xII"  # mask, links, uid, gid, mode, inode, size, ctime, mtime, rdev
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
_ENTRY_TYPES = {
    1: "fifo",
    2: "character device",
    4: "directory",
    6: "block device",
    8: "file",
    10: "symlink",
} | {
    12: "socket",
    0: "unknown",
}
_STAT_BASIC = 0x7FF
_NOW_FROM_S, _NOW_FOR_S = 1_600_000_000, 3600


class Status(NamedTuple):
    """What stat told."""

    device: int
    inode: int
    links: int
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def __str__(self) -> str:
        kind = stat.S_IFMT(self.mode)
        words = [_TYPES.get(kind, oct(kind)), f"{stat.S_IMODE(self.mode):o} {self.uid}:{self.gid}"]
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            words.append(f"rdev={os.major(self.rdev)}:{os.minor(self.rdev)}")
        if kind != stat.S_IFDIR:
            words.append(f"size={self.size} links={self.links}")
        return " ".join([*words, "mtime=" + shown_time(self.mtime_ns)])


class Entry(NamedTuple):
    """One of a directory's. place: d_off, from where a reader goes on after it."""

    name: bytes
    kind: str
    place: int


def shown_time(time_ns: int) -> str:
    """Exact when a program or the fixture set it, otherwise "now"."""
    if _NOW_FROM_S < time_ns // 10**9 < time.time() + _NOW_FOR_S:
        return "now"
    return f"{time_ns // 10**9}.{time_ns % 10**9:09}"


def shown(argument: Argument) -> str:
    if argument == AT_FDCWD:
        return "AT_FDCWD"
    if isinstance(argument, int):
        return str(argument) if -10 < argument < 10 else hex(argument)
    if isinstance(argument, str):
        argument = os.fsencode(argument)
    if isinstance(argument, bytes):
        text = ascii(argument)[1:]
        return text if len(text) <= 200 else f"{text[:40]}...{text[-20:]} of {len(argument)} bytes"
    return "NULL" if argument is None else "..."


def shown_result(result: int) -> str:
    return str(result) if result >= 0 else errno.errorcode.get(-result, str(result))


class Calls:
    """What a program is given: the words, and where it is.

    root: its directory, absolute. outside: a directory that is not part of the tree; it holds `file` and `dir/file`.
    """

    def __init__(self, numbers: dict[str, int], root: bytes, outside: bytes) -> None:
        self.numbers = numbers
        self.root = root
        self.outside = outside
        self.begun_ns = time.time_ns()

    # ---- printing ----

    def say(self, *words: object) -> None:
        """One line, at once: the program may die."""
        text = " ".join(shown(word) if isinstance(word, bytes) else str(word) for word in words)
        os.write(1, text.encode("ascii", "backslashreplace").replace(b"\n", b" ") + b"\n")

    def told(self, name: str, arguments: Sequence[Argument], result: int, more: object = "") -> int:
        more = f": {more}" if more != "" and result >= 0 else ""
        self.say(f"{name}({', '.join(map(shown, arguments))}) = {shown_result(result)}{more}")
        return result

    # ---- calling ----

    def silently(self, name: str, *arguments: Argument) -> int:
        """Make the call and print nothing. Returns what the kernel returns, -errno for an error."""
        number = self.numbers.get(name)
        if number is None:
            return -errno.ENOSYS
        words: list[Any] = []
        for argument in arguments:
            if isinstance(argument, int):
                words.append(ctypes.c_long(argument))
            else:
                words.append(os.fsencode(argument) if isinstance(argument, str) else argument)
        result = int(_syscall(ctypes.c_long(number), *words))
        return -ctypes.get_errno() if result == -1 else result

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments: Argument) -> int:
            return self.told(name, arguments, self.silently(name, *arguments))

        return call

    def _filled(self, name: str, *arguments: Argument, size: int) -> tuple[int, bytes]:
        """A call whose arguments have one "..." in them: a buffer to fill."""
        buffer = ctypes.create_string_buffer(max(size, 1))
        words = [buffer if argument == "..." else argument for argument in arguments]
        return self.silently(name, *words), buffer.raw[:size]

    # ---- files ----

    def open_how(self, flags: int, mode: int = 0, resolve: int = 0) -> bytes:
        return struct.pack("=QQQ", flags, mode, resolve)

    def openat2(self, dirfd: int, path: Path, flags: int, mode: int = 0, resolve: int = 0) -> int:
        result = self.silently("openat2", dirfd, path, self.open_how(flags, mode, resolve), 24)
        while result == -errno.EAGAIN and resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT):
            # Something was renamed on this machine while `..` was walked (openat2(2)).
            result = self.silently("openat2", dirfd, path, self.open_how(flags, mode, resolve), 24)
        return self.told("openat2", (dirfd, path, flags, mode, resolve), result)

    def read(self, fd: int, size: int = 100) -> int:
        result, data = self._filled("read", fd, "...", size, size=size)
        return self.told("read", (fd, size), result, _abridged(data[: max(result, 0)]))

    def pread(self, fd: int, size: int, offset: int) -> int:
        result, data = self._filled("pread64", fd, "...", size, offset, size=size)
        return self.told("pread64", (fd, size, offset), result, _abridged(data[: max(result, 0)]))

    def write(self, fd: int, data: bytes) -> int:
        return self.told("write", (fd, data), self.silently("write", fd, data, len(data)))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        result = self.silently("pwrite64", fd, data, len(data), offset)
        return self.told("pwrite64", (fd, data, offset), result)

    def cat(self, path: Path) -> None:
        """Open, read, close: one line with the content."""
        fd = self.silently("openat", AT_FDCWD, path, os.O_RDONLY | os.O_NONBLOCK, 0)
        result, data = (fd, b"") if fd < 0 else self._filled("read", fd, "...", 70000, size=70000)
        self.told("cat", (path,), result, _abridged(data[: max(result, 0)]))
        if fd >= 0:
            self.silently("close", fd)

    def put(self, path: Path, data: bytes = b"new\n", flags: int = os.O_TRUNC, mode: int = 0o666) -> None:
        """Open for writing (O_CREAT too), write, close: one line."""
        fd = self.silently("openat", AT_FDCWD, path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | flags, mode)
        result = fd if fd < 0 else self.silently("write", fd, data, len(data))
        self.told("put", (path, data, flags, mode), result)
        if fd >= 0:
            self.silently("close", fd)

    def tried(self, *calls: Any) -> None:
        """Like any word, as a list [name, *arguments]; closes what an open gave."""
        for name, *arguments in calls:
            result = getattr(self, name)(*arguments)
            if name.startswith(("open", "creat")) and result >= 0:
                self.silently("close", result)

    # ---- stat ----

    def _status(self, name: str, *arguments: Argument) -> tuple[int, Status | None]:
        result, data = self._filled(name, *arguments, size=256)
        if result < 0:
            return result, None
        layout, order = _STAT_LAYOUT[platform.machine()]
        fields = struct.unpack_from(layout, data)
        ordered = [fields[place] for place in order]
        times = ordered[8] * 10**9 + ordered[9], ordered[10] * 10**9 + ordered[11]
        return result, Status(*ordered[:8], *times)

    def _told_status(self, name: str, told: Sequence[Argument], *arguments: Argument) -> int:
        result, status = self._status(name, *arguments)
        return self.told(name, told, result, status or "")

    def stat(self, path: Path) -> int:
        return self._told_status("stat", (path,), path, "...")

    def lstat(self, path: Path) -> int:
        return self._told_status("lstat", (path,), path, "...")

    def fstat(self, fd: int) -> int:
        return self._told_status("fstat", (fd,), fd, "...")

    def newfstatat(self, dirfd: int, path: Path, flags: int = 0) -> int:
        return self._told_status("newfstatat", (dirfd, path, flags), dirfd, path, "...", flags)

    def statx(self, dirfd: int, path: Path, flags: int = 0, mask: int = _STAT_BASIC) -> int:
        result, data = self._filled("statx", dirfd, path, flags, mask, "...", size=256)
        more: object = ""
        if result == 0:
            got, links, uid, gid, mode, inode, size, c_s, c_ns, m_s, m_ns, major, minor = struct.unpack_from(
                _STATX, data
            )
            told = Status(
                0,
                inode,
                links,
                mode,
                uid,
                gid,
                os.makedev(major, minor),
                size,
                m_s * 10**9 + m_ns,
                c_s * 10**9 + c_ns,
            )
            more = f"{told} all={got & _STAT_BASIC == _STAT_BASIC}"
        return self.told("statx", (dirfd, path, flags, mask), result, more)

    def status(self, path: Path | int) -> Status | None:
        """Without a line: of a name (no link followed) or a descriptor. None: not to be had."""
        if isinstance(path, int):
            return self._status("fstat", path, "...")[1]
        return self._status("newfstatat", AT_FDCWD, path, "...", AT_SYMLINK_NOFOLLOW)[1]

    def inode(self, path: Path | int) -> tuple[int, int] | None:
        status = self.status(path)
        return status and (status.device, status.inode)

    def same(self, one: Path | int, other: Path | int) -> None:
        """Whether two names or descriptors are the same object."""
        first, second = self.inode(one), self.inode(other)
        same = None if first is None or second is None else first == second
        self.say(f"{shown(one)} is {shown(other)}: {same}")

    def device_of(self, path: Path, other: Path) -> None:
        first, second = self.inode(path), self.inode(other)
        same = None if first is None or second is None else first[0] == second[0]
        self.say(f"{shown(path)} is on the device of {shown(other)}: {same}")

    def changed(self, path: Path) -> None:
        """Whether the ctime lies in this program's life."""
        status = self.status(path)
        # The kernel's coarse clock may be one tick behind.
        since = status and status.ctime_ns >= self.begun_ns - 10_000_000
        self.say(f"{shown(path)} changed: {since}")

    # ---- what is told about names ----

    def readlink(self, path: Path, size: int = 4096) -> int:
        result, data = self._filled("readlink", path, "...", size, size=max(size, 1))
        return self.told("readlink", (path, size), result, data[: max(result, 0)])

    def readlinkat(self, dirfd: int, path: Path, size: int = 4096) -> int:
        result, data = self._filled("readlinkat", dirfd, path, "...", size, size=max(size, 1))
        return self.told("readlinkat", (dirfd, path, size), result, data[: max(result, 0)])

    def getcwd(self, size: int = 4096) -> int:
        result, data = self._filled("getcwd", "...", size, size=size)
        more = data[: max(result - 1, 0)]
        return self.told("getcwd", (size,), min(result, 1), more)

    def statfs(self, path: Path | int) -> int:
        """Of a path or a descriptor: what does not change from call to call."""
        name = "fstatfs" if isinstance(path, int) else "statfs"
        result, data = self._filled(name, path, "...", size=256)
        kind, block_size = struct.unpack_from("=qq", data)
        longest, fragment_size = struct.unpack_from("=qq", data, 64)
        more = f"type={kind:#x} block={block_size} name={longest} fragment={fragment_size}"
        return self.told(name, (path,), result, more)

    # ---- directories ----

    def entries(self, fd: int, size: int = 4096, call: str = "getdents64") -> list[Entry] | int:
        """One call, no line. Returns what it gave in the kernel's order, or -errno."""
        result, data = self._filled(call, fd, "...", size, size=size)
        if result < 0:
            return result
        found, at = [], 0
        while at < result:
            _, place, length = struct.unpack_from("=QqH", data, at)
            if call == "getdents64":
                kind, name = data[at + 18], data[at + 19 : at + length].split(b"\0")[0]
            else:
                kind, name = data[at + length - 1], data[at + 18 : at + length].split(b"\0")[0]
            found.append(Entry(name, _ENTRY_TYPES.get(kind, str(kind)), place))
            at += length
        return found

    def all_entries(self, fd: int, size: int = 4096, call: str = "getdents64") -> list[Entry] | int:
        """Until the end, no line. -errno when the first call fails."""
        found: list[Entry] = []
        while True:
            some = self.entries(fd, size, call)
            if isinstance(some, int):
                return found or some
            if not some:
                return found
            found += some

    def list_fd(self, fd: int, size: int = 4096, call: str = "getdents64") -> None:
        """The rest of a directory, sorted, in one line."""
        found = self.all_entries(fd, size, call)
        if isinstance(found, int):
            self.told(call, (fd, size), found)
            return
        names = ", ".join(f"{shown(entry.name)} {entry.kind}" for entry in sorted(found))
        self.say(f"{call}({shown(fd)}, {size}): {len(found)}: {names}")

    def ls(self, path: Path) -> None:
        """A whole directory, sorted, in one line."""
        fd = self.silently("openat", AT_FDCWD, path, os.O_RDONLY | os.O_DIRECTORY, 0)
        found: list[Entry] | int = fd
        if fd >= 0:
            found = self.all_entries(fd)
            self.silently("close", fd)
        if isinstance(found, int):
            self.told("ls", (path,), found)
        else:
            self.say(f"ls({shown(path)}):", ", ".join(f"{shown(e.name)} {e.kind}" for e in sorted(found)))

    # ---- times ----

    def utimensat(self, dirfd: int, path: Path | None, times: Times = None, flags: int = 0) -> int:
        """times: ((seconds, nanoseconds) of atime, of mtime), or None: now."""
        packed = times and struct.pack("=qqqq", *times[0], *times[1])
        result = self.silently("utimensat", dirfd, path, packed, flags)
        return self._told_times("utimensat", (dirfd, path, flags), times, result)

    def utimes(self, path: Path, times: Times = None) -> int:
        packed = times and struct.pack("=qqqq", *times[0], *times[1])
        return self._told_times("utimes", (path,), times, self.silently("utimes", path, packed))

    def futimesat(self, dirfd: int, path: Path | None, times: Times = None) -> int:
        packed = times and struct.pack("=qqqq", *times[0], *times[1])
        return self._told_times(
            "futimesat", (dirfd, path), times, self.silently("futimesat", dirfd, path, packed)
        )

    def utime(self, path: Path, times: tuple[int, int] | None = None) -> int:
        packed = times and struct.pack("=qq", *times)
        return self._told_times("utime", (path,), times, self.silently("utime", path, packed))

    def _told_times(self, name: str, arguments: Sequence[Argument], times: object, result: int) -> int:
        return self.told(f"{name} {times}", arguments, result)

    # ---- attributes ----

    def getxattr(self, path: Path, name: Path, size: int = 1000, call: str = "getxattr") -> int:
        result, data = self._filled(call, path, name, "..." if size else None, size, size=size)
        return self.told(call, (path, name, size), result, data[: max(result, 0)] if size else "")

    def lgetxattr(self, path: Path, name: Path) -> int:
        return self.getxattr(path, name, call="lgetxattr")

    def fgetxattr(self, fd: int, name: Path) -> int:
        result, data = self._filled("fgetxattr", fd, name, "...", 1000, size=1000)
        return self.told("fgetxattr", (fd, name), result, data[: max(result, 0)])

    def setxattr(
        self, path: Path | int, name: Path, value: bytes, flags: int = 0, call: str = "setxattr"
    ) -> int:
        result = self.silently(call, path, name, value, len(value), flags)
        return self.told(call, (path, name, value, flags), result)

    def lsetxattr(self, path: Path, name: Path, value: bytes, flags: int = 0) -> int:
        return self.setxattr(path, name, value, flags, "lsetxattr")

    def fsetxattr(self, fd: int, name: Path, value: bytes, flags: int = 0) -> int:
        return self.setxattr(fd, name, value, flags, "fsetxattr")

    def listxattr(self, path: Path | int, size: int = 1000, call: str = "listxattr") -> int:
        result, data = self._filled(call, path, "..." if size else None, size, size=size)
        names = sorted(data[: max(result, 0)].split(b"\0")[:-1])
        return self.told(call, (path, size), result, " ".join(map(shown, names)))

    def llistxattr(self, path: Path) -> int:
        return self.listxattr(path, call="llistxattr")

    def flistxattr(self, fd: int) -> int:
        return self.listxattr(fd, call="flistxattr")

    # ---- sockets, events, handles ----

    def address(self, path: Path) -> bytes:
        path = os.fsencode(path)
        return struct.pack("=H", 1) + path + (b"\0" if len(path) < 108 else b"")

    def bind(self, fd: int, path: Path) -> int:
        address = self.address(path)
        return self.told("bind", (fd, path), self.silently("bind", fd, address, len(address)))

    def connect(self, fd: int, path: Path) -> int:
        address = self.address(path)
        return self.told("connect", (fd, path), self.silently("connect", fd, address, len(address)))

    def name_of(self, call: str, fd: int) -> int:
        """getsockname or getpeername."""
        length = ctypes.create_string_buffer(struct.pack("=I", 128), 4)
        result, data = self._filled(call, fd, "...", length, size=128)
        size = struct.unpack("=I", length.raw)[0]
        return self.told(call, (fd,), result, data[2:size])

    def events(self, fd: int) -> None:
        """All that wait on an inotify descriptor, one line each."""
        cookies: dict[int, int] = {0: 0}
        while True:
            result, data = self._filled("read", fd, "...", 65536, size=65536)
            if result < 0:
                self.say("events end:", shown_result(result))
                return
            at = 0
            while at < result:
                watch, mask, cookie, length = struct.unpack_from("=iIII", data, at)
                name = data[at + 16 : at + 16 + length].rstrip(b"\0")
                number = cookies.setdefault(cookie, len(cookies))
                self.say(f"event: watch={watch} mask={mask:#x} cookie={number} name={shown(name)}")
                at += 16 + length

    def handle(self, dirfd: int, path: Path, flags: int = 0, size: int = 128) -> bytes:
        """name_to_handle_at. Returns the handle, to be compared."""
        buffer = ctypes.create_string_buffer(struct.pack("=Ii", size, 0), 8 + size)
        mount = ctypes.create_string_buffer(8)
        result = self.silently("name_to_handle_at", dirfd, path, buffer, mount, flags)
        self.told("name_to_handle_at", (dirfd, path, flags, size), result)
        return buffer.raw if result == 0 else b""

    # ---- processes ----

    def child(self, action: Callable[[], object]) -> None:
        """Fork, act, wait; a line with how it ended."""
        pid = os.fork()
        if pid == 0:
            try:
                action()
            finally:
                os._exit(99)
        status = os.waitpid(pid, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        self.say("child:", code if code >= 0 else signal.Signals(-code).name)

    def execve(self, path: Path | None, words: Sequence[Path], more: Sequence[Path] = ()) -> int:
        """Does not return when it succeeds. more: the environment."""
        result = self.silently("execve", path, _vector(words), _vector(more))
        return self.told("execve", (path, " ".join(map(shown, words))), result)

    def execveat(self, dirfd: int, path: Path, words: Sequence[Path], flags: int = 0) -> int:
        result = self.silently("execveat", dirfd, path, _vector(words), _vector(()), flags)
        return self.told("execveat", (dirfd, path, " ".join(map(shown, words)), flags), result)

    def run(self, path: Path, *words: Path) -> None:
        """Fork, execve, wait."""
        self.child(lambda: self.execve(path, [path, *words]))


Times = tuple[tuple[int, int], tuple[int, int]] | None
Program = Callable[[Calls], None]


class Programs(dict[str, Program]):
    """The programs of one group, in order. Used as a decorator; the function's name is the program's."""

    def __call__(self, program: Program) -> Program:
        self.add(program.__name__, program)
        return program

    def add(self, name: str, program: Program) -> None:
        assert name not in self, name
        self[name] = program


def _vector(words: Sequence[Path]) -> ctypes.Array[Any]:
    return (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words), None)


def _abridged(data: bytes) -> str:
    if len(data) <= 200:
        return shown(data)
    return f"{len(data)} bytes {data[:20]!r}...{data[-20:]!r} sum {sum(data)}"
