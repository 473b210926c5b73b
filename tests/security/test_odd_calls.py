"""Calls as no program makes them: the supervisor answers each, and is none the worse for it."""

from __future__ import annotations

import errno
import os
import random
import sys
from pathlib import Path

import pytest
from harness.running import Runner
from security.canaries import SECRET, changed, outside, snapshot
from security.raw_calls import AT_FDCWD, Argument, Buffer, Bytes, Edge, Script

from sandlockd.kernel.syscalls import ROWS, Effect, Syscall, Treatment

# What ends or stops the process that makes the calls, or waits for something that never comes.
_NOT_MADE = frozenset(
    "exit exit_group kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal pause rt_sigreturn"
    " rt_sigsuspend rt_sigtimedwait fork vfork clone sigaltstack set_robust_list rseq arch_prctl munmap mprotect"
    " mremap brk mmap madvise pkey_mprotect remap_file_pages mseal restart_syscall wait4 waitid futex futex_wait"
    " futex_waitv poll ppoll select pselect6 epoll_wait epoll_pwait epoll_pwait2 nanosleep clock_nanosleep setitimer"
    " alarm timer_settime flock close close_range shmdt prctl seccomp landlock_restrict_self dup2 dup3 setsid"
    " map_shadow_stack process_mrelease set_tid_address userfaultfd sched_setaffinity rt_sigprocmask setrlimit"
    " prlimit64 unshare read readv pread64 preadv preadv2 munlockall mlockall umask chdir fchdir chroot".split()
)
_NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    5,
    99,
    1023,
    1 << 31,
    (1 << 31) - 1,
    1 << 32,
    (1 << 32) | 3,
    1 << 63,
    (1 << 64) - 1,
    AT_FDCWD,
)
_POINTERS = (0, 1, 4095, 0xFFFF_8000_0000_0000, (1 << 47) - 1, (1 << 64) - 8, 0x1000)


def _words(chance: random.Random, row: Syscall, denied: Path, work: Path) -> list[Argument]:
    """Six, so that nothing is left to what happened to be in a register."""
    words: list[Argument] = []
    paths = {operand.position for operand in row.paths}
    for position in range(6):
        if position in paths and chance.random() < 0.8:
            words.append(_path(chance, denied, work))
        else:
            words.append(_value(chance))
    return words


def _path(chance: random.Random, denied: Path, work: Path) -> Argument:
    here = os.fsencode(work)
    return chance.choice(
        [
            os.fsencode(denied / "canary"),
            os.fsencode(denied),
            here + b"/../outside/canary",
            b"",
            b".",
            b"/",
            b"a" * 255,
            b"a" * 256,
            b"/" * 4095,
            b"./" * 2047 + b"x",
            b"d/" * 2048,
            b"x" * 5000,
            b"/proc/self/fd/%d" % chance.randrange(8),
            b"/proc/self/root" + os.fsencode(denied / "canary"),
            b"/proc/self/task/999999/fd/0",
            b"/proc/-1/mem",
            b"/proc/4294967297/root/etc/shadow",
            b"\xff\xfe\n\x01",
            b"loop",
            b"link-out",
            b"\0",
            Edge(os.fsencode(denied / "canary") + b"\0"),
            Edge(b"no-nul-before-the-page"),
            here + b"/file",
            here + b"/file/",
            here + b"/dir/../file",
        ]
    )


def _value(chance: random.Random) -> Argument:
    return chance.choice(
        [
            chance.choice(_NUMBERS),
            chance.choice(_POINTERS),
            chance.getrandbits(64) - (1 << 63),
            chance.getrandbits(16),
            1 << chance.randrange(64),
            Buffer(chance.choice((1, 64, 4096))),
            Bytes(chance.randbytes(chance.choice((1, 8, 24, 64, 128)))),
            Edge(chance.randbytes(chance.choice((1, 8, 16)))),
        ]
    )


def _furnished(runner: Runner) -> Path:
    denied = outside(runner)
    runner.place.file("work/file", "inside")
    (runner.work / "dir").mkdir()
    (runner.work / "loop").symlink_to("loop")
    (runner.work / "link-out").symlink_to(denied / "canary")
    runner.place.give(runner.work)
    return denied


def _harmful(row: Syscall) -> bool:
    """Would it matter bare if it were let through? Then it is refused: test_filter.py. These are made all the same."""
    return any(operand.effect & ~Effect.SEE for operand in row.paths)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("grant", ["--write", "--workdir"])
