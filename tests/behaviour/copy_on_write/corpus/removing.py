"""unlink and rmdir: what goes, what stays open, and what cannot go."""

from __future__ import annotations

import functools
import os

from .vocabulary import AT_FDCWD, AT_REMOVEDIR, O_PATH, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_TARGETS = (
    *(
        "file",
        "empty",
        "read-only",
        "secret",
        "other",
        "hard-1",
        "fifo",
        "socket",
        "to-file",
        "to-dir",
        "dangling",
    ),
    *(
        "loop-1",
        "dir/a",
        "dir/sub/deep/c",
        "to-slash/sub/b",
        "dir",
        "full",
        "empty-dir",
        "closed",
        "closed/in",
    ),
    *(
        "no-search/in",
        "no-write/in",
        "no-write/sub",
        "no-read/in",
        "sticky/own",
        "sticky/other",
        "other-dir/in",
    ),
    *(
        "other-dir",
        "missing",
        "missing/x",
        "big/x",
        "big/",
        "dir/",
        "to-dir/",
        "dangling-in/",
        "acl-dir/",
        ".",
        "..",
    ),
    *(
        "dir/.",
        "dir/..",
        "setgid/.",
        "setgid/",
        "",
        "n" * 255,
        "n" * 256,
        b"\xff\xfe\x80",
        b"new\nline",
        "/",
        "self",
    ),
    *("loop-2/x", "file", "no-read", "no-write", "sticky"),
)


def _unlink(s: Calls, path: str | bytes) -> None:
    s.unlink(path)


def _rmdir(s: Calls, path: str | bytes) -> None:
    s.rmdir(path)


def _unlinkat(s: Calls, path: str | bytes) -> None:
    s.unlinkat(AT_FDCWD, path, 0)


def _unlinkat_directory(s: Calls, path: str | bytes) -> None:
    s.unlinkat(AT_FDCWD, path, AT_REMOVEDIR)


def _everywhere(s: Calls, remove: object) -> None:
    for path in _TARGETS:
        remove(s, path)  # type: ignore[operator]
    s.ls(".")


for _remove in (_unlink, _rmdir, _unlinkat, _unlinkat_directory):
    program.add(_remove.__name__[1:] + "_everywhere", functools.partial(_everywhere, remove=_remove))


@program
def then_it_is_gone_by_every_call(s: Calls) -> None:
    s.unlink("file")
    s.tried(["open", "file", os.O_RDONLY, 0], ["open", "file", O_PATH, 0], ["open", "file", os.O_RDWR, 0])
    s.stat("file")
    s.statx(AT_FDCWD, "file")
    s.access("file", 0)
    s.readlink("file")
    s.chmod("file", 0o600)
    s.truncate("file", 0)
    s.getxattr("file", "user.x")
    s.unlink("file")
    s.rename("file", "x")
    s.link("file", "x")
    s.utimensat(AT_FDCWD, "file")
    s.chdir("file")
    s.run("file")
    s.stat("to-file")
    s.stat("file/x")
    s.ls(".")


@program
def a_removed_directory_is_gone(s: Calls) -> None:
    s.rmdir("empty-dir")
    for path in ("empty-dir", "empty-dir/", "empty-dir/x", "empty-dir/.", "empty-dir/.."):
        s.stat(path)
    s.put("empty-dir/x")
    s.mkdir("empty-dir/x", 0o755)
    s.rmdir("empty-dir")
    s.chdir("empty-dir")


@program
def one_name_of_a_hard_link(s: Calls) -> None:
    s.unlink("hard-1")
    for path in ("hard-1", "hard-2", "dir/hard-3"):
        s.lstat(path)
    s.put("hard-2", b"changed\n")
    s.cat("dir/hard-3")
    s.lstat("dir/hard-3")
    s.unlink("hard-2")
    s.lstat("dir/hard-3")
    s.cat("dir/hard-3")


@program
def one_name_while_open(s: Calls) -> None:
    fd = s.open("hard-1", os.O_RDWR, 0)
    s.unlink("hard-2")
    s.fstat(fd)
    s.unlink("hard-1")
    s.fstat(fd)
    s.write(fd, b"HARD")
    s.cat("dir/hard-3")
    s.unlink("dir/hard-3")
    s.fstat(fd)
    s.pread(fd, 10, 0)


@program
def an_open_file_lives_on(s: Calls) -> None:
    for path, flags in (("file", os.O_RDONLY), ("big", os.O_RDWR), ("new", os.O_RDWR | os.O_CREAT)):
        fd = s.open(path, flags, 0o644)
        s.write(fd, b"written before\n")
        s.unlink(path)
        s.lstat(path)
        s.fstat(fd)
        s.write(fd, b"and after\n")
        s.pread(fd, 100, 0)
        s.ftruncate(fd, 3)
        s.fchmod(fd, 0o600)
        s.fstat(fd)


