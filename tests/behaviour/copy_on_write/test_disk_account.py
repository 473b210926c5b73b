"""What is counted for `limits.disk` is what the file system says that the trees hold, whatever a program does in them.

pytest tests/behaviour/copy_on_write/test_disk_account.py -k "renaming and root"
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from behaviour.copy_on_write.corpus import GROUPS
from harness.copy_on_write import Runs, programs_of
from harness.running import Ended, Runner
from harness.users import User
from harness.ways import COMMITTED, Line, Sandboxed

# upper, work and stage of the tree that is /tmp, which nobody has put anything into.
_OWN_TMP_DIRECTORIES = 3


@dataclass(frozen=True)
class Counted(Sandboxed):
    """As COMMITTED, with a limit that nobody gets near to; what was counted is what there is in the end.

    more: what may be counted besides.
    """

    more: int = 0

    @property
    def keeps_apart(self) -> bool:
        """That is COMMITTED's to show."""
        return False

    @property
    def leaves_changes(self) -> bool:
        return False

    def run(self, runner: Runner, command: Line, read: Sequence[Path], env: Mapping[str, str]) -> Ended:
        status_file = runner.place.root / "outside" / "status.json"
        options = ("--disk", "1G", "--on-exit", "keep", "--status-file", str(status_file))
        way = Sandboxed(self.name, (*options, *self.options))
        ended = way.run(runner, command, read, env)
        counted = json.loads(status_file.read_text())["usage"]["disk"]
        kept = [path.parent for path in runner.place.state.glob("runs/*/tree/meta")]
        assert len(kept) == 1, ended.stderr
        own_tmp = _OWN_TMP_DIRECTORIES * os.lstat(kept[0] / "work").st_blocks * 512
        held = _held(kept[0] / "upper") + _held(kept[0] / "work") + own_tmp
        assert held <= counted <= held + self.more, f"counted {counted}, held {held}"
        return ended


# Of a file that had several names nobody can tell that it is gone, where O_PATH descriptors were given out.
_LINKS = 4096
# A lower directory that was renamed and removed: its copy is held, for whoever may be in it.
_MOVED = 8192
_MORE = {"linking": _LINKS, "watching": _MOVED}
_WHERE_RIGHTS_COUNT = ("owners", "permissions", "sizes", "removing")
# What is looked at for being counted is opened, and gone only when it was looked at for the last time: who watches it
# is told so (IN_OPEN; IN_DELETE_SELF later). docs/security-model.md says it.
_TOLD = ("event:", "events end:")


def _without_events(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if not line.startswith(_TOLD)]


def _held(directory: Path) -> int:
    """Paths may be longer than a path can be."""
    top = os.lstat(directory)
    seen = {top.st_ino: top.st_blocks * 512}
    for _, directories, files, opened in os.fwalk(directory):
        for name in (*directories, *files):
            status = os.stat(name, dir_fd=opened, follow_symlinks=False)
            seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_counted_is_what_is_held(runs: Runs, as_user: User, group: str, soak: bool) -> None:
    """And no call gives another result for being counted."""
    if not (soak or as_user.is_root or group in _WHERE_RIGHTS_COUNT):
        pytest.skip("a long run, only with --soak: what is counted is as for root")
    plain = runs.of(as_user, COMMITTED, group)
    counted = runs.of(as_user, Counted("counted", ("--workdir",), more=_MORE.get(group, 0)), group)
    for name in programs_of(group):
        assert counted[name].ended == 0, counted[name].lines[-1][-900:]
        assert _without_events(counted[name].lines) == _without_events(plain[name].lines), name
        assert counted[name].seen == plain[name].seen, name
