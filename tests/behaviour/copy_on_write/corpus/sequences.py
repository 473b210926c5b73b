"""What programs do with many calls: rm -rf, cp -a, mv, editors that save, locks, builds."""

from __future__ import annotations

import os
import stat

from .vocabulary import AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_NOFOLLOW, Calls, Entry, Path, Programs

PROGRAMS = Programs()
program = PROGRAMS


def _entries(s: Calls, fd: int) -> list[Entry]:
    found = s.all_entries(fd, 2048)
    return [] if isinstance(found, int) else sorted(e for e in found if e.name not in (b".", b".."))


def _remove(s: Calls, dirfd: int, name: Path) -> None:
    """rm -rf as coreutils does it."""
    if s.silently("unlinkat", dirfd, name, 0) == 0:
        return
    fd = s.silently("openat", dirfd, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, 0)
    if fd >= 0:
        for entry in _entries(s, fd):
            _remove(s, fd, entry.name)
        s.silently("close", fd)
    result = s.silently("unlinkat", dirfd, name, AT_REMOVEDIR)
    if result:
        s.told("rmdir", (name,), result)


def _copy(s: Calls, source: Path, target: Path) -> None:
    """cp -a, without the hard links."""
    status = s.status(source)
    if status is None:
        s.say("cannot copy", source if isinstance(source, bytes) else source.encode())
        return
    kind = stat.S_IFMT(status.mode)
    if kind == stat.S_IFDIR:
        s.silently("mkdir", target, 0o700)
        fd = s.silently("open", source, os.O_RDONLY, 0)
        for entry in _entries(s, fd) if fd >= 0 else []:
            _copy(s, os.fsencode(source) + b"/" + entry.name, os.fsencode(target) + b"/" + entry.name)
        s.silently("close", fd)
    elif kind == stat.S_IFLNK:
        s.silently("symlink", os.readlink(source), target)
    elif kind == stat.S_IFREG:
        _copy_file(s, source, target)
    else:
        s.silently("mknod", target, status.mode, 0)
    _copy_metadata(s, source, target, status.mtime_ns)


