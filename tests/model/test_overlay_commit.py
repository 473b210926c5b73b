"""Changes and their commit: the real tree becomes the merged tree, whatever was done, killed wherever it may be."""

from __future__ import annotations

import random

import pytest
from harness.file_operations import random_operation
from harness.memory_commit import CommitRun, MemoryInspector
from harness.memory_layers import MemoryLayer, Node, Shown, described, everything, groups, view_merge
from harness.overlay_pair import Pair

from sandlockd.overlay import journal
from sandlockd.overlay.changes import Change, What, digest, list_changes
from sandlockd.overlay.commit import CommitPlan, Refused, conflicts, forced, plan_commit
from sandlockd.overlay.entries import Kind
from sandlockd.overlay.journal import BadJournal, read_journal


def worked(seed: int, calls: int = 40) -> tuple[Pair, list[Change]]:
    """A tree after random calls, and its changes."""
    chance = random.Random(seed)
    pair = Pair([random_operation(chance, "build") for _ in range(50)])
    for _ in range(calls):
        pair.call(*random_operation(chance, "change"))
    return pair, list_changes(pair.view, MemoryInspector(pair.upper, pair.lower))


def committing(pair: Pair) -> CommitRun:
    return CommitRun(MemoryLayer(pair.lower.top.copy(), device=1), pair.upper)


def shown(top: Node) -> Shown:
    return {path: described(node) for path, node in everything(top) if b".sandlockd-commit-" not in path}


def plan_of(changes: list[Change]) -> CommitPlan:
    return plan_commit(changes, digest(changes))


@pytest.mark.parametrize("seed", range(150))
def test_the_commit_of_all_changes_makes_the_real_tree_the_merged_one(seed: int) -> None:
    pair, changes = worked(seed)
    run = committing(pair)
    plan = plan_of(changes)
    assert conflicts(plan, run.now, run.names) == []
    for _ in run.first(plan):
        pass
    merged = view_merge(pair.view, pair.upper, pair.lower)
    assert shown(run.real.top) == pair.shown()
    assert groups(dict(everything(run.real.top))) == groups(merged)
    pair.lower.top = run.real.top
    pair.upper.top = Node(Kind.DIRECTORY, run.real.top.mode)
    assert list_changes(pair.view, MemoryInspector(pair.upper, pair.lower)) == []


@pytest.mark.parametrize("seed", range(25))
def test_a_commit_killed_anywhere_and_run_again_ends_the_same_and_never_torn(seed: int) -> None:
    pair, changes = worked(1000 + seed, calls=15)
    plan = plan_of(changes)
    stops = sum(1 for _ in committing(pair).first(plan))
    old, new = shown(pair.lower.top), pair.shown()
    for stop in range(1, stops + 1):
        run = committing(pair)
        first = run.first(plan)
        for _ in range(stop):
            next(first)
        for path, object_ in shown(run.real.top).items():
            is_new_directory = object_[0] is Kind.DIRECTORY and path in new
            assert is_new_directory or object_ in (old.get(path), new.get(path))
        again = run.again()
        for _ in range(stop % 7):
            next(again, None)
        for _ in run.again():
            pass
        assert shown(run.real.top) == new
        assert not [path for path, _ in everything(run.real.top) if b".sandlockd-commit-" in path]
        read = read_journal(run.journal)
        assert read is not None and read.has_ended


@pytest.mark.parametrize("seed", range(150))
def test_a_chosen_part_is_committed_and_the_rest_stays(seed: int) -> None:
    pair, changes = worked(2000 + seed)
    if not changes:
        return
    chosen = random.Random(seed).choice(changes)
    try:
        plan = plan_commit(changes, digest(changes), [chosen.path])
    except Refused as refused:
        assert b"" != refused.path and "choose" in refused.reason
        return
    run = committing(pair)
    assert conflicts(plan, run.now, run.names) == []
    for _ in run.first(plan):
        pass
    old, new, real = shown(pair.lower.top), pair.shown(), shown(run.real.top)
    assert real.get(chosen.path) == new.get(chosen.path)
    acted = {action.path for action in plan.actions}
    aliases = {path for group in groups(dict(everything(pair.lower.top))) for path in group if group & acted}
    for path in {*old, *new, *real} - acted - aliases:
        assert real.get(path) == old.get(path), path


@pytest.mark.parametrize("seed", range(30))
def test_the_digest_is_that_of_the_changes_and_nothing_else(seed: int) -> None:
    pair, changes = worked(3000 + seed)
    again = list_changes(pair.view, MemoryInspector(pair.upper, pair.lower))
    assert digest(again) == digest(changes)
    for place, change in enumerate(changes):
        different = list(changes)
        different[place] = change._replace(path=change.path + b"x")
        assert digest(different) != digest(changes)
        with pytest.raises(Refused):
            plan_commit(different, digest(changes))
    assert [c.what for c in changes] == sorted((c.what for c in changes), key=lambda w: w is not What.DELETED)


@pytest.mark.parametrize("seed", range(40))
def test_what_changed_underneath_is_named(seed: int) -> None:
    pair, changes = worked(4000 + seed)
    plan = plan_of(changes)
    for change in changes:
        if change.base is None or change.base.kind is Kind.DIRECTORY:
            continue
        run = committing(pair)
        path = change.source or change.path
        node = run.real.node(path)
        assert node is not None
        node.mtime += 1
        assert path in [conflict.path for conflict in conflicts(plan, run.now, run.names)]
        again = forced(plan, [c.path for c in conflicts(plan, run.now, run.names)], run.now)
        assert conflicts(again, run.now, run.names) == []


def test_what_appeared_in_a_directory_that_goes_is_a_conflict_that_cannot_be_forced() -> None:
    lower = Node(Kind.DIRECTORY)
    lower.children[b"d"] = Node(Kind.DIRECTORY)
    upper = Node(Kind.DIRECTORY)
    upper.children[b"d"] = Node(Kind.WHITEOUT)
    pair = Pair([])
    pair.lower.top, pair.upper.top = lower, upper
    upper.mode = lower.mode
    plan = plan_of(list_changes(pair.view, MemoryInspector(pair.upper, pair.lower)))
    run = committing(pair)
    run.real.top.children[b"d"].children[b"new"] = Node(Kind.FILE)
    found = conflicts(plan, run.now, run.names)
    assert [conflict.path for conflict in found] == [b"d/new"]
    assert conflicts(forced(plan, [b"d/new"], run.now), run.now, run.names) == found


def test_a_journal_that_was_not_sealed_says_that_nothing_was_done() -> None:
    _, changes = worked(1)
    text = journal.encode_plan(plan_of(changes))
    assert read_journal(text) is not None
    last = text.rindex(b"\n", 0, -1) + 1
    for end in {0, 1, last - 1, last, len(text) - 1}:
        assert read_journal(text[:end]) is None


def test_a_journal_changed_by_somebody_is_refused() -> None:
    _, changes = worked(1)
    plan = plan_of(changes)
    text = journal.encode_plan(plan)
    with pytest.raises(BadJournal):
        read_journal(text.replace(b'"do":', b'"dO":', 1))
    with pytest.raises(BadJournal):
        read_journal(text.replace(b'"version":1', b'"version":2', 1) + text)


def test_the_plan_comes_back_from_the_journal_as_it_was() -> None:
    _, changes = worked(5)
    plan = plan_of([change._replace(path=change.path + b"\xff\n") for change in changes])
    read = read_journal(journal.encode_plan(plan))
    assert read is not None and read.plan == plan
