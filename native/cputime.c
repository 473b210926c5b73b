/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the processes of a sandbox have used of processors, together: asked by init, in which all of them end up.
 *
 * The living tell it themselves: a process its own time, that of its dead threads included (a CPU clock, clock_getres(2)),
 * and that of the children that it has waited for, with theirs (/proc/<pid>/stat). Whose parent died is init's child.
 *
 * What nobody waits for, the kernel adds to nobody: children of who ignores SIGCHLD, or set SA_NOCLDWAIT. So books are kept.
 * init remembers at each look who there was. What those had used that are gone at the next one must show in some children's
 * time, or in what init has waited for: whoever it was that did. What does not show is lost, and counts.
 *
 * Who lives for a shorter time than it is between two looks is seen by chance only. One that was seen once, and running,
 * stands for all that were not: it counts for the time between two looks, times the part of its own life in which it had the
 * processor that it wanted. On average that is what they all have used, for who is waited for as for who is not; and so the
 * books come out even, but for chance, where nothing is lost. What may be chance (five standard deviations) is none. Looks
 * come at random, so that nobody can be there between them only (limits.c).
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define REMEMBERED_MAX 65536 /* those beyond count while they live */
#define NS_PER_S 1000000000u
/* Children's times are told in whole ticks, user's and system's: a difference is known to so much. */
#define TOLD_TO_TICKS 2
#define DEVIATIONS 5.0

struct slk_cpu_process {
	int32_t pid;
	uint64_t birth; /* in ticks since the machine's start */
	uint64_t own_ns;
	uint64_t children_ns;
	uint64_t first_children_ns; /* when it was seen first */
	uint64_t stands_for_ns;
	int32_t threads;
	int32_t was_seen; /* before, too */
};

static uint64_t tick_ns(void)
{
	long per_s = sysconf(_SC_CLK_TCK);

	return NS_PER_S / (uint64_t)(per_s > 0 ? per_s : 100);
}

static uint64_t dead_ns(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_CHILDREN, &usage) < 0)
		return 0;
	return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * NS_PER_S +
	       (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000u;
}

void slk_cputime_begin(struct slk_cputime *cpu, int scoped)
{
	size_t size = REMEMBERED_MAX * sizeof(struct slk_cpu_process);
	void *room = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	*cpu = (struct slk_cputime){.scoped = scoped, .dead_ns = dead_ns()};
	if (room == MAP_FAILED)
		return; /* then nobody is remembered */
	cpu->before = room;
	cpu->now = cpu->before + REMEMBERED_MAX;
}

/* proc_pid_stat(5). 0, or -ESRCH. */
static int read_stat(pid_t pid, struct slk_cpu_process *ret_process)
{
	struct slk_cpu_process found = {.pid = pid};
	uint64_t user, system, birth;
	int64_t children_user, children_system;
	char path[32], text[512];
	const char *name_end;
	int threads;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (slk_read_text(path, text, sizeof(text)) <= 0)
		return -ESRCH;
	name_end = strrchr(text, ')'); /* the name may hold any */
	if (!name_end || sscanf(name_end + 1,
				" %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64 " %" SCNd64 " %" SCNd64
				" %*d %*d %d %*d %" SCNu64,
				&user, &system, &children_user, &children_system, &threads, &birth) != 6)
		return -ESRCH;
	found.threads = threads;
	found.birth = birth;
	found.own_ns = (user + system) * tick_ns();
	found.children_ns = (uint64_t)(children_user + children_system) * tick_ns();
	*ret_process = found;
	return 0;
}

/* CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it. Exact, where stat has whole ticks. */
static void read_clock(struct slk_cpu_process *process)
{
	clockid_t clock = (clockid_t)(~(unsigned)process->pid << 3 | 2u);
	struct timespec used;

	if (clock_gettime(clock, &used) == 0)
		process->own_ns = (uint64_t)used.tv_sec * NS_PER_S + (uint64_t)used.tv_nsec;
}

/* Of a thread: 0 if it wants no processor now, and is not held (throttle.c); else the part of the time, since it began, in which it had the one that it
 * wanted (Documentation/scheduler/sched-stats.rst). Where the kernel keeps no account of waits: all. */
static double running_part(const char *of)
{
	uint64_t ran, waited;
	char path[64], text[512];
	const char *name_end;

	snprintf(path, sizeof(path), "%s/stat", of);
	if (slk_read_text(path, text, sizeof(text)) <= 0 || !(name_end = strrchr(text, ')')) ||
	    (name_end[2] != 'R' && name_end[2] != 't'))
		return 0;
	snprintf(path, sizeof(path), "%s/schedstat", of);
	if (slk_read_text(path, text, sizeof(text)) <= 0 || sscanf(text, "%" SCNu64 " %" SCNu64, &ran, &waited) != 2 ||
	    ran + waited == 0)
		return 1;
	return (double)ran / (double)(ran + waited);
}

struct threads {
	pid_t pid;
	double part;
};

