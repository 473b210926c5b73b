"""truncate, ftruncate, fallocate, holes, mappings, and copies from descriptor to descriptor."""

from __future__ import annotations

import mmap
import os

from .vocabulary import SEEK_DATA, SEEK_HOLE, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_TARGETS = (
    *(
        "file",
        "empty",
        "read-only",
        "write-only",
        "secret",
        "other",
        "other-writable",
        "big",
        "sparse",
        "hard-1",
        "dir",
    ),
    *(
        "fifo",
        "socket",
        "to-file",
        "to-dir",
        "dangling",
        "loop-1",
        "missing",
        "file/x",
        "closed/in",
        "no-write/in",
    ),
    *("file/", "", "n" * 256, ".", "to-closed"),
)


@program
def truncate_everywhere(s: Calls) -> None:
    for path in _TARGETS:
        s.truncate(path, 3)
        s.stat(path)


@program
def truncate_to_any_size(s: Calls) -> None:
    for size in (0, 8, 100, 4096, 5, 1 << 30, -1, 1 << 62):
        s.truncate("file", size)
        s.lstat("file")
    s.truncate("file", 3)
    s.cat("file")


@program
def truncate_to_the_same_size(s: Calls) -> None:
    s.truncate("file", 8)
    s.lstat("file")
    s.changed("file")
    s.truncate("empty", 0)
    s.lstat("empty")


@program
def a_truncated_big_file(s: Calls) -> None:
    s.truncate("big", 10000)
    s.cat("big")
    s.truncate("big", 10010)
    s.cat("big")


@program
def truncate_by_one_name_of_a_hard_link(s: Calls) -> None:
    s.truncate("hard-2", 2)
    s.cat("hard-1")
    s.cat("dir/hard-3")
    s.lstat("hard-1")


@program
def ftruncate(s: Calls) -> None:
    for path, flags in (
        ("file", os.O_RDWR),
        ("big", os.O_WRONLY),
        ("empty", os.O_RDONLY),
        ("dir", os.O_RDONLY),
    ):
        fd = s.open(path, flags, 0)
        for size in (5, 50, -1):
            s.ftruncate(fd, size)
        s.fstat(fd)
        s.lstat(path)
    s.ftruncate(99, 0)


@program
def ftruncate_of_a_file_opened_before_it_changed(s: Calls) -> None:
    fd = s.open("file", os.O_RDWR, 0)
    s.put("file", b"longer than it was\n")
    s.ftruncate(fd, 6)
    s.cat("file")
    s.unlink("file")
    s.ftruncate(fd, 3)
    s.pread(fd, 10, 0)


@program
def fallocate(s: Calls) -> None:
    fd = s.open("file", os.O_RDWR, 0)
    for mode, offset, size in (
        (0, 0, 100),
        (1, 0, 100000),
        (0, 50, 4096),
        (3, 0, 4),
        (2, 0, 4),
        (0, 0, 0),
        (0, -1, 5),
    ):
        s.fallocate(fd, mode, offset, size)
        s.fstat(fd)
    s.cat("file")
    s.fallocate(s.open("big", os.O_RDONLY, 0), 0, 0, 100)
    s.fallocate(s.open("dir", os.O_RDONLY, 0), 0, 0, 100)
    s.fallocate(99, 0, 0, 100)


@program
def punching_a_hole(s: Calls) -> None:
    fd = s.open("big", os.O_RDWR, 0)
    s.fallocate(fd, 3, 4096, 8192)
    s.pread(fd, 4, 5000)
    s.lseek(fd, 0, SEEK_HOLE)
    s.lseek(fd, 5000, SEEK_DATA)
    s.fstat(fd)


@program
def holes_survive_a_write(s: Calls) -> None:
    fd = s.open("sparse", os.O_RDWR, 0)
    s.pwrite(fd, b"start", 0)
    s.lseek(fd, 0, SEEK_HOLE)
    s.lseek(fd, 8192, SEEK_DATA)
    s.pread(fd, 4, (256 << 10) - 4)
    s.fstat(fd)
    s.say("still sparse:", os.fstat(fd).st_blocks * 512 < 65536)


@program
def holes_of_an_unchanged_file(s: Calls) -> None:
    fd = s.open("sparse", os.O_RDONLY, 0)
    s.lseek(fd, 0, SEEK_DATA)
    s.lseek(fd, 0, SEEK_HOLE)
    s.lseek(fd, 1 << 30, SEEK_DATA)


@program
def seeking(s: Calls) -> None:
    fd = s.open("file", os.O_RDWR, 0)
    s.lseek(fd, 3, os.SEEK_SET)
    s.read(fd, 2)
    s.lseek(fd, -2, os.SEEK_END)
    s.read(fd)
    s.lseek(fd, 100, os.SEEK_CUR)
    s.write(fd, b"end")
    s.cat("file")


