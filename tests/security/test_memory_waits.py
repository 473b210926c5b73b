"""`limits.memory` where a server keeps silent: neither the loop nor who counts memory waits for it.

The file system is FUSE; its server is the test (test_slow_file_systems).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from harness.fuse import Call, FileSystem
from harness.running import Runner
from harness.users import User
from harness.waiting import line_of

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="only root mounts a file system"
)

_SLOWEST_US = 500_000

_PROGRAM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HALF_MEGA (1 << 19)

static int fd;

static void *map(void *unused)
{
	mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	return unused;
}

static void *allocate(void *unused)
{
	if (fallocate(fd, 0, 0, 1L << 40) < 0)
		usleep(1);
	return unused;
}

static long now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void others_go_on(void)
{
	long slowest = 0;

	for (int i = 0; i < 100; i++) {
		long before = now_us();

		close(memfd_create("other", 0));
		usleep(2000);
		slowest = now_us() - before > slowest ? now_us() - before : slowest;
	}
	printf("slowest %ld\n", slowest);
}

/* A memfd that nobody has open for writing: it is looked for among all descriptors. */
static void take(void)
{
	char path[32];
	int kept = memfd_create("kept", 0);

	snprintf(path, sizeof(path), "/proc/self/fd/%d", kept);
	open(path, O_PATH);
	close(kept);
	usleep(400000);
	for (int i = 0; i < 600; i++)
		memset(mmap(NULL, HALF_MEGA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, HALF_MEGA);
	puts("taken");
}

int main(int argc, char **argv)
{
	pthread_t thread;

	fd = open(argv[2], O_RDWR);
	if (argc != 3 || fd < 0)
		return 2;
	puts("ready");
	fflush(stdout);
	getchar();
	if (!strcmp(argv[1], "take")) {
		take();
	} else {
		pthread_create(&thread, NULL, strcmp(argv[1], "map") ? allocate : map, NULL);
		others_go_on();
	}
	fflush(stdout);
	getchar();
	_exit(0);
}
"""


@pytest.fixture
def slow(runner: Runner, as_user: User) -> Iterator[FileSystem]:
    with FileSystem(runner.place.root / "slow", as_user) as made:
        made.file("file", b"content\n")
        yield made


@pytest.mark.one_user
@pytest.mark.parametrize(("how", "call"), [("map", Call.GETATTR), ("allocate", Call.STATFS)])
def test_what_a_file_lies_on_is_not_asked_by_the_loop(
    runner: Runner, slow: FileSystem, how: str, call: Call
) -> None:
    program = runner.compiler.compile(_PROGRAM)
    line = runner.command_line(
        [program, how, slow.point / "file"],
        options=["--write", slow.point, "--memory", "64M"],
        wrap=slow.wrap(),
    )
    with runner.started(line, **slow.popen()) as process:
        assert process.stdout is not None and process.stdin is not None
        assert line_of(process.stdout.fileno()) == b"ready\n"
        with slow.hang(call, "file"):
            process.stdin.write(b"\n")
            word, slowest_us = line_of(process.stdout.fileno()).split()
            assert word == b"slowest" and int(slowest_us) < _SLOWEST_US
        process.stdin.write(b"\n")
        assert process.wait(10) == 0


@pytest.mark.one_user
def test_who_counts_memory_asks_no_server(runner: Runner, slow: FileSystem) -> None:
    """All descriptors of the program are looked through for a memfd; one of them is a file of a silent server."""
    program = runner.compiler.compile(_PROGRAM)
    line = runner.command_line(
        [program, "take", slow.point / "file"],
        options=["--write", slow.point, "--memory", "64M"],
        wrap=slow.wrap(),
    )
    with runner.started(line, **slow.popen()) as process:
        assert process.stdout is not None and process.stdin is not None
        assert line_of(process.stdout.fileno()) == b"ready\n"
        with slow.hang(Call.GETATTR, "file"):
            process.stdin.write(b"\n")
            assert process.wait(15) == 137
            assert process.stdout.read() == b""
    status = runner.status()
    assert status is not None and status["reason"] == "memory"
