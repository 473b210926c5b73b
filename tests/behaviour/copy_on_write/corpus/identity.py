"""Device and inode number: the same in every place that tells them, for as long as a file lives, and nobody else's."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import struct

from .vocabulary import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW,
    O_PATH,
    RENAME_EXCHANGE,
    Calls,
    Programs,
)

PROGRAMS = Programs()
program = PROGRAMS

Number = tuple[int, int]

_FILES = ("file", "empty", "big", "hard-1", "dir/a", "dir/sub/deep/c", "attributes")
_OTHERS = ("to-file", "dangling", "fifo", "socket", "dir", "dir/sub", "empty-dir")
_STATX_NUMBER = struct.Struct(
    "=32xQ96xII"
)  # inode, and behind the times and the special device: major, minor


def _statx(s: Calls, dirfd: int, path: str, flags: int) -> Number:
    _, data = s._filled("statx", dirfd, path, flags, 0x7FF, "...", size=256)
    inode, major, minor = _STATX_NUMBER.unpack_from(data)
    return os.makedev(major, minor), inode


def _entry(path: str) -> int:
    """What the directory says."""
    above, _, name = path.rpartition("/")
    with os.scandir(above or ".") as entries:
        return next(entry.inode() for entry in entries if entry.name == name)


def _fdinfo(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return next((int(line.split()[1]) for line in info if line.startswith("ino:")), 0)


def _by_descriptor(s: Calls, path: str, flags: int) -> dict[str, Number]:
    fd = os.open(path, flags | os.O_NOFOLLOW)
    status = s.status(fd)
    assert status is not None
    found = {
        "fstat": (status.device, status.inode),
        "newfstatat": s._status("newfstatat", fd, "", "...", AT_EMPTY_PATH)[1],
        "statx": _statx(s, fd, "", AT_EMPTY_PATH),
        "proc": os.stat(f"/proc/self/fd/{fd}"),
        "fdinfo": (status.device, _fdinfo(fd) or status.inode),  # Linux 5.14
    }
    os.close(fd)
    numbers = {}
    for way, told in found.items():
        if isinstance(told, os.stat_result):
            told = told.st_dev, told.st_ino
        elif told is not None and hasattr(told, "device"):
            told = told.device, told.inode
        numbers[f"{way} of {flags:#x}"] = told
    return numbers  # type: ignore[return-value]


def _all_ways(s: Calls, path: str) -> dict[str, Number]:
    status = os.lstat(path)
    device = status.st_dev
    numbers = {
        "lstat": (device, status.st_ino),
        "statx": _statx(s, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW),
        "directory": (device, _entry(path)),
    }
    for name in ("stat", "lstat"):
        if name in s.numbers and path != "to-file" and path != "dangling":
            told = s._status(name, path, "...")[1]
            assert told is not None
            numbers["the old " + name] = told.device, told.inode
    if path in _FILES or path.startswith("new"):
        numbers |= _by_descriptor(s, path, os.O_RDONLY) | _by_descriptor(s, path, os.O_WRONLY)
        numbers |= _by_descriptor(s, path, O_PATH)
    return numbers


def _agree(s: Calls, path: str, expected: Number | None = None) -> Number:
    ways = _all_ways(s, path)
    expected = expected or ways["lstat"]
    s.say(path, "is told alike:", sorted(way for way, number in ways.items() if number != expected))
    return expected


def _change(path: str) -> None:
    os.utime(path, (5, 5), follow_symlinks=False)
    if path in _FILES:
        with open(path, "ab") as file:
            file.write(b"more")


def _everything(top: str = ".") -> dict[str, Number]:
    found = {}
    for above, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.relpath(os.path.join(above, name))
            with contextlib.suppress(PermissionError):  # in a directory that may be listed, and no more
                status = os.lstat(path)
                found[path] = status.st_dev, status.st_ino
    return found


@program
def every_way_of_telling(s: Calls) -> None:
    before = {path: _agree(s, path) for path in _FILES + _OTHERS}
    for path in _FILES + _OTHERS:
        _change(path)
    for path, number in before.items():
        _agree(s, path, number)


@program
def of_what_is_new(s: Calls) -> None:
    os.mkdir("new-dir")
    for path in ("new", "new-dir/in", "dir/new"):
        with open(path, "wb") as file:
            file.write(b"new")
        _agree(s, path)
    os.symlink("x", "new-dir/link")
    os.mkfifo("new-dir/fifo")
    for path in ("new-dir/link", "new-dir/fifo", "new-dir"):
        s.say(path, "in its directory:", _entry(path) == os.lstat(path).st_ino)


@program
def nobody_has_the_number_of_another(s: Calls) -> None:
    os.mkdir("many")
    for number in range(30):
        with open(f"many/{number}", "wb"):
            pass
        os.symlink("x", f"many/link-{number}")
    for path in _FILES + _OTHERS:
        _change(path)
    os.rename("dir", "many/dir")
    os.unlink("file")
    os.rename("big", "file")
    by_number: dict[Number, list[str]] = {}
    for path, told in _everything().items():
        by_number.setdefault(told, []).append(path)
    s.say("shared:", sorted(sorted(paths) for paths in by_number.values() if len(paths) > 1))
    s.say("devices:", len({device for device, _ in by_number}))


@program
def directories_agree_with_what_is_in_them(s: Calls) -> None:
    os.rename("full", "moved")
    os.mkdir("new-dir")
    os.mkdir("dir/sub/new-dir")
    os.rename("dir/a", "new-dir/a")
    os.rename("script", "dir/sub/new-dir/script")
    os.symlink("x", "dir/sub/new-dir/link")
    _change("dir/sub/b")
    for path in (".", "dir", "dir/sub", "dir/sub/deep", "moved", "new-dir", "dir/sub/new-dir", "empty-dir"):
        fd = os.open(path, os.O_RDONLY)
        for call in ("getdents64", "getdents"):
            os.lseek(fd, 0, os.SEEK_SET)
            result, data = s._filled(call, fd, "...", 4096, size=4096)
            at, wrong = 0, []
            while at < result:
                inode, _, length = struct.unpack_from("=QqH", data, at)
                name = data[at + (19 if call == "getdents64" else 18) : at + length].split(b"\0")[0]
                if inode != os.lstat(os.path.join(os.fsencode(path), name)).st_ino:
                    wrong.append(name)
                at += length
            s.say(call, path, "tells another number of:", wrong if result >= 0 else result == -38)
        os.close(fd)


@program
def over_renames(s: Calls) -> None:
    paths = ("file", "to-file", "fifo", "dir/a", "dir/sub/b", "empty-dir", "hard-1")
    before = {path: os.lstat(path).st_ino for path in paths}
    for path in paths:
        os.rename(path, "moved")
        s.say(path, "moved:", os.lstat("moved").st_ino == before[path])
        os.rename("moved", path)
        s.say(path, "and back:", os.lstat(path).st_ino == before[path])


@program
def over_renames_of_directories(s: Calls) -> None:
    before = _everything("dir") | {"dir": (os.lstat("dir").st_dev, os.lstat("dir").st_ino)}
    fd, file = os.open("dir", os.O_RDONLY), os.open("dir/a", os.O_RDONLY)
    _change("dir/sub/b")
    os.rename("dir", "empty-dir/moved")
    after = _everything("empty-dir")
    s.say("moved:", sorted(p for p, n in before.items() if after["empty-dir/moved" + p[3:]] != n))
    s.say("held:", s.inode(fd) == before["dir"], s.inode(file) == before["dir/a"])
    os.mkdir("dir")
    s.say("another:", (os.lstat("dir").st_dev, os.lstat("dir").st_ino) in before.values())
    os.rename("empty-dir/moved", "dir")
    s.say("back:", sorted(p for p, n in before.items() if p != "dir" and _everything("dir")[p] != n))


@program
def exchanged(s: Calls) -> None:
    for one, other in (("file", "big"), ("file", "dir"), ("to-file", "fifo"), ("dir", "full")):
        before = os.lstat(one).st_ino, os.lstat(other).st_ino
        s.renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)
        s.say("exchanged:", before == (os.lstat(other).st_ino, os.lstat(one).st_ino))


@program
def removed_and_made_anew(s: Calls) -> None:
    for path in ("file", "dir/a", "hard-1"):
        fd = os.open(path, os.O_RDWR)
        number = s.inode(fd)
        os.unlink(path)
        s.say("held:", s.inode(fd) == number)
        with open(path, "wb"):
            s.say("anew:", s.inode(path) == number, s.inode(fd) == number)
        os.unlink(path)
        os.symlink("x", path)
        s.say("a link:", s.inode(path) == number)
        os.close(fd)
    number = s.inode("empty-dir")
    fd = os.open("empty-dir", os.O_RDONLY)
    os.rmdir("empty-dir")
    os.mkdir("empty-dir")
    s.say("a directory:", s.inode("empty-dir") == number, s.inode(fd) == number)


@program
def the_numbers_of_what_is_gone(s: Calls) -> None:
    """They may come again, but not twice at a time."""
    held = []
    for path in ("file", "dir/a", "empty", "script"):
        _change(path)
        held.append((os.open(path, os.O_RDONLY), s.inode(path)))
        os.unlink(path)
    for number in range(40):
        with open(f"new-{number}", "wb"):
            pass
        os.symlink("x", f"link-{number}")
    taken = set(_everything().values())
    s.say("taken:", sum(number in taken for _, number in held))
    for fd, number in held:
        s.say("held:", s.inode(fd) == number)


@program
def unnamed(s: Calls) -> None:
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    number = s.inode(fd)
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "named", AT_SYMLINK_FOLLOW)
    s.say(
        "named:", s.inode("named") == number, s.inode(fd) == number, _entry("named") == (number or (0, 0))[1]
    )


@program
def hard_links(s: Calls) -> None:
    number = s.inode("hard-2")
    _change("hard-1")
    os.link("hard-2", "hard-4")
    for path in ("hard-1", "hard-2", "hard-4", "dir/hard-3"):
        s.say(path, s.inode(path) == number, _entry(path) == (number or (0, 0))[1])
    os.unlink("hard-1")
    os.rename("hard-2", "dir/sub/hard")
    for path in ("hard-4", "dir/sub/hard", "dir/hard-3"):
        s.say(path, s.inode(path) == number)


@program
def held_before_the_copy(s: Calls) -> None:
    held = []
    for path in ("file", "to-file", "fifo", "dir/a", "dir", "hard-1"):
        held.append((os.open(path, O_PATH | os.O_NOFOLLOW), s.inode(path)))
        _change(path)
    for fd, number in held:
        s.fstat(fd)
        s.say("the same:", s.inode(fd) == number)
        s.newfstatat(fd, "", AT_EMPTY_PATH)


@program
def copies_are_others(s: Calls) -> None:
    import shutil

    _change("attributes")
    shutil.copy2("attributes", "copy")
    os.setxattr("copy", "user.one", os.getxattr("attributes", "user.one"))
    s.say("a copy:", s.inode("copy") == s.inode("attributes"))
    s.say("samefile:", os.path.samefile("attributes", "copy"), os.path.samefile("file", "to-file"))


@program
def mapped(s: Calls) -> None:
    with open("new", "wb") as file:
        file.write(b"x" * 5000)
    for path, writes in (("file", True), ("big", False), ("dir/a", True), ("new", True)):
        if path == "big":
            _change(path)
        fd = os.open(path, os.O_RDWR if writes else os.O_RDONLY)
        status = os.fstat(fd)
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ):
            for name in ("maps", "smaps"):
                with open(f"/proc/self/{name}", "rb") as maps:
                    lines = [
                        line.split(None, 5) for line in maps if line.endswith(b"/" + path.encode() + b"\n")
                    ]
                # Not the device: btrfs tells another one here.
                s.say(
                    name,
                    path,
                    [
                        (line[4] == b"%d" % status.st_ino, line[5].strip() == s.root + b"/" + path.encode())
                        for line in lines
                    ],
                )
            ranges = os.listdir("/proc/self/map_files")
            targets = {os.readlink("/proc/self/map_files/" + name) for name in ranges}
            s.say("map_files:", os.fsdecode(s.root) + "/" + path in targets)
        os.close(fd)


@program
def mapped_and_gone(s: Calls) -> None:
    _change("big")
    for path in ("file", "big"):
        fd = os.open(path, os.O_RDONLY)
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ):
            if path == "big":
                os.rename(path, "moved")
            os.unlink("moved" if path == "big" else path)
            with open("/proc/self/maps", "rb") as maps:
                found = [
                    line.split(None, 5)[5].strip()
                    for line in maps
                    if b"/moved" in line or b"/" + path.encode() in line
                ]
            s.say(path, [name.removeprefix(s.root) for name in found])
        os.close(fd)


@program
def of_another_process(s: Calls) -> None:
    _change("big")
    fd = os.open("big", os.O_RDWR)
    number = os.fstat(fd).st_ino
    with mmap.mmap(fd, 0):
        parent = os.getpid()

        def look() -> None:
            with open(f"/proc/{parent}/maps", "rb") as maps:
                lines = [line.split(None, 5) for line in maps if line.endswith(b"/big\n")]
            s.say(
                "mapped:", [(int(line[4]) == number, line[5].strip() == s.root + b"/big") for line in lines]
            )
            with open(f"/proc/{parent}/fdinfo/{fd}", "rb") as info:
                s.say("open:", [int(line[4:]) == number for line in info if line.startswith(b"ino:")])
            os._exit(0)

        s.child(look)


@program
def locked(s: Calls) -> None:
    for path in ("file", "new"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        status = os.fstat(fd)
        with open("/proc/locks") as locks:
            own = [line.split() for line in locks if line.split()[4] == str(os.getpid())]
        for words in own:
            s.say(path, words[1], int(words[5].split(":")[2]) == status.st_ino)
        os.close(fd)


@program
def watched(s: Calls) -> None:
    fd = s.inotify_init1(0)
    _change("big")
    os.mkdir("new-dir")
    for path in ("big", "new-dir", "file"):
        s.silently("inotify_add_watch", fd, path, 2)
    with open(f"/proc/self/fdinfo/{fd}") as info:
        told = re.findall(r"^inotify wd:\S+ ino:([0-9a-f]+)", info.read(), re.MULTILINE)
    s.say(
        "watched:",
        sorted(int(number, 16) for number in told)
        == sorted(os.stat(p).st_ino for p in ("big", "new-dir", "file")),
    )


@program
def one_file_system(s: Calls) -> None:
    os.mkdir("new-dir")
    with open("new-dir/new", "wb"):
        pass
    _change("dir/a")
    _change("to-file")
    os.symlink("x", "new-dir/link")
    devices = {device for device, _ in _everything().values()}
    s.say("devices:", devices == {os.stat(".").st_dev}, os.stat("..").st_dev in devices)
    mounts = set()
    for path in ("file", "new-dir", "new-dir/new", "dir/a", "to-file", "."):
        _, data = s._filled("statx", AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0x1000, "...", size=256)
        mounts.add(struct.unpack_from("=Q", data, 144)[0])
    s.say("mounts:", len(mounts))
