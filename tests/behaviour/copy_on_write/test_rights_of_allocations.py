"""fallocate and truncate of a program that has become somebody else: made with its rights, by its limits."""

from __future__ import annotations

import pytest
from harness.running import Argument, Runner, require, system_python

_PROGRAM = """
import ctypes, errno, os, resource, stat, sys

libc = ctypes.CDLL(None, use_errno=True)

def fallocate(fd, length):
    if libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")

def tried(name, act, *args):
    try:
        act(*args)
        outcome = "done"
    except OSError as error:
        outcome = errno.errorcode[error.errno]
    print(name, outcome, oct(os.fstat(fd).st_mode), os.fstat(fd).st_size)

if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
fd = os.open("file", os.O_RDWR | os.O_CREAT, 0o600)
os.fchown(fd, 12345, 12345)
os.fchmod(fd, 0o6755)
tried("before", fallocate, fd, 4096)
os.setgroups([])
os.setresgid(54321, 54321, 54321)
os.setresuid(54321, 54321, 54321)
tried("somebody else's", fallocate, fd, 8192)
tried("by its path", os.truncate, "file", 100)
tried("too much", fallocate, fd, 1 << 21)
made = os.open("dir/own", os.O_RDWR | os.O_CREAT, 0o600)
fd = made
tried("its own", fallocate, fd, 4096)
tried("its own by its path", os.truncate, "dir/own", 100)
tried("too long", os.truncate, "dir/own", 1 << 21)
"""


@pytest.mark.parametrize("limit", ["a limit on the length", "no limit"])
@pytest.mark.parametrize("without", ["", "sys_resource"])
def test_what_is_allocated_by_somebody_else(runner: Runner, without: str, limit: str) -> None:
    """A change by others takes set-user-ID bits away; the length that a program may give a file is its own.

    without: a capability that root does not have, as in many containers.
    """
    if not runner.place.user.is_root:
        pytest.skip("only root becomes somebody else")
    require("setpriv")
    lines = []
    wrap = ["setpriv", f"--inh-caps=-{without}", f"--bounding-set=-{without}"] if without else []
    for sandboxed in (False, True):
        work = runner.place.empty_work()
        work.chmod(0o755)
        (work / "dir").mkdir()
        (work / "dir").chmod(0o777)
        line: list[Argument] = [
            system_python(),
            "-I",
            "-c",
            _PROGRAM,
            *([limit] if limit != "no limit" else []),
        ]
        options = ["--workdir", work, "--disk", "64M", "--on-exit", "discard"]
        ended = (
            runner.sandboxed(line, options=options, wrap=wrap) if sandboxed else runner.bare([*wrap, *line])
        )
        assert ended.returncode == 0, ended.stderr.decode()
        lines.append(ended.stdout.decode().splitlines())
    bare, ours = lines
    assert bare[1].startswith("somebody else's done 0o100755")
    assert ours == bare
