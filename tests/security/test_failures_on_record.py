"""Law 3: what fails refuses, and the log has the cause. The program gets an errno; the record says why."""

from __future__ import annotations

import os
from typing import Any

import pytest
from harness.running import Ended, Runner, system_python
from security import broken
from security.raw_calls import AT_FDCWD, Bytes, Script

_NOFILE = 7


def test_an_injection_that_the_programs_own_limit_prevents(runner: Runner) -> None:
    script = Script()
    script.setrlimit(_NOFILE, Bytes((3).to_bytes(8, "little") * 2))
    for _ in range(3):
        script.openat(AT_FDCWD, b"/proc/self/status", os.O_RDONLY)
    bare = script.bare(runner)
    outcomes, ended = script.sandboxed(runner)
    assert [o.error for o in outcomes] == [o.error for o in bare] == ["", "EMFILE", "EMFILE", "EMFILE"]
    # Told after the program has its errno: the last may be of a process that has ended, without its name.
    notes = {r["number"]: r for r in ended.audit if r["kind"] == "note"}.values()
    assert {note["subject"] for note in notes} == {"descriptor-limit"}
    assert sum(note["count"] for note in notes) == 3
    assert all("openat" in note["text"] and "RLIMIT_NOFILE" in note["text"] for note in notes)
    assert all(note["pid"] > 0 for note in notes)
    assert ended.status is not None and ended.status["denials"] == 0  # bare says the same


def test_an_injection_that_fails_otherwise(runner: Runner) -> None:
    """The kernel injects no O_PATH descriptor (EBADF): the program gets EIO, never somebody else's object."""
    patch = (
        "from sandlockd.handlers import procfiles\nfrom sandlockd.handlers.answers import Fd\nimport os\n"
        "procfiles._serve = lambda *a, **k: Fd(os.open('/', os.O_PATH | os.O_CLOEXEC), False)\n"
    )
    script = Script()
    script.openat(AT_FDCWD, b"/proc/self/status", os.O_RDONLY)
    ended = broken.run(
        runner, patch, script.command(runner), options=["--read", runner.place.root / "script"]
    )
    assert [o.error for o in script.results(ended.stdout)] == ["EIO"]
    (error,) = [r for r in ended.audit if r["kind"] == "error" and r["command"] != "sandlockd-init"][-1:]
    assert (error["call"], error["errno"], error["rule"]) == ("openat", "EIO", "law.errors_refuse")
    assert "could not be handed over" in error["traceback"] and os.strerror(9) in error["traceback"]


def test_an_answer_that_cannot_be_sent(runner: Runner) -> None:
    """The kernel refuses the answer (EINVAL): the program gets EIO instead of waiting for ever."""
    patch = (
        "from sandlockd.kernel.engine import Engine\n"
        "def broken(self, slot, value):\n    self.answer_errno(slot, 5)\n    return -22\n"
        "Engine.answer_value = broken\n"
    )
    made = runner.place.file("work/file", "text")
    script = Script()
    script.chmod(made, 0o600)
    options = ["--read", runner.place.root / "script", "--write", runner.work]
    ended = broken.run(runner, patch, script.command(runner), options=options)
    assert [o.error for o in script.results(ended.stdout)] == ["EIO"]
    (error,) = [r for r in ended.audit if r["kind"] == "error"]
    assert (error["call"], error["errno"]) == ("chmod", "EIO")
    assert "could not be sent" in error["traceback"] and os.strerror(22) in error["traceback"]
    assert ended.status is not None and ended.status["denials"] == 1


_WAITING = """
import os, sys, threading, time
os.mkfifo('fifo')
errors, lock = [], threading.Lock()
def wait():
    try: os.close(os.open('fifo', os.O_RDONLY))
    except OSError as error:
        with lock: errors.append(error.errno)
threading.stack_size(65536)
threads = [threading.Thread(target=wait) for _ in range(300)]
for thread in threads: thread.start()
while len(errors) < 300 - 256: time.sleep(0.01)
print(sorted(set(errors)), len(errors), flush=True)
os._exit(0)
"""


def _errors(ended: Ended) -> list[dict[str, Any]]:
    """The last word of each record. More than one where the program had ended before it was asked for its name."""
    return list({r["number"]: r for r in ended.audit if r["kind"] == "error"}.values())


