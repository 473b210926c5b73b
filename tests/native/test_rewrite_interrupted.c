/* SPDX-License-Identifier: Apache-2.0 */
/* Another call in the place of one that is trapped, whatever comes in between: signals, stops for job control, the end of
 * the caller or of its supervisor, and other tracers. */
#include "launch.h"
#include "restarting.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/ptrace.h>
#include <sys/time.h>

/* ---- signals */

static struct shared *handling;

static void handle(int number)
{
	(void)number;
	handling->handled++;
	syscall(SYS_getppid); /* trapped as well */
}

static int changes_directory_under_a_timer(struct shared *shared)
{
	struct sigaction action = {.sa_handler = handle}; /* without SA_RESTART */
	struct itimerval often = {{0, shared->period_us}, {0, shared->period_us}};
	int before = open_descriptors();

	handling = shared;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	/* A signal before RECV withdraws the call; that is tracer.c's. */
	for (int i = 0; i < shared->times; i++)
		if (syscall(SYS_chdir, "virtual") < 0)
			CHECK_EQUAL(EINTR, errno);
	memset(&often, 0, sizeof(often));
	setitimer(ITIMER_REAL, &often, NULL);
	check_place(shared);
	CHECK(shared->handled > 0);
	if (shared->value == SLK_RESTART_RETURN)
		CHECK_EQUAL(before, open_descriptors());
	return 0;
}

static void test_a_handler_runs_before_the_new_call_or_after_it(void)
{
	for (int end = SLK_RESTART_LEAVE; end <= SLK_RESTART_RETURN; end++) {
		struct program program = start_program(changes_directory_under_a_timer);
		struct slk_request *request;

		program.shared->value = end;
		while ((request = next(&program)))
			if (request->nr == SYS_chdir) {
				int result = restart_as_fchdir(&program, request, end, -1);

				CHECK(result == 0 || result == -EMFILE);
				if (result < 0)
					slk_answer_errno(program.engine, request->slot, EINTR);
			} else {
				CHECK_EQUAL(0, slk_answer_value(program.engine, request->slot, 1));
			}
		CHECK_EQUAL(0, exit_of(program.parent));
		end_program(&program);
	}
}

static int sends_itself_one_signal(struct shared *shared)
{
	struct sigaction action = {.sa_handler = handle};

	handling = shared;
	sigaction(SIGUSR1, &action, NULL);
	CHECK_EQUAL(0, syscall(SYS_chdir, "virtual"));
	CHECK_EQUAL(1, shared->handled);
	check_place(shared);
	return 0;
}

/* It is pending when the thread stops. A handler that runs first asks something else first, too. */
static void test_a_signal_that_is_pending_is_handled_once_and_the_call_is_made(void)
{
	for (int end = SLK_RESTART_LEAVE; end <= SLK_RESTART_RETURN; end++) {
		struct program program = start_program(sends_itself_one_signal);
		struct slk_request *request = next(&program);

		CHECK_EQUAL(0, kill(program.pid, SIGUSR1));
		CHECK_EQUAL(0, restart_as_fchdir(&program, request, end, -1));
		request = next(&program);
		CHECK_EQUAL(SYS_getppid, request->nr);
		CHECK_EQUAL(0, slk_answer_value(program.engine, request->slot, 1));
		CHECK(!next(&program));
		CHECK_EQUAL(0, exit_of(program.parent));
		end_program(&program);
	}
}

static char state_of_process(pid_t pid)
{
	char path[64], text[512] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	return strrchr(text, ')')[2];
}

static int changes_directory_once(struct shared *shared)
{
	setpgid(0, 0); /* SIGTSTP stops nobody whose group has no parent in another one of its session */
	CHECK_EQUAL(0, syscall(SYS_chdir, "virtual"));
	check_place(shared);
	return 0;
}

/* Lets the engine go on with what did not stop in time, for so long. */
static void pump_for(const struct program *program, int ms)
{
	uint64_t end = slk_now_ns() + (uint64_t)ms * 1000000u;

	while (slk_now_ns() < end) {
		uint32_t count = 0;
		int32_t other;

		slk_pump(program->engine, -1, 10000, batch, 1, &count, &other);
		CHECK_EQUAL(0, count);
	}
}

