"""What was opened before a change, and the names of descriptors: /proc/self/fd, /dev/fd, /proc/self/cwd."""

from __future__ import annotations

import functools
import os
import stat

from .vocabulary import AT_EMPTY_PATH, AT_FDCWD, O_PATH, O_TMPFILE, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS


@program
def a_reader_sees_what_is_written_by_path(s: Calls) -> None:
    for path in ("file", "big", "hard-1", "dir/sub/b"):
        reader = s.open(path, os.O_RDONLY, 0)
        s.put(path, b"written by path\n", 0)
        s.pread(reader, 20, 0)
        s.fstat(reader)
        s.same(reader, path)


@program
def a_reader_sees_a_truncation(s: Calls) -> None:
    reader = s.open("big", os.O_RDONLY, 0)
    s.truncate("big", 10)
    s.fstat(reader)
    s.pread(reader, 20, 0)
    s.put("big", b"x", os.O_TRUNC)
    s.pread(reader, 20, 0)


@program
def a_reader_sees_metadata_changed_by_path(s: Calls) -> None:
    reader = s.open("file", os.O_RDONLY, 0)
    s.chmod("file", 0o604)
    s.fstat(reader)
    s.utimensat(AT_FDCWD, "file", ((1, 0), (2, 0)))
    s.fstat(reader)
    s.setxattr("file", "user.x", b"1")
    s.fgetxattr(reader, "user.x")
    s.link("file", "linked")
    s.fstat(reader)
    s.unlink("file")
    s.fstat(reader)
    s.unlink("linked")
    s.fstat(reader)


@program
def a_path_descriptor_sees_what_is_written_by_path(s: Calls) -> None:
    fd = s.open("file", O_PATH, 0)
    s.put("file", b"longer than before\n")
    s.fstat(fd)
    reader = s.open(f"/proc/self/fd/{fd}", os.O_RDWR, 0)
    s.read(reader)
    s.write(reader, b"more\n")
    s.cat("file")


@program
def a_reader_sees_what_another_process_writes(s: Calls) -> None:
    reader = s.open("file", os.O_RDONLY, 0)
    s.child(lambda: (s.put("file", b"by the child\n"), os._exit(0)))
    s.read(reader)
    s.child(lambda: (s.pread(reader, 20, 0), os._exit(0)))


@program
def an_inherited_descriptor_sees_writes(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read_end, 1)
        s.pread(fd, 20, 0)
        os._exit(0)
    s.put("file", b"after the fork\n")
    os.write(write_end, b"x")
    os.waitpid(pid, 0)


@program
def a_duplicate_sees_writes(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    copy = s.dup(fd)
    high = s.fcntl(fd, 0, 100)
    s.put("file", b"changed\n")
    s.pread(copy, 20, 0)
    s.pread(high, 20, 0)
    s.same(copy, high)


@program
def the_offset_stays_over_copy_up(s: Calls) -> None:
    reader = s.open("file", os.O_RDONLY, 0)
    s.read(reader, 3)
    s.put("file", b"CHANGED\n", 0)
    s.read(reader, 3)
    s.lseek(reader, 0, os.SEEK_CUR)
    copy = s.dup(reader)
    s.read(copy, 1)
    s.lseek(reader, 0, os.SEEK_CUR)


@program
def a_writer_and_a_later_writer(s: Calls) -> None:
    one = s.open("file", os.O_RDWR, 0)
    s.write(one, b"1")
    other = s.open("file", os.O_RDWR, 0)
    s.pwrite(other, b"2", 1)
    s.pread(one, 10, 0)
    s.same(one, other)


def _reopened(s: Calls, form: str) -> None:
    for path in ("file", "big", "new", "dir", "fifo"):
        flags = os.O_RDONLY | os.O_NONBLOCK if path != "new" else os.O_RDWR | os.O_CREAT
        fd = s.open(path, flags, 0o644)
        name = form.format(fd)
        s.readlink(name)
        s.stat(name)
        for again in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, O_PATH, os.O_RDONLY | os.O_NOFOLLOW):
            opened = s.open(name, again | (os.O_NONBLOCK if again != O_PATH else 0), 0)
            if opened >= 0:
                s.same(opened, fd)
                s.close(opened)
        s.close(fd)
        s.stat(name)


