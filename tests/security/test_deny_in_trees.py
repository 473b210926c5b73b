"""`deny` within a copy-on-write tree: what is denied is neither read nor changed, as the program sees it either."""

from __future__ import annotations

import json
from typing import Any

from harness.running import Runner, system_python
from security import broken

_SECRET = "the-canary-denied"
_ATTACK = """
import json, os
found, done = "", []
def tried(name, act):
    global found
    try:
        got = act()
        done.append(name)
        if isinstance(got, bytes): found += got.decode("latin-1")
    except OSError:
        pass
def read(path):
    with open(path, "rb") as file: return file.read()
def wrote(path, flags):
    fd = os.open(path, flags); os.write(fd, b"x"); os.close(fd)
os.symlink("secret", "to-secret"); os.symlink("hole", "to-hole")
for way in ("secret", "hole/in", "to-secret", "to-hole/in", "dir/../secret", "/proc/self/cwd/secret"):
    tried(f"read {way}", lambda: read(way))
    tried(f"write {way}", lambda: wrote(way, os.O_WRONLY))
    tried(f"empty {way}", lambda: wrote(way, os.O_WRONLY | os.O_TRUNC))
    tried(f"truncate {way}", lambda: os.truncate(way, 1))
    tried(f"chmod {way}", lambda: os.chmod(way, 0o600))
    tried(f"utime {way}", lambda: os.utime(way, (1, 1)))
    tried(f"attribute {way}", lambda: os.setxattr(way, "user.x", b"1"))
    tried(f"run {way}", lambda: os.execv(way, [way]))
for name in ("secret", "hole/in", "dir/../secret"):
    tried(f"link {name}", lambda: os.link(name, "linked"))
    tried(f"read by link {name}", lambda: read("linked"))
    tried(f"rename {name}", lambda: os.rename(name, "moved"))
    tried(f"replace {name}", lambda: os.rename("plain", name))
    tried(f"unlink {name}", lambda: os.unlink(name))
for act, name in ((os.listdir, "hole"), (os.rmdir, "hole"), (lambda p: os.rename(p, "hole2"), "hole"),
                  (lambda p: wrote(p + "/new", os.O_CREAT | os.O_WRONLY), "hole"),
                  (lambda p: os.mkdir(p + "/d"), "hole"),
                  (lambda p: os.symlink("x", p + "/l"), "hole"), (lambda p: os.mkfifo(p + "/f"), "hole")):
    tried(f"{act} {name}", lambda: act(name))
print(json.dumps({"found": found, "done": done, "plain": os.path.exists("plain")}))
"""


def _run(runner: Runner, patch: str = "") -> dict[str, Any]:
    for name, content in (("secret", _SECRET), ("hole/in", _SECRET), ("plain", "plain"), ("dir/x", "")):
        runner.place.file(f"work/{name}", content, 0o755)
    runner.place.give(runner.work)
    options: list[Any] = ["--workdir", runner.work, "--on-exit", "discard"]
    options += ["--deny", runner.work / "secret", "--deny", runner.work / "hole"]
    ended = broken.run(
        runner, patch, [system_python(), "-S", "-c", _ATTACK], options=options, cwd=runner.work
    )
    assert ended.returncode == 0, ended
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def test_nothing_is_done_to_what_is_denied(runner: Runner) -> None:
    told = _run(runner)
    assert _SECRET not in told["found"]
    assert told["plain"]
    assert told["done"] == []


def test_it_would_be_if_nobody_looked(runner: Runner) -> None:
    names = ("changing", "naming", "opening", "moving", "seeing", "doing")
    text = "".join(
        f"from sandlockd.handlers.merged import {name}\n"
        f"if hasattr({name}, 'denied'): {name}.denied = lambda *a, **k: None\n"
        for name in names
    )
    assert _run(runner, text)["done"]