@program
def a_new_file_with_the_name_of_an_open_removed_one(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.unlink("file")
    s.put("file", b"another\n")
    s.same(fd, "file")
    s.pread(fd, 100, 0)
    s.cat("file")
    s.fstat(fd)


@program
def times_of_the_directory_and_the_object(s: Calls) -> None:
    fd = s.open("dir/a", os.O_RDONLY, 0)
    s.unlink("dir/a")
    s.lstat("dir")
    s.changed("dir")
    s.fstat(fd)
    s.unlink("hard-2")
    s.changed("hard-1")
    s.changed(".")


@program
def a_directory_that_still_has_something(s: Calls) -> None:
    s.rmdir("full")
    s.unlink("full/one")
    s.rmdir("full")
    s.put("full/three")
    s.unlink("full/two")
    s.rmdir("full")
    s.unlink("full/three")
    s.rmdir("full")
    s.stat("full")


@program
def made_and_removed_again(s: Calls) -> None:
    s.mkdir("new", 0o755)
    s.put("new/file")
    s.rmdir("new")
    s.unlink("new/file")
    s.rmdir("new")
    s.put("dir/new")
    s.unlink("dir/new")
    s.lstat("dir/new")
    s.ls("dir")


@program
def what_is_gone_below_a_new_directory_of_the_old_name(s: Calls) -> None:
    s.unlink("full/one")
    s.unlink("full/two")
    s.rmdir("full")
    s.mkdir("full", 0o755)
    s.stat("full/one")
    s.unlink("full/one")
    s.put("full/one", b"new\n")
    s.cat("full/one")
    s.unlink("full/one")
    s.rmdir("full")


@program
def links_are_removed_not_what_they_mean(s: Calls) -> None:
    for path in ("to-file", "to-dir", "dangling", "loop-1", "to-root", "to-outside", "to-slash"):
        s.unlink(path)
    s.rmdir("to-link")
    s.cat("file")
    s.ls("dir")
    s.stat("loop-2")


@program
def relative_to_descriptors(s: Calls) -> None:
    directory = s.open("dir", O_PATH, 0)
    s.unlinkat(directory, "a", 0)
    s.unlinkat(directory, "sub/deep/c", 0)
    s.unlinkat(directory, "sub/deep", AT_REMOVEDIR)
    s.unlinkat(directory, "../empty-dir", AT_REMOVEDIR)
    s.unlinkat(directory, "", 0)
    s.unlinkat(directory, "", AT_REMOVEDIR)
    s.unlinkat(directory, "sub", 4)
    s.unlinkat(99, "a", 0)
    s.unlinkat(s.open("file", O_PATH, 0), "a", 0)
    s.ls("dir")


@program
def the_working_directory(s: Calls) -> None:
    s.chdir("empty-dir")
    s.rmdir("../empty-dir")
    s.getcwd()
    s.stat(".")
    s.put("x")
    s.mkdir("x", 0o755)
    s.ls(".")
    s.stat("..")
    s.chdir("..")
    s.getcwd()


@program
def the_directory_of_an_open_file(s: Calls) -> None:
    fd = s.open("dir/sub/deep/c", os.O_RDWR, 0)
    s.unlink("dir/sub/deep/c")
    s.rmdir("dir/sub/deep")
    s.write(fd, b"still here\n")
    s.pread(fd, 20, 0)
    s.fstat(fd)


@program
def in_a_sticky_directory(s: Calls) -> None:
    s.unlink("sticky/own")
    s.unlink("sticky/other")
    s.put("sticky/new")
    s.rename("sticky/other", "sticky/moved")
    s.rename("sticky/new", "sticky/other")
    s.unlink("sticky/new")
    s.ls("sticky")


@program
def a_fifo_and_a_socket_that_are_open(s: Calls) -> None:
    reader = s.open("fifo", os.O_RDONLY | os.O_NONBLOCK, 0)
    writer = s.open("fifo", os.O_WRONLY, 0)
    s.unlink("fifo")
    s.write(writer, b"x\n")
    s.read(reader)
    s.fstat(reader)
    s.unlink("socket")
    s.lstat("socket")


@program
def names_of_every_kind_and_again(s: Calls) -> None:
    for path in ("file", "fifo", "to-file", "empty-dir"):
        for _ in range(3):
            s.unlinkat(AT_FDCWD, path, AT_REMOVEDIR if path == "empty-dir" else 0)
            s.mkdir(path, 0o755)
            s.rmdir(path)
            s.put(path)


@program
def a_read_only_file_in_a_writable_directory(s: Calls) -> None:
    s.unlink("read-only")
    s.unlink("secret")
    s.unlink("other")
    s.ls(".")
