"""getdents and getdents64: whole, in parts, from a place, and while the directory changes."""

from __future__ import annotations

import errno
import os

from .vocabulary import O_PATH, Calls, Entry, Programs

PROGRAMS = Programs()
program = PROGRAMS


def prepare(root: bytes) -> list[bytes]:
    os.mkdir(root + b"/many", 0o755)
    made = [b"many"]
    for number in range(40):
        made.append(b"many/n%02d" % number)
        with open(root + b"/" + made[-1], "wb"):
            pass
    return made


def _opened(s: Calls, path: str | bytes) -> int:
    return s.open(path, os.O_RDONLY | os.O_DIRECTORY, 0)


def _names(found: list[Entry] | int) -> list[bytes] | int:
    return found if isinstance(found, int) else [entry.name for entry in found]


@program
def every_directory(s: Calls) -> None:
    for path in (
        ".",
        "dir",
        "dir/sub",
        "full",
        "empty-dir",
        "many",
        "closed",
        "no-read",
        "no-search",
        "to-dir",
        "dir/",
    ):
        s.ls(path)


@program
def the_old_call(s: Calls) -> None:
    for path in (".", "dir", "empty-dir"):
        fd = _opened(s, path)
        s.list_fd(fd, call="getdents")
        s.close(fd)


@program
def both_calls_on_one_descriptor(s: Calls) -> None:
    fd = _opened(s, "many")
    first = s.entries(fd, 300, "getdents")
    rest = s.all_entries(fd, 300)
    assert isinstance(first, list) and isinstance(rest, list)
    s.say("all once:", sorted(_names(first + rest)) == sorted([*os.listdir(b"many"), b".", b".."]))


@program
def what_cannot_be_listed(s: Calls) -> None:
    for path, flags in (("file", os.O_RDONLY), ("dir", O_PATH), ("fifo", os.O_RDONLY | os.O_NONBLOCK)):
        s.list_fd(s.open(path, flags, 0))
    s.list_fd(99)


@program
def small_buffers(s: Calls) -> None:
    for size in (0, 1, 23, 24, 32, 64, 100):
        fd = _opened(s, "many")
        s.list_fd(fd, size)
        s.close(fd)


@program
def small_buffers_of_the_old_call(s: Calls) -> None:
    for size in (0, 1, 23, 24, 32, 64, 100):
        fd = _opened(s, "many")
        s.list_fd(fd, size, "getdents")
        s.close(fd)


@program
def a_long_name_in_a_small_buffer(s: Calls) -> None:
    s.put("empty-dir/" + "l" * 255)
    fd = _opened(s, "empty-dir")
    found: list[Entry] = []
    refused = 0
    for size in (64, 64, 64, 64, 4096, 4096):
        some = s.entries(fd, size)
        refused += some == -errno.EINVAL
        found += [] if isinstance(some, int) else some
    s.say("refused:", refused > 0, "names:", [len(entry.name) for entry in sorted(found)])


@program
def an_unreadable_buffer(s: Calls) -> None:
    fd = _opened(s, "dir")
    s.told("no buffer", (), s.silently("getdents64", fd, None, 1000))
    s.told("a bad one", (), s.silently("getdents64", fd, 1, 1000))
    s.list_fd(fd)


@program
def the_end_stays_the_end(s: Calls) -> None:
    fd = _opened(s, "dir")
    s.list_fd(fd)
    s.list_fd(fd)
    s.put("dir/new")
    s.say("again:", _names(s.entries(fd)))


@program
def rewinding(s: Calls) -> None:
    fd = _opened(s, "dir")
    s.list_fd(fd)
    s.put("dir/new")
    s.unlink("dir/a")
    s.lseek(fd, 0, os.SEEK_SET)
    s.list_fd(fd)
    s.rmdir("dir/sub/deep")
    s.mkdir("dir/newer", 0o755)
    s.lseek(fd, 0, os.SEEK_SET)
    s.list_fd(fd)


