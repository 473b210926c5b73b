"""open, openat, creat: every flag on everything there is; what exists, is made, is cut, is refused."""

from __future__ import annotations

import functools
import os

from .vocabulary import AT_FDCWD, O_PATH, O_TMPFILE, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_KINDS = (
    *("file", "empty", "read-only", "write-only", "secret", "other", "other-writable", "hard-1", "acl"),
    *("dir", "empty-dir", "closed", "no-search", "no-write", "no-read", "sticky", "other-dir"),
    *("fifo", "socket", "to-file", "to-dir", "to-link", "to-slash", "to-root", "to-closed", "to-fifo"),
    *("dangling", "dangling-in", "loop-1", "self", "up", "missing", "dir/missing", "missing/x", "file/x"),
    *("closed/in", "no-search/in", "no-write/in", "no-read/in", "no-write/new", "no-search/new", "dir/a"),
)
_NONBLOCK = os.O_NONBLOCK  # a FIFO must not hold the program up

_EVERY_KIND = {
    "reading": os.O_RDONLY,
    "writing": os.O_WRONLY,
    "both": os.O_RDWR,
    "creating": os.O_WRONLY | os.O_CREAT,
    "creating_for_reading": os.O_RDONLY | os.O_CREAT,
    "creating_exclusively": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "truncating": os.O_WRONLY | os.O_TRUNC,
    "truncating_for_reading": os.O_RDONLY | os.O_TRUNC,
    "creating_and_truncating": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "appending": os.O_WRONLY | os.O_APPEND,
    "not_following": os.O_RDONLY | os.O_NOFOLLOW,
    "writing_not_following": os.O_WRONLY | os.O_NOFOLLOW,
    "creating_not_following": os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW,
    "a_directory": os.O_RDONLY | os.O_DIRECTORY,
    "a_directory_not_following": os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
    "writing_a_directory": os.O_RDWR | os.O_DIRECTORY,
    "a_path": O_PATH,
    "a_path_not_following": O_PATH | os.O_NOFOLLOW,
    "a_path_of_a_directory": O_PATH | os.O_DIRECTORY,
    "no_access_mode": 3,
    "exclusively_without_creating": os.O_RDWR | os.O_EXCL,
    "synchronously": os.O_WRONLY | os.O_SYNC,
    "without_access_time": os.O_RDONLY | os.O_NOATIME,
}


def _every_kind(s: Calls, flags: int) -> None:
    for path in _KINDS:
        fd = s.openat(AT_FDCWD, path, flags | (_NONBLOCK if not flags & O_PATH else 0), 0o640)
        if fd >= 0:
            s.fstat(fd)
            s.close(fd)


for _name, _flags in _EVERY_KIND.items():
    program.add(f"{_name}_every_kind", functools.partial(_every_kind, flags=_flags))


@program
def directories_are_not_created(s: Calls) -> None:
    for flags in (os.O_CREAT | os.O_DIRECTORY, os.O_CREAT | os.O_DIRECTORY | os.O_EXCL):
        for path in ("new", "dir", "file", "dir/new/"):
            s.tried(["open", path, os.O_RDONLY | flags, 0o755])


@program
def slashes_behind_names(s: Calls) -> None:
    for path in (
        "file/",
        "dir/",
        "new/",
        "to-file/",
        "to-dir/",
        "dangling/",
        "loop-1/",
        "fifo/",
        "empty-dir//",
    ):
        for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_RDONLY | os.O_NOFOLLOW, O_PATH):
            s.tried(["openat", AT_FDCWD, path, flags | (0 if flags == O_PATH else _NONBLOCK), 0o644])


@program
def creating_behind_a_dangling_link(s: Calls) -> None:
    s.put("dangling-in", b"through the link\n")
    s.cat("empty-dir/new")
    s.lstat("dangling-in")
    s.put("dangling", b"beside it\n")
    s.cat("nowhere")


@program
def creating_behind_a_link_to_a_directory(s: Calls) -> None:
    s.put("to-dir/new")
    s.put("to-slash/sub/new")
    s.ls("dir")
    s.ls("dir/sub")


