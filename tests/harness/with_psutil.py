"""psutil, as the tests bring it, in a program of the machine's own Python."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from harness.running import Ended, Runner, system_python


def with_psutil(runner: Runner, text: str, *, policy: str) -> Ended:
    """The text is run sandboxed. Skips where psutil cannot be had."""
    found = importlib.util.find_spec("psutil")
    if found is None or found.origin is None:
        pytest.skip("there is no psutil in the environment of the tests")
    packages = Path(found.origin).parents[1]
    ended = runner.sandboxed(
        [system_python(), "-c", text],
        options=["--read", packages],
        policy=policy,
        env={"PYTHONPATH": str(packages)},
    )
    if b"ImportError" in ended.stderr or b"ModuleNotFoundError" in ended.stderr:
        pytest.skip("psutil of the environment is not for the machine's python")
    return ended
