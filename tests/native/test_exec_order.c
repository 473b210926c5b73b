/* SPDX-License-Identifier: Apache-2.0 */
/* Further programs in a sandbox that runs: the order and its words, init, and what is told of them (exec_order.c). */
#include "launch.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

static uint32_t last_serial;

static struct launched launch_first(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("trap '' HUP; while :; do sleep 1000; done"));
	struct launched launched;

	plan.keeps_ruleset = 1;
	launched = launch(&plan);
	hear(&launched, SLK_REPORT_LISTENER);
	return launched;
}

static void end_first(struct launched *launched)
{
	CHECK_EQUAL(0, slk_order_send(launched->control, &(struct slk_order){.kind = SLK_ORDER_KILL}));
	hear(launched, SLK_REPORT_DONE);
	let_go(launched);
}

/* ---- words */

static char words[SLK_WORDS_BYTES_MAX + 1];
static size_t words_size;

static void add_word(const char *word)
{
	memcpy(words + words_size, word, strlen(word) + 1);
	words_size += strlen(word) + 1;
}

/* Of each group those behind one another, with a NULL at its end. */
static void write_words(const char *directory, const char *const *candidates, const char *const *arguments)
{
	struct slk_words head = {.directories = directory != NULL};

	words_size = sizeof(head);
	if (directory)
		add_word(directory);
	for (; candidates[head.candidates]; head.candidates++)
		add_word(candidates[head.candidates]);
	for (; arguments[head.arguments]; head.arguments++)
		add_word(arguments[head.arguments]);
	add_word("PATH=/usr/bin:/bin");
	add_word("GIVEN=so");
	head.environments = 2;
	memcpy(words, &head, sizeof(head));
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static int file_of_words(int seals)
{
	int fd = memfd_create("words", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CHECK_EQUAL(words_size, write(fd, words, words_size));
	CHECK_EQUAL(0, fcntl(fd, F_ADD_SEALS, seals));
	return fd;
}

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

/* With the words as they are; returns its serial. output_fd: -1: nowhere. */
static uint32_t order_sealed(const struct launched *launched, int output_fd, int seals)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), fd = file_of_words(seals);
	int32_t stdio[3] = {null, output_fd < 0 ? null : output_fd, null};

	CHECK_EQUAL(0, slk_order_execute(launched->control, ++last_serial, stdio, fd));
	close(fd);
	close(null);
	return last_serial;
}

static uint32_t order(const struct launched *launched, int output_fd)
{
	return order_sealed(launched, output_fd, SEALS);
}

/* The next report of that kind; each is of that serial. */
static struct slk_report next(const struct launched *launched, enum slk_report_kind kind, uint32_t serial)
{
	struct slk_report report;

	do {
		CHECK_EQUAL(1, slk_report_read(launched->control, PATIENCE_MS, &report));
		if (report.fd >= 0)
			close(report.fd);
	} while (report.kind == SLK_REPORT_STARTED); /* of the first */
	CHECK_EQUAL(kind, report.kind);
	CHECK_EQUAL(serial, report.serial);
	return report;
}

static void check_end(const struct launched *launched, uint32_t serial, int status)
{
	struct slk_report begun = next(launched, SLK_REPORT_LISTENER, serial);
	struct slk_report ended = next(launched, SLK_REPORT_EXECUTED, serial);

	CHECK(begun.pid > 0);
	CHECK_EQUAL(begun.pid, ended.pid);
	CHECK_EQUAL(status, ended.status);
}

static uint32_t order_shell(const struct launched *launched, const char *line, int output_fd)
{
	write_words(NULL, WORDS("/bin/sh"), WORDS("sh", "-c", line));
	return order(launched, output_fd);
}

