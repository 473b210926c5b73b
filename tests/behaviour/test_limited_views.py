"""What a limited program is told about its machine: the same wherever it asks; without limits, as bare."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

import pytest
from harness.running import Runner, require, system_python
from harness.with_psutil import with_psutil
from security import broken
from security.raw_calls import AT_FDCWD, Buffer, Script

_BASE = "[filesystem]\nbase = true\n"
_ONE = _BASE + '[limits]\ncpu = "100%"\n'
_MEMORY = _BASE + '[limits]\nmemory = "256M"\n'
_BOTH = _BASE + '[limits]\nmemory = "256M"\ncpu = "100%"\n'
_OWN = _BASE + '[proc]\npids = "own"\n'
_KIB, _MIB = 1 << 10, 1 << 20

_SYSINFO = "=q3Q6QHxxxxxxQQI"


@pytest.fixture
def several() -> None:
    """Else nothing is hidden."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one processor")


_STEADY = """
nproc; nproc --all; getconf _NPROCESSORS_ONLN _NPROCESSORS_CONF; getconf _PHYS_PAGES
grep -c ^processor /proc/cpuinfo; grep -c ^cpu /proc/stat; head -1 /proc/softirqs; head -1 /proc/zoneinfo
cd /sys/devices/system && cat cpu/online cpu/present cpu/possible node/node*/cpumap cpu/cpu*/topology/*
ls cpu node/node*; grep MemTotal /proc/meminfo node/node*/meminfo
grep ^Cpus /proc/self/status; taskset -p $$ | cut -d: -f2
"""


def test_who_has_no_limit_is_told_what_it_is_told_bare(runner: Runner) -> None:
    require("taskset")
    runner.both(["sh", "-c", _STEADY], policy=_BASE)


def test_who_may_use_all_is_told_what_it_is_told_bare(runner: Runner, several: None) -> None:
    require("taskset")
    runner.both(["sh", "-c", _STEADY], policy=_BASE + '[limits]\ncpu = "6400%"\n')


_PROCESSORS = r"""
import json, os, subprocess
def out(*words):
    return int(subprocess.run(words, capture_output=True, check=True).stdout)
def text(path):
    with open(path) as file:
        return file.read()
def lines(path, start):
    return sum(line.startswith(start) and line[len(start)].isdigit() for line in text(path).splitlines())
def listed(words):
    ranges = [part.split("-") for part in words.split(",")]
    return sum(int(part[-1]) - int(part[0]) + 1 for part in ranges)
sys = "/sys/devices/system/cpu/"
child = subprocess.Popen(["sleep", "100"])
status = dict(line.split(":\t", 1) for line in text("/proc/self/status").splitlines() if ":\t" in line)
print(json.dumps({
    "nproc": out("nproc"),
    "nproc --all": out("nproc", "--all"),
    "conf": os.sysconf("SC_NPROCESSORS_CONF"),
    "onln": os.sysconf("SC_NPROCESSORS_ONLN"),
    "cpu_count": os.cpu_count(),
    "affinity": len(os.sched_getaffinity(0)),
    "affinity of another": len(os.sched_getaffinity(child.pid)),
    "cpuinfo": text("/proc/cpuinfo").count("processor\t:"),
    "stat": lines("/proc/stat", "cpu"),
    "softirqs": text("/proc/softirqs").splitlines()[0].count("CPU"),
    "interrupts": text("/proc/interrupts").splitlines()[0].count("CPU"),
    "allowed": bin(int(status["Cpus_allowed"].replace(",", ""), 16)).count("1"),
    "allowed of a thread": listed(text(f"/proc/thread-self/status").split("Cpus_allowed_list:\t")[1].split("\n")[0]),
    **{name: listed(text(sys + name)) for name in ("online", "present", "possible")},
    "listing": sum(name[:3] == "cpu" and name[3:].isdigit() for name in os.listdir(sys)),
    "relative": sum(name[:3] == "cpu" and name[3:].isdigit() for name in os.listdir(os.open(sys, os.O_RDONLY))),
    "package": listed(text(sys + f"cpu{min(os.sched_getaffinity(0))}/topology/package_cpus_list")),
}))
child.kill()
"""


def _everywhere(ended: bytes, number: int) -> None:
    told = json.loads(ended)
    assert told == dict.fromkeys(told, number)


