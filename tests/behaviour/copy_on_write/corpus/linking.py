"""link and linkat: names for one file, also by descriptor, and what is written through them."""

from __future__ import annotations

import os

from .vocabulary import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, O_PATH, O_TMPFILE, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_SOURCES = (
    *(
        "file",
        "empty",
        "read-only",
        "secret",
        "other",
        "other-writable",
        "script",
        "fifo",
        "socket",
        "to-file",
    ),
    *(
        "to-dir",
        "dangling",
        "loop-1",
        "dir",
        "empty-dir",
        "missing",
        "closed/in",
        "no-write/in",
        "no-read/in",
        "",
    ),
    *("file/", "dir/", "to-file/", ".", "hard-1", "n" * 256, "file/x", "up", "to-closed"),
)


def _each(s: Calls, flags: int) -> None:
    for number, path in enumerate(_SOURCES):
        if s.linkat(AT_FDCWD, path, AT_FDCWD, f"new-{number}", flags) == 0:
            s.lstat(f"new-{number}")
            s.same(path, f"new-{number}")


@program
def of_everything(s: Calls) -> None:
    _each(s, 0)


@program
def of_everything_followed(s: Calls) -> None:
    _each(s, AT_SYMLINK_FOLLOW)


@program
def then_both_names_see_writes(s: Calls) -> None:
    s.link("file", "linked")
    s.put("linked", b"by the new name\n")
    s.cat("file")
    s.put("file", b"by the old\n")
    s.cat("linked")
    s.chmod("linked", 0o600)
    for path in ("file", "linked"):
        s.lstat(path)
    s.same("file", "linked")
    s.changed("file")


@program
def of_a_new_file(s: Calls) -> None:
    s.put("new")
    for number in range(5):
        s.link("new", f"dir/new-{number}")
    s.lstat("new")
    s.unlink("new")
    s.lstat("dir/new-0")
    s.put("dir/new-3", b"all of them\n")
    s.cat("dir/new-1")


@program
def writes_through_each_name(s: Calls) -> None:
    for path in ("hard-1", "hard-2", "dir/hard-3"):
        s.put(path, path.encode() + b"\n", os.O_APPEND)
        for name in ("hard-1", "hard-2", "dir/hard-3"):
            s.cat(name)
            s.lstat(name)


@program
def metadata_of_each_name(s: Calls) -> None:
    s.chmod("hard-1", 0o604)
    s.setxattr("hard-2", "user.x", b"1")
    s.utimensat(AT_FDCWD, "dir/hard-3", ((5, 0), (6, 0)))
    s.truncate("hard-2", 2)
    for path in ("hard-1", "hard-2", "dir/hard-3"):
        s.lstat(path)
        s.getxattr(path, "user.x")
        s.cat(path)


@program
def a_descriptor_of_one_name_sees_the_other(s: Calls) -> None:
    reader = s.open("hard-1", os.O_RDONLY, 0)
    s.put("hard-2", b"through the second\n")
    s.pread(reader, 50, 0)
    s.fstat(reader)
    writer = s.open("dir/hard-3", os.O_RDWR, 0)
    s.pwrite(writer, b"THROUGH", 0)
    s.pread(reader, 50, 0)
    s.cat("hard-2")


@program
def one_name_replaced(s: Calls) -> None:
    s.put("temporary", b"another file\n")
    s.rename("temporary", "hard-1")
    for path in ("hard-1", "hard-2", "dir/hard-3"):
        s.lstat(path)
        s.cat(path)
    s.same("hard-1", "hard-2")
    s.same("hard-2", "dir/hard-3")


@program
def over_existing_names(s: Calls) -> None:
    for path in (
        "big",
        "dir",
        "to-file",
        "dangling",
        "loop-1",
        "fifo",
        "file",
        ".",
        "..",
        "dir/.",
        "new/",
        "",
        "/",
    ):
        s.link("file", path)
    s.link("file", "missing/x")
    s.link("file", "big/x")
    s.link("file", "closed/x")
    s.link("file", "no-write/x")
    s.link("file", "no-search/x")
    s.link("file", "n" * 256)
    s.link("missing", "missing-too/x")
    s.link("missing", "big")
    s.link("dir", "big")


@program
def to_a_removed_name(s: Calls) -> None:
    s.unlink("big")
    s.link("file", "big")
    s.same("file", "big")
    s.unlink("dir/a")
    s.link("big", "dir/a")
    s.lstat("dir/a")


