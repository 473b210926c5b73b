"""The runs of the corpus that several files of tests look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from behaviour.copy_on_write.corpus import GROUPS
from harness.compiling import Compiler
from harness.copy_on_write import Runs, programs_of, runs_of


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, users: None, compiler: Compiler) -> Iterator[Runs]:
    """With the programs that this session's selection wants."""
    selected: dict[str, list[str]] = {}
    for item in request.session.items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        program, group = params.get("program"), params.get("group")
        wanted = [program] if isinstance(program, tuple) else []
        wanted += [(group, name) for name in programs_of(group)] if group in GROUPS else []
        for of, name in wanted:
            if name not in selected.setdefault(of, []):
                selected[of].append(name)
    with runs_of(compiler, selected) as made:
        yield made
