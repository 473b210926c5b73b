"""/proc: of other processes, of the machine, by every road that leads there."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest
from harness.running import Runner, system_python
from harness.waiting import line_of
from security import broken
from security.canaries import SECRET, outside, victim
from security.raw_calls import AT_FDCWD, Buffer, Bytes, Outcome, Script, program

_OF_A_PROCESS = (
    "environ cmdline mem maps smaps pagemap auxv stat status io fd fdinfo/3 fd/10 fd/11 fd/12 cwd root exe ns/mnt"
    " task stack syscall mountinfo attr/current map_files oom_score_adj"
).split()


def _read(script: Script, path: bytes | str, flags: int = os.O_RDONLY | os.O_NONBLOCK) -> None:
    script.read(script.openat(AT_FDCWD, path, flags), Buffer(4096), 4096)


def _leaks(outcomes: list[Outcome], script: Script) -> list[str]:
    return [
        script.lines[index - 1]
        for index, outcome in enumerate(outcomes)
        if script.names[index] in ("read", "pread64", "getdents64") and (outcome.ok or SECRET in outcome.data)
    ]


def _opened(outcomes: list[Outcome], script: Script) -> list[str]:
    """What could be opened, looking apart."""
    return [
        script.lines[index]
        for index, outcome in enumerate(outcomes)
        if outcome.ok and script.names[index] in ("openat", "open", "openat2")
    ]


def _roads(pid: int, work: Path) -> Script:
    """Every file of the process, by its number, through links, by descriptors of directories, by dots."""
    script = Script()
    for name in _OF_A_PROCESS:
        _read(script, f"/proc/{pid}/{name}")
        _read(script, f"/proc/self/../{pid}/{name}")
        _read(script, f"/proc/self/root/proc/{pid}/{name}")
        _read(script, f"/proc/{pid}/task/{pid}/{name}")
        _read(script, f"//proc/./{pid}//{name}")
        _read(script, f"/proc/self/cwd/{'../' * 12}proc/{pid}/{name}")
    script.symlink(f"/proc/{pid}".encode(), work / "process")
    script.symlink(b"/proc", work / "proc")
    script.symlink(b"/proc/self/root", work / "root")
    for name in _OF_A_PROCESS:
        _read(script, f"{work}/process/{name}")
        _read(script, f"{work}/proc/{pid}/{name}")
        _read(script, f"{work}/root/proc/{pid}/{name}")
    proc = script.openat(AT_FDCWD, b"/proc", os.O_PATH)
    of_it = script.openat(AT_FDCWD, f"/proc/{pid}", os.O_PATH)
    for name in _OF_A_PROCESS:
        script.read(script.openat(proc, f"{pid}/{name}", os.O_NONBLOCK), Buffer(4096), 4096)
        script.read(script.openat(proc, f"self/../{pid}/{name}", os.O_NONBLOCK), Buffer(4096), 4096)
        script.read(script.openat(of_it, name, os.O_NONBLOCK), Buffer(4096), 4096)
        how = Bytes(struct.pack("=QQQ", os.O_NONBLOCK, 0, 0x08))
        script.read(script.openat2(of_it, name, how, 24), Buffer(4096), 4096)
    return script


def test_the_files_of_a_process_outside(runner: Runner) -> None:
    with victim(runner) as (process, _):
        script = _roads(process.pid, runner.work)
        bare = script.bare(runner)
        assert sum(SECRET in outcome.data for outcome in bare) > 20
        runner.place.empty_work()
        outcomes, ended = script.sandboxed(runner, "--write", runner.work)
    assert not any(SECRET in outcome.data for outcome in outcomes)
    assert _leaks(outcomes, script) == []
    assert "law.proc" in {refusal["rule"] for refusal in ended.refusals}


@pytest.mark.parametrize("target", ["supervisor", "init"])
def test_the_files_of_its_own_keepers(runner: Runner, target: str) -> None:
    """The supervisor must not take its own /proc/self for the program's; what it means by it has no secret."""
    script_path = runner.place.root / "script/calls"
    waiting = ["sh", "-c", 'echo ready; read go; exec "$@"', "sh", program(runner, "calls"), script_path]
    (runner.place.root / "script").mkdir()
    options = [
        "--read",
        runner.place.root / "script",
        "--read",
        runner.compiler.directory,
        "--write",
        runner.work,
    ]
    with subprocess.Popen(
        runner.command_line(waiting, options=[*options, "--clean-env"]),
        **runner.popen_arguments(
            env={"CANARY": SECRET.decode()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ),
    ) as process:
        assert process.stdout is not None
        line_of(process.stdout.fileno())
        init = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        for pid in (process.pid, init):
            assert SECRET in Path(f"/proc/{pid}/environ").read_bytes()
        pid = process.pid if target == "supervisor" else init
        script = _roads(pid, runner.work)
        for link in ("self", "thread-self"):
            script.symlink(f"/proc/{link}".encode(), runner.work / link)
            for name in ("environ", "fd/3", "fd/5", "mem", "maps"):
                _read(script, runner.work / link / name)
        script.command(runner)
        out, err = process.communicate(b"go\n", timeout=60)
    assert process.returncode == 0, err
    outcomes = script.results(out)
    assert not any(SECRET in outcome.data for outcome in outcomes)


def test_links_to_self_mean_the_program(runner: Runner) -> None:
    """Through a link that it made, too: its own environment, as bare."""
    (runner.work / "me").symlink_to("/proc/self")
    (runner.work / "my-thread").symlink_to("/proc/thread-self")
    script = Script()
    for name in ("me/environ", "my-thread/comm", "me/comm", "me/fd/0", "me/cwd/me/comm"):
        script.read(script.openat(AT_FDCWD, runner.work / name, os.O_RDONLY), Buffer(64), 10)
    assert script.sandboxed(runner, "--read", runner.work, cwd=runner.work)[0] == script.bare(
        runner, cwd=runner.work
    )


_OF_THE_MACHINE_READ = (
    "kcore kallsyms kmsg keys key-users iomem ioports modules sysvipc/shm timer_list slabinfo vmallocinfo sched_debug"
    " pagetypeinfo kpagecount kpageflags kpagecgroup schedstat sysrq-trigger acpi/wakeup fs/ext4 latency_stats"
)
_OF_THE_MACHINE_WRITE = (
    "sysrq-trigger sys/kernel/hostname sys/kernel/core_pattern sys/vm/drop_caches sys/kernel/sysrq sys/fs/file-max"
    " irq/default_smp_affinity sys/net/ipv4/ip_forward sys/kernel/ns_last_pid sys/kernel/random/boot_id"
)


def test_the_files_of_the_machine(runner: Runner) -> None:
    script = Script()
    for name in _OF_THE_MACHINE_READ.split():
        _read(script, f"/proc/{name}")
    for name in _OF_THE_MACHINE_WRITE.split():
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, 3):
            script.openat(AT_FDCWD, f"/proc/{name}", flags)
        script.openat(AT_FDCWD, f"/proc/self/root/proc/{name}", os.O_WRONLY)
    outcomes, ended = script.sandboxed(runner)
    assert _opened(outcomes, script) == []
    assert {refusal["rule"] for refusal in ended.refusals} == {"law.proc"}


