"""chown in its forms."""

from __future__ import annotations

import functools
import os

from .vocabulary import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, O_PATH, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_TARGETS = (
    *(
        "file",
        "secret",
        "read-only",
        "other",
        "hard-1",
        "acl",
        "fifo",
        "socket",
        "dir",
        "closed/in",
        "no-search/in",
    ),
    *(
        "no-write/in",
        "sticky/other",
        "other-dir",
        "to-file",
        "to-dir",
        "dangling",
        "loop-1",
        "missing",
        "file/x",
    ),
    *("file/", "dir/", "", "n" * 256, b"\xff\xfe\x80", ".", "script", "setgid"),
)


def _everywhere(s: Calls, call: str, uid: int, gid: int) -> None:
    for path in _TARGETS:
        if call == "fchownat":
            s.fchownat(AT_FDCWD, path, uid, gid, 0)
        elif call == "fchownat_not_following":
            s.fchownat(AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)
        else:
            getattr(s, call)(path, uid, gid)
        s.lstat(path)


for _call in ("chown", "lchown", "fchownat", "fchownat_not_following"):
    for _word, _uid, _gid in (
        ("another", 4242, 4343),
        ("nothing", -1, -1),
        ("ones_own", os.getuid(), os.getgid()),
    ):
        program.add(f"{_call}_to_{_word}", functools.partial(_everywhere, call=_call, uid=_uid, gid=_gid))


@program
def by_descriptor(s: Calls) -> None:
    for path, flags in (("file", os.O_RDONLY), ("big", os.O_RDWR), ("dir", os.O_RDONLY), ("empty", O_PATH)):
        fd = s.open(path, flags, 0)
        for uid, gid in ((4242, -1), (-1, 4343), (os.getuid(), os.getgid()), (-1, -1)):
            s.fchown(fd, uid, gid)
            s.fstat(fd)
            s.fchownat(fd, "", uid, gid, AT_EMPTY_PATH)
        s.lstat(path)
    s.fchown(99, 0, 0)


@program
def of_a_symlink_by_descriptor(s: Calls) -> None:
    fd = s.open("to-file", O_PATH | os.O_NOFOLLOW, 0)
    s.fchownat(fd, "", 4242, 4343, AT_EMPTY_PATH)
    s.lstat("to-file")
    s.lstat("file")


@program
def keeps_setgid_of_directories(s: Calls) -> None:
    _change_setgid(s, "dir")


@program
def clears_setgid_of_files(s: Calls) -> None:
    """Whether the mode could be set at all is the policy's."""
    _change_setgid(s, "script")


def _change_setgid(s: Calls, path: str) -> None:
    s.chmod(path, 0o2755)
    s.chown(path, os.getuid(), os.getgid())
    s.lstat(path)
    s.chown(path, -1, -1)
    s.lstat(path)


@program
def of_a_hard_link(s: Calls) -> None:
    s.chown("hard-1", 4242, -1)
    for path in ("hard-1", "hard-2", "dir/hard-3"):
        s.lstat(path)


@program
def keeps_content_times_and_attributes(s: Calls) -> None:
    for path in ("attributes", "acl", "sparse", "dir", "to-file", "fifo"):
        s.lchown(path, os.getuid(), os.getgid())
        s.lstat(path)
        s.changed(path)
        s.llistxattr(path)


@program
def bad_arguments(s: Calls) -> None:
    s.chown(None, 0, 0)
    s.fchownat(AT_FDCWD, "file", os.getuid(), -1, 0x80000)
    s.fchownat(99, "file", -1, -1, 0)
    s.fchownat(99, s.root + b"/file", -1, -1, 0)
    s.fchownat(AT_FDCWD, "", -1, -1, AT_EMPTY_PATH)
    s.fchownat(AT_FDCWD, "", -1, -1, 0)
    s.fchownat(s.open("file", O_PATH, 0), "x", -1, -1, 0)


@program
def of_a_removed_file_by_descriptor(s: Calls) -> None:
    fd = s.open("file", os.O_RDONLY, 0)
    s.unlink("file")
    s.fchown(fd, os.getuid(), os.getgid())
    s.fstat(fd)


@program
def of_new_files_made_by_somebody_else(s: Calls) -> None:
    """What root gave up: effective ids decide whose a new file is."""
    if os.getuid() == 0:
        s.chmod(".", 0o777)
        s.setresgid(-1, 4343, -1)
        s.setresuid(-1, 4242, -1)
    s.put("new")
    s.mkdir("new-dir", 0o755)
    s.symlink("x", "new-link")
    s.mknod("new-fifo", 0o010644, 0)
    s.put("file")
    s.chmod("dir", 0o700)
    s.unlink("empty")
    for path in ("new", "new-dir", "new-link", "new-fifo", "file", "dir"):
        s.lstat(path)


@program
def file_system_ids(s: Calls) -> None:
    if os.getuid() == 0:
        s.chmod(".", 0o777)
        s.setfsgid(4343)
        s.setfsuid(4242)
    s.put("new")
    s.lstat("new")
    s.put("read-only")
    s.cat("secret")


@program
def as_a_member_of_a_group(s: Calls) -> None:
    """The group's permissions, after root became somebody of that group."""
    s.chown("dir", -1, 4343)
    s.chmod("dir", 0o770)
    s.chown("file", -1, 4343)
    s.chmod("file", 0o060)
    if os.getuid() == 0:
        s.setresgid(4343, 4343, 4343)
        s.setresuid(4242, 4242, 4242)
    s.put("dir/new")
    s.lstat("dir/new")
    s.cat("file")
    s.put("file", b"by the group\n")
    s.cat("file")
    s.chmod("file", 0o666)


@program
def without_rights_in_directories_of_root(s: Calls) -> None:
    if os.getuid() == 0:
        s.setresgid(4242, 4242, 4242)
        s.setresuid(4242, 4242, 4242)
    for path in ("new", "dir/new", "other-dir/new", "sticky/new", "closed/new"):
        s.put(path)
        s.lstat(path)
    for path in ("file", "dir/a", "other-dir/in", "sticky/own", "sticky/other", "other"):
        s.put(path, b"x")
        s.chmod(path, 0o640)
        s.rename(path, path + "-moved")
        s.unlink(path)
    s.ls("sticky")
    s.ls("other-dir")


@program
def somebody_elses_file_stays_his(s: Calls) -> None:
    """Written, moved, or removed and still open: its writer may not change what only its owner may."""
    s.put("other-writable", b"written\n", 0)
    for path in ("other-writable", "moved"):
        s.chmod(path, 0o666)
        s.chown(path, -1, -1)
        s.utimensat(AT_FDCWD, path, ((1, 1), (2, 2)))
        s.utimensat(AT_FDCWD, path)
        s.setxattr(path, "user.x", b"1")
        s.rename("other-writable", "moved")
    s.unlink("moved")
    fd = s.open("other", os.O_RDONLY, 0)
    s.unlink("other")
    s.fchmod(fd, 0o600)
    s.fsetxattr(fd, "user.x", b"1")
