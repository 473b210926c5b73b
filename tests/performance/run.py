"""Measure what sandlockd costs: bare, floor and sandboxed interleaved in one run.

    python tests/performance/run.py
    python tests/performance/run.py --only operations --rounds 10 --json today.json
    python tests/performance/run.py --peer 'PEER run -w {write} -r {read} --'

docs/benchmarks.md says what each row means. Whether a budget is met is told, not judged: the exit status is 0 unless
something failed to run or came out otherwise than bare.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from suite import beside, copying, facts, idle, operations, startup, work
from suite.material import Amount, make_material
from suite.place import Place, clean_machine, new_place
from suite.processes import Failure
from suite.report import Report
from suite.rows import Group, Row, wanted
from suite.subjects import Subject, subjects, subjects_in_tree, subjects_limited, subjects_private

_IMPORTS = "imports"


def main() -> int:
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with clean_machine():
            return _measure(options)
    except KeyboardInterrupt:
        return 130
    except Failure as failure:
        print(f"run.py: {failure}", file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace) -> int:
    sandlockd = _find_sandlockd(options.sandlockd)
    with new_place(options.dir, options.lang) as place:
        report = _Suite(options, place, sandlockd).run()
    print(report.text())
    if options.json:
        options.json.write_text(report.json() + "\n")
    return 1 if report.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often everything is measured")
    parser.add_argument(
        "--quick", action="store_true", help="as little as possible: whether it works, not how fast"
    )
    parser.add_argument(
        "--peer", metavar="COMMAND", help="prefix of another sandbox; {write}, {read}: what to grant"
    )
    parser.add_argument(
        "--tree-peer", metavar="COMMAND", help="the same with copy-on-write; {workdir}: the tree"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="rows or groups; --list shows them"
    )
    parser.add_argument("--list", action="version", version=_listing(), help="show the names for --only")
    parser.add_argument("--lang", default="C", help="LANG of what is run (default: %(default)s)")
    parser.add_argument(
        "--dir", type=Path, default=Path("/var/tmp"), help="where to work (default: %(default)s)"
    )
    parser.add_argument(
        "--settle", type=float, default=4.0, metavar="S", help="age of a sandbox before it is measured"
    )
    parser.add_argument(
        "--cold", action="store_true", help="also start with the page cache dropped (root only)"
    )
    parser.add_argument("--sandlockd", type=Path, metavar="FILE", help="which one (default: this Python's)")
    return parser


def _all_rows(*, drop_caches: bool) -> list[Row]:
    before_work = (*operations.OPERATIONS, *operations.LIMITED_OPERATIONS, *operations.PRIVATE_OPERATIONS)
    rows = [operation.new_row() for operation in before_work]
    rows += sorted(
        (row for one in work.WORKLOADS for row in one.new_rows()), key=lambda row: row.group == Group.INSIDE
    )
    rows += [operation.new_row() for operation in operations.TREE_OPERATIONS]
    rows += [one.new_tree_row() for one in work.WORKLOADS]
    return rows + copying.new_rows() + beside.new_rows() + startup.new_rows(drop_caches=drop_caches)


def _listing() -> str:
    names = [f"{row.group}: {row.name}" for row in _all_rows(drop_caches=True)]
    return "\n".join([*names, _IMPORTS])


def _find_sandlockd(given: Path | None) -> Path:
    """Raises: Failure."""
    beside = Path(sys.executable).parent / "sandlockd"
    found = given or (beside if beside.exists() else shutil.which("sandlockd"))
    if found is None or not os.access(found, os.X_OK):
        raise Failure(f"{found or 'sandlockd'}: not found; install it, or say --sandlockd FILE")
    return Path(found).absolute()


def _python_of(sandlockd: Path) -> str:
    """The Python that its first line names, where there is one."""
    with sandlockd.open("rb") as file:
        first = file.readline(4096).decode("utf-8", "replace").strip()
    interpreter = first.removeprefix("#!").split(" ")[0]
    return interpreter if first.startswith("#!") and "python" in interpreter else sys.executable


class _Suite:
    """One run of it."""

    def __init__(self, options: argparse.Namespace, place: Place, sandlockd: Path) -> None:
        self._options = options
        self._place = place
        self._sandlockd = sandlockd
        self._python = _python_of(sandlockd)
        self._subjects: list[Subject] = subjects(place, sandlockd, options.peer)
        self._limited = subjects_limited(place, sandlockd)
        self._private = subjects_private(place, sandlockd)
        self._in_tree = subjects_in_tree(place, sandlockd, options.tree_peer)
        self._rounds = 1 if options.quick else options.rounds
        self._settle_s = 0.0 if options.quick else options.settle
        self._amount = Amount(3, 1, ("json",), 12, 5) if options.quick else Amount()
        rows = _all_rows(drop_caches=options.cold)
        known = {_IMPORTS, *Group, *(row.name for row in rows)}
        if unknown := [name for name in options.only if name not in known]:
            raise Failure(f"--only {unknown[0]}: no such row or group; --list shows them")
        if options.cold and os.geteuid() != 0:
            raise Failure("--cold: only root may drop the page cache")
        self._report = Report(
            facts.collect(place, sandlockd, self._python),
            {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
            list(dict.fromkeys(one.kind for one in (*self._subjects, *self._in_tree))),
            wanted(rows, options.only),
        )

    def run(self) -> Report:
        if self._options.quick:
            self._warn("--quick: this tells whether the suite works, and nothing about speed.")
        self._check_idle()
        self._check_bytecode()
        if self._rows(Group.WORK, Group.INSIDE, Group.TREE_INSIDE):
            make_material(self._place, self._amount)
        for round_ in range(self._rounds):
            self._tell(f"round {round_ + 1} of {self._rounds}")
            self._measure(round_)
        self._check_idle()
        return self._report

    def _rows(self, *groups: Group) -> list[Row]:
        return [row for row in self._report.rows if row.group in groups]

    def _measure(self, round_: int) -> None:
        quick = self._options.quick
        plan = operations.Plan(1, 0.0, 0.01, quick) if quick else operations.Plan(settle_s=self._settle_s)
        for among, group in (
            (self._subjects, Group.OPERATIONS),
            (self._limited, Group.LIMITED),
            (self._private, Group.PRIVATE),
            (self._in_tree, Group.TREE),
        ):
            if rows := self._rows(group):
                operations.measure(self._place, among, rows, plan)
                self._check_idle()
        for among, groups in (
            (self._subjects, (Group.WORK, Group.INSIDE)),
            (self._in_tree, (Group.TREE_INSIDE,)),
        ):
            if rows := self._rows(*groups):
                work.measure(self._place, among, rows, self._amount, self._settle_s, round_)
                self._check_idle()
        if rows := self._rows(Group.TREE_COPY):
            copying.measure(self._place, self._in_tree, rows, quick=quick)
        if rows := self._rows(Group.BESIDE):
            beside.measure(self._place, self._sandlockd, self._in_tree, rows, quick=quick)
        if rows := self._rows(Group.START):
            startup.measure(self._place, self._subjects, self._in_tree, rows, self._python, 1 if quick else 5)

    def _check_idle(self) -> None:
        load = idle.look(0.02 if self._options.quick else 1.0)
        self._report.loads.append(load)
        if not load.is_idle:
            self._warn(f"the machine is not idle: {load}. Take none of these numbers for what it costs.")

    def _check_bytecode(self) -> None:
        """The first start compiles what it can; the second is profiled."""
        if "PYTHONDONTWRITEBYTECODE" in os.environ:
            self._tell("PYTHONDONTWRITEBYTECODE is set; it is not passed on to what is measured.")
        try:
            startup.import_profile(self._place, self._python)
            imports = startup.import_profile(self._place, self._python)
            missing = startup.uncompiled(self._place, self._python, [one.module for one in imports])
        except Failure as failure:
            self._report.broken.append(f"{_IMPORTS}: {failure}")
            return
        if not self._options.only or _IMPORTS in self._options.only:
            self._report.imports = imports
        if missing:
            self._warn(
                f"{len(missing)} modules, such as {missing[0]}, have no compiled bytecode, so every start compiles "
                "them anew: install sandlockd where it may be written (pip install ., python -m compileall)."
            )
        if self._report.facts["installation"] == "editable":
            self._warn(
                "sandlockd is installed editable; its import hook makes the start slower than an installation."
            )

    def _warn(self, text: str) -> None:
        self._report.warnings.append(text)
        self._tell(f"!!! {text}")

    @staticmethod
    def _tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
