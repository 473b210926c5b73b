"""A thread whose execve waits for a server keeps its process from being traced (cred_guard_mutex): calls of its other
threads that are made in the place of others wait with it, and then are what they are bare; nobody else waits.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.fuse import Call, FileSystem
from harness.running import Runner
from harness.users import User
from security import broken
from security.test_slow_file_systems import _can_mount, new_file_system, next_line, say_line  # noqa: F401

_PROGRAM = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *path;
static int error;
static volatile int may_go;

static void *execute(void *unused)
{
	execl(path, path, (char *)NULL);
	error = errno;
	return unused;
}

static void *go(void *directory)
{
	char where[4096] = "";
	long result;

	while (!may_go) /* made before, for there are no new threads beside an execve */
		usleep(1000);
	result = chdir(directory);

	if (result)
		snprintf(where, sizeof(where), "/%s", strerror(errno));
	else if (!getcwd(where, sizeof(where)))
		return NULL;
	printf("%ld %s\n", result, strrchr(where, '/'));
	return NULL;
}

static int descriptors(void)
{
	DIR *open_ones = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(open_ones))
		count++;
	closedir(open_ones);
	return count;
}

/* The slowest of what another process asks meanwhile. */
static void ask(void)
{
	long slowest = 0;

	for (int i = 0; i < 200; i++) {
		struct timespec start, end;

		clock_gettime(CLOCK_MONOTONIC, &start);
		close(open("/proc/self/stat", O_RDONLY));
		clock_gettime(CLOCK_MONOTONIC, &end);
		long us = (end.tv_sec - start.tv_sec) * 1000000 + (end.tv_nsec - start.tv_nsec) / 1000;
		slowest = us > slowest ? us : slowest;
	}
	printf("slowest %ld\n", slowest);
	exit(0);
}

int main(int argc, char **argv)
{
	pthread_t executing, going[8];
	int before, count = argc > 2 ? atoi(argv[2]) : 1;
	char line[8], made[4096];

	path = argv[1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	mkdir("made", 0755);
	if (!realpath("made", made))
		return 2;
	before = descriptors();
	for (int i = 0; i < count; i++)
		if (pthread_create(&going[i], NULL, go, made))
			return 3;
	pthread_create(&executing, NULL, execute, NULL);
	if (read(0, line, 1) != 1)
		return 1;
	printf("going\n");
	may_go = 1;
	if (fork() == 0) {
		if (read(0, line, 1) == 1)
			ask();
		_exit(1);
	}
	pthread_join(executing, NULL);
	for (int i = 0; i < count; i++)
		pthread_join(going[i], NULL);
	wait(NULL);
	printf("execve %s, %d more descriptors\n", strerror(error), descriptors() - before);
	return 0;
}
"""


@pytest.fixture
def slow(runner: Runner, as_user: User) -> Iterator[FileSystem]:
    with new_file_system(runner, as_user) as made:
        made.file("garbage", b"no program at all", 0o755)
        yield made


@pytest.mark.parametrize("threads", [1, 6])
def test_a_directory_is_entered_when_execve_has_failed(
    runner: Runner, slow: FileSystem, threads: int
) -> None:
    program = runner.compiler.compile(_PROGRAM)
    line = runner.command_line(
        [program, slow.point / "garbage", str(threads)],
        options=["--workdir", runner.work, "--on-exit", "discard", "--read", slow.point],
        wrap=slow.wrap(),
    )
    hung = slow.hang(Call.READ, "garbage")
    with runner.started(line, **slow.popen()) as process, hung:
        hung.wait()
        say_line(process)
        assert next_line(process) == "going"
        say_line(process)
        told = next_line(process)
        assert told.startswith("slowest ") and int(told.split()[1]) < 500_000, told
        hung.answer()
        places = sorted(next_line(process) for _ in range(threads))
        assert places == ["0 /made"] * threads, places
        assert next_line(process) == "execve Exec format error, 0 more descriptors"
        assert process.wait(10) == 0


_ONE_MAY_WAIT = "from sandlockd.notify import dispatch\ndispatch._WORKERS_MAX = 1\n"


def test_who_may_not_wait_for_execve_has_no_descriptor_more(runner: Runner, slow: FileSystem) -> None:
    """The call was to be replaced, with a descriptor, and is not after all."""
    program = runner.compiler.compile(_PROGRAM)
    line = runner.command_line(
        [program, slow.point / "garbage", "6"],
        options=["--workdir", runner.work, "--on-exit", "discard", "--read", slow.point],
    )
    hung = slow.hang(Call.READ, "garbage")
    line = [*slow.wrap(), *broken.command_line(_ONE_MAY_WAIT, line)]
    with runner.started(line, **slow.popen()) as process, hung:
        hung.wait()
        say_line(process)
        assert next_line(process) == "going"
        refused = {next_line(process) for _ in range(5)}
        assert refused == {"-1 /Resource temporarily unavailable"}
        say_line(process)
        assert next_line(process).startswith("slowest ")
        hung.answer()
        assert next_line(process) == "0 /made"
        assert next_line(process) == "execve Exec format error, 0 more descriptors"
        assert process.wait(10) == 0


def test_a_thread_that_waits_for_execve_dies_when_that_succeeds(runner: Runner, slow: FileSystem) -> None:
    program = runner.compiler.compile(_PROGRAM)
    line = runner.command_line(
        [program, slow.point / "program"],
        options=["--workdir", runner.work, "--on-exit", "discard", "--read", slow.point],
        wrap=slow.wrap(),
    )
    hung = slow.hang(Call.READ, "program")
    with runner.started(line, **slow.popen()) as process, hung:
        hung.wait()
        say_line(process)
        assert next_line(process) == "going"
        hung.answer()
        assert process.wait(10) == 3