def test_the_oom_score_of_others(runner: Runner) -> None:
    with victim(runner) as (process, _):
        before = process.facts()["oom"]
        for path in (f"/proc/{process.pid}/oom_score_adj", f"/proc/self/root/proc/{process.pid}/oom_adj"):
            runner.sandboxed(["sh", "-c", f"echo 500 > {path}"])
        assert process.facts()["oom"] == before
        runner.bare(["sh", "-c", f"echo 500 > /proc/{process.pid}/oom_score_adj"])
        assert process.facts()["oom"] != before


def test_a_procfs_that_is_mounted_elsewhere(runner: Runner) -> None:
    """In a directory that is granted."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    mounted = runner.work / "elsewhere"
    mounted.mkdir()
    user = runner.place.user
    become = (
        [] if user.is_root else ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    )
    mount = ["unshare", "-m", "sh", "-c", f'mount -t proc proc {mounted} && exec "$@"', "sh", *become]
    as_root = {} if user.is_root else {"user": 0, "group": 0}
    with victim(runner) as (process, _):
        script = Script()
        for name in _OF_A_PROCESS:
            _read(script, mounted / str(process.pid) / name)
        _read(script, mounted / "self/environ")
        _read(script, mounted / "kallsyms")
        script.openat(AT_FDCWD, mounted / "sysrq-trigger", os.O_WRONLY)
        command = script.command(runner)
        bare = script.results(runner.run([*mount, *command], **as_root).stdout)
        assert any(SECRET in outcome.data for outcome in bare)
        for grant in ("--read", "--write"):
            line = runner.command_line(
                command, options=[grant, runner.work, "--read", runner.place.root / "script"]
            )
            ended = runner.run([*mount, *line], **as_root)
            assert ended.returncode == 0, ended.stderr
            outcomes = script.results(ended.stdout)
            assert _opened(outcomes, script) == []


def test_the_files_of_a_root_process_by_one_that_gave_up_root(runner: Runner) -> None:
    """In one sandbox: the supervisor opens them as root, and must ask whether the caller could have."""
    if not runner.place.user.is_root:
        pytest.skip("only root can give it up")
    attack = (
        f"CANARY={SECRET.decode()} sleep 1000 & q=$!; until grep -q CANARY /proc/$q/environ; do :; done;"
        " setpriv --reuid=65534 --regid=65534 --clear-groups"
        " sh -c 'cat /proc/$0/environ; cat /proc/$0/maps; ls /proc/$0/fd; cat /proc/$0/io' $q; kill $q; echo over"
    )
    bare = runner.bare(["sh", "-c", attack])
    assert bare.stdout == b"over\n", bare
    ended = runner.sandboxed(["sh", "-c", attack])
    assert ended.stdout == b"over\n", ended
    assert ended.stderr.count(b"Permission denied") == bare.stderr.count(b"Permission denied") == 4, ended


def test_page_frame_numbers_need_a_capability_that_the_program_lacks(runner: Runner) -> None:
    """/proc/self/pagemap shows them to whoever opened it with CAP_SYS_ADMIN: the supervisor, if it is root."""
    pagemap = runner.compiler.compile(_PAGEMAP)
    ended = runner.sandboxed([pagemap])
    assert int(ended.stdout or b"0", 16) & (1 << 55) - 1 == 0


_PAGEMAP = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	uint64_t entry = 0;
	char here = 1;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd >= 0 && pread(fd, &entry, 8, (off_t)((uintptr_t)&here / 4096 * 8)) != 8)
		entry = 0;
	printf("%llx\n", (unsigned long long)entry);
	return 0;
}
"""


