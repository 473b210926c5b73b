/* SPDX-License-Identifier: Apache-2.0 */
/*
 * init: the subreaper of one sandbox, and the end of everything in it.
 *
 * It is a fork of the supervisor that never executes anything, so it holds no descriptor but the control socket.
 * Every descendant whose parent dies becomes its child (PR_SET_CHILD_SUBREAPER, prctl(2)). When the control socket
 * hangs up (the supervisor and whoever kept a duplicate are dead) or the program ends, it kills all and reaps all. So it
 * does when the supervisor has been killed and cannot die yet: threads of it that wait in the kernel for the lock of a file
 * keep its descriptors open for as long as the program writes to that file.
 *
 * How it kills stands in killing.c.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* After so many a look at the control socket is due: a storm of stops must not keep the end of all waiting. */
#define TAKEN_MAX 64
/* As often a process that is in execve is tried again at once; and then now and then. */
#define TRACE_TRIES_MAX 8
#define TRACE_LATE_MS 2

/* The thread that forked us has ended (PR_SET_PDEATHSIG, prctl(2)). */
#define FORKER_ENDED SIGUSR1
#define ZOMBIE_LOOKS_MAX 10
#define RULESET_FD 4 /* where it is kept */

struct init {
	int control_fd;
	pid_t supervisor;
	int signal_fd;
	int scoped; /* proven: we cannot signal our parent */
	pid_t program;
	int exited;
	int stopped;
	const struct slk_engine_view *engine; /* NULL: we trace nobody for it */
	int traces;      /* somebody */
	int late_traces; /* some are left to try again */
	int more;        /* may be left to reap */
	int stops;       /* how many stops of the program were told */
	uint64_t reaped;
	const struct slk_launch_plan *plan;
	struct slk_limits limits;
	struct slk_throttle throttle;
	struct slk_signals_kept kept_signals; /* while it is paused */
	struct slk_signals_kept kept_for_group;
	struct slk_outbox outbox;
	struct slk_executing executing;
};

struct taken {
	int status;
	int is_traced; /* a stop that only its tracer sees; else one of a child of ours, by job control */
};

static _Noreturn void give_up(int control_fd, enum slk_stage stage, int error)
{
	slk_report_failure(control_fd, stage, error);
	_exit(125);
}

/* As waitpid(-1), and counts who is reaped: a thread or a process that we only trace is somebody else's. */
static pid_t take(struct init *init, int options, struct taken *ret_taken)
{
	siginfo_t info;
	int own = 1;
	pid_t pid;

	do {
		memset(&info, 0, sizeof(info));
		if (init->traces) {
			if (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT | options) < 0)
				return -1;
			if (info.si_pid == 0)
				return 0;
			own = info.si_code == CLD_TRAPPED || slk_is_own_child(info.si_pid);
		}
		pid = waitpid(init->traces ? info.si_pid : -1, &ret_taken->status, options | __WALL);
	} while (pid == 0 && info.si_pid); /* it was stopped, and is being killed: others may be next */
	ret_taken->is_traced = info.si_code == CLD_TRAPPED;
	if (pid > 0 && !WIFSTOPPED(ret_taken->status)) {
		init->reaped += (uint64_t)own;
		slk_throttle_gone(pid);
	}
	return pid;
}

/* Once for all: whoever is in fork when the signal comes has no child any more. */
static void kill_all_and_reap(struct init *init)
{
	struct taken taken;

	if (init->scoped)
		kill(-1, SIGKILL);
	for (;;) {
		pid_t pid;

		if (!init->scoped)
			slk_kill_children_once();
		/* With the scope all are dying already; without it only our children are, so look again. */
		pid = take(init, init->scoped ? 0 : WNOHANG, &taken);
		if (pid < 0 && errno == ECHILD)
			return;
		if (pid > 0 && !WIFSTOPPED(taken.status))
			slk_executed_ended(&init->executing, init->control_fd, pid, taken.status);
		if (pid == 0)
			poll(NULL, 0, 1); /* only on kernels without the scope */
	}
}

static void report(struct init *init, enum slk_report_kind kind, int status)
{
	struct slk_report message = {.kind = (int32_t)kind, .pid = init->program, .status = status, .fd = -1};

	slk_tell(&init->outbox, init->control_fd, &message);
}

