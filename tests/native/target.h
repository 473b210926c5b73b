/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program under a filter that does what it is told, and an engine that serves it.
 *
 * The target installs a small filter, hands its listener over and forks workers. Each worker makes the system calls
 * that it reads from its socket and sends back what they returned. Worker and test share `words`, for paths.
 */
#ifndef TARGET_H
#define TARGET_H

#include "check.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#else
#error "no numbers for this architecture"
#endif

#define WORKERS_MAX 8
#define WORDS_BYTES 65536

#define SLOW_NR SYS_getppid    /* Python decides */
#define REFUSED_NR SYS_mknodat /* refused by its row, with REFUSED_ERRNO */
#define REFUSED_ERRNO EXDEV
#define UNLISTED_NR SYS_getegid /* trapped, but no row of ours */

static const int trapped_numbers[] = {
	SYS_openat, SYS_openat2, SYS_mkdirat, SYS_renameat2, SLOW_NR, REFUSED_NR, UNLISTED_NR,
};
#define TRAPPED_COUNT ((int)(sizeof(trapped_numbers) / sizeof(*trapped_numbers)))

struct target {
	pid_t pid;
	int listener;
	int workers;
	int talk[WORKERS_MAX];
	pid_t pids[WORKERS_MAX];
	char *words;
};

struct command {
	long nr; /* one of the two below, or a system call */
	long args[6];
};
#define LOOP_NR (-1L) /* until words[0] is not 0: the call args[0] with the other arguments; how often it was made */
#define SPAWN_NR (-2L) /* args[0] children, one after the other: each makes the call SLOW_NR and ends */

/* Traps the numbers on the native architecture; returns the listener. */
__attribute__((unused)) static int install_trap(unsigned long more_flags)
{
	struct sock_filter code[TRAPPED_COUNT + 6];
	struct sock_fprog program = {TRAPPED_COUNT + 6, code};
	int at = 0;

	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NATIVE_ARCH, 1, 0);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int i = 0; i < TRAPPED_COUNT; i++)
		code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)trapped_numbers[i],
							  (uint8_t)(TRAPPED_COUNT - i), 0);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	CHECK_EQUAL(0, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | more_flags,
			    &program);
}

static long made(long result)
{
	return result < 0 ? -errno : result;
}

/* vfork: the cheapest process there is, and it can be killed alone. In a function of its own, for the child shares its
 * caller's stack. */
__attribute__((noinline)) static int make_child(void)
{
	pid_t pid = vfork();

	if (pid == 0) {
		syscall(SLOW_NR);
		syscall(SYS_exit, 0);
	}
	return pid > 0 && waitpid(pid, NULL, 0) == pid;
}

static long make_children(long count)
{
	for (long made_so_far = 0; made_so_far < count; made_so_far++)
		if (!make_child())
			return -1;
	return 0;
}

static long obey_command(const struct command *command, volatile char *words)
{
	const long *args = command->args;
	long times = 0;

	if (command->nr == SPAWN_NR)
		return make_children(args[0]);
	if (command->nr != LOOP_NR)
		return made(syscall(command->nr, args[0], args[1], args[2], args[3], args[4], args[5]));
	for (; !*words; times++)
		syscall(args[0], args[1], args[2], args[3], args[4], args[5]);
	return times;
}

__attribute__((noreturn)) static void be_worker(int socket, volatile char *words)
{
	struct command command;
	long result = getpid();

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	do {
		if (send(socket, &result, sizeof(result), MSG_NOSIGNAL) < 0)
			_exit(0);
		if (recv(socket, &command, sizeof(command), 0) != (ssize_t)sizeof(command))
			_exit(0);
		result = obey_command(&command, words);
	} while (1);
}

__attribute__((noreturn)) static void be_target(struct target *target, int handover, const int *theirs,
						unsigned long flags)
{
	struct slk_report report = {.kind = SLK_REPORT_LISTENER, .fd = -1};
	int listener;

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	for (int i = 0; i < target->workers; i++)
		close(target->talk[i]);
	listener = install_trap(flags);
	CHECK(listener >= 0);
	CHECK_EQUAL(0, slk_report_send(handover, &report, listener));
	close(listener);
	close(handover);
	for (int i = 0; i < target->workers; i++)
		if (fork() == 0) {
			for (int j = 0; j < target->workers; j++)
				if (j != i)
					close(theirs[j]);
			be_worker(theirs[i], target->words);
		}
	for (int i = 0; i < target->workers; i++)
		close(theirs[i]);
	while (waitpid(-1, NULL, 0) > 0)
		;
	_exit(0);
}