/* As a shell does: hears of its child's stop, ends it, and hears of its end. The child's number is in value. */
static int waits_for_its_job(struct shared *shared)
{
	pid_t job = fork();
	int status = 0;

	if (job == 0)
		_exit(changes_directory_once(shared));
	shared->value = job;
	CHECK_EQUAL(job, waitpid(job, &status, WUNTRACED));
	CHECK(WIFSTOPPED(status));
	CHECK_EQUAL(shared->handled, WSTOPSIG(status));
	shared->over = -1;
	CHECK(COMES_TRUE(__atomic_load_n(&shared->over, __ATOMIC_ACQUIRE) == -2));
	CHECK_EQUAL(0, kill(job, SIGCONT));
	CHECK_EQUAL(job, waitpid(job, &status, 0));
	return status;
}

static void test_a_stop_for_job_control_stays_one(void)
{
	static const int numbers[] = {SIGSTOP, SIGTSTP};

	for (int which = 0; which < 4; which++) {
		struct program program = start_program(waits_for_its_job);
		struct slk_request *request = next(&program);
		int end = which / 2 ? SLK_RESTART_RETURN : SLK_RESTART_LEAVE;
		/* Others than SIGSTOP wait for the end of the call. */
		int is_over = end == SLK_RESTART_RETURN && which % 2;
		uint64_t begun = slk_now_ns();
		pid_t job = request->tid;

		program.shared->handled = numbers[which % 2];
		CHECK_EQUAL(0, kill(job, numbers[which % 2]));
		CHECK_EQUAL(0, restart_as_fchdir(&program, request, end, -1));
		CHECK(slk_now_ns() - begun < TIMEOUT_MS / 2 * 1000000ull); /* the stop is not waited out */
		CHECK(COMES_TRUE(__atomic_load_n(&program.shared->over, __ATOMIC_ACQUIRE) == -1));
		pump_for(&program, 30);
		CHECK(strchr("Tt", state_of_process(job)));
		CHECK_EQUAL(!is_over && end == SLK_RESTART_RETURN, (int)program.engine->unfinished_count);
		program.shared->over = -2;
		CHECK(!next(&program));
		CHECK_EQUAL(0, exit_of(program.parent));
		end_program(&program);
	}
}

static void *stop_self(void *unused)
{
	(void)unused;
	for (int i = 0; i < 50; i++) {
		kill(getpid(), SIGSTOP);
		usleep(500);
	}
	return NULL;
}

static int is_stopped_again_and_again(struct shared *shared)
{
	pthread_t thread;
	int before = open_descriptors();

	CHECK_EQUAL(0, pthread_create(&thread, NULL, stop_self, NULL));
	while (pthread_tryjoin_np(thread, NULL) == EBUSY)
		CHECK_EQUAL(0, syscall(SYS_chdir, "virtual"));
	check_place(shared);
	CHECK_EQUAL(before, open_descriptors());
	return 0;
}

static int continues_it(void *pid)
{
	for (;;) {
		kill(*(pid_t *)pid, SIGCONT);
		usleep(300);
	}
	return 0;
}

static void test_stops_and_continues_at_every_moment(void)
{
	struct program program = start_program(is_stopped_again_and_again);
	pid_t other = in_child(continues_it, &program.pid);

	CHECK_EQUAL(0, serve_mortals(&program));
	CHECK_EQUAL(0, kill(other, SIGKILL));
	CHECK_EQUAL(1000 + SIGKILL, exit_of(other));
	end_program(&program);
}

/* ---- ends */

static int changes_directory_and_nothing_else(struct shared *shared)
{
	change_directory_for_ever(shared);
	return 0;
}

