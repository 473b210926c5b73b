"""The two forms of limits: kept by cgroups, which only root has here, and by sandlockd alone, which everybody has.

A module whose tests are to run in both begins with

pytestmark = pytest.mark.parametrize("as_user", FORMS, indirect=True)

and has its runner set by `in_its_form`.
"""

from __future__ import annotations

import functools
import os

import pytest

from harness.groups import CONTROLLERS
from harness.running import Runner
from harness.sharing import GROUPED
from sandlockd.kernel import cgroups

# root and an ordinary user without cgroups, and root with them.
FORMS = ["root", "ordinary", GROUPED]


def is_grouped(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.callspec.params["as_user"] == GROUPED)


def in_its_form(runner: Runner, request: pytest.FixtureRequest) -> Runner:
    runner.with_cgroups = is_grouped(request)
    return runner


def require_groups() -> None:
    reason = _why_none()
    if reason is not None:
        pytest.skip(reason)


@functools.cache
def _why_none() -> str | None:
    groups = cgroups.Groups(b"doctor-%d" % os.getpid(), CONTROLLERS)
    groups.close()
    return "; ".join(groups.lacking.values()) or None
