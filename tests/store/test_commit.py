"""Committing on a real disk: the tree becomes what the program saw, and nothing else happens to it."""

from __future__ import annotations

import random

import pytest
from harness import committing
from harness.disk_pair import real, times, walk
from harness.forked import in_child
from harness.places import Place

_SEEDS = range(25)


@pytest.mark.parametrize("seed", _SEEDS)
def test_a_commit_makes_of_the_real_tree_what_the_program_saw(place: Place, seed: int) -> None:
    def compare() -> None:
        places, disk = walk(place.root / "work", random.Random(seed), 80)
        disk.close()
        committing.commit(places.store)
        assert real(places.work) == real(places.plain)
        assert not committing.temporaries(places.work)
        shown, wanted = times(places.work), times(places.plain)
        files = [path for path in real(places.work) if str(real(places.work)[path][0]) != "Kind.DIRECTORY"]
        assert {path: shown[path] for path in files} == {path: wanted[path] for path in files}
        assert committing.listed(places.store) == []
        assert not committing.is_pending(places.store)

    assert in_child(compare, place.user) == 0