static void test_a_caller_that_is_killed_is_gone(void)
{
	struct program program = start_program(changes_directory_once);
	struct slk_request *request = next(&program);
	struct slk_restart call = {.nr = SYS_fchdir, .close_fd = -1};

	CHECK_EQUAL(0, kill(program.pid, SIGKILL));
	CHECK(COMES_TRUE(slk_answer_alive(program.engine, request->slot) == -ENOENT));
	CHECK_EQUAL(-ENOENT, slk_answer_restart(program.engine, request->slot, -1, &call, -1, TIMEOUT_MS));
	CHECK_EQUAL(-EBADSLT, slk_answer_restart(program.engine, request->slot, -1, &call, -1, TIMEOUT_MS));
	CHECK(!next(&program));
	CHECK_EQUAL(KILLED, exit_of(program.parent));
	end_program(&program);
}

struct killer {
	pid_t pid;
	unsigned after_us;
};

static int kill_after(void *argument)
{
	const struct killer *killer = argument;

	usleep(killer->after_us);
	kill(killer->pid, SIGKILL);
	return 0;
}

static int two_threads_change_directory(struct shared *shared)
{
	pthread_t thread;

	pthread_create(&thread, NULL, change_directory_for_ever, NULL);
	change_directory_for_ever(shared);
	return 0;
}

static void test_a_kill_at_any_moment_leaves_nothing_behind(void)
{
	for (int round = 0; round < 100; round++) {
		struct program program = start_program(round % 2 ? two_threads_change_directory
								 : changes_directory_and_nothing_else);
		struct killer killer = {program.pid, 500u + (unsigned)round * 13u % 700u};
		pid_t other = in_child(kill_after, &killer);

		CHECK_EQUAL(KILLED, serve_mortals(&program));
		CHECK_EQUAL(0, exit_of(other));
		end_program(&program);
	}
}

static int changes_directory_until_it_is_over(struct shared *shared)
{
	while (!__atomic_load_n(&shared->over, __ATOMIC_ACQUIRE)) {
		long result = syscall(SYS_chdir, "virtual");

		CHECK(result == 0 || result == 55);
		__atomic_fetch_add(&shared->value, 1, __ATOMIC_RELAXED);
	}
	return 0;
}

static int supervise_for_ever(void *argument)
{
	serve_mortals(argument);
	return 0;
}

/* What it had received, and died before it was in the ledger: ids count up (kernel/seccomp.c, seccomp_next_notify_id). */
static void answer_what_was_received(const struct program *program)
{
	struct slk_slot *slots = program->engine->slots;

	for (uint64_t id = program->shared->last_id; id <= program->shared->last_id + 2; id++)
		if (slk_notif_id_valid(program->listener, id) == 1)
			slk_respond(program->engine, 0, id, 55, 0, 0);
	for (int i = 0; i < SLK_SLOTS_MAX; i++)
		slk_slot_release(program->engine, &slots[i]);
}

/* Only the program's pause shows: another supervisor answers what is open, or what is asked again. */
static void test_a_supervisor_killed_in_the_middle_leaves_no_thread_stopped(void)
{
	struct program program = start_program(changes_directory_until_it_is_over);

	for (int round = 0; round < 60; round++) {
		int before = program.shared->value;
		pid_t supervisor = in_child(supervise_for_ever, &program);

		CHECK(COMES_TRUE(__atomic_load_n(&program.shared->value, __ATOMIC_RELAXED) > before + 3));
		usleep((useconds_t)(round * 37 % 200));
		CHECK_EQUAL(0, kill(supervisor, SIGKILL));
		CHECK_EQUAL(1000 + SIGKILL, exit_of(supervisor));
		before = program.shared->value;
		answer_what_was_received(&program);
		while (program.shared->value < before + 3)
			CHECK_EQUAL(0, slk_answer_value(program.engine, next(&program)->slot, 55));
		CHECK(state_of_process(program.pid) != 't');
	}
	program.shared->over = 1;
	for (struct slk_request *request; (request = next(&program));)
		slk_answer_value(program.engine, request->slot, 55);
	CHECK_EQUAL(0, exit_of(program.parent));
	end_program(&program);
}

/* ---- other tracers */

struct tracer {
	pid_t tracee;
	int ready[2];
};

