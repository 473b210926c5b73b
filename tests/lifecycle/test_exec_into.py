"""Further programs in a sandbox that runs: behind the same walls, in the same tree, counted, told of, and gone with
it.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness.executing import BASE, executable
from harness.running import Runner, system_python
from harness.survivors import marked, pidfds_of
from harness.terminal import Terminal
from harness.waiting import until, wait_dead

_KILL_LIMIT_S = 0.1


def _tree(runner: Runner, more: str = "") -> str:
    return f'[filesystem]\nbase = true\nworkdir = "{runner.work}"\n{more}'


# ---- what it becomes, and what is told of it


def test_it_runs_and_its_end_is_told(runner: Runner) -> None:
    with executable(runner) as sandbox:
        assert sandbox.run("echo out; echo err >&2").output == b"out\nerr\n"
        assert sandbox.run("exit 7").exit_status == 7
        killed = sandbox.run("kill -SEGV $$").ended()
        assert (killed["signal"], killed["exit_status"]) == (signal.SIGSEGV, 128 + signal.SIGSEGV)
        asked = sandbox.start(["sleep", "1000"])
        assert asked.pid > 0
        asked.signal(signal.SIGTERM)
        assert asked.ended()["signal"] == signal.SIGTERM
        assert asked.ended()["with_sandbox"] is False
    notes = [record for record in runner.audit() if record.get("subject") == "exec"]
    assert [note["pid"] for note in notes][-1] == asked.pid
    assert "sleep 1000" in notes[-1]["text"]


@pytest.mark.parametrize("stdin", ["datagrams", "unconnected", "local", "owned"])
def test_a_descriptor_that_leads_out_of_the_sandbox_is_given_to_none(runner: Runner, stdin: str) -> None:
    with executable(runner) as sandbox:
        refused = sandbox.try_to_start(["cat"], stdin=stdin)
        assert isinstance(refused, dict) and refused["exit_status"] == 125, refused
        why = "has its signals sent to" if stdin == "owned" else "is a socket that is not a connected stream"
        assert f"stdin {why}" in refused["refused"]
        assert sandbox.run("echo on").output == b"on\n"


def test_a_command_that_cannot_be_executed_is_told_as_a_shell_tells_it(runner: Runner) -> None:
    script = runner.place.file("work/plain", "#!/bin/sh\n", mode=0o644)
    secret = runner.place.file("secret/tool", "#!/bin/sh\nexit 0\n", mode=0o755)
    with executable(runner, policy=BASE + f'read = ["{runner.work}"]\n') as sandbox:
        for command, status, words in (
            ("no-such-command", 127, "no-such-command: command not found in PATH"),
            ("/no/such", 127, "/no/such: no such file"),
            ("/etc", 126, "/etc: is a directory"),
            ("/etc/passwd/x", 126, "/etc/passwd/x: Not a directory"),
            (script, 126, f"{script}: not an executable file; chmod +x makes a script one"),
            (secret, 126, f"{secret}: the policy does not let {secret} be executed (default"),
        ):
            ended = sandbox.run([command]).ended()
            assert ended["exit_status"] == status
            assert ended["error"].startswith(words), ended["error"]
        ended = sandbox.run(["true"], cwd="/no/such").ended()
        assert (ended["exit_status"], ended["error"]) == (
            125,
            "/no/such: cannot be entered: No such file or directory",
        )
        refused: Any = sandbox.try_to_start([])
        assert refused == {"refused": "no command was given", "exit_status": 125}
        assert sandbox.run("exit 3").exit_status == 3  # nothing of that does any harm
    assert "default" in {refusal["rule"] for refusal in runner.audit() if refusal["kind"] == "refusal"}


@pytest.mark.one_user
def test_it_starts_as_the_first_program_does(runner: Runner) -> None:
    """Limits, mask, capabilities, priority, session, signals, descriptors: whatever /proc tells, but for numbers."""
    show = (
        "umask; ulimit -a; id; grep -E '^(Cap|NoNewPrivs|Seccomp|Umask|Sig(Blk|Ign|Cgt)|Groups|Cpus|Uid|Gid)' "
        "/proc/self/status; cut -d' ' -f18,19,40,41 /proc/self/stat; ls -l /proc/self/fd | wc -l; "
        "env | grep -v ^_= | sort; pwd"
    )
    policy = (
        BASE
        + f'write = ["{runner.work}"]\n[program]\numask = "027"\n[limits]\nopen_files = 99\nprocesses = 20\n'
    )
    first = ["sh", "-c", f"({show}) >seen; mv seen first; exec sleep 1000"]
    with executable(runner, first, policy) as sandbox:
        until((runner.work / "first").exists, "what the first program shows")
        executed = sandbox.run(f"({show}) >second")
        assert executed.exit_status == 0, executed.output
        assert (runner.work / "second").read_text() == (runner.work / "first").read_text()
        told = sandbox.run("echo $EXTRA; pwd", env={"EXTRA": "given"}, cwd="/usr")
        assert told.output == b"given\n/usr\n"


@pytest.mark.one_user
def test_on_a_terminal_a_shell_has_job_control(runner: Runner) -> None:
    master_fd, slave_fd = os.openpty()
    with ExitStack() as stack:
        stack.callback(os.close, slave_fd)
        if os.geteuid() == 0:
            os.fchown(slave_fd, runner.place.user.uid, runner.place.user.gid)
        sandbox = stack.enter_context(executable(runner))
        shell = sandbox.start(
            ["bash", "--norc", "--noprofile", "-i"], terminal=os.ttyname(slave_fd), env={"PS1": "[prompt]"}
        )
        screen = stack.enter_context(Terminal(shell.pid, master_fd, is_child=False))
        screen.expect(rb"\[prompt\]")
        screen.send(b"stty -echo; tty; echo mine >$(tty); echo also </dev/tty >/dev/tty\r")
        screen.expect(rb"/dev/pts/\d+\r\nmine\r\nalso")
        screen.send(b"sh -c 'echo job-$((40+2)); exec sleep 1000'\r")
        screen.expect(rb"job-42")
        screen.send(b"\x1a")
        screen.expect(rb"Stopped")
        screen.send(b"fg\r")
        until(lambda: screen.foreground_group() != shell.pid, "the job in the foreground again")
        screen.send(b"\x03")
        screen.send(b"echo $((6*7)) $?\r")
        screen.expect(rb"42 130")
        # What is typed there is for nobody else: neither to be read nor to be written.
        other = sandbox.run(f"echo other >{os.ttyname(slave_fd)} || cat {os.ttyname(slave_fd)}")
        assert other.exit_status == 1
        assert other.output.count(b"Permission denied") == 2
        screen.send(b"exit 5\r")
        assert shell.exit_status == 5


# ---- the same tree


def test_it_sees_what_the_first_has_changed_and_the_other_way_round(runner: Runner) -> None:
    runner.place.file("work/old", "old\n")
    runner.place.file("work/gone", "gone\n")
    first = ["sh", "-c", "echo new >old; rm gone; mkdir -p deep/er; echo done >deep/er/made; exec sleep 1000"]
    with executable(runner, first, _tree(runner)) as sandbox:
        seen = sandbox.run("until test -e deep/er/made; do sleep 0.01; done; cat old; ls; cat deep/er/made")
        assert seen.output == b"new\ndeep\nold\ndone\n"
        # Only the upper layer has it: neither the command, nor where it starts, is in the real tree.
        assert (
            sandbox.run("printf '#!/bin/sh\\necho ran $0\\n' >deep/tool; chmod +x deep/tool").exit_status == 0
        )
        assert sandbox.run(["./tool"], cwd="deep").output == b"ran ./tool\n"
        assert sandbox.run(
            "pwd; ls", cwd=runner.work / "deep/er"
        ).output == b"%s/deep/er\nmade\n" % os.fsencode(runner.work)
        assert sandbox.run(["tool"], env={"PATH": f"{runner.work}/deep"}).output.startswith(b"ran ")
        assert sandbox.run(
            "cp /bin/true t; ./t && cd deep && rmdir er; rm er/made; rmdir er; ls"
        ).output.endswith(b"tool\n")
        assert sandbox.run(["true"], cwd="deep/er").ended()["exit_status"] == 125
        assert sorted(os.listdir(runner.work)) == ["gone", "old"]
        assert (runner.work / "old").read_text() == "old\n"


# ---- the same walls


_ATTACKS = r"""
try() { "$@" >/dev/null 2>&1 && echo "WORKED: $*"; }
try cat /etc/shadow
try cat "$SECRET"
try ls "$(dirname "$SECRET")"
try sh -c 'echo broken >"$SECRET"'
try kill -9 "$VICTIM"
try kill -STOP "$VICTIM"
try kill -9 "$INIT"
try kill -9 "$SUPERVISOR"
try ls "/proc/$VICTIM"
try cat "/proc/$VICTIM/environ"
try cat "/proc/$INIT/environ"
try ls "/proc/$SUPERVISOR/fd"
try renice 5 "$VICTIM"
try mount -t tmpfs none /tmp
try unshare -U true
try chroot / true
try chmod 777 "$SECRET"
try ln "$SECRET" here
try python3 -c 'import socket; socket.socket(socket.AF_INET).connect(("127.0.0.1", 9))'
try python3 -c 'import socket; socket.socket(socket.AF_INET).bind(("127.0.0.1", 0))'
try python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'
try python3 -c 'import ctypes, os, sys; sys.exit(ctypes.CDLL(None).ptrace(16, int(os.environ["VICTIM"]), 0, 0) and 1)'
try python3 -c 'import os, signal; signal.pidfd_send_signal(os.pidfd_open(int(os.environ["VICTIM"])), 9)'
try python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None).syscall(425, 8, bytes(120)) < 0)'
echo tried
"""


def test_the_walls_are_those_of_the_first(runner: Runner) -> None:
    secret = runner.place.file("secret/file", "secret\n")
    victim = runner.run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], timeout=20)
    pid = int(victim.stdout)
    own = '\n[proc]\npids = "own"\n'
    try:
        with executable(runner, policy=_tree(runner, own)) as sandbox:
            targets = {
                "SECRET": str(secret),
                "VICTIM": str(pid),
                "INIT": str(sandbox.init),
                "SUPERVISOR": str(sandbox.process.pid),
            }
            executed = sandbox.run(_ATTACKS, env=targets)
            assert executed.output == b"tried\n"
            assert Path(f"/proc/{pid}/stat").read_text().split()[2] in "SR"
            assert secret.read_text() == "secret\n"
            # Its world is that of the first program: both are in it, and nobody else.
            first = int(sandbox.run(["pgrep", "-o", "sleep"]).output)
            shown = sandbox.run(
                f"cd /proc; for number in [0-9]*; do echo $number; done; cat {first}/comm"
            ).output
            assert shown.endswith(b"sleep\n")
            assert {int(word) for word in shown.split()[:-1]} >= {first}
            assert len(shown.split()) == 3  # the shell, too
            assert sandbox.process.poll() is None
        denied = {record["rule"] for record in runner.audit() if record["kind"] == "refusal"}
        assert denied >= {"base.secrets", "default", "law.ptrace"}, denied
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.one_user
def test_who_was_started_later_is_not_within_the_reach_of_the_first_and_no_more(runner: Runner) -> None:
    """Landlock keeps the signals of each within what descends from it."""
    with executable(runner) as sandbox:
        other = sandbox.start(["sleep", "1000"])
        assert sandbox.run(f"kill -9 {other.pid}").exit_status == 1
        assert sandbox.run("sleep 1000 & kill -9 $!; wait $!").exit_status == 137
        other.signal(signal.SIGKILL)
        assert other.ended()["signal"] == signal.SIGKILL


# ---- many


def test_many_of_them_leave_nothing_behind(runner: Runner) -> None:
    with executable(runner, policy=_tree(runner)) as sandbox:
        assert sandbox.run("cat /etc/hostname >copy; ls").exit_status == 0
        until(lambda: sandbox.counts()["index"] == 1, "only the first program is left")
        before = sandbox.counts()
        assert before["listeners"] == 0
        for number in range(50):
            assert sandbox.run(["sh", "-c", f"exit {number}"]).exit_status == number
        many = [sandbox.start(f"cat /etc/passwd >f{number}; exit {number}") for number in range(10)]
        assert [one.exit_status for one in many] == list(range(10))
        until(
            lambda: all(count <= before[name] for name, count in sandbox.counts().items()), "nothing is left"
        )


@pytest.mark.one_user
def test_without_the_pump_all_are_served_as_well(runner: Runner) -> None:
    with executable(runner, policy=_tree(runner), without_pump=True) as sandbox:
        many = [sandbox.start(f"cat /etc/passwd >f{number}; exit {number}") for number in range(5)]
        assert [one.exit_status for one in many] == list(range(5))
        until(lambda: sandbox.counts()["listeners"] == 0, "their listeners are dropped")
    assert "pump" in {record.get("subject") for record in runner.audit()}


@pytest.mark.one_user
def test_the_seventeenth_at_once_is_refused(runner: Runner) -> None:
    with executable(runner) as sandbox:
        many = [sandbox.start(["sleep", "1000"]) for _ in range(15)]
        # What one leaves behind counts as it would.
        left = sandbox.run("sleep 1000 >/dev/null & echo $!")
        until(lambda: sandbox.counts()["listeners"] == 16, "all are served")
        refused = sandbox.try_to_start(["true"])
        assert isinstance(refused, dict)
        assert refused["exit_status"] == 125
        assert refused["refused"].startswith("16 further programs, or what they have left behind, run")
        many[3].signal(signal.SIGKILL)
        assert many[3].exit_status == 137
        until(lambda: sandbox.counts()["listeners"] == 15, "its listener is dropped")
        assert sandbox.run("exit 4").exit_status == 4
        assert Path(f"/proc/{int(left.output)}").exists()


@pytest.mark.one_user
def test_the_limit_of_processes_counts_them(runner: Runner) -> None:
    with executable(runner, policy=BASE + "[limits]\nprocesses = 3\n") as sandbox:
        two = sandbox.start("sleep 1000; true")
        assert two.pid
        until(lambda: len(_children(two.pid)) == 1, "its child")
        refused = sandbox.try_to_start(["true"])
        assert refused == {
            "refused": "limits.processes: 3 processes run in this sandbox already",
            "exit_status": 125,
        }
        os.kill(_children(two.pid)[0], signal.SIGKILL)
        assert two.exit_status == 0
        crowded = sandbox.run("sleep 1000 & sleep 1000 & echo no")
        assert crowded.exit_status == 2 and b"Cannot fork" in crowded.output


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.one_user
def test_the_limit_of_memory_counts_them(runner: Runner) -> None:
    with executable(runner, policy=BASE + '[limits]\nmemory = "64M"\n') as sandbox:
        assert b"MemoryError" in sandbox.run([system_python(), "-c", "bytearray(200 << 20)"]).output
        assert sandbox.run([system_python(), "-c", "bytearray(1 << 20)"]).exit_status == 0


# ---- ends


@pytest.mark.one_user
def test_while_the_first_is_stopped_another_one_runs_and_ends_it(runner: Runner) -> None:
    with executable(runner) as sandbox:
        sandbox.order("signal_first", signal.SIGSTOP)
        assert sandbox.told("stopped")["stopped"] == signal.SIGSTOP
        assert sandbox.run("echo here").output == b"here\n"
        sandbox.order("signal_first", signal.SIGKILL)
        assert sandbox.result()["signal"] == signal.SIGKILL


def test_the_end_of_the_first_is_the_end_of_all(runner: Runner) -> None:
    with executable(runner) as sandbox:
        more = [sandbox.start("trap '' TERM HUP; sleep 1000 & setsid sleep 1000 & wait") for _ in range(3)]
        pidfds = [os.pidfd_open(one.pid) for one in more]
        sandbox.order("signal_first", signal.SIGTERM)
        for one in more:
            assert one.ended()["signal"] == signal.SIGKILL
            assert one.ended()["with_sandbox"] is True
        assert sandbox.result()["signal"] == signal.SIGTERM
        wait_dead(pidfds)
        for pidfd in pidfds:
            os.close(pidfd)
        assert [one.command for one in marked(runner.marker) if one.command == "sleep"] == []


@pytest.mark.alone
def test_a_killed_supervisor_takes_them_with_it_at_once(runner: Runner) -> None:
    runner.may_leave_temporary = True
    with executable(runner) as sandbox:
        for _ in range(3):
            sandbox.start("setsid sleep 1000 & exec sleep 1000")
        until(lambda: sum(one.command == "sleep" for one in marked(runner.marker)) == 7, "all of them")
        with pidfds_of(runner.marker, but=sandbox.process.pid) as pidfds:
            assert len(pidfds) == 8  # init, too
            sandbox.process.kill()
            took_s = wait_dead(pidfds)
        assert marked(runner.marker) == []
        assert took_s < _KILL_LIMIT_S
        sandbox.has_ended = True
