/* SPDX-License-Identifier: Apache-2.0 */
/* From a plan to a running program and to its end: launch.c, init.c, child.c. */
#include "launch.h"

#include <linux/landlock.h>
#include <sys/resource.h>
#include <sys/stat.h>

static void test_a_program_starts_ends_and_is_reported(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("exit 7"));
	struct told told;
	int status = run_to_the_end(&plan, &told);

	CHECK(WIFEXITED(status));
	CHECK_EQUAL(7, WEXITSTATUS(status));
	CHECK(told.kinds & 1 << SLK_REPORT_STARTED);
	CHECK(told.kinds & 1 << SLK_REPORT_LISTENER);
	CHECK(!(told.kinds & 1 << SLK_REPORT_FAILED));
	CHECK(told.of[SLK_REPORT_STARTED].pid > 0);
	CHECK_EQUAL(told.of[SLK_REPORT_STARTED].pid, told.of[SLK_REPORT_EXITED].pid);
	CHECK(told.of[SLK_REPORT_LISTENER].fd >= 0);
	CHECK(told.of[SLK_REPORT_DONE].reaped >= 1);
	CHECK(told.of[SLK_REPORT_DONE].peak_rss_bytes > 0);
}

static void test_death_by_a_signal_is_told_as_such(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("kill -SEGV $$"));
	int status = run_to_the_end(&plan, NULL);

	CHECK(WIFSIGNALED(status));
	CHECK_EQUAL(SIGSEGV, WTERMSIG(status));
}

static void test_usage_is_of_all_that_was_reaped(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done & wait; (:); (:)"));
	struct told told;

	run_to_the_end(&plan, &told);
	CHECK(told.of[SLK_REPORT_DONE].user_us > 0);
}

/* ---- what goes wrong is told with its step and errno */

static void check_failure(struct slk_launch_plan plan, enum slk_stage stage, int error)
{
	struct told told;
	int status = run_to_the_end(&plan, &told);

	CHECK(told.kinds & 1 << SLK_REPORT_FAILED);
	CHECK_EQUAL(stage, told.of[SLK_REPORT_FAILED].stage);
	CHECK_EQUAL(error, told.of[SLK_REPORT_FAILED].error);
	CHECK(WIFEXITED(status));
	CHECK_EQUAL(127, WEXITSTATUS(status));
	if (stage != SLK_STAGE_EXEC)
		CHECK(!(told.kinds & 1 << SLK_REPORT_LISTENER));
}

static void test_a_directory_that_is_none(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("exit 0"));

	plan.directory = "/none";
	check_failure(plan, SLK_STAGE_DIRECTORY, ENOENT);
	plan.directory = "/dev/null";
	check_failure(plan, SLK_STAGE_DIRECTORY, ENOTDIR);
}

static void test_an_executable_that_is_none(void)
{
	check_failure(plan_of((char *const[]){"/none", NULL}), SLK_STAGE_EXEC, ENOENT);
	check_failure(plan_of((char *const[]){"/", NULL}), SLK_STAGE_EXEC, EACCES);
	check_failure(plan_of((char *const[]){"/etc/passwd", NULL}), SLK_STAGE_EXEC, EACCES);
}

static void test_a_filter_that_is_none(void)
{
	struct sock_filter endless[] = {{BPF_LD | BPF_W | BPF_ABS, 0, 0, 0}};
	struct slk_launch_plan plan = plan_of(SHELL("exit 0"));

	plan.filter = endless;
	check_failure(plan, SLK_STAGE_SECCOMP, EINVAL);
	plan.filter_length = 0;
	check_failure(plan, SLK_STAGE_SECCOMP, EINVAL);
}

static void test_a_ruleset_that_is_none(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("exit 0"));
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (slk_landlock_abi() < 1)
		return;
	plan.ruleset_fd = null;
	check_failure(plan, SLK_STAGE_LANDLOCK, EBADFD);
	close(null);
	check_failure(plan, SLK_STAGE_DESCRIPTORS, EBADF);
}

