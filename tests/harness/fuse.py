"""A file system whose server the test is: it may answer late, or never.

    with FileSystem(place.root / "slow", user) as slow:
        slow.file("hung", b"text")
        hung = slow.hang(Call.LOOKUP, "hung")
        with runner.started(runner.command_line([...], wrap=slow.wrap()), **slow.popen()), hung:
            hung.wait()        # somebody waits in a lookup of that name
        # the block ended: first it got its answer, then what was started is waited for

It speaks the protocol of /dev/fuse itself (fuse(4), linux/fuse.h 7.31). Nothing is cached by the kernel, so each lookup
asks. It is mounted in a mount namespace of the command's own, by this file run as a script: the machine sees nothing of
it, and it is gone when the last process of that namespace is.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import select
import stat
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # as a script, this file is alone
    from harness.users import User

_IN = struct.Struct("=IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, ...
_OUT = struct.Struct("=IiQ")  # length, -errno, unique
_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_BUFFER_BYTES = 1 << 20


class Call(enum.IntEnum):
    """What the kernel asks (enum fuse_opcode)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    MKDIR = 9
    UNLINK = 10
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


_UNANSWERED = frozenset((Call.FORGET, Call.BATCH_FORGET, Call.INTERRUPT))
_NAMED = frozenset((Call.LOOKUP, Call.MKDIR, Call.UNLINK, Call.CREATE))
_DIRENT = struct.Struct("=QQII")  # inode, offset, length of the name, type
# In front of the name.
_SKIPPED = {Call.MKDIR: 8, Call.CREATE: 16}


@dataclass
class _Node:
    name: str
    mode: int
    content: bytes = b""
    children: dict[str, int] = field(default_factory=dict)


class Hung:
    """Calls of one kind on one name that the server lets wait, until `answer` or the end of a `with` block."""

    def __init__(self, file_system: FileSystem) -> None:
        self._file_system = file_system
        self._met = threading.Event()
        self._unanswered: list[tuple[Call, int, int, bytes]] = []
        self.is_over = False
        self.pids: set[int] = set()  # who waits, as far as they are known

    def meet(self, pid: int, *question: Any) -> None:
        self._unanswered.append(question)
        self.pids.add(pid)
        self._met.set()

    def __enter__(self) -> Hung:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.answer()

    def answer(self) -> None:
        """Those that wait, and from now on at once."""
        self.is_over = True
        while self._unanswered:
            self._file_system.answer(*self._unanswered.pop())

    def wait(self, limit_s: float = 20.0) -> None:
        """Until somebody waits for the answer."""
        assert self._met.wait(limit_s), "nobody asked"