@program
def creat_makes_cuts_and_refuses(s: Calls) -> None:
    for path in (
        "new",
        "file",
        "dir",
        "read-only",
        "secret",
        "to-file",
        "dangling",
        "closed/new",
        "missing/x",
    ):
        s.tried(["creat", path, 0o640])
        s.lstat(path)


@program
def a_new_file_is_written_and_read(s: Calls) -> None:
    fd = s.open("new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    s.write(fd, b"hello\n")
    s.pread(fd, 10, 0)
    s.fstat(fd)
    s.cat("new")
    s.close(fd)
    s.lstat("new")


@program
def a_new_file_made_read_only_stays_open_for_writing(s: Calls) -> None:
    for mode in (0o000, 0o444, 0o200):
        fd = s.open(f"new-{mode:o}", os.O_RDWR | os.O_CREAT, mode)
        s.write(fd, b"text")
        s.pread(fd, 10, 0)
        s.close(fd)
        s.tried(["open", f"new-{mode:o}", os.O_RDWR, 0], ["open", f"new-{mode:o}", os.O_RDONLY, 0])


@program
def modes_and_umasks_of_new_files(s: Calls) -> None:
    for mask in (0, 0o022, 0o077, 0o777):
        s.umask(mask)
        for mode in (0o777, 0o666, 0o1644, 0o7777, 0o100644, 0o170644):
            path = f"new-{mask:o}-{mode:o}"
            s.tried(["open", path, os.O_WRONLY | os.O_CREAT, mode & 0o1777 if mode < 0o10000 else mode])
            s.lstat(path)


@program
def the_first_free_descriptor(s: Calls) -> None:
    fds = [s.open(path, os.O_RDONLY, 0) for path in ("file", "dir", "big", "dir/a")]
    s.close(fds[1])
    s.open("file", os.O_RDWR, 0)
    s.close(fds[0])
    s.open("new", os.O_WRONLY | os.O_CREAT, 0o644)


@program
def flags_of_a_descriptor(s: Calls) -> None:
    for path in ("file", "new"):
        for flags in (
            *(os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR | _NONBLOCK, os.O_RDWR | os.O_CLOEXEC),
            *(
                os.O_RDWR | os.O_SYNC,
                os.O_RDWR | os.O_DSYNC,
                os.O_RDONLY | os.O_NOFOLLOW,
                O_PATH | os.O_CLOEXEC,
            ),
            os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY,
        ):
            fd = s.open(path, flags, 0o644)
            s.fcntl(fd, 3, 0)
            s.fcntl(fd, 1, 0)
            s.close(fd)


@program
def truncating_on_open(s: Calls) -> None:
    for path in ("file", "hard-1", "big", "sparse", "to-file"):
        s.tried(["open", path, os.O_WRONLY | os.O_TRUNC, 0])
        s.stat(path)
    s.cat("hard-2")


@program
def truncating_an_empty_file_on_open(s: Calls) -> None:
    s.tried(["open", "empty", os.O_WRONLY | os.O_TRUNC, 0])
    s.lstat("empty")


@program
def opening_for_writing_changes_nothing_yet(s: Calls) -> None:
    for path in ("file", "big", "hard-1", "dir/sub/b", "attributes", "acl", "sparse"):
        before = s.inode(path)
        s.tried(["open", path, os.O_RDWR, 0])
        s.lstat(path)
        s.say("the same object:", before == s.inode(path))
    s.lstat("dir/sub")
    s.lstat("dir")


@program
def appending(s: Calls) -> None:
    one = s.open("file", os.O_WRONLY | os.O_APPEND, 0)
    other = s.open("file", os.O_WRONLY | os.O_APPEND, 0)
    for fd, text in ((one, b"1"), (other, b"2"), (one, b"3")):
        s.write(fd, text)
    s.pwrite(one, b"4", 0)
    s.lseek(one, 0, os.SEEK_SET)
    s.write(one, b"5\n")
    s.cat("file")


@program
def writing_in_the_middle(s: Calls) -> None:
    fd = s.open("big", os.O_RDWR, 0)
    s.pwrite(fd, b"HERE", 10000)
    s.pread(fd, 12, 9996)
    s.pwrite(fd, b"END", 19999)
    s.fstat(fd)
    s.cat("big")


@program
def writing_behind_the_end(s: Calls) -> None:
    fd = s.open("file", os.O_WRONLY, 0)
    s.pwrite(fd, b"far", 100)
    s.cat("file")
    s.lstat("file")


@program
def descriptors_only_do_what_they_were_opened_for(s: Calls) -> None:
    for path in ("file", "new"):
        for flags in (os.O_RDONLY | os.O_CREAT, os.O_WRONLY, O_PATH):
            fd = s.open(path, flags, 0o644)
            s.read(fd, 10)
            s.write(fd, b"x")
            s.ftruncate(fd, 3)
            s.fchmod(fd, 0o600)
            s.close(fd)


@program
def temporary_file_without_a_name(s: Calls) -> None:
    for directory in (
        "dir",
        ".",
        "empty-dir",
        "to-dir",
        "no-write",
        "closed",
        "file",
        "missing",
        "other-dir",
    ):
        for access in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY):
            s.tried(["open", directory, O_TMPFILE | access, 0o600])
    fd = s.open("dir", O_TMPFILE | os.O_RDWR, 0o640)
    s.write(fd, b"nameless\n")
    s.pread(fd, 20, 0)
    s.fstat(fd)
    s.ls("dir")


