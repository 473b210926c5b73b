"""The copy-on-write model against a plain file system: same errno, same tree, whatever is done in whatever order.

After every step, not only after every call, the tree is the old or the new one, and what lies in the upper is
what the kernel's overlayfs would show as that tree.
"""

from __future__ import annotations

import random

import pytest
from harness.file_operations import Operation, operations, picks, random_operation
from harness.overlay_pair import Aimed, Pair
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule


class CopyOnWrite(RuleBasedStateMachine):
    """Hypothesis chooses, and makes a failure small."""

    @initialize(before=st.lists(st.tuples(operations, picks), max_size=30))
    def lower_tree(self, before: list[Aimed]) -> None:
        self.pair = Pair(before)

    @rule(operation=operations, at=picks)
    def call(self, operation: Operation, at: tuple[int, int]) -> None:
        self.pair.call(operation, at)


@pytest.mark.parametrize("seed", range(40))
def test_long_random_walks_keep_the_model_and_a_plain_file_system_equal(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(4):
        pair = Pair([random_operation(chance, "build") for _ in range(40)])
        for _ in range(60):
            pair.call(*random_operation(chance, "change"))


TestCopyOnWrite = CopyOnWrite.TestCase
TestCopyOnWrite.settings = settings(
    max_examples=150, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