static int trace_it(void *argument)
{
	struct tracer *tracer = argument;
	int status;

	CHECK_EQUAL(0, ptrace(PTRACE_SEIZE, tracer->tracee, 0, 0));
	CHECK_EQUAL(1, write(tracer->ready[1], "x", 1));
	while (waitpid(tracer->tracee, &status, __WALL) == tracer->tracee && WIFSTOPPED(status))
		ptrace(PTRACE_CONT, tracer->tracee, 0, status >> 16 ? 0 : WSTOPSIG(status));
	return 0;
}

static int is_refused(struct shared *shared)
{
	(void)shared;
	CHECK_EQUAL(-1, syscall(SYS_chdir, "virtual"));
	CHECK_EQUAL(EACCES, errno);
	return 0;
}

static void test_a_call_of_a_traced_thread_waits_on(void)
{
	struct program program = start_program(is_refused);
	struct slk_request *request = next(&program);
	struct slk_restart call = {.nr = SYS_fchdir, .close_fd = -1};
	struct tracer tracer = {.tracee = program.pid};
	int nobody = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t other;
	char byte;

	CHECK_EQUAL(0, pipe(tracer.ready));
	other = in_child(trace_it, &tracer);
	CHECK_EQUAL(1, read(tracer.ready[0], &byte, 1));
	CHECK(slk_answer_restart(program.engine, request->slot, nobody, &call, -1, 50) < 0);
	CHECK_EQUAL(1, slk_answer_alive(program.engine, request->slot));
	CHECK_EQUAL(0, slk_answer_errno(program.engine, request->slot, EACCES));
	CHECK(!next(&program));
	CHECK_EQUAL(0, exit_of(program.parent));
	CHECK_EQUAL(0, exit_of(other));
	close(tracer.ready[0]);
	close(tracer.ready[1]);
	close(nobody);
	end_program(&program);
}

/* ---- what is given for a call that is not replaced after all */

