"""`limits.open_files`: RLIMIT_NOFILE, for what the kernel opens and for what the supervisor hands over."""

from __future__ import annotations

import pytest
from harness.running import Ended, Runner, system_python
from security import broken

_POLICY = "[filesystem]\nbase = true\n[limits]\nopen_files = {}\n"
_PYTHON = [system_python(), "-S", "-c"]

_OPENS_ALL = """
import errno, os, resource
opened = []
try:
    while True:
        opened.append(os.open({path!r}, os.O_RDONLY))
except OSError as error:
    print(errno.errorcode[error.errno], max(opened), len(opened))
os.close(opened.pop())
os.open({path!r}, os.O_RDONLY)
"""


def _limited(runner: Runner, script: str, limit: int = 24, **more: str) -> Ended:
    return runner.sandboxed([*_PYTHON, script.format(**more)], policy=_POLICY.format(limit))


@pytest.mark.parametrize("path", ["/etc/hostname", "/proc/self/status"])
def test_one_more_is_emfile_whoever_opens_it(runner: Runner, path: str) -> None:
    """Of /proc the supervisor opens everything."""
    script = _OPENS_ALL.format(path=path)
    bare = runner.bare(["sh", "-c", 'ulimit -n 24; exec "$@"', "sh", *_PYTHON, script])
    assert bare.stdout == b"EMFILE 23 21\n"
    ended = _limited(runner, _OPENS_ALL, path=path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (bare.returncode, bare.stdout, bare.stderr)


@pytest.mark.parametrize("flags", ["os.O_RDONLY", "os.O_RDWR", "os.O_WRONLY | os.O_CREAT"])
def test_one_more_is_emfile_in_a_tree_too(runner: Runner, flags: str) -> None:
    """What is written is a copy, which the supervisor opens."""
    (runner.work / "file").write_text("text")
    runner.place.give(runner.work / "file")
    script = _OPENS_ALL.format(path="file").replace("os.O_RDONLY", flags)
    options = ["--workdir", runner.work, "--on-exit", "discard"]
    ended = runner.sandboxed([*_PYTHON, script], options=options, policy=_POLICY.format(24))
    assert (ended.returncode, ended.stdout) == (0, b"EMFILE 23 21\n"), ended.stderr


_RAISES = """
import resource
which = resource.RLIMIT_NOFILE
print(resource.getrlimit(which))
for soft, hard in ((25, 25), (24, 25), (24, resource.RLIM_INFINITY)):
    for change in (lambda: resource.setrlimit(which, (soft, hard)), lambda: resource.prlimit(0, which, (soft, hard))):
        try:
            change()
            print("raised", resource.getrlimit(which))
        except (ValueError, PermissionError):
            pass
resource.setrlimit(which, (10, 20))
print(resource.getrlimit(which))
"""


def test_the_program_can_only_lower_it(runner: Runner) -> None:
    ended = _limited(runner, _RAISES)
    assert ended.stdout == b"(24, 24)\n(10, 20)\n", ended.stderr


_UNCONFINED = """
from sandlockd.sandbox.limits import Limits
Limits.confine = lambda self, pid: None
"""


def test_on_a_build_that_does_not_set_it_there_is_none(runner: Runner) -> None:
    script = _OPENS_ALL.format(path="/proc/self/status")
    wrap = ["sh", "-c", 'ulimit -n 200; exec "$@"', "sh"]
    line = runner.command_line([*_PYTHON, script], policy=_POLICY.format(24))
    ended = runner.run([*wrap, *broken.command_line(_UNCONFINED, line)])
    assert ended.stdout == b"EMFILE 199 197\n", ended.stderr


def test_a_program_starts_with_the_smallest_one(runner: Runner) -> None:
    assert runner.bare(["sh", "-c", "ulimit -n 4; exec /bin/echo started"]).stdout == b"started\n"
    ended = runner.sandboxed(["/bin/echo", "started"], policy=_POLICY.format(4))
    assert (ended.returncode, ended.stdout) == (0, b"started\n"), ended.stderr


@pytest.mark.parametrize("limit", ["0", "3", "-1"])
def test_what_no_program_starts_with_is_an_error(runner: Runner, limit: str) -> None:
    ended = runner.sandboxed(["echo", "started"], policy=_POLICY.format(limit))
    assert (ended.returncode, ended.stdout) == (125, b"")
    (line,) = ended.stderr.decode().splitlines()
    assert "limits.open_files: must be from 4 to" in line and line.endswith(f"not {limit}")


def test_more_than_sandlockd_was_given_is_an_error_and_all_are_told(runner: Runner) -> None:
    policy = _POLICY.format(1000) + 'disk = "1G"\n'
    wrap = ["sh", "-c", 'ulimit -n 500; exec "$@"', "sh"]
    ended = runner.sandboxed(["echo", "started"], policy=policy, wrap=wrap)
    assert (ended.returncode, ended.stdout) == (125, b"")
    first, second = ended.stderr.decode().splitlines()
    assert first.startswith("sandlockd: limits.disk limits what copy-on-write trees hold")
    assert second.startswith(
        "sandlockd: limits.open_files is 1000, and sandlockd itself was given 500 (`ulimit -Hn`)"
    )
