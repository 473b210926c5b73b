"""What the workloads work on, made here and the same everywhere: C sources, a git repository, Python packages.

The Python packages are the exception: they are copied from the Python that runs this.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from suite.place import Place
from suite.processes import Failure

_COMMITS = 60
_LINES_PER_FILE = 60


@dataclass(frozen=True)
class Amount:
    """How much there is to do."""

    sources: int = 32  # main.c is one of them
    functions: int = 16  # of each source
    packages: tuple[str, ...] = ("json", "asyncio", "email")
    repository_files: int = 400
    pipelines: int = 300


def make_material(place: Place, amount: Amount) -> None:
    """Raises: Failure."""
    _make_source(place.material / "source", amount.sources - 1, amount.functions)
    _make_packages(place.material / "packages", amount.packages)
    _make_repository(place, amount.repository_files)


# ---- C ----

_FUNCTION = """
static unsigned step_{number}(struct table *table, const char *text)
{{
	size_t length = strlen(text);
	unsigned sum = {number}u;

	for (size_t i = 0; i < length && i < sizeof(table->names[0]); i++) {{
		sum = sum * 31u + (unsigned char)text[i];
		table->names[sum % 16u][i] = (char)('a' + sum % 26u);
	}}
	switch (sum % 4u) {{
	case 0:
		return sum ^ table->counts[{number} % 64];
	case 1:
		table->counts[sum % 64u] += sum;
		break;
	default:
		table->counts[{number} % 64]++;
	}}
	return sum + (unsigned)snprintf(table->last, sizeof(table->last), "%u", sum);
}}
"""

_MAKEFILE = """\
CFLAGS = -O1 -I.
objects = $(patsubst %.c,%.o,$(wildcard *.c))
all: program
program: $(objects)
	$(CC) -o $@ $(sort $(objects))
$(objects): table.h
"""


def _make_source(directory: Path, sources: int, functions: int) -> None:
    """So many parts, and main.c, which calls them."""
    directory.mkdir()
    declarations = "".join(f"unsigned part_{number}(struct table *table);\n" for number in range(sources))
    (directory / "table.h").write_text(
        "#include <errno.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
        "#include <time.h>\n#include <unistd.h>\n"
        "struct table {\n\tchar names[16][32];\n\tchar last[32];\n\tunsigned counts[64];\n};\n" + declarations
    )
    for number in range(sources):
        (directory / f"part_{number:02}.c").write_text(_source(number, functions))
    calls = "".join(f"\tsum += part_{number}(&table);\n" for number in range(sources))
    (directory / "main.c").write_text(
        '#include "table.h"\nstatic struct table table;\nint main(void)\n{\n\tunsigned sum = 0;\n'
        f'{calls}\tprintf("%u\\n", sum);\n\treturn 0;\n}}\n'
    )
    (directory / "Makefile").write_text(_MAKEFILE)


def _source(number: int, functions: int) -> str:
    text = "".join(_FUNCTION.format(number=n) for n in range(functions))
    calls = " + ".join(f'step_{n}(table, "part {number}")' for n in range(functions))
    return (
        f'#include "table.h"\n{text}\n'
        f"unsigned part_{number}(struct table *table)\n{{\n\treturn {calls};\n}}\n"
    )


# ---- Python ----


def _make_packages(directory: Path, packages: tuple[str, ...]) -> None:
    directory.mkdir()
    library = Path(sysconfig.get_path("stdlib"))
    for package in packages:
        shutil.copytree(library / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))


# ---- git ----


def _make_repository(place: Place, files: int) -> None:
    """Commits that each change a third of the files, so that going back 50 of them rewrites all."""
    directory = place.material / "repository"
    _git(place, "init", "-q", "-b", "main", str(directory))
    _git(place, "-C", str(directory), "fast-import", "--quiet", text=_history(files))
    _git(place, "-C", str(directory), "reset", "-q", "--hard", "main")


def _history(files: int) -> bytes:
    parts = []
    for commit in range(_COMMITS):
        parts.append(
            "commit refs/heads/main\ncommitter Benchmark <benchmark@example.org> "
            f"{1600000000 + commit * 60} +0000\n{_data(f'Change number {commit}')}"
        )
        for file in range(files):
            if commit == 0 or (file + commit) % 3 == 0:
                parts.append(f"M 100644 inline {_file_name(file)}\n{_data(_file_text(file, commit))}")
        parts.append("\n")
    return "".join(parts).encode()


def _data(text: str) -> str:
    return f"data {len(text)}\n{text}\n"


def _file_name(file: int) -> str:
    return f"module_{file % 12:02}/part_{file // 12 % 5}/file_{file:03}.txt"


def _file_text(file: int, commit: int) -> str:
    lines = [f"line {line} of file {file}, {line * file * 7919 % 104729}" for line in range(_LINES_PER_FILE)]
    lines[commit % _LINES_PER_FILE] = f"changed by commit {commit}"
    if file % 5 == 0:
        lines.append("a needle")
    return "\n".join(lines) + "\n"


def _git(place: Place, *words: str, text: bytes = b"") -> None:
    try:
        done = subprocess.run(["git", *words], env=place.environment(), input=text, capture_output=True)
    except FileNotFoundError as error:
        raise Failure("git: not found; the workloads need it") from error
    if done.returncode:
        raise Failure(f"git {' '.join(words)}: {done.stderr.decode('utf-8', 'replace').strip()}")
