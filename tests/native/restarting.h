/* SPDX-License-Identifier: Apache-2.0 */
/* A program under a filter of its own, whose calls on "virtual..." are made other calls. */
#ifndef RESTARTING_H
#define RESTARTING_H

#include "target.h"

#include <sys/stat.h>

#define TIMEOUT_MS 2000

/* ---- a program under a filter */

static const int trapped[] = {SYS_chdir, SYS_execve, SYS_execveat, SYS_getppid};
#define TRAPPED ((int)(sizeof(trapped) / sizeof(*trapped)))
#define FILTER_LENGTH (TRAPPED + 3)

static void fill_filter(struct sock_filter *code)
{
	int at = 0;

	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int i = 0; i < TRAPPED; i++)
		code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)trapped[i],
							  (uint8_t)(TRAPPED - i), 0);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	CHECK_EQUAL(FILTER_LENGTH, at);
}

struct shared {
	char place[256]; /* what "virtual" stands for */
	int handled;     /* signals */
	int value;
	int over;
	pid_t pid;
	int period_us;
	int times;
	uint64_t last_id; /* of a notification that was received */
};

#define KILLED (128 + SIGKILL) /* the end of one that was killed, as a shell tells it */

/* It is not our child: who traces its own child takes its end from itself. */
struct program {
	pid_t pid;
	pid_t parent;
	int listener;
	int ledger_fd;
	struct slk_engine *engine;
	struct shared *shared;
};

static struct slk_engine *new_engine(int *ret_ledger_fd)
{
	static struct slk_call rows[SLK_CALLS_MAX];
	struct slk_engine_config config = {.calls = rows, .call_count = SLK_CALLS_MAX, .native_arch = NATIVE_ARCH,
					   .openat_nr = -1, .open_nr = -1, .creat_nr = -1, .openat2_nr = -1,
					   .mounts_fd = -1};
	struct slk_engine *engine = NULL;

	for (int nr = 0; nr < SLK_CALLS_MAX; nr++)
		row_of(rows, nr, SLK_CALL_NONE);
	for (int i = 0; i < TRAPPED; i++)
		row_of(rows, trapped[i], SLK_CALL_SLOW);
	row_of(rows, SYS_mknodat, SLK_CALL_REFUSE)->refuse_errno = EPERM;
	config.ledger_fd = *ret_ledger_fd = memfd_create("ledger", MFD_CLOEXEC);
	CHECK_EQUAL(0, ftruncate(config.ledger_fd, (off_t)slk_ledger_bytes()));
	CHECK_EQUAL(0, slk_shared_create(&config.shared));
	CHECK_EQUAL(0, slk_engine_create(&config, &engine));
	return engine;
}

static struct shared *new_shared(void)
{
	struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(shared != MAP_FAILED);
	make_tree(shared->place, sizeof(shared->place));
	shared->times = 1000;
	shared->period_us = 400;
	return shared;
}

__attribute__((noreturn)) static void be_program(int handover, int (*role)(struct shared *), struct shared *shared,
						 unsigned long flags)
{
	struct slk_report report = {.kind = SLK_REPORT_LISTENER, .fd = -1};
	struct sock_filter code[FILTER_LENGTH];
	struct sock_fprog filter = {FILTER_LENGTH, code};
	int listener;

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	fill_filter(code);
	listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | flags, &filter);
	CHECK(listener >= 0);
	CHECK_EQUAL(0, slk_report_send(handover, &report, listener));
	close(listener);
	close(handover);
	_exit(role(shared));
}

__attribute__((noreturn)) static void be_parent(int handover, int (*role)(struct shared *), struct shared *shared,
						unsigned long flags)
{
	int status = 0;
	pid_t pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	pid = fork();
	if (pid == 0) {
		shared->pid = getpid();
		be_program(handover, role, shared, flags);
	}
	close(handover);
	CHECK_EQUAL(pid, waitpid(pid, &status, 0));
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

__attribute__((unused)) static struct program start_with(int (*role)(struct shared *), unsigned long flags)
{
	struct program program = {.shared = new_shared()};
	struct slk_report report;
	int handover[2];

	CHECK_EQUAL(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, handover));
	fflush(stdout);
	program.parent = fork();
	CHECK(program.parent >= 0);
	if (program.parent == 0) {
		close(handover[0]);
		be_parent(handover[1], role, program.shared, flags);
	}
	close(handover[1]);
	CHECK_EQUAL(1, slk_report_read(handover[0], PATIENCE_MS, &report));
	CHECK_EQUAL(SLK_REPORT_LISTENER, report.kind);
	close(handover[0]);
	program.listener = report.fd;
	program.pid = program.shared->pid;
	program.engine = new_engine(&program.ledger_fd);
	CHECK(slk_engine_attach(program.engine, program.listener) >= 0);
	return program;
}

