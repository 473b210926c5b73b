/* SPDX-License-Identifier: Apache-2.0 */
/* Confining a waiting caller to our CPU: for no longer than it waits, and to nobody's loss. */
#include "target.h"

static cpu_set_t mask_of(pid_t tid)
{
	cpu_set_t mask;

	CPU_ZERO(&mask);
	CHECK_EQUAL(0, sched_getaffinity(tid, sizeof(mask), &mask));
	return mask;
}

static cpu_set_t only(int cpu)
{
	cpu_set_t mask;

	CPU_ZERO(&mask);
	CPU_SET((size_t)cpu, &mask);
	return mask;
}

static void stay_on_a_cpu(int cpu)
{
	cpu_set_t mask = only(cpu);

	CHECK_EQUAL(0, sched_setaffinity(0, sizeof(mask), &mask));
}

/* Two CPUs that we may use. */
static int cpus[2];

static int find_cpus(void)
{
	cpu_set_t mine = mask_of(0);
	int found = 0;

	for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++)
		if (CPU_ISSET((size_t)cpu, &mine))
			cpus[found++] = cpu;
	return found == 2;
}

static void test_a_thread_is_confined_and_released(void)
{
	cpu_set_t before = mask_of(0), here = only(cpus[0]), now;
	struct target target = start_target(1, 0);
	struct slk_confined confined;

	stay_on_a_cpu(cpus[0]);
	CHECK_EQUAL(1, slk_confine(target.pids[0], &confined));
	now = mask_of(target.pids[0]);
	CHECK(CPU_EQUAL(&here, &now));
	slk_release(&confined);
	now = mask_of(target.pids[0]);
	CHECK(CPU_EQUAL(&before, &now));
	CHECK_EQUAL(0, sched_setaffinity(0, sizeof(before), &before));
	CHECK_EQUAL(0, slk_confine(0x3fffffff, &confined)); /* nobody */
	end_target(&target);
}

static void test_who_has_one_cpu_is_left_alone(void)
{
	cpu_set_t before = mask_of(0);
	struct target target = start_target(1, 0);
	struct slk_confined confined;

	stay_on_a_cpu(cpus[0]);
	for (int i = 0; i < 2; i++) { /* ours, and another one */
		cpu_set_t own = only(cpus[i]), now;

		CHECK_EQUAL(0, sched_setaffinity(target.pids[0], sizeof(own), &own));
		CHECK_EQUAL(0, slk_confine(target.pids[0], &confined));
		now = mask_of(target.pids[0]);
		CHECK(CPU_EQUAL(&own, &now));
	}
	CHECK_EQUAL(0, sched_setaffinity(0, sizeof(before), &before));
	end_target(&target);
}

static void test_a_thread_of_ours_stays_near_until_it_may_roam(void)
{
	cpu_set_t before = mask_of(0), here, now;
	struct target target = start_target(1, 0);
	int cpu = -1;

	stay_on_a_cpu(cpus[0]);
	CHECK_EQUAL(-1, slk_stay_near(target.pids[0], cpu)); /* we are on no other ourselves */
	now = mask_of(target.pids[0]);
	CHECK(CPU_EQUAL(&before, &now));
	for (int i = 0; i < 4; i++) {
		stay_on_a_cpu(cpus[i % 2]);
		CHECK_EQUAL(0, sched_setaffinity(0, sizeof(before), &before));
		cpu = slk_stay_near(target.pids[0], cpu);
		CHECK(cpu >= 0);
		here = only(cpu);
		now = mask_of(target.pids[0]);
		CHECK(CPU_EQUAL(&here, &now));
	}
	slk_roam(target.pids[0]);
	now = mask_of(target.pids[0]);
	CHECK(CPU_EQUAL(&before, &now));
	CHECK_EQUAL(-1, slk_stay_near(0x3fffffff, -1)); /* nobody */
	end_target(&target);
}

static void test_what_is_set_meanwhile_stays(void)
{
	cpu_set_t before = mask_of(0), other = only(cpus[1]), now;
	struct target target = start_target(1, 0);
	struct slk_confined confined;

	stay_on_a_cpu(cpus[0]);
	CHECK_EQUAL(1, slk_confine(target.pids[0], &confined));
	CHECK_EQUAL(0, sched_setaffinity(target.pids[0], sizeof(other), &other));
	slk_release(&confined);
	now = mask_of(target.pids[0]);
	CHECK(CPU_EQUAL(&other, &now));
	CHECK_EQUAL(0, sched_setaffinity(0, sizeof(before), &before));
	end_target(&target);
}

