"""Builds with one check removed: what shows that a test of that check can fail.

The check is taken out of the Python of the supervisor before `sandlockd` starts, by a few lines of code. The kernel,
the filter, the native core and all other checks are the real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from harness.running import Ended, Runner
from security.raw_calls import Outcome, Script

# -I: neither the environment nor the working directory adds to what is imported.
_START = "\nimport sys; sys.argv[0] = 'sandlockd'\nfrom sandlockd.cli.main import main\nsys.exit(main())\n"

# The call passes the filter: what the kernel says is what the program gets.
GIVE_CALL_BACK = """
from sandlockd.launch import filter_plan as plan
decide = plan._decide
plan._decide = lambda row, given: plan._PASS if row.name in {names!r} else decide(row, given)
"""

# The handlers' rules allow everything, so none refuses a path; what the kernel grants stays as it is.
ALLOW_ALL_PATHS = """
from sandlockd.handlers import context
from sandlockd.policy.verdict import Verdict
class Allowing:
    def __init__(self, rules): self.rules = rules
    def __getattr__(self, name): return getattr(self.rules, name)
    def judge(self, *a, **k): return Verdict(True, self.rules.judge(*a, **k).rule)
make_context = context.Context.__init__
def init_context(self, **k):
    make_context(self, **k)
    self.rules = Allowing(self.rules)
context.Context.__init__ = init_context
"""

# Landlock grants everything to everybody.
OPEN_WALL = """
from sandlockd.launch import wall
from sandlockd.kernel import landlock
def empty(version):
    ruleset = landlock.Ruleset(handled_fs=landlock.supported_fs(version))
    ruleset.allow_path(b'/', landlock.FS_ALL)
    return ruleset
wall._empty_ruleset = empty
"""

# Neither the program nor init has a Landlock domain with a scope.
NO_SIGNAL_SCOPE = """
from sandlockd.launch import wall
from sandlockd.kernel import landlock, launching
wall._empty_ruleset = lambda version: landlock.Ruleset(handled_fs=landlock.supported_fs(version))
plan = launching.Plan.__init__
def init(self, **k):
    k['scope_signals'] = False
    plan(self, **k)
launching.Plan.__init__ = init
"""

# The wall around what `deny` names has no hole.
NO_HOLES = """
from sandlockd.launch import wall
make = wall._Builder.__init__
def init(self, *a, **k):
    make(self, *a, **k)
    self.hole_paths, self.hole_parents, self.denied = frozenset(), frozenset(), {}
wall._Builder.__init__ = init
"""


def give_back(*names: str) -> str:
    return GIVE_CALL_BACK.format(names=set(names))


def command_line(patch: str, line: Sequence[Any]) -> list[Any]:
    """The command line of a runner, with the broken build in the place of sandlockd."""
    return [sys.executable, "-I", "-c", patch + _START, *line[1:]]


def run(
    runner: Runner,
    patch: str,
    command: Sequence[Any],
    *,
    options: Sequence[Any] = (),
    policy: str | None = None,
    **popen: Any,
) -> Ended:
    line = runner.command_line(command, options=options, policy=policy)
    runner.status_path.unlink(missing_ok=True)
    return runner.with_records(runner.run(command_line(patch, line), **popen))


def results(
    runner: Runner, patch: str, script: Script, *options: Any, policy: str | None = None, **popen: Any
) -> list[Outcome]:
    """What the calls of a script gave on the broken build."""
    ended = run(
        runner,
        patch,
        script.command(runner),
        options=["--read", runner.place.root / "script", *options],
        policy=policy,
        **popen,
    )
    assert ended.returncode == 0, (ended.returncode, ended.stderr)
    return script.results(ended.stdout)
