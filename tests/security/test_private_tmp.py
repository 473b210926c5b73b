"""The real /tmp, and a program that has one of its own: there is no way from one to the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.own_tmp import in_real_tmp
from harness.removing import remove_tree
from harness.running import Ended, Runner, system_python
from security import broken
from security.canaries import SECRET, changed, outside, snapshot
from security.raw_calls import program
from security.test_races import KINDS


@pytest.fixture
def real(runner: Runner) -> Iterator[Path]:
    """A directory in the real /tmp: canary, script, sub/, granted/ with links that lead to the canary."""
    path = in_real_tmp(runner, "real")
    try:
        (path / "granted").mkdir()
        (path / "granted/up").symlink_to("../canary")
        (path / "granted/absolute").symlink_to(path / "canary")
        (path / "granted/directory").symlink_to(path)
        (path / "canary").write_bytes(SECRET)
        (path / "sub").mkdir()
        runner.place.give(path)
        yield path
    finally:
        remove_tree(path)
        for beside in _beside(path):
            beside.unlink()


def _beside(real: Path) -> list[Path]:
    """What the attack calls its own in /tmp."""
    return list(real.parent.glob(f"{real.name}-*"))


# Every way of naming the canary, or the directory that it is in, and what would read, make or change something there.
_ATTACK = """
import json, os, sys
real, work = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2])
name = os.path.basename(real)
own = real + b"-"  # a broken build may put these into the real /tmp
# On a broken build none of these may be to be had.
def had(act, *args):
    try: return act(*args)
    except OSError: return -1
had(os.symlink, real, work + b"/link"); had(os.symlink, b"/tmp", work + b"/to-tmp")
had(os.symlink, real + b"/canary", own + b"own-link"); had(os.symlink, work + b"/link", own + b"own-there-and-back")
tmp, granted, here = (had(os.open, path, os.O_RDONLY) for path in (b"/tmp", real + b"/granted", work))
os.chdir(work)
ways = [real, b"/tmp/../tmp/" + name, b"/proc/self/root/tmp/" + name, b"/proc/%d/root/tmp/%b" % (os.getpid(), name),
        b"/proc/self/task/%d/root/tmp/%b" % (os.getpid(), name), work + b"/link", b"link", b"to-tmp/" + name,
        own + b"own-there-and-back", b"/proc/self/fd/%d/%b" % (tmp, name), b"/proc/self/fd/%d/.." % granted,
        b"/dev/fd/%d/../" % granted, real + b"/granted/..", real + b"/granted/directory", b"/proc/self/fd/0/..",
        b"/proc/self/cwd/link", b"/proc/self/fd/%d/link" % here, b"/var/../tmp/" + name, b"/tmp/./" + name,
        real + b"/granted/../granted/.."]
found, done = b"", 0
def tried(act, *args):
    global found
    try:
        got = act(*args)
        if isinstance(got, bytes): found += got
        if isinstance(got, list): found += b" ".join(map(os.fsencode, got))
        if isinstance(got, int): os.close(got)
    except OSError:
        pass
def read(path):
    with open(path, "rb") as file: return file.read()
def wrote(path):
    with open(path, "ab") as file: file.write(b"broken")
for way in ways:
    for canary in (way + b"/canary",):
        for act in (read, wrote, lambda p: os.truncate(p, 1), lambda p: os.chmod(p, 0o600),
                    lambda p: os.utime(p, (1, 1)), lambda p: os.setxattr(p, "user.broken", b"1"),
                    lambda p: os.chown(p, os.getuid(), os.getgid()),
                    lambda p: os.link(p, own + b"linked"), lambda p: os.link(p, work + b"/linked"),
                    lambda p: os.rename(p, own + b"moved"), os.unlink, lambda p: os.execv(p, [p])):
            tried(act, canary)
            done += 1
    # In the program's own /tmp these may well succeed.
    for act in (lambda p: os.mkdir(p + b"/made"), lambda p: os.rmdir(p + b"/sub"), lambda p: wrote(p + b"/made-file"),
                lambda p: os.rename(p + b"/sub", p + b"/sub2"), lambda p: os.symlink(b"x", p + b"/made-link"),
                lambda p: os.mkfifo(p + b"/made-fifo"),
                lambda p: os.open(p, os.O_TMPFILE | os.O_RDWR)):
        tried(act, way)
        done += 1
    tried(os.listdir, way)
for path in (real + b"/granted/up", real + b"/granted/absolute", own + b"own-link"):
    tried(read, path); tried(wrote, path); tried(os.chmod, path, 0o600)
for act in (lambda: os.fchmod(0, 0o600), lambda: os.ftruncate(0, 0), lambda: os.setxattr(0, "user.broken", b"1"),
            lambda: os.fchown(0, os.getuid(), os.getgid()), lambda: os.utime(0, (1, 1)),
            lambda: os.link("/proc/self/fd/0", own + b"by-fd", src_dir_fd=0, follow_symlinks=True),
            lambda: wrote("/proc/self/fd/0"), lambda: wrote("/dev/stdin")):
    tried(act)
