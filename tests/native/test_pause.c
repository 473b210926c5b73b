/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pauses (throttle.c): that nobody runs in one, and that nobody sees it.
 *
 * Programs count what they do in memory that the test sees: their standard output is a memfd.
 */
#include "held.h"

#include <sys/mman.h>

#define COUNTS 64
#define NAPS 60
#define NAPS_LEFT_MAX 5
#define NAP_US 20000
#define THREADS 24
#define STILL_MS 120
#define STILL_AT_FIRST_MS 25
#define FLICKERS 200
#define SHARE_PERCENT 30

static int scoped;

struct counts {
	volatile uint64_t of[COUNTS];
};

static struct counts *counts_of(int fd)
{
	void *mapped = mmap(NULL, sizeof(struct counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	CHECK(mapped != MAP_FAILED);
	return mapped;
}

/* ---- programs that never end by themselves */

static struct counts *mine;

static void *count_on(void *which)
{
	for (;;)
		mine->of[(uintptr_t)which]++;
	return NULL;
}

static _Noreturn void be_counting_threads(void)
{
	pthread_t thread;

	for (uintptr_t i = 1; i < THREADS; i++)
		CHECK_EQUAL(0, pthread_create(&thread, NULL, count_on, (void *)i));
	count_on(NULL);
	_exit(2);
}

static _Noreturn void be_forking(int by_vfork)
{
	for (int i = 0; i < 3; i++)
		if (fork() == 0)
			break;
	for (;;) {
		pid_t child = by_vfork ? vfork() : fork();

		if (child == 0) {
			if (by_vfork)
				execv("/proc/self/exe", ROLE("count-once"));
			mine->of[0]++;
			_exit(0);
		}
		if (child < 0 || waitpid(child, NULL, 0) != child)
			_exit(3);
		mine->of[1]++;
	}
}

/* Hardly ever found running. */
static _Noreturn void be_napping(void)
{
	for (int i = 1; i < NAPS; i++)
		if (fork() == 0) {
			for (;;) {
				usleep(NAP_US);
				mine->of[i]++;
			}
		}
	for (;;) {
		usleep(NAP_US);
		mine->of[0]++;
	}
}

/* One byte goes round among three. */
static _Noreturn void be_passing_on(void)
{
	int pipes[3][2], one = 0;
	char byte = 'x';

	for (int i = 0; i < 3; i++)
		CHECK_EQUAL(0, pipe(pipes[i]));
	while (one < 2 && fork() == 0)
		one++;
	if (one == 0)
		CHECK_EQUAL(1, write(pipes[0][1], &byte, 1));
	for (;;) {
		CHECK_EQUAL(1, read(pipes[one][0], &byte, 1));
		mine->of[one]++;
		CHECK_EQUAL(1, write(pipes[(one + 1) % 3][1], &byte, 1));
	}
}

static _Noreturn void be_executing(void)
{
	mine->of[0]++;
	execv("/proc/self/exe", ROLE("executing"));
	_exit(4);
}

/* Waits for a byte, and from then on computes; how long, the second number tells. */
static _Noreturn void be_woken(void)
{
	char byte;
	uint64_t began;

	mine->of[0] = 1;
	CHECK_EQUAL(1, read(0, &byte, 1));
	began = slk_now_ns();
	mine->of[0] = 2;
	for (;;)
		mine->of[1] = slk_now_ns() - began;
}

static void count_signal(int number)
{
	mine->of[number]++;
}

static _Noreturn void be_hearing(void)
{
	signal(SIGUSR1, count_signal);
	signal(SIGTERM, count_signal);
	signal(SIGCONT, count_signal);
	signal(SIGUSR2, count_signal);
	signal(SIGRTMIN, count_signal);
	mine->of[0] = 1;
	for (;;)
		pause();
}

static void play_on(const char *role)
{
	void *mapped = mmap(NULL, sizeof(struct counts), PROT_READ | PROT_WRITE, MAP_SHARED, 1, 0);

	if (mapped == MAP_FAILED)
		return; /* it is one of the others */
	mine = mapped;
	if (!strcmp(role, "threads"))
		be_counting_threads();
	if (!strcmp(role, "forking"))
		be_forking(0);
	if (!strcmp(role, "vforking"))
		be_forking(1);
	if (!strcmp(role, "count-once"))
		mine->of[0]++, _exit(0);
	if (!strcmp(role, "napping"))
		be_napping();
	if (!strcmp(role, "passing-on"))
		be_passing_on();
	if (!strcmp(role, "executing"))
		be_executing();
	if (!strcmp(role, "woken"))
		be_woken();
	if (!strcmp(role, "hearing"))
		be_hearing();
}

/* ---- */

struct paused {
	struct launched launched;
	struct counts *counts;
	int stdin_fd;
};

static void give(struct launched *launched, int kind, int number)
{
	struct slk_order order = {.kind = kind, .number = number};

	CHECK_EQUAL(0, slk_order_send(launched->control, &order));
}

static uint64_t sum_of(const struct counts *counts)
{
	uint64_t sum = 0;

	for (int i = 0; i < COUNTS; i++)
		sum += counts->of[i];
	return sum;
}

static int is_still_for(const struct counts *counts, int ms)
{
	uint64_t before = sum_of(counts);

	for (int i = 0; i < ms; i++) {
		poll(NULL, 0, 1);
		if (sum_of(counts) != before)
			return 0;
	}
	return 1;
}

static struct paused begin(char *role, uint32_t percent)
{
	struct slk_launch_plan plan = plan_of(ROLE(role));
	int memory = memfd_create("counts", MFD_CLOEXEC), ends[2];
	struct paused paused;

	CHECK_EQUAL(0, ftruncate(memory, sizeof(struct counts)));
	CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
	plan.scope_signals = (uint8_t)scoped;
	plan.cpu_percent = percent;
	plan.stdio[0] = ends[0];
	plan.stdio[1] = memory;
	paused.launched = launch(&plan);
	paused.counts = counts_of(memory);
	paused.stdin_fd = ends[1];
	close(ends[0]);
	close(memory);
	hear(&paused.launched, SLK_REPORT_STARTED);
	give(&paused.launched, SLK_ORDER_BEGIN, 0);
	CHECK(COMES_TRUE(sum_of(paused.counts) > 0));
	return paused;
}

static void is_gone(struct paused *paused)
{
	if (paused->launched.control >= 0)
		close(paused->launched.control);
	CHECK_EQUAL(0, munmap(paused->counts, sizeof(*paused->counts)));
	close(paused->stdin_fd);
}

static void is_over_with(struct paused *paused)
{
	let_go(&paused->launched);
	is_gone(paused);
}

static void end(struct paused *paused)
{
	give(&paused->launched, SLK_ORDER_KILL, 0);
	is_over_with(paused);
}

static void pause_it(struct paused *paused)
{
	give(&paused->launched, SLK_ORDER_PAUSE, 0);
	CHECK(COMES_TRUE(is_still_for(paused->counts, STILL_AT_FIRST_MS)));
}

static void check_stands_still_and_goes_on(char *role, uint32_t percent)
{
	struct paused paused = begin(role, percent);
	uint64_t before;

	for (int times = 0; times < 2; times++) {
		pause_it(&paused);
		before = sum_of(paused.counts);
		CHECK(is_still_for(paused.counts, STILL_MS));
		CHECK_EQUAL(before, sum_of(paused.counts));
		give(&paused.launched, SLK_ORDER_RESUME, 0);
		CHECK(COMES_TRUE(sum_of(paused.counts) > before + 3));
	}
	end(&paused);
}

static void test_threads_stand_still(void)
{
	check_stands_still_and_goes_on("threads", 0);
}

static void test_a_storm_of_forks_stands_still(void)
{
	check_stands_still_and_goes_on("forking", 0);
}

static void test_vfork_and_exec_stand_still(void)
{
	check_stands_still_and_goes_on("vforking", 0);
}

/* Who has run is held by the next search or two. Who is held only when it is seen to run goes on for long. */
static void test_who_hardly_ever_runs_stands_still(void)
{
	struct paused paused = begin("napping", 0);
	uint64_t before;

	for (int i = 0; i < NAPS; i++)
		CHECK(COMES_TRUE(paused.counts->of[i] > 0));
	before = sum_of(paused.counts);
	pause_it(&paused);
	if (getenv("SLK_MEASURE"))
		printf("%.1f naps each\n", (double)(sum_of(paused.counts) - before) / NAPS);
	CHECK(sum_of(paused.counts) - before < NAPS * NAPS_LEFT_MAX);
	end(&paused);
	check_stands_still_and_goes_on("napping", 0);
}

static void test_a_pipeline_stands_still(void)
{
	check_stands_still_and_goes_on("passing-on", 0);
}

static void test_who_executes_itself_stands_still(void)
{
	check_stands_still_and_goes_on("executing", 0);
}

static void test_who_is_held_for_its_share_stands_still(void)
{
	check_stands_still_and_goes_on("threads", 5);
	check_stands_still_and_goes_on("napping", 5);
}

/* What is used is the share of the time that it was not paused, and what may be saved up once. */
static void test_a_pause_saves_nothing_up(void)
{
	uint64_t unpaused = 0, began = slk_now_ns();
	struct paused paused = begin("threads", SHARE_PERCENT);
	struct slk_report *done;
	double used_ms, share_ms;

	for (int times = 0; times < 8; times++) {
		give(&paused.launched, SLK_ORDER_PAUSE, 0);
		poll(NULL, 0, 2);
		unpaused += slk_now_ns() - began;
		pause_it(&paused);
		poll(NULL, 0, 100); /* saved up, that would be the most that can be, each time */
		began = slk_now_ns();
		give(&paused.launched, SLK_ORDER_RESUME, 0);
		poll(NULL, 0, 10);
	}
	unpaused += slk_now_ns() - began;
	give(&paused.launched, SLK_ORDER_KILL, 0);
	done = hear(&paused.launched, SLK_REPORT_DONE);
	used_ms = (double)(done->user_us + done->system_us) / 1e3;
	share_ms = (double)unpaused / 1e6 * SHARE_PERCENT / 100;
	if (getenv("SLK_MEASURE"))
		printf("used %.1f ms, the share is %.1f ms\n", used_ms, share_ms);
	CHECK(used_ms < share_ms + 5 * SHARE_PERCENT); /* what runs until it is held, 2 to 8 ms each time, too */
	is_over_with(&paused);
}

static void test_who_wakes_is_held(void)
{
	struct paused paused = begin("woken", 0);
	uint64_t before;

	give(&paused.launched, SLK_ORDER_PAUSE, 0);
	CHECK(is_still_for(paused.counts, STILL_AT_FIRST_MS)); /* by now nobody is searched for any more */
	CHECK_EQUAL(1, write(paused.stdin_fd, "x", 1));
	CHECK(COMES_TRUE(paused.counts->of[0] == 2));
	CHECK(COMES_TRUE(is_still_for(paused.counts, STILL_AT_FIRST_MS)));
	before = paused.counts->of[1];
	if (getenv("SLK_MEASURE"))
		printf("ran for %.1f ms\n", (double)before / 1e6);
	CHECK(is_still_for(paused.counts, STILL_MS));
	give(&paused.launched, SLK_ORDER_RESUME, 0);
	CHECK(COMES_TRUE(paused.counts->of[1] > before));
	end(&paused);
}

static void test_signals_come_when_it_goes_on(void)
{
	struct paused paused = begin("hearing", 0);
	volatile uint64_t *heard = paused.counts->of;

	give(&paused.launched, SLK_ORDER_PAUSE, 0);
	for (int times = 0; times < 3; times++) {
		give(&paused.launched, SLK_ORDER_SIGNAL, SIGUSR1);
		give(&paused.launched, SLK_ORDER_SIGNAL, SIGTERM);
		give(&paused.launched, SLK_ORDER_SIGNAL, SIGRTMIN);
		give(&paused.launched, SLK_ORDER_SIGNAL, SIGSTOP);
		give(&paused.launched, SLK_ORDER_SIGNAL, SIGCONT);
	}
	CHECK(is_still_for(paused.counts, STILL_MS));
	CHECK_EQUAL(1, sum_of(paused.counts));
	give(&paused.launched, SLK_ORDER_SIGNAL_GROUP, SIGUSR2); /* it leads none, and we are in its own */
	give(&paused.launched, SLK_ORDER_RESUME, 0);
	CHECK(COMES_TRUE(heard[SIGRTMIN] == 3 && heard[SIGTERM] && heard[SIGUSR1] && heard[SIGCONT] && heard[SIGUSR2]));
	CHECK_EQUAL(8, sum_of(paused.counts));
	give(&paused.launched, SLK_ORDER_PAUSE, 0);
	give(&paused.launched, SLK_ORDER_SIGNAL, SIGKILL);
	hear(&paused.launched, SLK_REPORT_DONE);
	CHECK_EQUAL(SIGKILL, paused.launched.told.of[SLK_REPORT_EXITED].status);
	CHECK(!HAS(&paused.launched, SLK_REPORT_STOPPED));
	is_over_with(&paused);
}

/* ---- that nobody sees it */

static void give_if_there(struct launched *launched, int kind)
{
	struct slk_order order = {.kind = kind};
	int result = slk_order_send(launched->control, &order);

	CHECK(result == 0 || result == -EPIPE || result == -ECONNRESET); /* its last word is read then */
}

static void flicker(struct launched *launched)
{
	uint64_t random = 88172645463325252u;

	while (!HAS(launched, SLK_REPORT_EXITED)) {
		give_if_there(launched, random_below(&random, 3) ? SLK_ORDER_PAUSE : SLK_ORDER_RESUME); /* often one twice */
		poll(NULL, 0, (int)random_below(&random, 4));
		give_if_there(launched, SLK_ORDER_RESUME);
		poll(NULL, 0, (int)random_below(&random, 3));
		hear_one(launched, 0);
	}
}

static void check_sees_nothing(char *role, uint32_t percent)
{
	struct slk_launch_plan plan = plan_of(ROLE(role));
	struct launched launched;

	plan.scope_signals = (uint8_t)scoped;
	plan.cpu_percent = percent;
	launched = launch(&plan);
	hear(&launched, SLK_REPORT_STARTED);
	give(&launched, SLK_ORDER_BEGIN, 0);
	flicker(&launched);
	CHECK_EQUAL(0, launched.told.of[SLK_REPORT_EXITED].status);
	CHECK(!HAS(&launched, SLK_REPORT_STOPPED));
	let_go(&launched);
}

static void test_no_parent_is_told(void)
{
	check_sees_nothing("parent", 0);
}

static void test_stops_of_job_control_are_told_as_ever(void)
{
	check_sees_nothing("stopped", 0);
}

static void test_no_call_is_interrupted(void)
{
	check_sees_nothing("calls", 0);
}

static void test_no_call_comes_back_with_less(void)
{
	check_sees_nothing("long", 0);
}

static void test_signals_interrupt_as_ever(void)
{
	check_sees_nothing("interrupted", 0);
}

static void test_forks_and_turns_go_on(void)
{
	check_sees_nothing("forks", 0);
	check_sees_nothing("turns", 30);
}

static void test_who_takes_the_number_of_one_that_is_held_goes_on(void)
{
	check_sees_nothing("replaced", 0);
}

static void test_two_hundred_pauses_lose_nobody(void)
{
	struct paused paused = begin("threads", 0);
	uint64_t before[THREADS];
	int moved = 0;

	for (int times = 0; times < FLICKERS; times++) {
		give(&paused.launched, SLK_ORDER_PAUSE, 0);
		poll(NULL, 0, times % 3 ? 0 : 1); /* the socket has room for some hundred orders */
		give(&paused.launched, SLK_ORDER_RESUME, 0);
		poll(NULL, 0, times % 5 ? 0 : 2);
	}
	for (int i = 0; i < THREADS; i++)
		before[i] = paused.counts->of[i];
	CHECK(COMES_TRUE(({
		moved = 0;
		for (int i = 0; i < THREADS; i++)
			moved += paused.counts->of[i] > before[i];
		moved == THREADS;
	})));
	end(&paused);
}

/* ---- the end */

static void check_all_die_at_once(char *role, int by_order)
{
	struct paused paused = begin(role, 0);

	pause_it(&paused);
	if (by_order)
		give(&paused.launched, SLK_ORDER_KILL, 0);
	else
		close(paused.launched.control), paused.launched.control = -1; /* nobody keeps the leash */
	CHECK_EQUAL(0, exit_of(paused.launched.init)); /* it has no child left by then: so run_test sees */
	is_gone(&paused);
}

static void test_who_is_paused_dies_with_the_rest(void)
{
	check_all_die_at_once("threads", 1);
	check_all_die_at_once("vforking", 1);
	check_all_die_at_once("napping", 0);
	check_all_die_at_once("forking", 0);
}

/* EXITKILL: though nobody is there to kill them. */
static void test_who_is_held_dies_with_init(void)
{
	struct paused paused = begin("threads", 0);

	pause_it(&paused);
	CHECK_EQUAL(0, kill(paused.launched.init, SIGKILL));
	CHECK_EQUAL(1000 + SIGKILL, exit_of(paused.launched.init));
	CHECK(COMES_TRUE(waitpid(-1, NULL, WNOHANG | __WALL) < 0)); /* it has come to us */
	is_gone(&paused);
}

/* And is let go for it: the handler runs. */
static void test_a_timeout_ends_who_is_paused(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("trap 'exit 5' TERM; echo; while :; do :; done"));
	struct launched launched;
	int ends[2];
	char byte;

	plan.scope_signals = (uint8_t)scoped;
	plan.timeout_ns = 400 * MS;
	plan.grace_ns = 20000 * MS;
	CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
	plan.stdio[1] = ends[1];
	launched = launch(&plan);
	close(ends[1]);
	CHECK_EQUAL(1, read(ends[0], &byte, 1));
	close(ends[0]);
	give(&launched, SLK_ORDER_BEGIN, 0);
	give(&launched, SLK_ORDER_PAUSE, 0);
	hear(&launched, SLK_REPORT_DONE);
	CHECK_EQUAL(SLK_LIMIT_TIMEOUT, launched.told.of[SLK_REPORT_LIMIT].status);
	CHECK_EQUAL(5 << 8, launched.told.of[SLK_REPORT_EXITED].status);
	let_go(&launched);
}

static void all(int is_scoped)
{
	scoped = is_scoped;
	RUN(test_threads_stand_still);
	RUN(test_a_storm_of_forks_stands_still);
	RUN(test_vfork_and_exec_stand_still);
	RUN(test_who_hardly_ever_runs_stands_still);
	RUN(test_a_pipeline_stands_still);
	RUN(test_who_executes_itself_stands_still);
	RUN(test_who_is_held_for_its_share_stands_still);
	RUN(test_a_pause_saves_nothing_up);
	RUN(test_who_wakes_is_held);
	RUN(test_signals_come_when_it_goes_on);
	RUN(test_no_parent_is_told);
	RUN(test_stops_of_job_control_are_told_as_ever);
	RUN(test_no_call_is_interrupted);
	RUN(test_no_call_comes_back_with_less);
	RUN(test_signals_interrupt_as_ever);
	RUN(test_forks_and_turns_go_on);
	RUN(test_who_takes_the_number_of_one_that_is_held_goes_on);
	RUN(test_two_hundred_pauses_lose_nobody);
	RUN(test_who_is_paused_dies_with_the_rest);
	RUN(test_who_is_held_dies_with_init);
	RUN(test_a_timeout_ends_who_is_paused);
}

int main(int argc, char **argv)
{
	if (argc > 1) {
		play_on(argv[1]);
		play(argv[1]);
	}
	begin_tests();
	if (slk_throttle_possible() < 0)
		skip_all("tracing is forbidden here");
	all(slk_landlock_abi() >= 6);
	return 0;
}
