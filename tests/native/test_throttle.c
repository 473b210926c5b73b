/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A share of the processors (throttle.c): that nobody gets more, and that nobody sees how.
 *
 * What is checked of time is an upper bound: on a busy machine everybody gets less.
 */
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
#define PERCENT 10 /* also on a busy machine everybody would get more */
#define UNSEEN_PERCENT 3
/* What is saved up at the start, and what everybody has in hand before the first look comes. */
#define AHEAD_MS 110

static int scoped;

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

/* ---- */

struct ran {
	int status;
	double used_ms, wall_ms;
};

static struct ran run_at(char *role, uint32_t percent)
{
	struct slk_launch_plan plan = plan_of(ROLE(role));
	struct slk_order begin = {.kind = SLK_ORDER_BEGIN};
	struct launched launched;
	struct ran ran;
	uint64_t began;

	plan.scope_signals = (uint8_t)scoped;
	plan.cpu_percent = percent;
	began = slk_now_ns();
	launched = launch(&plan);
	hear(&launched, SLK_REPORT_STARTED);
	CHECK_EQUAL(0, slk_order_send(launched.control, &begin));
	hear(&launched, SLK_REPORT_DONE);
	CHECK(HAS(&launched, SLK_REPORT_EXITED) && !HAS(&launched, SLK_REPORT_STOPPED));
	ran.status = launched.told.of[SLK_REPORT_EXITED].status;
	ran.used_ms = (double)(launched.told.of[SLK_REPORT_DONE].user_us + launched.told.of[SLK_REPORT_DONE].system_us) / 1e3;
	ran.wall_ms = (double)(slk_now_ns() - began) / 1e6;
	let_go(&launched);
	if (getenv("SLK_MEASURE"))
		printf("%s: %.0f ms in %.0f ms: %.1f %% (status %d)\n", role, ran.used_ms, ran.wall_ms,
		       100 * ran.used_ms / ran.wall_ms, ran.status);
	return ran;
}

static void check_share(char *role)
{
	struct ran ran = run_at(role, PERCENT);

	CHECK_EQUAL(0, ran.status);
	CHECK(ran.used_ms <= ran.wall_ms * PERCENT / 100 + AHEAD_MS);
}

static void test_one_thread_gets_its_share(void)
{
	check_share("one");
}

static void test_a_hundred_threads_get_no_more(void)
{
	check_share("hundred");
}

static void test_many_short_processes_get_no_more(void)
{
	check_share("forks");
}

static void test_who_computes_in_short_turns_gets_no_more(void)
{
	check_share("turns");
}

static void test_who_takes_the_number_of_one_that_is_held_gets_no_more(void)
{
	check_share("replaced");
}

static void test_no_parent_is_told(void)
{
	CHECK_EQUAL(0, run_at("parent", UNSEEN_PERCENT).status);
}

static void test_stops_of_job_control_are_told_as_ever(void)
{
	CHECK_EQUAL(0, run_at("stopped", PERCENT).status);
}

static void test_no_call_is_interrupted(void)
{
	CHECK_EQUAL(0, run_at("calls", UNSEEN_PERCENT).status);
}

static void test_no_call_comes_back_with_less(void)
{
	CHECK_EQUAL(0, run_at("long", 20).status);
}

static void test_but_with_a_signal(void)
{
	CHECK_EQUAL(0, run_at("alarm", 20).status);
}

static void test_signals_interrupt_as_ever(void)
{
	CHECK_EQUAL(0, run_at("interrupted", UNSEEN_PERCENT).status);
}

static void test_more_than_there_is_is_no_limit(void)
{
	CHECK_EQUAL(0, run_at("one", 100000).status);
}

/* The leash breaks while all are held. */
static void test_who_is_held_dies_with_the_rest(void)
{
	struct slk_launch_plan plan = plan_of(ROLE("forever"));
	struct slk_order begin = {.kind = SLK_ORDER_BEGIN};
	struct launched launched;
	struct pollfd waiting;
	int ends[2];
	char byte;

	CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
	plan.scope_signals = (uint8_t)scoped;
	plan.cpu_percent = 2;
	plan.stdio[1] = ends[1];
	launched = launch(&plan);
	close(ends[1]);
	hear(&launched, SLK_REPORT_STARTED);
	CHECK_EQUAL(0, slk_order_send(launched.control, &begin));
	CHECK_EQUAL(1, read(ends[0], &byte, 1));
	poll(NULL, 0, 150); /* by now they are held: of 100 ms they get 2 */
	let_go(&launched);
	waiting = (struct pollfd){ends[0], POLLIN, 0};
	CHECK_EQUAL(1, poll(&waiting, 1, 0));
	CHECK_EQUAL(0, read(ends[0], &byte, 1));
	close(ends[0]);
}

/* What the doctor asks. */
static void test_a_trial_holds_and_lets_go(void)
{
	uint64_t held_ns = UINT64_MAX, free_ns = 0;

	CHECK(slk_throttle_try(20 * MS, &held_ns, &free_ns) == 0);
	CHECK(held_ns < 2 * MS);
	CHECK(free_ns > 0);
	CHECK(waitpid(-1, NULL, WNOHANG | __WALL) < 0 && errno == ECHILD);
}

static void all(int is_scoped)
{
	scoped = is_scoped;
	RUN(test_a_trial_holds_and_lets_go);
	RUN(test_one_thread_gets_its_share);
	RUN(test_a_hundred_threads_get_no_more);
	RUN(test_many_short_processes_get_no_more);
	RUN(test_who_computes_in_short_turns_gets_no_more);
	RUN(test_who_takes_the_number_of_one_that_is_held_gets_no_more);
	RUN(test_no_parent_is_told);
	RUN(test_stops_of_job_control_are_told_as_ever);
	RUN(test_no_call_is_interrupted);
	RUN(test_no_call_comes_back_with_less);
	RUN(test_but_with_a_signal);
	RUN(test_signals_interrupt_as_ever);
	RUN(test_more_than_there_is_is_no_limit);
	RUN(test_who_is_held_dies_with_the_rest);
}

static void play(const char *role)
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

int main(int argc, char **argv)
{
	if (argc > 1)
		play(argv[1]);
	begin_tests();
	if (slk_throttle_possible() < 0)
		skip_all("tracing is forbidden here");
	if (slk_landlock_abi() >= 6)
		all(1);
	else
		all(0);
	return 0;
}
