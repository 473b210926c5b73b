"""Leases on files that the supervisor opens on behalf (fcntl(2), F_SETLEASE): an open that has to wait for the holder
of one keeps nobody else waiting, and one that must not wait gets the errno that it gets bare.

The file is made by the program beside something denied, so that the supervisor serves it; a process outside holds the
lease. Each dialogue is held bare first, then sandboxed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.running import Argument, Runner
from harness.waiting import line_of, until

_PROGRAM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *kind;
static int returned;

static void told(const char *what, long result)
{
	printf("%s %s\n", what, result < 0 ? strerrorname_np(errno) : "went well");
	fflush(stdout);
}

static void *wait_for_it(void *unused)
{
	long result;

	if (!strcmp(kind, "truncate"))
		result = truncate("leased", 3);
	else if (!strcmp(kind, "create"))
		result = open("leased", O_WRONLY | O_CREAT, 0644);
	else
		result = open("leased", strcmp(kind, "empty") ? O_RDONLY : O_WRONLY | O_TRUNC);
	__atomic_store_n(&returned, 1, __ATOMIC_SEQ_CST);
	told(kind, result);
	return unused;
}

/* What the supervisor serves, and what the kernel decides. */
static int others_go_on(void)
{
	for (int i = 0; i < 20; i++) {
		char name[16];
		int fds[3];

		snprintf(name, sizeof(name), "other-%d", i);
		fds[0] = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
		fds[1] = open("/proc/self/status", O_RDONLY);
		fds[2] = open("/usr/lib/os-release", O_RDONLY);
		for (int j = 0; j < 3; j++)
			if (fds[j] < 0 || close(fds[j]) < 0)
				return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int fd = open("leased", O_RDWR | O_CREAT | O_EXCL, 0644);
	struct stat status;
	pthread_t thread;

	kind = argv[argc - 1];
	if (fd < 0 || write(fd, "0123456789", 10) != 10 || close(fd) < 0)
		return 1;
	puts("ready");
	fflush(stdout);
	getchar();
	told("at once, to read", open("leased", O_RDONLY | O_NONBLOCK));
	told("at once, to write", open("leased", O_WRONLY | O_NONBLOCK));
	told("at once, to empty", open("leased", O_WRONLY | O_NONBLOCK | O_TRUNC));
	pthread_create(&thread, NULL, wait_for_it, NULL);
	told("others", others_go_on());
	puts(__atomic_load_n(&returned, __ATOMIC_SEQ_CST) ? "did not wait" : "waits");
	fflush(stdout);
	pthread_join(thread, NULL);
	stat("leased", &status);
	printf("%ld bytes\n", (long)status.st_size);
	return 0;
}
"""


@contextlib.contextmanager
def _lease(path: Path) -> Iterator[None]:
    """Hold a lease that every open of the file breaks."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # it tells the holder that somebody waits
    fd = os.open(path, os.O_RDWR)

    def taken() -> bool:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:  # somebody is still on the way out of it
            return False
        return True

    try:
        until(taken, "the lease")
        yield
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def _lines(runner: Runner, kind: str) -> Iterator[list[Argument]]:
    """Bare, then sandboxed, each in an empty directory with something denied in it."""
    program = runner.compiler.compile(_PROGRAM)
    for sandboxed in (False, True):
        work = runner.place.empty_work()
        runner.place.file("work/denied", "denied")
        options = ["--write", work, "--deny", work / "denied", "--quiet"]
        yield runner.command_line([program, kind], options=options) if sandboxed else [program, kind]


@pytest.mark.parametrize("kind", ["open", "create", "empty", "truncate"])
def test_what_waits_for_the_holder_keeps_nobody_else_waiting(runner: Runner, kind: str) -> None:
    told = []
    for line in _lines(runner, kind):
        with runner.started(line) as process:
            assert process.stdout is not None and process.stdin is not None
            out = process.stdout.fileno()
            assert line_of(out) == b"ready\n"
            with _lease(runner.work / "leased"):
                process.stdin.write(b"\n")
                lines = [line_of(out) for _ in range(5)]
            process.stdin.close()
            told.append(lines + process.stdout.read().splitlines(keepends=True))
            assert process.wait(timeout=10) == 0
    bare, ours = told
    assert bare[:5] == [
        b"at once, to read EAGAIN\n",
        b"at once, to write EAGAIN\n",
        b"at once, to empty EAGAIN\n",
        b"others went well\n",
        b"waits\n",
    ]
    assert bare[5] == b"%s went well\n" % kind.encode()
    assert ours == bare


def test_the_end_of_the_program_does_not_wait_for_the_holder(runner: Runner) -> None:
    *_, line = _lines(runner, "open")
    with runner.started(line, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdin is not None
        out = process.stdout.fileno()
        assert line_of(out) == b"ready\n"
        with _lease(runner.work / "leased"):
            process.stdin.write(b"\n")
            while line_of(out) != b"waits\n":
                pass
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130
            assert time.monotonic() - begun < 5