def test_more_waiting_opens_than_there_are_workers(runner: Runner) -> None:
    """256 opens of a FIFO on a spine may wait; those beyond get EAGAIN, and each is on record."""
    options = ["--write", runner.work, "--deny", runner.work / "denied"]
    ended = runner.sandboxed([system_python(), "-S", "-c", _WAITING], options=options, timeout=60)
    assert ended.stdout == b"[11] 44\n", ended.stderr[-500:]
    errors = _errors(ended)
    assert {(error["errno"], error["path"]) for error in errors} == {("EAGAIN", "fifo")}
    assert sum(error["count"] for error in errors) == 44
    assert all("256 calls" in error["traceback"] for error in errors)


def test_a_full_ledger(runner: Runner) -> None:
    """With no slot left the program gets ENOMEM, and the record says what was full."""
    patch = (
        "from sandlockd.kernel import engine\nimport mmap, struct\n"
        "attach = engine.Engine.attach\n"
        "def fill(self, listener):\n"
        "    attach(self, listener)\n"
        "    drained, full = self.pump, []\n"
        "    def pump(other, timeout):\n"
        "        if full:\n"
        "            with mmap.mmap(self.ledger.file.fd, 4096 * 120) as slots:\n"  # struct slk_slot
        "                for at in range(0, 4096 * 120, 120):\n"
        "                    struct.pack_into('=I', slots, at + 72, 1)\n"  # its phase
        "        state, requests, due = drained(other, timeout)\n"
        "        full.extend(r for r in requests if r.path == b'/fill-the-ledger')\n"
        "        return state, requests, due\n"
        "    self.pump = pump\n"
        "engine.Engine.attach = fill\n"
    )
    script = Script()
    script.openat(AT_FDCWD, b"/fill-the-ledger", os.O_RDONLY | os.O_CREAT, 0o600)
    script.openat(AT_FDCWD, b"/proc/self/status", os.O_RDONLY)
    script.openat(AT_FDCWD, b"/etc/hostname", os.O_RDONLY)
    ended = broken.run(
        runner, patch, script.command(runner), options=["--read", runner.place.root / "script"]
    )
    assert [o.error for o in script.results(ended.stdout)][1:] == ["ENOMEM"] * 2
    errors = _errors(ended)
    assert {(error["call"], error["errno"]) for error in errors} == {("openat", "ENOMEM")}
    assert sum(error["count"] for error in errors) == 2
    assert all("ledger is full" in error["traceback"] for error in errors)
    assert "not a matter of policy" in runner.sandlockd("explain", "--last").stdout.decode()


@pytest.mark.parametrize("count", [100, 5000, 65536])
def test_a_program_with_many_groups(runner: Runner, count: int) -> None:
    """What its groups allow, and what they do not, is the same as bare: on a spine and below /proc, by each of them."""
    if not runner.place.user.is_root:
        pytest.skip("taking groups on needs root")
    first, last = 100_000, 100_000 + count - 1
    shared = runner.work / "shared"
    shared.mkdir()
    for group in (first, last, last + 1):
        path = shared / f"of-{group}"
        path.write_text(str(group))
        os.chown(path, 0, group)
        path.chmod(0o040)
    shared.chmod(0o755)
    program = (
        "import os\n"
        f"os.setgroups(range({first}, {last} + 1)); os.setresgid(4242, 4242, 4242); os.setresuid(4242, 4242, 4242)\n"
        f"for group in ({first}, {last}, {last + 1}):\n"
        f"    try: print(open(f'{shared}/of-{{group}}').read())\n"
        "    except OSError as error: print(error)\n"
        "    try: os.chmod(f'{shared}/of-{group}', 0o640)\n"
        "    except OSError as error: print(error.errno)\n"
        "print(open('/proc/self/comm').read(), len(os.getgroups()))\n"
    ).replace("{shared}", str(shared))
    command = [system_python(), "-S", "-c", program]
    bare = runner.bare(command)
    options = ["--write", runner.work, "--deny", shared / "denied"]
    ended = runner.sandboxed(command, options=options, timeout=60)
    assert ended.stdout == bare.stdout and bare.stdout.count(b"Permission denied") == 1, ended.stderr[-600:]
    assert ended.refusals == []
