"""A supervisor of the service dies, and its sandbox does not notice: another is in its place (sandbox/keeping.py)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.places import tree_of
from harness.running import Runner
from harness.service import Served, service
from harness.survivors import marked
from harness.waiting import until

# Each round makes every kind of name, twice where the second must fail, and looks whether it is so.
_ROUNDS = r"""
set -u
fail() { echo "round $i: $1" >&2; exit 3; }
i=0
while [ $i -lt $1 ]; do
	i=$((i+1))
	mkdir d$i || fail mkdir
	mkdir d$i 2>/dev/null && fail "mkdir twice"
	echo $i > d$i/f || fail create
	(set -C; echo x > d$i/f) 2>/dev/null && fail "create twice"
	ln d$i/f d$i/l || fail link
	ln d$i/f d$i/l 2>/dev/null && fail "link twice"
	ln -s f d$i/s || fail symlink
	mv d$i/f d$i/g || fail rename
	[ -e d$i/f ] && fail "renamed, and there"
	[ "$(cat d$i/l)" = $i ] || fail content
	chmod 640 d$i/g || fail chmod
	mkfifo d$i/p || fail mkfifo
	rm d$i/p d$i/s d$i/l || fail unlink
	rm old$i && [ ! -e old$i ] || fail "unlink of an old one"
	mv moved$i kept$i || fail "rename of an old one"
	echo more >> changed$i || fail append
	[ $((i % 3)) = 0 ] || rm -r d$i || fail rmdir
done
echo done
"""
_NUMBER = 80


def _furnish(work: Path, runner: Runner) -> None:
    for i in range(1, _NUMBER + 1):
        for name in ("old", "moved", "changed"):
            runner.place.give(_written(work / f"{name}{i}", f"{name} {i}\n"))


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _killing(served: Served, identifier: str, chance: random.Random, pause_s: float, most: int) -> int:
    """While the program runs. Returns when all has ended: how many supervisors died."""
    path = f"/v1/sandboxes/{identifier}"
    kills = 0
    while (shown := served.get(path))["ended"] is None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            pid = shown["pid"]
            if shown["keeper_pid"] is not None and kills < most and _children(pid):
                os.kill(shown["supervisor_pid"], signal.SIGKILL)
                kills += 1
        time.sleep(chance.random() * pause_s)
    return int(served.get(path)["supervisor_deaths"])


def test_what_a_program_does_happens_once(
    runner: Runner, soak: bool, measured: Callable[[str, object], None]
) -> None:
    """Each name that it makes, moves and removes, whenever its supervisors are killed; bare leaves the same tree."""
    _furnish(runner.work, runner)
    runner.bare(["sh", "-c", _ROUNDS, "sh", str(_NUMBER)])
    wanted = {path: _without_times(entry) for path, entry in tree_of(runner.work).items()}
    for turn in range(10 if soak else 1):
        work = runner.place.empty_work()
        _furnish(work, runner)
        with service(runner) as served:
            command = ["sh", "-c", _ROUNDS, "sh", str(_NUMBER)]
            made = served.run(command, workdir=str(work), on_exit="commit")
            deaths = _killing(served, made["id"], random.Random(turn), 0.3, 50)
            ended = served.wait(made["id"])
            assert served.output(made["id"], "stderr") == b"", served.ask(
                "GET", f"/v1/sandboxes/{made['id']}/denials"
            ).content
            assert (ended["exit_status"], served.output(made["id"])) == (0, b"done\n")
            assert {path: _without_times(entry) for path, entry in tree_of(work).items()} == wanted
            measured("deaths", deaths)
            assert deaths >= 3
            served.remove_all()


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def _without_times(entry: Any) -> Any:
    return entry._replace(mtime_ns=0) if hasattr(entry, "mtime_ns") else entry


def test_whatever_the_supervisor_is_told_is_done_by_the_next_one(runner: Runner) -> None:
    with service(runner) as served:
        waits = ["sh", "-c", "trap 'echo told; exit 5' TERM; while :; do sleep 0.01; done"]
        for verb in ("stop", "kill"):
            made = served.run(waits)
            path = f"/v1/sandboxes/{made['id']}"
            served.kill_supervisor(made["id"])
            until(lambda at=path: served.get(at)["supervisor_deaths"] == 1, "it was replaced")  # type: ignore[misc]
            now = served.get(path)
            assert now["state"] == "running" and now["supervisor_pid"] != made["supervisor_pid"]
            assert now["pid"] == made["pid"]
            until(lambda at=path: _names(served, at)[:1] == ["sh"], "it is executed")  # type: ignore[misc]
            assert served.post(f"{path}/pause")["state"] == "paused"
            served.kill_supervisor(made["id"])
            until(lambda at=path: served.get(at)["supervisor_deaths"] == 2, "it was replaced")  # type: ignore[misc]
            assert served.post(f"{path}/resume")["state"] == "running"
            ended = served.post(f"{path}/{verb}")
            assert (ended["exit_status"], ended["rule"]) == ((5, None) if verb == "stop" else (137, "kill"))
        events = served.ask("GET", "/v1/events?follow=false").content.decode()
        assert events.count("supervisor-replaced") == 4
        served.remove_all()


def _names(served: Served, path: str) -> list[str]:
    return [str(one["name"]) for one in served.get(f"{path}/processes")["processes"]]


def test_further_programs_go_on(runner: Runner) -> None:
    script = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); mkdir e && rmdir e || exit 9; done; echo it is done; exit 7"
    with service(runner) as served:
        made = served.run(["sleep", "1000"], workdir=str(runner.work))
        path = f"/v1/sandboxes/{made['id']}"
        one = served.post(f"{path}/exec", {"command": ["sh", "-c", script]})
        for _ in range(4):
            time.sleep(0.05)
            served.kill_supervisor(made["id"])
        number = one["number"]
        until(lambda: served.get(f"{path}/exec/{number}")["exit_status"] is not None, "it has ended")
        assert served.get(f"{path}/exec/{number}")["exit_status"] == 7
        # And others are started.
        served.kill_supervisor(made["id"])
        until(lambda: served.get(path)["supervisor_deaths"] == 5, "it was replaced")
        other = served.post(f"{path}/exec", {"command": ["sh", "-c", "mkdir e; ls -d e; exit 6"]})
        until(lambda: served.get(f"{path}/exec/{other['number']}")["exit_status"] is not None, "it has ended")
        assert served.get(f"{path}/exec/{other['number']}")["exit_status"] == 6
        served.post(f"{path}/kill")
        served.remove_all()


def test_a_further_program_is_served_after_others_have_ended(runner: Runner) -> None:
    """Its listener has the place of one that is no more. And a command may be longer than what a keeper takes."""
    script = "i=0; while [ $i -lt 150 ]; do i=$((i+1)); mkdir $0 && rmdir $0 || exit 9; done; exit 7"
    with service(runner) as served:
        made = served.run(["sleep", "1000"], workdir=str(runner.work))
        path = f"/v1/sandboxes/{made['id']}"

        def started(*command: str) -> int:
            return int(served.post(f"{path}/exec", {"command": command})["number"])

        def ended(number: int) -> bool:
            return served.get(f"{path}/exec/{number}")["exit_status"] is not None

        until(lambda: served.get(path)["keeper_pid"], "it is kept")
        keeper = served.get(path)["keeper_pid"]
        before = len(os.listdir(f"/proc/{keeper}/fd"))
        for _ in range(8):
            number = started("true")
            until(lambda at=number: ended(at), "it has ended")  # type: ignore[misc]
        first = started("sleep", "1000")
        living = [started("sh", "-c", script, "one")]
        served.post(f"{path}/exec/{first}/signal", {"signal": "KILL"})
        until(lambda: ended(first), "it has ended")
        living.append(started("sh", "-c", script, "other"))  # before the other one
        started("true", *["x" * 100_000] * 10)
        assert len(os.listdir(f"/proc/{keeper}/fd")) <= before + 4
        for _ in range(4):
            time.sleep(0.05)
            served.kill_supervisor(made["id"])
        for number in living:
            until(lambda at=number: ended(at), "it has ended")  # type: ignore[misc]
            assert served.get(f"{path}/exec/{number}")["exit_status"] == 7
        assert served.get(path)["keeper_pid"] == keeper
        served.post(f"{path}/kill")
        served.remove_all()


_TAKES = r"""
import os, sys, time
try:
    while not os.path.exists("go"):
        time.sleep(0.01)
    taken = []
    for _ in range(100):
        taken.append(bytearray(os.urandom(1 << 20)))
