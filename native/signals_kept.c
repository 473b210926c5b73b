/* SPDX-License-Identifier: Apache-2.0 */
/* The signals that the program is sent while it is paused: it has them when it goes on. Like those that wait in the kernel:
 * one of each, but of the real-time ones all (signal(7)), and of SIGCONT and the stops only the last. */
#define _GNU_SOURCE
#include "slk.h"

#include <signal.h>
#include <unistd.h>

#define REAL_TIME_FIRST 32 /* the kernel's SIGRTMIN */

int slk_signals_keep(struct slk_signals_kept *kept, int number)
{
	if (number < 1 || number > 64 || number == SIGKILL)
		return 0;
	if (number == SIGCONT)
		kept->counts[SIGSTOP - 1] = kept->counts[SIGTSTP - 1] = kept->counts[SIGTTIN - 1] =
			kept->counts[SIGTTOU - 1] = 0;
	if (slk_is_job_control(number))
		kept->counts[SIGCONT - 1] = 0;
	if (number >= REAL_TIME_FIRST || kept->counts[number - 1] == 0)
		kept->counts[number - 1]++;
	return 1;
}

pid_t slk_group_of(pid_t pid)
{
	return getpgid(pid) == pid ? -pid : pid;
}

void slk_signals_send(struct slk_signals_kept *kept, pid_t pid)
{
	for (int number = 1; number <= 64; number++) {
		for (uint32_t left = kept->counts[number - 1]; left > 0; left--)
			kill(pid, number);
		kept->counts[number - 1] = 0;
	}
}