def _copy_file(s: Calls, source: Path, target: Path) -> None:
    reader = s.silently("open", source, os.O_RDONLY, 0)
    writer = s.silently("open", target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    if reader < 0 or writer < 0:
        s.told("copy", (source, target), min(reader, writer))
    while reader >= 0 and s.silently("copy_file_range", reader, None, writer, None, 1 << 20, 0) > 0:
        pass
    for fd in (reader, writer):
        if fd >= 0:
            s.silently("close", fd)


def _copy_metadata(s: Calls, source: Path, target: Path, mtime_ns: int) -> None:
    status = s.status(source)
    assert status is not None
    s.silently("fchownat", AT_FDCWD, target, status.uid, status.gid, AT_SYMLINK_NOFOLLOW)
    if not stat.S_ISLNK(status.mode):
        s.silently("chmod", target, stat.S_IMODE(status.mode) & 0o1777)
        for name in os.listxattr(source):
            os.setxattr(target, name, os.getxattr(source, name))
    time = divmod(mtime_ns, 10**9)
    os.utime(target, ns=(time[0] * 10**9, mtime_ns), follow_symlinks=False)


@program
def remove_a_tree(s: Calls) -> None:
    _remove(s, AT_FDCWD, "dir")
    s.lstat("dir")
    s.stat("dir/sub/b")
    s.lstat("hard-1")
    s.ls(".")


@program
def remove_everything(s: Calls) -> None:
    fd = s.open(".", os.O_RDONLY, 0)
    for entry in _entries(s, fd):
        _remove(s, fd, entry.name)
    s.ls(".")


@program
def remove_a_tree_and_make_it_again(s: Calls) -> None:
    for _ in range(3):
        _remove(s, AT_FDCWD, "dir")
        s.mkdir("dir", 0o755)
        s.mkdir("dir/sub", 0o755)
        s.put("dir/sub/new")
        s.ls("dir")
        s.ls("dir/sub")
        s.stat("dir/sub/deep")


@program
def copy_a_tree(s: Calls) -> None:
    _copy(s, "dir", "copied")
    s.ls("copied")
    s.ls("copied/sub")
    s.cat("copied/sub/deep/c")
    s.lstat("copied/sub")


@program
def copy_change_and_move_back(s: Calls) -> None:
    _copy(s, "dir", "copied")
    s.put("copied/sub/b", b"changed\n")
    s.unlink("copied/a")
    _remove(s, AT_FDCWD, "dir")
    s.rename("copied", "dir")
    s.ls("dir")
    s.cat("dir/sub/b")


@program
def copy_everything(s: Calls) -> None:
    s.mkdir("copied", 0o755)
    fd = s.open(".", os.O_RDONLY, 0)
    for entry in _entries(s, fd):
        if entry.name not in (
            b"copied",
            b"closed",
            b"no-search",
            b"no-read",
            b"secret",
            b"write-only",
            b"no-write",
        ):
            _copy(s, entry.name, b"copied/" + entry.name)
    s.ls("copied")


@program
def an_editor_saves_with_a_backup(s: Calls) -> None:
    s.rename("file", "file~")
    s.put("file", b"edited\n")
    s.chmod("file", 0o644)
    s.unlink("file~")
    s.cat("file")
    s.lstat("file")


@program
def an_editor_saves_by_renaming(s: Calls) -> None:
    fd = s.open(".file.swp", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    s.write(fd, b"swap")
    temporary = s.open("file.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    s.write(temporary, b"edited\n")
    s.fchmod(temporary, 0o644)
    s.fsync(temporary)
    s.close(temporary)
    s.rename("file.tmp", "file")
    s.fsync(s.open(".", os.O_RDONLY, 0))
    s.unlink(".file.swp")
    s.cat("file")
    s.lstat("file")


@program
def an_editor_saves_in_place(s: Calls) -> None:
    s.link("hard-1", "hard-1~")
    s.put("hard-1", b"edited in place\n")
    s.unlink("hard-1~")
    s.cat("dir/hard-3")


@program
def as_git_writes_objects(s: Calls) -> None:
    s.mkdir("objects", 0o755)
    for number in range(5):
        s.mkdir(f"objects/{number % 2:02}", 0o755)
        s.put(f"objects/tmp_{number}", b"object %d" % number, os.O_EXCL, 0o444)
        s.link(f"objects/tmp_{number}", f"objects/{number % 2:02}/{number}")
        s.unlink(f"objects/tmp_{number}")
    s.put("index.lock", b"index", os.O_EXCL)
    s.put("index.lock", b"index", os.O_EXCL)
    s.rename("index.lock", "index")
    s.ls("objects/00")
    s.ls("objects")


@program
def as_make_decides_by_times(s: Calls) -> None:
    s.put("dir/a.o", b"object\n")
    source, made = s.status("dir/a"), s.status("dir/a.o")
    s.say("newer:", bool(source and made and made.mtime_ns > source.mtime_ns))
    s.put("dir/a", b"edited\n")
    source = s.status("dir/a")
    s.say("not older:", bool(source and made and source.mtime_ns >= made.mtime_ns))


@program
def rotating_logs(s: Calls) -> None:
    fd = s.open("file", os.O_WRONLY | os.O_APPEND, 0)
    for number in range(4):
        for old in range(3, 0, -1):
            s.silently("rename", f"file.{old}", f"file.{old + 1}")
        s.rename("file", "file.1")
        s.write(fd, b"to the old one\n")
        s.put("file", b"log %d\n" % number, os.O_APPEND)
        s.close(fd)
        fd = s.open("file", os.O_WRONLY | os.O_APPEND, 0)
    for number in range(1, 5):
        s.cat(f"file.{number}")


@program
def moving_trees_through_each_other(s: Calls) -> None:
    s.rename("full", "dir/sub/full")
    s.rename("dir/sub", "sub")
    s.rename("dir", "sub/deep/dir")
    s.rename("sub/full", "full")
    s.ls("sub/deep/dir")
    s.cat("sub/deep/dir/a")
    s.cat("full/two")
    s.rename("sub/deep/dir", "dir")
    s.rename("sub", "dir/sub")
    s.ls("dir")
    s.cat("dir/sub/deep/c")
    s.chmod("dir/sub/deep/c", 0o600)  # else there are but times of directories to be kept, and no run is


@program
def unpacking_an_archive(s: Calls) -> None:
    """Over what is there: unlink first, times and modes after."""
    for path, mode in (("dir/a", 0o600), ("dir/new", 0o640), ("file", 0o444), ("full/one", 0o755)):
        s.unlink(path)
        fd = s.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o700)
        s.write(fd, path.encode())
        s.utimensat(fd, None, ((9, 0), (9, 9)))
        s.fchmod(fd, mode)
        s.close(fd)
    for path in ("dir", "full"):
        s.utimensat(AT_FDCWD, path, ((8, 0), (8, 8)))
    for path in ("dir/a", "dir/new", "file", "full/one", "dir", "full"):
        s.lstat(path)


@program
def a_database_with_a_journal(s: Calls) -> None:
    fd = s.open("big", os.O_RDWR, 0)
    journal = s.open("big-journal", os.O_RDWR | os.O_CREAT, 0o644)
    for page in range(3):
        s.silently("pwrite64", journal, b"page", 4, page * 4)
        s.silently("fsync", journal)
        s.silently("pwrite64", fd, b"new %d" % page, 5, page * 4096)
    s.fsync(fd)
    s.close(journal)
    s.unlink("big-journal")
    s.pread(fd, 5, 4096)
    s.cat("big")


@program
def many_processes_in_one_directory(s: Calls) -> None:
    pids = []
    for number in range(6):
        pid = os.fork()
        if pid == 0:
            for turn in range(10):
                s.silently("mkdir", f"dir/made-{turn}", 0o755)
                fd = s.silently("open", f"dir/own-{number}-{turn}", os.O_CREAT | os.O_WRONLY, 0o644)
                s.silently("write", fd, b"%d" % number, 1)
                s.silently("rename", f"dir/own-{number}-{turn}", f"dir/done-{number}-{turn}")
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    s.ls("dir")


@program
def many_processes_append_to_one_file(s: Calls) -> None:
    pids = []
    for number in range(6):
        pid = os.fork()
        if pid == 0:
            fd = s.silently("open", "file", os.O_WRONLY | os.O_APPEND, 0)
            for _ in range(20):
                s.silently("write", fd, b"%d\n" % number, 2)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    fd = s.open("file", os.O_RDONLY, 0)
    data = os.read(fd, 10000)
    s.say(len(data), [data.count(b"%d\n" % number) for number in range(6)])
    os.truncate("file", 0)  # their order is nobody's


@program
def one_of_many_makes_it(s: Calls) -> None:
    """O_EXCL, mkdir and link have one winner each."""
    counts = []
    for what in ("open", "mkdir", "link"):
        pids = []
        for _ in range(6):
            pid = os.fork()
            if pid == 0:
                if what == "open":
                    result = s.silently("open", "winner", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                elif what == "mkdir":
                    result = s.silently("mkdir", "winning", 0o755)
                else:
                    result = s.silently("link", "file", "linked")
                os._exit(0 if result >= 0 else 1)
            pids.append(pid)
        counts.append(sum(os.waitpid(pid, 0)[1] == 0 for pid in pids))
    s.say("winners:", counts)
