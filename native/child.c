/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything between fork and exec of the program: one function, one plan prepared beforehand, one way out.
 * Async-signal-safe calls only. The order matters: what needs rights comes before what takes them away, the filter
 * comes last because it traps calls, and exec itself is the first trapped call.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define CONTROL_FD 3 /* where the sweep leaves the control socket */
#define RULESET_FD 4

struct failure {
	enum slk_stage stage;
	int error;
	int swept; /* the control socket is CONTROL_FD already */
	int which; /* of the candidates */
};

static int lead_session(const struct slk_launch_plan *plan)
{
	return plan->new_session && setsid() < 0 ? -errno : 0;
}

/* Once it is descriptor 0. */
static int take_terminal(const struct slk_launch_plan *plan)
{
	return plan->new_session && isatty(0) && ioctl(0, TIOCSCTTY, 0) < 0 ? -errno : 0;
}

/* Move all out of the way first: one descriptor may stand for several, and stand in the way of another. */
static int place_stdio(const struct slk_launch_plan *plan)
{
	int high[3];

	for (int i = 0; i < 3; i++) {
		if (plan->stdio[i] == -2)
			close(i); /* it may be closed already */
		high[i] = plan->stdio[i] < 0 ? -1 : fcntl(plan->stdio[i], F_DUPFD_CLOEXEC, 10);
		if (plan->stdio[i] >= 0 && high[i] < 0)
			return -errno;
	}
	for (int i = 0; i < 3; i++)
		if (high[i] >= 0 && dup2(high[i], i) < 0)
			return -errno;
	return 0;
}

/* Two descriptors are still needed; everything else that we inherited goes. */
static int sweep(const struct slk_launch_plan *plan, int control_fd)
{
	int control = fcntl(control_fd, F_DUPFD_CLOEXEC, 10);
	int ruleset = plan->ruleset_fd < 0 ? -1 : fcntl(plan->ruleset_fd, F_DUPFD_CLOEXEC, 10);

	if (control < 0 || (plan->ruleset_fd >= 0 && ruleset < 0))
		return -errno;
	if (dup3(control, CONTROL_FD, O_CLOEXEC) < 0)
		return -errno;
	if (ruleset < 0)
		return slk_close_from(RULESET_FD, 0);
	if (dup3(ruleset, RULESET_FD, O_CLOEXEC) < 0)
		return -errno;
	return slk_close_from(RULESET_FD + 1, 0);
}

/*
 * Python ignores SIGPIPE and SIGXFSZ for itself; the program starts with what a shell gives it. What was ignored when
 * we were started stays ignored (nohup); handlers go now, for until exec they would be the supervisor's.
 */
static int reset_signals(const struct slk_launch_plan *plan)
{
	sigset_t mask;

	for (int number = 1; number <= 64; number++) {
		struct sigaction now;

		if (sigaction(number, NULL, &now) < 0)
			continue; /* libc keeps 32 and 33 for itself */
		if (now.sa_handler != SIG_IGN || number == SIGPIPE || number == SIGXFSZ)
			signal(number, SIG_DFL); /* fails for SIGKILL and SIGSTOP, which have no handler */
	}
	sigemptyset(&mask);
	for (int number = 1; number <= 64; number++)
		if (plan->blocked_signals >> (number - 1) & 1)
			sigaddset(&mask, number);
	return sigprocmask(SIG_SETMASK, &mask, NULL) < 0 ? -errno : 0;
}

static int drop_capabilities(const struct slk_launch_plan *plan)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct sets[2];

	if (!plan->drop_capabilities)
		return 0;
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(plan->kept_capabilities >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 &&
		    errno != EPERM) /* EPERM: not ours to drop, so nothing to lose either */
			return -errno;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -errno;
	if (syscall(SYS_capget, &header, sets) < 0)
		return -errno;
	for (int half = 0; half < 2; half++) {
		uint32_t kept = (uint32_t)(plan->kept_capabilities >> (32 * half));

		sets[half].permitted &= kept;
		sets[half].effective &= kept;
		sets[half].inheritable = 0;
	}
	return syscall(SYS_capset, &header, sets) < 0 ? -errno : 0;
}

static int set_rlimits(const struct slk_launch_plan *plan)
{
	for (uint32_t i = 0; i < plan->rlimit_count && i < SLK_RLIMITS_MAX; i++) {
		struct rlimit limit = {plan->rlimits[i].soft, plan->rlimits[i].hard};

		if (setrlimit((__rlimit_resource_t)plan->rlimits[i].resource, &limit) < 0)
			return -errno;
	}
	return 0;
}

static int restrict_files(const struct slk_launch_plan *plan)
{
	int result;

	if (plan->ruleset_fd < 0)
		return 0;
	result = slk_landlock_restrict(RULESET_FD);
	close(RULESET_FD);
	return result;
}

/* Returns the listener. */
static int install_filter(const struct slk_launch_plan *plan)
{
	struct sock_fprog program = {plan->filter_length, (struct sock_filter *)(uintptr_t)plan->filter};
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
	long fd;

	if (plan->wait_killable)
		flags |= SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
	fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	if (fd < 0 && errno == EINVAL && plan->wait_killable == 2)
		fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	return fd < 0 ? -errno : (int)fd;
}

