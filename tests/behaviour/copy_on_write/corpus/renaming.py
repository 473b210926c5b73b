"""rename, renameat, renameat2: everything over everything, every flag, and what is open meanwhile."""

from __future__ import annotations

import functools
import os

from .vocabulary import (
    AT_FDCWD,
    O_PATH,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    Calls,
    Programs,
)

PROGRAMS = Programs()
program = PROGRAMS

_SOURCES = (
    "file",
    "full",
    "empty-dir",
    "to-file",
    "to-dir",
    "dangling",
    "fifo",
    "hard-1",
    "missing",
    "dir/sub",
)
_TARGETS = (
    *(
        "new",
        "big",
        "acl-dir",
        "dir",
        "to-link",
        "loop-1",
        "socket",
        "missing/new",
        "file/new",
        "dir/new",
        "hard-2",
    ),
    *("closed/new", "no-write/new", "new/", "big/", "acl-dir/", ".", "..", "dir/.", "", "dir/sub/deep/new"),
)


def _over_everything(s: Calls, source: str, flags: int) -> None:
    """Each time in a child directory's worth of names: what succeeded is moved back."""
    for target in _TARGETS:
        if s.renameat2(AT_FDCWD, source, AT_FDCWD, target, flags) == 0:
            s.lstat(source)
            s.lstat(target)
            s.renameat2(AT_FDCWD, target.rstrip("/"), AT_FDCWD, source, flags)
    s.ls(".")


for _source in _SOURCES:
    for _word, _flags in (("", 0), ("_without_replacing", RENAME_NOREPLACE), ("_exchanged", RENAME_EXCHANGE)):
        program.add(
            f"{_source.replace('/', '_').replace('-', '_')}_over_everything{_word}",
            functools.partial(_over_everything, source=_source, flags=_flags),
        )


@program
def bad_sources(s: Calls) -> None:
    for source in (
        "missing",
        "file/",
        "file/x",
        "to-file/",
        "loop-1/",
        "",
        ".",
        "..",
        "dir/.",
        "dir/..",
        "/",
        "n" * 256,
    ):
        for flags in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            s.renameat2(AT_FDCWD, source, AT_FDCWD, "full", flags)
    s.rename("closed/in", "new")
    s.rename("no-search/in", "new")
    s.rename("no-write/in", "new")
    s.rename("no-write/sub", "new")
    s.rename("other-dir/in", "new-2")
    s.rename("other-dir", "new-dir")
    s.rename("other", "new-other")
    s.ls(".")


@program
def flags(s: Calls) -> None:
    for value in (0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 1 << 31):
        s.renameat2(AT_FDCWD, "file", AT_FDCWD, "missing/x", value)
        s.renameat2(AT_FDCWD, "missing", AT_FDCWD, "file", value)
        if value not in (0, RENAME_WHITEOUT):
            s.renameat2(AT_FDCWD, "file", AT_FDCWD, "big", value)
    s.ls(".")


@program
def leaving_a_whiteout(s: Calls) -> None:
    s.renameat2(AT_FDCWD, "file", AT_FDCWD, "moved", RENAME_WHITEOUT)
    s.lstat("file")
    s.cat("moved")
    s.renameat2(AT_FDCWD, "big", AT_FDCWD, "empty", RENAME_WHITEOUT)
    s.lstat("big")
    s.ls(".")


@program
def a_file_within_its_directory(s: Calls) -> None:
    s.rename("dir/a", "dir/z")
    s.cat("dir/z")
    s.lstat("dir/z")
    s.lstat("dir/a")
    s.lstat("dir")
    s.changed("dir/z")


@program
def a_file_to_another_directory(s: Calls) -> None:
    s.rename("dir/sub/b", "empty-dir/b")
    s.cat("empty-dir/b")
    s.lstat("dir")
    for path in ("dir/sub", "empty-dir", "empty-dir/b"):
        s.lstat(path)
        s.changed(path)


@program
def a_file_over_a_file(s: Calls) -> None:
    s.rename("file", "big")
    s.cat("big")
    s.lstat("file")
    s.lstat("big")
    s.rename("dir/a", "dir/sub/b")
    s.cat("dir/sub/b")


@program
def a_new_file_over_an_old_one(s: Calls) -> None:
    s.put("dir/a.tmp", b"safely written\n", mode=0o600)
    s.rename("dir/a.tmp", "dir/a")
    s.cat("dir/a")
    s.lstat("dir/a")
    s.ls("dir")


