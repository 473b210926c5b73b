"""chmod in its forms, and what modes then allow."""

from __future__ import annotations

import functools
import os

from .vocabulary import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, O_PATH, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_TARGETS = (
    *(
        "file",
        "empty",
        "secret",
        "read-only",
        "other",
        "other-writable",
        "hard-1",
        "acl",
        "fifo",
        "socket",
        "dir",
    ),
    *(
        "closed",
        "closed/in",
        "no-search/in",
        "no-write/in",
        "no-read/in",
        "sticky/other",
        "other-dir",
        "other-dir/in",
    ),
    *(
        "to-file",
        "to-dir",
        "to-link",
        "dangling",
        "loop-1",
        "missing",
        "missing/x",
        "file/x",
        "file/",
        "dir/",
        "",
    ),
    *("n" * 255, "n" * 256, b"\xff\xfe\x80", ".", "dir/..", "empty-dir", "to-closed"),
)


def _chmod(s: Calls, path: str | bytes) -> None:
    s.chmod(path, 0o604)


def _fchmodat(s: Calls, path: str | bytes) -> None:
    s.fchmodat(AT_FDCWD, path, 0o640)


def _fchmodat2(s: Calls, path: str | bytes) -> None:
    s.fchmodat2(AT_FDCWD, path, 0o711, 0)


def _fchmodat2_not_following(s: Calls, path: str | bytes) -> None:
    s.fchmodat2(AT_FDCWD, path, 0o700, AT_SYMLINK_NOFOLLOW)


def _everywhere(s: Calls, change: object) -> None:
    for path in _TARGETS:
        change(s, path)  # type: ignore[operator]
        s.lstat(path)


for _change in (_chmod, _fchmodat, _fchmodat2, _fchmodat2_not_following):
    program.add(_change.__name__[1:] + "_everywhere", functools.partial(_everywhere, change=_change))


@program
def modes(s: Calls) -> None:
    for mode in (0, 0o777, 0o1644, 0o100600, 0o170711):
        s.chmod("file", mode)
        s.lstat("file")
        s.chmod("dir", mode)
        s.lstat("dir")


@program
def setgid_and_sticky_of_directories(s: Calls) -> None:
    for mode in (0o2755, 0o1777, 0o3775, 0o755):
        s.chmod("dir", mode)
        s.lstat("dir")
        s.mkdir(f"dir/new-{mode:o}", 0o755)
        s.lstat(f"dir/new-{mode:o}")


@program
def by_descriptor(s: Calls) -> None:
    for path, flags in (("file", os.O_RDONLY), ("big", os.O_WRONLY), ("dir", os.O_RDONLY), ("empty", O_PATH)):
        fd = s.open(path, flags, 0)
        s.fchmod(fd, 0o711)
        s.fstat(fd)
        s.lstat(path)
        s.fchmodat2(fd, "", 0o712, AT_EMPTY_PATH)
        s.fchmodat2(fd, "", 0o713, 0)
        s.fstat(fd)
        s.lstat(path)
    s.fchmod(99, 0o600)


