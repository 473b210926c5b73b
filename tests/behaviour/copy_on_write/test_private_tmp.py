"""/tmp of a program with a copy-on-write tree: empty, its own, like any other /tmp to programs, and gone at the end."""

from __future__ import annotations

import difflib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.own_tmp import OwnTmp, in_real_tmp
from harness.removing import remove_tree
from harness.running import Argument, Runner, require, system_python
from harness.waiting import line_of, until

_LIST = "; find /tmp -mindepth 1 -printf '%P %y %m %n %l\\n' | sort"

# Shell scripts; what they print is compared with what they print bare.
_PROGRAMS = {
    "looks": ("ls -la /tmp | wc -l; stat -c '%n %F %a %u' /tmp /tmp/. /tmp/..; cd /tmp; pwd; pwd -P; ls -A", ()),
    "makes-and-removes": (
        "cd /tmp; mkdir -p a/b/c; echo 1 > a/b/f; ln a/b/f a/g; ln -s a/b s; mkfifo p; cat s/f a/g; mv a/b a/d;"
        " cat a/d/f; rm s; rmdir a/d/c; rm a/d/f; rmdir a/d; ls -R" + _LIST,
        (),
    ),
    "mktemp": ("a=$(mktemp) b=$(mktemp -d) && echo x > $a && mv $a $b && ls -A $b | wc -l && rm -r $b" + _LIST, ()),
    "here-documents": (
        "for shell in bash dash sh; do $shell -c 'cat <<END | md5sum\n$(seq 30000)\nEND'; done; ls -A /tmp",
        ("bash", "dash"),
    ),
    "sort": ("seq 300000 | sort -T /tmp -S 200k -r | sort -T /tmp -S 1M -n | md5sum; ls -A /tmp", ()),
    "gcc": (
        "cd /tmp; printf 'int main(void) { return 7; }' > a.c; gcc -g a.c -o a; ./a; echo $?; /tmp/a; echo $?;"
        " cd - > /dev/null; gcc -save-temps -o b /tmp/a.c 2>&1; ./b; echo $?; ls; cd /tmp; rm a" + _LIST,
        ("gcc",),
    ),
    "scripts": (
        "cd /tmp; printf '#!/bin/sh\\necho \"$0\" \"$@\"\\n' > s; chmod +x s; ./s 1; /tmp/s 2; cd /; tmp/s 3;"
        " ln -s /tmp/s /tmp/t; /tmp/t 4; PATH=/tmp s 5",
        (),
    ),
    "git": (
        "export HOME=/tmp GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE=2024-01-01T00:00:00Z;"
        " export GIT_COMMITTER_DATE=2024-01-01T00:00:00Z;"
        " git config --global user.name A; git config --global user.email a@example.org; git init -q -b main /tmp/r;"
        " cd /tmp/r; for i in 1 2 3; do echo $i > f$i; git add .; git commit -qm $i; done; git clone -q /tmp/r /tmp/c;"
        " git -C /tmp/c log --format=%H; git -C /tmp/c checkout -q HEAD~1; git fsck; git gc -q; git status --short;"
        " git clone -q . \"$OLDPWD/c\" && ls \"$OLDPWD/c\"",
        ("git",),
    ),
    "tar": (
        "mkdir -p d/e; seq 1000 > d/e/f; ln -s e d/l; ln d/e/f d/h; tar cf /tmp/t.tar d; tar xf /tmp/t.tar -C /tmp;"
        " diff -r d /tmp/d && tar df /tmp/t.tar -C /tmp && mv /tmp/d moved && ls -R moved; rm /tmp/t.tar" + _LIST,
        (),
    ),
    "cp-and-rm": (
        "cp -r /usr/lib/python3*/json /tmp/j; diff -r /usr/lib/python3*/json /tmp/j; rm -r /tmp/j; ls -A /tmp",
        (),
    ),
    "proc-links": (
        "echo x > /tmp/f; exec 3< /tmp/f; readlink /proc/self/fd/3 /proc/$$/fd/3; cat /dev/fd/3;"
        " cd /tmp; readlink /proc/$$/cwd;"
        " rm f; readlink /proc/$$/fd/3; cat /proc/self/cwd/f; mkdir q; cd q; rmdir /tmp/q; readlink /proc/self/cwd",
        (),
    ),
}  # fmt: skip