/* By which signal; 0: it goes on. */
static void told_of_stop(struct init *init, int number)
{
	struct slk_report message = {.kind = SLK_REPORT_CONTINUED, .pid = init->program, .status = number, .fd = -1};

	init->stopped = number != 0;
	if (init->stopped) {
		message.kind = SLK_REPORT_STOPPED;
		init->stops++;
	}
	message.stop = init->stops;
	slk_tell(&init->outbox, init->control_fd, &message);
}

static void tell_limit(struct init *init)
{
	struct slk_report message = {.kind = SLK_REPORT_LIMIT, .pid = init->program, .fd = -1};

	message.status = init->limits.reached;
	message.used_ns = init->limits.used_ns;
	slk_tell(&init->outbox, init->control_fd, &message);
}

static uint64_t number_behind(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : SLK_NOT_TOLD;
}

/* What we reaped was added to our own (kernel/exit.c, wait_task_zombie); we ourselves write nothing, but send. */
static void tell_written(struct slk_report *message)
{
	char text[512];
	int fd = open("/proc/self/io", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[got > 0 ? got : 0] = '\0';
	message->passed_bytes = number_behind(text, "\nwchar: ");
	message->stored_bytes = number_behind(text, "\nwrite_bytes: ");
}

static int has_ended(pid_t supervisor);

/* That is the supervisor's, which asks them how it ended; but where it is dead nobody else would. */
static void remove_groups(const struct init *init)
{
	struct pollfd leash = {init->control_fd, 0, 0};

	if (!init->plan->groups[0])
		return;
	if (poll(&leash, 1, 0) <= 0 && (init->plan->is_kept || has_ended(init->supervisor) <= 0))
		return;
	for (int i = 0; i < SLK_CGROUPS_MAX && init->plan->groups[i]; i++)
		rmdir(init->plan->groups[i]); /* it may be gone already, or another run may have swept it */
}

static _Noreturn void finish(struct init *init)
{
	struct slk_report message = {.kind = SLK_REPORT_DONE, .pid = init->program, .fd = -1};
	struct rusage usage;

	slk_limits_ending(&init->limits);
	kill_all_and_reap(init);
	if (slk_limits_ended(&init->limits))
		tell_limit(init);
	if (getrusage(RUSAGE_CHILDREN, &usage) == 0) {
		message.user_us = (uint64_t)usage.ru_utime.tv_sec * 1000000u + (uint64_t)usage.ru_utime.tv_usec;
		message.system_us = (uint64_t)usage.ru_stime.tv_sec * 1000000u + (uint64_t)usage.ru_stime.tv_usec;
		message.peak_rss_bytes = (uint64_t)usage.ru_maxrss * 1024u;
	}
	message.reaped = init->reaped;
	message.used_ns = init->limits.used_ns;
	tell_written(&message);
	slk_tell(&init->outbox, init->control_fd, &message);
	slk_tell_waiting(&init->outbox, init->control_fd, 1);
	remove_groups(init);
	_exit(0);
}

static void on_stop(struct init *init, pid_t pid, const struct taken *taken)
{
	int number = WSTOPSIG(taken->status);

	if (taken->is_traced)
		number = slk_traced_stopped(init->engine, pid, taken->status);
	if (number && pid == init->program)
		told_of_stop(init, number);
}

/*
 * Of the program alone: of a process that we only trace, its real parent must hear it. Nothing is taken (WNOWAIT): a stop
 * of a traced process is told whatever one asks for, and would be lost here. The kernel forgets that it went on when it
 * stops again.
 */
static void look_whether_it_goes_on(struct init *init)
{
	siginfo_t info = {0};

	if (init->stopped && waitid(P_PID, (id_t)init->program, &info, WCONTINUED | WNOHANG | WNOWAIT) == 0 &&
	    info.si_pid == init->program && info.si_code == CLD_CONTINUED)
		told_of_stop(init, 0);
}

static void reap(struct init *init)
{
	struct taken taken;
	pid_t pid = 0;

	init->more = 1;
	for (int count = 0; count < TAKEN_MAX; count++) {
		pid = take(init, WNOHANG | WUNTRACED, &taken);
		if (pid <= 0) {
			init->more = 0;
			break;
		}
		if (WIFSTOPPED(taken.status)) {
			on_stop(init, pid, &taken);
		} else if (pid == init->program) {
			init->exited = 1;
			report(init, SLK_REPORT_EXITED, taken.status);
			finish(init);
		} else {
			slk_executed_ended(&init->executing, init->control_fd, pid, taken.status);
		}
	}
	if (pid < 0 && errno == ECHILD && !init->exited)
		finish(init); /* somebody else reaped it: nothing is left to wait for */
	look_whether_it_goes_on(init);
}

/* A shell that puts its job in the foreground has sent SIGCONT to the program as well. A second one, late, would end the
 * next stop: so only the stop that was meant is ended, and what happened since is taken first. */
static void end_stop(struct init *init, int stop)
{
	pid_t group;

	reap(init);
	if (!init->stopped || init->stops != stop)
		return;
	group = getpgid(init->program);
	if (group > 1)
		kill(-group, SIGCONT);
}

/* How much of it is in execve still, and is traced later, is nobody's business: that call makes an end of all threads but
 * one, and of its handlers. */
static int trace_process(struct init *init, pid_t tid)
{
	int tries = 0;

	if (slk_is_traced(tid) && !slk_throttle_has_seized(tid))
		return 1; /* and so are its siblings: a program may set its timer again and again */
	while (slk_trace_process(tid) < 0 && ++tries < TRACE_TRIES_MAX)
		reap(init);
	if (tries == TRACE_TRIES_MAX) {
		slk_trace_later(tid);
		init->late_traces = 1;
	}
	return slk_is_traced(tid) && !slk_throttle_has_seized(tid);
}

/* Only within our own domain: then Landlock refuses any process outside of the sandbox, whoever has the number now. */
static void trace(struct init *init, const struct slk_order *order)
{
	int done = init->scoped;

	if (!init->engine)
		return;
	init->traces |= done;
	done = done && trace_process(init, order->number);
	if (done && order->kind == SLK_ORDER_INTERRUPT)
		done = slk_trace_interrupt(order->number);
	slk_acknowledge(init->engine->shared, order->serial, done);
}

static void restart(const struct init *init, const struct slk_order *order)
{
	if (init->engine)
		slk_acknowledge(init->engine->shared, order->serial, init->traces && slk_trace_restart(&order->rewrite));
}

static void begin_limits(struct init *init)
{
	slk_limits_begin(&init->limits, init->plan, init->scoped);
	slk_throttle_begin(&init->throttle, init->plan->cpu_percent, init->scoped);
	init->traces |= init->plan->cpu_percent != 0;
}

/* Who ordered it waits, to hear whether it could be done. */
static void pause_all(struct init *init, const struct slk_order *order)
{
	int result;

	init->traces = 1;
	result = slk_throttle_pause(&init->throttle, init->scoped);
	if (init->engine && order->serial)
		slk_acknowledge(init->engine->shared, order->serial, result < 0 ? result : 1);
}

/* Before a line of it runs it has its signals. */
static void resume_all(struct init *init)
{
	slk_signals_send(&init->kept_for_group, slk_group_of(init->program));
	slk_signals_send(&init->kept_signals, init->program);
	slk_throttle_resume(&init->throttle);
}

static void signal_program(struct init *init, const struct slk_order *order)
{
	int is_for_group = order->kind == SLK_ORDER_SIGNAL_GROUP;

	if (!init->throttle.is_paused ||
	    !slk_signals_keep(is_for_group ? &init->kept_for_group : &init->kept_signals, order->number))
		/* not reaped yet, so the number is still the program's */
		kill(is_for_group ? slk_group_of(init->program) : init->program, order->number);
}

static void obey(struct init *init)
{
	struct slk_order order;
	int fds[SLK_ORDER_FDS_MAX];
	ssize_t got = slk_order_receive(init->control_fd, &order, fds);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got != (ssize_t)sizeof(order))
		finish(init); /* hang-up, or nothing we understand */
	if (order.kind == SLK_ORDER_SIGNAL || order.kind == SLK_ORDER_SIGNAL_GROUP)
		signal_program(init, &order);
	else if (order.kind == SLK_ORDER_TRACE || order.kind == SLK_ORDER_INTERRUPT)
		trace(init, &order);
	else if (order.kind == SLK_ORDER_RESTART)
		restart(init, &order);
	else if (order.kind == SLK_ORDER_CONTINUE)
		end_stop(init, order.number);
	else if (order.kind == SLK_ORDER_BEGIN)
		begin_limits(init);
	else if (order.kind == SLK_ORDER_PAUSE)
		pause_all(init, &order);
	else if (order.kind == SLK_ORDER_RESUME)
		resume_all(init);
	else if (order.kind == SLK_ORDER_SIGNAL_EXECUTED || order.kind == SLK_ORDER_SIGNAL_EXECUTED_GROUP)
		slk_signal_executed(&init->executing, &order);
	else if (order.kind != SLK_ORDER_EXECUTE || slk_execute(&init->executing, init->control_fd, &order, fds) < 0)
		finish(init);
	for (int i = 0; i < SLK_ORDER_FDS_MAX; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* Its first thread is a zombie, whatever its others still do. -1: it cannot be told. */
static int has_ended(pid_t supervisor)
{
	char path[32], text[512];
	const char *name_end;
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)supervisor);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 1 : -1;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return got < 0 && errno == ESRCH ? 1 : -1;
	text[got] = '\0';
	name_end = strrchr(text, ')');
	return name_end && (name_end[2] == 'Z' || name_end[2] == 'X');
}

