"""What is told and nothing changed: stat, access, readlink, before and after changes."""

from __future__ import annotations

import functools
import os

from .vocabulary import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_SYMLINK_NOFOLLOW,
    O_PATH,
    Calls,
    Programs,
)

PROGRAMS = Programs()
program = PROGRAMS

_ALL = (
    *(
        "file",
        "empty",
        "read-only",
        "write-only",
        "secret",
        "other",
        "script",
        "big",
        "sparse",
        "hard-1",
        "hard-2",
    ),
    *(
        "attributes",
        "acl",
        "acl-dir",
        "fifo",
        "socket",
        "dir",
        "dir/sub/deep/c",
        "empty-dir",
        "closed",
        "closed/in",
    ),
    *("no-search", "no-search/in", "no-write/in", "no-read/in", "sticky/other", "setgid", "other-dir/in"),
    *(
        "to-file",
        "to-dir",
        "to-link",
        "to-slash",
        "to-outside",
        "dangling",
        "loop-1",
        "self",
        "up",
        "to-closed",
    ),
    *(
        b"\xff\xfe\x80",
        b"new\nline",
        " two  spaces ",
        "n" * 255,
        "n" * 256,
        "missing",
        "file/x",
        "dir/",
        "file/",
        ".",
    ),
    *("dir/..", "dir/./sub", "to-dir/", "to-file/", "dangling/", "", "to-outside-dir/file", "dir/up"),
)


@program
def stat_of_everything(s: Calls) -> None:
    for path in _ALL:
        s.stat(path)


@program
def lstat_of_everything(s: Calls) -> None:
    for path in _ALL:
        s.lstat(path)


@program
def newfstatat_of_everything(s: Calls) -> None:
    for path in _ALL:
        for flags in (0, AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW):
            s.newfstatat(AT_FDCWD, path, flags)


@program
def statx_of_everything(s: Calls) -> None:
    for path in _ALL:
        s.statx(AT_FDCWD, path)
        s.statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW)


@program
def stat_relative_to_descriptors(s: Calls) -> None:
    directory, file = s.open("dir", O_PATH, 0), s.open("file", os.O_RDONLY, 0)
    link = s.open("to-file", O_PATH | os.O_NOFOLLOW, 0)
    for dirfd in (directory, file, link, 99, -1):
        for path in ("a", "../file", "", "."):
            for flags in (0, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
                s.newfstatat(dirfd, path, flags)
                s.statx(dirfd, path, flags)
    s.newfstatat(AT_FDCWD, "", AT_EMPTY_PATH)
    s.newfstatat(AT_FDCWD, "file", 0x80000)
    s.statx(AT_FDCWD, "file", 0x80000)
    s.statx(AT_FDCWD, "file", 0x6000)
    s.statx(AT_FDCWD, "file", 0, -0x80000000)


@program
def stat_with_bad_pointers(s: Calls) -> None:
    s.told("no path", (), s.silently("stat", None, bytes(200)))
    s.told("no buffer", (), s.silently("stat", "file", None))
    s.told("newfstatat, no buffer", (), s.silently("newfstatat", AT_FDCWD, "file", None, 0))
    s.told("statx, no buffer", (), s.silently("statx", AT_FDCWD, "file", 0, 0x7FF, None))
    s.told("statx, no path", (), s.silently("statx", AT_FDCWD, None, 0, 0x7FF, bytes(256)))


@program
def stat_after_changes(s: Calls) -> None:
    s.put("file", b"longer than before\n")
    s.chmod("dir", 0o700)
    s.unlink("hard-2")
    s.symlink("file", "new-link")
    s.mkdir("new-dir", 0o750)
    for path in (
        "file",
        "dir",
        "hard-1",
        "hard-2",
        "new-link",
        "new-dir",
        "to-file",
        "dir/hard-3",
        "dir/a",
        ".",
    ):
        s.stat(path)
        s.lstat(path)
        s.statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW)


@program
def link_counts_of_directories(s: Calls) -> None:
    def show(path: str) -> None:
        status = s.status(path)
        s.say(path, "links:", status and status.links)

    for path in (".", "dir", "dir/sub", "empty-dir"):
        show(path)
    s.mkdir("dir/new", 0o755)
    s.mkdir("empty-dir/new", 0o755)
    s.rmdir("dir/new")
    s.rename("dir/sub", "empty-dir/sub")
    for path in (".", "dir", "empty-dir", "empty-dir/sub"):
        show(path)


@program
def identity_across_copy_up(s: Calls) -> None:
    for path in ("file", "dir", "fifo", "to-file", "dir/sub/b", "hard-1"):
        before = s.inode(path)
        s.fchownat(AT_FDCWD, path, os.getuid(), -1, AT_SYMLINK_NOFOLLOW)
        s.utimensat(AT_FDCWD, path, ((1, 0), (2, 0)), AT_SYMLINK_NOFOLLOW)
        s.say(path, "is the same object:", before == s.inode(path))
    s.same("file", "to-file")
    s.same("hard-1", "hard-2")
    s.same("hard-1", "dir/hard-3")