@program
def temporary_file_that_gets_a_name(s: Calls) -> None:
    fd = s.open("dir", O_TMPFILE | os.O_RDWR, 0o644)
    s.write(fd, b"named\n")
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "dir/named", 0x400)
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "dir/a", 0x400)
    s.fstat(fd)
    s.cat("dir/named")
    s.same(fd, "dir/named")
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "dir/again", 0x400)
    s.lstat("dir/again")


@program
def temporary_file_that_may_not_get_a_name(s: Calls) -> None:
    fd = s.open("dir", O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o644)
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "dir/named", 0x400)
    s.fstat(fd)


@program
def temporary_file_by_its_descriptor_alone(s: Calls) -> None:
    fd = s.open("dir", O_TMPFILE | os.O_RDWR, 0o644)
    s.fchmod(fd, 0o604)
    s.fsetxattr(fd, "user.x", b"1")
    s.linkat(fd, b"", AT_FDCWD, "named", 0x1000)
    s.lstat("named")
    s.getxattr("named", "user.x")


@program
def a_directory_for_writing(s: Calls) -> None:
    for flags in (
        os.O_WRONLY,
        os.O_RDWR,
        os.O_RDONLY | os.O_TRUNC,
        os.O_RDONLY | os.O_CREAT,
        os.O_WRONLY | os.O_CREAT,
    ):
        s.tried(["open", "dir", flags, 0o644], ["open", "to-dir", flags, 0o644], ["open", ".", flags, 0o644])


@program
def a_path_descriptor(s: Calls) -> None:
    fd = s.open("file", O_PATH, 0)
    s.put("file", b"changed since\n")
    s.fstat(fd)
    s.cat(f"/proc/self/fd/{fd}")
    link = s.open("to-file", O_PATH | os.O_NOFOLLOW, 0)
    s.fstat(link)
    s.readlinkat(link, "")
    directory = s.open("dir", O_PATH, 0)
    s.tried(["openat", directory, "a", os.O_RDONLY, 0], ["openat", directory, "../file", os.O_RDONLY, 0])
    s.entries(directory)
    s.list_fd(directory)


@program
def relative_to_descriptors(s: Calls) -> None:
    directory, file = s.open("dir", os.O_RDONLY, 0), s.open("file", os.O_RDONLY, 0)
    for dirfd in (directory, file, 99, -1, -100):
        for path in ("a", "sub/b", "../file", s.root + b"/file", "", "new", "."):
            s.tried(["openat", dirfd, path, os.O_RDONLY, 0])
    s.tried(["openat", directory, "made-there", os.O_WRONLY | os.O_CREAT, 0o644])
    s.ls("dir")