class FileSystem:
    """One mount, at a directory that is made. Modes are shown, not enforced; everything is the user's."""

    def __init__(self, point: Path, user: User) -> None:
        self.point = point
        point.mkdir(exist_ok=True)
        self._user = user
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._nodes = {1: _Node("", stat.S_IFDIR | 0o777)}
        self._hung: dict[tuple[Call, str], Hung] = {}
        self._stop, self._stopper = os.pipe2(os.O_CLOEXEC)
        self.unmounted = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> FileSystem:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def end(self) -> None:
        """Every call that still waits, and every later one, fails. A second time does nothing."""
        if self._stopper < 0:
            return
        os.write(self._stopper, b"x")
        self._thread.join()
        for fd in (self._stop, self._stopper):
            os.close(fd)
        self._stopper = -1

    # ---- what is in it ----

    def _add(self, name: str, node: _Node) -> None:
        parent = self._nodes[1]
        parent.children[name] = len(self._nodes) + 1
        self._nodes[len(self._nodes) + 1] = node

    def file(self, name: str, content: bytes = b"", mode: int = 0o666) -> Path:
        self._add(name, _Node(name, stat.S_IFREG | mode, content))
        return self.point / name

    def fifo(self, name: str, mode: int = 0o666) -> Path:
        self._add(name, _Node(name, stat.S_IFIFO | mode))
        return self.point / name

    def link(self, name: str, target: str) -> Path:
        self._add(name, _Node(name, stat.S_IFLNK | 0o777, target.encode()))
        return self.point / name

    # ---- who uses it ----

    def wrap(self, *, mounted: bool = True) -> list[str | Path]:
        """Runs the rest of its arguments as the user, in a mount namespace of its own. For `popen`."""
        when = "now" if mounted else "later"
        ids = [str(self._user.uid), str(self._user.gid)]
        return [sys.executable, __file__, when, str(self._device), self.point, *ids]

    def popen(self) -> dict[str, Any]:
        """What subprocess needs besides: only root mounts."""
        return {"pass_fds": (self._device,), "user": 0, "group": 0}

    def mount_for(self, pid: int, point: Path | None = None) -> None:
        """Where that process lives, which was started with `wrap(mounted=False)`. point: another one."""
        line = [sys.executable, __file__, "for", str(self._device), point or self.point, str(pid)]
        subprocess.run(line, check=True, pass_fds=(self._device,))

    def hang(self, call: Call, name: str) -> Hung:
        """From now on these calls get no answer; later they get the right one."""
        hung = self._hung[call, name] = Hung(self)
        return hung

    # ---- the server ----

    def _serve(self) -> None:
        try:
            self._serve_until_stopped()
        finally:
            device, self._device = self._device, -1
            os.close(device)

    def _serve_until_stopped(self) -> None:
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            if any(fd == self._stop for fd, _ in poll.poll()):
                return
            try:
                message = os.read(self._device, _BUFFER_BYTES)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                if error.errno == errno.EPERM:
                    self._await_mount()
                    continue
                self.unmounted.set()
                return  # ENODEV: unmounted; EBADF: ended
            _, number, unique, node, _, _, pid, *_ = _IN.unpack_from(message)
            body = message[_IN.size :]
            try:
                call = Call(number)
            except ValueError:
                self._send(unique, -errno.ENOSYS)
                continue
            hung = self._hung.get((call, self._name_of(call, node, body)))
            if hung is not None and not hung.is_over:
                hung.meet(_leader_of(pid), call, unique, node, body)
            elif call not in _UNANSWERED:
                self.answer(call, unique, node, body)

    def _await_mount(self) -> None:
        """The kernel has no event for it; reading before is EPERM."""
        select.select([], [], [], 0.005)

    def _name_of(self, call: Call, node: int, body: bytes) -> str:
        if call in _NAMED:
            return body[_SKIPPED.get(call, 0) :].split(b"\0")[0].decode()
        known = self._nodes.get(node)
        return known.name if known is not None else ""

    def _send(self, unique: int, error: int, body: bytes = b"") -> None:
        try:
            os.write(self._device, _OUT.pack(_OUT.size + len(body), error, unique) + body)
        except OSError:
            return  # whoever asked has gone

    def answer(self, call: Call, unique: int, node: int, body: bytes) -> None:
        try:
            answer = self._answers(call, node, body)
        except OSError as error:
            self._send(unique, -(error.errno or errno.EIO))
        else:
            self._send(unique, 0, answer)

    def _answers(self, call: Call, number: int, body: bytes) -> bytes:
        node = self._nodes[number] if number else self._nodes[1]
        name = self._name_of(call, number, body)
        if call is Call.INIT:
            _, minor, readahead, _ = struct.unpack_from("=IIII", body)
            return struct.pack("=IIIIHHIIHHI28x", 7, min(minor, 31), readahead, 0, 12, 10, 65536, 1, 0, 0, 0)
        if call is Call.LOOKUP:
            if name not in node.children:
                raise OSError(errno.ENOENT, "")
            return self._entry(node.children[name])
        if call in (Call.GETATTR, Call.SETATTR):
            if call is Call.SETATTR:
                valid, size, mode = struct.unpack_from("=I12xQ44xI", body)
                if valid & 1:
                    node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
                if valid & 8:
                    node.content = node.content[:size].ljust(size, b"\0")
            return struct.pack("=QII", 0, 0, 0) + self._attributes(number)
        if call is Call.READLINK:
            return node.content
        if call in (Call.MKDIR, Call.CREATE):
            if name in node.children:
                raise OSError(errno.EEXIST, "")
            mode = struct.unpack_from("=I" if call is Call.MKDIR else "=4xI", body)[0]
            kind = stat.S_IFDIR if call is Call.MKDIR else stat.S_IFREG
            node.children[name] = len(self._nodes) + 1
            self._nodes[len(self._nodes) + 1] = _Node(name, kind | stat.S_IMODE(mode))
            opened = struct.pack("=QII", 0, 0, 0) if call is Call.CREATE else b""
            return self._entry(node.children[name]) + opened
        if call is Call.UNLINK:
            if node.children.pop(name, None) is None:
                raise OSError(errno.ENOENT, "")
            return b""
        if call in (Call.OPEN, Call.OPENDIR):
            return struct.pack("=QII", 0, 0, 0)
        if call is Call.READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            return node.content[offset : offset + size]
        if call is Call.WRITE:
            _, offset, size = struct.unpack_from("=QQI", body)
            node.content = node.content[:offset].ljust(offset, b"\0") + body[40 : 40 + size]
            return struct.pack("=II", size, 0)
        if call is Call.READDIR:
            return self._listing(node, struct.unpack_from("=8xQ", body)[0])
        if call is Call.STATFS:
            return struct.pack("=QQQQQIIII24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
        if call in (Call.RELEASE, Call.RELEASEDIR, Call.FLUSH, Call.DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "")

    def _listing(self, node: _Node, offset: int) -> bytes:
        listing = b""
        for position, (name, number) in enumerate(node.children.items(), 1):
            if position > offset:
                kind = stat.S_IFMT(self._nodes[number].mode) >> 12
                entry = _DIRENT.pack(number, position, len(name), kind) + name.encode()
                listing += entry.ljust((len(entry) + 7) // 8 * 8, b"\0")
        return listing

    def _entry(self, number: int) -> bytes:
        return struct.pack("=QQQQII", number, 0, 0, 0, 0, 0) + self._attributes(number)

    def _attributes(self, number: int) -> bytes:
        node = self._nodes[number]
        return _ATTRIBUTES.pack(
            *(number, len(node.content), 0, 0, 0, 0, 0, 0, 0),
            *(node.mode, 1, self._user.uid, self._user.gid, 0, 4096, 0),
        )


def _leader_of(tid: int) -> int:
    try:
        return int(Path(f"/proc/{tid}/status").read_text().split("Tgid:")[1].split()[0])
    except OSError:
        return tid  # it is gone


# ---- run as a script: mount, become the user, run the rest

_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 0x4000, 1 << 18
_LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mount(device: int, point: bytes) -> None:
    options = b"fd=%d,rootmode=40777,user_id=0,group_id=0,allow_other" % device
    _checked(_LIBC.mount(b"slow", point, b"fuse", _MS_NOSUID | _MS_NODEV, options))


def _main(when: str, device: int, point: bytes, arguments: list[str]) -> None:
    if when == "for":
        with open(f"/proc/{arguments[0]}/ns/mnt", "rb") as namespace:
            _checked(_LIBC.setns(namespace.fileno(), _CLONE_NEWNS))
        _mount(device, point)
        return
    _checked(_LIBC.unshare(_CLONE_NEWNS))
    _checked(_LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    if when == "now":
        _mount(device, point)
    os.close(device)
    uid, gid, *command = arguments
    if int(uid):
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    os.execvp(command[0], command)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), os.fsencode(sys.argv[3]), sys.argv[4:])
