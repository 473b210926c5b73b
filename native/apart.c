/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bind(2) and connect(2) on a socket of the program's, made by a process that exists for this one call.
 *
 * The address that is given to bind is what getsockname and every peer tell afterwards: the kernel keeps a copy of it
 * (net/unix/af_unix.c, unix_create_addr). So it has to be the very one that the program gave, absolute or not, while the
 * name has to come into being elsewhere. Whoever makes the call therefore has a working directory and a root of his own.
 * A root takes CAP_SYS_CHROOT, which an ordinary user has in a user namespace of his own.
 *
 * To whom a connection is made, SO_PEERCRED names the process that made it. By a process for each connection, and told
 * before the call is made, it can be known later whose connection it was. And a connect that waits (the backlog is full)
 * is ended by killing it.
 *
 * The process shares our memory and our descriptors, and nothing else: as vfork(2), but for who waits. It has its signals
 * blocked, and dies with the thread that waits for it.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_BYTES (256u * 1024)
#define NOT_YET 1 /* no result of a call */

static int checked(long result)
{
	return result < 0 ? -errno : (int)result;
}

static int enter_places(const struct slk_apart *call)
{
	if (call->root_fd >= 0 && (fchdir(call->root_fd) < 0 || chroot(".") < 0))
		return -EOPNOTSUPP; /* of this call nobody else says so */
	if (call->directory_fd >= 0 && fchdir(call->directory_fd) < 0)
		return -errno;
	umask((mode_t)call->umask);
	return 0;
}

static int make_call(const struct slk_apart *call)
{
	int result = enter_places(call);

	if (result < 0)
		return result;
	if (call->identity && (result = slk_identity_enter(call->identity)) < 0)
		return result;
	/* After the last change of credentials, which would forget it (prctl(2)). */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return -errno;
	if (getppid() != call->parent)
		return -EINTR;
	if (call->connects)
		result = checked(connect(call->socket_fd, (const struct sockaddr *)call->address, call->length));
	else
		result = checked(bind(call->socket_fd, (const struct sockaddr *)call->address, call->length));
	if (call->identity)
		slk_identity_leave(); /* forgets what it had remembered in our memory */
	return result;
}

static int be_apart(void *argument)
{
	struct slk_apart *call = argument;

	while (!__atomic_load_n(&call->go, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &call->go, FUTEX_WAIT, 0, NULL, NULL, 0);
	__atomic_store_n(&call->result, make_call(call), __ATOMIC_RELEASE);
	return 0;
}

/* All of them, or (for a wait) all but the one that ends waits. */
static void block_signals(int but, sigset_t *ret_before)
{
	sigset_t all;

	sigfillset(&all);
	if (but)
		sigdelset(&all, but);
	pthread_sigmask(SIG_SETMASK, &all, ret_before);
}

int slk_apart_begin(struct slk_apart *call, int32_t *ret_pidfd)
{
	int flags = CLONE_VM | CLONE_FILES | CLONE_PIDFD | CLONE_CHILD_CLEARTID | SIGCHLD;
	int with_namespace = call->root_fd >= 0 && geteuid() != 0;
	int pid, pidfd = -1, error;
	sigset_t before;

	call->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (call->stack == MAP_FAILED)
		return -errno;
	call->parent = getpid();
	call->go = 0;
	call->lives = 1;
	call->result = NOT_YET;
	block_signals(0, &before);
	pid = clone(be_apart, (char *)call->stack + STACK_BYTES, flags | (with_namespace ? CLONE_NEWUSER : 0), call,
		    &pidfd, NULL, &call->lives);
	error = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0) {
		munmap(call->stack, STACK_BYTES);
		return with_namespace ? -EOPNOTSUPP : -error;
	}
	call->pid = pid;
	*ret_pidfd = pidfd;
	return 0;
}

/* errno is the other's as well, so nobody here looks at it. 1: it has ended; 0: we were interrupted. */
static int await_end(struct slk_apart *call)
{
	int lives;

	while ((lives = __atomic_load_n(&call->lives, __ATOMIC_ACQUIRE)) != 0)
		if (syscall(SYS_futex, &call->lives, FUTEX_WAIT, lives, NULL, NULL, 0) < 0)
			return __atomic_load_n(&call->lives, __ATOMIC_ACQUIRE) == 0;
	return 1;
}

/* Somebody else may have taken its end by then (kernel/orphans.py). */
static void take_end(struct slk_apart *call)
{
	while (!await_end(call))
		continue;
	waitpid(call->pid, NULL, __WALL);
	munmap(call->stack, STACK_BYTES);
}

/* It was killed in the call. Whoever is connected by now was not before: then it would not have waited. */
static int outcome_of_killed(const struct slk_apart *call)
{
	struct sockaddr_un peer;
	socklen_t length = sizeof(peer);

	return call->connects && getpeername(call->socket_fd, (struct sockaddr *)&peer, &length) == 0 ? 0 : -EINTR;
}

int slk_apart_end(struct slk_apart *call, int go)
{
	sigset_t before;
	int result;

	block_signals(SLK_POKE_SIGNAL, &before);
	if (go) {
		__atomic_store_n(&call->go, 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, &call->go, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
	/* Our child, not reaped: the number is its own still. */
	if (!go || !await_end(call))
		kill(call->pid, SIGKILL);
	take_end(call);
	result = __atomic_load_n(&call->result, __ATOMIC_ACQUIRE);
	if (result == NOT_YET)
		result = outcome_of_killed(call);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return result;
}