/* What a worker's call returned: a result, or -errno. */
__attribute__((unused)) static long told(const struct target *target, int worker)
{
	struct pollfd waiting = {target->talk[worker], POLLIN, 0};
	long result = 0;

	CHECK_EQUAL(1, poll(&waiting, 1, PATIENCE_MS));
	CHECK_EQUAL(sizeof(result), recv(target->talk[worker], &result, sizeof(result), 0));
	return result;
}

__attribute__((unused)) static struct target start_target(int workers, unsigned long flags)
{
	struct target target = {.workers = workers};
	int theirs[WORKERS_MAX], handover[2];
	struct slk_report report;

	target.words = mmap(NULL, WORDS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(target.words != MAP_FAILED);
	CHECK_EQUAL(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, handover));
	for (int i = 0; i < workers; i++) {
		int both[2];

		CHECK_EQUAL(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, both));
		target.talk[i] = both[0];
		theirs[i] = both[1];
	}
	fflush(stdout);
	target.pid = fork();
	CHECK(target.pid >= 0);
	if (target.pid == 0) {
		close(handover[0]);
		be_target(&target, handover[1], theirs, flags);
	}
	close(handover[1]);
	for (int i = 0; i < workers; i++)
		close(theirs[i]);
	CHECK_EQUAL(1, slk_report_read(handover[0], PATIENCE_MS, &report));
	CHECK_EQUAL(SLK_REPORT_LISTENER, report.kind);
	close(handover[0]);
	target.listener = report.fd;
	for (int i = 0; i < workers; i++)
		target.pids[i] = (pid_t)told(&target, i);
	return target;
}

/* The workers see their sockets close; a call that is still trapped is let go by closing the listener. */
__attribute__((unused)) static void end_target(struct target *target)
{
	close(target->listener);
	for (int i = 0; i < target->workers; i++)
		close(target->talk[i]);
	CHECK_EQUAL(0, exit_of(target->pid));
	munmap(target->words, WORDS_BYTES);
}

/* A worker begins a call. */
__attribute__((unused)) static void ask(const struct target *target, int worker, long nr, long a, long b, long c,
					long d, long e)
{
	struct command command = {nr, {a, b, c, d, e, 0}};

	CHECK_EQUAL(sizeof(command), send(target->talk[worker], &command, sizeof(command), 0));
}

