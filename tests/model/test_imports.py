"""Imports point one way, pure packages stay pure, and only `kernel` touches the compiled module.

Read from the source with ast, imports inside functions and below TYPE_CHECKING included.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandlockd

SOURCE = Path(sandlockd.__file__).parent

# What each package may import of the others, besides itself. cli -> control -> sandbox -> {launch, notify}
# -> handlers -> store -> {policy, overlay, process} -> kernel, and sandbox -> review -> {audit, store};
# whoever is further up may skip a floor.
_GROUND = {"policy", "overlay", "process", "kernel"}
_HANDLERS = _GROUND | {"handlers", "audit", "store"}
_SANDBOX = _HANDLERS | {"launch", "notify"}
MAY_IMPORT: dict[str, set[str]] = {
    "cli": _SANDBOX | {"control", "sandbox", "review", "client"},
    "client": {"control.objects", "control.problems"},
    "control": _SANDBOX | {"sandbox", "review"},
    "sandbox": _SANDBOX | {"review"},
    "launch": _GROUND | {"handlers"},
    "notify": _HANDLERS,
    "handlers": _GROUND | {"audit", "store"},
    "store": {"overlay", "kernel"},
    "review": {"audit", "store", "overlay", "kernel", "policy.spelling"},
    "audit": {"policy.verdict", "policy.frozen"},
    "policy": set(),
    "overlay": set(),
    "process": {"kernel"},
    "kernel": {"_native"},
}

# `os` opens files and trio awaits; the rest of the list would be ways round that.
PURE = {"policy", "overlay"}
IMPURE = {"os", "trio", "io", "pathlib", "subprocess", "socket", "fcntl", "ctypes", "posix", "mmap", "shutil"}


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Each module that is imported, as an absolute name, with its line; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def violations(source: str, module: str) -> list[str]:
    """What is wrong with the imports of one module, named `sandlockd.policy.model` or `sandlockd.policy`."""
    own = module.split(".")[1] if "." in module else ""
    wrong = []
    package = module if source_is_package(module) else module.rpartition(".")[0]
    for line, name in imported_modules(ast.parse(source), package):
        top, _, rest = name.partition(".")
        if top == "supervisor":
            wrong.append(f"{module}:{line} imports {name}: supervisor/ is no package")
        elif top == "sandlockd" and not _is_allowed(own, rest):
            wrong.append(f"{module}:{line} imports {name}: {own} may not")
        elif own in PURE and top in IMPURE:
            wrong.append(f"{module}:{line} imports {name}: {own} is pure")
    return wrong


def source_is_package(module: str) -> bool:
    return SOURCE.joinpath(*module.split(".")[1:]).is_dir()


def _is_allowed(own: str, imported: str) -> bool:
    package = imported.split(".")[0]
    if package in ("__version__", "") or package == own or own in ("", "__main__"):
        return True
    return any(f"{imported}.".startswith(f"{allowed}.") for allowed in MAY_IMPORT[own])


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def test_the_source_is_found() -> None:
    assert {name for name, _ in _modules()} >= {"sandlockd", "sandlockd.policy", "sandlockd.audit.log"}


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages <= set(MAY_IMPORT)


def test_the_table_has_no_way_round_in_circles() -> None:
    def reached(package: str, seen: tuple[str, ...]) -> None:
        assert package not in seen, f"{' -> '.join(seen)} -> {package}"
        for further in MAY_IMPORT.get(package, ()):
            reached(further.split(".")[0], (*seen, package))

    for package in MAY_IMPORT:
        reached(package, ())


def test_all_imports_point_one_way() -> None:
    assert [wrong for name, path in _modules() for wrong in violations(path.read_text(), name)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sandlockd.kernel.fds", "from sandlockd.policy import model"),
        ("sandlockd.kernel.fds", "import sandlockd.policy.model"),
        ("sandlockd.kernel.fds", "from sandlockd import policy"),
        ("sandlockd.kernel.fds", "from ..policy import model"),
        ("sandlockd.policy.load", "def load():\n    from sandlockd.kernel import fds"),
        ("sandlockd.policy.load", "import os"),
        ("sandlockd.policy.load", "import os.path as path"),
        ("sandlockd.policy.load", "from os import open"),
        ("sandlockd.policy", "from pathlib import Path"),
        ("sandlockd.overlay.diff", "import trio"),
        ("sandlockd.policy.load", "from .. import audit"),
        ("sandlockd.handlers.files", "from sandlockd._native import lib"),
        ("sandlockd.handlers.files", "import sandlockd._native"),
        ("sandlockd.handlers.files", "from sandlockd.notify import loop"),
        ("sandlockd.audit.log", "from sandlockd.policy.model import Policy"),
        ("sandlockd.audit.log", "from sandlockd.policy import model"),
        ("sandlockd.launch.plan", "from sandlockd.notify import loop"),
        ("sandlockd.cli.main", "import supervisor.sandlockd"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sandlockd.kernel.fds", "from sandlockd._native import ffi, lib\nimport os"),
        (
            "sandlockd.cli.main",
            "import sandlockd\nfrom sandlockd import __version__\nfrom sandlockd.kernel import fds",
        ),
        (
            "sandlockd.audit.log",
            "from sandlockd.audit import state\nfrom sandlockd.policy.verdict import Want",
        ),
        ("sandlockd.policy.load", "from .model import Policy\nimport tomllib"),
        ("sandlockd.policy", "from .model import Policy"),
        ("sandlockd.__main__", "from sandlockd.cli.main import main"),
    ],
)
def test_a_right_import_is_left_alone(module: str, source: str) -> None:
    assert violations(source, module) == []