@program
def a_shared_mapping_writes_the_file(s: Calls) -> None:
    fd = s.open("file", os.O_RDWR, 0)
    with mmap.mmap(fd, 8) as mapped:
        mapped[0:4] = b"MAPS"
        s.cat("file")
        s.pwrite(fd, b"!", 7)
        s.say(mapped[4:8])
    s.cat("file")


@program
def a_read_only_mapping_sees_later_writes(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    with mmap.mmap(fd, 8, prot=mmap.PROT_READ) as mapped:
        s.put("file", b"CHANGED\n", 0)
        s.say(mapped[0:8])
        s.pread(fd, 8, 0)


@program
def two_mappings_of_one_file(s: Calls) -> None:
    one, other = s.open("hard-1", os.O_RDWR, 0), s.open("hard-2", os.O_RDWR, 0)
    with mmap.mmap(one, 5) as first, mmap.mmap(other, 5) as second:
        first[0:4] = b"ABCD"
        s.say(second[0:5])
        second[1:2] = b"x"
        s.say(first[0:5])
    s.cat("dir/hard-3")


@program
def a_private_mapping_changes_nothing(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    with mmap.mmap(fd, 8, access=mmap.ACCESS_COPY) as mapped:
        mapped[0:4] = b"MINE"
        s.say(mapped[0:8])
    s.cat("file")
    s.lstat("file")


@program
def a_mapping_of_a_new_file(s: Calls) -> None:
    fd = s.open("new", os.O_RDWR | os.O_CREAT, 0o644)
    s.ftruncate(fd, 4096)
    with mmap.mmap(fd, 4096) as mapped:
        mapped[4000:4004] = b"here"
        s.unlink("new")
        s.pread(fd, 4, 4000)


@program
def a_mapping_of_a_removed_file(s: Calls) -> None:
    fd = s.open("big", os.O_RDWR, 0)
    with mmap.mmap(fd, 4096) as mapped:
        s.unlink("big")
        mapped[0:2] = b"ok"
        s.pread(fd, 4, 0)
        s.put("big", b"another\n")
        s.say(mapped[0:2])
    s.cat("big")


@program
def copying_between_descriptors(s: Calls) -> None:
    source, target = s.open("big", os.O_RDONLY, 0), s.open("new", os.O_RDWR | os.O_CREAT, 0o644)
    s.copy_file_range(source, None, target, None, 5000, 0)
    s.sendfile(target, source, None, 5000)
    s.fstat(target)
    s.copy_file_range(target, None, s.open("file", os.O_RDWR, 0), None, 10, 0)
    s.lseek(target, 0, 0)
    s.copy_file_range(target, None, s.open("file", os.O_RDWR, 0), None, 10, 0)
    s.cat("new")
    s.cat("file")


@program
def clones(s: Calls) -> None:
    """Where the file system has none, neither has the sandbox."""
    source, target = s.open("big", os.O_RDONLY, 0), s.open("new", os.O_RDWR | os.O_CREAT, 0o644)
    old = s.open("file", os.O_RDWR, 0)
    for fd in (target, old, source):
        s.told("ioctl FICLONE", (fd,), s.silently("ioctl", fd, 0x40049409, source))
        s.fstat(fd)


@program
def splicing(s: Calls) -> None:
    reader, writer = os.pipe()
    source, target = s.open("big", os.O_RDONLY, 0), s.open("file", os.O_RDWR, 0)
    s.splice(source, None, writer, None, 500, 0)
    s.splice(reader, None, target, None, 500, 0)
    s.fstat(target)
    s.cat("file")


@program
def a_reader_beside_a_writer(s: Calls) -> None:
    reader, writer = s.open("file", os.O_RDONLY, 0), s.open("file", os.O_RDWR, 0)
    s.write(writer, b"one")
    s.read(reader, 3)
    s.ftruncate(writer, 4)
    s.read(reader)
    s.pwrite(writer, b"further", 4)
    s.read(reader)


@program
def limits_of_file_sizes(s: Calls) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    s.truncate("file", 101)
    s.truncate("file", 100)
    s.put("new", b"n" * 150)
    s.lstat("new")
    fd = s.open("big", os.O_RDWR, 0)
    s.pwrite(fd, b"x", 500)
    s.pwrite(fd, b"x", 50)
    s.truncate("big", 50)
    s.chmod("sparse", 0o600)
    s.lstat("sparse")


@program
def limits_of_descriptors(s: Calls) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))
    for _ in range(4):
        s.open("file", os.O_RDONLY, 0)
    s.open("new", os.O_WRONLY | os.O_CREAT, 0o644)
    s.lstat("new")
    s.chmod("file", 0o600)
    s.rename("dir/a", "moved")
