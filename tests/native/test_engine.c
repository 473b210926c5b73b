/* SPDX-License-Identifier: Apache-2.0 */
/* Notifications from a real filter: received once, answered once, and never more allowed than a row allows. */
#include "target.h"

#include <sys/resource.h>
#include <sys/time.h>

static void test_the_listener_is_empty_then_pending_then_terminal(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	uint32_t count = 77;

	CHECK_EQUAL(SLK_NOTIF_EMPTY, slk_listener_state(target.listener));
	CHECK_EQUAL(SLK_NOTIF_EMPTY, slk_drain(served.engine, batch, SLK_BATCH_MAX, &count));
	CHECK_EQUAL(0, count);
	ASK(&target, 0, SLOW_NR);
	CHECK(COMES_TRUE(slk_listener_state(target.listener) == SLK_NOTIF_PENDING));
	CHECK_EQUAL(1, drain_once(&served));
	CHECK_EQUAL(SLK_NOTIF_EMPTY, slk_listener_state(target.listener));
	CHECK_EQUAL(0, slk_answer_value(served.engine, batch[0].slot, 1));
	CHECK_EQUAL(1, told(&target, 0));
	close(target.talk[0]);
	CHECK(COMES_TRUE(slk_listener_state(target.listener) == SLK_NOTIF_TERMINAL));
	count = 77;
	CHECK_EQUAL(SLK_NOTIF_TERMINAL, slk_drain(served.engine, batch, SLK_BATCH_MAX, &count));
	CHECK_EQUAL(0, count);
	target.workers = 0;
	end_engine(&served);
	end_target(&target);
}

static void test_a_descriptor_that_is_no_listener_is_terminal(void)
{
	int ends[2];

	CHECK_EQUAL(0, pipe(ends));
	close(ends[1]);
	CHECK_EQUAL(SLK_NOTIF_TERMINAL, slk_listener_state(ends[0])); /* POLLHUP */
	close(ends[0]);
	CHECK_EQUAL(SLK_NOTIF_TERMINAL, slk_listener_state(ends[0])); /* POLLNVAL */
}

static void test_a_request_carries_the_call(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	struct slk_request *request;

	ASK(&target, 0, SLOW_NR, -1, 2, 3, 4, 5);
	request = next_request(&served);
	CHECK_EQUAL(SLOW_NR, request->nr);
	CHECK_EQUAL(target.pids[0], request->tid);
	CHECK_EQUAL(SLK_REASON_SLOW, request->reason);
	CHECK_EQUAL(UINT64_MAX, request->args[0]);
	for (int i = 1; i < 5; i++)
		CHECK_EQUAL(i + 1, request->args[i]);
	CHECK_EQUAL(0, request->path_error);
	CHECK_EQUAL(0, request->path_length);
	CHECK(request->instruction_pointer != 0);
	CHECK_EQUAL(1, slk_answer_alive(served.engine, request->slot));
	CHECK_EQUAL(1, slk_notif_id_valid(target.listener, request->notif_id));
	CHECK_EQUAL(-ENOENT, slk_notif_id_valid(target.listener, request->notif_id + 1));
	CHECK_EQUAL(SLK_PHASE_RECEIVED, served.slots[request->slot].phase);
	CHECK_EQUAL(request->notif_id, served.slots[request->slot].notif_id);
	CHECK_EQUAL(request->tid, served.slots[request->slot].tid);
	CHECK_EQUAL(SLOW_NR, served.slots[request->slot].nr);
	CHECK_EQUAL(0, slk_answer_value(served.engine, request->slot, 0));
	CHECK_EQUAL(0, told(&target, 0));
	end_engine(&served);
	end_target(&target);
}

static uint32_t asked_slot(const struct target *target, const struct served *served)
{
	ASK(target, 0, SLOW_NR);
	return next_request(served)->slot;
}