static int descriptors_now(void)
{
	int count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static int keeps_its_descriptors(struct shared *shared)
{
	int before = descriptors_now();
	struct rlimit few = {64, 64};

	for (int i = 0; i < 3; i++) {
		CHECK_EQUAL(-1, syscall(SYS_chdir, "virtual"));
		CHECK_EQUAL(EACCES, errno);
	}
	CHECK_EQUAL(before, descriptors_now());
	(void)shared;
	CHECK_EQUAL(0, setrlimit(RLIMIT_NOFILE, &few));
	while (dup(0) >= 0)
		continue;
	before = descriptors_now();
	CHECK_EQUAL(-1, syscall(SYS_chdir, "virtual"));
	CHECK_EQUAL(EMFILE, errno);
	CHECK_EQUAL(0x5eed, syscall(SYS_chdir, "value"));
	CHECK_EQUAL(before, descriptors_now());
	return 0;
}

static void test_nothing_is_given_to_who_cannot_be_held(void)
{
	struct program program = start_program(keeps_its_descriptors);
	struct tracer tracer = {.tracee = program.pid};
	struct slk_request *request;
	pid_t other;
	char byte;

	CHECK_EQUAL(0, pipe(tracer.ready));
	other = in_child(trace_it, &tracer);
	CHECK_EQUAL(1, read(tracer.ready[0], &byte, 1));
	for (int i = 0; i < 3; i++) {
		request = next(&program);
		CHECK_EQUAL(-EPERM, restart_as_fchdir(&program, request, SLK_RESTART_RETURN, -1));
		CHECK_EQUAL(1, slk_answer_alive(program.engine, request->slot));
		if (i == 2) {
			CHECK_EQUAL(0, kill(other, SIGKILL));
			CHECK_EQUAL(1000 + SIGKILL, exit_of(other));
		}
		CHECK_EQUAL(0, slk_answer_errno(program.engine, request->slot, EACCES));
	}
	/* Held, it has no number left: it is let go, with that error. */
	request = next(&program);
	CHECK_EQUAL(-EMFILE, restart_as_fchdir(&program, request, SLK_RESTART_RETURN, -1));
	request = next(&program);
	CHECK_EQUAL(0, slk_answer_value(program.engine, request->slot, 0x5eed));
	CHECK(!next(&program));
	CHECK_EQUAL(0, program.engine->unfinished_count);
	CHECK_EQUAL(0, program.engine->passing_count);
	CHECK_EQUAL(0, exit_of(program.parent));
	close(tracer.ready[0]);
	close(tracer.ready[1]);
	end_program(&program);
}

/* ---- init is the tracer */

static int role_of_program(const char *name)
{
	struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	snprintf(shared->place, sizeof(shared->place), "%s", getenv("PLACE"));
	shared->value = SLK_RESTART_RETURN;
	shared->times = 300;
	shared->period_us = 1000; /* each signal is a stop */
	if (strcmp(name, "timer") == 0)
		return changes_directory_under_a_timer(shared);
	return changes_directory(shared);
}

static void run_with_init_as_tracer(char *role)
{
	struct program program = {.shared = new_shared(), .listener = -1};
	struct sock_filter code[FILTER_LENGTH];
	struct slk_launch_plan plan = plan_of(ROLE(role));
	char place[300];
	char *envp[] = {place, NULL};
	struct slk_request *request;
	struct launched launched;
	int traced = 0;

	snprintf(place, sizeof(place), "PLACE=%s", program.shared->place);
	fill_filter(code);
	code[2].jf = 0;
	code[2] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, UINT32_MAX, 0, 0); /* not execve: the start */
	plan.filter = code;
	plan.filter_length = FILTER_LENGTH;
	plan.envp = envp;
	program.engine = new_engine(&program.ledger_fd);
	plan.engine = program.engine;
	fflush(stdout);
	launched.init = slk_launch(&plan, &launched.control);
	CHECK(launched.init > 0);
	while (program.listener < 0) {
		struct slk_report report;

		CHECK_EQUAL(1, slk_report_read(launched.control, PATIENCE_MS, &report));
		CHECK(report.kind != SLK_REPORT_FAILED);
		program.listener = report.fd;
	}
	CHECK(slk_engine_attach(program.engine, program.listener) >= 0);
	while ((request = next(&program)))
		if (request->nr == SYS_chdir) {
			if (!traced)
				traced = slk_order_init(program.engine, launched.control, SLK_ORDER_TRACE, request->tid,
							PATIENCE_MS);
			CHECK_EQUAL(1, traced);
			CHECK_EQUAL(0, restart_as_fchdir(&program, request, SLK_RESTART_RETURN, launched.control));
		} else {
			CHECK_EQUAL(0, slk_answer_value(program.engine, request->slot, 1));
		}
	launched.told.kinds = 0;
	CHECK_EQUAL(0, hear(&launched, SLK_REPORT_EXITED)->status);
	hear(&launched, SLK_REPORT_GONE);
	let_go(&launched);
	end_program(&program);
}

static void test_init_restarts_the_calls_of_those_that_it_traces(void)
{
	if (slk_landlock_abi() < 6)
		return; /* no init that traces */
	run_with_init_as_tracer("plain");
	run_with_init_as_tracer("timer");
}

int main(int argc, char **argv)
{
	if (argc > 1)
		_exit(role_of_program(argv[1])); /* a sanitiser would trace it, at its end */
	begin_tests();
	RUN(test_a_handler_runs_before_the_new_call_or_after_it);
	RUN(test_a_signal_that_is_pending_is_handled_once_and_the_call_is_made);
	RUN(test_a_stop_for_job_control_stays_one);
	RUN(test_stops_and_continues_at_every_moment);
	RUN(test_a_caller_that_is_killed_is_gone);
	RUN(test_a_kill_at_any_moment_leaves_nothing_behind);
	RUN(test_a_supervisor_killed_in_the_middle_leaves_no_thread_stopped);
	RUN(test_a_call_of_a_traced_thread_waits_on);
	RUN(test_nothing_is_given_to_who_cannot_be_held);
	RUN(test_init_restarts_the_calls_of_those_that_it_traces);
	return 0;
}