/* What an open returns with: asked by the very next call of the program, and by what it forks. */
static void test_the_program_never_sees_it(void)
{
	cpu_set_t before = mask_of(0);
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	for (int round = 0; round < 2000; round++) {
		cpu_set_t *seen = (cpu_set_t *)(void *)target.words;
		long number;

		ASK(&target, 0, SLOW_NR);
		CHECK(slk_answer_fd(served.engine, next_request(&served)->slot, null, 1) > 2);
		number = told(&target, 0);
		memset(seen, 0, sizeof(*seen));
		ASK(&target, 0, SYS_sched_getaffinity, 0, sizeof(*seen), seen);
		CHECK(told(&target, 0) > 0);
		CHECK(CPU_EQUAL(&before, seen));
		ASK(&target, 0, SYS_close, number);
		CHECK_EQUAL(0, told(&target, 0));
	}
	close(null);
	end_engine(&served);
	end_target(&target);
}

/* An open right before the fork, in the same process: no socket in between. */
static int opens_and_looks(void)
{
	cpu_set_t before = mask_of(0), now;

	for (int i = 0; i < 5000; i++) {
		CHECK_EQUAL(0, close((int)syscall(SLOW_NR)));
		now = mask_of(0);
		CHECK(CPU_EQUAL(&before, &now));
	}
	return 0;
}

static void test_the_very_next_call_has_the_own_mask(void)
{
	struct slk_report report = {.kind = SLK_REPORT_LISTENER, .fd = -1};
	struct target target = {.listener = -1};
	struct served served;
	int handover[2], null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	uint32_t count = 0;
	int32_t other;
	pid_t pid;

	CHECK_EQUAL(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, handover));
	pid = fork();
	if (pid == 0) {
		int listener = install_trap(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);

		CHECK_EQUAL(0, slk_report_send(handover[1], &report, listener));
		close(listener);
		_exit(opens_and_looks());
	}
	CHECK_EQUAL(1, slk_report_read(handover[0], PATIENCE_MS, &report));
	target.listener = report.fd;
	served = start_engine(&target, NULL, 0);
	while (slk_pump(served.engine, -1, PATIENCE_MS * 1000, batch, 1, &count, &other) != SLK_NOTIF_TERMINAL) {
		int32_t new_thread;

		if (count)
			CHECK(slk_answer_fd(served.engine, batch[0].slot, null, 1) >= 0);
		else
			slk_new_threads(served.engine, &new_thread, 1);
	}
	CHECK_EQUAL(0, exit_of(pid));
	close(handover[0]);
	close(handover[1]);
	close(null);
	end_engine(&served);
	close(target.listener);
}

/* The call goes on after it was answered: what it sets must not be taken back. */
static void test_nobody_is_confined_while_a_mask_may_be_set(void)
{
	struct target target = start_target(1, 0);
	struct served served = start_engine(&target, NULL, 0);
	uint32_t slot;

	ASK(&target, 0, SLOW_NR);
	slot = next_request(&served)->slot;
	row_of(served.engine->calls, SYS_sched_setaffinity, SLK_CALL_SLOW);
	served.engine->slots[slot].nr = SYS_sched_setaffinity;
	CHECK_EQUAL(0, slk_answer_continue(served.engine, slot));
	CHECK(served.engine->unconfined_until_ns > slk_now_ns());
	CHECK_EQUAL(target.pid, told(&target, 0));
	end_engine(&served);
	end_target(&target);
}

int main(void)
{
	if (!find_cpus())
		skip_all("one CPU");
	begin_tests();
	RUN(test_a_thread_is_confined_and_released);
	RUN(test_who_has_one_cpu_is_left_alone);
	RUN(test_a_thread_of_ours_stays_near_until_it_may_roam);
	RUN(test_what_is_set_meanwhile_stays);
	RUN(test_the_program_never_sees_it);
	RUN(test_the_very_next_call_has_the_own_mask);
	RUN(test_nobody_is_confined_while_a_mask_may_be_set);
	return 0;
}
