"""C and Python read the same out of /proc/<tid>/status; Python, too, where C finds that there are too many groups."""

from __future__ import annotations

import errno
import os

import pytest
from harness.forked import in_child

from sandlockd.kernel import procfs
from sandlockd.kernel.native import ffi, lib


@pytest.mark.alone
def test_c_and_python_agree_about_every_process() -> None:
    compared = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            one, other = procfs.status(int(name)), procfs.long_status(int(name))
        except OSError:
            continue  # it has ended
        assert one == other
        compared += 1
    assert compared > 5


@pytest.mark.skipif(os.geteuid() != 0, reason="setgroups(2) is for root")
@pytest.mark.parametrize("count", [0, 1, 256, 257, 65536])
def test_however_many_groups_there_are(count: int) -> None:
    def compare() -> None:
        groups = tuple(range(4_000_000_000 - count, 4_000_000_000))
        os.setgroups(groups)
        os.umask(0o051)
        found = procfs.status(os.getpid())
        assert found == procfs.long_status(os.getpid())
        assert (found.groups, found.umask) == (groups, 0o051)
        too_many = lib.slk_status(os.getpid(), ffi.new("struct slk_status *")) == -errno.E2BIG
        assert too_many == (count > 256)

    assert in_child(compare) == 0


def test_nobody_has_none() -> None:
    with pytest.raises(FileNotFoundError):
        procfs.status(0x3FFFFFFF)
