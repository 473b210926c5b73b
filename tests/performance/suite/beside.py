"""How long the calls of one sandbox wait while another one does its worst: the 99th percentile, by that of an idle one.

The bombs run in a sandbox with limits, again and again until all is measured. Beside them runs what runs in `copying`,
bare, which shows what the machine itself makes of so many who want its processors, under the floor, and sandboxed.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from suite.place import Place
from suite.processes import Failure, killed_at_the_end, start, wait_until_dead
from suite.rows import Budget, Group, Measure, Row, Unit
from suite.session import new_session
from suite.subjects import Kind, Subject

_BUDGET = Budget(2, Measure.ABSOLUTE)
_SAMPLES = 3000
_ATTACKS = Path(__file__).resolve().parents[2] / "security" / "attacks"
_NO_CAP = "100000000"
_LIMITS = "[limits]\nmemory = '256M'\nprocesses = {processes}\ndisk = '256M'\noutput = '16M'\n"
_FILES = 'i=0; while :; do i=$((i+1)); head -c 100000 /dev/zero > "$TMPDIR/f$i" || rm -f "$TMPDIR"/f*; done 2>/dev/null'
_SCAN = "while :; do find /proc -maxdepth 3; done > /dev/null 2>&1"
_LOOK_S = 0.02
_END_S = 20.0
_STARTING_S = 1.0  # on a busy machine
_STARTED_S = 1.0  # until it is at its limit


@dataclass(frozen=True)
class Bomb:
    """command: {forks}, {takers}: the attack programs; {counter}: a file."""

    name: str
    what: str
    command: tuple[str, ...]

    @property
    def row(self) -> str:
        return f"beside_{self.name}"


BOMBS = (
    Bomb("forks", "all the processes that it may have, each forking", ("{forks}", "fork", _NO_CAP)),
    Bomb("threads", "all the threads that it may have", ("{forks}", "thread", _NO_CAP)),
    *(
        Bomb(f"memory_{way.replace('-', '_')}", f"memory: {way}", ("{takers}", way, "4096", "{counter}"))
        for way in ("small-pieces", "memfd-written", "shared-small-let-go", "many-children", "threads")
    ),
    Bomb("files", "files of 100 KB, up to limits.disk, and anew", ("sh", "-c", _FILES)),
    Bomb("output", "what is written without end, up to limits.output, and dropped", ("yes",)),
    Bomb("scans", "find /proc -maxdepth 3, in a loop", ("sh", "-c", _SCAN)),
)


def new_rows() -> list[Row]:
    return [
        Row(Group.BESIDE, bomb.row, f"p99 beside {bomb.what}", Unit.TIMES_IDLE, _BUDGET) for bomb in BOMBS
    ]


def measure(
    place: Place, sandlockd: Path, subjects: Sequence[Subject], rows: Sequence[Row], *, quick: bool
) -> None:
    """One round, into the rows; the subjects one after the other. quick: what is idle is measured once for all."""
    samples, started_s, limits = _SAMPLES, _STARTED_S, _LIMITS.format(processes=32)
    if quick:
        samples, started_s, limits = 5, 0.0, _LIMITS.format(processes=2)
    wanted = {row.name: row for row in rows}
    idle_s: dict[Kind, float] = {}
    programs = {name: _compiled(place, name) for name in ("forks", "takers")}
    for bomb in BOMBS:
        row = wanted.get(bomb.row)
        if row is None:
            continue
        for subject in subjects:
            try:
                if not quick or subject.kind not in idle_s:
                    idle_s[subject.kind] = _percentile_s(place, subject, samples, quick=quick)
                with _bomb(place, sandlockd, bomb, programs, limits=limits, started_s=started_s):
                    beside_s = _percentile_s(place, subject, samples, quick=quick)
                    row.add(subject.kind, beside_s / idle_s[subject.kind])
            except Failure as failure:
                row.fail(subject.kind, str(failure))
    place.renew_work(())


def _percentile_s(place: Place, subject: Subject, samples: int, *, quick: bool) -> float:
    """Raises: Failure."""
    place.renew_work(())
    with new_session(place, subject, quick=quick) as session:
        session.greet()
        answer = session.ask("look_idle", samples)
        session.end()
    if answer.failures:
        raise Failure(f"{answer.failures} calls failed")
    return answer.each_s


def _compiled(place: Place, name: str) -> Path:
    program = place.programs / name
    if not program.exists():
        subprocess.run(["cc", "-O2", "-pthread", "-o", program, _ATTACKS / f"{name}.c"], check=True)
    return program


@contextlib.contextmanager
def _bomb(
    place: Place, sandlockd: Path, bomb: Bomb, programs: dict[str, Path], *, limits: str, started_s: float
) -> Iterator[None]:
    """It goes off, and again whenever it was ended, until the block is left."""
    over = threading.Event()
    directory = place.scratch / "bomb"
    (directory / "tree").mkdir(parents=True, exist_ok=True)
    (directory / "written").mkdir(exist_ok=True)
    policy = directory / "policy.toml"
    policy.write_text(limits)
    meant = {name: str(path) for name, path in programs.items()} | {
        "counter": str(directory / "written" / "counter")
    }
    line = [
        *(str(sandlockd), "--quiet", "--policy", "base", "--policy", str(policy)),
        *("--workdir", str(directory / "tree"), "--on-exit", "discard"),
        *("--write", str(directory / "written"), "--read", str(place.programs)),
        *("--", *(word.format(**meant) if word.startswith("{") else word for word in bomb.command)),
    ]

    def go_off() -> subprocess.Popen[bytes]:
        cwd, env = directory / "tree", place.environment()
        with (directory / "output").open("wb") as output:  # of a device nothing would be passed on
            return start(line, env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=output, stderr=output)

    def keep_on(process: subprocess.Popen[bytes]) -> None:
        while True:
            begun = time.monotonic()
            with killed_at_the_end(process):
                while not over.wait(_LOOK_S) and process.poll() is None:
                    pass
                if process.poll() is None:
                    # Asked to end, it takes its cgroups with it; killed with its init, or before it serves its
                    # program, it would leave them.
                    wait_until_dead(process, max(begun + _STARTING_S - time.monotonic(), 0))
                    process.terminate()
                    wait_until_dead(process, _END_S)
            assert process.stdin is not None
            process.stdin.close()
            if over.is_set():
                return
            process = go_off()

    thread = threading.Thread(target=keep_on, args=(go_off(),))
    thread.start()
    try:
        over.wait(started_s)
        yield
    finally:
        over.set()
        thread.join()