/* What it writes. */
static const char *output_of_words(const struct launched *launched)
{
	static char text[4096];
	size_t length = 0;
	ssize_t got;
	int ends[2];
	uint32_t serial;

	CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
	serial = order(launched, ends[1]);
	close(ends[1]);
	while ((got = read(ends[0], text + length, sizeof(text) - 1 - length)) > 0)
		length += (size_t)got;
	text[length] = '\0';
	close(ends[0]);
	check_end(launched, serial, 0);
	return text;
}

/* ---- */

static void test_its_end_is_told(void)
{
	struct launched launched = launch_first();

	check_end(&launched, order_shell(&launched, "exit 7", -1), 7 << 8);
	check_end(&launched, order_shell(&launched, "kill -SEGV $$", -1), SIGSEGV);
	end_first(&launched);
}

static void test_words_arrive_as_they_were_given(void)
{
	struct launched launched = launch_first();

	write_words("/usr", WORDS("/none/sh", "/etc/passwd/sh", "/bin/sh"),
		    WORDS("sh", "-c", "echo $0, $1, $2, $GIVEN; pwd; ls /proc/self/fd | wc -l", "name", "",
			  "two words"));
	CHECK_TEXT("name, , two words, so\n/usr\n4\n", output_of_words(&launched));
	end_first(&launched);
}

static void test_a_script_without_an_interpreter_is_the_shells(void)
{
	struct launched launched = launch_first();
	char path[] = "/tmp/slk-script-XXXXXX";
	char expected[64];
	int fd = mkostemp(path, O_CLOEXEC);

	CHECK_EQUAL(15, write(fd, "echo $0 $1, $2\n", 15));
	CHECK_EQUAL(0, fchmod(fd, 0755));
	close(fd);
	write_words(NULL, WORDS("/none", path), WORDS("name", "one", "two"));
	snprintf(expected, sizeof(expected), "%s one, two\n", path);
	CHECK_TEXT(expected, output_of_words(&launched));
	unlink(path);
	end_first(&launched);
}

static void check_failure(const struct launched *launched, uint32_t serial, int has_begun, enum slk_stage stage, int error)
{
	struct slk_report failed;

	if (has_begun)
		next(launched, SLK_REPORT_LISTENER, serial);
	failed = next(launched, SLK_REPORT_FAILED, serial);
	CHECK(failed.pid > 0);
	CHECK_EQUAL(stage, failed.stage);
	CHECK_EQUAL(error, failed.error);
	CHECK_EQUAL(127 << 8, next(launched, SLK_REPORT_EXECUTED, serial).status);
}

static void test_what_fails_is_told_with_its_step(void)
{
	struct launched launched = launch_first();

	write_words("/none", WORDS("/bin/sh"), WORDS("sh"));
	check_failure(&launched, order(&launched, -1), 1, SLK_STAGE_DIRECTORY, ENOENT);
	write_words(NULL, WORDS("/none", "/etc/passwd/none"), WORDS("sh"));
	check_failure(&launched, order(&launched, -1), 1, SLK_STAGE_COMMAND, ENOTDIR);
	write_words(NULL, WORDS("/none", "/etc", "/etc/passwd"), WORDS("sh"));
	check_failure(&launched, order(&launched, -1), 1, SLK_STAGE_COMMAND, EISDIR);
	write_words(NULL, WORDS("/etc/passwd"), WORDS("sh"));
	check_failure(&launched, order(&launched, -1), 1, SLK_STAGE_COMMAND, ENOEXEC);
	check_end(&launched, order_shell(&launched, "exit 3", -1), 3 << 8);
	end_first(&launched);
}