/* Anybody may send that signal, and another thread than the first may have forked us: so look. The signal is sent a moment
 * before the thread is a zombie (exit_notify() of kernel/exit.c). */
static void look_after_supervisor(struct init *init)
{
	for (int looks = 0; looks < ZOMBIE_LOOKS_MAX && !init->plan->is_kept; looks++) {
		if (has_ended(init->supervisor) > 0)
			finish(init);
		poll(NULL, 0, 1);
	}
}

/* Who is stopped or paused goes on, to be able to end; so timeout(1) does it. */
static void look_at_limits(struct init *init)
{
	switch (slk_limits_due(&init->limits)) {
	case SLK_DUE_NOTHING:
		return;
	case SLK_DUE_ASK:
		reap(init); /* a program that has ended by now has done so by itself */
		tell_limit(init);
		slk_signal_all(init->scoped, SIGTERM);
		slk_signal_all(init->scoped, SIGCONT);
		resume_all(init);
		return;
	case SLK_DUE_END:
		if (init->limits.reached == SLK_LIMIT_CPU_TIME)
			tell_limit(init);
		reap(init);
		finish(init);
	}
}

static void look_at_share(struct init *init)
{
	if (!slk_throttle_due(&init->throttle))
		return;
	init->limits.reached = init->throttle.is_paused ? SLK_LIMIT_PAUSE : SLK_LIMIT_CPU;
	tell_limit(init);
	reap(init);
	finish(init);
}

