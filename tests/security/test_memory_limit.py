"""`limits.memory` against whoever takes more, in each way that there is: refused, or everything is ended.

Bare each takes 200 MiB: that is the oracle. How far it got within stands in a file that it counts in; `-v` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import ledger
from harness.forms import FORMS, in_its_form
from harness.running import Ended, Runner, system_python
from security.taking import ASKS, EITHER, IN_SHM, MEGA, TAKES, directory_in_memory, taken_of, takers

LIMIT = 64 * MEGA
SIZE = 200 * MEGA
# Who is not asked tries for more, so that it shows where it was stopped: what two processors fill until a thread that
# looks every few milliseconds has had its turn on a busy machine, and everything is killed. Up to 540 MiB were seen of
# an ordinary user's, whose thread has no precedence.
MUCH = 1024 * MEGA
FURTHER = 768 * MEGA

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

Measured = Callable[[str, object], None]

pytestmark = pytest.mark.parametrize("as_user", FORMS, indirect=True)


@pytest.fixture
def runner(runner: Runner, request: pytest.FixtureRequest) -> Runner:
    return in_its_form(runner, request)


@pytest.fixture
def shm(runner: Runner) -> Iterator[Path]:
    with directory_in_memory(runner) as directory:
        yield directory


@pytest.mark.one_user
@pytest.mark.parametrize("how", ASKS)
def test_who_asks_for_more_than_there_is_is_refused(runner: Runner, how: str) -> None:
    _takes_it_all_bare(runner, how)
    ended, taken = _run(runner, how)
    assert (ended.returncode, ended.reason) == (3, "exited"), ended.stderr
    assert b"Cannot allocate memory" in ended.stderr or b"No space left" in ended.stderr
    assert ended.refusals[0]["rule"] == "limits.memory"
    assert taken < LIMIT


@pytest.mark.one_user
@pytest.mark.parametrize("how", (*TAKES, *EITHER))
def test_who_takes_more_than_there_is_is_ended(runner: Runner, measured: Measured, how: str) -> None:
    _takes_it_all_bare(runner, how)
    ended, taken = _run(runner, how, size=MUCH)
    _is_stopped(ended, how)
    measured("further_mib", round((taken - LIMIT) / MEGA, 1))
    assert taken < LIMIT + FURTHER


@pytest.mark.one_user
@pytest.mark.parametrize("how", IN_SHM)
def test_files_that_lie_in_memory_count(runner: Runner, shm: Path, measured: Measured, how: str) -> None:
    _takes_it_all_bare(runner, how, {"SHM": str(shm)})
    for left in shm.iterdir():
        left.unlink()
    ended, taken = _run(runner, how, "--write", shm, env={"SHM": str(shm)}, size=MUCH)
    _is_stopped(ended, how)
    measured("further_mib", round((taken - LIMIT) / MEGA, 1))
    assert taken < LIMIT + FURTHER


@pytest.mark.one_user
def test_what_is_in_a_pipe_is_not_there_by_reference(runner: Runner) -> None:
    """It would be nobody's memory, and no page of it could be counted."""
    if not _HUGE_PAGES.exists() or "[never]" in _HUGE_PAGES.read_text():
        pytest.skip("there are no huge pages")
    _takes_it_all_bare(runner, "huge-pages-in-pipes")
    ended, taken = _run(runner, "huge-pages-in-pipes")
    assert (ended.returncode, taken) == (3, 0) and b"Function not implemented" in ended.stderr


def test_what_others_put_there_does_not_count(runner: Runner, shm: Path) -> None:
    """The whole file system holds more; the directory that is granted does not."""
    with ledger.directory("shm", Path("/dev/shm")) as beside:
        script = "read word; for i in $(seq 100); do /bin/true; done; echo $word"
        line = runner.command_line(["sh", "-c", script], options=["--memory", "64M", "--write", shm])
        with runner.started(line) as process:
            (beside / "other").write_bytes(bytes(SIZE))
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"unharmed\n")
            assert process.stdout.read() == b"unharmed\n"
            assert process.wait(timeout=20) == 0


def test_system_v_memory_is_not_given_back(runner: Runner) -> None:
    """It stays when everybody has ended, and nobody tells whose it is."""
    _takes_it_all_bare(runner, "sysv")
    policy = '[filesystem]\nbase = true\n[syscalls]\nallow = ["sysv_ipc"]\n'
    ended, taken = _run(runner, "sysv", policy=policy)
    assert ended.returncode == 3 and taken == 0