static void test_a_limit_that_is_impossible(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("exit 0"));

	plan.rlimit_count = 1;
	plan.rlimits[0] = (struct slk_rlimit){RLIMIT_NOFILE, 100, 10};
	check_failure(plan, SLK_STAGE_RLIMITS, EINVAL);
}

static void test_standard_descriptors_that_are_not_open(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("exit 0"));

	plan.stdio[1] = 4000;
	check_failure(plan, SLK_STAGE_STDIO, EBADF);
}

/* ---- the program finds what the plan says */

static void test_directory_arguments_and_environment_are_as_given(void)
{
	struct slk_launch_plan plan =
		plan_of((char *const[]){"/bin/sh", "-c", "pwd; echo $X $HOME; echo \"$1\"", "name", "a b", NULL});

	setenv("HOME", "/ours", 1);
	plan.directory = "/usr";
	plan.envp = (char *const[]){"X=y", NULL};
	CHECK_TEXT("/usr\ny\na b\n", output_of(plan));
}

static void test_the_umask_is_as_given_or_inherited(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("umask"));
	mode_t before = umask(0124);

	CHECK_TEXT("0124\n", output_of(plan));
	plan.umask = 077;
	CHECK_TEXT("0077\n", output_of(plan));
	umask(before);
}

static void test_limits_are_as_given(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("ulimit -Sn; ulimit -Hn; ulimit -Sc"));

	plan.rlimit_count = 2;
	plan.rlimits[0] = (struct slk_rlimit){RLIMIT_NOFILE, 40, 50};
	plan.rlimits[1] = (struct slk_rlimit){RLIMIT_CORE, 0, 0};
	CHECK_TEXT("40\n50\n0\n", output_of(plan));
}

static int role_descriptors(void)
{
	for (int fd = 3; fd < 9000; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			return 1;
	return fcntl(0, F_GETFD) < 0 || fcntl(1, F_GETFD) < 0 || fcntl(2, F_GETFD) < 0;
}

static void check_descriptors(int ruleset_fd)
{
	struct slk_launch_plan plan = plan_of(ROLE("descriptors"));
	int leaks[64];

	plan.ruleset_fd = ruleset_fd;
	for (int i = 0; i < 64; i++)
		leaks[i] = open("/dev/null", O_RDONLY); /* not closed on exec */
	CHECK_EQUAL(0, run_to_the_end(&plan, NULL));
	for (int i = 0; i < 64; i++)
		close(leaks[i]);
}

static void test_the_program_has_three_descriptors(void)
{
	check_descriptors(-1);
}

static void test_the_program_has_three_descriptors_with_a_ruleset_too(void)
{
	int ruleset = slk_landlock_create(LANDLOCK_ACCESS_FS_MAKE_SYM, 0, 0);

	if (ruleset < 0)
		return; /* no Landlock: nothing to inherit */
	check_descriptors(ruleset);
	close(ruleset);
}

static void test_standard_descriptors_are_placed_even_when_they_stand_in_each_others_way(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("read word; echo $word; echo err >&2"));
	int in[2], out[2];
	char text[64] = "";
	struct launched launched;
	ssize_t got, length = 0;

	CHECK_EQUAL(0, pipe2(in, O_CLOEXEC));
	CHECK_EQUAL(0, pipe2(out, O_CLOEXEC));
	CHECK_EQUAL(5, write(in[1], "hello", 5));
	close(in[1]);
	plan.stdio[0] = in[0];
	plan.stdio[1] = plan.stdio[2] = out[1];
	launched = launch(&plan);
	close(in[0]);
	close(out[1]);
	while ((got = read(out[0], text + length, sizeof(text) - 1 - (size_t)length)) > 0)
		length += got;
	close(out[0]);
	CHECK_TEXT("hello\nerr\n", text);
	hear(&launched, SLK_REPORT_GONE);
	let_go(&launched);
}