static int patience_ms(const struct init *init)
{
	int64_t throttle_ns = slk_throttle_due_ns(&init->throttle);
	int limits_ms = slk_limits_wait_ms(&init->limits);

	if (init->more)
		return 0;
	if (throttle_ns >= 0) {
		int64_t left_ns = throttle_ns - (int64_t)slk_now_ns();
		int left_ms = left_ns <= 0 ? 0 : (int)((left_ns + 999999) / 1000000);

		if (limits_ms < 0 || limits_ms > left_ms)
			limits_ms = left_ms;
	}
	if (init->late_traces && (limits_ms < 0 || limits_ms > TRACE_LATE_MS))
		return TRACE_LATE_MS;
	return limits_ms;
}

static _Noreturn void serve(struct init *init)
{
	struct pollfd waiting[2] = {{init->control_fd, POLLIN, 0}, {init->signal_fd, POLLIN, 0}};

	for (;;) {
		struct signalfd_siginfo info;

		waiting[0].events = init->outbox.count ? POLLIN | POLLOUT : POLLIN;
		if (poll(waiting, 2, patience_ms(init)) < 0)
			continue; /* EINTR: every signal is blocked, so only a debugger gets here */
		if (waiting[1].revents || init->more) {
			/* Drained before reaping: a child that dies meanwhile makes it readable again. */
			while (read(init->signal_fd, &info, sizeof(info)) > 0)
				if (info.ssi_signo == FORKER_ENDED)
					look_after_supervisor(init);
			reap(init);
		}
		if (waiting[0].revents & POLLOUT)
			slk_tell_waiting(&init->outbox, init->control_fd, 0);
		if (waiting[0].revents & ~POLLOUT)
			obey(init);
		if (init->late_traces)
			init->late_traces = slk_trace_late();
		look_at_limits(init);
		look_at_share(init);
	}
}