def test_processors_are_as_many_wherever_they_are_counted(runner: Runner, several: None) -> None:
    command = [system_python(), "-c", _PROCESSORS]
    _everywhere(runner.sandboxed(command, policy=_ONE).stdout, 1)
    _everywhere(runner.sandboxed(command, policy=_ONE + '[proc]\npids = "own"\n').stdout, 1)
    _everywhere(
        runner.sandboxed(command, policy=_ONE, options=["--workdir", runner.work], cwd=runner.work).stdout, 1
    )


def test_processors_are_those_that_it_may_run_on(runner: Runner, several: None) -> None:
    """By their own numbers, so that what it is told it can choose."""
    require("taskset")
    last = max(os.sched_getaffinity(0))
    script = "one=$(cat /sys/devices/system/cpu/online); echo $one; taskset -cp $$ | cut -d: -f2; taskset -c $one nproc"
    ended = runner.sandboxed(["sh", "-c", script], policy=_ONE, wrap=["taskset", "-c", str(last)])
    assert ended.stdout.split() == [b"%d" % last, b"%d" % last, b"1"], ended


def test_node_is_told_the_same(runner: Runner, several: None) -> None:
    require("node")
    text = "console.log(os.cpus().length, os.availableParallelism ? os.availableParallelism() : 1, os.totalmem())"
    ended = runner.sandboxed(["node", "-e", f"const os = require('os'); {text}"], policy=_BOTH)
    assert ended.stdout == b"1 1 %d\n" % (256 * _MIB), ended


@pytest.mark.one_user
def test_a_java_virtual_machine_sizes_itself_by_it(runner: Runner, several: None) -> None:
    """A heap of a quarter at most; and no threads for collecting garbage where there is one processor for them."""
    require("java")
    command = ["java", "-XX:-UsePerfData", "-XX:+PrintFlagsFinal", "-version"]
    policy = _BASE + '[limits]\nmemory = "1G"\ncpu = "100%"\n'
    ended = runner.sandboxed(command, policy=policy)
    flags = dict(line.split()[1:4:2] for line in ended.stdout.splitlines() if b" = " in line)
    assert (flags[b"MaxHeapSize"], flags[b"UseSerialGC"]) == (b"%d" % (256 * _MIB), b"true"), ended.stderr


def test_psutil_counts_the_same(runner: Runner, several: None) -> None:
    text = (
        "import psutil; print(psutil.cpu_count(), psutil.cpu_count(logical=False), len(psutil.cpu_times(percpu=True)),"
        " len(psutil.Process().cpu_affinity()), psutil.virtual_memory().total, psutil.swap_memory().total)"
    )
    ended = with_psutil(runner, text, policy=_BOTH)
    assert ended.stdout.split() == [b"1", b"1", b"1", b"1", b"%d" % (256 * _MIB), b"0"], ended


def test_tools_that_show_all_of_it_agree(runner: Runner, several: None) -> None:
    require("top", "free", "lscpu", "vmstat")
    script = (
        "free -b | awk '/Mem/ {print $2}'; lscpu -p=CPU | grep -vc '#'; vmstat -s | grep 'total memory';"
        " top -b -n1 | grep Mem"
    )
    ended = runner.sandboxed(["sh", "-c", script], policy=_BOTH)
    lines = ended.stdout.decode().splitlines()
    assert lines[:2] == [str(256 * _MIB), "1"], ended
    assert lines[2].split()[0] == str(256 * _KIB)
    assert re.search(r" 256\.0 total", lines[3])


def test_an_affinity_is_told_and_set_as_bare(runner: Runner, several: None) -> None:
    """Errors come as from the kernel, in its order; who sets what it was told has what it had."""
    own = b"%d" % min(os.sched_getaffinity(0))
    script = Script()
    mask = Buffer(128)
    for arguments in (
        (0, 128, mask),
        (0, 8, mask),
        (0, 3, mask),
        (0, 0, mask),
        (0, 12, mask),
        (0, 1 << 20, mask),
    ):
        script.sched_getaffinity(*arguments)
    script.sched_getaffinity(0, 128, 1)
    script.sched_getaffinity(-5, 128, mask)
    script.sched_getaffinity((1 << 22) - 1, 128, mask)
    script.sched_getaffinity((1 << 22) - 1, 3, 1)
    by_number = script.rseq(0, 0, 0, 0)
    bare = script.bare(runner)
    ours, _ = script.sandboxed(runner, policy=_ONE)
    assert [outcome.result for outcome in ours[:-1]] == [outcome.result for outcome in bare[:-1]]
    assert (bare[by_number.index].error, ours[by_number.index].error) == ("EINVAL", "ENOSYS")
    assert {outcome.error for outcome in ours[2:]} >= {"EINVAL", "EFAULT", "ESRCH"}
    text = (
        "import os; own = os.sched_getaffinity(0); os.sched_setaffinity(0, own);"
        " print(os.sched_getaffinity(0) == own, *own);"
        " os.sched_setaffinity(0, range(1024)); print(os.sched_getaffinity(0) == own)"
    )
    ended = runner.sandboxed([system_python(), "-c", text], policy=_ONE)
    assert ended.stdout.split() == [b"True", own, b"True"], ended