@program
def an_old_file_over_a_new_one(s: Calls) -> None:
    s.put("new")
    s.rename("file", "new")
    s.cat("new")
    s.lstat("file")


@program
def a_file_there_and_back(s: Calls) -> None:
    s.rename("file", "elsewhere")
    s.rename("elsewhere", "file")
    s.cat("file")
    s.lstat("file")
    s.lstat("elsewhere")
    s.rename("dir/a", "a")
    s.put("dir/a", b"in its place\n")
    s.rename("a", "dir/a")
    s.cat("dir/a")


@program
def an_empty_directory(s: Calls) -> None:
    s.rename("empty-dir", "moved")
    s.lstat("moved")
    s.put("moved/x")
    s.ls("moved")
    s.stat("empty-dir")


@program
def a_directory_with_everything(s: Calls) -> None:
    s.rename("dir", "moved")
    s.ls("moved")
    s.cat("moved/sub/deep/c")
    s.cat("moved/up")
    s.stat("dir")
    s.stat("to-dir")
    s.lstat("moved")
    s.lstat("hard-1")


@program
def a_directory_into_another(s: Calls) -> None:
    s.rename("dir/sub", "full/sub")
    s.ls("full")
    s.ls("full/sub")
    s.ls("dir")
    s.cat("full/sub/deep/c")
    for path in ("dir", "full", "full/sub", "full/sub/deep"):
        s.lstat(path)


@program
def a_directory_changed_before(s: Calls) -> None:
    s.put("dir/new", b"new\n")
    s.unlink("dir/a")
    s.put("dir/sub/b", b"changed\n")
    s.rename("dir", "moved")
    s.ls("moved")
    s.cat("moved/new")
    s.cat("moved/sub/b")
    s.cat("moved/sub/deep/c")
    s.stat("moved/a")


@program
def a_directory_changed_afterwards(s: Calls) -> None:
    s.rename("dir", "moved")
    s.put("moved/new")
    s.put("moved/sub/b", b"changed\n")
    s.unlink("moved/a")
    s.rename("moved/sub/deep", "moved/deep")
    s.mkdir("dir", 0o755)
    s.put("dir/only")
    s.ls("dir")
    s.ls("moved")
    s.ls("moved/deep")
    s.stat("dir/a")


@program
def a_directory_there_and_back(s: Calls) -> None:
    s.rename("dir", "moved")
    s.rename("moved", "dir")
    s.ls("dir")
    s.cat("dir/sub/b")
    s.lstat("dir")
    s.rename("full", "dir/full")
    s.rename("dir/full", "full")
    s.ls("full")


@program
def two_directories_change_places(s: Calls) -> None:
    s.rename("dir", "temporary")
    s.rename("full", "dir")
    s.rename("temporary", "full")
    s.ls("dir")
    s.ls("full")
    s.cat("full/sub/deep/c")
    s.cat("dir/one")


@program
def a_directory_over_an_empty_one(s: Calls) -> None:
    s.rename("full", "empty-dir")
    s.ls("empty-dir")
    s.lstat("empty-dir")
    s.stat("full")
    s.rename("dir/sub/deep", "acl-dir")
    s.ls("acl-dir")
    s.getxattr("acl-dir", "system.posix_acl_default")


@program
def a_directory_over_an_emptied_one(s: Calls) -> None:
    s.unlink("full/one")
    s.rename("dir/sub", "full")
    s.unlink("full/two")
    s.rename("dir/sub", "full")
    s.ls("full")
    s.stat("full/one")
    s.cat("full/deep/c")


@program
def a_directory_over_a_full_one(s: Calls) -> None:
    s.rename("full", "dir")
    s.rename("dir", "full")
    s.rename("empty-dir", "full")
    s.ls("full")


@program
def a_directory_into_itself(s: Calls) -> None:
    s.rename("dir", "dir/sub/new")
    s.rename("dir", "dir/new")
    s.rename("dir/sub/deep", "dir")
    s.renameat2(AT_FDCWD, "dir", AT_FDCWD, "dir/sub", RENAME_EXCHANGE)
    s.rename("dir", "to-dir/new")
    s.rename("dir", "dir")
    s.ls("dir")


@program
def kinds_over_kinds(s: Calls) -> None:
    for source in ("empty-dir", "file", "fifo", "to-file"):
        for target in ("socket", "self", "dir/sub/deep/c", "setgid", "dir"):
            s.rename(source, target)
    s.ls(".")