static void add_thread(void *context, pid_t tid)
{
	struct threads *threads = context;
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/task/%d", (int)threads->pid, (int)tid);
	threads->part += running_part(path);
}

static double running_parts(const struct slk_cpu_process *process)
{
	struct threads threads = {.pid = process->pid};
	char path[32];

	if (process->threads <= 1)
		add_thread(&threads, process->pid);
	else {
		snprintf(path, sizeof(path), "/proc/%d/task", (int)process->pid);
		slk_each_number(path, add_thread, &threads);
	}
	return threads.part;
}

struct looking {
	struct slk_cputime *cpu;
	uint64_t total_ns;
};

/* First what each tells of its children, then its own time: who is waited for in between is missed this once, not counted
 * twice. */
static void visit(void *context, pid_t pid)
{
	struct looking *looking = context;
	struct slk_cputime *cpu = looking->cpu;
	struct slk_cpu_process process;

	if (!slk_is_inside(cpu->scoped, pid) || read_stat(pid, &process) < 0)
		return;
	looking->total_ns += process.children_ns;
	if (!cpu->now || cpu->now_count == REMEMBERED_MAX) {
		read_clock(&process);
		looking->total_ns += process.own_ns;
		return;
	}
	cpu->now[cpu->now_count++] = process;
}

static int by_pid(const void *first, const void *second)
{
	const struct slk_cpu_process *a = first, *b = second;

	return a->pid < b->pid ? -1 : a->pid > b->pid;
}

static struct slk_cpu_process *find(struct slk_cpu_process *processes, uint32_t count, int32_t pid)
{
	struct slk_cpu_process wanted = {.pid = pid};

	return count ? bsearch(&wanted, processes, count, sizeof(wanted), by_pid) : NULL;
}

/* The same one, now. */
static struct slk_cpu_process *still(struct slk_cputime *cpu, const struct slk_cpu_process *before)
{
	struct slk_cpu_process *now = find(cpu->now, cpu->now_count, before->pid);

	return now && now->birth == before->birth ? now : NULL;
}

/* What the gone had used. Of who was seen once, its own children's time was seen as theirs, if at all. */
static double used_by_gone(struct slk_cputime *cpu)
{
	double used = 0;

	for (uint32_t i = 0; i < cpu->before_count; i++) {
		const struct slk_cpu_process *gone = &cpu->before[i];
		double stands_for = (double)gone->stands_for_ns;

		if (still(cpu, gone))
			continue;
		if (gone->was_seen) {
			used += (double)(gone->own_ns + gone->children_ns - gone->first_children_ns);
			continue;
		}
		used += stands_for;
		cpu->variance += stands_for * stands_for;
	}
	return used;
}

/* And what shows of it. */
static double shown(struct slk_cputime *cpu, uint64_t between_ns)
{
	double shows = 0;

	cpu->parents = 0;
	for (uint32_t i = 0; i < cpu->now_count; i++) {
		struct slk_cpu_process *now = &cpu->now[i];
		const struct slk_cpu_process *before = find(cpu->before, cpu->before_count, now->pid);

		cpu->parents += now->children_ns != 0;
		if (before && before->birth == now->birth) {
			now->was_seen = 1;
			now->first_children_ns = before->first_children_ns;
			shows += (double)(now->children_ns - before->children_ns);
		} else {
			now->first_children_ns = now->children_ns;
			now->stands_for_ns = (uint64_t)((double)between_ns * running_parts(now));
		}
	}
	return shows;
}

static uint64_t lost_ns(const struct slk_cputime *cpu)
{
	double unsure = (double)(TOLD_TO_TICKS * tick_ns()) * (cpu->parents + 1);
	double over = cpu->missing_ns - unsure;

	if (over <= 0 || over * over <= DEVIATIONS * DEVIATIONS * cpu->variance)
		return 0;
	return (uint64_t)cpu->missing_ns;
}

uint64_t slk_cputime_look(struct slk_cputime *cpu, uint64_t between_ns)
{
	struct slk_cpu_process *free_one = cpu->before;
	/* Before all else: who is waited for by us later is still a living one now. */
	uint64_t dead = dead_ns();
	struct looking looking = {.cpu = cpu, .total_ns = dead};

	slk_each_number("/proc", visit, &looking);
	for (uint32_t i = 0; i < cpu->now_count; i++) {
		read_clock(&cpu->now[i]);
		looking.total_ns += cpu->now[i].own_ns;
	}
	cpu->missing_ns -= shown(cpu, between_ns) + (double)(dead - cpu->dead_ns);
	cpu->missing_ns += used_by_gone(cpu);
	cpu->dead_ns = dead;
	cpu->before = cpu->now;
	cpu->before_count = cpu->now_count;
	cpu->now = free_one;
	cpu->now_count = 0;
	return looking.total_ns + lost_ns(cpu);
}

uint64_t slk_cputime_end(const struct slk_cputime *cpu)
{
	return dead_ns() + lost_ns(cpu);
}
