"""Every promise in docs/specification.md names a test, and every test it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/specification.md").read_text(encoding="utf-8")


def promises(text: str) -> dict[str, list[str]]:
    """Number of each promise -> the tests that it names."""
    found = {}
    for block in re.split(r"^- \*\*", text, flags=re.MULTILINE)[1:]:
        number, _, rest = block.partition("**")
        assert number not in found, f"two promises are called {number}"
        found[number] = re.findall(r"`(tests/[^`]+)`", rest.partition("Test:")[2])
    return found


def test_every_promise_names_tests_that_exist() -> None:
    numbered = promises(TEXT)
    assert len(numbered) >= 30
    for number, tests in numbered.items():
        assert tests, f"{number} names no test"
        for test in tests:
            assert (ROOT / test).is_file(), f"{number}: {test}"


def test_a_promise_without_a_test_is_noticed() -> None:
    assert promises("- **X1** Something. Test: to come.\n") == {"X1": []}


def test_two_promises_of_one_number_are_noticed() -> None:
    with pytest.raises(AssertionError, match="two promises are called X1"):
        promises("- **X1** One. Test: `tests/a`.\n- **X1** Another. Test: `tests/b`.\n")
