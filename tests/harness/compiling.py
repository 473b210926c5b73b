"""Small C programs for tests, compiled once per session from their text."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest


class Compiler:
    """Compiles into one directory that every user can read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def compile(self, text: str, *options: str, static: bool = False) -> Path:
        """The executable. options: more for gcc. Skips the test where there is no gcc."""
        gcc = shutil.which("gcc")
        if gcc is None:
            pytest.skip("there is no gcc")
        if static:
            options = ("-static", *options)
        name = hashlib.sha256(repr((text, options)).encode()).hexdigest()[:16]
        program = self.directory / name
        if not program.exists():
            source = self.directory / f"{name}.c"
            source.write_text(text)
            subprocess.run(
                [gcc, "-std=gnu17", "-O1", "-Wall", "-Werror", "-o", program, source, *options, "-pthread"],
                check=True,
            )
            program.chmod(0o755)
        return program
