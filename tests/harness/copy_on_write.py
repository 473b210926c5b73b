"""The corpus of copy-on-write, and whole programs, run in each of the ways (ways.py).

runs = Runs(places, selected)
bare = runs.of(user, BARE, "renaming")["exchanging_two_files"]
ours = runs.of(user, DISCARDED, "renaming")["exchanging_two_files"]
assert ours.lines == bare.lines

All ways of one user use the same paths, so that outputs need not be adjusted.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from behaviour.copy_on_write.corpus import GROUPS, fixture, snapshot

from harness import ledger
from harness.compiling import Compiler
from harness.fresh_disk import on_a_fresh_disk
from harness.places import Place, new_place
from harness.running import Ended, Runner, system_python
from harness.users import User
from harness.ways import Line, Sandboxed, Way
from sandlockd.kernel.syscalls import BY_NAME, number_of

CORPUS = Path(fixture.__file__).parent


@dataclass
class Result:
    """What one program did. seen: the tree with its eyes. left: the real tree in the end, with ours.

    before, after: the real tree exactly, without access times; after the run, and before a commit. All three only where
    the way says that they are looked at.
    """

    lines: list[str]
    ended: int
    seen: list[str]
    left: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def programs_of(group: str) -> list[str]:
    return list(importlib.import_module(f"behaviour.copy_on_write.corpus.{group}").PROGRAMS)


def every_program() -> list[tuple[str, str]]:
    return [(group, name) for group in GROUPS for name in programs_of(group)]


class Bench:
    """One user's directories. Whatever way a command is run, it finds the same paths."""

    def __init__(self, place: Place, tools: Path, compiler: Compiler) -> None:
        """tools: the corpus, and whatever else commands need; readable for everybody."""
        self.runner = Runner(place, uuid.uuid4().hex, compiler)
        self.tools = tools
        self.outside = place.root / "outside"
        self.python = system_python()

    def run_job(self, way: Way, job: dict[str, Any], env: Mapping[str, str] | None = None) -> Ended:
        """run.py, in the sandbox or without."""
        # The oracle asks for everything.
        common = {"work": str(self.runner.work), "outside": str(self.outside), "numbers": _numbers()}
        job = {**common, "remember": isinstance(way, Sandboxed), **job}
        path = self.runner.place.file("outside/job.json", json.dumps(job))
        environment = {"PYTHONPATH": str(self.tools), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        command: Line = [self.python, self.tools / "run.py", path]
        try:
            return way.run(self.runner, command, [self.tools, self.outside], environment)
        except subprocess.TimeoutExpired as expired:
            # The programs before the one that hung have told what they did.
            return Ended(-1, expired.stdout or b"", (expired.stderr or b"") + str(expired).encode())

    def run_programs(self, way: Way, group: str, names: Sequence[str]) -> dict[str, Result]:
        """In one sandbox, each in a directory and a process of its own."""
        results: dict[str, Result] = {}
        for part in way.parts(names, self.runner.place.user):
            results |= on_a_fresh_disk(
                self.runner.place, functools.partial(self._run_programs, way, group, part)
            )
        return results

    def _run_programs(self, way: Way, group: str, names: Sequence[str]) -> dict[str, Result]:
        work = os.fsencode(self._fresh(group, names))
        before = _by_program(work) if way.keeps_apart else {}
        ended = self.run_job(way, {"group": group, "programs": list(names)})
        after = _by_program(work) if way.keeps_apart else {}
        way.finish(self.runner)
        lines = [line for line in ended.stdout.splitlines(keepends=True) if line.endswith(b"\n")]
        found = {result["program"]: result for result in map(json.loads, lines)}
        results = {}
        for name in names:
            told = found.get(name) or _did_not_run(ended)
            result = Result(told["lines"], told["ended"], told["tree"])
            if way.leaves_changes:
                result.left = snapshot.seen(work + b"/" + os.fsencode(name))
            # The work directory itself is everybody's.
            result.before, result.after = (tree.get("", []) + tree.get(name, []) for tree in (before, after))
            results[name] = result
        return results

    def run_in_tmp(self, way: Way, group: str, names: Sequence[str]) -> dict[str, Result]:
        """As run_programs, but in /tmp, of which each way has its own. What is left of it nobody sees."""
        return on_a_fresh_disk(self.runner.place, lambda: self._run_in_tmp(way, group, names))

    def _run_in_tmp(self, way: Way, group: str, names: Sequence[str]) -> dict[str, Result]:
        self.make_outside()
        self.runner.place.empty_work()
        job = {"group": group, "programs": list(names), "build": True, "work": "/tmp/work"}
        ended = self.run_job(way, job)
        lines = [line for line in ended.stdout.splitlines(keepends=True) if line.endswith(b"\n")]
        found = {result["program"]: result for result in map(json.loads, lines)}
        told = {name: found.get(name) or _did_not_run(ended) for name in names}
        return {name: Result(one["lines"], one["ended"], one["tree"]) for name, one in told.items()}

    def run_command(
        self, way: Way, command: Sequence[str], prepare: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Result:
        """A whole program. prepare: a command that fills the work directory before, bare; times are then long ago."""
        return on_a_fresh_disk(self.runner.place, lambda: self._run_command(way, command, prepare, env))

    def _run_command(
        self, way: Way, command: Sequence[str], prepare: Sequence[str], env: Mapping[str, str] | None
    ) -> Result:
        self.make_outside()
        work = os.fsencode(self.runner.place.empty_work())
        age = ["find", ".", "-depth", "-exec", "touch", "-h", "-d", "@1000000000", "{}", "+"]
        for line in (prepare, age):
            done = self.runner.run(line, env=env)
            assert done.returncode == 0, (done.stdout, done.stderr)
        before = snapshot.exact(work) if way.keeps_apart else []
        ended = self.run_job(way, {"command": list(command)}, env)
        after = snapshot.exact(work) if way.keeps_apart else []
        way.finish(self.runner)
        told = json.loads(ended.stdout) if ended.stdout else _did_not_run(ended)
        left = snapshot.seen(work) if way.leaves_changes else []
        return Result(told["lines"], told["ended"], told["tree"], left, before, after)

    def make_outside(self) -> None:
        self.runner.place.file("outside/file", "outside\n")
        self.runner.place.file("outside/dir/file", "outside, deeper\n")
        self.runner.place.give(self.outside)

    def _fresh(self, group: str, names: Sequence[str]) -> Path:
        self.make_outside()
        work = self.runner.place.empty_work()
        user = self.runner.place.user
        prepare = getattr(importlib.import_module(f"behaviour.copy_on_write.corpus.{group}"), "prepare", None)
        for name in names:
            root = os.fsencode(work / name)
            fixture.build(root, os.fsencode(self.outside), user.uid, user.gid, prepare)
        os.utime(work, (fixture.LONG_AGO_S, fixture.LONG_AGO_S))
        return work


@functools.cache
def _numbers() -> dict[str, int]:
    return {name: number for name in BY_NAME if (number := number_of(name)) >= 0}


def _by_program(work: bytes) -> dict[str, list[str]]:
    """What the work directory is exactly; the directory itself is ""."""
    found: dict[str, list[str]] = {}
    for line in snapshot.exact(work):
        # 'program/path': ...
        name = line[1:].split("'", 1)[0].split("/", 1)[0]
        found.setdefault(name, []).append(line)
    return found


def _did_not_run(ended: Ended) -> dict[str, Any]:
    error = ended.stderr.decode(errors="replace")[-2000:]
    return {"lines": [f"did not run: {ended.returncode}: {error}"], "ended": -1, "tree": []}


class Runs:
    """Every (user, way, group) is run once, with those programs of the group that are selected.

    Results are kept until another group, or user, is asked for: those of all would be 400 MB, and every process that a
    later test starts is forked from this one.
    """

    def __init__(self, compiler: Compiler, selected: Mapping[str, Sequence[str]]) -> None:
        self.compiler = compiler
        self.selected = selected
        self.stack = contextlib.ExitStack()
        self.benches: dict[int, Bench] = {}
        self.asked_for: tuple[int, str] | None = None
        self.found: dict[str, dict[str, Result]] = {}

    @functools.cached_property
    def tools(self) -> Path:
        directory = self.stack.enter_context(ledger.directory("tools"))
        shutil.copytree(CORPUS, directory / "corpus", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(CORPUS / "run.py", directory / "run.py")
        subprocess.run([system_python(), "-m", "compileall", "-q", directory], check=True)
        subprocess.run(["chmod", "-R", "u=rwX,go=rX", directory], check=True)
        return directory

    def bench(self, user: User) -> Bench:
        if user.uid not in self.benches:
            place = self.stack.enter_context(new_place(user))
            self.benches[user.uid] = Bench(place, self.tools, self.compiler)
        return self.benches[user.uid]

    def of(self, user: User, way: Way, group: str, *, in_tmp: bool = False) -> dict[str, Result]:
        if self.asked_for != (user.uid, group):
            self.asked_for = user.uid, group
            self.found.clear()
        if way.name not in self.found:
            names = self.selected[group]
            bench = self.bench(user)
            try:
                self.found[way.name] = (bench.run_in_tmp if in_tmp else bench.run_programs)(way, group, names)
            except AssertionError as error:
                # Not tried again for each of its programs.
                self.found[way.name] = dict.fromkeys(names, Result([f"the run failed: {error}"], -1, []))
        return self.found[way.name]


@contextlib.contextmanager
def runs_of(compiler: Compiler, selected: Mapping[str, Sequence[str]]) -> Iterator[Runs]:
    runs = Runs(compiler, selected)
    with runs.stack:
        yield runs