static void test_the_program_gets_what_was_answered(void)
{
	static const int32_t no_errno[] = {0, -1, -EPERM, 4096, INT32_MAX, INT32_MIN};
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);

	CHECK_EQUAL(0, slk_answer_value(served.engine, asked_slot(&target, &served), 123456789012));
	CHECK_EQUAL(123456789012, told(&target, 0));
	CHECK_EQUAL(0, slk_answer_errno(served.engine, asked_slot(&target, &served), ENODATA));
	CHECK_EQUAL(-ENODATA, told(&target, 0));
	CHECK_EQUAL(0, slk_answer_continue(served.engine, asked_slot(&target, &served)));
	CHECK_EQUAL(target.pid, told(&target, 0));
	for (size_t i = 0; i < sizeof(no_errno) / sizeof(*no_errno); i++) { /* never success by mistake */
		CHECK_EQUAL(0, slk_answer_errno(served.engine, asked_slot(&target, &served), no_errno[i]));
		CHECK_EQUAL(-EIO, told(&target, 0));
	}
	CHECK_EQUAL(3 + 6, counts_of(&served).to_python);
	end_engine(&served);
	end_target(&target);
}

static void test_an_answered_slot_cannot_be_answered_again(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	uint32_t slot = asked_slot(&target, &served);
	uint32_t slots[] = {slot, SLK_SLOTS_MAX, UINT32_MAX};

	CHECK_EQUAL(0, slk_answer_errno(served.engine, slot, ENODATA));
	CHECK_EQUAL(-ENODATA, told(&target, 0));
	for (int i = 0; i < 3; i++) {
		CHECK_EQUAL(-EBADSLT, slk_answer_errno(served.engine, slots[i], EPERM));
		CHECK_EQUAL(-EBADSLT, slk_answer_value(served.engine, slots[i], 0));
		CHECK_EQUAL(-EBADSLT, slk_answer_continue(served.engine, slots[i]));
		CHECK_EQUAL(-EBADSLT, slk_answer_fd(served.engine, slots[i], 0, 0));
		CHECK_EQUAL(-EBADSLT, slk_answer_alive(served.engine, slots[i]));
	}
	CHECK_EQUAL(0, slk_answer_value(served.engine, asked_slot(&target, &served), 5)); /* others are unharmed */
	CHECK_EQUAL(5, told(&target, 0));
	end_engine(&served);
	end_target(&target);
}

/* ---- refusals */

static void test_a_refused_row_is_answered_in_c_and_told(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	struct slk_request *request;

	ASK(&target, 0, REFUSED_NR, AT_FDCWD, words_at(&target, 0, "/tmp/never"), S_IFIFO | 0600);
	request = next_request(&served);
	CHECK_EQUAL(SLK_REASON_REFUSED, request->reason);
	CHECK_EQUAL(REFUSED_NR, request->nr);
	CHECK_EQUAL(-REFUSED_ERRNO, told(&target, 0)); /* nobody else has answered */
	CHECK_EQUAL(-EBADSLT, slk_answer_continue(served.engine, request->slot));
	CHECK_EQUAL(1, counts_of(&served).refused);
	CHECK(access("/tmp/never", F_OK) < 0);
	end_engine(&served);
	end_target(&target);
}

static void test_a_refusal_by_argument_has_an_errno_of_its_own(void)
{
	static const struct slk_refusal refusals[] = {
		{0xFFFFFFFF, S_IFCHR, REFUSED_NR, 2, ENOTTY},
		{0xF000, S_IFCHR, REFUSED_NR, 2, EDOM},
		{0, 0, SLOW_NR, 0, EDOM},
	};
	static const struct {
		long mode;
		long error;
	} cases[] = {
		{S_IFCHR, ENOTTY}, {S_IFCHR | 0x700000000L, ENOTTY}, {S_IFCHR | 1, EDOM}, {S_IFIFO, REFUSED_ERRNO}};
	struct target target = start_target(1, 0);
	struct served served;

	more_config = (struct slk_engine_config){.refusals = refusals, .refusal_count = 3};
	served = start_engine(&target, NULL, 0);
	more_config = (struct slk_engine_config){0};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		ASK(&target, 0, REFUSED_NR, AT_FDCWD, words_at(&target, 0, "/tmp/never"), cases[i].mode);
		CHECK_EQUAL(SLK_REASON_REFUSED, next_request(&served)->reason);
		CHECK_EQUAL(-cases[i].error, told(&target, 0));
	}
	CHECK_EQUAL(0, slk_answer_value(served.engine, asked_slot(&target, &served), 5));
	CHECK_EQUAL(5, told(&target, 0));
	end_engine(&served);
	end_target(&target);
}

