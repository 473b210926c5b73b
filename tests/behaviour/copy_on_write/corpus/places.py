"""Where a process is, what file system it is on, handles, and chroot."""

from __future__ import annotations

import os

from .vocabulary import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, O_PATH, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS


@program
def chdir_everywhere(s: Calls) -> None:
    for path in (
        *(
            "dir",
            "to-dir",
            "to-slash",
            "empty-dir",
            "closed",
            "no-search",
            "no-read",
            "no-write",
            "other-dir",
        ),
        *(
            "file",
            "to-file",
            "dangling",
            "loop-1",
            "missing",
            "fifo",
            "dir/",
            "dir/sub/..",
            "",
            ".",
            "n" * 256,
        ),
        *("to-outside-dir", "closed/in", "dir/a/.."),
    ):

        def go(path: str = path) -> None:
            s.chdir(path)
            s.getcwd()
            s.stat("..")
            s.stat("a")
            os._exit(0)

        s.child(go)


@program
def chdir_into_new_and_changed_directories(s: Calls) -> None:
    s.mkdir("new", 0o755)
    s.mkdir("new/deeper", 0o755)
    s.put("dir/made")
    s.rename("full", "moved")
    for path in ("new", "deeper", "../../dir", "../moved", ".."):
        s.chdir(path)
        s.getcwd()
        s.readlink("/proc/self/cwd")
        s.ls(".")


@program
def dots_that_lead_out_of_where_a_moved_directory_was(s: Calls) -> None:
    """As many of them lead elsewhere from where it is now: out of the tree, by where it was, or not."""
    s.chdir("dir/sub")
    directory = s.open(".", os.O_RDONLY, 0)
    for path in (b"/new", b"/new/one", b"/new/outside", b"/outside", b"/new/one/outside"):
        s.mkdir(s.root + path, 0o755)
        s.put(s.root + path + b"/file", b"in " + path + b"\n")
    s.rename(s.root + b"/dir", s.root + b"/new/one/dir")
    for ups in range(2, 7):
        path = "../" * ups + "outside"
        s.cat(path + "/file")
        s.stat(path + "/file")
        s.access(path, os.R_OK)
        s.tried(["openat", directory, path + "/file", os.O_RDONLY, 0])
        s.newfstatat(directory, path)
        s.child(lambda path=path: (s.chdir(path), s.getcwd(), s.ls("."), os._exit(0)))  # type: ignore[misc]
        if ups < 5:
            s.tried(["mkdir", path + "/made", 0o755])
            s.put(path + "/file", b"written\n")
    s.chdir(s.root)
    s.rename("new/one/dir", "top")
    s.fchdir(directory)
    s.cat("../../outside/file")
    s.cat("../../../outside/file")


@program
def fchdir(s: Calls) -> None:
    s.mkdir("new", 0o755)
    for path, flags in (("dir", os.O_RDONLY), ("new", O_PATH), ("file", os.O_RDONLY), ("closed", O_PATH)):
        s.fchdir(s.open(s.root + b"/" + path.encode(), flags, 0))
        s.getcwd()
        s.ls(".")
    s.fchdir(99)


@program
def getcwd(s: Calls) -> None:
    s.getcwd(len(s.root) + 1)
    s.getcwd(len(s.root))
    s.getcwd(1)
    s.getcwd(0)
    s.told("no buffer", (), s.silently("getcwd", None, 4096))


@program
def a_child_inherits_the_directory(s: Calls) -> None:
    s.mkdir("new", 0o755)
    s.chdir("new")
    s.child(lambda: (s.getcwd(), s.put("by-the-child"), s.chdir(".."), s.getcwd(), os._exit(0)))
    s.getcwd()
    s.ls(".")


@program
def threads_share_the_directory(s: Calls) -> None:
    import threading

    s.mkdir("new", 0o755)
    thread = threading.Thread(target=lambda: s.chdir("new"))
    thread.start()
    thread.join()
    s.getcwd()
    s.put("by-the-other-thread")
    s.ls(s.root + b"/new")


@program
def the_directory_is_removed(s: Calls) -> None:
    for path in (b"/empty-dir", b"/new"):
        s.mkdir(s.root + path, 0o755)
        s.chdir(s.root + path)
        s.rmdir(s.root + path)
        s.getcwd()
        s.readlink("/proc/self/cwd")
        s.stat(".")
        s.ls(".")
        s.put("x")
        s.mkdir("x", 0o755)
        s.tried(
            ["open", ".", os.O_RDONLY, 0], ["open", "..", os.O_RDONLY, 0], ["open", "../file", os.O_RDONLY, 0]
        )
        s.mkdir(s.root + path, 0o755)
        s.getcwd()
        s.put("x")


@program
def the_directory_is_replaced(s: Calls) -> None:
    s.chdir("dir")
    s.rename("../dir", "../moved")
    s.mkdir("../dir", 0o755)
    s.put("here")
    s.getcwd()
    s.ls(".")
    s.ls("../dir")
    s.same(".", s.root + b"/moved")