_PYTHON = {
    "tempfile": """
import os, tempfile
print(tempfile.gettempdir())
for make in (tempfile.TemporaryFile, tempfile.NamedTemporaryFile, tempfile.SpooledTemporaryFile):
    with make() as file:
        file.write(b"x" * 100000); file.seek(0); print(make.__name__, len(file.read()))
with tempfile.TemporaryDirectory() as name:
    open(name + "/f", "w").close(); print(os.listdir(name))
fd, name = tempfile.mkstemp(); print(oct(os.fstat(fd).st_mode)); os.rename(name, "/tmp/z"); print(os.listdir("/tmp"))
fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o644); os.write(fd, b"t"); print(os.fstat(fd).st_nlink)
os.link("/proc/self/fd/%d" % fd, "/tmp/named", src_dir_fd=fd, follow_symlinks=True); print(open("/tmp/named").read())
""",
    "two-trees": """
import errno, os
here = os.getcwd()
def tried(act, *args):
    try: print(act.__name__, act(*args))
    except OSError as error: print(act.__name__, errno.errorcode[error.errno], len(args))
open("/tmp/f", "w").close(); open("f", "w").close(); open("/tmp/g", "w").close(); os.mkdir("/tmp/d"); os.mkdir("d")
for act in (os.rename, os.link):
    for old in ("f", "/tmp/f", "d", "/tmp/d", here + "/f"):
        for new in ("new", "/tmp/new", "f", "/tmp/f", "/tmp/d", "d", "/tmp/none/x", "none/x"):
            if old.startswith("/tmp") != new.startswith("/tmp"):
                tried(act, old, new)
fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
for new in (here + "/unnamed", here + "/f", "/tmp/f"):
    tried(lambda: os.link("/proc/self/fd/%d" % fd, new, src_dir_fd=fd, follow_symlinks=True))
print(sorted(os.listdir("/tmp")), sorted(os.listdir(".")))
""",
    "directories": """
import os
os.chdir("/tmp"); os.mkdir("a"); os.chdir("a"); print(os.getcwd()); fd = os.open(".", os.O_RDONLY)
os.rename("/tmp/a", "/tmp/b"); print(os.getcwd()); open("f", "w").close(); print(os.listdir("/tmp/b"), os.listdir(fd))
print(os.stat("/tmp/b").st_ino == os.fstat(fd).st_ino == os.stat(".").st_ino)
os.fchdir(fd); os.chdir(".."); print(os.getcwd(), os.listdir("."))
with os.scandir("/tmp") as rows: print([(row.name, row.is_dir()) for row in rows])
os.chmod("/tmp/b", 0o700); os.utime("/tmp/b", (5, 6)); print(oct(os.stat("b").st_mode), os.stat("b").st_mtime)
""",
}  # fmt: skip


@pytest.mark.parametrize("name", _PROGRAMS)
def test_programs_find_the_tmp_that_they_find_bare(runner: Runner, name: str) -> None:
    script, needs = _PROGRAMS[name]
    require(*needs)
    OwnTmp(runner).same(["sh", "-c", script], timeout=60)


@pytest.mark.parametrize("name", _PYTHON)
def test_python_finds_it_too(runner: Runner, name: str) -> None:
    OwnTmp(runner).same([system_python(), "-c", _PYTHON[name]])


def test_nothing_in_it_is_kept_whatever_becomes_of_the_workdir(runner: Runner) -> None:
    script = ["sh", "-c", "echo kept > kept; echo gone > /tmp/sandlockd-test-gone"]
    for how in ("commit", "keep", "discard"):
        ended = runner.sandboxed(script, options=["--workdir", runner.work, "--on-exit", how])
        assert ended.returncode == 0, ended
        assert os.listdir(runner.place.temporary) == []
        assert not os.path.lexists("/tmp/sandlockd-test-gone")
    assert (runner.work / "kept").read_text() == "kept\n"