/* Words that are none, and a file that somebody could still change. */
static void test_bad_words_are_refused_by_the_new_process(void)
{
	static const uint32_t counts[][4] = {
		{0, 0, 1, 0}, {0, 1, 0, 0}, {2, 1, 1, 1}, {0, 1, 1, 2}, {1, 1, 1, 2}, {0, 1, 0xffffffff, 1},
		{0, 0xffffffff, 0xffffffff, 0xffffffff}, {1, 1, 1, 1000000},
	};
	struct launched launched = launch_first();

	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		write_words(NULL, WORDS("/bin/sh"), WORDS("sh", "-c", "exit 9"));
		memcpy(words, counts[i], sizeof(counts[i]));
		check_failure(&launched, order(&launched, -1), 0, SLK_STAGE_WORDS, EINVAL);
	}
	write_words(NULL, WORDS("/bin/sh"), WORDS("sh", "-c", "exit 9"));
	for (int left_out = 0; left_out < 3; left_out++) {
		const int each[] = {F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW};

		check_failure(&launched, order_sealed(&launched, -1, SEALS & ~each[left_out]), 0, SLK_STAGE_WORDS, EINVAL);
	}
	words_size--; /* the last NUL */
	check_failure(&launched, order(&launched, -1), 0, SLK_STAGE_WORDS, EINVAL);
	words_size = sizeof(struct slk_words) - 1;
	check_failure(&launched, order(&launched, -1), 0, SLK_STAGE_WORDS, EINVAL);
	words_size = 0;
	check_failure(&launched, order(&launched, -1), 0, SLK_STAGE_WORDS, EINVAL);
	words_size = sizeof(words);
	check_failure(&launched, order(&launched, -1), 0, SLK_STAGE_WORDS, EINVAL);
	check_end(&launched, order_shell(&launched, "exit 3", -1), 3 << 8);
	end_first(&launched);
}

static void signal_executed(const struct launched *launched, uint32_t serial, int number)
{
	struct slk_order order = {.kind = SLK_ORDER_SIGNAL_EXECUTED, .serial = serial, .number = number};

	CHECK_EQUAL(0, slk_order_send(launched->control, &order));
}

static void test_a_signal_goes_to_the_one_that_is_meant(void)
{
	struct launched launched = launch_first();
	uint32_t one = order_shell(&launched, "exec sleep 1000", -1), other;

	next(&launched, SLK_REPORT_LISTENER, one);
	other = order_shell(&launched, "exec sleep 1000", -1);
	next(&launched, SLK_REPORT_LISTENER, other);
	signal_executed(&launched, 0, SIGKILL);
	signal_executed(&launched, other + 1, SIGKILL);
	signal_executed(&launched, one, SIGTERM);
	CHECK_EQUAL(SIGTERM, next(&launched, SLK_REPORT_EXECUTED, one).status);
	signal_executed(&launched, one, SIGKILL);
	check_end(&launched, order_shell(&launched, "exit 3", -1), 3 << 8);
	signal_executed(&launched, other, SIGKILL);
	CHECK_EQUAL(SIGKILL, next(&launched, SLK_REPORT_EXECUTED, other).status);
	end_first(&launched);
}

/* In a group that the program does not lead are others: we, here. */
static void test_a_signal_to_a_group_is_for_the_one_that_the_program_leads(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("trap '' HUP; while :; do sleep 1000; done"));
	struct slk_order to_group = {.kind = SLK_ORDER_SIGNAL_EXECUTED_GROUP, .number = SIGTERM};

	plan.keeps_ruleset = 1;
	for (int leads = 0; leads < 2; leads++) {
		struct launched launched;
		char ready;
		int ends[2];

		plan.new_session = (uint8_t)leads;
		launched = launch(&plan);
		hear(&launched, SLK_REPORT_LISTENER);
		CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
		to_group.serial = order_shell(&launched, "sh -c 'echo; exec sleep 1000' & wait", ends[1]);
		close(ends[1]);
		next(&launched, SLK_REPORT_LISTENER, to_group.serial);
		CHECK_EQUAL(1, read(ends[0], &ready, 1));
		CHECK_EQUAL(0, slk_order_send(launched.control, &to_group));
		CHECK_EQUAL(SIGTERM, next(&launched, SLK_REPORT_EXECUTED, to_group.serial).status);
		if (leads)
			CHECK_EQUAL(0, read(ends[0], &ready, 1)); /* its child has ended, too */
		close(ends[0]);
		end_first(&launched);
	}
}

