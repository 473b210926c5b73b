"""A living `ops`, bare or under a supervisor, that is asked for one sample after the other."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from suite.place import Place
from suite.processes import Failure, killed_at_the_end, start, wait_until_dead
from suite.subjects import Subject

_ANSWER_S = 60.0
_END_S = 20.0


@dataclass(frozen=True)
class Answer:
    """each_s: one operation. error: of the last one that failed."""

    each_s: float
    failures: int
    error: int


# Names that serve once, which is enough for all samples of a round; or for --quick.
_SERVE_ONCE, _SERVE_QUICKLY = 400, 4


def _make_lower(directory: Path, names: int) -> None:
    """What is there before the program begins: see ops.c."""
    directory.mkdir()
    (directory / "lower.txt").write_text("lower\n")
    for number in range(names):
        (directory / f"unlinked{number}").write_text("x")
        (directory / f"written{number}").write_text("x" * 4096)


@contextlib.contextmanager
def new_session(
    place: Place, subject: Subject, *, quick: bool, prepare: Callable[[Path], None] | None = None
) -> Iterator[Session]:
    """prepare: puts more into the directory, before the program begins.

    Raises: Failure: there is no such command. What it does wrong later is raised by what is asked of it.
    """
    directory = place.work / subject.kind
    _make_lower(directory, _SERVE_QUICKLY if quick else _SERVE_ONCE)
    if prepare is not None:
        prepare(directory)
    with (place.scratch / f"ops-{subject.kind}").open("w+b") as stderr:
        process = start(
            [*subject.for_operations, place.programs / "ops", directory, place.forbidden],
            env=place.environment(),
            cwd=place.work,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        with killed_at_the_end(process):
            assert process.stdin is not None and process.stdout is not None
            with process.stdin as questions, process.stdout as answers:
                yield Session(subject, process, questions, answers, Path(stderr.name))
                with contextlib.suppress(BrokenPipeError):
                    questions.close()


class Session:
    """Once something has gone wrong it stays broken: every further question raises the same Failure."""

    def __init__(
        self,
        subject: Subject,
        process: subprocess.Popen[bytes],
        questions: IO[bytes],
        answers: IO[bytes],
        stderr: Path,
    ) -> None:
        self.subject = subject
        self._process = process
        self._questions = questions
        self._answers = answers
        self._stderr = stderr
        self._read = b""
        self._broken = ""

    def greet(self) -> None:
        """Wait until it has started. Raises: Failure."""
        with self._breaking():
            if self._line() != "ready":
                raise Failure("did not say that it is ready")

    def ask(self, word: str, count: int) -> Answer:
        """One sample of an operation. Raises: Failure."""
        with self._breaking():
            self._questions.write(f"{word} {count}\n".encode())
            self._questions.flush()
            line = self._line()
            try:
                found, _, each_ns, failures, error = line.split()
                answer = Answer(float(each_ns) / 1e9, int(failures), int(error))
            except ValueError as error:
                raise Failure(f"answered {line!r}") from error
            if found != word:
                raise Failure(f"answered {line!r}")
            return answer

    def end(self) -> None:
        """The end of its input is the end of it, and it must be a good one. Raises: Failure."""
        with self._breaking():
            self._questions.close()
            if not wait_until_dead(self._process, _END_S):
                raise Failure("does not end")
            if self._process.wait() != 0:
                raise Failure(f"ended with {self._process.returncode}")

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """Raises: Failure."""
        if self._broken:
            raise Failure(self._broken)
        try:
            yield
        except (Failure, OSError) as error:
            said = self._stderr.read_text(errors="replace").strip().splitlines()
            self._broken = f"{error}; {said[-1][:200]}" if said else str(error)
            raise Failure(self._broken) from error

    def _line(self) -> str:
        fd = self._answers.fileno()
        until = time.monotonic() + _ANSWER_S
        while b"\n" not in self._read:
            if not select.select([fd], [], [], max(until - time.monotonic(), 0))[0]:
                raise Failure(f"no answer within {_ANSWER_S:.0f} s")
            more = os.read(fd, 4096)
            if not more:
                raise Failure("ended too soon")
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode("utf-8", "replace")
