"""While another thread changes the trees and takes long for it, calls that need them wait: nobody sees half of it.

The change is made slow here; all else is as it is. The program writes down when each of its calls began and ended.
"""

from __future__ import annotations

import json

from harness.running import Runner, system_python
from security import broken

_SLOW_S = 1.2
_SOON_S = 0.4  # until the loop has given up waiting and parks the trees; and around the end

_SLOW_CHANGE = f"""
import os, time
from sandlockd.handlers.merged import waiting
aside = waiting._aside
def slow_aside(call, act, *more):
    def slowly():
        began = time.monotonic()
        found = act()
        time.sleep({_SLOW_S})
        with open(os.environ["TOLD"], "a") as told:
            told.write(f"{{began}} {{time.monotonic()}}\\n")
        return found
    return aside(call, slowly, *more)
waiting._aside = slow_aside
"""
_NOT_PARKED = """
from sandlockd.kernel.engine import Engine
Engine.park_trees = lambda self, *, parked: None
"""

# The file is open for writing, so that its lock may be held, and another thread makes the change.
_PROGRAM = """
import json, os, threading, time
calls = {
    "stat": lambda: os.stat("lower"),
    "stat of the upper": lambda: os.stat("other"),
    "open": lambda: os.close(os.open("lower", os.O_RDONLY)),
    "access": lambda: os.access("lower", os.R_OK),
    "readlink": lambda: os.readlink("link"),
    "list": lambda: os.listdir("."),
    "make": lambda: os.close(os.open("new", os.O_RDWR | os.O_CREAT)),
    "mkdir": lambda: (os.mkdir("made"), os.rmdir("made")),
    "chmod": lambda: os.chmod("other", 0o600),
    "fstat": lambda: os.fstat(reader),
}
fd = os.open("written", os.O_WRONLY | os.O_CREAT)
os.close(os.open("other", os.O_WRONLY | os.O_CREAT))
reader = os.open("other", os.O_RDONLY)
times = {name: [] for name in calls}
renamed = threading.Thread(target=os.rename, args=("written", "moved"))

def repeat(name):
    while not renamed.ident or renamed.is_alive():
        began = time.monotonic()
        calls[name]()
        times[name].append((began, time.monotonic()))

threads = [threading.Thread(target=repeat, args=(name,)) for name in calls]
for thread in threads:
    thread.start()
time.sleep(0.1)
renamed.start()
for thread in threads:
    thread.join()
print(json.dumps(times))
"""


def _during_the_change(runner: Runner, patch: str) -> dict[str, tuple[int, int]]:
    """Of each call: how many were made while the change was under way, and how many waited for its end."""
    work = runner.place.empty_work()
    (work / "lower").write_text("lower\n")
    (work / "link").symlink_to("lower")
    runner.place.give(work)
    told = runner.place.state / "told"
    ended = broken.run(
        runner,
        patch,
        [system_python(), "-I", "-c", _PROGRAM],
        options=["--workdir", work, "--on-exit", "discard"],
        env={"TOLD": str(told)},
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    lines = told.read_text().splitlines()
    assert len(lines) == 1, "the change was not made aside"
    began, end = map(float, lines[0].split())
    begun, over = began + _SOON_S, end - _SOON_S
    return {
        name: (
            sum(begun < one[0] and one[1] < over for one in times),
            sum(one[0] < begun and one[1] > over for one in times),
        )
        for name, times in json.loads(ended.stdout).items()
    }


def test_who_needs_the_trees_waits_while_they_are_changed(runner: Runner) -> None:
    found = _during_the_change(runner, _SLOW_CHANGE)
    assert found.pop("fstat")[0] > 0  # it asks about an open file alone
    assert found == dict.fromkeys(found, (0, 1))
    assert len(found) == 9


def test_without_parking_the_same_calls_go_on(runner: Runner) -> None:
    found = _during_the_change(runner, _SLOW_CHANGE + _NOT_PARKED)
    assert found["stat"][0] > 0 and found["open"][0] > 0
