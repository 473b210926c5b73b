"""What runs inside: programs of the corpus, or one command, and then the look at the tree with the program's eyes.

    PYTHONPATH=(where the package lies) python3 run.py JOB

JOB is a file of JSON: {"work", "outside", "numbers", "group", "programs"} or {"work", "command"}. One line of JSON per
program comes out: {"program", "lines", "ended", "tree"}. With "build", the trees that the programs start in are made
here as well, in a work directory that is made, too. With "remember", attributes of what no program touched are asked
for once (snapshot.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from typing import Any

LIMIT_S = 10
_TIMED = 4
_PR_SET_PDEATHSIG = 1
_CLOCK_REALTIME_COARSE = 5  # the one that a ctime is taken from


def _read_all(fd: int) -> bytes:
    data = b""
    while more := os.read(fd, 65536):
        data += more
    os.close(fd)
    return data


def _act(job: dict[str, Any], program: Any, root: bytes) -> None:
    from corpus.vocabulary import Calls

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(root)
    os.umask(0o022)
    signal.alarm(LIMIT_S)
    try:
        program(Calls(job["numbers"], root, os.fsencode(job["outside"])))
    except BaseException:
        # A program whose bare run does this is wrong; the driver says so.
        os.write(1, b"raised: " + traceback.format_exc().encode("ascii", "backslashreplace"))
        os._exit(3)
    os._exit(0)


def _run_program(job: dict[str, Any], program: Any, name: str, remembered: Any) -> dict[str, Any]:
    from corpus.snapshot import seen

    root = os.fsencode(job["work"]) + b"/" + os.fsencode(name)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write_end, 1)
        os.dup2(write_end, 2)
        os.closerange(3, 256)
        _act(job, program, root)
    os.close(write_end)
    output = _read_all(read_end)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    lines = output.decode("ascii", "backslashreplace").splitlines()
    return {"program": name, "lines": lines, "ended": ended, "tree": seen(root, remembered)}


def _run_command(job: dict[str, Any]) -> dict[str, Any]:
    from corpus.snapshot import seen

    done = subprocess.run(
        job["command"], cwd=job["work"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    lines = done.stdout.decode("ascii", "backslashreplace").splitlines()
    return {"program": "", "lines": lines, "ended": done.returncode, "tree": seen(os.fsencode(job["work"]))}


def _build(job: dict[str, Any], prepare: Any) -> None:
    from corpus import fixture

    work = os.fsencode(job["work"])
    os.mkdir(work, 0o755)
    for name in job["programs"]:
        root = work + b"/" + os.fsencode(name)
        outside = os.fsencode(job["outside"])
        # In the sandbox each time is a call that is served.
        fixture.build(root, outside, os.getuid(), os.getgid(), prepare, timed=_TIMED)


def main() -> None:
    from corpus.snapshot import Remembered

    with open(sys.argv[1]) as file:
        job = json.load(file)
    if "command" in job:
        print(json.dumps(_run_command(job)))
        return
    group = importlib.import_module(f"corpus.{job['group']}")
    if job.get("build"):
        _build(job, getattr(group, "prepare", None))
    now_ns = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    remembered = Remembered(now_ns) if job.get("remember") else None
    for name in job["programs"]:
        result = _run_program(job, group.PROGRAMS[name], name, remembered)
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