@program
def links_move_themselves(s: Calls) -> None:
    s.rename("to-file", "dir/to-file")
    s.readlink("dir/to-file")
    s.stat("dir/to-file")
    s.rename("to-dir", "moved")
    s.ls("moved")
    s.rename("dangling", "to-link")
    s.readlink("to-link")
    s.rename("file", "moved")
    s.lstat("moved")


@program
def over_a_link(s: Calls) -> None:
    s.rename("file", "to-dir")
    s.lstat("to-dir")
    s.ls("dir")
    s.rename("big", "dangling")
    s.lstat("dangling")
    s.lstat("nowhere")


@program
def hard_links_of_one_file(s: Calls) -> None:
    s.rename("hard-1", "hard-2")
    s.lstat("hard-1")
    s.lstat("hard-2")
    s.renameat2(AT_FDCWD, "hard-1", AT_FDCWD, "dir/hard-3", RENAME_EXCHANGE)
    s.renameat2(AT_FDCWD, "hard-1", AT_FDCWD, "dir/hard-3", RENAME_NOREPLACE)
    s.rename("hard-1", "file")
    s.same("file", "dir/hard-3")
    s.put("file", b"all\n")
    s.cat("hard-2")
    s.lstat("hard-2")


@program
def onto_itself(s: Calls) -> None:
    for path in ("file", "dir", "to-file", "fifo", "missing"):
        s.rename(path, path)
        s.rename(path, f"./{path}")
        s.renameat2(AT_FDCWD, path, AT_FDCWD, path, RENAME_EXCHANGE)
        s.renameat2(AT_FDCWD, path, AT_FDCWD, path, RENAME_NOREPLACE)
        s.lstat(path)


@program
def exchanging_two_files(s: Calls) -> None:
    one, other = s.inode("file"), s.inode("dir/a")
    s.renameat2(AT_FDCWD, "file", AT_FDCWD, "dir/a", RENAME_EXCHANGE)
    s.cat("file")
    s.cat("dir/a")
    s.say("inodes too:", s.inode("file") == other, s.inode("dir/a") == one)
    s.changed("file")


@program
def exchanging_two_directories(s: Calls) -> None:
    s.renameat2(AT_FDCWD, "dir/sub", AT_FDCWD, "full", RENAME_EXCHANGE)
    s.ls("dir/sub")
    s.ls("full")
    s.put("full/new")
    s.put("dir/sub/new")
    s.cat("full/deep/c")
    s.unlink("dir/sub/one")
    s.ls("dir/sub")


@program
def exchanging_a_file_and_a_directory(s: Calls) -> None:
    s.renameat2(AT_FDCWD, "file", AT_FDCWD, "full", RENAME_EXCHANGE)
    s.cat("full")
    s.ls("file")
    s.cat("file/one")
    s.renameat2(AT_FDCWD, "to-dir", AT_FDCWD, "dir", RENAME_EXCHANGE)
    s.readlink("dir")
    s.ls("to-dir")


@program
def exchanging_a_new_and_an_old_directory(s: Calls) -> None:
    s.mkdir("new", 0o700)
    s.put("new/x")
    s.renameat2(AT_FDCWD, "new", AT_FDCWD, "dir", RENAME_EXCHANGE)
    s.ls("new")
    s.ls("dir")
    s.cat("new/sub/deep/c")
    s.stat("dir/a")


@program
def an_open_file_follows_its_name(s: Calls) -> None:
    fd = s.open("dir/a", os.O_RDWR, 0)
    s.rename("dir/a", "moved")
    s.write(fd, b"WRITTEN")
    s.cat("moved")
    s.same(fd, "moved")
    s.readlink(f"/proc/self/fd/{fd}")


