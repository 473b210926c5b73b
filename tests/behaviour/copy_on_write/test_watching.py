"""Programs that follow files of a tree which others change: the same output as bare."""

from __future__ import annotations

import pytest
from harness.running import Runner, require, system_python

_NODE = """
const fs = require("fs"), seen = [];
fs.watch("dir", (event, name) => {
    seen.push(event + " " + name);
    if (name === "end") { console.log([...new Set(seen)].join("\\n")); process.exit(0); }
});
fs.writeFileSync("ready", "");
"""

# A build watcher: the whole tree, and what was changed is read again.
_WATCHER = """
import ctypes, os, struct
libc, names = ctypes.CDLL(None, use_errno=True), {}
fd = libc.inotify_init1(0)
for path, _, _ in os.walk("."):
    names[libc.inotify_add_watch(fd, path.encode(), 0x3C8)] = path
open("ready", "w").close()
while True:
    data, at = os.read(fd, 65536), 0
    while at < len(data):
        wd, mask, _, size = struct.unpack_from("=iIII", data, at)
        name = data[at + 16 : at + 16 + size].rstrip(b"\\0").decode()
        at += 16 + size
        path = os.path.normpath(names[wd] + "/" + name)
        if name == "ready":
            continue
        print(f"{mask:#x}", path, open(path).read().strip() if mask & 0x88 and os.path.isfile(path) else "")
        if name == "end":
            raise SystemExit
"""

_FILES = {
    "file": "first\n",
    "dir/one": "one\n",
    "dir/two": "two\n",
    "dir/sub/in": "in\n",
    "watch.js": _NODE,
    "watcher.py": _WATCHER,
}

_WAIT = "until [ -e {} ]; do sleep .02; done; "
_SCRIPTS = {
    "tail -f": (
        "tail -n +1 -f file > out & tail=$!; " + _WAIT.format("out") + "sleep .3; echo more >> file;"
        " echo other > new; cat new >> file;"
        " until grep -q other out; do sleep .02; done; kill $tail; cat out",
        "tail",
    ),
    "tail -F": (
        "tail -n +1 -F file > out 2>&1 & tail=$!; " + _WAIT.format("out") + "sleep .3; echo more >> file;"
        " sleep .3; mv file old; sleep .3; echo new > file; until grep -q new out; do sleep .02; done;"
        " rm file; until grep -q 'inaccessible.*' out && sleep .3; do sleep .02; done; kill $tail; cat out",
        "tail",
    ),
    "node": (
        "node watch.js & node=$!; " + _WAIT.format("ready") + "rm ready; echo x >> dir/one; sleep .2;"
        " echo y > dir/new; sleep .2; mv dir/new dir/newer; sleep .2; rm dir/two; sleep .2; chmod 600 dir/sub/in;"
        " sleep .2; mkdir dir/two; sleep .2; echo end > dir/end; wait $node",
        "node",
    ),
    "a build watcher": (
        "{python} watcher.py & watcher=$!; " + _WAIT.format("ready") + "echo 1 >> dir/one; sleep .2;"
        " echo 3 > dir/sub/in; sleep .2; mv dir/sub/in dir/in; sleep .2; rm dir/two; sleep .2; echo 2 > dir/two;"
        " sleep .2; ln -s x dir/link; rm -r dir/sub; sleep .2; echo > end; wait $watcher",
        "sh",
    ),
}


@pytest.mark.one_user
@pytest.mark.parametrize("name", _SCRIPTS)
def test_what_follows_files_is_told_of_changes_as_bare(runner: Runner, name: str) -> None:
    script, program = _SCRIPTS[name]
    require(program)
    line = ["sh", "-c", script.replace("{python}", system_python())]
    told = []
    for sandboxed in (False, True):
        work = runner.place.empty_work()
        for path, content in _FILES.items():
            runner.place.file(f"work/{path}", content)
        runner.place.give(work)
        options = ["--policy", "base", "--workdir", work, "--on-exit", "discard", "--quiet"]
        ended = runner.run(runner.command_line(line, options=options) if sandboxed else line)
        assert ended.returncode == 0, ended
        told.append(ended.stdout.decode())
    assert told[1] == told[0] != ""
