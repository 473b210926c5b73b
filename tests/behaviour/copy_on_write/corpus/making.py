"""mkdir, mknod, symlink: what is made, with which mode and owner, and what cannot be."""

from __future__ import annotations

import functools
import os
import stat
import struct

from .vocabulary import AT_FDCWD, O_PATH, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_TARGETS = (
    *(
        "new",
        "dir/new",
        "dir/sub/deep/new",
        "to-dir/new",
        "file",
        "dir",
        "empty-dir",
        "to-file",
        "to-dir",
        "dangling",
    ),
    *(
        "loop-1",
        "loop-1/x",
        "missing/new",
        "file/new",
        "dangling/new",
        "closed/new",
        "no-search/new",
        "no-write/new",
    ),
    *(
        "no-read/new",
        "other-dir/new",
        "sticky/new",
        "setgid/new",
        "acl-dir/new",
        "new/",
        "file/",
        "dir/",
        "dangling/",
    ),
    *(".", "..", "dir/.", "dir/..", "", "n" * 256, "dir/" + "n" * 255, b"\xfe\xff", b"a\nb", "/", "dir/new"),
)


def _mkdir(s: Calls, path: str | bytes) -> None:
    s.mkdir(path, 0o755)


def _mkdirat(s: Calls, path: str | bytes) -> None:
    s.mkdirat(AT_FDCWD, path, 0o755)


def _mknod_file(s: Calls, path: str | bytes) -> None:
    s.mknod(path, stat.S_IFREG | 0o644, 0)


def _mknod_fifo(s: Calls, path: str | bytes) -> None:
    s.mknodat(AT_FDCWD, path, stat.S_IFIFO | 0o644, 0)


def _mknod_socket(s: Calls, path: str | bytes) -> None:
    s.mknod(path, stat.S_IFSOCK | 0o644, 0)


def _symlink(s: Calls, path: str | bytes) -> None:
    s.symlink("somewhere", path)


def _link(s: Calls, path: str | bytes) -> None:
    s.link("file", path)


def _everywhere(s: Calls, make: object) -> None:
    for path in _TARGETS:
        make(s, path)  # type: ignore[operator]
        s.lstat(path)


for _make in (_mkdir, _mkdirat, _mknod_file, _mknod_fifo, _mknod_socket, _symlink, _link):
    program.add(_make.__name__[1:] + "_everywhere", functools.partial(_everywhere, make=_make))


@program
def modes_and_umasks_of_directories(s: Calls) -> None:
    for mask in (0, 0o022, 0o077, 0o777):
        s.umask(mask)
        for mode in (0o777, 0o755, 0o1777, 0o700, 0o000):
            s.mkdir(f"new-{mask:o}-{mode:o}", mode)
            s.lstat(f"new-{mask:o}-{mode:o}")


@program
def modes_and_umasks_of_nodes(s: Calls) -> None:
    for mask in (0, 0o027):
        s.umask(mask)
        for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, 0):
            for mode in (0o777, 0o640, 0o1666):
                s.mknod(f"new-{mask:o}-{kind:o}-{mode:o}", kind | mode, 0)
                s.lstat(f"new-{mask:o}-{kind:o}-{mode:o}")


@program
def umask_of_a_thread_group(s: Calls) -> None:
    s.umask(0o077)
    s.child(
        lambda: (s.put("by-the-child", mode=0o666), s.umask(0), s.put("without", mode=0o666), os._exit(0))
    )
    s.put("by-the-parent", mode=0o666)
    for path in ("by-the-child", "without", "by-the-parent"):
        s.lstat(path)


@program
def in_a_setgid_directory(s: Calls) -> None:
    s.put("setgid/file", mode=0o666)
    s.mkdir("setgid/dir", 0o755)
    s.mkdir("setgid/dir/deeper", 0o700)
    s.symlink("x", "setgid/link")
    s.mknod("setgid/fifo", stat.S_IFIFO | 0o644, 0)
    s.link("file", "setgid/linked")
    for path in ("file", "dir", "dir/deeper", "link", "fifo", "linked"):
        s.lstat(f"setgid/{path}")