static struct program start_program(int (*role)(struct shared *))
{
	return start_with(role, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
}

static void end_program(struct program *program)
{
	CHECK_EQUAL(0, program->engine->unfinished_count);
	slk_engine_destroy(program->engine);
	close(program->ledger_fd);
	close(program->listener);
	rm_tree(program->shared->place);
	munmap(program->shared, sizeof(*program->shared));
}

/* The next call that needs an answer; NULL when the program has ended. */
static struct slk_request *next(const struct program *program)
{
	for (;;) {
		uint32_t count = 0;
		int32_t other = 0, new_thread;
		int state = slk_pump(program->engine, -1, PATIENCE_MS * 1000, batch, 1, &count, &other);

		CHECK(state >= 0);
		if (count)
			return &batch[0];
		slk_new_threads(program->engine, &new_thread, 1);
		if (state == SLK_NOTIF_TERMINAL)
			return NULL;
	}
}

static int restart_as_fchdir(const struct program *program, const struct slk_request *request, int end, int control)
{
	struct slk_restart call = {.nr = SYS_fchdir, .end = end, .close_fd = -1};
	int place = open(program->shared->place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result;

	CHECK(place >= 0);
	memcpy(call.args, request->args, sizeof(call.args));
	result = slk_answer_restart(program->engine, request->slot, control, &call, place, TIMEOUT_MS);
	close(place);
	return result;
}

/* The empty path is the NUL that ends the old one. */
__attribute__((unused)) static int restart_as_execveat(const struct program *program,
						       const struct slk_request *request, const char *file)
{
	struct slk_restart call = {.nr = SYS_execveat, .end = SLK_RESTART_LEAVE, .close_fd = -1};
	int opened = open(file, O_RDONLY | O_CLOEXEC);
	char path[SLK_PATH_MAX];
	int length = slk_read_string(request->tid, request->args[0], sizeof(path), path);
	int result;

	CHECK(opened >= 0 && length >= 0);
	call.args[1] = request->args[0] + (uint64_t)length;
	call.args[2] = request->args[1];
	call.args[3] = request->args[2];
	call.args[4] = AT_EMPTY_PATH;
	result = slk_answer_restart(program->engine, request->slot, -1, &call, opened, TIMEOUT_MS);
	close(opened);
	return result;
}

/* Calls on "virtual..." are restarted, until the program has ended: how it did. */
__attribute__((unused)) static int serve_restarting(struct program *program, int end)
{
	struct slk_request *request;

	while ((request = next(program))) {
		char path[SLK_PATH_MAX] = "";

		CHECK(request->nr != SYS_execveat); /* ours passes */
		slk_read_string(request->tid, request->args[0], sizeof(path), path);
		if (request->nr == SYS_chdir)
			CHECK_EQUAL(0, restart_as_fchdir(program, request, end, -1));
		else if (strcmp(path, "virtual") == 0)
			CHECK_EQUAL(0, restart_as_execveat(program, request, "/bin/sh"));
		else
			CHECK_EQUAL(0, slk_answer_continue(program->engine, request->slot));
	}
	return exit_of(program->parent);
}

__attribute__((unused)) static void serve_one_program(int (*role)(struct shared *), int end)
{
	struct program program = start_program(role);

	CHECK_EQUAL(0, serve_restarting(&program, end));
	end_program(&program);
}

/* As serve_restarting, of calls whose callers may be killed at any moment. */
__attribute__((unused)) static int serve_mortals(struct program *program)
{
	struct slk_request *request;

	while ((request = next(program))) {
		int result;

		program->shared->last_id = request->notif_id;
		if (request->nr == SYS_chdir) {
			result = restart_as_fchdir(program, request, SLK_RESTART_RETURN, -1);
		} else {
			char path[SLK_PATH_MAX] = "";

			slk_read_string(request->tid, request->args[0], sizeof(path), path);
			result = strcmp(path, "virtual") == 0 ? restart_as_execveat(program, request, "/bin/sh")
							      : slk_answer_continue(program->engine, request->slot);
		}
		if (result != -ENOENT && result != -EAGAIN && result != -EPERM)
			CHECK_EQUAL(0, result);
		if (result < 0)
			slk_answer_errno(program->engine, request->slot, EIO);
	}
	return exit_of(program->parent);
}

/* ---- what programs do */

__attribute__((unused)) static void check_place(const struct shared *shared)
{
	char here[512];

	CHECK(getcwd(here, sizeof(here)));
	CHECK_TEXT(shared->place, here);
}

__attribute__((unused)) static int changes_directory(struct shared *shared)
{
	int before = open_descriptors();
	cpu_set_t own, now;

	CHECK_EQUAL(0, sched_getaffinity(0, sizeof(own), &own));
	for (int i = 0; i < shared->times; i++) {
		CHECK_EQUAL(0, syscall(SYS_chdir, "virtual"));
		CHECK_EQUAL(0, sched_getaffinity(0, sizeof(now), &now));
		CHECK(CPU_EQUAL(&own, &now)); /* affinity.c's is gone before it goes on */
		check_place(shared);
	}
	CHECK_EQUAL(before, open_descriptors());
	return 0;
}

__attribute__((unused)) static void *change_directory_for_ever(void *unused)
{
	(void)unused;
	for (;;)
		syscall(SYS_chdir, "virtual");
}

#endif /* RESTARTING_H */
