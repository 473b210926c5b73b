"""What a policy may import: its cost is paid before every program starts."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "dataclasses",
    "inspect",
    "typing",
    "msgspec",
    "tomllib",
    "difflib",
    "ipaddress",
    "json",
    "trio",
    "pwd",
)


def imported_by(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(*sys.modules)"
    # -S: what an editable installation imports for itself is not ours.
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{probe}"],
        capture_output=True,
        check=True,
        text=True,
    )
    return set(done.stdout.split())


def test_a_preset_is_loaded_without_anything_heavy() -> None:
    code = (
        "from sandlockd.sandbox.policies import load_policy, compile_file_rules\n"
        "compile_file_rules(load_policy(['base']), None)"
    )
    assert imported_by(code).isdisjoint(HEAVY)


def test_the_verdict_alone_brings_only_enum() -> None:
    assert imported_by("import sandlockd.policy.verdict").isdisjoint({*HEAVY, "re", "tomllib"})