for _word, _form in {
    "proc_self_fd": "/proc/self/fd/{}",
    "dev_fd": "/dev/fd/{}",
    "proc_thread_self_fd": "/proc/thread-self/fd/{}",
    "proc_self_task_fd": "/proc/self/fd/../fd/{}",
}.items():
    program.add(f"opened_again_by_{_word}", functools.partial(_reopened, form=_form))


@program
def written_by_proc_of_a_read_only_descriptor(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.put(f"/proc/self/fd/{fd}", b"written\n")
    s.cat("file")
    s.pread(fd, 20, 0)
    s.truncate(f"/proc/self/fd/{fd}", 3)
    s.cat("file")
    s.lstat("file")


@program
def below_directories_by_proc(s: Calls) -> None:
    fd = s.open("dir", O_PATH, 0)
    for path in ("a", "sub/b", "../file", "missing", ".", ""):
        s.cat(f"/proc/self/fd/{fd}/{path}")
        s.stat(f"/proc/self/fd/{fd}/{path}")
    s.put(f"/proc/self/fd/{fd}/new")
    s.mkdir(f"/proc/self/fd/{fd}/made", 0o755)
    s.rename(f"/proc/self/fd/{fd}/a", f"/proc/self/fd/{fd}/made/a")
    s.unlink(f"/proc/self/fd/{fd}/sub/b")
    s.symlink("x", f"/dev/fd/{fd}/linked")
    s.ls("dir")
    s.ls("dir/made")


@program
def by_the_working_directory_of_proc(s: Calls) -> None:
    s.chdir("dir")
    s.readlink("/proc/self/cwd")
    s.cat("/proc/self/cwd/a")
    s.cat("/proc/self/cwd/../file")
    s.put("/proc/self/cwd/new")
    s.mkdir("/proc/self/cwd/made", 0o755)
    s.chdir("made")
    s.readlink("/proc/self/cwd")
    s.put("/proc/self/cwd/newer")
    s.ls(".")
    s.ls("..")


@program
def by_the_root_of_proc(s: Calls) -> None:
    s.cat(b"/proc/self/root" + s.root + b"/file")
    s.put(b"/proc/self/root" + s.root + b"/new")
    s.unlink(b"/proc/self/root" + s.root + b"/dir/a")
    s.ls("dir")


@program
def names_of_descriptors_after_changes(s: Calls) -> None:
    def show(fd: int) -> None:
        s.readlink(f"/proc/self/fd/{fd}")

    reader, writer = s.open("file", os.O_RDONLY, 0), s.open("dir/a", os.O_RDWR, 0)
    new, directory = s.open("new", os.O_RDWR | os.O_CREAT, 0o644), s.open("dir/sub", os.O_RDONLY, 0)
    for fd in (reader, writer, new, directory):
        show(fd)
    s.put("file")
    s.rename("dir/a", "moved")
    s.rename("new", "dir/newer")
    s.rename("dir", "moved-dir")
    for fd in (reader, writer, new, directory):
        show(fd)
    s.unlink("file")
    s.unlink("moved")
    for fd in (reader, writer):
        show(fd)


@program
def names_of_removed_directories(s: Calls) -> None:
    fd = s.open("empty-dir", os.O_RDONLY, 0)
    s.rmdir("empty-dir")
    s.readlink(f"/proc/self/fd/{fd}")
    s.stat(f"/proc/self/fd/{fd}")
    s.mkdir("empty-dir", 0o755)
    s.readlink(f"/proc/self/fd/{fd}")
    s.same(fd, "empty-dir")


@program
def names_through_links(s: Calls) -> None:
    for path in ("to-file", "to-link", "to-dir/sub/b", "to-root", "up", "dir/../file", "to-slash"):
        fd = s.open(path, os.O_RDONLY, 0)
        s.readlink(f"/proc/self/fd/{fd}")
        s.close(fd)
    fd = s.open("to-file", O_PATH | os.O_NOFOLLOW, 0)
    s.readlink(f"/proc/self/fd/{fd}")


@program
def of_new_objects_by_path_only(s: Calls) -> None:
    s.mkdir("made", 0o755)
    s.put("made/file")
    s.mknod("made/fifo", stat.S_IFIFO | 0o600, 0)
    s.mknod("made/socket", stat.S_IFSOCK | 0o600, 0)
    s.symlink("file", "made/link")
    s.put("made/closed", mode=0)
    for path in ("file", "fifo", "socket", "link", "closed", ".", "missing"):
        fd = s.open("made/" + path, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0)
        if fd < 0:
            continue
        s.tried(["fcntl", fd, 1, 0], ["fcntl", fd, 3, 0], ["read", fd, 1])
        s.fstat(fd)
        s.readlink(f"/proc/self/fd/{fd}")
        s.fchmod(fd, 0o640)
        s.fchmodat2(fd, "", 0o640, AT_EMPTY_PATH)
        s.chmod(f"/proc/self/fd/{fd}", 0o644)
        s.fstat(fd)
        s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "linked-" + path, 0x400)
        s.tried(["openat", fd, "file", os.O_RDONLY, 0])
        s.tried(["open", f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK, 0])
        s.close(fd)
    directory = s.open("made/", O_PATH | os.O_DIRECTORY, 0)
    s.same(s.openat(directory, "fifo", O_PATH, 0), "made/fifo")
    s.tried(
        ["openat", directory, "file", O_PATH | os.O_DIRECTORY, 0], ["openat", directory, "file/", O_PATH, 0]
    )
    s.fchdir(directory)
    s.getcwd()
    s.same(s.open("./link", O_PATH | os.O_NOFOLLOW, 0), "link")
    s.close(0)
    s.open("file", O_PATH, 0)