@program
def the_directory_is_closed(s: Calls) -> None:
    s.chdir("dir")
    s.chmod(".", 0)
    s.getcwd()
    s.cat("a")
    s.stat(".")
    s.stat("..")
    s.ls(".")
    s.chmod(s.root + b"/dir", 0o755)
    s.cat("a")


@program
def above_the_tree_and_back(s: Calls) -> None:
    s.chdir("..")
    s.getcwd()
    s.cat(s.root.rpartition(b"/")[2] + b"/file")
    s.chdir(s.root.rpartition(b"/")[2] + b"/dir")
    s.getcwd()
    s.chdir("/")
    s.getcwd()
    s.put(s.root + b"/new")
    s.cat(s.root[1:] + b"/file")
    s.chdir(s.root[1:])
    s.ls("empty-dir")


@program
def in_a_directory_outside(s: Calls) -> None:
    s.chdir("to-outside-dir")
    s.getcwd()
    s.cat("file")
    s.cat("../file")
    s.put(s.root + b"/new")
    s.chdir(s.root)
    s.cat("new")


@program
def file_systems(s: Calls) -> None:
    s.put("new")
    s.put("file")
    for path in (
        ".",
        "file",
        "big",
        "new",
        "dir",
        "to-file",
        "dangling",
        "missing",
        "closed/in",
        "loop-1",
        "",
        "file/",
    ):
        s.statfs(path)
    for path, flags in (("file", os.O_RDONLY), ("new", os.O_RDWR), ("dir", os.O_RDONLY), ("big", O_PATH)):
        s.statfs(s.open(path, flags, 0))
    s.statfs(99)


@program
def limits_of_names(s: Calls) -> None:
    for path in (".", "dir", "file"):
        s.say(
            path,
            os.pathconf(path, "PC_NAME_MAX"),
            os.pathconf(path, "PC_LINK_MAX"),
            os.pathconf(path, "PC_PATH_MAX"),
        )


@program
def handles(s: Calls) -> None:
    for path in (
        "file",
        "dir",
        "to-file",
        "dangling",
        "missing",
        "fifo",
        "closed/in",
        "loop-1",
        "file/x",
        "",
    ):
        s.handle(AT_FDCWD, path)
        s.handle(AT_FDCWD, path, AT_SYMLINK_FOLLOW)
    s.handle(AT_FDCWD, "file", 0, 0)
    s.handle(AT_FDCWD, "file", 1)
    s.handle(s.open("file", O_PATH, 0), "", AT_EMPTY_PATH)
    s.handle(99, "file")


@program
def handles_are_of_objects(s: Calls) -> None:
    one = s.handle(AT_FDCWD, "file")
    s.say("another:", one != s.handle(AT_FDCWD, "big"))
    s.say("by a link:", one == s.handle(AT_FDCWD, "to-file", AT_SYMLINK_FOLLOW))
    s.put("file", b"changed\n")
    s.say("after a write:", one == s.handle(AT_FDCWD, "file"))
    s.rename("file", "moved")
    s.say("after a rename:", one == s.handle(AT_FDCWD, "moved"))


@program
def changing_the_root(s: Calls) -> None:
    for path in ("dir", ".", "file", "missing", "closed"):
        s.child(lambda path=path: (s.chroot(path), s.stat("/a"), os._exit(0)))


@program
def the_executable_of_the_process(s: Calls) -> None:
    s.say("exe is there:", s.silently("readlink", "/proc/self/exe", bytes(4096), 4096) > 0)
    s.child(lambda: s.execve("/proc/self/exe", ["python3", "-c", "print('ran')"]))


@program
def mounts_do_not_name_another_tree(s: Calls) -> None:
    with open("/proc/self/mountinfo", "rb") as mounts:
        s.say("mounted here:", sum(line.split()[4].startswith(s.root) for line in mounts))


def _enter_what_may_only_be_searched(s: Calls) -> None:
    for path in ("new", "below", "../below", "./", "..", "new", "below/../below/"):
        s.chdir(path)
        s.getcwd()
        s.open(".", os.O_RDONLY | os.O_DIRECTORY, 0)
        s.lstat("file")
    # No descriptor is left of it.
    s.say("lowest free:", s.silently("dup", 0))


@program
def entering_what_may_only_be_searched(s: Calls) -> None:
    s.mkdir("new", 0o755)
    s.mkdir("new/below", 0o755)
    s.put("new/below/file")
    s.chmod("new/below", 0o711)
    s.chmod("new", 0o711)

    def as_another() -> None:
        s.setresgid(4242, 4242, 4242)
        s.setresuid(4242, 4242, 4242)
        _enter_what_may_only_be_searched(s)

    s.child(as_another)
    s.chmod("new/below", 0o111)
    s.chmod("new", 0o311)
    s.child(lambda: _enter_what_may_only_be_searched(s))