def _made_by_another(s: Calls, gid: int, groups: tuple[int, ...]) -> None:
    s.setgroups(len(groups), struct.pack(f"={len(groups)}I", *groups))
    s.setresgid(gid, gid, gid)
    s.setresuid(4242, 4242, 4242)
    for path in ("setgid", "dir", "dir/sub", "new"):
        for name in (f"file-{gid}", "a", "b"):
            s.openat(AT_FDCWD, f"{path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o775)
            s.lstat(f"{path}/{name}")
        for name in (f"dir-{gid}", "hard-3", "deep"):
            s.mkdir(f"{path}/{name}", 0o755)
            s.lstat(f"{path}/{name}")
        s.symlink("x", f"{path}/link-{gid}")
        s.lstat(f"{path}/link-{gid}")
        s.mknod(f"{path}/fifo-{gid}", stat.S_IFIFO | 0o755, 0)
        s.lstat(f"{path}/fifo-{gid}")
        s.link(f"{path}/file-{gid}", f"{path}/linked-{gid}")
        s.rename(f"{path}/link-{gid}", f"setgid/moved-{gid}-{path.replace('/', '-')}")


@program
def by_another_in_setgid_directories(s: Calls) -> None:
    """Of a group that he is in, and not in; where a name was removed before, and where not."""
    s.umask(0)
    s.mkdir("new", 0o755)
    for path in ("dir", "dir/sub", "new"):
        s.chown(path, -1, 4343)
    for path in ("setgid", "dir", "dir/sub", "new"):
        s.chmod(path, 0o2777)
    for path in ("dir/a", "dir/hard-3", "dir/sub/b", "dir/sub/deep/c"):
        s.unlink(path)
    s.rmdir("dir/sub/deep")
    s.child(lambda: _made_by_another(s, 4242, ()))
    s.child(lambda: _made_by_another(s, 4244, (4343,)))


@program
def renamed_into_a_setgid_directory(s: Calls) -> None:
    s.rename("file", "setgid/file")
    s.rename("full", "setgid/full")
    for path in ("setgid/file", "setgid/full", "setgid/full/one"):
        s.lstat(path)


@program
def under_a_default_acl(s: Calls) -> None:
    s.umask(0o077)
    s.put("acl-dir/file", mode=0o666)
    s.mkdir("acl-dir/dir", 0o777)
    s.put("acl-dir/dir/deeper", mode=0o640)
    s.mknod("acl-dir/fifo", stat.S_IFIFO | 0o666, 0)
    s.symlink("x", "acl-dir/link")
    for path in ("file", "dir", "dir/deeper", "fifo", "link"):
        s.lstat(f"acl-dir/{path}")
        s.getxattr(f"acl-dir/{path}", "system.posix_acl_access")
        s.getxattr(f"acl-dir/{path}", "system.posix_acl_default")


@program
def times_of_what_is_made_and_where(s: Calls) -> None:
    s.mkdir("dir/new", 0o755)
    for path in ("dir/new", "dir", "dir/sub", "."):
        s.lstat(path)
    for path in ("dir/new", "dir", "dir/sub"):
        s.changed(path)


@program
def devices(s: Calls) -> None:
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        s.mknod(f"new-{kind:o}", kind | 0o600, os.makedev(1, 3))
    s.ls(".")


@program
def nodes_that_are_none(s: Calls) -> None:
    s.mknod("dir/file", stat.S_IFDIR | 0o755, 0)
    s.mknod("link", stat.S_IFLNK | 0o777, 0)
    s.mknod("unknown", 0o030644, 0)
    s.ls(".")


@program
def a_device_with_the_number_of_a_whiteout(s: Calls) -> None:
    s.mknod("new", stat.S_IFCHR | 0o600, 0)
    s.lstat("new")
    s.ls("dir")
    s.mknod("dir/new", stat.S_IFCHR | 0o600, 0)
    s.mknod("dir/a", stat.S_IFCHR | 0o600, 0)
    s.ls("dir")
    s.unlink("dir/new")


@program
def deep_directories(s: Calls) -> None:
    path = "new"
    for _ in range(60):
        s.mkdir(path, 0o755)
        path += "/d"
    s.put(path, b"deep\n")
    s.cat(path)


@program
def many_names_in_one_directory(s: Calls) -> None:
    for number in range(200):
        s.silently("close", s.silently("open", f"dir/new-{number}", os.O_CREAT | os.O_WRONLY, 0o644))
    fd = s.open("dir", os.O_RDONLY, 0)
    found = s.all_entries(fd, 500)
    s.say(found if isinstance(found, int) else len({entry.name for entry in found}))


@program
def made_again_after_removing(s: Calls) -> None:
    s.rmdir("empty-dir")
    s.mkdir("empty-dir", 0o700)
    s.lstat("empty-dir")
    s.unlink("file")
    s.mkdir("file", 0o755)
    s.put("file/in")
    s.unlink("fifo")
    s.symlink("file", "fifo")
    s.ls("fifo")
    s.rmdir("dir/sub/deep")
    s.put("dir/sub/deep")


@program
def a_directory_over_a_removed_full_one(s: Calls) -> None:
    for path in ("dir/sub/deep/c", "dir/sub/b"):
        s.unlink(path)
    s.rmdir("dir/sub/deep")
    s.rmdir("dir/sub")
    s.mkdir("dir/sub", 0o755)
    s.lstat("dir/sub/b")
    s.lstat("dir/sub/deep")
    s.mkdir("dir/sub/deep", 0o755)
    s.ls("dir/sub/deep")


@program
def symlinks_to_anything(s: Calls) -> None:
    for number, target in enumerate(
        ("", "t" * 4095, "t" * 4096, "/", "..", "../..", s.root, b"\xff", "a\nb", "dir/")
    ):
        s.symlink(target, f"new-{number}")
        s.lstat(f"new-{number}")
        s.readlink(f"new-{number}")


@program
def symlinks_that_are_followed(s: Calls) -> None:
    s.symlink("dir", "one")
    s.symlink("../file", "dir/two")
    s.symlink(s.root + b"/dir/sub", "three")
    s.symlink(s.outside, "four")
    for path in ("one/a", "one/two", "three/b", "three/../a", "four/file", "one/sub/deep/c"):
        s.cat(path)
    s.put("one/new")
    s.put("three/new")
    s.ls("dir")
    s.ls("dir/sub")


@program
def chains_of_symlinks(s: Calls) -> None:
    s.symlink("file", "l0")
    for number in range(1, 42):
        s.silently("symlink", f"l{number - 1}", f"l{number}")
    for number in (0, 1, 38, 39, 40, 41):
        s.cat(f"l{number}")
        s.stat(f"l{number}")


@program
def relative_to_descriptors(s: Calls) -> None:
    directory = s.open("dir", O_PATH, 0)
    for dirfd in (directory, s.open("file", O_PATH, 0), 99):
        s.mkdirat(dirfd, "made", 0o755)
        s.symlinkat("x", dirfd, "linked")
        s.mknodat(dirfd, "fifo", stat.S_IFIFO | 0o600, 0)
        s.mkdirat(dirfd, s.root + b"/absolute", 0o755)
        s.mkdirat(dirfd, "../beside", 0o755)
    s.ls("dir")
    s.ls(".")


@program
def in_a_directory_just_made(s: Calls) -> None:
    s.mkdir("new", 0o500)
    s.put("new/file")
    s.chmod("new", 0o300)
    s.put("new/file")
    s.ls("new")
    s.chmod("new", 0o755)
    s.ls("new")