#define ASK(target, worker, nr, ...) ASK_((target), (worker), (nr), ##__VA_ARGS__, 0, 0, 0, 0, 0)
#define ASK_(target, worker, nr, a, b, c, d, e, ...)                                                                    \
	ask(target, worker, nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

/* Puts a text where the target can read it, too. */
__attribute__((unused)) static char *words_at(const struct target *target, int offset, const char *text)
{
	return strcpy(target->words + offset, text);
}

/* ---- the engine */

struct served {
	struct slk_engine *engine;
	int ledger_fd;
	struct slk_shared *shared;
	struct slk_slot *slots; /* the ledger, mapped once more: as another process sees it */
};

__attribute__((unused)) static struct slk_call *row_of(struct slk_call *rows, int nr, uint8_t treatment)
{
	rows[nr] = (struct slk_call){treatment, -1, -1, -1, -1, -1, 0, 0, 0};
	return &rows[nr];
}

/* What start_engine adds to the configuration. */
static struct slk_engine_config more_config;

static void fill_rows(struct slk_call *rows)
{
	for (int nr = 0; nr < SLK_CALLS_MAX; nr++)
		row_of(rows, nr, SLK_CALL_NONE);
	rows[SYS_openat] = (struct slk_call){SLK_CALL_OPEN, 0, 1, 2, -1, -1, 0, 0, 0};
	rows[SYS_openat2] = (struct slk_call){SLK_CALL_OPEN, 0, 1, 2, -1, -1, 0, 0, 0};
	rows[SYS_mkdirat] = (struct slk_call){SLK_CALL_PATH, 0, 1, -1, -1, -1, 0, LANDLOCK_ACCESS_FS_MAKE_DIR, 0};
	rows[SYS_renameat2] = (struct slk_call){
		SLK_CALL_PATH, 0, 1, -1, 2, 3, 0, LANDLOCK_ACCESS_FS_REMOVE_FILE, LANDLOCK_ACCESS_FS_MAKE_REG};
	row_of(rows, SLOW_NR, SLK_CALL_SLOW);
	row_of(rows, REFUSED_NR, SLK_CALL_REFUSE)->refuse_errno = REFUSED_ERRNO;
}

/* With the ledger that is there. */
static void start_engine_with(struct served *served, const struct target *target, const struct slk_zone *zones, uint32_t zone_count)
{
	static struct slk_call rows[SLK_CALLS_MAX];
	struct slk_engine_config config = {
		.mounts_fd = -1,
		.calls = rows,
		.call_count = SLK_CALLS_MAX,
		.zones = zones,
		.zone_count = zone_count,
		.native_arch = NATIVE_ARCH,
		.openat_nr = SYS_openat,
		.open_nr = -1,
		.creat_nr = -1,
		.openat2_nr = SYS_openat2,
		.ledger_fd = served->ledger_fd,
		.shared = served->shared,
		.tell_granted = more_config.tell_granted,
		.refusals = more_config.refusals,
		.refusal_count = more_config.refusal_count,
	};

	fill_rows(rows);
	CHECK_EQUAL(0, slk_engine_create(&config, &served->engine));
	if (target)
		CHECK(slk_engine_attach(served->engine, target->listener) >= 0);
}

__attribute__((unused)) static struct served start_engine(const struct target *target, const struct slk_zone *zones,
							  uint32_t zone_count)
{
	struct served served = {.ledger_fd = memfd_create("ledger", MFD_CLOEXEC)};

	CHECK_EQUAL(0, ftruncate(served.ledger_fd, (off_t)slk_ledger_bytes()));
	CHECK_EQUAL(0, slk_shared_create(&served.shared));
	served.slots = mmap(NULL, slk_ledger_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, served.ledger_fd, 0);
	CHECK(served.slots != MAP_FAILED);
	start_engine_with(&served, target, zones, zone_count);
	return served;
}

/* Another in its place, which was given nothing but what both share. */
__attribute__((unused)) static void replace_engine(struct served *served, const struct target *target)
{
	slk_engine_destroy(served->engine);
	start_engine_with(served, target, NULL, 0);
	slk_take_over(served->engine);
}

__attribute__((unused)) static int slots_in_use(const struct served *served)
{
	int count = 0;

	for (int i = 0; i < SLK_SLOTS_MAX; i++)
		count += served->slots[i].phase != SLK_PHASE_FREE || served->slots[i].notif_id != 0;
	return count;
}

/* No slot may be left in use. */
__attribute__((unused)) static void end_engine(struct served *served)
{
	CHECK_EQUAL(0, slots_in_use(served));
	slk_engine_destroy(served->engine);
	slk_shared_destroy(served->shared);
	munmap(served->slots, slk_ledger_bytes());
	close(served->ledger_fd);
}

__attribute__((unused)) static struct slk_engine_counts counts_of(const struct served *served)
{
	struct slk_engine_counts counts;

	CHECK_EQUAL(0, slk_engine_counts(served->engine, &counts));
	return counts;
}

static struct slk_request batch[SLK_BATCH_MAX];

/* Waits until the listener has something, and drains it once. */
__attribute__((unused)) static uint32_t drain_once(const struct served *served)
{
	struct pollfd waiting = {served->engine->listeners[0].fd, POLLIN, 0};
	uint32_t count = 0;

	CHECK_EQUAL(1, poll(&waiting, 1, PATIENCE_MS));
	CHECK(slk_drain(served->engine, batch, SLK_BATCH_MAX, &count) >= 0);
	return count;
}

/* Serves until there is one request for Python: batch[0]. */
__attribute__((unused)) static struct slk_request *next_request(const struct served *served)
{
	uint64_t end = slk_now_ns() + PATIENCE_MS * 1000000ull;

	while (slk_now_ns() < end) {
		uint32_t count = drain_once(served);

		CHECK(count <= 1);
		if (count)
			return &batch[0];
	}
	check_failed(__FILE__, __LINE__, "no request came");
}

/* Serves with the fast path alone until the worker's call is over. */
__attribute__((unused)) static long served_by_c(const struct target *target, const struct served *served, int worker)
{
	struct pollfd waiting[2] = {{target->listener, POLLIN, 0}, {target->talk[worker], POLLIN, 0}};

	while (1) {
		CHECK(poll(waiting, 2, PATIENCE_MS) > 0);
		if (waiting[1].revents)
			return told(target, worker);
		CHECK_EQUAL(0, drain_once(served));
	}
}

#endif
