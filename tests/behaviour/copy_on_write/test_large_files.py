"""To free what a large file holds takes a tenth of a second for each gigabyte, and here it is a quarter of one. Bare,
whoever removes it waits for that alone, and so he does in a tree: others are served meanwhile.
"""

from __future__ import annotations

import json

import pytest
from harness.running import Runner, system_python

_PROGRAM = """
import json, os, sys, time

def replace():
    open("new", "wb").close()
    os.rename("new", "big")

ACTS = {
    "unlink": lambda: os.unlink("big"),
    "replace": replace,
    "truncate": lambda: os.truncate("big", 1),
    "empty": lambda: os.close(os.open("big", os.O_WRONLY | os.O_TRUNC)),
}
chunk = bytes(1 << 20)
with open("big", "wb") as big:
    for _ in range(256):
        big.write(chunk)
open("other", "wb").close()
over, told = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(over[1])
    os.set_blocking(over[0], False)
    looks = []
    while True:
        os.stat("other")
        looks.append(time.monotonic())
        try:
            if not os.read(over[0], 1):
                break
        except BlockingIOError:
            pass
        if len(looks) == 1:
            os.write(told[1], b"!")
    with open("looks", "w") as file:
        json.dump(looks, file)
    os._exit(0)
os.close(over[0])
os.read(told[0], 1)
begun = time.monotonic()
ACTS[sys.argv[1]]()
ended = time.monotonic()
os.close(over[1])
os.waitpid(child, 0)
with open("looks") as file:
    looks = [begun < at < ended for at in json.load(file)]
size = os.stat("big").st_size if os.path.exists("big") else None
print(json.dumps({"size": size, "looks": sum(looks), "took": ended - begun}))
"""

# One may be answered before the other call, another one together with it.
_LOOKS = 10


@pytest.mark.parametrize("act", ["unlink", "replace", "truncate", "empty"])
def test_others_are_served_while_the_space_of_a_large_file_is_freed(runner: Runner, act: str) -> None:
    line = [system_python(), "-I", "-c", _PROGRAM, act]
    bare = runner.bare(line, timeout=120)
    assert bare.returncode == 0, bare.stderr.decode()
    options = ["--workdir", runner.place.empty_work(), "--on-exit", "discard"]
    sandboxed = runner.sandboxed(line, options=options, timeout=120)
    assert sandboxed.returncode == 0, sandboxed.stderr.decode()
    expected, found = json.loads(bare.stdout), json.loads(sandboxed.stdout)
    assert found["size"] == expected["size"]
    assert found["looks"] > _LOOKS, found


# Who watches has every file that it has open waited for by another thread before a name of it goes.
_ENDED_MEANWHILE = """
import ctypes, os, sys, threading, time

libc = ctypes.CDLL(None)
os.mkdir("watched")
assert libc.inotify_add_watch(libc.inotify_init1(0), b"watched", 0xFFF) > 0
chunk = os.urandom(1 << 20)
with open("big", "wb") as big:
    for _ in range(256):
        big.write(chunk)
threading.Thread(target=lambda: os.unlink("big"), daemon=True).start()
time.sleep(float(sys.argv[1]))
os._exit(0)
"""


@pytest.mark.one_user
@pytest.mark.parametrize("after_s", [0, 0.003, 0.01, 0.02])
def test_a_program_that_ends_meanwhile_has_its_change_made_or_not(runner: Runner, after_s: float) -> None:
    """What goes on in another thread then needs all that the end of a run releases."""
    work = runner.place.empty_work()
    line = [system_python(), "-I", "-c", _ENDED_MEANWHILE, str(after_s)]
    options = ["--workdir", work, "--on-exit", "commit", "--status-file", runner.status_path]
    for _ in range(3):
        ended = runner.sandboxed(line, options=options, timeout=120)
        assert (ended.returncode, ended.stderr) == (0, b"")
        status = runner.status()
        assert status is not None and status["changes"]["state"] == "committed"
        left = {path.name for path in work.iterdir()}
        assert left in ({"watched"}, {"watched", "big"})
        for path in work.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