except MemoryError:
    print("no more"); sys.exit(4)
"""


_FORKS = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; wait"
_FILLS = "dd if=/dev/zero of=big bs=1M count=30; echo written"


@pytest.mark.parametrize("limit", ["memory", "processes", "disk"])
def test_limits_hold_on(runner: Runner, limit: str) -> None:
    """Counted anew by whoever takes over."""
    sizes = {"memory": '"64M"', "processes": "8", "disk": '"8M"'}
    command = {
        "memory": ["python3", "-c", _TAKES],
        "processes": ["bash", "-c", _FORKS],
        "disk": ["sh", "-c", _FILLS],
    }[limit]
    gate = ["sh", "-c", 'while [ ! -e go ]; do sleep 0.01; done; exec "$@"', "sh"]
    with service(runner) as served:
        text = f"[limits]\n{limit} = {sizes[limit]}\n"
        made = served.run(
            [*gate, *command],
            workdir=str(runner.work),
            policies=["base"],
            policy_text=text,
            on_exit="discard",
        )
        path = f"/v1/sandboxes/{made['id']}"
        served.kill_supervisor(made["id"])
        until(lambda: served.get(path)["supervisor_deaths"] == 1, "it was replaced")
        served.post(f"{path}/exec", {"command": ["touch", "go"]})
        ended = served.wait(made["id"])
        out, err = served.output(made["id"]), served.output(made["id"], "stderr")
        if limit == "processes":
            assert b"fork" in err, (ended, err)
        else:
            assert ended["reason"] == limit or b"no more" in out, (ended, out, err)
            assert b"written" not in out
        served.remove_all()


def test_refusals_are_counted_on(runner: Runner) -> None:
    """Each of another file: of repeats only some are told."""
    files = [runner.place.file(f"secret{number}", "x") for number in (1, 2, 3)]
    script = 'for i in 1 2 3; do cat "$1"; shift; while [ ! -e go$i ]; do sleep 0.02; done; done; true'
    with service(runner) as served:
        made = served.run(["sh", "-c", script, "sh", *files])
        path = f"/v1/sandboxes/{made['id']}"
        for count in (1, 2, 3):
            until(lambda at=count: served.get(path)["denials"] >= at, "a refusal")  # type: ignore[misc]
            served.kill_supervisor(made["id"])
            (runner.work / f"go{count}").touch()
        ended = served.wait(made["id"])
        assert ended["exit_status"] == 0
        # One that was on record, and not answered yet, is on record again.
        assert 3 <= ended["denials"] <= 6
        served.remove_all()


def test_one_that_lost_its_keeper_goes_on_and_ends_with_the_next_death(runner: Runner) -> None:
    runner.may_leave_temporary = True
    with service(runner) as served:
        made = served.run(["sh", "-c", "while :; do mkdir a && rmdir a; done"], workdir=str(runner.work))
        path = f"/v1/sandboxes/{made['id']}"
        until(lambda: served.get(path)["keeper_pid"], "it is kept")
        os.kill(served.get(path)["keeper_pid"], signal.SIGKILL)
        until(lambda: served.get(path)["keeper_pid"] is None, "that is told")
        log = next(served.state.glob("runs/*/audit.jsonl"))
        until(lambda: b'"subject":"keeper"' in log.read_bytes(), "it is noted")
        assert served.get(path)["state"] == "running"
        assert served.get(f"{path}/processes")["processes"]
        os.kill(served.get(path)["supervisor_pid"], signal.SIGKILL)
        ended = served.wait(made["id"])
        assert (ended["state"], ended["error"]) in [
            ("failed", "its supervisor was lost"),
            ("kept", "its supervisor was lost"),
        ]
        until(lambda: not [one for one in marked(runner.marker) if one.command == "sh"], "nobody is left", 2)


_WORK = r"""
set -e
for i in $(seq 30); do printf 'int f%d(int a) { return a + %d; }\n' $i $i > a$i.c; done
echo 'int main(void) { return 0; }' > main.c
printf 'ALL = $(patsubst %%.c,%%.o,$(sort $(wildcard *.c)))\nprogram: $(ALL)\n\tcc -o $@ $(ALL)\n' > Makefile
make -s -j2
./program
for i in $(seq 40); do echo a | cat | cat > /dev/null; done
git init -q one
cd one
git config user.email a@b.c; git config user.name n
cp ../*.c .
git add .
git -c gc.auto=0 commit -q -m all --date "2020-01-01T00:00:00Z"
cd ..
git clone -q one two
git -C two fsck --no-progress
git -C two log --format=%T
rm -rf one/.git two/.git
python3 -m venv --without-pip env
env/bin/python -c 'import sys; print(sys.prefix == sys.base_prefix)'
rm -rf env
sha256sum *.o | sha256sum
echo end
"""


def test_whole_programs_do_not_notice(
    runner: Runner, soak: bool, measured: Callable[[str, object], None]
) -> None:
    """make, a pipeline loop of dash, git and a python venv: the output and the tree that undisturbed ones have."""
    environment = {"GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z", "GIT_CONFIG_GLOBAL": "/dev/null"}
    wanted = runner.bare(["dash", "-c", _WORK], env=environment)
    assert wanted.returncode == 0, wanted.stderr
    files = _digests(runner.work)
    for turn in range(10 if soak else 1):
        work = runner.place.empty_work()
        with service(runner) as served:
            request = {"environment": {**runner.environment(), **environment}, "on_exit": "commit"}
            made = served.run(["dash", "-c", _WORK], workdir=str(work), **request)
            deaths = _killing(served, made["id"], random.Random(turn), 0.2, 50)
            ended = served.wait(made["id"])
            assert served.output(made["id"], "stderr") == wanted.stderr
            assert served.output(made["id"]) == wanted.stdout
            assert ended["exit_status"] == 0, json.dumps(ended)
            assert _digests(work) == files
            measured("deaths", deaths)
            assert deaths >= 3
            served.remove_all()


def _digests(work: Path) -> dict[str, str]:
    return {
        str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(work.rglob("*"))
        if path.is_file() and path.name != "Makefile~"
    }


@pytest.mark.one_user
def test_the_object_says_who_keeps_it(runner: Runner) -> None:
    with service(runner) as served:
        made = served.run(["sleep", "1000"])
        path = f"/v1/sandboxes/{made['id']}"
        until(lambda: served.get(path)["keeper_pid"], "it is kept")
        keeper = served.get(path)["keeper_pid"]
        assert Path(f"/proc/{keeper}/comm").read_text() == "sandlockd-keep\n"
        served.post(f"{path}/kill")
        until(lambda: not Path(f"/proc/{keeper}").exists(), "it has gone")
        assert json.loads(json.dumps(served.get(path)))["keeper_pid"] is None
        served.remove_all()
