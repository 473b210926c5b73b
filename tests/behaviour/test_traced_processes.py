"""A process that has timers is traced by init (native/tracer.c), and that does not show.

Its job control, waits for it, its exec and its threads are as bare.
"""

from __future__ import annotations

import signal

import pytest
from harness.running import Runner

_JOB = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile long ticks;
static void tick(int number) { (void)number; ticks++; }
static volatile sig_atomic_t codes[64], code_count;
static void child(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	codes[code_count++ % 64] = info->si_code;
}

static void *spin(void *argument)
{
	(void)argument;
	for (;;)
		close(open("/usr/lib/os-release", O_RDONLY));
	return NULL;
}

static void be_timed(const char *how)
{
	struct itimerval every = {{0, 1000}, {0, 1000}};
	pthread_t thread;

	signal(SIGALRM, tick);
	setitimer(ITIMER_REAL, &every, NULL);
	if (strcmp(how, "threads") == 0)
		pthread_create(&thread, NULL, spin, NULL);
	if (strcmp(how, "leader") == 0) {
		pthread_create(&thread, NULL, spin, NULL);
		pthread_exit(NULL);
	}
	spin(NULL);
}

static void rest(void)
{
	struct timespec left = {0, 30000000};

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

/* The kernel keeps one SIGCHLD at a time, and may send it later than waitpid tells of it: of two that come before the
 * first is taken, the second is lost, bare too. */
static void await_signal(void)
{
	static int awaited;
	struct timespec left = {0, 1000000};

	awaited++;
	for (int i = 0; code_count < awaited && i < 10000; i++)
		nanosleep(&left, NULL);
}

static void tell(const char *what, pid_t pid, int options)
{
	int status = 0;
	pid_t got;

	do
		got = waitpid(pid, &status, options);
	while (got < 0 && errno == EINTR);
	printf("%s: %d 0x%x\n", what, got == pid, got == pid ? status : 0);
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = child, .sa_flags = SA_SIGINFO | SA_RESTART};
	int stops[] = {SIGSTOP, SIGTSTP, SIGSTOP, SIGTTIN};
	pid_t pid;

	(void)argc;
	sigaction(SIGCHLD, &action, NULL);
	pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		be_timed(argv[1]);
	}
	usleep(150000);
	for (int i = 0; i < 4; i++) {
		kill(pid, stops[i]);
		tell("stop", pid, WUNTRACED);
		await_signal();
		rest();
		tell("still", pid, WUNTRACED | WCONTINUED | WNOHANG);
		kill(pid, SIGCONT);
		tell("cont", pid, WCONTINUED);
		await_signal();
		rest();
	}
	kill(pid, atoi(argv[2]));
	tell("end", pid, 0);
	await_signal();
	for (int i = 0; i < code_count; i++)
		printf("code %d\n", codes[i]);
	return 0;
}
"""


_EXEC_IN_A_THREAD = r"""
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static void tick(int number) { (void)number; }

static void *spin(void *argument)
{
	(void)argument;
	for (;;)
		close(open("/usr/lib/os-release", O_RDONLY));
	return NULL;
}

static void *replace(void *argument)
{
	(void)argument;
	usleep(50000);
	execl("/bin/sleep", "sleep", "10", (char *)NULL);
	return NULL;
}

int main(void)
{
	struct itimerval every = {{0, 1000}, {0, 1000}};
	pthread_t threads[3];
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		signal(SIGALRM, tick);
		setitimer(ITIMER_REAL, &every, NULL);
		pthread_create(&threads[0], NULL, spin, NULL);
		pthread_create(&threads[1], NULL, spin, NULL);
		pthread_create(&threads[2], NULL, replace, NULL);
		spin(NULL);
	}
	waitpid(pid, &status, 0);
	printf("%d %d\n", WIFSIGNALED(status), WTERMSIG(status));
	return 0;
}
"""


@pytest.mark.one_user
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("how", ["single", "threads", "leader"])
def test_a_parent_sees_a_child_with_a_timer_stop_go_on_and_end(runner: Runner, how: str, end: int) -> None:
    program = runner.compiler.compile(_JOB, "-pthread")
    runner.both([program, how, str(int(end))])


def test_exec_in_a_thread_of_a_process_with_a_timer(runner: Runner) -> None:
    # The timer outlives exec and the handler does not, so SIGALRM ends the new program.
    program = runner.compiler.compile(_EXEC_IN_A_THREAD, "-pthread")
    runner.both([program])


@pytest.mark.parametrize("script", ["exit 7", "kill -SEGV $$", "kill -KILL $$"])
def test_the_program_itself_with_a_timer_ends_as_bare(runner: Runner, script: str) -> None:
    program = runner.compiler.compile(_TIMED_THEN_EXEC)
    runner.both([program, "/bin/sh", "-c", f"ulimit -c 0; sleep 0.05; {script}"])


_TIMED_THEN_EXEC = r"""
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct itimerval every = {{0, 1000}, {0, 1000}};

	(void)argc;
	signal(SIGALRM, SIG_IGN);
	setitimer(ITIMER_REAL, &every, NULL);
	execv(argv[1], argv + 1);
	return 1;
}
"""


def test_a_debugger_inside_can_trace_a_process_with_a_timer(runner: Runner) -> None:
    program = runner.compiler.compile(_TRACES)
    policy = '[filesystem]\nbase = true\n[syscalls]\nallow = ["ptrace"]\n'
    bare = runner.bare([program])
    ended = runner.sandboxed([program], policy=policy)
    assert bare.stdout == ended.stdout == b"seized 0\n"


_TRACES = r"""
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <unistd.h>

static void tick(int number) { (void)number; }

int main(void)
{
	struct itimerval every = {{0, 1000}, {0, 1000}};
	int ready[2];
	char byte;
	pid_t pid;

	pipe(ready);
	pid = fork();
	if (pid == 0) {
		signal(SIGALRM, tick);
		setitimer(ITIMER_REAL, &every, NULL);
		write(ready[1], "r", 1);
		for (;;)
			pause();
	}
	read(ready[0], &byte, 1);
	printf("seized %ld\n", ptrace(PTRACE_SEIZE, pid, 0, 0));
	kill(pid, SIGKILL);
	return 0;
}
"""
