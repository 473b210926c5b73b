/* SPDX-License-Identifier: Apache-2.0 */
/* Another call in the place of one that is trapped: the program finds the result of what it asked for, and nothing else
 * changed. */
#include "restarting.h"

#include <pthread.h>

/* ---- chdir */

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
	int opens = 0;

	while ((request = next(&program))) {
		struct slk_restart call = {.nr = SYS_openat, .end = SLK_RESTART_OPEN};
		char path[SLK_PATH_MAX] = "";
		int place;

		CHECK_EQUAL(SYS_chdir, request->nr);
		slk_read_string(request->tid, request->args[0], sizeof(path), path);
		place = open(program.shared->place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		call.args[1] = request->args[0];
		call.args[2] = (uint64_t)(O_PATH | (strcmp(path, ".") || opens++ % 2 ? 0 : O_CLOEXEC));
		CHECK_EQUAL(0, slk_answer_restart(program.engine, request->slot, -1, &call, place, TIMEOUT_MS));
		close(place);
	}
	CHECK_EQUAL(0, exit_of(program.parent));
	end_program(&program);
}

/* Enters `place/..` by what only openat can name: the directory's own last name, without a descriptor that lists it. */
static int enters_by_path(struct shared *shared)
{
	int before = open_descriptors();
	struct stat place, now;
	char name[SLK_PATH_MAX];

	CHECK_EQUAL(0, stat(shared->place, &place));
	snprintf(name, sizeof(name), "virtual/%s", strrchr(shared->place, '/') + 1);
	for (int i = 0; i < 50; i++) {
		CHECK_EQUAL(0, syscall(SYS_chdir, "/"));
		CHECK_EQUAL(0, syscall(SYS_chdir, name));
		CHECK_EQUAL(0, stat(".", &now));
		CHECK_EQUAL(place.st_ino, now.st_ino);
		CHECK_EQUAL(-1, syscall(SYS_chdir, "virtual/missing"));
		CHECK_EQUAL(ENOENT, errno);
	}
	CHECK_EQUAL(before, open_descriptors());
	return 0;
}

static void test_what_openat_opens_is_entered_and_nothing_is_left_open(void)
{
	struct program program = start_program(enters_by_path);
	struct slk_request *request;
	char above[SLK_PATH_MAX];

	snprintf(above, sizeof(above), "%s/..", program.shared->place);
	while ((request = next(&program))) {
		struct slk_restart call = {.nr = SYS_openat, .end = SLK_RESTART_ENTER};
		char path[SLK_PATH_MAX] = "";
		int place;

		slk_read_string(request->tid, request->args[0], sizeof(path), path);
		if (strncmp(path, "virtual/", 8) != 0) {
			CHECK_EQUAL(0, slk_answer_continue(program.engine, request->slot));
			continue;
		}
		place = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		CHECK(place >= 0);
		call.args[1] = request->args[0] + 8;
		call.args[2] = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
		CHECK_EQUAL(0, slk_answer_restart(program.engine, request->slot, -1, &call, place, TIMEOUT_MS));
		close(place);
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
		int is_same;

		__asm__ volatile("syscall"
				 : "+a"(result), "+D"(path), "+S"(rsi), "+d"(rdx), "+r"(r10), "+r"(r8), "+r"(r9)
				 :
				 : "rcx", "r11", "memory");
		/* Before any function is called, which may use the last three (gcc: Specifying Registers for Local Variables). */
		is_same = rsi == 0x51 && rdx == 0xd1 && r10 == 0x10 && r8 == 8 && r9 == 9;
		CHECK_EQUAL(0, result);
		CHECK_TEXT("virtual", path);
		CHECK(is_same);
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

		CHECK_EQUAL(0, slk_answer_restart(program.engine, next(&program)->slot, -1, &call, -1, TIMEOUT_MS));
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

static int restart_as_another_execveat(const struct program *program, const struct slk_request *request)
{
	int file = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	struct slk_restart call = {.nr = SYS_execveat, .close_fd = -1};
	int result;

	call.args[1] = (uint64_t)(uintptr_t)""; /* a fork of ours has it at the same place */
	call.args[4] = AT_EMPTY_PATH;
	result = slk_answer_restart(program->engine, request->slot, -1, &call, file, TIMEOUT_MS);
	close(file);
	return result;
}

static void test_the_new_call_passes_once_and_by_its_thread_only(void)
{
	struct program program = start_program(executes_what_cannot_be_executed_twice);
	struct slk_request *request = next(&program);
	uint64_t continued;

	CHECK_EQUAL(0, restart_as_another_execveat(&program, request));
	CHECK_EQUAL(1, program.engine->passing_count);
	request = next(&program);
	CHECK_EQUAL(SYS_execveat, request->nr); /* the program's own */
	CHECK_EQUAL(0, program.engine->passing_count);
	CHECK_EQUAL(1, program.engine->shared->counts.continued);
	CHECK_EQUAL(0, slk_answer_errno(program.engine, request->slot, EXDEV));
	/* With another argument it is another call. */
	request = next(&program);
	CHECK_EQUAL(0, restart_as_another_execveat(&program, request));
	program.engine->passing[0].call.args[5] = 1;
	continued = program.engine->shared->counts.continued;
	request = next(&program);
	CHECK_EQUAL(SYS_execveat, request->nr);
	CHECK_EQUAL(continued, program.engine->shared->counts.continued);
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

	CHECK_EQUAL(-EPERM, slk_answer_restart(program.engine, request->slot, -1, &call, -1, TIMEOUT_MS));
	call.nr = SLK_CALLS_MAX;
	CHECK_EQUAL(-EPERM, slk_answer_restart(program.engine, request->slot, -1, &call, -1, TIMEOUT_MS));
	call.nr = -1;
	CHECK_EQUAL(-EPERM, slk_answer_restart(program.engine, request->slot, -1, &call, -1, TIMEOUT_MS));
	CHECK_EQUAL(0, slk_answer_value(program.engine, request->slot, 77));
	CHECK_EQUAL(-EBADSLT, slk_answer_restart(program.engine, request->slot, -1, &call, -1, TIMEOUT_MS));
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
	CHECK_EQUAL(0, slk_answer_restart(program.engine, request->slot, -1, &call, -1, TIMEOUT_MS));
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

int main(void)
{
	begin_tests();
	RUN(test_chdir_becomes_fchdir_and_leaves_no_descriptor);
	RUN(test_what_openat_opens_has_the_number_of_the_directory);
	RUN(test_what_openat_opens_is_entered_and_nothing_is_left_open);
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
	return 0;
}