def test_each_is_answered_and_nothing_outside_is_touched(
    runner: Runner, grant: str, seed: int, soak: bool
) -> None:
    if not soak and runner.place.user.is_root != (seed == 1) and os.geteuid() == 0:
        pytest.skip("a long run, only with --soak: each user has a seed")
    denied = _furnished(runner)
    before = snapshot(denied)
    chance = random.Random(f"{grant} {seed} {sys.byteorder}")
    rows = [row for row in ROWS if row.name not in _NOT_MADE and row.number("x86_64") is not None]
    judged = [row for row in rows if row.treatment not in (Treatment.PASS, Treatment.ENOSYS)]
    script = Script(each_alone=True)
    for row in rows + [chance.choice(judged) for _ in range(8000 if soak else 900)]:
        getattr(script, row.name)(*_words(chance, row, denied, runner.work))
    child = script.openat(AT_FDCWD, b"/dev/null", os.O_RDONLY)
    script.each_alone = False
    parent = script.openat(AT_FDCWD, b"/dev/null", os.O_RDONLY)
    options = [grant, runner.work, *(["--on-exit", "discard"] if grant == "--workdir" else [])]
    outcomes, ended = script.sandboxed(runner, *options, timeout=300)
    assert outcomes[child.index].ok and outcomes[parent.index].ok
    assert changed(before, snapshot(denied)) == set()
    assert [o for o in outcomes if SECRET in o.data] == []
    errors = [record for record in ended.audit if record["kind"] == "error"]
    assert errors == [], errors[:2]
    assert b"Traceback" not in ended.stderr
    assert sum(map(_harmful, rows)) > 40


_STORM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Threads and children that ask for the same path, which changes all the time. */
static char *path;
static const char *inside, *outside;
static atomic_int found, asked, begun;

static void *ask(void *unused)
{
	char text[64] = "";
	int fd;

	begun++;
	for (int turn = 0; turn < 3; turn++) {
		strcpy(path, turn & 1 ? outside : inside);
		fd = open(path, O_RDONLY);
		asked++;
		if (fd >= 0) {
			if (read(fd, text, 63) > 0 && strstr(text, "the-canary"))
				found++;
			close(fd);
		}
		chmod(path, 0640);
	}
	return unused;
}

int main(int argc, char **argv)
{
	int threads = atoi(argv[3]), forks = atoi(argv[4]), made = 0, leaks = 0;
	pthread_t *ids = calloc((size_t)threads, sizeof(*ids));
	pthread_attr_t small;

	(void)argc;
	inside = argv[1];
	outside = argv[2];
	path = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16384);
	for (int i = 0; i < threads; i++)
		if (pthread_create(&ids[made], &small, ask, NULL) == 0)
			made++;
	for (int i = 0; i < forks; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			found = 0;
			ask(NULL);
			_exit(found ? 1 : 0);
		}
	}
	for (int status; wait(&status) > 0;)
		leaks += status != 0;
	for (int i = 0; i < made; i++)
		pthread_join(ids[i], NULL);
	printf("%d %d %d\n", made, asked, leaks + found);
	return 0;
}
"""


@pytest.mark.one_user
@pytest.mark.parametrize("grant", ["--write", "--workdir"])
def test_ten_thousand_threads_and_a_storm_of_forks(runner: Runner, grant: str, soak: bool) -> None:
    denied = _furnished(runner)
    before = snapshot(denied)
    threads, forks = ("10000", "2000") if soak else ("1000", "100")
    command = [runner.compiler.compile(_STORM), runner.work / "file", denied / "canary", threads, forks]
    options = [grant, runner.work, *(["--on-exit", "discard"] if grant == "--workdir" else [])]
    ended = runner.sandboxed(command, options=options, timeout=200)
    assert ended.returncode == 0, ended
    made, asked, leaks = map(int, ended.stdout.split())
    assert made > int(threads) * 3 // 4 and asked >= made * 3
    assert leaks == 0
    assert changed(before, snapshot(denied)) == set()
    told = {(record["errno"], record["call"]) for record in ended.audit if record["kind"] == "error"}
    # Too many at once is answered with an error, and on record.
    assert {name for name, _ in told} <= {errno.errorcode[errno.ENOMEM], errno.errorcode[errno.EAGAIN]}, told
