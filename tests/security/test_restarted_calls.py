"""Calls that the caller makes in the place of its own: only the answer is made up here, the rest is a run's.

What the program finds is tests/native/test_rewrite*.c's.
"""

from __future__ import annotations

import pytest
from harness.running import Runner, require, system_python
from security import broken

_ANSWER = """
import os
from sandlockd.handlers.answers import Backstop, Restart
from sandlockd.kernel import syscalls
from sandlockd.notify import dispatch

def number(name):
    return syscalls.BY_NAME[name].number(syscalls.native_architecture())

ask = dispatch.Dispatcher._ask

def restarting(self, request):
    args, path = request.args, request.path or b""
    if request.nr == number("execve") and path.endswith(b"/virtual-program"):
        fd = os.open("/bin/echo", os.O_RDONLY | os.O_CLOEXEC)
        end = args[0] + len(path)
        return Restart(Backstop.LANDLOCK_FILES, number("execveat"), (0, end, args[1], args[2], 0x1000, 0), fd, False)
    if path == b"/virtual/place":
        fd = os.open("/usr/lib", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return Restart(Backstop.OWN_DESCRIPTORS, number("fchdir"), (0, *args[1:]), fd, True)
    if path == b"/virtual/refused":
        return Restart(Backstop.OWN_DESCRIPTORS, number("mount"), args, -1, True)
    return ask(self, request)

dispatch.Dispatcher._ask = restarting
"""

_PROGRAM = """
import os, signal, sys
if sys.argv[1] == 'timer':
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
before = os.listdir('/proc/self/fd')
for _ in range(100):
    os.mkdir('/virtual/place')
    assert os.getcwd() == '/usr/lib', os.getcwd()
assert len(os.listdir('/proc/self/fd')) == len(before)
try:
    os.mkdir('/virtual/refused')
except OSError as error:
    print(error.errno, flush=True)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
os.execv(sys.argv[2], ['echo', 'made', 'it'])
"""


@pytest.mark.parametrize("tracer", ["supervisor", "timer"])
@pytest.mark.parametrize("level", ["denials", "all"])
def test_a_call_becomes_another_one(runner: Runner, tracer: str, level: str) -> None:
    """With a timer init traces the program, and does it."""
    policy = runner.policy_file(f'[filesystem]\nbase = true\n[audit]\nlevel = "{level}"\n')
    # It is there, not granted: what is missing is C's to say.
    virtual = runner.place.file("virtual-program", "", 0o755)
    command = [system_python(), "-c", _PROGRAM, tracer, virtual]
    ended = broken.run(runner, _ANSWER, command, options=["--policy", policy])
    assert ended.stdout == b"5\nmade it\n", ended.stderr
    (error,) = [record for record in ended.audit if record["kind"] == "error"]
    assert (error["call"], error["errno"]) == ("mkdir", "EIO")
    if level == "all":
        answers = [
            (record["call"], record["answer"]) for record in ended.audit if record["kind"] == "allowed"
        ]
        assert ("execve", "restarted") in answers and ("mkdir", "restarted") in answers


def test_who_is_traced_by_another_has_no_descriptor_more_for_each_call_that_fails(runner: Runner) -> None:
    """A directory that only the tree has is entered by a descriptor that is given for it; somebody else traces here."""
    require("strace")
    script = "mkdir made; for i in 1 2 3 4 5; do cd made 2>/dev/null; done; ls -l /proc/$$/fd"
    policy = f'[filesystem]\nbase = true\nworkdir = "{runner.work}"\n[syscalls]\nallow = ["ptrace"]\n'
    traced = ["strace", "-f", "-e", "trace=none", "-o", "/dev/null"]
    seen = []
    for line in (["sh", "-c", script], [*traced, "sh", "-c", script]):
        ended = runner.sandboxed(line, policy=policy, cwd=runner.work)
        assert ended.returncode == 0, ended
        seen.append([row.split()[8] for row in ended.stdout.decode().splitlines()[1:]])
    assert seen[0] == seen[1]


def test_a_program_at_its_limit_of_descriptors_is_told_so(runner: Runner) -> None:
    script = (
        "import os, resource\nos.mkdir('made')\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
        "held = []\ntry:\n    while True: held.append(os.dup(0))\nexcept OSError: pass\n"
        "try:\n    os.chdir('made')\nexcept OSError as error: print(error.errno)\n"
        "os.close(held.pop()); os.chdir('made'); print(os.dup(0) == 19, os.path.basename(os.getcwd()))\n"
    )
    options = ["--workdir", runner.work, "--on-exit", "discard"]
    ended = runner.sandboxed([system_python(), "-S", "-c", script], options=options, cwd=runner.work)
    assert ended.stdout == b"24\nTrue made\n", ended
