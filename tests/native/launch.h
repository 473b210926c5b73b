/* SPDX-License-Identifier: Apache-2.0 */
/* Launching programs and hearing how they end. The program is the test's own executable in another role, or a shell. */
#ifndef LAUNCH_H
#define LAUNCH_H

#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>

#define ARGUMENTS_MAX 8

static struct sock_filter allow_all[] = {{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
static char *no_environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", NULL};

/* A program that nothing is demanded of; what a test is about it changes. */
__attribute__((unused)) static struct slk_launch_plan plan_of(char *const *argv)
{
	return (struct slk_launch_plan){
		.executable = argv[0],
		.argv = argv,
		.envp = no_environment,
		.filter = allow_all,
		.filter_length = 1,
		.wait_killable = 1,
		.scope_signals = slk_landlock_abi() >= 6,
		.stdio = {-1, -1, -1},
		.ruleset_fd = -1,
		.umask = -1,
	};
}

#define SHELL(script) ((char *const[]){"/bin/sh", "-c", (script), NULL})
#define ROLE(name) ((char *const[]){"/proc/self/exe", (name), NULL})

struct told {
	int kinds; /* bit per kind */
	struct slk_report of[SLK_REPORT_GONE + 1];
};

struct launched {
	pid_t init;
	int control;
	struct told told;
};

#define HAS(launched, kind) (((launched)->told.kinds >> (kind)) & 1)

__attribute__((unused)) static struct launched launch(const struct slk_launch_plan *plan)
{
	struct launched launched = {.control = -1};

	fflush(stdout);
	launched.init = slk_launch(plan, &launched.control);
	CHECK(launched.init > 0);
	CHECK_EQUAL(FD_CLOEXEC, fcntl(launched.control, F_GETFD));
	return launched;
}

/* 1: one more report has come within that time. */
__attribute__((unused)) static int hear_one(struct launched *launched, int timeout_ms)
{
	struct slk_report report;
	int result = slk_report_read(launched->control, timeout_ms, &report);

	if (result == 0)
		return 0;
	CHECK_EQUAL(1, result);
	CHECK(report.kind >= 0 && report.kind <= SLK_REPORT_GONE);
	if (report.fd >= 0 && report.kind == SLK_REPORT_LISTENER)
		close(report.fd);
	launched->told.of[report.kind] = report;
	launched->told.kinds |= 1 << report.kind;
	return 1;
}

/* Reads reports up to one of that kind. */
__attribute__((unused)) static struct slk_report *hear(struct launched *launched, enum slk_report_kind kind)
{
	while (!HAS(launched, kind)) {
		CHECK(hear_one(launched, PATIENCE_MS));
		CHECK(kind == SLK_REPORT_GONE || !HAS(launched, SLK_REPORT_GONE));
	}
	return &launched->told.of[kind];
}

/* Lets go, and waits until init is gone: what it watched over is gone before. */
__attribute__((unused)) static void let_go(struct launched *launched)
{
	if (launched->control >= 0)
		close(launched->control);
	launched->control = -1;
	CHECK_EQUAL(0, exit_of(launched->init));
}

/* From start to end: the wait(2) status of the program. */
__attribute__((unused)) static int run_to_the_end(const struct slk_launch_plan *plan, struct told *ret_told)
{
	struct launched launched = launch(plan);

	hear(&launched, SLK_REPORT_GONE);
	CHECK(HAS(&launched, SLK_REPORT_EXITED) && HAS(&launched, SLK_REPORT_DONE));
	let_go(&launched);
	if (ret_told)
		*ret_told = launched.told;
	return launched.told.of[SLK_REPORT_EXITED].status;
}

/* What the program writes to its standard output, up to a NUL that is added. */
__attribute__((unused)) static const char *output_of(struct slk_launch_plan plan)
{
	static char text[4096];
	size_t length = 0;
	int ends[2];
	ssize_t got;
	struct launched launched;

	CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
	plan.stdio[1] = ends[1];
	launched = launch(&plan);
	close(ends[1]);
	while ((got = read(ends[0], text + length, sizeof(text) - 1 - length)) > 0)
		length += (size_t)got;
	text[length] = '\0';
	close(ends[0]);
	hear(&launched, SLK_REPORT_GONE);
	let_go(&launched);
	return text;
}

/* With an init that walks its tree, and where the kernel can, with one whose signals are confined: 1. */
__attribute__((unused)) static int run_both_ways(void (*run_all)(void), int *ret_scoped)
{
	printf("init walks its tree:\n");
	run_all();
	*ret_scoped = slk_landlock_abi() >= 6;
	if (!*ret_scoped) {
		printf("skipped: this kernel does not scope signals (Landlock ABI 6)\n");
		return 0;
	}
	printf("init's signals are confined:\n");
	run_all();
	return 1;
}

#endif