static void test_what_is_granted_is_told_first_where_that_is_wanted(void)
{
	static const struct slk_zone whole = {.path = "", .rights = UINT32_MAX};

	for (int wanted = 0; wanted < 2; wanted++) {
		struct target target = start_target(1, 0);
		struct served served;

		more_config = (struct slk_engine_config){.tell_granted = wanted};
		served = start_engine(&target, &whole, 1);
		more_config = (struct slk_engine_config){0};
		ASK(&target, 0, SYS_openat, AT_FDCWD, words_at(&target, 0, "/dev/null"), O_RDONLY);
		if (wanted) {
			struct slk_request *request = next_request(&served);

			CHECK_EQUAL(SLK_REASON_GRANTED, request->reason);
			CHECK_EQUAL(0, memcmp("/dev/null", request->path, request->path_length));
			CHECK_EQUAL(0, slk_answer_continue(served.engine, request->slot));
		} else {
			CHECK_EQUAL(0, drain_once(&served));
		}
		CHECK(told(&target, 0) >= 0);
		CHECK_EQUAL(!wanted, counts_of(&served).continued);
		end_engine(&served);
		end_target(&target);
	}
}

/* The second lock: even with a slot in hand, nobody continues a call whose row refuses. */
static void test_a_refused_row_can_never_continue(void)
{
	static const uint8_t closed[] = {SLK_CALL_REFUSE, SLK_CALL_NONE};

	for (int i = 0; i < 2; i++) {
		struct target target = start_target(1, 0);
		struct served served = start_engine(&target, NULL, 0);
		uint32_t slot = asked_slot(&target, &served);

		served.engine->calls[SLOW_NR].treatment = closed[i];
		CHECK_EQUAL(-EPERM, slk_answer_continue(served.engine, slot));
		CHECK_EQUAL(-EPERM, told(&target, 0));
		end_engine(&served);
		end_target(&target);
	}
}

static void test_a_call_without_a_row_does_not_exist(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);

	ASK(&target, 0, UNLISTED_NR);
	CHECK_EQUAL(0, drain_once(&served));
	CHECK_EQUAL(-ENOSYS, told(&target, 0));
	end_engine(&served);
	end_target(&target);
}

static void test_a_full_ledger_refuses(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);

	for (int i = 0; i < SLK_SLOTS_MAX; i++)
		served.slots[i].phase = SLK_PHASE_RECEIVED;
	ASK(&target, 0, SLOW_NR, 7);
	CHECK_EQUAL(1, drain_once(&served)); /* the log is owed the cause */
	CHECK_EQUAL(-ENOMEM, told(&target, 0));
	CHECK_EQUAL(SLK_REASON_FAILED, batch[0].reason);
	CHECK_EQUAL(ENOMEM, batch[0].path_error);
	CHECK_EQUAL(SLOW_NR, batch[0].nr);
	CHECK_EQUAL(target.pids[0], batch[0].tid);
	CHECK_EQUAL(7, batch[0].args[0]);
	CHECK_EQUAL(-EBADSLT, slk_answer_value(served.engine, batch[0].slot, 1));
	CHECK_EQUAL(1, counts_of(&served).failed);
	served.slots[1234].phase = SLK_PHASE_FREE; /* one is enough */
	CHECK_EQUAL(1234, asked_slot(&target, &served));
	CHECK_EQUAL(0, slk_answer_value(served.engine, 1234, 0));
	CHECK_EQUAL(0, told(&target, 0));
	memset(served.slots, 0, slk_ledger_bytes());
	end_engine(&served);
	end_target(&target);
}

/* The listener's number leads to something else: no answer goes anywhere, and that is told. */
static void test_an_answer_that_cannot_be_sent_is_told(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	uint32_t slot = asked_slot(&target, &served);
	int lost = open("/dev/null", O_RDWR | O_CLOEXEC);

	CHECK_EQUAL(target.listener, dup2(lost, target.listener));
	CHECK_EQUAL(-ENOTTY, slk_answer_value(served.engine, slot, 1));
	CHECK_EQUAL(-EBADSLT, slk_answer_value(served.engine, slot, 1));
	CHECK_EQUAL(1, counts_of(&served).failed);
	CHECK_EQUAL(-ENOSYS, told(&target, 0)); /* no listener is left */
	close(lost);
	end_engine(&served);
	end_target(&target);
}