_HIDING = """
#include <sys/mman.h>
#include <unistd.h>
int main(void)
{
	for (int i = 0; i < 400; i++) {
		char *piece = mmap(0, 1 << 19, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (int at = 0; at < 1 << 19; at += 4096)
			piece[at] = 1;
	}
	if (write(1, "taken", 5) == 5)
		pause();
	return 0;
}
"""


def test_who_hides_its_memory_is_counted_all_the_same(runner: Runner) -> None:
    """A file that it may not read, and opens nothing: nobody who is no root may look into it."""
    own = runner.place.file("work/hiding", "")
    own.write_bytes(runner.compiler.compile(_HIDING, static=True).read_bytes())
    own.chmod(0o111)
    ended = runner.sandboxed([own], options=["--write", runner.work, "--memory", "64M"], timeout=60)
    _is_stopped(ended, "hiding")


def test_how_it_ended_is_told_with_limit_and_peak(runner: Runner) -> None:
    ended, _ = _run(runner, "small-pieces")
    assert ended.returncode == 137 and ended.status is not None
    assert (ended.reason, ended.status["rule"]) == ("memory", "limits.memory")
    peak = ended.status["usage"]["peak_memory"]
    if runner.with_cgroups:
        assert LIMIT - MEGA < peak <= LIMIT
    else:
        assert LIMIT < peak < LIMIT + FURTHER
    kept_by = "cgroup v" if runner.with_cgroups else "sandlockd"
    assert ended.status["usage"]["kept_by"]["memory"].startswith(kept_by)
    assert ended.stderr.count(b"limits.memory: everything was ended") == 1
    assert b"64M is the limit" in ended.stderr
    assert ended.audit[-1]["reason"] == "memory" and ended.audit[-1]["rule"] == "limits.memory"
    assert [record["subject"] for record in ended.audit if record["kind"] == "note"] == ["limits.memory"]


@pytest.mark.one_user
@pytest.mark.parametrize("limit", ["1", "4K", "1M"])
def test_less_than_a_program_needs_to_start_is_told_with_limit_and_peak(runner: Runner, limit: str) -> None:
    """Nobody knows before how much that is."""
    ended = runner.sandboxed([system_python(), "-S", "-c", "print('started')"], options=["--memory", limit])
    assert (ended.returncode, ended.stdout, ended.reason) == (137, b"", "memory"), ended.stderr
    assert ended.status is not None and ended.status["rule"] == "limits.memory"
    assert ended.stderr.count(b"limits.memory: everything was ended") == 1
    assert 0 < ended.status["usage"]["peak_memory"] < 2 * MEGA


@pytest.mark.one_user
def test_whose_end_nobody_was_fast_enough_to_see_used_no_more_than_the_limit(runner: Runner) -> None:
    for _ in range(3):
        ended = runner.sandboxed(["true"], options=["--memory", "8M"])
        assert ended.status is not None and ended.reason == "exited"
        assert 0 < ended.status["usage"]["peak_memory"] <= 8 * MEGA


def test_never_is_more_in_use_than_the_limit_and_what_is_told(runner: Runner, measured: Measured) -> None:
    """As seen from outside, by what the kernel says of each process."""
    line = runner.command_line(
        [takers(runner), "many-children", "200", runner.work / "counter"],
        options=["--write", runner.work, "--memory", "64M"],
    )
    most = 0
    with runner.started(line, env=runner.environment({"HOLD": "1"})) as process:
        while process.poll() is None:
            most = max(most, sum(_private_bytes(pid) for pid in _descendants(process.pid)))
    measured("most_mib", round(most / MEGA, 1))
    assert process.returncode == 137
    assert 0 < most < LIMIT + FURTHER


# ---- what is no reason

