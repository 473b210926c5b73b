"""What is a name of a policy, and that no name is a path: whoever asks, and whatever has let it through."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from sandlockd.control.messages import PolicyText
from sandlockd.control.objects import NAME_PATTERN
from sandlockd.control.policies import PolicyDirectory
from sandlockd.control.problems import Invalid, NotFound
from sandlockd.policy.errors import Unavailable
from sandlockd.policy.spelling import is_policy_name
from sandlockd.sandbox.policies import find_policy

_ODD = [
    "../outside",
    "..",
    ".",
    "",
    "/etc/passwd",
    "in/inner",
    "in/../site",
    "site/",
    "./site",
    "x\0",
    "x\n",
    "~",
    "x" * 64,
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("outside", "policies/site", "policies/in/inner"):
        (tmp_path / f"{name}.toml").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.toml").write_text("# it is there")
    return tmp_path / "policies"


def test_a_name_is_of_the_directory(directory: Path) -> None:
    found = PolicyDirectory(str(directory)).named("site")
    assert isinstance(found, PolicyText) and found.content == b"# it is there"
    assert find_policy("site", b"/", os.fsencode(directory)).identity == found.identity


@pytest.mark.parametrize("name", _ODD)
def test_no_path_is_a_name_although_something_is_there(directory: Path, name: str) -> None:
    with pytest.raises(Invalid):
        PolicyDirectory(str(directory)).named(name)
    # In extends it is a file from where the policy is, and nothing of the directory.
    if name != "/etc/passwd":  # which is there
        with pytest.raises(Unavailable):
            find_policy(name, b"/nowhere/deep", os.fsencode(directory))


@given(some.text(max_size=66))
@example("site.toml")
@example("x" * 63)
@example("x" * 64)
@example("nämed")
@example("a\n")
def test_the_schema_and_the_look_agree_about_names(name: str) -> None:
    fits = re.search(NAME_PATTERN, name) is not None
    assert is_policy_name(name) is (fits and not name.endswith(".toml"))


@given(some.text(alphabet="./\\~x\0", max_size=12))
def test_nothing_outside_of_the_directory_is_opened(name: str) -> None:
    """It is not there, so whatever is opened is somewhere else."""
    with pytest.raises((Invalid, NotFound)):
        PolicyDirectory("/nowhere/policies").named(name)
