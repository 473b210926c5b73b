/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor: a command under the smallest supervisor that seccomp user notification allows.
 *
 *     floor [-a | -t | -m] -- COMMAND [ARGUMENT...]
 *
 * It traps open and execve, with -a also what makes, moves and removes names, with -t also what asks about them, with -m
 * also mmap of 1 MiB and more (what is asked for memory and how much stands in registers); reads
 * the path, asks whether the caller is still the one that called, and lets the kernel go on. It judges nothing, so it
 * protects nothing: it is what any supervisor pays that looks at these calls in user space, written in C with nothing
 * left to leave out. With -t a file whose absolute path ends in `/upper.txt` is opened on behalf and injected, the caller
 * confined to our CPU meanwhile: what a copy-on-write supervisor cannot avoid with what a program has written.
 *
 * The filter does not look at the architecture: nothing here is worth getting around.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
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

#define LARGE_MAP (1u << 20)

enum extent { OPENS, NAMES, TREE, MEMORY };

struct trapped {
	int nr;
	int path; /* which argument */
	enum extent from;
};

static const struct trapped trapped_calls[] = {
	{SYS_openat, 1, OPENS},
	{SYS_execve, 0, OPENS},
#ifdef SYS_open
	{SYS_open, 0, OPENS},
	{SYS_mkdir, 0, NAMES},
	{SYS_rename, 0, NAMES},
	{SYS_unlink, 0, NAMES},
	{SYS_stat, 0, TREE},
	{SYS_lstat, 0, TREE},
	{SYS_access, 0, TREE},
	{SYS_readlink, 0, TREE},
#endif
	{SYS_mkdirat, 1, NAMES},
	{SYS_renameat2, 1, NAMES},
	{SYS_unlinkat, 1, NAMES},
	{SYS_newfstatat, 1, TREE},
	{SYS_statx, 1, TREE},
	{SYS_faccessat, 1, TREE},
	{SYS_faccessat2, 1, TREE},
	{SYS_readlinkat, 1, TREE},
	{SYS_getdents64, -1, TREE},
};
#define TRAPPED_COUNT (sizeof(trapped_calls) / sizeof(*trapped_calls))

_Noreturn static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	_exit(125);
}

/* ---- the child: install the filter, hand over the listener, become the command ---- */

static int install_filter(enum extent extent)
{
	struct sock_filter code[2 * TRAPPED_COUNT + 7];
	struct sock_fprog program = {0, code};

	code[program.len++] =
		(struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < TRAPPED_COUNT; i++) {
		if (trapped_calls[i].from > (extent == MEMORY ? OPENS : extent))
			continue;
		code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
								    (uint32_t)trapped_calls[i].nr, 0, 1);
		code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	}
	if (extent == MEMORY) {
		code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 3);
		code[program.len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
								    offsetof(struct seccomp_data, args[1]));
		code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, LARGE_MAP, 0, 1);
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

_Noreturn static void become(char **command, enum extent extent, int socket_fd)
{
	int listener_fd = install_filter(extent);

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

static cpu_set_t everywhere; /* where the command may run */

static void read_path(const struct seccomp_notif *notif, char *path)
{
	struct iovec ours = {path, PATH_BYTES}, theirs = {NULL, PATH_BYTES};

	for (size_t i = 0; i < TRAPPED_COUNT; i++)
		if (trapped_calls[i].nr == notif->data.nr && trapped_calls[i].path >= 0)
			theirs.iov_base = (void *)(uintptr_t)notif->data.args[trapped_calls[i].path];
	path[0] = '\0';
	if (theirs.iov_base)
		process_vm_readv((pid_t)notif->pid, &ours, 1, &theirs, 1, 0); /* nothing is judged by it */
	path[PATH_BYTES - 1] = '\0';
}

static int is_of_the_upper(const struct seccomp_notif *notif, const char *path)
{
	static const char name[] = "/upper.txt";
	size_t length = strlen(path);

	return notif->data.nr == SYS_openat && path[0] == '/' && length >= sizeof(name) &&
	       strcmp(path + length - (sizeof(name) - 1), name) == 0;
}

/* ADDFD wakes the caller without the hint that SEND gives: confined to this CPU it wakes here all the same. */
static void inject(int listener_fd, const struct seccomp_notif *notif, int fd)
{
	struct seccomp_notif_addfd injection = {.id = notif->id,
						 .flags = SECCOMP_ADDFD_FLAG_SEND,
						 .srcfd = (uint32_t)fd,
						 .newfd_flags = O_CLOEXEC};
	cpu_set_t here;

	CPU_ZERO(&here);
	CPU_SET((size_t)sched_getcpu(), &here);
	sched_setaffinity((pid_t)notif->pid, sizeof(here), &here);
	ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_ADDFD, &injection); /* ENOENT: gone meanwhile */
	sched_setaffinity((pid_t)notif->pid, sizeof(everywhere), &everywhere);
}