static int hand_over(int listener_fd, pid_t self, uint32_t serial)
{
	/* Every call from here to exec may be trapped, and nobody has the listener yet: sendmsg and close only. */
	struct slk_report report = {.kind = SLK_REPORT_LISTENER, .pid = self, .fd = -1, .serial = serial};
	int result = slk_report_send(CONTROL_FD, &report, listener_fd);

	close(listener_fd);
	return result;
}

#define STEP(name, call)                                                                                               \
	do {                                                                                                           \
		int result_ = (call);                                                                                  \
		if (result_ < 0)                                                                                       \
			return (struct failure){name, -result_, swept, 0};                                              \
	} while (0)

/* As launch/command.py has it, for what is there now: 0, or an errno. EISDIR; ENOEXEC: not to be executed. */
static int look_at(const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return errno;
	if (S_ISDIR(status.st_mode))
		return EISDIR;
	return S_ISREG(status.st_mode) && access(path, X_OK) == 0 ? 0 : ENOEXEC;
}

/* Which of the candidates; or -errno, of the first that is there. */
static int choose(const struct slk_told *told)
{
	int problem = 0, last = ENOENT;

	for (int which = 0; told->candidates[which]; which++) {
		last = look_at(told->candidates[which]);
		if (last == 0)
			return which;
		if (!problem && last != ENOENT && last != ENOTDIR)
			problem = last;
	}
	return -(problem ? problem : last);
}

/* The program's own way from here: what it asks is trapped, and judged as any program's. Returns only on failure. */
static struct failure become_further(const struct slk_told *told)
{
	const int swept = 1;
	int which;

	STEP(SLK_STAGE_DIRECTORY, told->directory && chdir(told->directory) < 0 ? -errno : 0);
	STEP(SLK_STAGE_COMMAND, which = choose(told));
	execve(told->candidates[which], told->arguments, told->environment);
	if (errno == ENOEXEC) {
		told->shell_arguments[1] = told->candidates[which];
		execve(told->shell_arguments[0], told->shell_arguments, told->environment);
	}
	return (struct failure){SLK_STAGE_EXEC, errno, swept, which};
}

/* Returns only on failure. told: NULL, of the plan's own program. */
static struct failure become_program(const struct slk_launch_plan *plan, int control_fd, pid_t self, uint32_t serial,
				     const struct slk_told *told)
{
	int swept = 0;
	int listener;

	STEP(SLK_STAGE_SESSION, lead_session(plan));
	STEP(SLK_STAGE_STDIO, place_stdio(plan));
	STEP(SLK_STAGE_TERMINAL, take_terminal(plan));
	STEP(SLK_STAGE_DESCRIPTORS, sweep(plan, control_fd));
	swept = 1;
	STEP(SLK_STAGE_DIRECTORY, !told && plan->directory && chdir(plan->directory) < 0 ? -errno : 0);
	if (plan->umask >= 0)
		umask((mode_t)plan->umask);
	STEP(SLK_STAGE_CAPABILITIES, drop_capabilities(plan));
	STEP(SLK_STAGE_LANDLOCK, restrict_files(plan));
	STEP(SLK_STAGE_RLIMITS, set_rlimits(plan));
	STEP(SLK_STAGE_SIGNALS, reset_signals(plan));
	STEP(SLK_STAGE_SECCOMP, listener = install_filter(plan));
	STEP(SLK_STAGE_HANDOVER, hand_over(listener, self, serial));
	if (told)
		return become_further(told);
	execve(plan->executable, plan->argv, plan->envp);
	if (errno == ENOEXEC && plan->shell_argv)
		execve(plan->shell_argv[0], plan->shell_argv, plan->envp);
	return (struct failure){SLK_STAGE_EXEC, errno, swept, 0};
}

static _Noreturn void fail(const struct failure *failure, int control_fd, pid_t self, uint32_t serial)
{
	struct slk_report report = {
		.kind = SLK_REPORT_FAILED,
		.pid = self,
		.stage = (int32_t)failure->stage,
		.error = failure->error,
		.status = failure->which,
		.fd = -1,
		.serial = serial,
	};

	/* Before the sweep the socket has its old number, and 3 may be anything. */
	slk_report_send(failure->swept ? CONTROL_FD : control_fd, &report, -1);
	_exit(127);
}

_Noreturn void slk_child_main(const struct slk_launch_plan *plan, int control_fd)
{
	pid_t self = getpid(); /* later it may be trapped */
	struct failure failure = become_program(plan, control_fd, self, 0, NULL);

	fail(&failure, control_fd, self, 0);
}

_Noreturn void slk_further_main(const struct slk_launch_plan *plan, int control_fd, uint32_t serial, int words_fd)
{
	pid_t self = getpid();
	struct slk_told told;
	int result = slk_words_read(words_fd, &told);
	struct failure failure = {SLK_STAGE_WORDS, -result, 0, 0};

	if (result == 0)
		failure = become_program(plan, control_fd, self, serial, &told);
	fail(&failure, control_fd, self, serial);
}
