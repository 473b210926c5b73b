"""inotify: what may be watched, and the events that come."""

from __future__ import annotations

import os

from .vocabulary import AT_FDCWD, RENAME_EXCHANGE, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_OPEN = 0x1, 0x2, 0x4, 0x8, 0x20
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = (
    0x40,
    0x80,
    0x100,
    0x200,
    0x400,
    0x800,
)
IN_MASK_CREATE, IN_EXCL_UNLINK = 0x10000000, 0x4000000
IN_ONLYDIR, IN_DONT_FOLLOW, IN_MASK_ADD, IN_ONESHOT = 0x1000000, 0x2000000, 0x20000000, 0x80000000
_ALL = 0xFFF
IN_CLOSE_NOWRITE = 0x10
_CHANGES = _ALL & ~(IN_ACCESS | IN_OPEN | IN_CLOSE_NOWRITE)  # not what only reads
_NONBLOCK = 0o4000


def _watch(s: Calls, *paths: str, mask: int = _CHANGES) -> int:
    fd = s.inotify_init1(_NONBLOCK)
    for path in paths:
        s.inotify_add_watch(fd, path, mask)
    return fd


@program
def what_may_be_watched(s: Calls) -> None:
    fd = s.inotify_init1(_NONBLOCK)
    for path in (
        "file",
        "dir",
        "to-file",
        "dangling",
        "loop-1",
        "missing",
        "secret",
        "closed",
        "closed/in",
        "fifo",
        "",
    ):
        s.inotify_add_watch(fd, path, _ALL)
        s.inotify_add_watch(fd, path, _ALL | IN_ONLYDIR)
        s.inotify_add_watch(fd, path, _ALL | IN_DONT_FOLLOW)
    s.inotify_add_watch(fd, "file", 0)
    s.inotify_add_watch(99, "file", _ALL)
    s.inotify_add_watch(s.open("file", os.O_RDONLY, 0), "file", _ALL)
    s.inotify_add_watch(fd, None, _ALL)
    s.inotify_add_watch(s.open(f"/proc/self/fd/{fd}", os.O_PATH, 0), "file", _ALL)


@program
def creating_and_removing_in_a_directory(s: Calls) -> None:
    fd = _watch(s, "dir")
    s.put("dir/new")
    s.unlink("dir/new")
    s.mkdir("dir/made", 0o755)
    s.rmdir("dir/made")
    s.symlink("x", "dir/link")
    s.link("file", "dir/linked")
    s.mknod("dir/fifo", 0o010644, 0)
    s.unlink("dir/a")
    s.events(fd)


@program
def writing_in_a_directory(s: Calls) -> None:
    fd = _watch(s, "dir")
    s.put("dir/a", b"changed\n", 0)
    s.events(fd)
    s.put("dir/a", b"again\n", 0)
    s.events(fd)


@program
def writing_a_watched_file(s: Calls) -> None:
    fd = _watch(s, "file")
    s.put("file", b"changed\n", 0)
    s.events(fd)
    s.put("file", b"again\n")
    s.truncate("file", 2)
    s.events(fd)


@program
def metadata_of_a_watched_file(s: Calls) -> None:
    fd = _watch(s, "file", "dir")
    s.chmod("file", 0o600)
    s.utimensat(AT_FDCWD, "file")
    s.setxattr("file", "user.x", b"1")
    s.chmod("dir/a", 0o600)
    s.link("file", "linked")
    s.events(fd)


@program
def reading_a_watched_file(s: Calls) -> None:
    fd = _watch(s, "file", mask=_ALL)
    s.cat("file")
    s.events(fd)


@program
def listing_a_watched_directory(s: Calls) -> None:
    fd = _watch(s, "dir", mask=_ALL)
    s.ls("dir")
    s.cat("dir/a")
    s.stat("dir/a")
    s.events(fd)


@program
def renaming_in_a_directory(s: Calls) -> None:
    fd = _watch(s, "dir", "full")
    s.rename("dir/a", "dir/b")
    s.rename("dir/b", "full/b")
    s.rename("full/b", "outside")
    s.rename("outside", "full/one")
    s.rename("dir/sub", "full/sub")
    s.events(fd)


@program
def exchanging_in_a_directory(s: Calls) -> None:
    fd = _watch(s, "dir", "full")
    s.renameat2(AT_FDCWD, "dir/a", AT_FDCWD, "full/one", RENAME_EXCHANGE)
    s.events(fd)


@program
def a_watched_file_moves_and_goes(s: Calls) -> None:
    fd = _watch(s, "file")
    s.rename("file", "moved")
    s.put("moved", b"changed\n", 0)
    s.unlink("moved")
    s.events(fd)