def test_the_kernel_stack_needs_a_capability_that_the_program_lacks(runner: Runner) -> None:
    ended = runner.sandboxed(["cat", "/proc/self/stack"])
    assert b"[<0>]" not in ended.stdout


def test_a_deleted_file_of_another_process_on_the_spine(runner: Runner) -> None:
    """Its old name says that it was granted; the program cannot have it by the other's descriptor."""
    work = runner.work
    (work / "denied").mkdir()
    runner.place.give(work)
    with victim(runner, work) as (process, _):
        script = Script()
        _read(script, f"/proc/{process.pid}/fd/12")
        script.symlink(f"/proc/{process.pid}/fd/12".encode(), work / "link")
        _read(script, work / "link")
        assert script.bare(runner)[0].ok
        (work / "link").unlink()
        for options in (["--write", work], ["--write", work, "--deny", work / "denied"]):
            outcomes, _ = script.sandboxed(runner, *options)
            assert [outcome.ok for outcome in outcomes] == [False, False, True, False, False], options
            (work / "link").unlink(missing_ok=True)


# ---- the tests above can fail ----


def test_the_attack_succeeds_with_the_check_removed(runner: Runner) -> None:
    """A supervisor that serves every process's files."""
    if runner.place.user.is_root:
        pytest.skip(
            "for root the kernel refuses as well: the supervisor opens with the program's capabilities"
        )
    patch = (
        "from sandlockd.handlers import procfiles\n"
        "from sandlockd.handlers.private import members\n"
        "members.belongs = lambda context, pid: True\n"
        "procfiles._OF_ANY = procfiles._OF_ANY | {b'environ', b'mem'}\n"
    )
    with victim(runner) as (process, _):
        script = Script()
        _read(script, f"/proc/{process.pid}/environ")
        assert SECRET in broken.results(runner, patch, script)[1].data


def test_the_environment_of_the_supervisor_is_read_when_self_is_not_rewritten(runner: Runner) -> None:
    patch = (
        "from sandlockd.handlers import lookup, procfiles\n"
        "lookup.as_asked_by = lambda caller, shown: None\n"
        "procfiles._of_process = lambda caller, how, pid, rest, is_named: "
        "procfiles._serve(caller, b'/proc/%d/' % pid + rest, how)\n"
    )
    outside(runner)
    script = Script()
    _read(script, b"/proc/self/environ")
    options = ["--read", runner.place.root / "script", "--clean-env"]
    ended = broken.run(
        runner, patch, script.command(runner), options=options, env={"CANARY": SECRET.decode()}
    )
    assert SECRET in script.results(ended.stdout)[1].data


_NUMBERS = r"""
import os
for name in os.listdir("/proc"):
    if name.isdigit():
        for path in (f"/proc/{name}/status", f"/proc/self/../{name}/status", f"/proc/{name}/task/{name}/status"):
            try:
                told = dict(line.split(":", 1) for line in open(path) if ":" in line)["Pid"].strip()
            except OSError:
                continue
            if told != name:
                print(path, "is", told)
print("seen")
"""


def test_each_number_is_nobody_elses(runner: Runner) -> None:
    """What opens for the program is no other process than the one named: not itself for its supervisor."""
    assert runner.both([system_python(), "-c", _NUMBERS]).stdout == b"seen\n"