def test_a_processor_that_is_not_shown_is_not_there(runner: Runner, several: None) -> None:
    hidden = sorted(os.sched_getaffinity(0))[1]
    script = Script()
    for path in (
        f"/sys/devices/system/cpu/cpu{hidden}",
        f"/sys/devices/system/cpu/cpu{hidden}/topology/core_id",
        f"/sys/bus/cpu/devices/cpu{hidden}/topology/core_id",
        f"/sys/devices/system/cpu/../cpu/cpu{hidden}/topology/core_id",
        f"/sys/devices/system/node/node0/cpu{hidden}/topology/core_id",
    ):
        script.openat(AT_FDCWD, path, os.O_RDONLY)
    script.openat(AT_FDCWD, "/sys/devices/system/cpu/online", os.O_RDWR)
    outcomes, _ = script.sandboxed(runner, "--read", "/sys", policy=_ONE)
    assert [outcome.error for outcome in outcomes] == ["ENOENT"] * 5 + ["EACCES"]
    assert all(outcome.ok or outcome.error == "ENOENT" for outcome in script.bare(runner)[:5])


_TOLD = r"""
import ctypes, json, os, struct
def field(path, name):
    with open(path) as file:
        for line in file:
            words = line.replace(":", " ").split()
            if name in words:
                return int(words[words.index(name) + 1])
libc = ctypes.CDLL(None)
info = ctypes.create_string_buffer(112)
def told():
    libc.sysinfo(info)
    one = struct.unpack_from("=q3Q6QHxxxxxxQQI", info.raw)
    node = "/sys/devices/system/node/node0/meminfo"
    return [
        (one[4] * one[-1], one[5] * one[-1]),
        (field("/proc/meminfo", "MemTotal") << 10, field("/proc/meminfo", "MemFree") << 10),
        (field(node, "MemTotal") << 10, field(node, "MemFree") << 10),
        (os.sysconf("SC_PHYS_PAGES") * 4096, os.sysconf("SC_AVPHYS_PAGES") * 4096),
        (None, field("/proc/vmstat", "nr_free_pages") * 4096),
    ]
before = told()
held = bytearray(b"x") * (96 << 20)
while told()[1][1] > before[1][1] - (90 << 20):
    pass
after = told()
print(json.dumps([before, after]))
"""


def test_memory_is_the_limit_and_what_is_used_of_it(runner: Runner) -> None:
    if len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) != 1:
        pytest.skip("what each of several nodes has is a part of it")
    ended = runner.sandboxed([system_python(), "-c", _TOLD], policy=_MEMORY)
    for told in json.loads(ended.stdout):
        assert {total for total, _ in told} == {256 * _MIB, None}
        free = [free for _, free in told]
        assert max(free) - min(free) < 16 * _MIB, told  # the first look may lie between two of them


_NEARLY_ALL = """
def free():
    with open("/proc/meminfo") as file:
        return int(file.read().split("MemFree:")[1].split()[0])
held = []
while free() > 10 << 10:
    held.append(bytearray(b"x") * (1 << 19))
print("told", 0 <= free() <= 10 << 10, open("/proc/vmstat").read() > "")
"""


def test_who_has_hardly_any_memory_left_may_ask_how_much(runner: Runner) -> None:
    """What is kept from requests for memory is for such."""
    ended = runner.sandboxed([system_python(), "-S", "-c", _NEARLY_ALL], policy=_MEMORY)
    assert ended.stdout == b"told True True\n", ended


