"""Copy-on-write on a real disk does what a plain directory does: errnos, names, content, owners, modes, links."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import subprocess

import pytest
from harness import ledger
from harness.disk_pair import Disk, both, built, real, walk
from harness.file_operations import Operation, aimed, operations, picks
from harness.forked import in_child
from harness.places import Place
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

_SEEDS = range(12)
_CLONE_NEWNS = 0x20000


@pytest.mark.parametrize("seed", _SEEDS)
def test_random_walks_leave_what_the_kernel_leaves_in_a_plain_directory(place: Place, seed: int) -> None:
    def compare() -> None:
        _, disk = walk(place.root / "work", random.Random(seed))
        disk.close()

    assert in_child(compare, place.user) == 0


class OnDisk(RuleBasedStateMachine):
    """Hypothesis chooses, and makes a failure small."""

    @initialize(seed=st.integers(0, 1000))
    def lower_tree(self, seed: int) -> None:
        self.mask = os.umask(0)
        self.stack = contextlib.ExitStack()
        directory = self.stack.enter_context(ledger.directory("executor"))
        self.places = built(directory, random.Random(seed), 25)
        self.disk = Disk(self.places.work, self.places.store, create=True)

    @rule(operation=operations, at=picks)
    def call(self, operation: Operation, at: tuple[int, int]) -> None:
        both(self.places, self.disk, aimed(operation, at, self.places.node()))

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            self.disk.close()
            self.stack.close()
            os.umask(self.mask)


TestOnDisk = OnDisk.TestCase
TestOnDisk.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    suppress_health_check=list(HealthCheck),
    # Making it small takes as long as it is slow: each try is a tree on disk.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("seed", _SEEDS)
def test_overlayfs_mounts_the_upper_and_shows_the_same(seed: int) -> None:
    with ledger.directory("executor") as directory:
        places, merged = None, directory / "merged"
        merged.mkdir()

        def compare() -> None:
            nonlocal places
            places, disk = walk(directory, random.Random(seed))
            disk.close()
            if ctypes.CDLL(None).unshare(_CLONE_NEWNS):
                os._exit(77)
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            # A work directory of its own: the kernel's overlayfs wants to make names in it.
            (directory / "kernel-work").mkdir()
            layers = f"lowerdir={directory}/lower/t,upperdir={directory}/store/upper"
            options = f"userxattr,{layers},workdir={directory}/kernel-work"
            mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
            if subprocess.run(mount, capture_output=True, check=False).returncode:
                os._exit(77)
            shown, plain = real(os.fsencode(merged)), real(places.plain)
            # A link that was unlinked still counts where the kernel asks the lower file.
            links = 5
            for path, told in plain.items():
                assert shown[path][:links] == told[:links], path
                assert shown[path][links + 1 :] == told[links + 1 :], path
            assert shown.keys() == plain.keys()

        status = in_child(compare)
        if status == 77:
            pytest.skip("overlayfs cannot be mounted here")
        assert status == 0
