"""execve and execveat of what lies in the tree, made before or just now."""

from __future__ import annotations

import os
import shutil

from .vocabulary import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, O_PATH, Calls, Programs

PROGRAMS = Programs()
program = PROGRAMS

_SCRIPT = b'#!/bin/sh\necho "script: $0" "$@"\n'
_SAY = 'echo "binary: $0" "$@"; readlink "/proc/$$/exe"; read -r comm < "/proc/$$/comm"; echo "$comm"'


def prepare(root: bytes) -> list[bytes]:
    """dash and cat: small programs of the machine's own."""
    for name in ("sh", "cat"):
        target = os.path.join(root, os.fsencode(name + "-copy"))
        shutil.copyfile(os.path.realpath(shutil.which(name) or f"/bin/{name}"), target)
        os.chmod(target, 0o755)
    return [b"sh-copy", b"cat-copy"]


def _copy(s: Calls, source: str, target: str, mode: int = 0o755) -> None:
    """With raw calls: a file just made."""
    reader = s.silently("open", source, os.O_RDONLY, 0)
    writer = s.silently("open", target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    while data := os.read(reader, 1 << 16):
        os.write(writer, data)
    s.silently("close", reader)
    s.silently("close", writer)
    s.told("copy", (source, target), writer)


@program
def a_script(s: Calls) -> None:
    for path in (b"script", b"./script", s.root + b"/script", b"dir/../script"):
        s.run(path, "one", "two words")


@program
def a_new_script(s: Calls) -> None:
    s.put("new", _SCRIPT, mode=0o755)
    s.mkdir("made", 0o755)
    s.put("made/new", _SCRIPT, mode=0o755)
    for path in (b"new", b"./new", s.root + b"/new", b"made/new", b"made/../new"):
        s.run(path, "one")


@program
def a_changed_script(s: Calls) -> None:
    s.put("script", b"#!/bin/sh\necho changed $0\n")
    s.run("./script")
    s.put("script", b"#!/bin/sh\necho again $0\n")
    s.run("./script")


@program
def a_binary(s: Calls) -> None:
    s.run("./sh-copy", "-c", _SAY, "name", "arguments")
    s.run("sh-copy", "-c", _SAY)


@program
def a_new_binary(s: Calls) -> None:
    _copy(s, "sh-copy", "dir/new")
    s.run("dir/new", "-c", _SAY, "name", "arguments")
    s.chdir("dir")
    s.run("./new", "-c", _SAY)


@program
def a_binary_that_was_renamed(s: Calls) -> None:
    s.rename("sh-copy", "dir/renamed")
    s.run("dir/renamed", "-c", _SAY)
    s.rename("dir", "moved")
    s.run("moved/renamed", "-c", _SAY)
    s.chmod("moved/renamed", 0o644)
    s.run("moved/renamed", "-c", _SAY)


@program
def a_changed_binary(s: Calls) -> None:
    _copy(s, "cat-copy", "sh-copy")
    s.run("./sh-copy", "file")


@program
def through_links(s: Calls) -> None:
    s.symlink("sh-copy", "to-sh")
    s.symlink("script", "to-script")
    s.symlink("../script", "dir/to-script")
    for path in ("to-script", "./to-script", "dir/to-script", "to-dir/to-script"):
        s.run(path, "x")
    s.run("./to-sh", "-c", _SAY)


@program
def through_hard_links(s: Calls) -> None:
    s.link("sh-copy", "linked")
    s.link("script", "dir/linked")
    s.run("./linked", "-c", _SAY)
    s.run("dir/linked", "x")


@program
def a_script_with_an_interpreter_of_the_tree(s: Calls) -> None:
    s.put("new", b"#!" + s.root + b"/sh-copy\necho interpreted $0; readlink /proc/$$/exe\n", mode=0o755)
    s.put("relative", b"#!./sh-copy -e\necho interpreted $0 $-\n", mode=0o755)
    s.put("script", b"#!" + s.root + b"/sh-copy\necho interpreted too $0\n")
    for path in ("./new", "./relative", "./script"):
        s.run(path)
    _copy(s, "sh-copy", "newer")
    s.put("new", b"#!" + s.root + b"/newer\necho by the newer $0\n", mode=0o755)
    s.run("./new")


@program
def a_script_of_a_script(s: Calls) -> None:
    s.put("inner", b"#!/bin/sh\necho inner $0 $@\n", mode=0o755)
    s.put("outer", b"#!./inner with\n", mode=0o755)
    s.run("./outer", "argument")


@program
def a_script_with_a_bad_interpreter(s: Calls) -> None:
    for number, text in enumerate(
        (b"#!/missing/interpreter\n", b"#!" + s.root + b"/dir\n", b"#!\n", b"#!file\n", b"")
    ):
        s.put(f"new-{number}", text, mode=0o755)
        s.run(f"./new-{number}")


@program
def errors(s: Calls) -> None:
    for path in (
        "missing",
        "file",
        "dir",
        "to-dir",
        "dangling",
        "loop-1",
        "file/x",
        "closed/in",
        "fifo",
        "socket",
        "",
    ):
        s.run(path)
    s.run("n" * 256)
    s.run("script/")
    s.put("no-format", b"neither binary nor script", mode=0o755)
    s.run("./no-format")
    s.put("broken", b"\x7fELF and no more", mode=0o755)
    s.run("./broken")
    s.put("not-executable", _SCRIPT)
    s.run("./not-executable")
    s.chmod("not-executable", 0o755)
    s.run("./not-executable")


@program
def without_permission_to_read(s: Calls) -> None:
    s.chmod("sh-copy", 0o111)
    s.run("./sh-copy", "-c", "echo ran")
    s.chmod("script", 0o111)
    s.run("./script")
    s.chmod("script", 0o444)
    s.run("./script")


@program
def while_it_is_being_written(s: Calls) -> None:
    fd = s.open("sh-copy", os.O_RDWR, 0)
    s.run("./sh-copy", "-c", "echo ran")
    s.close(fd)
    s.run("./sh-copy", "-c", "echo ran")
    _copy(s, "sh-copy", "new")
    fd = s.open("new", os.O_WRONLY, 0)
    s.run("./new", "-c", "echo ran")
    s.close(fd)


@program
def writing_what_runs(s: Calls) -> None:
    _copy(s, "sh-copy", "new")
    for path in ("./sh-copy", "./new"):
        said, say = os.pipe()
        hear, heard = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(say, 8)
            os.dup2(hear, 9)
            s.execve(path, [path, "-c", "echo >&8; read -r line <&9"])
            os._exit(1)
        os.read(said, 1)
        s.tried(["open", path, os.O_WRONLY, 0], ["open", path, os.O_RDONLY, 0])
        s.truncate(path, 0)
        os.write(heard, b"\n")
        os.waitpid(pid, 0)
        os.closerange(3, 10)


@program
def writing_what_runs_in_other_ways(s: Calls) -> None:
    s.link("sh-copy", "linked")
    s.symlink("sh-copy", "to-sh")
    said, say = os.pipe()
    hear, heard = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(say, 8)
        os.dup2(hear, 9)
        s.execve("./sh-copy", ["sh", "-c", "echo >&8; read -r line <&9"])
        os._exit(1)
    os.read(said, 1)
    for path in ("sh-copy", "linked", "to-sh"):
        for flags in (
            os.O_WRONLY,
            os.O_RDWR,
            os.O_TRUNC,
            os.O_WRONLY | os.O_APPEND,
            os.O_WRONLY | os.O_CREAT,
        ):
            s.tried(["open", path, flags, 0o644])
        s.tried(["truncate", path, 5])
    s.stat("sh-copy")
    s.rename("sh-copy", "moved")
    s.put("sh-copy", b"another\n")
    s.unlink("moved")
    os.write(heard, b"\n")
    os.waitpid(pid, 0)
    os.closerange(3, 10)
    s.tried(["open", "linked", os.O_WRONLY, 0])


@program
def a_script_while_it_is_being_written(s: Calls) -> None:
    s.put("new", _SCRIPT, mode=0o755)
    for path in ("script", "new"):
        fd = s.open(path, os.O_WRONLY, 0)
        s.run(f"./{path}")
        s.close(fd)
        s.run(f"./{path}")


@program
def the_name_that_a_program_is_told(s: Calls) -> None:
    """AT_EXECFN of getauxval(3), as the dynamic linker shows it."""
    _copy(s, "sh-copy", "dir/new")
    for path in ("./sh-copy", "dir/new"):
        s.run("/bin/sh", "-c", 'LD_SHOW_AUXV=1 "$0" -c : | grep EXECFN', path)


@program
def removed_or_replaced_while_it_runs(s: Calls) -> None:
    s.run("./sh-copy", "-c", "rm sh-copy; readlink /proc/$$/exe; cat file")
    s.lstat("sh-copy")


@program
def by_descriptor(s: Calls) -> None:
    _copy(s, "sh-copy", "new")
    for path, flags in (("sh-copy", O_PATH), ("new", os.O_RDONLY), ("new", O_PATH | os.O_CLOEXEC)):
        fd = s.open(path, flags, 0)
        s.child(
            lambda fd=fd: s.execveat(fd, "", ["x", "-c", "echo ran; readlink /proc/$$/exe"], AT_EMPTY_PATH)
        )
        s.child(lambda fd=fd: s.execve(f"/proc/self/fd/{fd}", ["x", "-c", "echo ran"]))
        s.child(lambda fd=fd: s.execveat(fd, "", ["x"], 0))


@program
def a_script_by_descriptor(s: Calls) -> None:
    s.put("new", _SCRIPT, mode=0o755)
    for path in ("script", "new"):
        fd = s.open(path, O_PATH, 0)
        s.child(lambda fd=fd: s.execveat(fd, "", ["x", "argument"], AT_EMPTY_PATH))
        s.child(lambda fd=fd: s.execve(f"/dev/fd/{fd}", ["x", "argument"]))
        closing = s.open(path, O_PATH | os.O_CLOEXEC, 0)
        s.child(lambda fd=closing: s.execveat(fd, "", ["x"], AT_EMPTY_PATH))


@program
def relative_to_descriptors(s: Calls) -> None:
    s.rename("script", "dir/script")
    s.put("dir/new", _SCRIPT, mode=0o755)
    directory = s.open("dir", O_PATH, 0)
    for path in ("script", "new", "../missing", "sub", ""):
        s.child(lambda path=path: s.execveat(directory, path, [path, "argument"]))
    s.child(lambda: s.execveat(99, "script", ["x"]))
    s.symlink("script", "dir/linked")
    s.child(lambda: s.execveat(directory, "linked", ["x"], AT_SYMLINK_NOFOLLOW))
    s.child(lambda: s.execveat(AT_FDCWD, "dir/new", ["x", "y"]))


@program
def in_a_new_working_directory(s: Calls) -> None:
    s.mkdir("new", 0o755)
    s.chdir("new")
    s.put("script", _SCRIPT, mode=0o755)
    s.run("./script")
    s.run("/bin/sh", "-c", "pwd; pwd -P; ls; cat script; cd ..; pwd")


@program
def programs_that_list_read_and_write(s: Calls) -> None:
    s.put("new", b"by us\n")
    s.run(
        "/bin/sh", "-c", "cat new file; echo by them > file; echo more >> new; ls dir; rm dir/a; mv new newer"
    )
    s.cat("file")
    s.cat("newer")
    s.ls("dir")


@program
def environment_and_arguments(s: Calls) -> None:
    s.put("new", b'#!/bin/sh\necho "$#" "$1" "$VARIABLE"\n', mode=0o755)
    long = "a" * 5000
    for path in ("./new", s.root.decode() + "/new"):
        s.child(lambda path=path: s.execve(path, [path, "", "b"], ["VARIABLE=value"]))
        s.child(lambda path=path: s.execve(path, ["another name"], [f"VARIABLE={long[:10]}"]))
        s.child(lambda path=path: s.execve(path, [path, *["x"] * 500], ["VARIABLE=many"]))
        s.child(lambda path=path: s.execve(path, [path, "\xff".encode("latin-1"), "y"], []))


@program
def loaded_libraries_of_the_tree(s: Calls) -> None:
    """A library that does not exist, and one that is none."""
    s.put("lib.so", b"no library")
    for path in (s.root + b"/missing.so", s.root + b"/lib.so"):
        s.child(lambda path=path: s.execve("/bin/cat", ["cat", "file"], [b"LD_PRELOAD=" + path]))