@program
def what_proc_shows_of_descriptors(s: Calls) -> None:
    for path, flags in (
        ("file", os.O_RDONLY),
        ("new", os.O_RDWR | os.O_CREAT | os.O_APPEND),
        ("dir", O_PATH),
    ):
        fd = s.open(path, flags, 0o644)
        status = s.silently("open", f"/proc/self/fdinfo/{fd}", os.O_RDONLY, 0)
        lines = os.read(status, 4096).decode().splitlines() if status >= 0 else []
        s.say([line for line in lines if line.startswith(("pos", "flags"))])
        s.close(fd)


@program
def which_descriptors_proc_shows(s: Calls) -> None:
    s.open("file", os.O_RDONLY, 0)
    s.open("new", os.O_RDWR | os.O_CREAT, 0o644)
    s.ls("/proc/self/fd")
    s.ls("/dev/fd")


@program
def which_mappings_proc_shows(s: Calls) -> None:
    import mmap

    for path, flags in (("file", os.O_RDONLY), ("new", os.O_RDWR | os.O_CREAT)):
        fd = s.open(path, flags, 0o644)
        if path == "new":
            s.ftruncate(fd, 4096)
        with mmap.mmap(fd, 8, prot=mmap.PROT_READ):
            with open("/proc/self/maps", "rb") as maps:
                names = [
                    line.split(None, 5)[5].strip()
                    for line in maps
                    if line.endswith(b"/" + path.encode() + b"\n")
                ]
            s.say("mapped:", names == [s.root + b"/" + path.encode()])


@program
def passed_over_a_socket(s: Calls) -> None:
    import socket

    one, other = socket.socketpair()
    fd = s.open("file", os.O_RDONLY, 0)
    socket.send_fds(one, [b"x"], [fd])
    received = socket.recv_fds(other, 1, 1)[1][0]
    s.put("file", b"changed\n")
    s.pread(received, 20, 0)
    s.readlink(f"/proc/self/fd/{received}")


