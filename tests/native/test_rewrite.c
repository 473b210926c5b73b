/* SPDX-License-Identifier: Apache-2.0 */
/* Another call in the place of one that is trapped: the program finds the result of what it asked for, and nothing else
 * changed, whatever comes in between. */
#include "launch.h"
#include "target.h"

#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>

#define TIMEOUT_MS 2000

/* ---- a program under a filter */

static const int trapped[] = {SYS_chdir, SYS_execve, SYS_execveat, SYS_getppid};
#define TRAPPED ((int)(sizeof(trapped) / sizeof(*trapped)))
#define FILTER_LENGTH (TRAPPED + 3)

static void fill_filter(struct sock_filter *code, int first)
{
	int at = 0;

	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int i = first; i < TRAPPED; i++)
		code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)trapped[i],
							  (uint8_t)(TRAPPED - i), 0);
	for (int i = 0; i < first; i++)
		code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, UINT32_MAX, 0, 0);
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
	fill_filter(code, 0);
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

static struct program start_with(int (*role)(struct shared *), unsigned long flags)
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
	int number = slk_inject_fd(program->engine, request->slot, place);

	CHECK(place >= 0);

	close(place);
	if (number < 0)
		return number;
	memcpy(call.args, request->args, sizeof(call.args));
	call.args[0] = (uint64_t)number;
	if (end == SLK_RESTART_RETURN)
		call.close_fd = number;
	return slk_answer_restart(program->engine, request->slot, control, &call, TIMEOUT_MS);
}

/* The empty path is the NUL that ends the old one. */
static int restart_as_execveat(const struct program *program, const struct slk_request *request, const char *file)
{
	struct slk_restart call = {.nr = SYS_execveat, .end = SLK_RESTART_LEAVE, .close_fd = -1};
	int opened = open(file, O_RDONLY | O_CLOEXEC);
	int number = slk_inject_fd(program->engine, request->slot, opened);
	char path[SLK_PATH_MAX];
	int length = slk_read_string(request->tid, request->args[0], sizeof(path), path);

	close(opened);
	CHECK(number >= 0 && length >= 0);
	call.args[0] = (uint64_t)number;
	call.args[1] = request->args[0] + (uint64_t)length;
	call.args[2] = request->args[1];
	call.args[3] = request->args[2];
	call.args[4] = AT_EMPTY_PATH;
	return slk_answer_restart(program->engine, request->slot, -1, &call, TIMEOUT_MS);
}

/* Calls on "virtual..." are restarted, until the program has ended: how it did. */
static int serve_restarting(struct program *program, int end)
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

static void serve_one_program(int (*role)(struct shared *), int end)
{
	struct program program = start_program(role);

	CHECK_EQUAL(0, serve_restarting(&program, end));
	end_program(&program);
}

/* ---- chdir */

static void check_place(const struct shared *shared)
{
	char here[512];

	CHECK(getcwd(here, sizeof(here)));
	CHECK_TEXT(shared->place, here);
}

static int changes_directory(struct shared *shared)
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

static void test_chdir_becomes_fchdir_and_leaves_no_descriptor(void)
{
	serve_one_program(changes_directory, SLK_RESTART_RETURN);
}

static int opens_by_path(struct shared *shared)
{
	int before = open_descriptors();
	struct stat opened, place;

	CHECK_EQUAL(0, stat(shared->place, &place));
	for (int i = 0; i < shared->times; i++) {
		int lowest = dup(0);
		int fd;

		close(lowest);
		fd = (int)syscall(SYS_chdir, ".");
		CHECK_EQUAL(lowest, fd);
		CHECK_EQUAL(i % 2 ? 0 : FD_CLOEXEC, fcntl(fd, F_GETFD));
		CHECK_EQUAL(O_PATH, fcntl(fd, F_GETFL) & O_PATH);
		CHECK_EQUAL(0, fstat(fd, &opened));
		CHECK_EQUAL(place.st_ino, opened.st_ino);
		CHECK_EQUAL(0, close(fd));
		CHECK_EQUAL(-1, syscall(SYS_chdir, "missing"));
		CHECK_EQUAL(ENOENT, errno);
	}
	CHECK_EQUAL(before, open_descriptors());
	return 0;
}