static int drain_in_another_namespace(void *argument)
{
	struct served *served = argument;
	pid_t pid;

	if (unshare(CLONE_NEWPID) < 0)
		return SKIPPED;
	pid = fork();
	if (pid == 0) {
		CHECK_EQUAL(1, drain_once(served));
		CHECK_EQUAL(SLK_REASON_FAILED, batch[0].reason);
		CHECK_EQUAL(1, counts_of(served).failed);
		CHECK_EQUAL(0, served->engine->new_count); /* there is no thread that could be asked about */
		_exit(0);
	}
	return exit_of(pid);
}

/* A thread that our pid namespace does not show has the number 0: whoever acted on it would mean itself. */
static void test_a_caller_without_a_number_is_refused(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	int result;

	ASK(&target, 0, SLOW_NR);
	result = exit_of(in_child(drain_in_another_namespace, &served));
	if (result == 0)
		CHECK_EQUAL(-ENOSYS, told(&target, 0));
	else
		CHECK_EQUAL(SKIPPED, result); /* not root: there is no such namespace for us */
	end_engine(&served);
	end_target(&target);
}

static void test_after_the_last_listener_is_closed_calls_do_not_exist(void)
{
	struct target target = start_target(1, 0);

	ASK(&target, 0, SLOW_NR);
	CHECK(COMES_TRUE(slk_listener_state(target.listener) == SLK_NOTIF_PENDING));
	close(target.listener);
	target.listener = -1;
	CHECK_EQUAL(-ENOSYS, told(&target, 0));
	end_target(&target);
}

/* ---- several at once */

static void test_more_requests_than_the_batch_holds_stay_queued(void)
{
	struct target target = start_target(5, 0);
	struct served served = start_engine(&target, NULL, 0);
	struct slk_request few[2];
	int left = 5;

	for (int worker = 0; worker < 5; worker++)
		ASK(&target, worker, SLOW_NR);
	while (left) {
		uint32_t count = 0;
		int state = slk_drain(served.engine, few, 2, &count);

		CHECK(state == SLK_NOTIF_PENDING || state == SLK_NOTIF_EMPTY);
		CHECK(count <= 2);
		for (uint32_t i = 0; i < count; i++, left--)
			CHECK_EQUAL(0, slk_answer_value(served.engine, few[i].slot, few[i].tid));
	}
	for (int worker = 0; worker < 5; worker++)
		CHECK_EQUAL(target.pids[worker], told(&target, worker));
	CHECK_EQUAL(5, counts_of(&served).received);
	end_engine(&served);
	end_target(&target);
}

/* What C answers lies between what it does not: the batch holds the right ones, each whole. */
static void test_requests_move_together_when_others_are_answered(void)
{
	struct target target = start_target(6, 0);
	struct served served = start_engine(&target, NULL, 0);
	uint32_t count = 0;

	for (int worker = 0; worker < 6; worker++) {
		if (worker % 2)
			ASK(&target, worker, SYS_openat, AT_FDCWD, words_at(&target, worker * 64, "/usr/bin/env"), 0);
		else
			ASK(&target, worker, UNLISTED_NR);
		CHECK(COMES_TRUE(slk_listener_state(target.listener) == SLK_NOTIF_PENDING));
	}
	while (counts_of(&served).received < 6) {
		uint32_t more = 0;

		CHECK(slk_drain(served.engine, batch + count, SLK_BATCH_MAX - count, &more) >= 0);
		count += more;
	}
	CHECK_EQUAL(3, count);
	for (uint32_t i = 0; i < 3; i++) {
		CHECK_EQUAL(SYS_openat, batch[i].nr);
		CHECK_EQUAL(SLK_REASON_NOT_GRANTED, batch[i].reason);
		CHECK_EQUAL(12, batch[i].path_length);
		CHECK_EQUAL(0, memcmp("/usr/bin/env", batch[i].path, 12));
		CHECK_EQUAL(0, slk_answer_value(served.engine, batch[i].slot, batch[i].tid));
	}
	for (int worker = 0; worker < 6; worker++)
		CHECK_EQUAL(worker % 2 ? target.pids[worker] : -ENOSYS, told(&target, worker));
	end_engine(&served);
	end_target(&target);
}

/* ---- descriptors */