@program
def over_exec(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    closing = s.open("file", os.O_RDONLY | os.O_CLOEXEC, 0)
    s.run(
        "/bin/sh",
        "-c",
        f"cat <&{fd}; readlink /proc/self/fd/{fd}; test -e /proc/self/fd/{closing} || echo closed",
    )
    s.put("file", b"changed\n")
    s.run("/bin/sh", "-c", f"cat /dev/fd/{fd}")


@program
def a_directory_descriptor_after_changes(s: Calls) -> None:
    fd = s.open("dir", os.O_RDONLY, 0)
    s.put("dir/new")
    s.unlink("dir/a")
    for path in ("new", "a", "sub/b", "../file"):
        s.newfstatat(fd, path)
    s.list_fd(fd)
    s.fstat(fd)
    s.fchdir(fd)
    s.getcwd()
    s.ls(".")


@program
def a_directory_descriptor_when_another_takes_the_name(s: Calls) -> None:
    fd = s.open("dir", os.O_RDONLY, 0)
    s.rename("dir", "moved")
    s.mkdir("dir", 0o755)
    s.put("dir/only")
    s.newfstatat(fd, "a")
    s.newfstatat(fd, "only")
    s.mkdirat(fd, "made", 0o755)
    s.ls("dir")
    s.ls("moved")
    s.same(fd, "moved")


@program
def descriptors_of_new_directories(s: Calls) -> None:
    s.mkdir("new", 0o755)
    fd = s.open("new", os.O_RDONLY, 0)
    s.tried(["openat", fd, "file", os.O_CREAT | os.O_WRONLY, 0o644])
    s.mkdirat(fd, "sub", 0o755)
    s.renameat(fd, "file", fd, "sub/file")
    s.rename("new", "newer")
    s.list_fd(fd)
    s.newfstatat(fd, "sub/file")
    s.readlink(f"/proc/self/fd/{fd}")


@program
def file_locks(s: Calls) -> None:
    reader = s.open("file", os.O_RDONLY, 0)
    s.flock(reader, 1)
    writer = s.open("file", os.O_RDWR, 0)
    s.flock(writer, 2 | 4)
    s.flock(reader, 8)
    s.flock(writer, 2 | 4)
    s.child(lambda: (s.flock(s.open("file", os.O_RDONLY, 0), 1 | 4), os._exit(0)))


@program
def record_locks(s: Calls) -> None:
    import fcntl

    fd = s.open("file", os.O_RDWR, 0)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 4)

    def try_it() -> None:
        other = s.open("file", os.O_RDWR, 0)
        for start in (0, 4):
            try:
                fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, start)
                s.say(start, "locked")
            except OSError as error:
                s.say(start, error.strerror)
        os._exit(0)

    s.child(try_it)


@program
def locks_of_a_reader_and_a_later_writer(s: Calls) -> None:
    """Both have opened one file, though the first before it was written."""
    reader = s.open("file", os.O_RDONLY, 0)
    s.flock(reader, 2 | 4)

    def write() -> None:
        fd = s.open("file", os.O_RDWR, 0)
        s.flock(fd, 2 | 4)
        os._exit(0)

    s.child(write)


@program
def a_temporary_file_by_proc(s: Calls) -> None:
    fd = s.open("dir", O_TMPFILE | os.O_RDWR, 0o644)
    s.write(fd, b"x")
    other = s.open(f"/proc/self/fd/{fd}", os.O_RDONLY, 0)
    s.read(other)
    s.same(fd, other)


@program
def closing_them(s: Calls) -> None:
    fds = [s.open(path, os.O_RDONLY, 0) for path in ("file", "dir", "big")]
    for fd in fds:
        s.close(fd)
        s.close(fd)
        s.fstat(fd)


@program
def syncing(s: Calls) -> None:
    fd = s.open("file", os.O_RDWR, 0)
    s.write(fd, b"x")
    for call in (s.fsync, s.fdatasync, s.syncfs):
        call(fd)
        call(s.open("dir", os.O_RDONLY, 0))
    s.fsync(99)
    s.cat("file")