static void go_on(int listener_fd, uint64_t notif_id, int error)
{
	struct seccomp_notif_resp response = {.id = notif_id, .error = error};

	if (!error)
		response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_SEND, &response); /* ENOENT: gone meanwhile */
}

static void answer(int listener_fd, const struct seccomp_notif *notif, const char *path, enum extent extent)
{
	int fd;

	if (extent != TREE || !is_of_the_upper(notif, path)) {
		go_on(listener_fd, notif->id, 0);
		return;
	}
	fd = open(path, (int)notif->data.args[2] | O_CLOEXEC, (mode_t)notif->data.args[3]);
	if (fd < 0) {
		go_on(listener_fd, notif->id, -errno);
		return;
	}
	inject(listener_fd, notif, fd);
	close(fd);
}

/* 0: go on; -1: the listener is none any more. */
static int serve_one(int listener_fd, enum extent extent)
{
	struct seccomp_notif notif;
	char path[PATH_BYTES];

	memset(&notif, 0, sizeof(notif)); /* the kernel insists */
	if (ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_RECV, &notif) < 0)
		return errno == ENOENT || errno == EINTR ? 0 : -1;
	read_path(&notif, path);
	if (ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &notif.id) < 0)
		return 0; /* gone meanwhile: nobody waits */
	answer(listener_fd, &notif, path, extent);
	return 0;
}

/* Until the last task that has the filter is gone. */
static void serve(int listener_fd, enum extent extent)
{
	struct pollfd waiting = {listener_fd, POLLIN, 0};

	/* The caller wakes on our CPU, which is free the moment we wait again. Linux 6.6; slower without. */
	ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	for (;;) {
		int ready = poll(&waiting, 1, -1);

		if (ready < 0 && errno == EINTR)
			continue;
		if (ready < 0 || !(waiting.revents & POLLIN) || serve_one(listener_fd, extent) < 0)
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

static enum extent extent_of(const char *option)
{
	if (strcmp(option, "-a") == 0)
		return NAMES;
	if (strcmp(option, "-m") == 0)
		return MEMORY;
	return strcmp(option, "-t") == 0 ? TREE : OPENS;
}

int main(int argc, char **argv)
{
	enum extent extent = argc > 1 ? extent_of(argv[1]) : OPENS;
	int options = extent > OPENS;
	int sockets[2], listener_fd;
	char **command = argv + 2 + options;
	pid_t pid;

	if (argc < 3 + options || strcmp(argv[1 + options], "--") != 0) {
		fprintf(stderr, "floor: usage: floor [-a | -t | -m] -- COMMAND [ARGUMENT...]\n");
		return 125;
	}
	if (sched_getaffinity(0, sizeof(everywhere), &everywhere) < 0)
		fail("sched_getaffinity");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
		fail("socketpair");
	pid = fork();
	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		close(sockets[0]);
		become(command, extent, sockets[1]);
	}
	close(sockets[1]);
	listener_fd = receive_listener(sockets[0]);
	if (listener_fd >= 0)
		serve(listener_fd, extent);
	return exit_status(pid);
}