static void test_a_descriptor_is_injected_with_and_without_cloexec(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	int ends[2];

	CHECK_EQUAL(0, pipe(ends));
	for (int cloexec = 0; cloexec <= 1; cloexec++) {
		int number = slk_answer_fd(served.engine, asked_slot(&target, &served), ends[0], cloexec);

		CHECK(number >= 0);
		CHECK_EQUAL(number, told(&target, 0));
		ASK(&target, 0, SYS_fcntl, number, F_GETFD);
		CHECK_EQUAL(cloexec ? FD_CLOEXEC : 0, told(&target, 0));
		CHECK_EQUAL(1, write(ends[1], "x", 1));
		ASK(&target, 0, SYS_read, number, target.words, 1);
		CHECK_EQUAL(1, told(&target, 0));
		CHECK_EQUAL('x', target.words[0]);
	}
	close(ends[0]);
	close(ends[1]);
	end_engine(&served);
	end_target(&target);
}

static void test_emfile_is_the_programs_own(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	struct rlimit before, none;

	CHECK_EQUAL(0, getrlimit(RLIMIT_NOFILE, &before));
	none = (struct rlimit){3, before.rlim_max};
	CHECK_EQUAL(0, prlimit(target.pids[0], RLIMIT_NOFILE, &none, NULL));
	CHECK_EQUAL(-EMFILE, slk_answer_fd(served.engine, asked_slot(&target, &served), 0, 1));
	CHECK_EQUAL(-EMFILE, told(&target, 0));
	CHECK_EQUAL(0, prlimit(target.pids[0], RLIMIT_NOFILE, &before, NULL));
	CHECK(slk_answer_fd(served.engine, asked_slot(&target, &served), 0, 1) >= 0);
	CHECK(told(&target, 0) >= 0);
	end_engine(&served);
	end_target(&target);
}

/* Law 3: a failed injection is an errno, never a call let through. */
static void test_a_failed_injection_refuses(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	int path_only = open("/", O_PATH | O_CLOEXEC);

	CHECK_EQUAL(-EBADF, slk_answer_fd(served.engine, asked_slot(&target, &served), -1, 1));
	CHECK_EQUAL(-EIO, told(&target, 0));
	CHECK_EQUAL(-EBADF, slk_answer_fd(served.engine, asked_slot(&target, &served), path_only, 1));
	CHECK_EQUAL(-EIO, told(&target, 0));
	close(path_only);
	end_engine(&served);
	end_target(&target);
}

static void nothing(int signal)
{
	(void)signal;
}

/*
 * A signal to the supervisor while it injects: the kernel then forgets the descriptor but keeps the call as answered,
 * and the program's open returns 0, its own stdin (kernel/seccomp.c, seccomp_notify_addfd).
 */
static void test_injection_survives_our_own_signals(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	struct sigaction interrupting = {.sa_handler = nothing}, before;
	struct itimerval often = {{0, 50}, {0, 50}}, never = {{0, 0}, {0, 0}};

	CHECK_EQUAL(0, sigaction(SIGALRM, &interrupting, &before));
	for (int round = 0; round < 3000; round++) {
		uint32_t slot = asked_slot(&target, &served);
		long number;

		CHECK_EQUAL(0, setitimer(ITIMER_REAL, &often, NULL));
		number = slk_answer_fd(served.engine, slot, 0, 1);
		CHECK_EQUAL(0, setitimer(ITIMER_REAL, &never, NULL));
		CHECK_EQUAL(number, told(&target, 0));
		CHECK(number > 2);
		ASK(&target, 0, SYS_close, number);
		CHECK_EQUAL(0, told(&target, 0));
	}
	CHECK_EQUAL(0, sigaction(SIGALRM, &before, NULL));
	end_engine(&served);
	end_target(&target);
}

/* Serves the calls that C answers until words[0] says that it is over. */
static int serve_others(void *argument)
{
	struct served *served = ((void **)argument)[0];
	const struct target *target = ((void **)argument)[1];
	uint32_t count;

	while (!*(volatile char *)target->words)
		slk_drain(served->engine, batch, SLK_BATCH_MAX, &count);
	return 0;
}

/*
 * While others ask, the kernel's lock is often taken, and a signal that meets us then makes the question whether a call
 * is still there fail with EINTR. That is not "gone": the call would be dropped and its caller wait for ever.
 */