static void test_all_end_with_the_first_and_are_told_of(void)
{
	struct launched launched = launch_first();
	uint32_t serials[3];
	struct slk_order order_of_end = {.kind = SLK_ORDER_SIGNAL, .number = SIGKILL};
	struct slk_report report;
	int told = 0;

	for (int i = 0; i < 3; i++) {
		serials[i] = order_shell(&launched, "trap '' TERM; setsid sleep 1000 & sleep 1000", -1);
		next(&launched, SLK_REPORT_LISTENER, serials[i]);
	}
	CHECK_EQUAL(0, slk_order_send(launched.control, &order_of_end));
	do {
		CHECK_EQUAL(1, slk_report_read(launched.control, PATIENCE_MS, &report));
		if (report.kind == SLK_REPORT_EXECUTED)
			told |= 1 << (report.serial - serials[0]);
		if (report.kind == SLK_REPORT_EXECUTED)
			CHECK_EQUAL(SIGKILL, report.status);
	} while (report.kind != SLK_REPORT_DONE);
	CHECK_EQUAL(7, told);
	let_go(&launched);
}

static void test_all_end_with_the_leash(void)
{
	struct launched launched = launch_first();
	uint32_t serial = order_shell(&launched, "setsid sleep 1000 & exec sleep 1000", -1);

	next(&launched, SLK_REPORT_LISTENER, serial);
	let_go(&launched); /* and nobody is left behind, which the runner sees */
}

/* init takes what nobody would send for the end. */
static void check_that_all_ends(struct launched *launched)
{
	struct slk_report report;

	do {
		CHECK_EQUAL(1, slk_report_read(launched->control, PATIENCE_MS, &report));
		if (report.fd >= 0)
			close(report.fd);
	} while (report.kind != SLK_REPORT_DONE);
	let_go(launched);
}

static void test_where_none_are_to_be_an_order_is_the_end(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("exec sleep 1000"));
	struct launched launched = launch(&plan);

	hear(&launched, SLK_REPORT_LISTENER);
	order_shell(&launched, "exit 0", -1);
	check_that_all_ends(&launched);
}

static void test_a_serial_that_is_in_use_is_the_end(void)
{
	struct launched launched = launch_first();

	next(&launched, SLK_REPORT_LISTENER, order_shell(&launched, "exec sleep 1000", -1));
	last_serial--;
	order_shell(&launched, "exec sleep 1000", -1);
	check_that_all_ends(&launched);
}

static void test_more_than_can_be_is_the_end(void)
{
	struct launched launched = launch_first();

	for (int i = 0; i < SLK_EXECUTED_MAX; i++)
		next(&launched, SLK_REPORT_LISTENER, order_shell(&launched, "exec sleep 1000", -1));
	order_shell(&launched, "exec sleep 1000", -1);
	check_that_all_ends(&launched);
}

static void test_an_order_without_descriptors_is_told_as_failed(void)
{
	struct launched launched = launch_first();
	struct slk_order bare = {.kind = SLK_ORDER_EXECUTE, .serial = ++last_serial};
	struct slk_report failed;

	CHECK_EQUAL(0, slk_order_send(launched.control, &bare));
	failed = next(&launched, SLK_REPORT_FAILED, last_serial);
	CHECK_EQUAL(0, failed.pid);
	CHECK_EQUAL(SLK_STAGE_DESCRIPTORS, failed.stage);
	check_end(&launched, order_shell(&launched, "exit 3", -1), 3 << 8);
	end_first(&launched);
}

