/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor: a command under the smallest supervisor that seccomp user notification allows.
 *
 *     floor [-a] -- COMMAND [ARGUMENT...]
 *
 * It traps open and execve, with -a also what makes, moves and removes names; reads the path, asks whether the caller
 * is still the one that called, and lets the kernel go on. It judges nothing, so it protects nothing: it is what any
 * supervisor pays that looks at these calls in user space, written in C with nothing left to leave out.
 *
 * The filter does not look at the architecture: nothing here is worth getting around.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Newer than Debian 12's headers (6.1); values from the kernel's uapi headers. */
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, uint64_t)
#endif

#define PATH_BYTES 256 /* enough for what the suite opens; a longer one is read as far as that */

struct trapped {
	int nr;
	int path; /* which argument */
	int names; /* only with -a */
};

static const struct trapped trapped_calls[] = {
	{SYS_openat, 1, 0},
	{SYS_execve, 0, 0},
#ifdef SYS_open
	{SYS_open, 0, 0},
	{SYS_mkdir, 0, 1},
	{SYS_rename, 0, 1},
	{SYS_unlink, 0, 1},
#endif
	{SYS_mkdirat, 1, 1},
	{SYS_renameat2, 1, 1},
	{SYS_unlinkat, 1, 1},
};
#define TRAPPED_COUNT (sizeof(trapped_calls) / sizeof(*trapped_calls))

_Noreturn static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	_exit(125);
}

/* ---- the child: install the filter, hand over the listener, become the command ---- */

static int install_filter(int all)
{
	struct sock_filter code[2 * TRAPPED_COUNT + 2];
	struct sock_fprog program = {0, code};

	code[program.len++] =
		(struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < TRAPPED_COUNT; i++) {
		if (trapped_calls[i].names && !all)
			continue;
		code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
								    (uint32_t)trapped_calls[i].nr, 0, 1);
		code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	}
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail("no_new_privs");
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			    SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
}

union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(sizeof(int))];
};

static struct msghdr one_descriptor(struct iovec *byte, union control *control)
{
	return (struct msghdr){
		.msg_iov = byte, .msg_iovlen = 1, .msg_control = control->bytes, .msg_controllen = sizeof(control->bytes)};
}

static void send_listener(int socket_fd, int listener_fd)
{
	char text = 'l';
	struct iovec byte = {&text, 1};
	union control control = {.bytes = {0}};
	struct msghdr message = one_descriptor(&byte, &control);

	control.header =
		(struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(&control.header), &listener_fd, sizeof(int));
	if (sendmsg(socket_fd, &message, 0) < 0)
		fail("handing over the listener");
}

_Noreturn static void become(char **command, int all, int socket_fd)
{
	int listener_fd = install_filter(all);

	if (listener_fd < 0)
		fail("installing the filter");
	send_listener(socket_fd, listener_fd);
	close(listener_fd);
	close(socket_fd); /* the supervisor serves from now on */
	execvp(command[0], command);
	fail(command[0]);
}

/* ---- the supervisor ---- */

static int receive_listener(int socket_fd)
{
	char text;
	struct iovec byte = {&text, 1};
	union control control = {.bytes = {0}};
	struct msghdr message = one_descriptor(&byte, &control);
	int listener_fd;

	if (recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC) <= 0 || !CMSG_FIRSTHDR(&message))
		return -1;
	memcpy(&listener_fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	return listener_fd;
}

static void read_path(const struct seccomp_notif *notif)
{
	char path[PATH_BYTES];
	struct iovec ours = {path, sizeof(path)}, theirs = {NULL, sizeof(path)};

	for (size_t i = 0; i < TRAPPED_COUNT; i++)
		if (trapped_calls[i].nr == notif->data.nr)
			theirs.iov_base = (void *)(uintptr_t)notif->data.args[trapped_calls[i].path];
	process_vm_readv((pid_t)notif->pid, &ours, 1, &theirs, 1, 0); /* the path is not used: nothing is judged */
}

/* 0: go on; -1: the listener is none any more. */
static int serve_one(int listener_fd)
{
	struct seccomp_notif notif;
	struct seccomp_notif_resp response;

	memset(&notif, 0, sizeof(notif)); /* the kernel insists */
	if (ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_RECV, &notif) < 0)
		return errno == ENOENT || errno == EINTR ? 0 : -1;
	read_path(&notif);
	if (ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &notif.id) < 0)
		return 0; /* gone meanwhile: nobody waits */
	response = (struct seccomp_notif_resp){.id = notif.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
	ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_SEND, &response); /* ENOENT: gone meanwhile */
	return 0;
}

/* Until the last task that has the filter is gone. */
static void serve(int listener_fd)
{
	struct pollfd waiting = {listener_fd, POLLIN, 0};

	/* The caller wakes on our CPU, which is free the moment we wait again. Linux 6.6; slower without. */
	ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	for (;;) {
		int ready = poll(&waiting, 1, -1);

		if (ready < 0 && errno == EINTR)
			continue;
		if (ready < 0 || !(waiting.revents & POLLIN) || serve_one(listener_fd) < 0)
			return;
	}
}

static int exit_status(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) < 0)
		return 125;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	int all = argc > 1 && strcmp(argv[1], "-a") == 0;
	int sockets[2], listener_fd;
	char **command = argv + 2 + all;
	pid_t pid;

	if (argc < 3 + all || strcmp(argv[1 + all], "--") != 0) {
		fprintf(stderr, "floor: usage: floor [-a] -- COMMAND [ARGUMENT...]\n");
		return 125;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
		fail("socketpair");
	pid = fork();
	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		close(sockets[0]);
		become(command, all, sockets[1]);
	}
	close(sockets[1]);
	listener_fd = receive_listener(sockets[0]);
	if (listener_fd >= 0)
		serve(listener_fd);
	return exit_status(pid);
}
