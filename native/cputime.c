/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the processes of a sandbox have used of processors, together: asked by init, in which all of them end up.
 *
 * The living tell it themselves: a process its own time, that of its dead threads included (a CPU clock, clock_getres(2)),
 * and that of the children that it has waited for, with theirs (/proc/<pid>/stat). Whose parent died is init's child.
 *
 * What nobody waits for, the kernel adds to nobody: children of who ignores SIGCHLD, or set SA_NOCLDWAIT. Those are found
 * while they live. init remembers at each look who there was; what a process had used that is gone at the next one, and that
 * its parent's children's time does not show, is lost, and counts. Who lives for shorter than it is between two looks is
 * found by chance only; so where times get lost, each that is found running counts for all that were not found: for the
 * time since the look before, times the part of its own life for which it had a processor. That is what they have used on
 * average, neither more nor less. It is not done where a parent's children's time shows what is gone.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define REMEMBERED_MAX 65536 /* those beyond count while they live */
#define NS_PER_S 1000000000u
/* Children's times are told in whole ticks, two of them: a difference is known to so much. */
#define TOLD_TO_TICKS 2

struct slk_cpu_process {
	int32_t pid;
	int32_t parent;
	uint64_t birth; /* in ticks since the machine's start */
	uint64_t own_ns;
	uint64_t children_ns;
	uint64_t first_children_ns; /* when it was seen first */
	uint64_t gone_ns;           /* what its children had used that were seen, and are gone */
	uint64_t estimated_ns;      /* the same, with those that were not seen */
	uint64_t stands_for_ns;     /* seen once, running: for how much */
	int is_running;
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

	*cpu = (struct slk_cputime){.scoped = scoped, .looked_ns = slk_now_ns()};
	if (room == MAP_FAILED)
		return; /* then nobody is remembered */
	cpu->before = room;
	cpu->now = cpu->before + REMEMBERED_MAX;
}

static ssize_t read_file(const char *path, char *ret_text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	if (fd < 0)
		return -1;
	got = read(fd, ret_text, size - 1);
	close(fd);
	ret_text[got > 0 ? got : 0] = '\0';
	return got;
}

/* proc_pid_stat(5). 0, or -ESRCH. */
static int read_stat(pid_t pid, struct slk_cpu_process *ret_process)
{
	struct slk_cpu_process found = {.pid = pid};
	uint64_t user, system, birth;
	int64_t children_user, children_system;
	char path[32], text[512], state;
	const char *name_end;
	int parent;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (read_file(path, text, sizeof(text)) <= 0)
		return -ESRCH;
	name_end = strrchr(text, ')'); /* the name may hold any */
	if (!name_end || sscanf(name_end + 1,
				" %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64 " %" SCNd64 " %" SCNd64
				" %*d %*d %*d %*d %" SCNu64,
				&state, &parent, &user, &system, &children_user, &children_system, &birth) != 7)
		return -ESRCH;
	found.parent = parent;
	found.birth = birth;
	found.is_running = state == 'R';
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

/* Of the time for which it wanted a processor, the part for which it had one (Documentation/scheduler/sched-stats.rst):
 * of `interval`. Where the kernel keeps no account of waits, all of it. */
static uint64_t running_part(pid_t pid, uint64_t interval)
{
	uint64_t ran, waited;
	char path[32], text[128];

	snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)pid);
	if (read_file(path, text, sizeof(text)) <= 0 || sscanf(text, "%" SCNu64 " %" SCNu64, &ran, &waited) != 2 ||
	    ran + waited == 0)
		return interval;
	return (uint64_t)((double)interval * ((double)ran / (double)(ran + waited)));
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

static uint64_t lost_of(const struct slk_cpu_process *process)
{
	uint64_t shown = process->children_ns - process->first_children_ns;

	if (process->gone_ns <= shown + TOLD_TO_TICKS * tick_ns() || process->gone_ns < 2 * shown)
		return 0;
	return (process->estimated_ns > process->gone_ns ? process->estimated_ns : process->gone_ns) - shown;
}

static void went(struct slk_cputime *cpu, const struct slk_cpu_process *gone)
{
	const struct slk_cpu_process *parent_before = find(cpu->before, cpu->before_count, gone->parent);
	struct slk_cpu_process *parent = parent_before ? still(cpu, parent_before) : NULL;
	uint64_t used = gone->own_ns + gone->children_ns;

	cpu->lost_ns += lost_of(gone);
	if (!parent)
		return; /* whoever took it over, init at last, has waited for it, or tells of it */
	parent->gone_ns += used;
	parent->estimated_ns += used > gone->stands_for_ns ? used : gone->stands_for_ns;
}

static void remember(struct slk_cputime *cpu, uint64_t interval)
{
	for (uint32_t i = 0; i < cpu->now_count; i++) {
		struct slk_cpu_process *now = &cpu->now[i];
		const struct slk_cpu_process *before = find(cpu->before, cpu->before_count, now->pid);

		if (before && before->birth == now->birth) {
			now->first_children_ns = before->first_children_ns;
			now->gone_ns = before->gone_ns;
			now->estimated_ns = before->estimated_ns;
		} else {
			now->first_children_ns = now->children_ns;
			now->stands_for_ns = now->is_running ? running_part(now->pid, interval) : 0;
		}
	}
	for (uint32_t i = 0; i < cpu->before_count; i++)
		if (!still(cpu, &cpu->before[i]))
			went(cpu, &cpu->before[i]);
	cpu->still_lost_ns = 0;
	for (uint32_t i = 0; i < cpu->now_count; i++)
		cpu->still_lost_ns += lost_of(&cpu->now[i]);
}

uint64_t slk_cputime_look(struct slk_cputime *cpu)
{
	uint64_t now = slk_now_ns();
	struct slk_cpu_process *free_one = cpu->before;
	/* Before all else: who is waited for by us later is still a living one now. */
	struct looking looking = {.cpu = cpu, .total_ns = dead_ns()};

	slk_each_process(visit, &looking);
	for (uint32_t i = 0; i < cpu->now_count; i++) {
		read_clock(&cpu->now[i]);
		looking.total_ns += cpu->now[i].own_ns;
	}
	remember(cpu, now - cpu->looked_ns);
	cpu->looked_ns = now;
	cpu->before = cpu->now;
	cpu->before_count = cpu->now_count;
	cpu->now = free_one;
	cpu->now_count = 0;
	return looking.total_ns + cpu->lost_ns + cpu->still_lost_ns;
}

uint64_t slk_cputime_end(const struct slk_cputime *cpu)
{
	return dead_ns() + cpu->lost_ns + cpu->still_lost_ns;
}