def test_what_a_killed_supervisor_left_of_it_goes_at_the_next_start(runner: Runner) -> None:
    runner.may_leave_temporary = True
    options = ["--workdir", runner.work]
    script = "mkdir -p /tmp/a/b; echo x > /tmp/a/b/c; chmod 0 /tmp/a; echo ready; exec sleep 1000"
    with runner.started(runner.command_line(["sh", "-c", script], options=options)) as process:
        assert process.stdout is not None
        assert line_of(process.stdout.fileno()) == b"ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(os.listdir(runner.place.temporary)) == 1

    def start() -> bool:
        assert runner.sandboxed(["true"]).returncode == 0
        return os.listdir(runner.place.temporary) == []

    until(start, "the leftovers to go", limit_s=10)


# ---- what the policy grants below /tmp


@pytest.fixture
def below(runner: Runner) -> Iterator[Path]:
    """A directory in the real /tmp: work/file read/file out/ file canary, link -> read."""
    path = in_real_tmp(runner, "below")
    try:
        for name in ("work", "read", "out"):
            (path / name).mkdir()
        for name in ("work/file", "read/file", "file", "canary"):
            (path / name).write_text(f"{name}\n")
        (path / "link").symlink_to(path / "read")
        runner.place.give(path)
        yield path
    finally:
        remove_tree(path)


def _granted(below: Path) -> list[Argument]:
    grants: list[Argument] = ["--read", below / "link", "--read", below / "file", "--write", below / "out"]
    return ["--workdir", below / "work", "--on-exit", "discard", *grants]


def test_grants_and_a_workdir_below_tmp_are_there_and_nothing_else(runner: Runner, below: Path) -> None:
    script = (
        f"exec 2>&1; ls /tmp; ls -F {below}; cat file ../read/file ../link/file {below}/file;"
        f" echo new > file; cat {below}/work/file;"
        " echo real > ../out/real; cat ../out/real; cd ..; pwd; cat work/file; cd link; pwd -P; cd ..; cat out/real;"
        " cd /tmp; cat */read/file; cd */out; /bin/pwd; cat ../work/file; cat ../canary; echo no > ../read/new"
    )
    ended = runner.sandboxed(["sh", "-c", script], options=_granted(below), cwd=below / "work")
    shown = "file\nlink@\nout/\nread/\nwork/\n"
    content = "work/file\nread/file\nread/file\nfile\nnew\nreal\n"
    assert ended.stdout.decode() == (
        f"{below.name}\n{shown}{content}{below}\nnew\n{below}/read\nreal\nread/file\n{below}/out\nnew\n"
        "cat: ../canary: No such file or directory\nsh: 1: cannot create ../read/new: Permission denied\n"
    )
    assert (below / "out/real").read_text() == "real\n"
    assert (below / "work/file").read_text() == "work/file\n"
    assert sorted(os.listdir(below / "read")) == ["file"]


_BUSY = """
import errno, os, sys
below = sys.argv[1]
def tried(act, *names):
    try: act(*(below + name for name in names)); print("done")
    except OSError as error: print(errno.errorcode[error.errno])
tried(os.rename, "/out", "/moved"); tried(os.rename, "/file", "/moved"); tried(os.rename, "", "-moved")
tried(os.rename, "/work", "/moved"); tried(os.rmdir, "/work"); tried(os.rmdir, ""); tried(os.mkdir, "/out")
tried(os.link, "/file", "/linked"); os.chdir("/tmp"); tried(os.rmdir, "/none")
open(below + "/own", "w").close(); tried(os.rename, "/own", "/out/own"); tried(os.rename, "/own", "/out")
tried(os.rename, "/own", "/work/own"); tried(os.rename, "/work/file", "/own"); tried(os.rename, "/own", "/other")
"""


def test_a_passage_stays_in_its_place(runner: Runner, below: Path) -> None:
    ended = runner.sandboxed(
        [system_python(), "-c", _BUSY, below], options=_granted(below), cwd=below / "work"
    )
    busy = ["EBUSY", "EBUSY", "EBUSY", "EBUSY", "EBUSY", "ENOTEMPTY", "EEXIST", "EXDEV", "ENOENT"]
    assert ended.stdout.decode().split() == [*busy, "EXDEV", "EBUSY", "EXDEV", "EXDEV", "done"], ended
    assert sorted(os.listdir(below)) == ["canary", "file", "link", "out", "read", "work"]


