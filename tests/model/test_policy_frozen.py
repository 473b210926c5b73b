"""Value: what the package's types promise."""

from __future__ import annotations

import copy
import pickle

import pytest

from sandlockd.policy.frozen import Value
from sandlockd.policy.verdict import FileIdentity, Verdict


class Point(Value):
    x: int
    y: int = 7


def test_fields_are_given_by_position_or_name_and_defaults_fill_in() -> None:
    assert Point(1) == Point(x=1, y=7) == Point(1, y=7)
    assert repr(Point(1)) == "Point(x=1, y=7)"


@pytest.mark.parametrize(("args", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"x": 2}), ((1,), {"z": 2})])
def test_missing_and_unknown_fields_are_errors(args: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Point(*args, **named)


def test_nothing_can_be_set_deleted_or_added() -> None:
    point = Point(1)
    for name in ("x", "z"):
        with pytest.raises(AttributeError):
            setattr(point, name, 2)
        with pytest.raises(AttributeError):
            delattr(point, name)
    assert not hasattr(point, "__dict__")


def test_equality_is_by_type_and_fields_and_hashes_agree() -> None:
    assert FileIdentity(1, 2) != Point(1, 2)
    assert {FileIdentity(1, 2): "a"}[FileIdentity(1, 2)] == "a"
    assert Point(1).replaced(y=2) == Point(1, 2)


def test_a_value_can_be_copied_pickled_and_matched() -> None:
    verdict = Verdict(True, "base")
    assert copy.deepcopy(verdict) == pickle.loads(pickle.dumps(verdict)) == verdict
    match verdict:
        case Verdict(True, rule):
            assert rule == "base"
        case _:
            raise AssertionError
