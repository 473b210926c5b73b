"""Names and paths: too long, not UTF-8, with slashes and dots, in loops."""

from __future__ import annotations

import ctypes
import functools
import os

from .vocabulary import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, O_PATH, Calls, Path, Programs

PROGRAMS = Programs()
program = PROGRAMS


def _every_call(s: Calls, path: Path) -> None:
    """Every call that takes a path, in an order that removes last."""
    s.stat(path)
    s.lstat(path)
    s.statx(AT_FDCWD, path)
    s.access(path, os.R_OK)
    s.faccessat2(AT_FDCWD, path, os.W_OK, 0)
    s.readlink(path)
    s.told("statfs", (path,), s.silently("statfs", path, ctypes.create_string_buffer(256)))
    s.listxattr(path)
    s.getxattr(path, "user.x")
    s.tried(["open", path, os.O_RDONLY | os.O_NONBLOCK, 0], ["open", path, O_PATH, 0])
    s.child(lambda: (s.chdir(path), os._exit(0)))
    s.child(lambda: (s.execve(path, ["x"]), os._exit(0)))
    s.chmod(path, 0o755)
    s.chown(path, -1, -1)
    s.lchown(path, -1, -1)
    s.utimensat(AT_FDCWD, path, ((1, 1), (2, 2)))
    s.setxattr(path, "user.x", b"1")
    s.removexattr(path, "user.x")
    s.truncate(path, 2)
    s.mkdir(path, 0o755)
    s.mknod(path, 0o100644, 0)
    s.symlink("x", path)
    s.link("big", path)
    s.link(path, "linked")
    s.tried(["open", path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NONBLOCK, 0o644])
    s.rename("empty", path)
    s.rename(path, "renamed")
    s.unlink(path)
    s.rmdir(path)