/* Descriptors 0 to 2 stay with the program: a pipe must end when the program closes it, not when we do. */
static int release_stdio(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return -errno;
	for (int fd = 0; fd <= 2; fd++)
		if (dup2(null, fd) < 0)
			return -errno;
	if (null > 2)
		close(null);
	return 0;
}

/* All but the control socket goes; and the ruleset, where further programs may be started. */
static int keep_descriptors(struct init *init)
{
	int ruleset = init->plan->keeps_ruleset ? init->plan->ruleset_fd : -1;

	if (ruleset >= 0 && (ruleset = fcntl(ruleset, F_DUPFD_CLOEXEC, 10)) < 0)
		return -errno;
	if (dup3(init->control_fd, 3, O_CLOEXEC) < 0 && errno != EINVAL) /* EINVAL: it is 3 already */
		return -errno;
	init->control_fd = 3;
	if (ruleset >= 0 && (init->executing.plan.ruleset_fd = dup3(ruleset, RULESET_FD, O_CLOEXEC)) < 0)
		return -errno;
	return slk_close_from(ruleset >= 0 ? RULESET_FD + 1 : RULESET_FD, 0);
}

static pid_t fork_program(const struct slk_launch_plan *plan, int control_fd)
{
	pid_t pid = slk_fork();

	if (pid == 0)
		slk_child_main(plan, control_fd);
	if (pid < 0)
		give_up(control_fd, SLK_STAGE_FORK, errno);
	return pid;
}

_Noreturn void slk_init_main(const struct slk_launch_plan *plan, int control_fd)
{
	struct init init = {.control_fd = control_fd, .supervisor = getppid()};
	struct slk_kept *kept;
	sigset_t all;
	int result;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGCHLD, SIG_DFL); /* ignored, it would make children vanish unreaped */
	prctl(PR_SET_NAME, "sandlockd-init", 0, 0, 0);
	/* Had it ended before, nobody would have a duplicate of the leash by now: that hangs up. (Where somebody keeps one, so
	 * that the program outlives its supervisor, only that counts.) */
	if (prctl(PR_SET_PDEATHSIG, FORKER_ENDED) < 0)
		give_up(control_fd, SLK_STAGE_SUBREAPER, errno);
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		give_up(control_fd, SLK_STAGE_SUBREAPER, errno);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		give_up(control_fd, SLK_STAGE_NO_NEW_PRIVS, errno);
	if (plan->scope_signals && (result = slk_scope_signals()) < 0)
		give_up(control_fd, SLK_STAGE_SIGNAL_SCOPE, -result);
	init.scoped = plan->scope_signals;
	if (plan->cpu_percent && (result = slk_throttle_possible()) < 0)
		give_up(control_fd, SLK_STAGE_THROTTLE, -result);
	if ((result = slk_init_keep(plan, &kept)) < 0)
		give_up(control_fd, SLK_STAGE_FORK, -result);
	slk_processors();
	slk_init_give_back(kept); /* plan is gone with it */
	init.plan = &kept->plan;
	init.engine = kept->has_engine ? &kept->view : NULL;
	init.program = fork_program(init.plan, control_fd);
	slk_init_drop_words(kept);
	init.executing = (struct slk_executing){
		.plan = kept->plan, .outbox = &init.outbox, .promptness = slk_own_promptness()};
	slk_be_prompt(); /* it has to make an end of all others while they run */
	if ((result = release_stdio()) < 0)
		give_up(control_fd, SLK_STAGE_DESCRIPTORS, -result);
	if ((result = keep_descriptors(&init)) < 0)
		give_up(init.control_fd, SLK_STAGE_DESCRIPTORS, -result);
	init.signal_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	if (init.signal_fd < 0)
		give_up(3, SLK_STAGE_SIGNALS, errno);
	report(&init, SLK_REPORT_STARTED, 0);
	serve(&init);
}