_BUSY_ALL = """
import ctypes, errno, os, sys
below = sys.argv[1]
open(below + "/own", "w").close(); os.mkdir(below + "/own-dir")
def tried(act, *names):
    try: act(*names); return "done"
    except OSError as error: return errno.errorcode[error.errno]
def exchange(one, other):
    if ctypes.CDLL(None, use_errno=True).renameat2(-100, one.encode(), -100, other.encode(), 2):
        raise OSError(ctypes.get_errno(), "")
for name in ("read", "out", "work", "file", "read/", "out/.", "read/../out"):
    path = below + "/" + name
    kind = "own-dir" if os.path.isdir(path) else "own"
    print(name, tried(os.rmdir, path), tried(os.unlink, path), tried(os.rename, path, below + "/moved"),
          tried(os.rename, below + "/" + kind, path), tried(exchange, path, below + "/" + kind),
          tried(os.mkdir, path), tried(os.symlink, "x", path))
"""
_MOUNT = 'for n in read out work file; do mount --bind "$1/$n" "$1/$n"; done; shift; exec "$@"'


def test_what_is_at_its_place_in_tmp_is_busy_as_a_mount_point_is(runner: Runner, below: Path) -> None:
    """Whether it is granted for reading or for writing: EBUSY. Bare, with mount points there."""
    command: list[Any] = [system_python(), "-c", _BUSY_ALL, below]
    ours = runner.sandboxed(command, options=_granted(below), cwd="/")
    names = ("read", "out", "work", "file", "read/", "out/.", "read/../out")
    assert [line.split()[0] for line in ours.stdout.decode().splitlines()] == list(names), ours
    if os.geteuid() != 0:
        pytest.skip("only root makes mount points to compare with")
    apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, "sh", below]
    bare = runner.bare([*apart, *command], cwd="/", user=0, group=0)
    assert ours.stdout.decode().splitlines() == bare.stdout.decode().splitlines()


_LAST_NAMES = """
import ctypes, errno, os, sys
below = sys.argv[1]
open(below + "/own", "w").close(); os.mkdir(below + "/own-dir")
libc = ctypes.CDLL(None, use_errno=True)
def called(name, *args):
    words = [word.encode() if isinstance(word, str) else word for word in args]
    return errno.errorcode[ctypes.get_errno()] if getattr(libc, name)(*words) < 0 else "done"
def told(one, other, calls):
    print(one, other, *calls)
where = ("work/..", "work/.", "work/../.", "out/..", "own-dir/..", "own-dir/.", "file/..", "none/..", "own/..",
         "work/none/..", "work/file/..", "out/../own-dir/..", "work", "own", "new", "..")
os.chdir(below)
for one in where:
    made = called("mkdir", one, 0o755), called("symlink", "x", one)
    told(one, "", (called("rmdir", one), called("unlink", one), *made))
    for other in where:
        if one in ("work", "own", "new") and other in ("work", "own", "new"):
            continue
        told(one, other, [called("renameat2", -100, one, -100, other, flags) for flags in (0, 1, 2)]
             + [called("linkat", -100, one, -100, other, 0)])
"""


def _differing(bare: bytes, ours: bytes) -> list[str]:
    lines = difflib.unified_diff(
        bare.decode().splitlines(), ours.decode().splitlines(), "bare", "ours", "", "", 0, ""
    )
    return list(lines)