static int swapped(void *unused)
{
	struct slk_launch_plan plan = plan_of(SHELL("echo to-two >&1; echo to-one >&2"));
	char text[64] = "";
	int one[2], two[2];
	struct launched launched;

	(void)unused;
	CHECK_EQUAL(0, pipe2(one, O_CLOEXEC));
	CHECK_EQUAL(0, pipe2(two, O_CLOEXEC));
	dup2(one[1], 1);
	dup2(two[1], 2);
	plan.stdio[1] = 2;
	plan.stdio[2] = 1;
	launched = launch(&plan);
	hear(&launched, SLK_REPORT_GONE);
	let_go(&launched);
	CHECK_EQUAL(7, read(one[0], text, sizeof(text)));
	CHECK_EQUAL(0, strncmp("to-one\n", text, 7));
	CHECK_EQUAL(7, read(two[0], text, sizeof(text)));
	CHECK_EQUAL(0, strncmp("to-two\n", text, 7));
	return 0;
}

static void test_standard_descriptors_may_be_swapped(void)
{
	CHECK_EQUAL(0, exit_of(in_child(swapped, NULL)));
}

static void test_a_standard_descriptor_may_be_closed(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("[ ! -e /proc/self/fd/0 ] && echo closed"));

	plan.stdio[0] = -2;
	CHECK_TEXT("closed\n", output_of(plan));
}

/* ---- signals */

static void test_signals_are_as_a_shell_would_start_it(void)
{
	/* Not through a shell, which clears the mask. */
	struct slk_launch_plan plan =
		plan_of((char *const[]){"/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status", NULL});

	/* We ignore SIGPIPE (as Python does), SIGXFSZ and SIGHUP: of these only the last is inherited, as by nohup(1). */
	signal(SIGXFSZ, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	CHECK_TEXT("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000001\n", output_of(plan));
	signal(SIGHUP, SIG_DFL);
	signal(SIGXFSZ, SIG_DFL);
	plan.blocked_signals = 1ull << (SIGUSR2 - 1) | 1ull << (SIGRTMAX - 1);
	CHECK_TEXT("SigBlk:\t8000000000000800\nSigIgn:\t0000000000000000\n", output_of(plan));
}

static void test_our_own_mask_and_handlers_stay(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("exit 0"));
	sigset_t before, after;

	sigprocmask(SIG_BLOCK, NULL, &before);
	run_to_the_end(&plan, NULL);
	sigprocmask(SIG_BLOCK, NULL, &after);
	for (int number = 1; number <= 64; number++)
		CHECK_EQUAL(sigismember(&before, number), sigismember(&after, number));
}

/* ---- what is taken away */

static void test_privileges_are_fixed(void)
{
	CHECK_TEXT("NoNewPrivs:\t1\nSeccomp:\t2\n",
		   output_of(plan_of(SHELL("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status"))));
}

static void test_capabilities_are_dropped_but_those_kept(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("grep '^Cap' /proc/self/status"));

	if (geteuid() != 0) {
		printf("skipped: only root has capabilities to lose\n");
		return;
	}
	plan.drop_capabilities = 1;
	plan.kept_capabilities = 1 << 0 | 1 << 1; /* CAP_CHOWN, CAP_DAC_OVERRIDE */
	CHECK_TEXT("CapInh:\t0000000000000000\nCapPrm:\t0000000000000003\nCapEff:\t0000000000000003\n"
		   "CapBnd:\t0000000000000003\nCapAmb:\t0000000000000000\n",
		   output_of(plan));
}

static void test_the_ruleset_is_entered(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("ln -s x /tmp/slk-test-link-that-must-not-be 2>/dev/null || echo refused"));

	plan.ruleset_fd = slk_landlock_create(LANDLOCK_ACCESS_FS_MAKE_SYM, 0, 0);
	if (plan.ruleset_fd < 0) {
		printf("skipped: no Landlock\n");
		return;
	}
	CHECK_TEXT("refused\n", output_of(plan));
	close(plan.ruleset_fd);
}