@program
def the_place_of_each_entry_leads_behind_it(s: Calls) -> None:
    fd = _opened(s, "many")
    everything = s.all_entries(fd)
    assert isinstance(everything, list)
    good = 0
    for number, entry in enumerate(everything):
        s.silently("lseek", fd, entry.place, os.SEEK_SET)
        good += _names(s.all_entries(fd)) == _names(everything[number + 1 :])
    s.say("of", len(everything), "places good:", good)


@program
def the_place_is_where_the_descriptor_is(s: Calls) -> None:
    fd = _opened(s, "many")
    good = total = 0
    while some := s.entries(fd, 200):
        assert isinstance(some, list)
        total += 1
        good += s.silently("lseek", fd, 0, os.SEEK_CUR) == some[-1].place
    s.say("calls:", total > 3, "good:", good == total)


@program
def places_in_another_descriptor(s: Calls) -> None:
    """telldir in one stream, seekdir in another."""
    one, other = _opened(s, "many"), _opened(s, "many")
    first = s.entries(one, 400)
    rest = s.all_entries(one)
    assert isinstance(first, list) and isinstance(rest, list)
    s.silently("lseek", other, first[-1].place, os.SEEK_SET)
    s.say("the same rest:", _names(s.all_entries(other)) == _names(rest))


@program
def places_after_changes(s: Calls) -> None:
    """What neither came nor went is seen once."""
    fd = _opened(s, "many")
    first = s.entries(fd, 400)
    assert isinstance(first, list)
    for number in range(0, 40, 2):
        s.silently("unlink", f"many/n{number:02}")
    for number in range(20):
        s.put(f"many/new-{number}")
    rest = s.all_entries(fd, 200)
    assert isinstance(rest, list)
    names = [entry.name for entry in first + rest]
    staying = [name for name in names if name.startswith(b"n") and name[1:].isdigit() and int(name[1:]) % 2]
    s.say("each that stayed, once:", sorted(staying) == [b"n%02d" % number for number in range(1, 40, 2)])
    s.say("nothing twice:", len(set(names)) == len(names))


@program
def removing_while_reading(s: Calls) -> None:
    """As rm -rf does: read some, remove them, read on."""
    fd = _opened(s, "many")
    removed = 0
    while some := s.entries(fd, 256):
        assert isinstance(some, list)
        for entry in some:
            if entry.name not in (b".", b".."):
                removed += s.silently("unlinkat", fd, entry.name, 0) == 0
    s.say("removed:", removed)
    s.ls("many")
    s.rmdir("many")


@program
def renaming_while_reading(s: Calls) -> None:
    fd = _opened(s, "many")
    first = s.entries(fd, 400)
    assert isinstance(first, list)
    s.rename("many", "moved")
    rest = s.all_entries(fd, 400)
    assert isinstance(rest, list)
    s.say("all:", len({entry.name for entry in first + rest}))
    s.ls("moved")
    s.ls("many")


@program
def creating_while_reading(s: Calls) -> None:
    fd = _opened(s, "many")
    seen: list[bytes] = []
    for number in range(200):
        some = s.entries(fd, 64)
        assert isinstance(some, list)
        if not some:
            break
        seen += [entry.name for entry in some]
        s.silently("close", s.silently("open", f"many/x{number}", os.O_CREAT | os.O_WRONLY, 0o644))
    old = [name for name in seen if name.startswith(b"n")]
    s.say("old ones:", len(old), "once:", len(set(seen)) == len(seen))
    for number in range(200):
        s.silently("unlink", f"many/x{number}")  # how many there were is chance


@program
def after_the_directory_was_removed(s: Calls) -> None:
    for path in ("empty-dir", "new"):
        if path == "new":
            s.mkdir(path, 0o755)
        fd = _opened(s, path)
        s.rmdir(path)
        s.list_fd(fd)
        s.fstat(fd)
        s.tried(["openat", fd, ".", os.O_RDONLY, 0], ["openat", fd, "x", os.O_WRONLY | os.O_CREAT, 0o644])
        s.mkdirat(fd, "x", 0o755)
        s.close(fd)