static void test_a_signal_of_ours_does_not_make_a_caller_look_gone(void)
{
	struct target target = start_target(4, 0);
	struct served served = start_engine(&target, NULL, 0);
	struct sigaction interrupting = {.sa_handler = nothing}, before;
	struct itimerval often = {{0, 50}, {0, 50}}, never = {{0, 0}, {0, 0}};
	uint32_t slot = asked_slot(&target, &served);
	uint64_t notif_id = served.slots[slot].notif_id;
	void *both[] = {&served, &target};
	int wrong = 0;
	pid_t server;

	for (int worker = 1; worker < 4; worker++)
		ASK(&target, worker, LOOP_NR, UNLISTED_NR);
	server = in_child(serve_others, both);
	CHECK_EQUAL(0, sigaction(SIGALRM, &interrupting, &before));
	CHECK_EQUAL(0, setitimer(ITIMER_REAL, &often, NULL));
	for (uint64_t end = slk_now_ns() + 1000000000u; slk_now_ns() < end;)
		wrong += slk_notif_id_valid(target.listener, notif_id) != 1 ||
			 slk_answer_alive(served.engine, slot) != 1;
	CHECK_EQUAL(0, setitimer(ITIMER_REAL, &never, NULL));
	CHECK_EQUAL(0, sigaction(SIGALRM, &before, NULL));
	CHECK_EQUAL(0, wrong);
	CHECK_EQUAL(0, slk_answer_value(served.engine, slot, 7));
	CHECK_EQUAL(7, told(&target, 0));
	target.words[0] = 1;
	CHECK_EQUAL(0, exit_of(server));
	while (slk_listener_state(target.listener) == SLK_NOTIF_PENDING)
		drain_once(&served);
	for (int worker = 1; worker < 4; worker++)
		CHECK(told(&target, worker) >= 0);
	end_engine(&served);
	end_target(&target);
}

/* ---- callers that are gone */

static void kill_caller(const struct served *served, const struct slk_request *request)
{
	CHECK(request->tid > 0);
	CHECK_EQUAL(0, kill(request->tid, SIGKILL));
	CHECK(COMES_TRUE(slk_answer_alive(served->engine, request->slot) == -ENOENT));
}

static void test_a_caller_killed_meanwhile_is_counted_and_its_slot_freed(void)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	for (int how = 0; how < 4; how++) {
		struct target target = start_target(2, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
		struct served served = start_engine(&target, NULL, 0);
		uint32_t slot = asked_slot(&target, &served);
		int result;

		kill_caller(&served, &batch[0]);
		CHECK_EQUAL(1, slots_in_use(&served));
		if (how == 0)
			result = slk_answer_errno(served.engine, slot, EPERM);
		else if (how == 1)
			result = slk_answer_value(served.engine, slot, 0);
		else if (how == 2)
			result = slk_answer_continue(served.engine, slot);
		else
			result = slk_answer_fd(served.engine, slot, null, 1);
		CHECK_EQUAL(-ENOENT, result);
		CHECK_EQUAL(1, counts_of(&served).vanished);
		CHECK_EQUAL(-EBADSLT, slk_answer_errno(served.engine, slot, EPERM));
		end_engine(&served);
		end_target(&target);
	}
	close(null);
}

static void test_a_call_killed_before_it_was_received_never_was(void)
{
	struct target target = start_target(2, 0);
	struct served served = start_engine(&target, NULL, 0);
	uint32_t count = 0;

	ASK(&target, 0, SLOW_NR);
	CHECK(COMES_TRUE(slk_listener_state(target.listener) == SLK_NOTIF_PENDING));
	CHECK_EQUAL(0, kill(target.pids[0], SIGKILL));
	CHECK(COMES_TRUE(slk_listener_state(target.listener) == SLK_NOTIF_EMPTY));
	CHECK_EQUAL(SLK_NOTIF_EMPTY, slk_drain(served.engine, batch, SLK_BATCH_MAX, &count));
	CHECK_EQUAL(0, count);
	CHECK_EQUAL(0, counts_of(&served).received);
	end_engine(&served);
	end_target(&target);
}