static int descriptors_of(pid_t pid)
{
	char path[32];
	DIR *directory;
	int count = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	directory = opendir(path);
	CHECK(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static void test_init_keeps_none_of_their_descriptors(void)
{
	struct launched launched = launch_first();
	struct slk_order bare = {.kind = SLK_ORDER_SIGNAL};
	struct iovec text = {&bare, sizeof(bare)};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(8 * sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = control.bytes};
	int before, zeros[8] = {0};

	check_end(&launched, order_shell(&launched, "exit 0", -1), 0);
	before = descriptors_of(launched.init);
	for (int i = 0; i < 20; i++)
		check_end(&launched, order_shell(&launched, "exit 0", -1), 0);
	/* Nor any that come with another order, or too many of them. */
	for (size_t count = 1; count <= 8; count++) {
		struct cmsghdr *header;

		memset(&control, 0, sizeof(control));
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(header), zeros, count * sizeof(int));
		CHECK_EQUAL(sizeof(bare), sendmsg(launched.control, &message, MSG_NOSIGNAL));
	}
	check_end(&launched, order_shell(&launched, "exit 0", -1), 0);
	CHECK_EQUAL(before, descriptors_of(launched.init));
	end_first(&launched);
}

/* init is more prompt than a program, and has its own streams and signals. */
static void test_it_has_nothing_of_inits(void)
{
	char expected[4096];
	struct slk_launch_plan plan = plan_of(
		SHELL("cat /proc/self/timerslack_ns /proc/self/comm; grep -E '^Sig|^NoNew|^Seccomp:' /proc/self/status;"
		      "cut -d' ' -f18,19,41 /proc/self/stat"));
	struct launched launched = launch_first();

	snprintf(expected, sizeof(expected), "%s", output_of(plan));
	write_words(NULL, WORDS("/bin/sh"), WORDS("/bin/sh", "-c", plan.argv[2]));
	CHECK_TEXT(expected, output_of_words(&launched));
	end_first(&launched);
}

static void test_it_is_behind_the_ruleset(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("exec sleep 1000"));
	struct launched launched;
	int root = open("/", O_PATH | O_CLOEXEC);

	plan.keeps_ruleset = 1;
	plan.ruleset_fd = slk_landlock_create(1 << 1 /* WRITE_FILE */ | 1 << 3 /* READ_DIR */, 0, 0);
	if (plan.ruleset_fd < 0) {
		close(root);
		return;
	}
	CHECK_EQUAL(0, slk_landlock_add_path(plan.ruleset_fd, root, 1 << 1));
	close(root);
	launched = launch(&plan);
	close(plan.ruleset_fd);
	hear(&launched, SLK_REPORT_LISTENER);
	for (int i = 0; i < 2; i++) {
		write_words(NULL, WORDS("/bin/sh"), WORDS("sh", "-c", "ls / 2>/dev/null || echo refused"));
		CHECK_TEXT("refused\n", output_of_words(&launched));
	}
	end_first(&launched);
}

static void run_all(void)
{
	RUN(test_its_end_is_told);
	RUN(test_words_arrive_as_they_were_given);
	RUN(test_a_script_without_an_interpreter_is_the_shells);
	RUN(test_what_fails_is_told_with_its_step);
	RUN(test_bad_words_are_refused_by_the_new_process);
	RUN(test_a_signal_goes_to_the_one_that_is_meant);
	RUN(test_a_signal_to_a_group_is_for_the_one_that_the_program_leads);
	RUN(test_all_end_with_the_first_and_are_told_of);
	RUN(test_all_end_with_the_leash);
	RUN(test_where_none_are_to_be_an_order_is_the_end);
	RUN(test_a_serial_that_is_in_use_is_the_end);
	RUN(test_more_than_can_be_is_the_end);
	RUN(test_an_order_without_descriptors_is_told_as_failed);
	RUN(test_init_keeps_none_of_their_descriptors);
	RUN(test_it_has_nothing_of_inits);
	RUN(test_it_is_behind_the_ruleset);
}

int main(void)
{
	begin_tests();
	run_all();
	return 0;
}