_HARMLESS = {
    "reserves 64 GB": "mmap.mmap(-1, 64 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)",
    "threads that touch nothing": """
import threading
held = threading.Event()
threads = [threading.Thread(target=held.wait) for _ in range(20)]
[thread.start() for thread in threads]
held.set()
""",
    "shared after fork": """
data = bytearray(b'x') * (30 << 20)
children = []
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        time.sleep(0.3)
        os._exit(0)
    children.append(pid)
[os.waitpid(pid, 0) for pid in children]
""",
    "vfork": """
data = bytearray(b'x') * (40 << 20)
import subprocess
for _ in range(40):
    subprocess.run(['/bin/true'], close_fds=False, check=True)
""",
    "objects that are let go": """
for _ in range(8):
    fd = os.memfd_create('x')
    os.write(fd, bytes(15 << 20))
    os.close(fd)
for _ in range(8):
    area = mmap.mmap(-1, 15 << 20)
    area.write(bytes(15 << 20))
    area.close()
""",
    "what is closed for writing and opened again": """
size = 40 << 20
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(None, ctypes.c_size_t(size), 3, 0x22, -1, ctypes.c_long(0))
ctypes.memset(at, 1, size)
for _ in range(5):
    assert libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(size), 1) == 0
    assert libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(size), 3) == 0
ctypes.memset(at, 2, size)
""",
    "grown and moved": """
data = bytearray(1 << 20)
for _ in range(30):
    data += bytes(1 << 20)
""",
    "much address space": """
libc.mmap.restype = ctypes.c_void_p
assert libc.mmap(None, ctypes.c_size_t(1 << 44), 3, 0x4022, -1, ctypes.c_long(0)) not in (None, 2**64 - 1)
""",
}


@pytest.mark.one_user
@pytest.mark.parametrize("what", _HARMLESS)
def test_what_takes_no_memory_is_no_reason(runner: Runner, what: str) -> None:
    script = "import ctypes, mmap, os, time\nlibc = ctypes.CDLL(None, use_errno=True)\n" + _HARMLESS[what]
    command = [system_python(), "-S", "-c", script]
    assert runner.bare(command).returncode == 0
    ended = runner.sandboxed(command, options=["--memory", "64M"])
    assert (ended.returncode, ended.reason) == (0, "exited"), ended.stderr


_BREAK = r"""
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(void)
{
	char *before = sbrk(0);
	long told = syscall(SYS_brk, before + (400L << 20));
	printf("%d %d ", told == (long)before, sbrk(0) == before);
	printf("%d\n", malloc(100000) != NULL);
	return 0;
}
"""


def test_a_refused_break_is_told_as_the_kernel_tells_it(runner: Runner) -> None:
    """It returns where the heap ends, and the C library compares."""
    ended = runner.sandboxed([runner.compiler.compile(_BREAK)], options=["--memory", "64M"])
    assert ended.stdout == b"1 1 1\n", ended.stderr


def test_shared_memory_is_shared(runner: Runner) -> None:
    """It is made of something else, and nobody can tell."""
    script = """
import ctypes, mmap, os
area = mmap.mmap(-1, 3 << 20)
if os.fork() == 0:
    area[0:5] = b'child'
    os._exit(0)
os.wait()
print(area[0:5], sorted(os.listdir('/proc/self/fd'))[:4])
"""
    runner.both([system_python(), "-S", "-c", script], options=["--memory", "64M"])


# ----


def _takes_it_all_bare(runner: Runner, how: str, env: dict[str, str] | None = None) -> None:
    command = [takers(runner), how, str(SIZE // MEGA), runner.work / "counter"]
    ended = runner.bare(command, env=runner.environment(env))
    assert (ended.returncode, ended.stdout.splitlines()[-1:]) == (0, [b"taken"]), ended.stderr


def _run(
    runner: Runner,
    how: str,
    *options: str | Path,
    policy: str | None = None,
    env: dict[str, str] | None = None,
    size: int = SIZE,
) -> tuple[Ended, int]:
    """And how much it took. It holds that until it is ended."""
    counter = runner.work / "counter"
    counter.unlink(missing_ok=True)
    ended = runner.sandboxed(
        [takers(runner), how, str(size // MEGA), counter],
        options=["--write", runner.work, "--memory", "64M", *options],
        policy=policy,
        env={"HOLD": "1", **(env or {})},
        timeout=60,
    )
    return ended, taken_of(counter)


def _is_stopped(ended: Ended, how: str) -> None:
    assert ended.status is not None and b"taken" not in ended.stdout, (how, ended.stderr)
    if ended.reason == "exited":
        assert how in EITHER and ended.returncode == 3, ended.stderr
    else:
        assert (ended.returncode, ended.reason, ended.status["rule"]) == (137, "memory", "limits.memory")


def _descendants(pid: int) -> list[int]:
    """Of sandlockd, those below init."""
    found: list[int] = []
    level = [pid]
    for depth in range(6):
        level = [child for parent in level for child in _children(parent)]
        found += level if depth else []
    return found


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _private_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    wanted = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))
