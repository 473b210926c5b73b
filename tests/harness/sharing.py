"""A run of many tests is shared between processes: how many, which tests stay together, which have the machine alone.

Most of a run is one process that waits for another one, or works on one CPU. Two workers take little more than half the
time of one. Tests need nothing of each other, and nothing is theirs but what they make; two things are left to see to:
what is expensive to make and serves many tests is made in one worker only, and what measures time, or looks at all of
the machine, is marked `alone`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

_MOST_WORKERS = 4
_USERS = ("root", "ordinary")
# In the place of a user: root, with limits that cgroups keep (forms.py).
GROUPED = "grouped"

# Bytes of the file of turns.
_QUEUE, _MACHINE = 0, 1


def number_of_workers(config: pytest.Config) -> int:
    """0: no workers, the tests run here. Some tests, asked for by name, are there sooner without."""
    chosen = config.option.keyword or config.option.markexpr or config.option.collectonly
    if chosen or not all(os.path.isdir(path) for path in config.args):
        return 0
    cpus = len(os.sched_getaffinity(0))
    return min(cpus, _MOST_WORKERS) if cpus > 1 else 0


def together(nodeid: str) -> str:
    """What tests have in common that run in the same worker, one after the other.

    The cases of a function. What needs a machine of its own (booted.py), for which it is booted once. Under
    copy-on-write, all that is asked about one whole program, or about the programs of one group of the corpus, which
    are run in one go.
    """
    function, _, case = nodeid.partition("[")
    path = function.partition("::")[0]
    if path.startswith("tests/systemd/"):
        return path
    if case and path.endswith(("copy_on_write/test_corpus.py", "copy_on_write/test_disk_account.py")):
        return f"corpus[{'-'.join(case.rstrip(']').split('-')[:2])}]"  # user, group
    if case and path.endswith("copy_on_write/test_whole_programs.py"):
        return f"{path}[{case}"
    return function


def ordered(items: list[pytest.Item], *, is_shared: bool) -> list[pytest.Item]:
    """What is together one after the other, however it was before.

    is_shared: the largest part first, so that all workers end at about the same time. What is to be alone comes last:
    it waits for the other worker's test, which may be long, and then keeps that worker waiting.
    """
    parts: dict[str, list[pytest.Item]] = {}
    for item in items:
        parts.setdefault(together(item.nodeid), []).append(item)
    if not is_shared:
        return list(itertools.chain(*parts.values()))
    return list(
        itertools.chain(*sorted(parts.values(), key=lambda part: (any(map(is_alone, part)), -len(part))))
    )


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def is_users_turn(item: Any) -> bool:
    """Of a test marked `one_user`: root runs those of one half of the subjects, the ordinary user those of the other.

    The subject is the first word of the case besides the user, as `renaming` of `root-renaming-one_file`; where
    there is no other, the test. A test that says itself as whom it is run has no other half.
    """
    if item.callspec.params["as_user"] == GROUPED or _names_its_users(item):
        return True
    words = [*(word for word in item.callspec.id.split("-") if word not in _USERS), item.originalname]
    return item.callspec.params["as_user"] == _USERS[zlib.crc32(words[0].encode()) % 2]


def _names_its_users(item: Any) -> bool:
    return any("as_user" in str(marker.args[0]) for marker in item.iter_markers("parametrize"))


class TogetherScheduling(LoadScopeScheduling):
    """What is `together` goes to one worker, in the order in which the workers have it."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return together(nodeid)


class Turns:
    """Many tests run at the same time, or one alone.

    file: any file that the workers share. Locks of a process, which end with it and which no child of it has: a test
    that fails may leave a process that holds all descriptors of its worker.
    """

    def __init__(self, file: str) -> None:
        self._fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)

    @contextlib.contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        # Who wants to be alone waits in the queue's place, so that no other test begins before.
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, _QUEUE)
        fcntl.lockf(self._fd, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, 1, _MACHINE)
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _QUEUE)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _MACHINE)