@program
def identity_of_different_things(s: Calls) -> None:
    s.put("new")
    s.put("file")
    s.mkdir("new-dir", 0o755)
    found = [
        s.inode(path) for path in (".", "file", "new", "dir", "new-dir", "big", "hard-1", "to-file", "dir/a")
    ]
    s.say("all differ:", len(set(found)) == len(found))


@program
def one_device(s: Calls) -> None:
    s.put("new")
    s.mkdir("new-dir", 0o755)
    s.put("file")
    for path in ("new", "new-dir", "file", "big", "dir", "dir/sub/b", "to-file", "fifo"):
        s.device_of(path, ".")


@program
def stat_and_fstat_agree(s: Calls) -> None:
    for path in ("file", "dir", "big", "new"):
        fd = s.open(path, os.O_RDONLY | (os.O_CREAT if path == "new" else 0), 0o644)
        s.same(path, fd)
        s.chmod(path, 0o750)
        s.same(path, fd)
        s.fstat(fd)


@program
def sizes_on_disk(s: Calls) -> None:
    """Holes stay holes over a change of metadata."""
    for path in ("sparse", "big"):
        s.chmod(path, 0o600)
        fd = s.open(path, os.O_RDONLY, 0)
        s.lseek(fd, 0, 3)
        s.lseek(fd, 0, 4)


def _accessing(s: Calls, call: str, flags: int | None) -> None:
    for path in _ALL:
        for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.W_OK | os.X_OK):
            if call == "access":
                s.access(path, mode)
            elif flags is None:
                s.faccessat(AT_FDCWD, path, mode)
            else:
                s.faccessat2(AT_FDCWD, path, mode, flags)


program.add("access_to_everything", functools.partial(_accessing, call="access", flags=None))
program.add("faccessat_to_everything", functools.partial(_accessing, call="faccessat", flags=None))
program.add("faccessat2_to_everything", functools.partial(_accessing, call="faccessat2", flags=0))
program.add("faccessat2_effectively", functools.partial(_accessing, call="faccessat2", flags=AT_EACCESS))
program.add(
    "faccessat2_not_following", functools.partial(_accessing, call="faccessat2", flags=AT_SYMLINK_NOFOLLOW)
)


@program
def access_with_bad_arguments(s: Calls) -> None:
    s.access("file", 8)
    s.access("file", -1)
    s.access(None, 0)
    s.faccessat(99, "file", 0)
    s.faccessat(99, s.root + b"/file", 0)
    s.faccessat2(AT_FDCWD, "file", 0, 0x80000)
    fd = s.open("file", O_PATH, 0)
    s.faccessat2(fd, "", os.R_OK, AT_EMPTY_PATH)
    s.faccessat2(fd, "", os.R_OK, 0)
    s.faccessat2(fd, "x", os.R_OK, 0)


@program
def access_after_changes(s: Calls) -> None:
    s.chmod("file", 0o000)
    s.chmod("script", 0o644)
    s.chmod("secret", 0o600)
    s.unlink("empty")
    s.mkdir("made", 0o000)
    s.put("new", mode=0o755)
    for path in ("file", "script", "secret", "empty", "made", "made/x", "new"):
        for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK):
            s.access(path, mode)
            s.faccessat2(AT_FDCWD, path, mode, AT_EACCESS)


@program
def access_under_another_uid(s: Calls) -> None:
    """access asks for the real user, AT_EACCESS for the effective one."""
    if os.getuid() == 0:
        s.setresuid(4242, 0, 0)
    for path in ("file", "secret", "other", "closed/in", "read-only", "no-write/in"):
        for mode in (os.R_OK, os.W_OK):
            s.access(path, mode)
            s.faccessat2(AT_FDCWD, path, mode, AT_EACCESS)


@program
def reading_links(s: Calls) -> None:
    for path in _ALL:
        s.readlink(path)


@program
def reading_links_in_part(s: Calls) -> None:
    for size in (1, 2, 4, 100):
        s.readlink("to-file", size)
    s.readlink("to-file", 0)
    s.readlink("to-file", -1)
    s.told("no buffer", (), s.silently("readlink", "to-file", None, 10))


@program
def reading_links_by_descriptor(s: Calls) -> None:
    directory = s.open("dir", O_PATH, 0)
    link = s.open("to-file", O_PATH | os.O_NOFOLLOW, 0)
    file = s.open("file", O_PATH, 0)
    for dirfd, path in (
        (directory, "up"),
        (directory, "a"),
        (link, ""),
        (file, ""),
        (directory, ""),
        (99, "to-file"),
    ):
        s.readlinkat(dirfd, path)
    s.unlink("to-file")
    s.readlinkat(link, "")


@program
def reading_new_links(s: Calls) -> None:
    for number, target in enumerate(("x", "/a/b", "../..", s.root + b"/dir", b"\xff\n", "t" * 4095, "dir/")):
        s.symlink(target, f"new-{number}")
        s.readlink(f"new-{number}")
        s.lstat(f"new-{number}")


@program
def reading_a_link_that_was_replaced(s: Calls) -> None:
    s.unlink("to-file")
    s.symlink("dir", "to-file")
    s.readlink("to-file")
    s.stat("to-file")
    s.rename("to-dir", "to-file")
    s.readlink("to-file")
    s.readlink("to-dir")