@program
def a_removed_and_remade_directory(s: Calls) -> None:
    fd = _opened(s, "empty-dir")
    s.rmdir("empty-dir")
    s.mkdir("empty-dir", 0o755)
    s.put("empty-dir/new")
    s.list_fd(fd)
    s.ls("empty-dir")


@program
def duplicated_descriptors_share_the_place(s: Calls) -> None:
    fd = _opened(s, "many")
    first = s.entries(fd, 400)
    copy = s.dup(fd)
    rest = s.all_entries(copy, 400)
    assert isinstance(first, list) and isinstance(rest, list)
    s.say("together:", len({entry.name for entry in first + rest}), "left:", s.entries(fd))


@program
def forked_descriptors_share_the_place(s: Calls) -> None:
    fd = _opened(s, "many")
    s.entries(fd, 400)
    s.child(lambda: (s.say(len(s.all_entries(fd, 400)) > 10), os._exit(0)))
    s.say("left:", s.entries(fd))


@program
def a_descriptor_number_is_reused(s: Calls) -> None:
    fd = _opened(s, "many")
    s.entries(fd, 400)
    s.close(fd)
    fd = _opened(s, "dir")
    s.list_fd(fd)
    s.dup2(_opened(s, "full"), fd)
    s.list_fd(fd)


@program
def bad_seeks(s: Calls) -> None:
    fd = _opened(s, "dir")
    for place, whence in ((-1, 0), (0, 9), (-5, 1)):
        s.lseek(fd, place, whence)
    s.list_fd(fd)


@program
def through_proc_and_descriptors(s: Calls) -> None:
    fd = s.open("dir", O_PATH, 0)
    s.put("dir/new")
    s.ls(f"/proc/self/fd/{fd}")
    s.ls(f"/proc/self/fd/{fd}/sub")
    s.list_fd(s.openat(fd, ".", os.O_RDONLY, 0))
    s.list_fd(s.openat(fd, "..", os.O_RDONLY, 0), 65536)


@program
def types_of_every_kind(s: Calls) -> None:
    s.mknod("new-fifo", 0o010644, 0)
    s.mknod("new-socket", 0o140644, 0)
    s.mkdir("new-dir", 0o755)
    s.symlink("x", "new-link")
    s.put("new-file")
    s.put("file")
    s.chmod("dir", 0o700)
    s.ls(".")


@program
def inode_numbers_are_those_of_stat(s: Calls) -> None:
    s.put("new")
    s.put("file")
    s.chmod("dir", 0o700)
    s.mkdir("new-dir", 0o755)
    wrong = [entry.name for entry in os.scandir(b".") if entry.inode() != (os.lstat(entry.name).st_ino)]
    s.say("wrong:", wrong)


@program
def a_merged_directory_after_every_change(s: Calls) -> None:
    s.put("dir/new")
    s.ls("dir")
    s.rename("dir/new", "dir/newer")
    s.ls("dir")
    s.link("dir/newer", "dir/linked")
    s.rename("dir/a", "a-outside")
    s.ls("dir")
    s.symlink("x", "dir/a")
    s.ls("dir")
    s.unlink("dir/a")
    s.mkdir("dir/a", 0o755)
    s.ls("dir")


@program
def an_emptied_directory(s: Calls) -> None:
    s.unlink("full/one")
    s.ls("full")
    s.unlink("full/two")
    s.ls("full")
    s.put("full/one", b"again\n")
    s.ls("full")


@program
def a_replaced_directory_shows_nothing_old(s: Calls) -> None:
    for path in ("full/one", "full/two"):
        s.unlink(path)
    s.rmdir("full")
    s.mkdir("full", 0o755)
    s.ls("full")
    s.put("full/three")
    s.ls("full")
    s.lstat("full/one")
