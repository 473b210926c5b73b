/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which CPU a waiting caller wakes on.
 *
 * Injecting a descriptor wakes the caller without the hint that an answer gives (SYNC_WAKE_UP): it wakes on the idle CPU,
 * which costs a virtual machine 50 us and more. Confined to our CPU meanwhile, it wakes here, as we go to sleep.
 *
 * Its own mask is given back before the answer is sent, so it never runs a line of the program while it is confined: it
 * could ask how many CPUs there are (Go does so once, at its start), or fork a child, which would inherit the mask.
 *
 * A thread of ours that makes one act while the loop waits for it (kernel/aside.py) is kept near in the same way, for as long
 * as the loop waits.
 *
 * Nobody else may set the mask of a caller but another thread of its process, and of the leader only
 * (handlers/targets.py), and whoever is outside. That call is trapped; once it was let through, nobody is confined for a
 * while. If the mask is not the one that we set any more, it is left as it is; what somebody outside sets between that
 * look and the giving back, a microsecond, is lost. If we are killed in between, whoever takes over gives it back
 * (takeover.c); if nobody does, the sandbox ends.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The raw calls: the length counts, and libc clears what the kernel does not fill. */
static long get_mask(int32_t tid, cpu_set_t *ret_mask)
{
	return syscall(SYS_sched_getaffinity, tid, sizeof(*ret_mask), ret_mask);
}

static int set_mask(int32_t tid, const cpu_set_t *mask, size_t length)
{
	return syscall(SYS_sched_setaffinity, tid, length, mask) == 0;
}

int slk_may_confine(const struct slk_engine *engine)
{
	return engine->pulls && slk_now_ns() >= engine->unconfined_until_ns;
}

int slk_confine(int32_t tid, struct slk_confined *ret_confined)
{
	int current = sched_getcpu();
	size_t cpu = (size_t)current;
	cpu_set_t here;
	long length;

	if (current < 0 || cpu >= CPU_SETSIZE)
		return 0;
	length = get_mask(tid, &ret_confined->own);
	if (length <= 0 || CPU_COUNT_S((size_t)length, &ret_confined->own) < 2 ||
	    !CPU_ISSET_S(cpu, (size_t)length, &ret_confined->own))
		return 0;
	CPU_ZERO(&here);
	CPU_SET(cpu, &here);
	ret_confined->tid = tid;
	ret_confined->cpu = cpu;
	ret_confined->length = (size_t)length;
	__atomic_store_n(&ret_confined->is_set, 1, __ATOMIC_RELEASE);
	return set_mask(tid, &here, (size_t)length);
}

/* Asked once: it costs more than all the rest here. */
static int online_cpus(void)
{
	static int count;

	if (!count)
		count = (int)sysconf(_SC_NPROCESSORS_ONLN);
	return count;
}

/*
 * A thread that may run on every CPU there is gets all that there could be: the kernel keeps what was asked for, and a
 * CPU or a cpuset that comes later counts for it as before (kernel/sched/syscalls.c, user_cpus_ptr).
 */
static void give_back(const struct slk_confined *confined)
{
	cpu_set_t now;
	long length = get_mask(confined->tid, &now);

	if (length <= 0 || CPU_COUNT_S((size_t)length, &now) != 1 || !CPU_ISSET_S(confined->cpu, (size_t)length, &now))
		return; /* it is gone, or was set anew */
	if (CPU_COUNT_S(confined->length, &confined->own) < online_cpus() &&
	    set_mask(confined->tid, &confined->own, confined->length))
		return;
	memset(&now, 0xff, sizeof(now)); /* also where its cpuset was changed meanwhile */
	set_mask(confined->tid, &now, sizeof(now));
}

void slk_release(struct slk_confined *confined)
{
	give_back(confined);
	__atomic_store_n(&confined->is_set, 0, __ATOMIC_RELEASE);
}

int slk_stay_near(int32_t tid, int32_t cpu)
{
	int current = sched_getcpu();
	cpu_set_t mask;
	long length;

	if (current == cpu || current < 0 || current >= CPU_SETSIZE)
		return cpu;
	length = get_mask(0, &mask);
	if (length <= 0 || CPU_COUNT_S((size_t)length, &mask) < 2)
		return cpu;
	CPU_ZERO(&mask);
	CPU_SET((size_t)current, &mask);
	return set_mask(tid, &mask, (size_t)length) ? current : cpu;
}

void slk_roam(int32_t tid)
{
	cpu_set_t mask;
	long length = get_mask(0, &mask);

	if (length <= 0)
		return;
	if (CPU_COUNT_S((size_t)length, &mask) == online_cpus())
		memset(&mask, 0xff, sizeof(mask)); /* a CPU that comes later counts for it, too */
	set_mask(tid, &mask, sizeof(mask));
}