@program
def an_open_reader_sees_what_is_written_to_the_new_name(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.rename("file", "moved")
    s.put("moved", b"later\n")
    s.pread(fd, 100, 0)
    s.fstat(fd)


@program
def the_replaced_file_stays_open(s: Calls) -> None:
    fd = s.open("big", os.O_RDWR, 0)
    s.rename("file", "big")
    s.pread(fd, 8, 0)
    s.fstat(fd)
    s.pwrite(fd, b"x", 0)
    s.cat("big")


@program
def an_open_directory_moves(s: Calls) -> None:
    fd = s.open("dir", os.O_RDONLY, 0)
    s.rename("dir", "full/moved")
    s.tried(["openat", fd, "a", os.O_RDONLY, 0], ["openat", fd, "new", os.O_CREAT | os.O_WRONLY, 0o644])
    s.list_fd(fd)
    s.ls("full/moved")
    s.readlink(f"/proc/self/fd/{fd}")
    s.tried(["openat", fd, "../one", os.O_RDONLY, 0])
    s.unlinkat(fd, "a", 0)
    s.ls("full/moved")


@program
def the_working_directory_moves(s: Calls) -> None:
    s.chdir("dir/sub")
    s.rename("../../dir", "../../moved")
    s.getcwd()
    s.cat("b")
    s.put("new")
    s.cat("../a")
    s.ls("..")
    s.rename("../../moved", "../../full/again")
    s.getcwd()
    s.readlink("/proc/self/cwd")
    s.ls("../..")


@program
def a_part_of_the_path_to_the_working_directory(s: Calls) -> None:
    s.chdir("dir/sub/deep")
    s.rename(s.root + b"/dir/sub", s.root + b"/empty-dir/sub")
    s.getcwd()
    s.cat("c")
    s.stat("../b")
    s.ls("../..")


@program
def of_a_closed_directory(s: Calls) -> None:
    s.rename("closed", "moved")
    s.lstat("moved")
    s.rename("moved", "empty-dir/moved")
    s.lstat("empty-dir/moved")
    s.rename("no-write", "renamed")
    s.rename("renamed", "dir/renamed")
    s.rename("no-read", "dir/no-read")
    s.ls("dir")


@program
def without_permission(s: Calls) -> None:
    s.rename("no-write/in", "no-write/other")
    s.rename("file", "no-write/in")
    s.rename("no-write/sub", "moved")
    s.rename("file", "no-search/file")
    s.rename("closed/in", "in")
    s.rename("no-read/in", "no-read/moved")
    s.lstat("no-read/moved")
    s.rename("other-dir/in", "in")
    s.rename("file", "other-dir/file")


@program
def in_a_sticky_directory(s: Calls) -> None:
    s.rename("sticky/own", "sticky/mine")
    s.rename("sticky/other", "sticky/taken")
    s.rename("file", "sticky/other")
    s.rename("sticky/mine", "mine")
    s.ls("sticky")


@program
def with_metadata(s: Calls) -> None:
    for path in ("attributes", "acl", "sparse", "script", "setgid"):
        s.rename(path, f"dir/{path}")
        s.lstat(f"dir/{path}")
        s.llistxattr(f"dir/{path}")


@program
def many_at_once(s: Calls) -> None:
    for round_ in range(3):
        for number in range(20):
            old = f"dir/r{round_ - 1}-{number}" if round_ else f"dir/r-{number}"
            if not round_:
                s.silently("mknod", old, 0o100644, 0)
            s.silently("rename", old, f"dir/r{round_}-{number}")
    s.ls("dir")


@program
def over_a_removed_name(s: Calls) -> None:
    s.unlink("big")
    s.rename("file", "big")
    s.cat("big")
    s.rmdir("empty-dir")
    s.rename("full", "empty-dir")
    s.ls("empty-dir")
    s.unlink("dir/a")
    s.rename("dir/sub", "dir/a")
    s.ls("dir/a")


@program
def relative_to_descriptors(s: Calls) -> None:
    one, other = s.open("dir", O_PATH, 0), s.open("full", O_PATH, 0)
    s.renameat(one, "a", other, "a")
    s.renameat2(one, "sub", other, "one", RENAME_EXCHANGE)
    s.renameat(99, "a", other, "a")
    s.renameat(one, "hard-3", 99, "a")
    s.renameat(one, "../file", other, "../moved")
    s.renameat(s.open("big", O_PATH, 0), "x", other, "y")
    s.renameat(one, "", other, "y")
    for path in ("dir", "full", "."):
        s.ls(path)


@program
def names_with_slashes_behind(s: Calls) -> None:
    s.rename("dir/", "moved")
    s.rename("moved", "dir/")
    s.rename("file/", "x")
    s.rename("file", "x/")
    s.rename("to-dir/", "x")
    s.rename("full", "to-dir/")
    s.renameat2(AT_FDCWD, "dir/", AT_FDCWD, "full/", RENAME_EXCHANGE)
    s.renameat2(AT_FDCWD, "file", AT_FDCWD, "full/", RENAME_EXCHANGE)
    s.ls(".")


@program
def out_of_the_tree(s: Calls) -> None:
    s.rename("file", "/proc/self/x")
    s.rename("/proc/self/status", "x")
    s.rename("file", "/dev/null/x")
    s.cat("file")