/* More rounds than there are slots: one that leaked would show. */
static void test_ten_thousand_callers_killed_leave_no_slot_behind(void)
{
	struct target target = start_target(1, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
	struct served served = start_engine(&target, NULL, 0);

	ASK(&target, 0, SPAWN_NR, 10000);
	for (int round = 0; round < 10000; round++) {
		struct slk_request *request = next_request(&served);

		kill_caller(&served, request);
		CHECK_EQUAL(-ENOENT, slk_answer_value(served.engine, request->slot, 0));
	}
	CHECK_EQUAL(0, told(&target, 0));
	CHECK_EQUAL(10000, counts_of(&served).received);
	CHECK_EQUAL(10000, counts_of(&served).vanished);
	end_engine(&served);
	end_target(&target);
}

static void test_ten_thousand_calls_of_every_kind_leave_no_slot_behind(void)
{
	struct target target = start_target(3, 0);
	struct served served = start_engine(&target, NULL, 0);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int left = 10000;

	for (int worker = 0; worker < 3; worker++)
		ASK(&target, worker, LOOP_NR, worker == 2 ? UNLISTED_NR : SLOW_NR);
	while (left > 0) {
		uint32_t count = drain_once(&served);

		for (uint32_t i = 0; i < count; i++, left--) {
			uint32_t slot = batch[i].slot;

			if (left % 3 == 0)
				CHECK_EQUAL(0, slk_answer_errno(served.engine, slot, EPERM));
			else if (left % 3 == 1)
				CHECK_EQUAL(0, slk_answer_continue(served.engine, slot));
			else
				slk_answer_fd(served.engine, slot, null, 1); /* or EMFILE: its table fills up */
		}
	}
	target.words[0] = 1;
	while (slots_in_use(&served) || slk_listener_state(target.listener) == SLK_NOTIF_PENDING) {
		uint32_t count = drain_once(&served);

		for (uint32_t i = 0; i < count; i++)
			CHECK_EQUAL(0, slk_answer_value(served.engine, batch[i].slot, 0));
	}
	end_target(&target);
	end_engine(&served);
	close(null);
}

static void test_the_ledger_must_be_writable(void)
{
	struct slk_engine_config config = {.ledger_fd = -1};
	struct slk_engine *engine = NULL;

	CHECK_EQUAL(-EBADF, slk_engine_create(&config, &engine));
	config.call_count = SLK_CALLS_MAX + 1;
	CHECK_EQUAL(-E2BIG, slk_engine_create(&config, &engine));
	CHECK(!engine);
	slk_engine_destroy(NULL);
}

int main(void)
{
	begin_tests();
	RUN(test_the_listener_is_empty_then_pending_then_terminal);
	RUN(test_a_descriptor_that_is_no_listener_is_terminal);
	RUN(test_a_request_carries_the_call);
	RUN(test_the_program_gets_what_was_answered);
	RUN(test_an_answered_slot_cannot_be_answered_again);
	RUN(test_a_refused_row_is_answered_in_c_and_told);
	RUN(test_a_refusal_by_argument_has_an_errno_of_its_own);
	RUN(test_what_is_granted_is_told_first_where_that_is_wanted);
	RUN(test_a_refused_row_can_never_continue);
	RUN(test_a_call_without_a_row_does_not_exist);
	RUN(test_a_full_ledger_refuses);
	RUN(test_an_answer_that_cannot_be_sent_is_told);
	RUN(test_a_caller_without_a_number_is_refused);
	RUN(test_after_the_last_listener_is_closed_calls_do_not_exist);
	RUN(test_more_requests_than_the_batch_holds_stay_queued);
	RUN(test_requests_move_together_when_others_are_answered);
	RUN(test_a_descriptor_is_injected_with_and_without_cloexec);
	RUN(test_emfile_is_the_programs_own);
	RUN(test_a_failed_injection_refuses);
	RUN(test_injection_survives_our_own_signals);
	RUN(test_a_signal_of_ours_does_not_make_a_caller_look_gone);
	RUN(test_a_caller_killed_meanwhile_is_counted_and_its_slot_freed);
	RUN(test_a_call_killed_before_it_was_received_never_was);
	RUN(test_ten_thousand_callers_killed_leave_no_slot_behind);
	RUN(test_ten_thousand_calls_of_every_kind_leave_no_slot_behind);
	RUN(test_the_ledger_must_be_writable);
	return 0;
}
