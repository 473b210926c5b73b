"""`limits.output` against who writes without end: nothing more gets through, and nobody else is held up."""

from __future__ import annotations

import pytest
from harness.running import Ended, Runner, require
from security import broken

_LIMIT = 1 << 20
_POLICY = '[filesystem]\nbase = true\n[limits]\noutput = "1M"\n'

# Two that write without end, to each stream; a third one that does something else and ends everything.
_FLOOD = """
yes & yes >&2 &
i=0; while [ $i -lt 200 ]; do cat /etc/hostname >/dev/null; i=$((i+1)); done
exit 9
"""

_UNCUT = """
from sandlockd.kernel import output
make = output.Output.__init__
def init(self, limit_bytes, told, told_fd):
    make(self, 1 << 60, told, told_fd)
output.Output.__init__ = init
"""


def _flooded(runner: Runner) -> Ended:
    return runner.sandboxed(["sh", "-c", _FLOOD], policy=_POLICY, options=["--quiet"])


def test_a_flood_is_cut_off(runner: Runner) -> None:
    require("yes")
    ended = _flooded(runner)
    assert (ended.returncode, ended.reason) == (9, "exited")
    assert len(ended.stdout) + len(ended.stderr) == _LIMIT
    assert ended.status is not None and ended.status["usage"]["output_cut"] > 0


@pytest.mark.one_user
def test_on_a_build_that_cuts_nothing_off_it_gets_through(runner: Runner) -> None:
    ended = broken.run(runner, _UNCUT, ["sh", "-c", _FLOOD], policy=_POLICY, options=["--quiet"])
    assert len(ended.stdout) + len(ended.stderr) > _LIMIT
