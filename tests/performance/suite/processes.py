"""Running commands, and timing them without disturbing them: nothing here polls or reads while a command runs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO


class Failure(Exception):
    """Something did not run as it should. The text is one line for the report."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended. returncode: as subprocess has it, -n when signal n killed it."""

    elapsed_s: float
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def complaint(self) -> str:
        """How it ended, with the last line that it said."""
        said = self.stderr.decode("utf-8", "replace").strip().splitlines()
        how = (
            f"exit status {self.returncode}"
            if self.returncode >= 0
            else f"killed by signal {-self.returncode}"
        )
        return f"{how}: {said[-1][:200]}" if said else how


def run_timed(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path,
    scratch: Path,
    timeout_s: float,
) -> Ended:
    """Run to the end. stdout and stderr go to files in scratch, so that nobody has to read meanwhile.

    Raises: Failure: it could not be started, or took longer than timeout_s and was killed.
    """
    with (scratch / "stdout").open("w+b") as out, (scratch / "stderr").open("w+b") as err:
        begun = time.perf_counter()
        process = start(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        with killed_at_the_end(process):
            if not wait_until_dead(process, timeout_s):
                raise Failure(f"still running after {timeout_s:.0f} s")
            elapsed_s = time.perf_counter() - begun
            returncode = process.wait()
        out.seek(0)
        err.seek(0)
        return Ended(elapsed_s, returncode, out.read(), err.read())


def start(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdin: int,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> subprocess.Popen[bytes]:
    """Raises: Failure."""
    try:
        return subprocess.Popen(
            command, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from error


@contextlib.contextmanager
def killed_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens, the process and its session are gone afterwards."""
    try:
        yield
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_dead(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Sleeps until it is a zombie. Popen.wait(timeout) looks again and again instead, up to 50 ms apart."""
    pidfd = os.pidfd_open(process.pid)
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)