static void test_what_openat_opens_has_the_number_of_the_directory(void)
{
	struct program program = start_program(opens_by_path);
	struct slk_request *request;
	int number, opens = 0;

	while ((request = next(&program))) {
		struct slk_restart call = {.nr = SYS_openat, .end = SLK_RESTART_OPEN};
		char path[SLK_PATH_MAX] = "";
		int place;

		CHECK_EQUAL(SYS_chdir, request->nr);
		slk_read_string(request->tid, request->args[0], sizeof(path), path);
		place = open(program.shared->place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		number = slk_inject_fd(program.engine, request->slot, place);
		close(place);
		CHECK(number >= 0);
		call.close_fd = number;
		call.args[0] = (uint64_t)number;
		call.args[1] = request->args[0];
		call.args[2] = (uint64_t)(O_PATH | (strcmp(path, ".") || opens++ % 2 ? 0 : O_CLOEXEC));
		CHECK_EQUAL(0, slk_answer_restart(program.engine, request->slot, -1, &call, TIMEOUT_MS));
	}
	CHECK_EQUAL(0, exit_of(program.parent));
	end_program(&program);
}

#if defined(__x86_64__)
static int looks_at_its_registers(struct shared *shared)
{
	for (int i = 0; i < 100; i++) {
		const char *path = "virtual";
		unsigned long rsi = 0x51, rdx = 0xd1;
		register unsigned long r10 __asm__("r10") = 0x10, r8 __asm__("r8") = 8, r9 __asm__("r9") = 9;
		long result = SYS_chdir;

		__asm__ volatile("syscall"
				 : "+a"(result), "+D"(path), "+S"(rsi), "+d"(rdx), "+r"(r10), "+r"(r8), "+r"(r9)
				 :
				 : "rcx", "r11", "memory");
		CHECK_EQUAL(0, result);
		CHECK_TEXT("virtual", path);
		CHECK(rsi == 0x51 && rdx == 0xd1 && r10 == 0x10 && r8 == 8 && r9 == 9);
		check_place(shared);
	}
	return 0;
}

static void test_the_arguments_are_in_their_registers_afterwards(void)
{
	serve_one_program(looks_at_its_registers, SLK_RESTART_RETURN);
}
#endif

static int fails_to_change_directory(struct shared *shared)
{
	(void)shared;
	CHECK_EQUAL(-1, syscall(SYS_chdir, "virtual"));
	CHECK_EQUAL(EBADF, errno);
	CHECK_EQUAL(-1, syscall(SYS_chdir, "virtual"));
	CHECK_EQUAL(EBADF, errno);
	return 0;
}

static void test_the_error_of_the_new_call_is_the_old_ones(void)
{
	struct program program = start_program(fails_to_change_directory);

	for (int end = SLK_RESTART_LEAVE; end <= SLK_RESTART_RETURN; end++) {
		struct slk_restart call = {.nr = SYS_fchdir, .end = end, .close_fd = -1, .args = {UINT64_MAX}};

		CHECK_EQUAL(0, slk_answer_restart(program.engine, next(&program)->slot, -1, &call, TIMEOUT_MS));
	}
	CHECK(!next(&program));
	CHECK_EQUAL(0, exit_of(program.parent));
	end_program(&program);
}

static void test_without_wait_killable_the_interrupt_withdraws_the_call_and_it_is_restarted(void)
{
	struct program program = start_with(changes_directory, 0);

	CHECK_EQUAL(0, serve_restarting(&program, SLK_RESTART_RETURN));
	end_program(&program);
}

/* ---- execve */

static char *const seven[] = {"zero", "-c", "test \"$0\" = seven -a \"$x\" = y || exit 1; exit 7", "seven", NULL};
static char *const environment[] = {"x=y", NULL};

static int executes(struct shared *shared)
{
	(void)shared;
	execve("virtual", seven, environment);
	return 1;
}

static void test_execve_becomes_execveat_of_a_descriptor(void)
{
	struct program program = start_program(executes);

	CHECK_EQUAL(7, serve_restarting(&program, SLK_RESTART_RETURN));
	end_program(&program);
}

static int executes_in_a_vfork_child(struct shared *shared)
{
	(void)shared;
	for (int i = 0; i < 20; i++) {
		int status = 0;
		pid_t pid = vfork();

		if (pid == 0) {
			execve("virtual", seven, environment);
			_exit(1);
		}
		CHECK_EQUAL(pid, waitpid(pid, &status, 0));
		CHECK_EQUAL(7 << 8, status);
	}
	return 0;
}

static void test_execve_of_a_vfork_child(void)
{
	serve_one_program(executes_in_a_vfork_child, SLK_RESTART_RETURN);
}

static void *execute_in_thread(void *unused)
{
	(void)unused;
	execve("virtual", seven, environment);
	_exit(1);
}

static void *change_directory_for_ever(void *unused)
{
	(void)unused;
	for (;;)
		syscall(SYS_chdir, "virtual");
}

static int executes_in_a_thread(struct shared *shared)
{
	pthread_t thread;

	(void)shared;
	CHECK_EQUAL(0, pthread_create(&thread, NULL, execute_in_thread, NULL));
	for (;;)
		pause();
}

/* The other threads are killed by execve wherever they are: seized, stopped, or in the new call. */
static int executes_while_others_are_restarted(struct shared *shared)
{
	pthread_t threads[3];

	for (int i = 0; i < 3; i++)
		CHECK_EQUAL(0, pthread_create(&threads[i], NULL, change_directory_for_ever, NULL));
	usleep(1000);
	CHECK_EQUAL(0, pthread_create(&threads[0], NULL, execute_in_thread, NULL));
	change_directory_for_ever(shared);
	return 1;
}

/* As serve_restarting, of calls whose callers may be killed at any moment. */
static int serve_mortals(struct program *program)
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

static void test_execve_of_a_thread(void)
{
	for (int round = 0; round < 10; round++) {
		struct program program = start_program(executes_in_a_thread);

		CHECK_EQUAL(7, serve_restarting(&program, SLK_RESTART_RETURN));
		end_program(&program);
	}
	for (int round = 0; round < 30; round++) {
		struct program program = start_program(executes_while_others_are_restarted);

		CHECK_EQUAL(7, serve_mortals(&program));
		end_program(&program);
	}
}

/* ---- what may pass */

static int executes_what_cannot_be_executed_twice(struct shared *shared)
{
	char *const nothing[] = {NULL};
	int file = open("/etc/passwd", O_RDONLY);

	(void)shared;
	CHECK_EQUAL(-1, syscall(SYS_getppid)); /* becomes execveat(file, "", ...) */
	CHECK_EQUAL(EACCES, errno);
	CHECK_EQUAL(-1, syscall(SYS_execveat, file, "", nothing, nothing, AT_EMPTY_PATH));
	CHECK_EQUAL(EXDEV, errno);
	CHECK_EQUAL(-1, syscall(SYS_getppid));
	CHECK_EQUAL(EACCES, errno);
	return 0;
}

static struct slk_restart execveat_of(const struct program *program, const struct slk_request *request)
{
	int file = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	struct slk_restart call = {.nr = SYS_execveat, .close_fd = -1};

	call.args[0] = (uint64_t)slk_inject_fd(program->engine, request->slot, file);
	call.args[1] = (uint64_t)(uintptr_t)""; /* a fork of ours has it at the same place */
	call.args[4] = AT_EMPTY_PATH;
	close(file);
	return call;
}

static void test_the_new_call_passes_once_and_by_its_thread_only(void)
{
	struct program program = start_program(executes_what_cannot_be_executed_twice);
	struct slk_request *request = next(&program);
	struct slk_restart call = execveat_of(&program, request);
	uint64_t continued;

	CHECK_EQUAL(0, slk_answer_restart(program.engine, request->slot, -1, &call, TIMEOUT_MS));
	CHECK_EQUAL(1, program.engine->passing_count);
	request = next(&program);
	CHECK_EQUAL(SYS_execveat, request->nr); /* the program's own */
	CHECK_EQUAL(0, program.engine->passing_count);
	CHECK_EQUAL(1, program.engine->counts.continued);
	CHECK_EQUAL(0, slk_answer_errno(program.engine, request->slot, EXDEV));
	/* With another argument it is another call. */
	request = next(&program);
	call = execveat_of(&program, request);
	CHECK_EQUAL(0, slk_answer_restart(program.engine, request->slot, -1, &call, TIMEOUT_MS));
	program.engine->passing[0].call.args[5] = 1;
	continued = program.engine->counts.continued;
	request = next(&program);
	CHECK_EQUAL(SYS_execveat, request->nr);
	CHECK_EQUAL(continued, program.engine->counts.continued);
	CHECK_EQUAL(0, program.engine->passing_count);
	CHECK_EQUAL(0, slk_answer_continue(program.engine, request->slot));
	CHECK(!next(&program));
	CHECK_EQUAL(0, exit_of(program.parent));
	end_program(&program);
}

static int asks_for_its_parent(struct shared *shared)
{
	(void)shared;
	return syscall(SYS_getppid) == 77 ? 0 : 1;
}

static void test_a_call_that_is_refused_is_not_made_this_way(void)
{
	struct program program = start_program(asks_for_its_parent);
	struct slk_request *request = next(&program);
	struct slk_restart call = {.nr = SYS_mknodat, .close_fd = -1};

	CHECK_EQUAL(-EPERM, slk_answer_restart(program.engine, request->slot, -1, &call, TIMEOUT_MS));
	call.nr = SLK_CALLS_MAX;
	CHECK_EQUAL(-EPERM, slk_answer_restart(program.engine, request->slot, -1, &call, TIMEOUT_MS));
	call.nr = -1;
	CHECK_EQUAL(-EPERM, slk_answer_restart(program.engine, request->slot, -1, &call, TIMEOUT_MS));
	CHECK_EQUAL(0, slk_answer_value(program.engine, request->slot, 77));
	CHECK_EQUAL(-EBADSLT, slk_answer_restart(program.engine, request->slot, -1, &call, TIMEOUT_MS));
	CHECK_EQUAL(-EBADSLT, slk_inject_fd(program.engine, request->slot, 0));
	CHECK(!next(&program));
	CHECK_EQUAL(0, exit_of(program.parent));
	end_program(&program);
}

/* ---- a call more, before the one that was asked for */

static void test_a_page_is_mapped_before_the_call_is_asked_again(void)
{
	struct program program = start_program(asks_for_its_parent);
	struct slk_request *request = next(&program);
	struct slk_restart call = {
		.nr = SYS_mmap,
		.end = SLK_RESTART_AGAIN,
		.close_fd = -1,
		.args = {0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, UINT64_MAX, 0},
	};
	int32_t tid = request->tid;
	int64_t page = 0;

	CHECK_EQUAL(0, slk_restart_result(program.engine, tid, &page));
	CHECK_EQUAL(0, slk_answer_restart(program.engine, request->slot, -1, &call, TIMEOUT_MS));
	request = next(&program);
	CHECK_EQUAL(SYS_getppid, request->nr);
	CHECK_EQUAL(tid, request->tid);
	CHECK_EQUAL(1, slk_restart_result(program.engine, tid, &page));
	CHECK(page > 0 && page % 4096 == 0);
	CHECK_EQUAL(0, slk_restart_result(program.engine, tid, &page));
	CHECK_EQUAL(0, slk_write_memory(tid, (uint64_t)page, 5, "hello"));
	CHECK_EQUAL(0, slk_answer_value(program.engine, request->slot, 77));
	CHECK(!next(&program));
	CHECK_EQUAL(0, exit_of(program.parent));
	end_program(&program);
}

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
	CHECK_EQUAL(-ENOENT, slk_answer_restart(program.engine, request->slot, -1, &call, TIMEOUT_MS));
	CHECK_EQUAL(-EBADSLT, slk_answer_restart(program.engine, request->slot, -1, &call, TIMEOUT_MS));
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
			slk_respond(program->engine, id, 55, 0, 0);
	for (int i = 0; i < SLK_SLOTS_MAX; i++)
		slk_slot_release(&slots[i]);
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
	CHECK(slk_answer_restart(program.engine, request->slot, nobody, &call, 50) < 0);
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
	fill_filter(code, 0);
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
	RUN(test_chdir_becomes_fchdir_and_leaves_no_descriptor);
	RUN(test_what_openat_opens_has_the_number_of_the_directory);
#if defined(__x86_64__)
	RUN(test_the_arguments_are_in_their_registers_afterwards);
#endif
	RUN(test_the_error_of_the_new_call_is_the_old_ones);
	RUN(test_without_wait_killable_the_interrupt_withdraws_the_call_and_it_is_restarted);
	RUN(test_execve_becomes_execveat_of_a_descriptor);
	RUN(test_execve_of_a_vfork_child);
	RUN(test_execve_of_a_thread);
	RUN(test_the_new_call_passes_once_and_by_its_thread_only);
	RUN(test_a_call_that_is_refused_is_not_made_this_way);
	RUN(test_a_page_is_mapped_before_the_call_is_asked_again);
	RUN(test_a_handler_runs_before_the_new_call_or_after_it);
	RUN(test_a_signal_that_is_pending_is_handled_once_and_the_call_is_made);
	RUN(test_a_stop_for_job_control_stays_one);
	RUN(test_stops_and_continues_at_every_moment);
	RUN(test_a_caller_that_is_killed_is_gone);
	RUN(test_a_kill_at_any_moment_leaves_nothing_behind);
	RUN(test_a_supervisor_killed_in_the_middle_leaves_no_thread_stopped);
	RUN(test_a_call_of_a_traced_thread_waits_on);
	RUN(test_init_restarts_the_calls_of_those_that_it_traces);
	return 0;
}
