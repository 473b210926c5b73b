"""sandlockctl beside a service of a test's own.

ctl = Ctl(served)
assert ctl("run", "--", "echo", "hi").stdout == b"hi\\n"
with ctl.terminal("run", "-t", "--", "vim") as terminal: ...
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from harness.interpreter import SANDLOCKCTL
from harness.running import Argument, Ended
from harness.service import Served
from harness.terminal import Terminal, open_terminal


class Ctl:
    command = SANDLOCKCTL

    def __init__(self, served: Served) -> None:
        self.served = served
        self.runner = served.runner

    def environment(self) -> dict[str, str]:
        return {"SANDLOCKD_SOCKET": str(self.served.socket), "TERM": "xterm"}

    def __call__(self, *words: Argument, **popen: Any) -> Ended:
        return self.runner.run([SANDLOCKCTL, *words], env=self.environment(), **popen)

    def done(self, *words: Argument, **popen: Any) -> str:
        """Standard output of what must succeed, without a word on standard error."""
        ended = self(*words, **popen)
        assert (ended.returncode, ended.stderr) == (0, b""), ended
        return ended.stdout.decode()

    def lines(self, *words: Argument, **popen: Any) -> list[Any]:
        """Of JSON Lines."""
        return [json.loads(line) for line in self.done(*words, **popen).splitlines()]

    def refused(self, *words: Argument, status: int = 1, **popen: Any) -> str:
        """What is said, in one line that says by whom."""
        ended = self(*words, **popen)
        assert (ended.returncode, ended.stdout) == (status, b""), ended
        said = ended.stderr.decode()
        assert said.startswith("sandlockctl: ") and said.count("\n") == 1, said
        return said.removeprefix("sandlockctl: ").strip()

    def started(self, name: str, *command: Argument, options: Sequence[Argument] = ()) -> str:
        """Detached. Its id."""
        return self.done("run", "-d", "--name", name, *options, "--", *command).strip()

    @contextmanager
    def followed(self, *words: Argument, **popen: Any) -> Iterator[subprocess.Popen[bytes]]:
        with self.runner.started([SANDLOCKCTL, *words], env=self.environment(), **popen) as process:
            yield process

    def terminal(self, *words: Argument, rows: int = 24, columns: int = 80, **more: str) -> Terminal:
        return open_terminal(
            [os.fspath(SANDLOCKCTL), *map(str, words)],
            user=self.runner.place.user,
            cwd=str(self.runner.work),
            environment=self.runner.environment({**self.environment(), **more}),
            rows=rows,
            columns=columns,
        )
