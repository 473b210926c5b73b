"""A deny with a pattern, and the secrets that base knows by pattern, hold for files that appear during the run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness.running import Runner, system_python
from harness.waiting import line_of
from security import broken
from security.raw_calls import AT_FDCWD, Script

_RUN = 'echo ready; read -r go; for f in "$@"; do cat "$f" 2>/dev/null || echo "no: ${f##*/}"; done'


@pytest.fixture
def tree(runner: Runner) -> Path:
    """A directory with a key and something else in it."""
    tree = runner.work / "tree"
    tree.mkdir()
    (tree / "old.key").write_text("secret\n")
    (tree / "notes").write_text("notes\n")
    runner.place.give(tree)
    return tree


def _reads(runner: Runner, policy: str, make: object, *names: Path) -> list[bytes]:
    """What the program reads of the files that `make` makes while it runs, outside of the sandbox."""
    line = runner.command_line(["sh", "-c", _RUN, "sh", *names], policy=policy)
    with runner.started(line) as process:
        assert process.stdin is not None and process.stdout is not None
        assert line_of(process.stdout.fileno()) == b"ready\n"
        make()  # type: ignore[operator]
        process.stdin.write(b"\n")
        process.stdin.flush()
        found = [line_of(process.stdout.fileno()) for _ in names]
        process.wait()
        return found


@pytest.mark.parametrize("right", ["read", "write"])
def test_a_file_that_appears_later(runner: Runner, tree: Path, right: str) -> None:
    policy = f'[filesystem]\nbase = true\n{right} = ["{runner.work}"]\ndeny = ["{tree}/*.key"]\n'

    def make() -> None:
        (tree / "new.key").write_text("secret\n")
        (tree / "new.txt").write_text("new\n")
        (tree / "dir.key").mkdir()
        (tree / "dir.key/x").write_text("secret\n")
        (tree / "to-new.key").symlink_to("notes")
        (tree / "link").symlink_to("new.key")
        for path in tree.rglob("*"):
            runner.place.give(path)

    names = ["old.key", "notes", "new.key", "new.txt", "dir.key/x", "link"]
    found = _reads(runner, policy, make, *(tree / name for name in names))
    assert found == [b"no: old.key\n", b"notes\n", b"no: new.key\n", b"new\n", b"no: x\n", b"no: link\n"]
    refused = {r["path"]: r["rule"] for r in runner.audit() if r["kind"] == "refusal"}
    assert refused == {str(tree / name): "filesystem.deny[0]" for name in ("old.key", "new.key", "dir.key/x")}


def test_a_directory_that_appears_later(runner: Runner, tree: Path) -> None:
    later = tree / "later"
    policy = f'[filesystem]\nbase = true\nwrite = ["{runner.work}"]\ndeny = ["{later}/*.key"]\n'

    def make() -> None:
        later.mkdir()
        for name in ("new.key", "notes"):
            (later / name).write_text(f"{name}\n")
        runner.place.give(later)

    found = _reads(runner, policy, make, later / "new.key", later / "notes")
    assert found == [b"no: new.key\n", b"notes\n"]


def test_the_program_makes_no_such_name(runner: Runner, tree: Path) -> None:
    """By no call: a name that fits is refused, whatever it would stand for; what is granted keeps its name."""
    script = Script()
    key, notes = tree / "x.key", tree / "notes"
    script.openat(AT_FDCWD, key, os.O_CREAT | os.O_WRONLY, 0o600)
    script.mkdir(key, 0o700)
    script.mknod(key, 0o010600, 0)
    script.symlink(b"notes", key)
    script.link(notes, key)
    script.rename(notes, key)
    script.rename(tree / "old.key", tree / "found")
    script.link(tree / "old.key", runner.work / "found")
    script.unlink(tree / "old.key")
    script.rename(tree, runner.work / "moved")
    script.openat(AT_FDCWD, tree / "old.key", os.O_RDONLY)
    script.openat(AT_FDCWD, tree / "old.key", os.O_WRONLY | os.O_TRUNC)
    script.chmod(tree / "old.key", 0o777)
    script.truncate(tree / "old.key", 0)
    script.execve(tree / "old.key", 0, 0)
    refused = len(script.lines)
    script.rename(notes, tree / "renamed")
    script.openat(AT_FDCWD, tree / "made.keys", os.O_CREAT | os.O_WRONLY, 0o600)
    policy = f'[filesystem]\nbase = true\nread = ["{runner.place.root}/script"]\nwrite = ["{runner.work}"]\n'
    outcomes, ended = script.sandboxed(runner, policy=policy + f'deny = ["{tree}/*.key"]\n')
    assert {outcome.error for outcome in outcomes[:refused]} == {"EACCES"}
    assert [outcome.error for outcome in outcomes[refused:]] == ["", ""]
    assert sorted(os.listdir(tree)) == ["made.keys", "old.key", "renamed"]
    assert (tree / "old.key").read_text() == "secret\n"
    assert {r["rule"] for r in ended.refusals} == {"filesystem.deny[0]"}


def test_a_hard_link_of_what_fits_at_the_start(runner: Runner, tree: Path) -> None:
    os.link(tree / "old.key", runner.work / "other-name")
    options = ["--read", runner.work, "--deny", f"{tree}/*.key"]
    ended = runner.sandboxed(["cat", runner.work / "other-name"], options=options)
    assert ended.returncode == 1 and ended.refusals[0]["rule"] == "filesystem.deny[0]"


def test_it_holds_without_the_supervisor(runner: Runner, tree: Path) -> None:
    """The kernel has no rule for what appears in the directory: a stopped supervisor lets nothing through."""
    program = (
        "import os, sys, select\n"
        f"os.chdir({str(tree)!r}); names = ['new.key', 'old.key']\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for name in names:\n"
        "    if os.fork() == 0:\n"
        "        os.open(name, os.O_RDONLY); os.write(1, b'opened ' + name.encode() + b'\\n'); os._exit(0)\n"
        "print('asked', flush=True); sys.stdin.readline()\n"
    )
    options = ["--write", runner.work, "--deny", f"{tree}/*.key"]
    line = runner.command_line([system_python(), "-S", "-c", program], options=options)
    runner.may_leave_temporary = True
    with runner.started(line) as process:
        assert process.stdin is not None and process.stdout is not None
        assert line_of(process.stdout.fileno()) == b"ready\n"
        (tree / "new.key").write_text("secret\n")
        process.send_signal(signal.SIGSTOP)
        process.stdin.write(b"\n")
        process.stdin.flush()
        told = line_of(process.stdout.fileno())  # the children are on their way
        process.kill()
        told += process.stdout.read()  # until nothing of the sandbox is left
        process.wait()
    assert told == b"asked\n"


def test_the_secrets_that_base_knows_by_pattern(runner: Runner, tree: Path) -> None:
    """As /etc/shadow.x would be, in a directory that base grants; a grant of the very file reaches it."""
    patch = (
        "from sandlockd.policy import base_tree\n"
        f"base_tree.TREES += ({bytes(tree)!r},)\n"
        f"base_tree.SECRET_PATTERNS += (({bytes(tree)!r}, b'shadow.*'),)\n"
    )
    made = tree / "shadow.x"
    command = [
        "sh",
        "-c",
        f"echo ready; read -r go; cat {made}; cat {tree}/notes",
    ]
    for grant, expected in ((None, b"notes\n"), (made, b"secret\nnotes\n")):
        made.unlink(missing_ok=True)
        if grant is not None:
            made.write_text("secret\n")
            runner.place.give(made)
        policy = "[filesystem]\nbase = true\n" + (f'read = ["{grant}"]\n' if grant else "")
        line = runner.command_line(command, policy=policy)
        with runner.started(broken.command_line(patch, line)) as process:
            assert process.stdin is not None and process.stdout is not None
            assert line_of(process.stdout.fileno()) == b"ready\n"
            made.write_text("secret\n")
            runner.place.give(made)
            output, _ = process.communicate(b"\n", timeout=20)
        assert output == expected
        rules = {r["rule"] for r in runner.audit() if r["kind"] == "refusal"}
        assert rules == (set() if grant else {"base.secrets"})


def test_etc_itself(runner: Runner) -> None:
    """The real one, by names that are not there: making them is nothing that this test does."""
    script = Script()
    for name in (b"/etc/shadow.sandlockd-test", b"/etc/ssh/ssh_host_sandlockd_key"):
        script.openat(AT_FDCWD, name, os.O_CREAT | os.O_RDWR, 0o600)
    outcomes, ended = script.sandboxed(runner)
    expected = {"EACCES"} if Path("/etc/ssh").is_dir() else {"EACCES", "ENOENT"}
    assert {outcome.error for outcome in outcomes} <= expected
    assert "base.secrets" in {r["rule"] for r in ended.refusals}