def test_what_the_machines_memory_is_made_of_is_refused(runner: Runner) -> None:
    ended = runner.sandboxed(["cat", "/proc/zoneinfo", "/proc/buddyinfo", "/proc/swaps"], policy=_MEMORY)
    assert ended.stdout.startswith(b"Filename") and len(ended.stdout.splitlines()) == 1
    assert [(one["rule"], one["path"]) for one in ended.refusals] == [
        ("limits.memory", "/proc/zoneinfo"),
        ("limits.memory", "/proc/buddyinfo"),
    ]
    listed = runner.sandboxed(["ls", "/proc"], policy=_MEMORY + '[proc]\npids = "own"\n').stdout.split()
    assert b"meminfo" in listed and b"zoneinfo" not in listed and b"buddyinfo" not in listed


_COUNTED = """
import ctypes, struct, threading
done = threading.Event()
threads = [threading.Thread(target=done.wait) for _ in range(4)]
for thread in threads:
    thread.start()
info = ctypes.create_string_buffer(112)
ctypes.CDLL(None).sysinfo(info)
print(struct.unpack_from("=q3Q6QH", info.raw)[10], open("/proc/loadavg").read().split()[3].split("/")[1])
print([line for line in open("/proc/stat").read().splitlines() if line.startswith("procs_")])
done.set()
"""


@pytest.mark.parametrize("policy", [_OWN, _BASE + "[limits]\nprocesses = 8\n"], ids=["own", "limited"])
def test_the_number_of_processes_is_the_sandboxs(runner: Runner, policy: str) -> None:
    command = [system_python(), "-c", _COUNTED]
    assert int(runner.bare(command).stdout.split()[0]) > 5
    ended = runner.sandboxed(command, policy=policy)
    assert ended.stdout.splitlines() == [b"5 5", b"['procs_running 1', 'procs_blocked 0']"], ended


def test_directories_deeper_than_a_path_can_tell_are_listed(runner: Runner, several: None) -> None:
    text = (
        "import os, shutil\nfor _ in range(42):\n    os.mkdir('d' * 100)\n    os.chdir('d' * 100)\n"
        "os.mkdir('deepest')\nprint(os.listdir('.'))\nfor _ in range(42):\n    os.chdir('..')\n"
        "shutil.rmtree('d' * 100)\nprint(os.listdir('.'))"
    )
    runner.both([system_python(), "-c", text], policy=_ONE)


_FILES = (
    "/proc/meminfo /proc/vmstat /proc/swaps /proc/loadavg /proc/stat /sys/devices/system/node/node0/meminfo"
)


def test_what_is_told_can_be_read_in_any_way_and_changed_in_none(runner: Runner) -> None:
    text = f"""
import fcntl, mmap, os, select
for path in "{_FILES}".split():
    f = os.open(path, os.O_RDONLY)
    whole = os.read(f, 1 << 20)
    wrong = [whole[:1] == b"", os.read(f, 10) != b"", os.lseek(f, 2, os.SEEK_SET) != 2]
    wrong += [os.read(f, 1) != whole[2:3], os.pread(f, 5, 1) != whole[1:6], os.lseek(f, 0, os.SEEK_CUR) != 3]
    twin = os.dup(f)
    wrong += [os.read(twin, 1) != whole[3:4], os.read(f, 1) != whole[4:5]]
    again = os.open("/proc/self/fd/%d" % f, os.O_RDONLY)
    wrong += [os.read(again, 1 << 20) != whole, os.lseek(f, 0, os.SEEK_CUR) != 5]
    poll = select.poll()
    poll.register(f, select.POLLIN | select.POLLOUT)
    wrong += [not poll.poll(0)[0][1] & select.POLLIN]
    wrong += [fcntl.fcntl(f, fcntl.F_GET_SEALS) != 15, os.fstat(f).st_mode & 0o7777 != 0o444]
    def changed(change):
        try:
            change()
        except (OSError, ValueError):
            return False
        return True
    wrong += map(changed, (
        lambda: os.write(f, b"x"),
        lambda: os.ftruncate(f, 0),
        lambda: fcntl.fcntl(f, fcntl.F_ADD_SEALS, 16),
        lambda: mmap.mmap(f, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE),
        lambda: os.write(os.open("/proc/self/fd/%d" % f, os.O_RDWR), b"x"),
        lambda: os.write(os.open("/dev/fd/%d" % f, os.O_WRONLY), b"x"),
        lambda: os.truncate("/proc/self/fd/%d" % f, 0),
    ))
    if os.getuid():  # root may open what it cannot write
        wrong.append(changed(lambda: os.open("/proc/self/fd/%d" % f, os.O_WRONLY)))
    os.lseek(f, 0, 0)
    print(path, [number for number, one in enumerate(wrong) if one], os.read(f, 1 << 20) == whole)
"""
    policy = _MEMORY + "processes = 8\n"
    ended = runner.sandboxed([system_python(), "-c", text], policy=policy)
    for line in ended.stdout.splitlines():
        assert line.endswith(b" [] True"), ended
    assert len(ended.stdout.splitlines()) == len(_FILES.split()), ended