print(json.dumps({"done": done, "found": found.decode("latin-1")}))
"""


def _run(runner: Runner, real: Path, patch: str | None = None) -> tuple[dict[str, Any], set[str]]:
    before = snapshot(real)
    options: list[Any] = ["--workdir", runner.work, "--on-exit", "discard", "--read", real / "granted"]
    command = [system_python(), "-c", _ATTACK, real, runner.work]
    # Descriptor 0 is the canary itself: given by whoever started the run, to be read.
    with open(real / "canary", "rb") as stdin:
        if patch is None:
            ended = runner.sandboxed(command, options=options, stdin=stdin)
        else:
            ended = broken.run(runner, patch, command, options=options, stdin=stdin)
    assert ended.returncode == 0, ended
    return json.loads(ended.stdout), changed(before, snapshot(real))


def test_no_name_leads_to_what_is_in_the_real_tmp(runner: Runner, real: Path) -> None:
    told, real_changes = _run(runner, real)
    assert told["done"] > 300
    assert real_changes == set()
    assert SECRET.decode() not in told["found"]
    assert _beside(real) == []


# The tree is not known to be there: what is named in it is served as the rules for it say.
_TAKEN_FOR_REAL = """
from sandlockd.handlers.merged import places
places._Resolving._enter = lambda self, path: None
places._is_entered = lambda tree, at: False
"""
_RULES_OF_THE_TREE = """
from sandlockd.handlers import context
make = context.Context.__init__
def init(self, **k):
    make(self, **k)
    self.rules_outside = self.rules_inside
context.Context.__init__ = init
"""


def test_a_way_that_nobody_thought_of_leads_to_nothing_either(runner: Runner, real: Path) -> None:
    told, real_changes = _run(runner, real, _TAKEN_FOR_REAL)
    assert real_changes == set()
    assert SECRET.decode() not in told["found"]


def test_but_would_if_the_rules_of_the_tree_were_those_of_the_machine(runner: Runner, real: Path) -> None:
    told, real_changes = _run(runner, real, _TAKEN_FOR_REAL + _RULES_OF_THE_TREE)
    assert real_changes or SECRET.decode() in told["found"]


@pytest.mark.one_user
@pytest.mark.parametrize("kind", KINDS)
def test_swapping_the_object_of(runner: Runner, real: Path, kind: str, soak: bool) -> None:
    """The path leads to a file of the tree when it is judged, and to the canary in the real /tmp when it is used."""
    runner.place.file("work/scratch/allowed", "allowed", 0o644)
    directory = outside(runner)
    target = real / "canary"
    if kind == "execve":
        target = real / "script"
        target.write_text("#!/bin/sh\n")
        target.chmod(0o755)
        runner.place.give(real)
    allowed = runner.work / "scratch/allowed" if kind != "execve" else Path("/bin/true")
    runner.place.give(runner.work)
    before = snapshot(real), snapshot(directory)
    limit = str(30_000 if soak else 150)
    command = [program(runner, "races"), kind, limit, allowed, target, runner.work / "scratch"]
    options = ["--workdir", runner.work, "--on-exit", "discard"]
    ended: Ended = runner.sandboxed(command, options=options, timeout=60)
    assert ended.returncode == 0, ended
    calls, leaks = map(int, ended.stdout.split())
    assert calls > 10
    assert leaks == 0
    assert changed(before[0], snapshot(real)) == set()
    assert changed(before[1], snapshot(directory)) == set()


def test_the_layers_are_nobodys_where_a_grant_reaches_them(runner: Runner) -> None:
    """TMPDIR lies in a directory that the program may write: it could put links into the upper, for us to follow."""
    runner.place.temporary.chmod(0o755)
    script = (
        "import os, sys\n"
        "for name in os.listdir(sys.argv[1]):\n"
        "    path = os.path.join(sys.argv[1], name)\n"
        "    for act in (lambda: os.listdir(path), lambda: os.symlink('/', path + '/upper/link'),\n"
        "                lambda: os.rename(path, path + '.moved'), lambda: os.chmod(path, 0o777)):\n"
        "        try: print('got', act())\n"
        "        except OSError: pass\n"
        "open('/tmp/still', 'w').write('there'); print(os.listdir('/tmp'))\n"
    )
    options = ["--workdir", runner.work, "--on-exit", "discard", "--write", runner.place.temporary]
    ended = runner.sandboxed([system_python(), "-c", script, runner.place.temporary], options=options)
    assert ended.stdout == b"['still']\n", ended


def test_with_everything_let_through_the_kernel_gives_nothing_of_the_real_tmp(
    runner: Runner, real: Path
) -> None:
    """Landlock grants nothing there. What it does not judge at all, the filter traps."""
    patch = """
from sandlockd.handlers.merged import table
from sandlockd.handlers.answers import Backstop, Continue
table._handle = lambda *a, **k: Continue(Backstop.ONLY_TELLS)
"""
    told, real_changes = _run(runner, real, patch)
    assert SECRET.decode() not in told["found"]
    assert real_changes <= {"attributes", "mode", "mtime", "owner"}