def _long(size: int) -> str:
    """`file`, in that many bytes without the NUL. The kernel takes 4,095."""
    rest = size - len("file")
    return "./" * (rest // 2) + "/" * (rest % 2) + "file"


_PATHS: dict[str, Path] = {
    "an_empty_path": "",
    "a_missing_name": "missing",
    "a_missing_directory": "missing/x",
    "a_file_as_a_directory": "file/x",
    "a_file_as_a_directory_above": "file/..",
    "a_file_and_a_dot": "file/.",
    "a_file_and_a_slash": "file/",
    "a_directory_and_a_slash": "empty-dir/",
    "a_directory_and_a_dot": "empty-dir/.",
    "a_directory_and_two_dots": "empty-dir/..",
    "a_link_and_a_slash": "to-file/",
    "a_link_to_a_directory_and_a_slash": "to-dir/",
    "a_link_to_a_directory_and_a_dot": "to-dir/.",
    "a_dangling_link": "dangling",
    "a_dangling_link_and_a_slash": "dangling/",
    "a_missing_name_and_a_slash": "missing/",
    "a_missing_name_and_slashes": "missing///",
    "a_dot": ".",
    "two_dots_in_a_directory": "dir/..",
    "a_loop": "loop-1",
    "a_loop_on_the_way": "loop-1/x",
    "a_link_to_itself": "self",
    "many_slashes": "dir////sub//b",
    "dots_on_the_way": "./dir/./sub/.././a",
    "a_name_of_255_bytes": "n" * 255,
    "a_new_name_of_255_bytes": "m" * 255,
    "a_name_of_256_bytes": "n" * 256,
    "a_name_of_256_bytes_on_the_way": "n" * 256 + "/x",
    "a_name_of_256_bytes_below_a_file": "file/" + "n" * 256,
    "a_path_of_4095_bytes": _long(4095),
    "a_path_of_4096_bytes": _long(4096),
    "a_path_of_4097_bytes": _long(4097),
    "a_name_that_is_not_utf_8": b"\xff\xfe\x80",
    "a_new_name_that_is_not_utf_8": b"\xc3\x28\x80",
    "a_name_with_a_newline": b"new\nline",
    "a_new_name_with_a_newline": b"a\n\tb\x01",
    "a_name_with_spaces": " two  spaces ",
    "a_name_that_looks_like_a_whiteout": ".wh.file",
    "a_name_that_looks_like_an_option": "-rf",
    "a_name_of_three_dots": "...",
    "a_name_with_a_backslash": "a\\b",
    "a_closed_directory": "closed/in",
    "below_a_closed_directory": "closed/missing/x",
    "a_fifo": "fifo",
    "a_socket": "socket",
    "a_file": "file",
    "a_full_directory": "full",
    "a_link": "to-file",
    "a_hard_link": "hard-1",
    "an_empty_directory": "empty-dir",
}

for _name, _path in _PATHS.items():
    program.add(f"every_call_with_{_name}", functools.partial(_every_call, path=_path))


@program
def absolute_paths(s: Calls) -> None:
    _every_call(s, s.root + b"/file")


@program
def absolute_paths_with_detours(s: Calls) -> None:
    name = s.root.rpartition(b"/")[2]
    _every_call(s, s.root + b"/../" + name + b"//dir/../dir/sub/./b")


@program
def paths_through_the_root(s: Calls) -> None:
    _every_call(s, b"/" + b"../" * 20 + s.root[1:] + b"/to-dir/a")


@program
def a_null_pointer(s: Calls) -> None:
    for call in ("chdir", "rmdir", "unlink"):
        getattr(s, call)(None)
    for call in ("mkdir", "access", "truncate"):
        getattr(s, call)(None, 0)
    s.rename(None, "x")
    s.rename("file", None)
    s.symlink(None, "x")
    s.symlink("x", None)
    s.link("file", None)
    s.chown(None, 0, 0)


@program
def an_empty_path_with_a_flag(s: Calls) -> None:
    fd = s.open("dir", O_PATH, 0)
    for flags in (0, AT_EMPTY_PATH, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW):
        s.newfstatat(fd, "", flags)
        s.statx(AT_FDCWD, "", flags)
        s.faccessat2(fd, "", 0, flags)
        s.fchownat(fd, "", -1, -1, flags)
        s.utimensat(fd, "", None, flags)
        s.linkat(fd, "", AT_FDCWD, "x", flags & AT_EMPTY_PATH)


@program
def too_many_links_on_the_way(s: Calls) -> None:
    s.symlink(".", "here")
    for count in (39, 40, 41):
        s.stat("here/" * count + "file")
        s.put("here/" * count + f"new-{count}")
    s.stat("here/" * 20 + "to-link/")


@program
def the_longest_names_there_are(s: Calls) -> None:
    path = ""
    for _ in range(15):
        path += "d" * 254 + "/"
        s.mkdir(path, 0o755)
    s.put(path + "x" * 200)
    s.stat(path + "x" * 200)
    s.put(path + "x" * 254)
    s.put(path + "x" * 255)
    s.put(path + "x" * 256)


@program
def deeper_than_a_path_can_be_long(s: Calls) -> None:
    name = "d" * 250
    for _ in range(20):
        s.silently("mkdir", name, 0o755)
        s.silently("chdir", name)
    s.put("file", b"deep down\n")
    s.cat("file")
    s.getcwd()
    s.readlink("/proc/self/cwd")
    s.lstat("..")
    fd = s.open(".", os.O_RDONLY, 0)
    s.list_fd(fd)
    s.unlink("file")
    for _ in range(20):
        s.silently("chdir", "..")
        s.silently("rmdir", name)
    s.lstat(name)


@program
def everything_deeper_than_a_path_can_be_long(s: Calls) -> None:
    name = "e" * 240
    for _ in range(18):
        s.silently("mkdir", name, 0o755)
        s.silently("chdir", name)
    for path in ("missing", "made", "made/x", "."):
        _every_call(s, path)
    s.mkdir("dir", 0o750)
    s.put("dir/x", b"#!/bin/cat\nrun in a depth\n", mode=0o755)
    s.symlink("dir/x", "link")
    s.chmod("dir/x", 0o755)
    s.run("dir/x", "word")
    s.run("./link")
    s.cat("link")
    s.rename("dir", "moved")
    s.rename("moved/x", s.root + b"/up")
    s.run(s.root + b"/up")
    s.rename(s.root + b"/dir", "from-above")
    s.ls("from-above")
    s.cat("from-above/sub/b")
    s.put("from-above/a", b"written\n")
    s.child(lambda: (s.chdir("from-above/sub"), s.getcwd(), s.ls("."), s.cat("../a"), os._exit(0)))
    fd = s.open("from-above/sub", os.O_RDONLY, 0)
    s.tried(["openat", fd, "../../link", os.O_RDONLY, 0])
    s.newfstatat(fd, "../../from-above/a")
    s.list_fd(fd)
    s.fstat(fd)
    s.rename("from-above", s.root + b"/dir")
    s.newfstatat(fd, "../a")
    s.fchdir(fd)
    s.getcwd()
    s.ls("..")


@program
def names_that_differ_by_case_or_form(s: Calls) -> None:
    for name in ("File", "FILE", "é".encode(), "e\u0301".encode(), "ß".encode()):
        s.stat(name)
        s.put(name, name if isinstance(name, bytes) else name.encode())
    s.cat("File")
    s.cat("é".encode())
    s.cat("e\u0301".encode())
    s.ls(".")