@program
def a_watched_file_that_is_replaced(s: Calls) -> None:
    fd = _watch(s, "file")
    s.put("new", b"new\n")
    s.rename("new", "file")
    s.events(fd)
    s.put("file", b"unwatched\n")
    s.events(fd)


@program
def a_watched_directory_moves_and_goes(s: Calls) -> None:
    fd = _watch(s, "empty-dir")
    s.rename("empty-dir", "moved")
    s.put("moved/new")
    s.unlink("moved/new")
    s.rmdir("moved")
    s.events(fd)


@program
def a_new_file_and_a_new_directory(s: Calls) -> None:
    s.put("new")
    s.mkdir("made", 0o755)
    fd = _watch(s, "new", "made")
    s.put("new", b"more\n", os.O_APPEND)
    s.put("made/in")
    s.unlink("new")
    s.events(fd)


@program
def one_watch_for_one_object(s: Calls) -> None:
    fd = _watch(s, "file", "to-file", "hard-1", "hard-2", "dir", "to-dir")
    s.put("hard-2", b"x", 0)
    s.events(fd)


@program
def after_copy_up_it_is_the_same_watch(s: Calls) -> None:
    fd = _watch(s, "file")
    s.chmod("file", 0o600)
    s.inotify_add_watch(fd, "file", _CHANGES)
    s.put("file", b"x", 0)
    s.events(fd)


@program
def removing_and_changing_watches(s: Calls) -> None:
    fd = _watch(s, "dir")
    s.inotify_add_watch(fd, "dir", IN_CREATE)
    s.put("dir/new")
    s.events(fd)
    s.inotify_add_watch(fd, "dir", IN_DELETE | IN_MASK_ADD)
    s.unlink("dir/new")
    s.events(fd)
    s.inotify_rm_watch(fd, 1)
    s.inotify_rm_watch(fd, 1)
    s.put("dir/newer")
    s.events(fd)


@program
def once(s: Calls) -> None:
    fd = _watch(s, "dir", mask=_CHANGES | IN_ONESHOT)
    s.put("dir/new")
    s.put("dir/newer")
    s.events(fd)


@program
def what_another_process_does(s: Calls) -> None:
    fd = _watch(s, "dir")
    s.run("/bin/sh", "-c", "echo x > dir/new; mv dir/new dir/a; rm dir/a; touch dir/sub/b")
    s.events(fd)


# ---- what takes more than one step in the layers


@program
def making_again_what_was_removed(s: Calls) -> None:
    fd = _watch(s, "dir", "full", mask=_CHANGES | IN_OPEN)
    s.unlink("dir/a")
    s.put("dir/a", b"again\n")
    s.unlink("dir/a")
    s.symlink("x", "dir/a")
    s.unlink("dir/a")
    s.link("file", "dir/a")
    s.unlink("dir/a")
    s.mknod("dir/a", 0o010644, 0)
    s.unlink("full/one")
    s.rename("full/two", "full/one")
    s.events(fd)


@program
def making_a_directory_again(s: Calls) -> None:
    fd = _watch(s, ".", "dir")
    s.unlink("dir/a")
    s.mkdir("dir/a", 0o755)
    s.put("dir/a/in")
    s.unlink("dir/a/in")
    s.rmdir("dir/a")
    s.rmdir("empty-dir")
    s.mkdir("empty-dir", 0o500)
    s.rmdir("empty-dir")
    s.put("empty-dir")
    s.events(fd)


@program
def failing_to_make_again(s: Calls) -> None:
    s.unlink("dir/a")
    fd = _watch(s, "dir")
    s.link("missing", "dir/a")
    s.link("dir/sub", "dir/a")
    s.stat("dir/a")
    s.events(fd)


@program
def removing_a_directory_of_the_lower(s: Calls) -> None:
    fd = _watch(s, ".", "full", "empty-dir", "dir")
    s.rmdir("full")
    s.unlink("full/one")
    s.put("full/two", b"changed\n")
    s.unlink("full/two")
    s.rmdir("full")
    s.rmdir("empty-dir")
    s.mkdir("full", 0o755)
    s.put("full/one")
    s.ls("full")
    s.events(fd)


@program
def removing_a_directory_that_is_watched_from_above(s: Calls) -> None:
    fd = _watch(s, ".")
    s.unlink("full/one")
    s.unlink("full/two")
    s.rmdir("full")
    s.rmdir("empty-dir")
    s.unlink("hard-1")
    s.unlink("fifo")
    s.unlink("to-file")
    s.events(fd)


@program
def copying_up_below_what_is_watched(s: Calls) -> None:
    fd = _watch(s, ".", "dir")
    s.put("dir/sub/deep/c", b"changed\n", 0)
    s.put("dir/sub/deep/new", b"new\n")
    s.chmod("dir/sub/b", 0o644)
    s.chmod("dir/sub", 0o700)
    s.events(fd)


