/* SPDX-License-Identifier: Apache-2.0 */
/* Programs that init holds now and then, for their share (test_throttle.c) or in a pause (test_pause.c), and that must not
 * see it. The program is the test's own executable in another role. */
#ifndef HELD_H
#define HELD_H

#include "launch.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <linux/futex.h>

#define MS UINT64_C(1000000)
#define RUNS_MS 700

/* ---- the roles of the program; each ends by itself */

static uint64_t ends_ns;

static int is_over(void)
{
	return slk_now_ns() >= ends_ns;
}

static void *burn(void *unused)
{
	while (!is_over())
		;
	return unused;
}

static _Noreturn void be_threads(int count)
{
	pthread_t threads[128];

	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, burn, NULL) != 0)
			_exit(3);
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	_exit(0);
}

static _Noreturn void be_forks(void)
{
	while (!is_over()) {
		pid_t pids[4];

		for (int i = 0; i < 4; i++)
			if ((pids[i] = fork()) == 0)
				_exit(0);
		for (int i = 0; i < 4; i++)
			if (waitpid(pids[i], NULL, 0) != pids[i])
				_exit(3);
	}
	_exit(0);
}

/* Turns of less than a millisecond, in each of many: hardly anybody is found computing. */
static _Noreturn void be_turns(void)
{
	for (int i = 0; i < 20; i++) {
		if (fork() != 0)
			continue;
		while (!is_over()) {
			uint64_t until = slk_now_ns() + MS / 2;

			while (slk_now_ns() < until)
				;
			usleep(2000);
		}
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	_exit(0);
}

/* While its first thread is held another one executes a program, and gets the number of the first. */
static void *execute(void *unused)
{
	struct timespec soon = {0, 40 * MS};

	nanosleep(&soon, NULL);
	execv("/proc/self/exe", (char *const[]){"exe", "itself", NULL});
	return unused;
}

static _Noreturn void be_replaced(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, execute, NULL) != 0)
		_exit(3);
	burn(NULL);
	_exit(4);
}

static volatile int heard;

static void hear_child(int number)
{
	(void)number;
	heard++;
}

static _Noreturn void be_parent(void)
{
	struct sigaction action = {.sa_handler = hear_child};
	int status;
	pid_t child = fork();

	if (child == 0)
		burn(NULL), _exit(0);
	sigaction(SIGCHLD, &action, NULL);
	while (!is_over()) {
		siginfo_t info = {0};

		if (waitid(P_PID, (id_t)child, &info, WSTOPPED | WCONTINUED | WNOHANG) < 0 || info.si_pid || heard)
			_exit(is_over() ? 0 : 4);
		usleep(500);
	}
	_exit(waitpid(child, &status, WUNTRACED | WCONTINUED) == child && WIFEXITED(status) ? 0 : 5);
}

/* Its parent waits, and is told of a stop and a going on that were meant, and of nothing else. */
static _Noreturn void be_stopped(void)
{
	int status;
	pid_t child = fork();

	if (child == 0)
		for (;;)
			;
	for (int stops = 0; stops < 3; stops++) {
		usleep(20000);
		kill(child, SIGSTOP);
		if (waitpid(child, &status, WUNTRACED | WCONTINUED) != child || !WIFSTOPPED(status))
			_exit(4);
		kill(child, SIGCONT);
		if (waitpid(child, &status, WUNTRACED | WCONTINUED) != child || !WIFCONTINUED(status))
			_exit(5);
	}
	kill(child, SIGTERM);
	_exit(waitpid(child, &status, WUNTRACED | WCONTINUED) == child && WIFSIGNALED(status) ? 0 : 6);
}

#define SYS_epoll_pwait2_ 441 /* Linux 5.11, on every architecture */

/* One after the other, each for a moment. Nobody sends a signal, so no call may say EINTR. */
static int call(int kind, int epoll, int sem, const int *pair)
{
	struct timespec moment = {0, 1000};
	struct timeval receive = {0, 1000};
	struct epoll_event event;
	struct sembuf take = {0, -1, 0};
	uint32_t word = 0;
	sigset_t none;
	char byte;

	switch (kind) {
	case 0:
		return (int)syscall(SYS_epoll_pwait2_, epoll, &event, 1, &moment, NULL, 0);
	case 1:
		return poll(NULL, 0, 1);
	case 2:
		return nanosleep(&moment, NULL);
	case 3:
		sigemptyset(&none);
		sigaddset(&none, SIGUSR2);
		sigprocmask(SIG_BLOCK, &none, NULL);
		return sigtimedwait(&none, NULL, &moment);
	case 4:
		return sem < 0 ? 0 : semtimedop(sem, &take, 1, &moment);
	case 5:
		return (int)syscall(SYS_futex, &word, FUTEX_WAIT, 0, &moment, NULL, 0);
	case 6:
		setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &receive, sizeof(receive));
		return (int)recv(pair[0], &byte, 1, 0);
	case 7:
		return (int)syscall(SYS_io_getevents, 0, 1, 1, NULL, &moment);
	default:
		return 0;
	}
}

