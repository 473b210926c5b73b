"""Unusual paths, for every call that takes one: the result and the tree are as bare, call by call.

The same script of raw calls runs bare, where the kernel decides alone (a granted directory), and on a spine, where the
supervisor serves (everything is made by the program beside something denied). A call that makes or takes names has a
directory of its own for each path, with the same things in it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.fresh_disk import on_a_fresh_disk
from harness.places import Tree, tree_of
from harness.running import Runner
from security.raw_calls import AT_FDCWD, Buffer, Bytes, Outcome, Ref, Script

Call = Callable[[Script, bytes], Ref]
Told = dict[tuple[str, bytes], Outcome]

_PATH_MAX, _NAME_MAX = 4096, 255
_AT_REMOVEDIR, _AT_SYMLINK_NOFOLLOW, _AT_SYMLINK_FOLLOW = 0x200, 0x100, 0x400
_TIMES = Bytes(struct.pack("=qqqq", 7, 0, 9, 0))

# What each directory holds: f a file, d an empty directory, e one with a file x; links: l to f, m to d, n to nothing,
# o to itself; "n" * 255 a file.
_LONGEST_NAME = b"n" * _NAME_MAX


def _paths(here: bytes) -> list[bytes]:
    """here: the absolute path of the directory."""
    slashes = [b"f", b"d", b"e", b"l", b"m", b"n", b"o", b"missing"]
    found = [name + end for name in slashes for end in (b"", b"/", b"/.", b"/..", b"/x")]
    found += [b"", b".", b"..", b"./", b"../", b".//f", b"f//", b"d//", b"d/./../f", b"e/x/.."]
    found += [b"missing/../f", b"m/../f", b"e//x", b"missing//", here + b"/f", b"//" + here + b"//f"]
    found += [_LONGEST_NAME, _LONGEST_NAME + b"n", b"d/" + b"q" * 255, b"d/" + b"q" * 256, b"q" * 256 + b"/x"]
    for name in (b"f", b"missing"):
        for length in (_PATH_MAX - 2, _PATH_MAX - 1, _PATH_MAX, _PATH_MAX + 1):
            found.append(b"./" * ((length - len(name)) // 2) + b"/" * ((length - len(name)) % 2) + name)
            found.append(here + b"/" * (length - len(here) - len(name)) + name)
    found.append(b"f" + b"/" * (_PATH_MAX - 2))
    found.append(b"d" + b"/." * ((_PATH_MAX - 2) // 2))
    return found


def _same(name: str, *rest: object, before: tuple[object, ...] = ()) -> Call:
    return lambda script, path: getattr(script, name)(*before, path, *rest)


def _watched(script: Script, path: bytes) -> Ref:
    instance = script.inotify_init1(0)
    watch = script.inotify_add_watch(instance, path, 2)
    script.close(instance)
    return watch


_CALLS: dict[str, Call] = {
    "open": _same("open", os.O_RDONLY, 0),
    "open to write": _same("open", os.O_WRONLY | os.O_NONBLOCK, 0),
    "open to create": _same("open", os.O_WRONLY | os.O_CREAT, 0o640),
    "open to create anew": _same("open", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640),
    "open not following": _same("open", os.O_RDONLY | os.O_NOFOLLOW, 0),
    "open a directory": _same("open", os.O_RDONLY | os.O_DIRECTORY, 0),
    "open to look": _same("open", os.O_PATH, 0),
    "openat": _same("openat", os.O_RDONLY, 0, before=(AT_FDCWD,)),
    "creat": _same("creat", 0o640),
    "mkdir": _same("mkdir", 0o750),
    "mkdirat": _same("mkdirat", 0o750, before=(AT_FDCWD,)),
    "mknod": _same("mknod", 0o10640, 0),
    "rmdir": _same("rmdir"),
    "unlink": _same("unlink"),
    "unlinkat": _same("unlinkat", 0, before=(AT_FDCWD,)),
    "unlinkat of a directory": _same("unlinkat", _AT_REMOVEDIR, before=(AT_FDCWD,)),
    "rename from": _same("rename", b"moved"),
    "rename to": _same("rename", before=(b"f",)),
    "rename a directory to": _same("rename", before=(b"d",)),
    "renameat2 noreplace": lambda script, path: script.renameat2(AT_FDCWD, b"f", AT_FDCWD, path, 1),
    "renameat2 exchange": lambda script, path: script.renameat2(AT_FDCWD, b"e", AT_FDCWD, path, 2),
    "link from": _same("link", b"linked"),
    "link to": _same("link", before=(b"f",)),
    "linkat following": lambda script, path: script.linkat(
        AT_FDCWD, path, AT_FDCWD, b"linked", _AT_SYMLINK_FOLLOW
    ),
    "symlink": _same("symlink", before=(b"target",)),
    "symlink of": _same("symlink", b"made"),
    "truncate": _same("truncate", 2),
    "chmod": _same("chmod", 0o700),
    "fchmodat2 not following": lambda script, path: script.fchmodat2(
        AT_FDCWD, path, 0o700, _AT_SYMLINK_NOFOLLOW
    ),
    "chown": _same("chown", -1, -1),
    "lchown": _same("lchown", -1, -1),
    "utimensat": _same("utimensat", _TIMES, 0, before=(AT_FDCWD,)),
    "utimes": _same("utimes", _TIMES),
    "setxattr": _same("setxattr", b"user.x", b"y", 1, 0),
    "lsetxattr": _same("lsetxattr", b"user.x", b"y", 1, 0),
    "removexattr": _same("removexattr", b"user.x"),
    "getxattr": _same("getxattr", b"user.x", Buffer(8), 8),
    "listxattr": _same("listxattr", Buffer(64), 64),
    "inotify_add_watch": lambda script, path: _watched(script, path),
    "execve": _same("execve", 0, 0),
    "execveat": _same("execveat", 0, 0, 0, before=(AT_FDCWD,)),
    "chdir": _same("chdir"),
    "stat": _same("newfstatat", Buffer(144), 0, before=(AT_FDCWD,)),
    "access": _same("access", 4),
    "readlink": _same("readlink", Buffer(64), 64),
    "statfs": _same("statfs", Buffer(120)),
}
_CHANGING = {
    name for name in _CALLS if name.startswith(("mk", "rm", "unlink", "rename", "link", "sym", "creat"))
}
_CHANGING |= {"open to create", "open to create anew"}
# Their output differs from run to run.
_TELLING = {"stat", "statfs"}
_AT_ONCE = 12  # of the calls above: a script may have 20,000 lines


def _furnish(script: Script, here: bytes, path: bytes | None) -> None:
    """path: the only one that is going to be used, so that what it does not lead to need not be made."""
    script.mkdir(here, 0o755)
    script.mkdir(here + b"/c", 0o755)
    script.chdir(here + b"/c")
    script.mknod(b"f", 0o100644, 0)
    script.mkdir(b"d", 0o755)
    script.mkdir(b"e", 0o755)
    script.mknod(b"e/x", 0o100644, 0)
    if path in (None, _LONGEST_NAME):
        script.mknod(_LONGEST_NAME, 0o100644, 0)
    for target, link in ((b"f", b"l"), (b"d", b"m"), (b"nothing", b"n"), (b"o", b"o")):
        if path is None or path.partition(b"/")[0] == link:
            script.symlink(target, link)


def _script(work: Path, calls: dict[str, Call], some: slice) -> tuple[Script, dict[int, tuple[str, bytes]]]:
    """The script, and which of its calls are the ones in question. some: of the paths."""
    script = Script()
    script.umask(0o022)
    asked: dict[int, tuple[str, bytes]] = {}
    for number, (name, call) in enumerate(calls.items()):
        taken = range(len(_paths(b"")))[some]
        for at in taken:
            changing = name in _CHANGING
            here = os.fsencode(work / f"{number}-{at if changing else 0}")
            path = _paths(here + b"/c")[at]
            if changing or at == taken[0]:
                _furnish(script, here, path if changing else None)
            made = call(script, path)
            asked[made.index] = (name, path)
            if name == "chdir":
                script.chdir(here + b"/c")
            if name.startswith(("open", "creat")):
                script.close(made)
    return script, asked


def _parts(calls: dict[str, Call], size: int) -> list[dict[str, Call]]:
    items = list(calls.items())
    return [dict(items[at : at + size]) for at in range(0, len(items), size)]


def _told(outcomes: list[Outcome], asked: dict[int, tuple[str, bytes]]) -> Told:
    return {
        what: outcomes[index] if what[0] not in _TELLING else outcomes[index]._replace(data=b"")
        for index, what in asked.items()
    }


def _tree(work: Path) -> Tree:
    return {path: what for path, what in tree_of(work).items() if path != "denied"}


@pytest.mark.parametrize("where", ["granted", "spine"])
@pytest.mark.parametrize("calls", _parts(_CALLS, _AT_ONCE), ids=lambda calls: next(iter(calls)))
def test_unusual_paths(runner: Runner, where: str, calls: dict[str, Call], soak: bool) -> None:
    if where == "granted" and runner.place.user.is_root:
        pytest.skip("the kernel's own answers: one user is enough")
    # All of them where the supervisor decides, and rights count.
    first = 0 if where == "granted" else 1 if runner.place.user.is_root else None
    some = slice(None) if soak or first is None else slice(first, None, 3)
    script, asked = _script(runner.work, calls, some)
    bare, tree, ours, our_tree = on_a_fresh_disk(runner.place, lambda: _both(runner, where, script, asked))
    assert {outcome.error for outcome in bare.values()} >= {"", "ENOENT", "ENOTDIR", "ENAMETOOLONG"}
    differing = [
        (name, path if len(path) < 60 else path[:20] + b"... (%d)" % len(path), bare[name, path], outcome)
        for (name, path), outcome in ours.items()
        if outcome != bare[name, path]
    ]
    assert differing == [], "\n".join(map(str, differing))
    assert our_tree == tree


def _both(
    runner: Runner, where: str, script: Script, asked: dict[int, tuple[str, bytes]]
) -> tuple[Told, Tree, Told, Tree]:
    bare, tree = _told(script.bare(runner, timeout=60), asked), _tree(runner.work)
    runner.place.empty_work()
    options = ["--write", runner.work]
    if where == "spine":
        runner.place.file("work/denied", "denied")
        options += ["--deny", runner.work / "denied"]
    outcomes, _ = script.sandboxed(runner, *options, timeout=60)
    return bare, tree, _told(outcomes, asked), _tree(runner.work)