static void test_a_new_session_is_the_programs_own(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("cut -d' ' -f5,6 /proc/$$/stat; echo $$ $$"));
	char both[64], *second;

	plan.new_session = 1;
	strcpy(both, output_of(plan));
	second = strchr(both, '\n') + 1;
	CHECK_EQUAL(0, strncmp(both, second, strlen(second)));
	plan.new_session = 0;
	strcpy(both, output_of(plan));
	second = strchr(both, '\n') + 1;
	CHECK(strncmp(both, second, strlen(second)) != 0);
}

/* The program is in init's Landlock domain: it cannot signal who watches over it. */
static void test_the_program_cannot_signal_init_or_us(void)
{
	struct slk_launch_plan plan = plan_of(SHELL("kill -0 $PPID 2>/dev/null || echo not-init; "
						    "kill -0 $US 2>/dev/null || echo not-you; kill -0 $$ && echo itself"));
	char us[32];

	if (!plan.scope_signals) {
		printf("skipped: this kernel does not scope signals (Landlock ABI 6)\n");
		return;
	}
	snprintf(us, sizeof(us), "US=%d", (int)getpid());
	plan.envp = (char *const[]){us, NULL};
	plan.ruleset_fd = slk_landlock_create(0, 0, SLK_LANDLOCK_SCOPE_SIGNAL);
	CHECK(plan.ruleset_fd >= 0);
	CHECK_TEXT("not-init\nnot-you\nitself\n", output_of(plan));
	close(plan.ruleset_fd);
}

/* Every one of our own is free: the control socket takes the numbers that stdin and stdout have elsewhere. */
static int without_stdio(void *unused)
{
	struct slk_launch_plan plan = plan_of(SHELL("exit 7"));
	struct launched launched;

	(void)unused;
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	launched = launch(&plan);
	hear(&launched, SLK_REPORT_EXITED);
	let_go(&launched);
	return launched.told.of[SLK_REPORT_EXITED].status == 7 << 8 ? 0 : 2;
}

static void test_a_launch_without_stdio_of_our_own(void)
{
	CHECK_EQUAL(0, exit_of(in_child(without_stdio, NULL)));
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "descriptors"))
		_exit(role_descriptors());
	begin_tests();
	RUN(test_a_program_starts_ends_and_is_reported);
	RUN(test_death_by_a_signal_is_told_as_such);
	RUN(test_usage_is_of_all_that_was_reaped);
	RUN(test_a_directory_that_is_none);
	RUN(test_an_executable_that_is_none);
	RUN(test_a_filter_that_is_none);
	RUN(test_a_ruleset_that_is_none);
	RUN(test_a_limit_that_is_impossible);
	RUN(test_standard_descriptors_that_are_not_open);
	RUN(test_directory_arguments_and_environment_are_as_given);
	RUN(test_the_umask_is_as_given_or_inherited);
	RUN(test_limits_are_as_given);
	RUN(test_the_program_has_three_descriptors);
	RUN(test_the_program_has_three_descriptors_with_a_ruleset_too);
	RUN(test_standard_descriptors_are_placed_even_when_they_stand_in_each_others_way);
	RUN(test_standard_descriptors_may_be_swapped);
	RUN(test_a_standard_descriptor_may_be_closed);
	RUN(test_signals_are_as_a_shell_would_start_it);
	RUN(test_our_own_mask_and_handlers_stay);
	RUN(test_privileges_are_fixed);
	RUN(test_capabilities_are_dropped_but_those_kept);
	RUN(test_the_ruleset_is_entered);
	RUN(test_a_new_session_is_the_programs_own);
	RUN(test_the_program_cannot_signal_init_or_us);
	RUN(test_a_launch_without_stdio_of_our_own);
	return 0;
}