def test_names_that_end_in_dots_around_what_is_at_its_place_are_refused_as_bare(
    runner: Runner, below: Path
) -> None:
    command: list[Any] = [system_python(), "-c", _LAST_NAMES, below]
    ours = runner.sandboxed(command, options=_granted(below), cwd="/")
    assert ours.returncode == 0, ours
    if os.geteuid() != 0:
        pytest.skip("only root makes mount points to compare with")
    user = runner.place.user
    as_user = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", "--"]
    # As in the sandbox: /tmp is a mount of its own, the user's, and what is at its place is one in it.
    script = (
        'mount -t tmpfs -o mode=1777 tmpfs /mnt && chown "$2" /mnt && mkdir -p "/mnt/${1#/tmp/}" &&'
        ' chown "$2" "/mnt/${1#/tmp/}" && for n in read out work; do mkdir "/mnt/${1#/tmp/}/$n"; done &&'
        ' touch "/mnt/${1#/tmp/}/file" && for n in read out work file; do'
        ' mount --bind "$1/$n" "/mnt/${1#/tmp/}/$n"; done && mount --rbind /mnt /tmp && shift 2 && exec "$@"'
    )
    apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", below, str(user.uid)]
    bare = runner.bare([*apart, *as_user, *command], cwd="/", user=0, group=0)
    assert bare.returncode == 0, bare
    assert _differing(bare.stdout, ours.stdout) == []


def test_a_working_directory_in_the_real_tmp_that_nothing_grants_is_an_empty_one(
    runner: Runner, below: Path
) -> None:
    options = ["--workdir", runner.work, "--on-exit", "discard"]
    script = ["sh", "-c", "pwd; /bin/pwd; ls -A; echo x > y; cat y; ls /tmp"]
    ended = runner.sandboxed(script, options=options, cwd=below)
    assert ended.stdout.decode() == f"{below}\n{below}\ny\n".replace("y\n", "x\n") + f"{below.name}\n", ended
    assert b"/tmp is the run's own" in ended.stderr
    assert "y" not in os.listdir(below)


def test_what_is_named_by_the_policy_itself_is_what_it_names(runner: Runner) -> None:
    """/tmp, or something above it, is granted: then the run has only a directory in it."""
    for grant in (["--write", "/tmp"], ["--read", "/"]):
        script = [
            "sh",
            "-c",
            'test -d "$TMPDIR" && test "$TMPDIR" != /tmp && echo x > "$TMPDIR/f" && cat "$TMPDIR/f"',
        ]
        ended = runner.sandboxed(script, options=["--workdir", runner.work, "--on-exit", "discard", *grant])
        assert ended.stdout == b"x\n", ended


def test_a_denied_name_is_denied_there_as_well(runner: Runner) -> None:
    options = ["--workdir", runner.work, "--on-exit", "discard", "--deny", "/tmp/sandlockd-test-denied"]
    script = (
        "echo x > /tmp/sandlockd-test-denied; mkdir /tmp/sandlockd-test-denied; echo y > /tmp/other; ls /tmp"
    )
    ended = runner.sandboxed(["sh", "-c", script], options=options)
    assert ended.stdout == b"other\n"
    assert {refusal["rule"] for refusal in ended.refusals} == {"filesystem.deny[0]"}


# ---- other owners


_STICKY = """
import errno, os
def tried(act, *args):
    try: act(*args); print("done")
    except OSError as error: print(errno.errorcode[error.errno])
def somebody(uid, acts):
    pid = os.fork()
    if pid == 0:
        os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid); os.umask(0)
        acts()
        os._exit(0)
    os.waitpid(pid, 0)
def first():
    open("/tmp/first", "w").close(); os.chmod("/tmp/first", 0o666); os.mkdir("/tmp/d", 0o777)
def second():
    tried(os.unlink, "/tmp/first"); tried(os.rename, "/tmp/first", "/tmp/second"); tried(os.unlink, "/tmp/root")
    tried(os.rmdir, "/tmp/d"); tried(open, "/tmp/d/in", "w"); tried(open, "/tmp/second", "w")
    tried(os.rename, "/tmp/second", "/tmp/first"); tried(os.chmod, "/tmp/first", 0o600); tried(os.unlink, "/tmp/d/in")
    tried(os.chmod, "/tmp", 0o777); tried(os.unlink, "/tmp/second")
open("/tmp/root", "w").close()
somebody(4242, first)
somebody(4343, second)
for name in sorted(os.listdir("/tmp")):
    status = os.stat("/tmp/" + name); print(name, status.st_uid, oct(status.st_mode))
"""


def test_owners_and_the_sticky_bit_count_as_bare(runner: Runner) -> None:
    if not runner.place.user.is_root:
        pytest.skip("needs several users")
    OwnTmp(runner).same([system_python(), "-c", _STICKY])