@program
def removing_a_watched_file_that_is_open(s: Calls) -> None:
    opened = s.open("file", os.O_RDWR, 0)
    fd = _watch(s, "file", ".")
    s.unlink("file")
    s.events(fd)
    s.write(opened, b"x")
    s.close(opened)
    s.events(fd)


@program
def other_names_of_a_watched_file(s: Calls) -> None:
    fd = _watch(s, "hard-1", ".", "dir")
    s.put("hard-2", b"changed\n", 0)
    s.link("hard-1", "hard-4")
    s.unlink("hard-2")
    s.unlink("dir/hard-3")
    s.events(fd)


@program
def replacing_in_a_directory(s: Calls) -> None:
    fd = _watch(s, "dir", "dir/a", ".")
    s.put("new", b"new\n")
    s.rename("new", "dir/a")
    s.rename("dir/sub/b", "dir/a")
    s.rename("empty-dir", "full")
    s.events(fd)


@program
def renaming_a_directory_over_another(s: Calls) -> None:
    s.unlink("full/one")
    s.unlink("full/two")
    fd = _watch(s, "full", "empty-dir", ".")
    s.rename("empty-dir", "full")
    s.put("full/new")
    s.events(fd)


@program
def two_instances_and_an_inherited_one(s: Calls) -> None:
    one = _watch(s, "dir")
    other = _watch(s, "dir", "full", mask=IN_DELETE | IN_CREATE)
    s.unlink("dir/a")
    s.put("full/one", b"x", 0)
    s.put("dir/a")
    s.events(one)
    s.close(one)
    s.unlink("dir/a")
    s.events(other)


@program
def masks_of_all_kinds(s: Calls) -> None:
    fd = s.inotify_init1(_NONBLOCK)
    s.inotify_add_watch(fd, "dir", IN_CREATE | IN_MASK_CREATE)
    s.inotify_add_watch(fd, "dir", IN_DELETE | IN_MASK_CREATE)
    s.inotify_add_watch(fd, "dir", IN_MASK_ADD | IN_MASK_CREATE | IN_DELETE)
    s.inotify_add_watch(fd, "dir", IN_MASK_ADD | IN_DELETE | IN_EXCL_UNLINK)
    s.unlink("dir/a")
    s.put("dir/a")
    s.put("dir/sub/b", b"x", 0)
    s.inotify_add_watch(fd, "full", IN_ONESHOT | IN_DELETE)
    s.put("full/one", b"x", 0)
    s.unlink("full/one")
    s.unlink("full/two")
    s.events(fd)


@program
def writing_by_many_ways(s: Calls) -> None:
    fd = _watch(s, "file", ".")
    opened = s.open("file", os.O_RDWR, 0)
    s.write(opened, b"x")
    s.ftruncate(opened, 4)
    s.fallocate(opened, 0, 0, 100)
    s.fchmod(opened, 0o600)
    s.fsetxattr(opened, "user.x", b"1")
    s.futimesat(AT_FDCWD, "file", None)
    s.close(opened)
    s.truncate("file", 0)
    s.truncate("empty", 5)
    s.open("big", os.O_WRONLY | os.O_TRUNC, 0)
    s.events(fd)


@program
def a_tail_that_follows(s: Calls) -> None:
    """As tail -F: the file, and its directory for when it is replaced."""
    fd = s.inotify_init1(_NONBLOCK)
    s.inotify_add_watch(fd, "dir", IN_CREATE | IN_DELETE | 0xC0 | IN_ATTRIB)
    s.inotify_add_watch(fd, "dir/a", IN_MODIFY)
    s.run("/bin/sh", "-c", "echo more >> dir/a; mv dir/a dir/a.1; echo new > dir/a; echo newer >> dir/a")
    s.events(fd)
    s.inotify_add_watch(fd, "dir/a", IN_MODIFY)
    s.run("/bin/sh", "-c", "echo more >> dir/a; rm dir/a")
    s.events(fd)


@program
def saving_as_editors_do(s: Calls) -> None:
    fd = _watch(s, ".", "dir")
    s.run("/bin/sh", "-c", "cp file file~; echo saved > .file.new; mv .file.new file; rm file~")
    s.run("/bin/sh", "-c", "mv dir/a dir/a~; echo saved > dir/a; chmod 600 dir/a; rm dir/a~")
    s.events(fd)


@program
def what_is_removed_with_all_that_is_in_it(s: Calls) -> None:
    fd = _watch(s, ".", "dir", "dir/sub")
    for name in ("dir/sub/deep/c", "dir/sub/b", "dir/hard-3", "dir/a", "dir/up"):
        s.unlink(name)
    for name in ("dir/sub/deep", "dir/sub", "dir"):
        s.rmdir(name)
    s.events(fd)
    s.mkdir("dir", 0o755)
    s.put("dir/a")
    s.events(fd)