@program
def bad_pointers_and_flags(s: Calls) -> None:
    s.openat(AT_FDCWD, None, os.O_RDONLY, 0)
    s.openat(AT_FDCWD, 1, os.O_RDONLY, 0)
    s.openat(AT_FDCWD, "", os.O_RDONLY, 0)
    s.openat(AT_FDCWD, "", os.O_WRONLY | os.O_CREAT, 0o644)
    s.tried(["openat", AT_FDCWD, "file", 1 << 30, 0], ["openat", AT_FDCWD, "file", O_PATH | os.O_TRUNC, 0])
    s.tried(
        ["openat", AT_FDCWD, "file", O_PATH | os.O_WRONLY, 0],
        ["openat", AT_FDCWD, "new", O_PATH | os.O_CREAT, 0o644],
    )
    s.lstat("new")


@program
def a_fifo_of_the_tree(s: Calls) -> None:
    s.tried(["open", "fifo", os.O_WRONLY | _NONBLOCK, 0])
    reader = s.open("fifo", os.O_RDONLY | _NONBLOCK, 0)
    writer = s.open("to-fifo", os.O_WRONLY | _NONBLOCK, 0)
    s.write(writer, b"through\n")
    s.read(reader)
    s.read(reader)
    s.close(writer)
    s.read(reader)
    s.lstat("fifo")


@program
def a_fifo_between_two_processes(s: Calls) -> None:
    s.mknod("pipe", 0o010600, 0)

    def write() -> None:
        fd = s.silently("open", "pipe", os.O_WRONLY, 0)
        s.silently("write", fd, b"from the child\n", 15)
        os._exit(0)

    pid = os.fork()
    if pid == 0:
        write()
    fd = s.open("pipe", os.O_RDONLY, 0)
    s.read(fd)
    os.waitpid(pid, 0)


@program
def outside_of_the_tree(s: Calls) -> None:
    s.cat("to-outside")
    s.cat("to-outside-dir/file")
    s.cat(s.outside + b"/file")
    s.cat("to-outside-dir/../file")
    s.cat("/etc/hostname-that-is-not-there")
    s.cat(s.root + b"/../" + s.root.rpartition(b"/")[2] + b"/file")


@program
def the_same_file_by_many_names(s: Calls) -> None:
    s.put("up", b"by up\n")
    for path in (
        "file",
        "to-file",
        "to-link",
        "to-root",
        "up",
        "dir/up",
        "dir/../file",
        "./file",
        "dir/sub/../../file",
    ):
        s.cat(path)
        s.same(path, "file")
    s.cat(s.root + b"/file")
    s.cat(b"//" + s.root + b"//./file")


@program
def a_file_of_somebody_else(s: Calls) -> None:
    s.put("other", b"mine\n")
    s.put("other-writable", b"mine\n")
    s.lstat("other-writable")
    s.cat("other-writable")


@program
def write_then_read_by_another_name_of_a_hard_link(s: Calls) -> None:
    s.put("hard-1", b"both see it\n")
    for path in ("hard-1", "hard-2", "dir/hard-3"):
        s.cat(path)
        s.lstat(path)
    s.same("hard-1", "dir/hard-3")


@program
def exclusive_creation_over_everything(s: Calls) -> None:
    for path in (
        "file",
        "dir",
        "dangling",
        "loop-1",
        "to-file",
        "fifo",
        "new",
        "new",
        ".",
        "..",
        "dir/.",
        "dir/..",
    ):
        s.tried(["open", path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600])


@program
def create_again_what_was_removed(s: Calls) -> None:
    for path in ("file", "to-file", "fifo", "dir/a"):
        s.unlink(path)
        s.tried(["open", path, os.O_RDONLY | _NONBLOCK, 0])
        s.tried(["open", path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600])
        s.lstat(path)
