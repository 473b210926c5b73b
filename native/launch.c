/* SPDX-License-Identifier: Apache-2.0 */
/* The first fork: from the supervisor to init. All later steps are init.c's and child.c's. */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

int slk_launch(const struct slk_launch_plan *plan, int *ret_control_fd)
{
	int ends[2];
	sigset_t all, before;
	pid_t pid;
	int error;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) { /* where stdio is closed: its places are filled later, over what is there */
		int low = ends[i];

		if (low > 2)
			continue;
		ends[i] = fcntl(low, F_DUPFD_CLOEXEC, 3);
		close(low);
	}
	if (ends[0] < 0 || ends[1] < 0)
		return -EMFILE;
	/* No handler of the supervisor may run in the child: it would run Python there. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = fork();
	error = errno;
	if (pid == 0) {
		close(ends[0]); /* ours would keep the leash whole after the supervisor's death */
		slk_init_main(plan, ends[1]);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	close(ends[1]);
	if (pid < 0) {
		close(ends[0]);
		return -error;
	}
	*ret_control_fd = ends[0];
	return pid;
}