@program
def by_a_read_only_descriptor_and_then_written(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.fchmod(fd, 0o666)
    s.put("file", b"later\n")
    s.pread(fd, 20, 0)
    s.fchmod(fd, 0o600)
    s.lstat("file")
    s.fstat(fd)


@program
def of_a_removed_file_by_descriptor(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.unlink("file")
    s.fchmod(fd, 0o600)
    s.fstat(fd)


@program
def by_proc(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    path = s.open("big", O_PATH, 0)
    s.chmod(f"/proc/self/fd/{fd}", 0o600)
    s.chmod(f"/proc/self/fd/{path}", 0o601)
    s.chmod("/proc/self/cwd/dir", 0o700)
    for name in ("file", "big", "dir"):
        s.lstat(name)


@program
def through_links(s: Calls) -> None:
    for path in ("to-file", "to-dir", "to-root", "up", "dir/up"):
        s.chmod(path, 0o700)
    for path in ("to-file", "to-dir", "file", "dir"):
        s.lstat(path)


@program
def keeps_content_and_times(s: Calls) -> None:
    for path in ("file", "big", "dir/sub/b", "sparse", "attributes", "hard-1"):
        s.chmod(path, 0o600)
        s.lstat(path)
        s.cat(path)
        s.changed(path)
    s.listxattr("attributes")
    s.lstat("dir/sub")
    s.changed("dir/sub/deep/c")


@program
def closing_a_file(s: Calls) -> None:
    fd = s.open("file", os.O_RDWR, 0)
    s.chmod("file", 0)
    s.cat("file")
    s.put("file")
    s.write(fd, b"still\n")
    s.chmod("file", 0o444)
    s.cat("file")
    s.put("file")


@program
def closing_and_opening_a_directory(s: Calls) -> None:
    s.put("dir/new")
    s.chmod("dir", 0)
    for path in ("dir/a", "dir/new", "dir/missing", "dir/sub/b", "dir/.", "dir"):
        s.stat(path)
    s.ls("dir")
    s.put("dir/newer")
    s.chmod("dir", 0o100)
    s.cat("dir/a")
    s.ls("dir")
    s.put("dir/newer")
    s.chmod("dir", 0o400)
    s.ls("dir")
    s.cat("dir/a")
    s.chmod("dir", 0o755)
    s.ls("dir")


@program
def opening_a_closed_directory(s: Calls) -> None:
    s.chmod("closed", 0o755)
    s.ls("closed")
    s.cat("closed/in")
    s.put("closed/new")
    s.chmod("closed", 0o000)
    s.stat("closed/new")
    s.lstat("closed")


@program
def a_directory_that_may_not_be_written(s: Calls) -> None:
    s.put("no-write/new")
    s.mkdir("no-write/new", 0o755)
    s.unlink("no-write/in")
    s.rmdir("no-write/sub")
    s.rename("no-write/in", "no-write/x")
    s.link("file", "no-write/x")
    s.symlink("x", "no-write/x")
    s.mknod("no-write/x", 0o010644, 0)
    s.put("no-write/in", b"its files may\n")
    s.chmod("no-write/in", 0o600)
    s.mkdir("no-write/sub/x", 0o755)
    s.ls("no-write")


@program
def a_directory_that_may_not_be_searched(s: Calls) -> None:
    for path in (
        "no-search/in",
        "no-search/missing",
        "no-search/.",
        "no-search/..",
        "closed/in",
        "closed/missing",
    ):
        s.stat(path)
        s.cat(path)
        s.access(path, 0)
        s.chmod(path, 0o600)
        s.readlink(path)
    s.ls("no-search")
    s.put("no-search/new")
    s.unlink("no-search/in")
    s.chdir("no-search")


@program
def a_directory_that_may_not_be_listed(s: Calls) -> None:
    s.ls("no-read")
    s.cat("no-read/in")
    s.put("no-read/new")
    s.ls("no-read")
    s.unlink("no-read/in")
    s.stat("no-read/in")
    s.rmdir("no-read")
    s.unlink("no-read/new")
    s.rmdir("no-read")


@program
def what_the_owner_of_another_may_do(s: Calls) -> None:
    for path in ("other", "other-writable", "other-dir", "other-dir/in", "sticky/other", "sticky"):
        s.chmod(path, 0o777)
        s.access(path, 2)
        s.lstat(path)


@program
def group_of_the_owner_decides_about_setgid(s: Calls) -> None:
    s.chmod("setgid", 0o755)
    s.lstat("setgid")
    s.put("setgid/x")
    s.lstat("setgid/x")
    s.chmod("setgid", 0o2755)
    s.lstat("setgid")


@program
def of_symlinks(s: Calls) -> None:
    link = s.open("to-file", O_PATH | os.O_NOFOLLOW, 0)
    s.fchmodat2(AT_FDCWD, "to-file", 0o600, AT_SYMLINK_NOFOLLOW)
    s.fchmodat2(link, "", 0o600, AT_EMPTY_PATH)
    s.chmod(f"/proc/self/fd/{link}", 0o600)
    s.lstat("to-file")
    s.lstat("file")


@program
def bad_arguments(s: Calls) -> None:
    s.chmod(None, 0o600)
    s.fchmodat(99, "file", 0o600)
    s.fchmodat(99, s.root + b"/file", 0o601)
    s.fchmodat2(AT_FDCWD, "file", 0o600, 0x80000)
    s.fchmodat2(AT_FDCWD, "", 0o755, AT_EMPTY_PATH)
    s.fchmodat(s.open("file", O_PATH, 0), "x", 0o600)
    s.lstat("file")


@program
def the_root_of_the_program(s: Calls) -> None:
    s.chmod(".", 0o500)
    s.put("new")
    s.lstat(".")
    s.chmod(s.root, 0o755)
    s.put("new")
    s.utimensat(AT_FDCWD, ".", ((7, 0), (8, 0)))
    s.lstat(".")


@program
def set_ids_go_with_a_write(s: Calls) -> None:
    """Whether the mode could be set at all is the policy's."""
    for path in ("file", "new"):
        s.put(path)
        s.chmod(path, 0o2755)
        s.chmod(path, 0o2745)
        s.put(path, b"changed\n")
        s.lstat(path)