@program
def removed_and_linked_again(s: Calls) -> None:
    s.link("file", "kept")
    s.unlink("file")
    s.link("kept", "file")
    s.unlink("kept")
    s.lstat("file")
    s.cat("file")


@program
def by_descriptor_with_an_empty_path(s: Calls) -> None:
    for path, flags in (
        ("file", os.O_RDONLY),
        ("big", O_PATH),
        ("to-file", O_PATH | os.O_NOFOLLOW),
        ("dir", O_PATH),
    ):
        fd = s.open(path, flags, 0)
        s.linkat(fd, "", AT_FDCWD, f"new-{path}", AT_EMPTY_PATH)
        s.linkat(fd, "", AT_FDCWD, f"new-{path}", 0)
        s.lstat(f"new-{path}")
    s.linkat(AT_FDCWD, "", AT_FDCWD, "new", AT_EMPTY_PATH)
    s.linkat(99, "", AT_FDCWD, "new", AT_EMPTY_PATH)


@program
def by_proc(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW)
    s.lstat("followed")
    s.same("file", "followed")
    s.put("followed", b"changed\n")
    s.pread(fd, 20, 0)


@program
def by_proc_not_followed(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "not-followed", 0)


@program
def by_descriptor_after_copy_up(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.put("file", b"changed\n")
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "linked", AT_SYMLINK_FOLLOW)
    s.same("file", "linked")
    s.cat("linked")
    s.lstat("linked")


@program
def by_descriptor_of_a_removed_file(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.unlink("file")
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "again", AT_SYMLINK_FOLLOW)
    s.linkat(fd, "", AT_FDCWD, "again", AT_EMPTY_PATH)
    s.lstat("again")


@program
def of_a_temporary_file(s: Calls) -> None:
    fd = s.open(".", O_TMPFILE | os.O_WRONLY, 0o600)
    s.write(fd, b"x")
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "full/one", AT_SYMLINK_FOLLOW)
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "full/three", AT_SYMLINK_FOLLOW)
    s.linkat(AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "full/four", AT_SYMLINK_FOLLOW)
    s.lstat("full/four")
    s.ls("full")


@program
def of_links_and_fifos(s: Calls) -> None:
    s.link("to-file", "second-link")
    s.readlink("second-link")
    s.lstat("second-link")
    s.link("fifo", "second-fifo")
    s.same("fifo", "second-fifo")
    s.chmod("second-fifo", 0o600)
    s.lstat("fifo")


@program
def across_directories_that_move(s: Calls) -> None:
    s.link("dir/sub/b", "linked")
    s.rename("dir", "moved")
    s.put("linked", b"changed\n")
    s.cat("moved/sub/b")
    s.lstat("moved/sub/b")
    s.same("hard-1", "moved/hard-3")


@program
def relative_to_descriptors(s: Calls) -> None:
    one, other = s.open("dir", O_PATH, 0), s.open("full", O_PATH, 0)
    s.linkat(one, "a", other, "a", 0)
    s.linkat(one, "up", other, "followed", AT_SYMLINK_FOLLOW)
    s.linkat(one, "a", 99, "a", 0)
    s.linkat(99, "a", other, "a", 0)
    s.linkat(one, "a", other, "b", 1)
    s.linkat(one, "a", other, "../beside", 0)
    s.ls("full")
    s.lstat("beside")


@program
def of_what_is_not_ours(s: Calls) -> None:
    """protected_hardlinks decides, where it is on."""
    s.link("other", "linked")
    s.link("other-writable", "linked-writable")
    s.link("secret", "linked-secret")
    s.link("other-dir/in", "linked-in")
    s.ls(".")


@program
def from_outside_of_the_tree(s: Calls) -> None:
    s.link(s.outside + b"/missing", "new")
    s.link("/proc/self/status", "new")
    s.linkat(AT_FDCWD, "to-outside-dir", AT_FDCWD, "new", AT_SYMLINK_FOLLOW)


@program
def as_locks_are_made(s: Calls) -> None:
    s.put("lock.1", b"1\n")
    s.put("lock.2", b"2\n")
    s.link("lock.1", "lock")
    s.link("lock.2", "lock")
    s.lstat("lock.1")
    s.unlink("lock.1")
    s.unlink("lock")
    s.link("lock.2", "lock")
    s.cat("lock")