_COPIES = """
import os, sys, time
def free():
    with open("/proc/meminfo") as file:
        return int(file.read().split("MemFree:")[1].split()[0])
def comes_true(holds):
    end = time.monotonic() + float(sys.argv[1])
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)  # each look is a copy, too, which counts until it was seen to be gone
    return True
comes_true(lambda: free() < 63 << 10)  # somebody has looked
before = free()
held = [os.open("/proc/vmstat", os.O_RDONLY) for _ in range(400)]
print(comes_true(lambda: free() < before - 1200))
lowest = free()
for one in held:
    os.close(one)
print(comes_true(lambda: free() > lowest + 600))  # not all of them may have been seen before they were closed
"""


def test_copies_of_files_that_are_told_count_until_they_are_closed(runner: Runner) -> None:
    """Each is a page at least, and of smaps it can be many. (To a cgroup they are the supervisor's.)"""
    runner.with_cgroups = False
    ended = runner.sandboxed([system_python(), "-S", "-c", _COPIES, "10"], options=["--memory", "64M"])
    assert ended.stdout == b"True\nTrue\n", ended


# ---- the tests above can fail ----


@pytest.mark.parametrize(
    ("patch", "script"),
    [
        ("view.View.tell = lambda self, *a, **k: None", "grep MemTotal /proc/meminfo"),
        ("view.View.tell_of_devices = lambda self, *a, **k: None", "cat /sys/devices/system/cpu/online"),
        (
            "view.View.hides = lambda self, path: False",
            "cat /sys/devices/system/cpu/cpu{hidden}/topology/core_id",
        ),
        ("view.View.tells_listing = lambda self, path: False", "ls -d /sys/devices/system/cpu/cpu[0-9]*"),
        ("from sandlockd.handlers.limited import texts; texts.affinity = lambda mask, shown: mask", "nproc"),
    ],
)
def test_each_view_tells_the_machine_when_it_is_not_told(
    runner: Runner, several: None, patch: str, script: str
) -> None:
    command = ["sh", "-c", script.format(hidden=sorted(os.sched_getaffinity(0))[1])]
    whole = "from sandlockd.handlers.limited import view\n" + patch
    bare, ours = runner.bare(command).stdout, runner.sandboxed(command, policy=_BOTH).stdout
    assert ours != bare
    found = broken.run(runner, whole, command, policy=_BOTH).stdout
    assert set(found.splitlines()) & set(bare.splitlines()) - set(ours.splitlines())


def test_the_number_of_processes_is_the_machines_when_nobody_counts(runner: Runner) -> None:
    patch = "from sandlockd.handlers.limited import calls\ncalls._count_threads = lambda context: None\n"
    command = [system_python(), "-c", _COUNTED]
    assert int(broken.run(runner, patch, command, policy=_OWN).stdout.split()[0]) > 5


def test_copies_of_files_do_not_count_when_nobody_notes_them(runner: Runner) -> None:
    runner.with_cgroups = False
    patch = "from sandlockd.kernel import memlimit\nmemlimit.Memory.note = lambda self, opened: None\n"
    command = [system_python(), "-S", "-c", _COPIES, "0.3"]
    assert broken.run(runner, patch, command, options=["--memory", "64M"]).stdout.startswith(b"False\n")


def test_memory_without_a_trap_is_the_machines(runner: Runner) -> None:
    script = Script()
    script.sysinfo(Buffer(112))
    ours = script.sandboxed(runner, policy=_MEMORY)[0][0]
    open_build = broken.results(runner, broken.give_back("sysinfo"), script, policy=_MEMORY)[0]
    fields = [struct.unpack_from(_SYSINFO, outcome.data.ljust(112, b"\0")) for outcome in (ours, open_build)]
    assert [one[4] * one[-1] for one in fields] == [256 * _MIB, fields[1][4] * fields[1][-1]]
    assert fields[1][4] * fields[1][-1] > 256 * _MIB
