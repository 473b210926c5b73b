"""`limits.memory`, each check shown to fail: on a build without it, what it keeps back is taken, or refused to nobody.

Without a cgroup, and most ways (attacks/takers.c) are kept back by one of them. What is taken is held, all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.running import Runner
from harness.waiting import until
from security import broken
from security.taking import (
    ASKS,
    EITHER,
    IN_SHM,
    MEGA,
    NO_HANDLERS,
    NO_WATCHER,
    TAKES,
    directory_in_memory,
    taken_of,
    takers,
)

_MORE = 100 * MEGA
_LIMIT = ["--memory", "64M"]

# The others are kept back as one of these is.
_LONG = {
    *(
        "granted-then-touched",
        "not-reserved",
        "memfd-mapped",
        "memfd-on-its-way",
        "memfd-by-path",
        "memfd-reopened",
    ),
    *(
        "first-thread-has-ended",
        "passed-on-by-fork",
        "named-like-init",
        "threads",
        "shared-of-zero",
        "empty-files",
    ),
    *("shm-file-without-a-name", "brk"),
}


def _ways(*names: str) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.soak] if name in _LONG else []) for name in names]


# Shared memory of which nobody has a page in his tables: it is known by the object that a handler made it of.
_BY_HANDLERS = tuple(how for how in EITHER if how.startswith("shared"))
_BY_WATCHER = (*TAKES, *(how for how in EITHER if how not in _BY_HANDLERS))

pytestmark = pytest.mark.one_user


@pytest.fixture
def runner(runner: Runner) -> Runner:
    runner.with_cgroups = False
    return runner


@pytest.fixture
def shm(runner: Runner) -> Iterator[Path]:
    with directory_in_memory(runner) as directory:
        yield directory


@pytest.mark.parametrize("how", _ways(*_BY_WATCHER))
def test_without_the_watcher_it_is_taken(runner: Runner, how: str) -> None:
    _is_taken(runner, NO_WATCHER, how)


@pytest.mark.parametrize("how", _ways(*_BY_HANDLERS))
def test_without_the_handlers_what_they_make_is_not_counted(runner: Runner, how: str) -> None:
    _is_taken(runner, NO_HANDLERS, how)


@pytest.mark.parametrize("how", _ways(*IN_SHM))
def test_without_the_watcher_files_are_written(runner: Runner, shm: Path, how: str) -> None:
    _is_taken(runner, NO_WATCHER, how, shm)


@pytest.mark.parametrize("how", _ways(*ASKS))
def test_without_the_handlers_nobody_is_refused(runner: Runner, how: str) -> None:
    options = ["--write", runner.work, *_LIMIT]
    ended = broken.run(runner, NO_HANDLERS, _command(runner, how), options=options, timeout=60)
    assert ended.returncode != 3 and not ended.refusals


def _command(runner: Runner, how: str) -> list[str | Path]:
    return [takers(runner), how, str(_MORE // MEGA), runner.work / "counter"]


def _is_taken(runner: Runner, patch: str, how: str, shm: Path | None = None) -> None:
    """All of it, and it is held by then."""
    written = [runner.work, *([shm] if shm else [])]
    options = [*_LIMIT, *(word for path in written for word in ("--write", path))]
    line = runner.command_line(_command(runner, how), options=options)
    more = {"HOLD": "1"} | ({"SHM": str(shm)} if shm else {})
    with runner.started(broken.command_line(patch, line), env=runner.environment(more)) as process:
        until(lambda: taken_of(runner.work / "counter") >= _MORE or process.poll() is not None, how)
        process.terminate()
        process.wait()
    assert taken_of(runner.work / "counter") >= _MORE, process.returncode