static _Noreturn void be_calls(void)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC), sem = semget(IPC_PRIVATE, 1, 0600), pair[2], bad = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		_exit(3);
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); /* each is over at once, so that it is hardly ever found waiting */
	for (unsigned turn = 0; !is_over() && !bad; turn++) {
		for (int kind = 0; kind < 8 && !bad; kind++) {
			if ((kind == 1 || kind == 6) && turn % 64)
				continue; /* a millisecond at least */
			errno = 0;
			if (call(kind, epoll, sem, pair) < 0 && errno == EINTR)
				bad = 10 + kind;
		}
	}
	if (sem >= 0)
		semctl(sem, 0, IPC_RMID);
	_exit(bad);
}

/* What a pipe does not hold, and what takes long to make. */
static _Noreturn void be_long_calls(void)
{
	static char data[2 << 20];
	int urandom = open("/dev/urandom", O_RDONLY | O_CLOEXEC), ends[2], bad = 0;
	uint64_t sum = 0, state = 88172645463325252u;
	pid_t reader;

	if (urandom < 0 || pipe2(ends, O_CLOEXEC) < 0)
		_exit(3);
	if ((reader = fork()) == 0) {
		ssize_t got;

		close(ends[1]);
		while ((got = read(ends[0], data, 3000)) > 0)
			for (ssize_t i = 0; i < got; i++)
				sum += (unsigned char)data[i];
		_exit(got < 0 ? 4 : 0);
	}
	while (!is_over() && !bad) {
		size_t size = 1 + random_below(&state, sizeof(data) - 1);

		if (write(ends[1], data, size) != (ssize_t)size)
			bad = 10;
		else if (read(urandom, data, size) != (ssize_t)size)
			bad = 11;
		else if (syscall(SYS_getrandom, data, size, 0) != (long)size)
			bad = 12;
	}
	close(ends[1]);
	_exit(bad || exit_of(reader) ? bad + 100 : 0);
}

/* One that is begun for the rest still ends with a signal, and tells what it has done. */
static _Noreturn void be_cut_by_alarm(void)
{
	static char data[8 << 20];
	struct sigaction action = {.sa_handler = hear_child};
	struct itimerval soon = {{0, 0}, {0, 250000}};
	int ends[2];
	ssize_t written;

	sigaction(SIGALRM, &action, NULL);
	if (pipe2(ends, O_CLOEXEC) < 0)
		_exit(3);
	if (fork() == 0) {
		close(ends[1]);
		while (read(ends[0], data, 4096) > 0) {
			for (int i = 0; i < 100000; i++)
				__asm__ volatile("");
			if (is_over())
				break;
		}
		poll(NULL, 0, 1000); /* and reads no more */
		_exit(0);
	}
	setitimer(ITIMER_REAL, &soon, NULL);
	for (int writes = 0; writes < 1000 && !heard; writes++) {
		written = write(ends[1], data, sizeof(data));
		if (written != (ssize_t)sizeof(data) && !heard)
			_exit(5);
	}
	close(ends[1]);
	_exit(heard ? 0 : 6);
}

static void on_alarm(int number)
{
	(void)number;
	heard++;
}

/* And where a signal comes, they say so. */
static _Noreturn void be_interrupted(void)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct itimerval soon = {{0, 3000}, {0, 3000}}; /* it may be held for longer */
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event;

	sigaction(SIGALRM, &action, NULL);
	if (fork() == 0)
		burn(NULL), _exit(0);
	setitimer(ITIMER_REAL, &soon, NULL);
	while (!is_over()) {
		int before = heard;

		if (epoll_wait(epoll, &event, 1, 20000) != -1 || errno != EINTR || heard == before)
			_exit(4);
	}
	signal(SIGALRM, SIG_IGN);
	wait(NULL);
	_exit(0);
}

__attribute__((unused)) static void play(const char *role)
{
	ends_ns = slk_now_ns() + RUNS_MS * MS;
	if (!strcmp(role, "one"))
		be_threads(1);
	if (!strcmp(role, "hundred"))
		be_threads(100);
	if (!strcmp(role, "forks"))
		be_forks();
	if (!strcmp(role, "turns"))
		be_turns();
	if (!strcmp(role, "replaced"))
		be_replaced();
	if (!strcmp(role, "itself"))
		burn(NULL), _exit(0);
	if (!strcmp(role, "parent"))
		be_parent();
	if (!strcmp(role, "stopped"))
		be_stopped();
	if (!strcmp(role, "calls"))
		be_calls();
	if (!strcmp(role, "long"))
		be_long_calls();
	if (!strcmp(role, "alarm"))
		be_cut_by_alarm();
	if (!strcmp(role, "interrupted"))
		be_interrupted();
	if (!strcmp(role, "forever")) {
		ends_ns = UINT64_MAX;
		if (fork() == 0)
			burn(NULL);
		if (write(1, "r", 1) == 1)
			be_threads(4);
	}
	_exit(2);
}

#endif
