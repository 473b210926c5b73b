/* SPDX-License-Identifier: Apache-2.0 */
/* bind and connect by a process for one call: whose root it has, what it leaves, and what ends it. */
#include "check.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define POKE_EVERY_US 1000

static char directory[] = "/tmp/slk-apart-XXXXXX";
static int directory_fd;

static int stream(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	return fd;
}

static struct slk_apart prepared(int socket_fd, int connects, struct sockaddr_un *address, const char *path)
{
	struct slk_apart call = {.socket_fd = socket_fd, .connects = connects, .root_fd = -1};

	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	snprintf(address->sun_path, sizeof(address->sun_path), "%s", path);
	call.address = address;
	call.length = (uint32_t)(sizeof(sa_family_t) + strlen(path) + 1);
	call.directory_fd = directory_fd;
	call.umask = 027;
	return call;
}

static int made(struct slk_apart *call)
{
	int32_t pidfd;
	int result = slk_apart_begin(call, &pidfd);

	if (result < 0)
		return result;
	close(pidfd);
	return slk_apart_end(call, 1);
}

static void check_bound_as(int socket_fd, const char *path)
{
	struct sockaddr_un name = {0};
	socklen_t length = sizeof(name);

	CHECK_EQUAL(0, getsockname(socket_fd, (struct sockaddr *)&name, &length));
	CHECK(strcmp(name.sun_path, path) == 0);
}

static void binds_in_a_directory_of_its_own(void)
{
	char before[4096], after[4096];
	mode_t umask_before = umask(077);
	struct sockaddr_un address;
	struct stat status;
	int fd = stream();
	struct slk_apart call = prepared(fd, 0, &address, "name");

	CHECK(getcwd(before, sizeof(before)));
	CHECK_EQUAL(0, made(&call));
	check_bound_as(fd, "name");
	CHECK_EQUAL(0, fstatat(directory_fd, "name", &status, AT_SYMLINK_NOFOLLOW));
	CHECK_EQUAL(S_IFSOCK | 0750, status.st_mode);
	CHECK_EQUAL(geteuid(), status.st_uid);
	CHECK(getcwd(after, sizeof(after)));
	CHECK(strcmp(before, after) == 0);
	CHECK_EQUAL(077, umask(umask_before));
	CHECK_EQUAL(0, unlinkat(directory_fd, "name", 0));
	CHECK_EQUAL(-EINVAL, made(&call)); /* it is bound already */
	CHECK(faccessat(directory_fd, "name", F_OK, 0) < 0);
	close(fd);
}

static void binds_below_a_root_of_its_own(void)
{
	struct sockaddr_un address;
	int fd = stream(), result;
	struct slk_apart call = prepared(fd, 0, &address, "/absolute");

	call.root_fd = directory_fd;
	result = made(&call);
	CHECK(access("/absolute", F_OK) < 0);
	CHECK_EQUAL(0, access("/proc/self", F_OK)); /* our own root is as it was */
	if (result == -EOPNOTSUPP) { /* no user namespaces here */
		close(fd);
		return;
	}
	CHECK_EQUAL(0, result);
	check_bound_as(fd, "/absolute");
	CHECK_EQUAL(0, unlinkat(directory_fd, "absolute", 0));
	close(fd);
}

static int listening(const char *path, int backlog)
{
	struct sockaddr_un address;
	int fd = stream();
	struct slk_apart call = prepared(fd, 0, &address, path);

	CHECK_EQUAL(0, made(&call));
	CHECK_EQUAL(0, listen(fd, backlog));
	return fd;
}

static void who_connects_is_known_before(void)
{
	struct sockaddr_un address;
	int server = listening("s", 5), client = stream(), accepted;
	struct slk_apart call = prepared(client, 1, &address, "s");
	struct ucred peer;
	socklen_t length = sizeof(peer);
	int32_t pidfd;

	CHECK_EQUAL(0, slk_apart_begin(&call, &pidfd));
	CHECK(call.pid > 0 && call.pid != getpid());
	close(pidfd);
	CHECK_EQUAL(0, slk_apart_end(&call, 1));
	accepted = accept(server, NULL, NULL);
	CHECK_EQUAL(0, getsockopt(accepted, SOL_SOCKET, SO_PEERCRED, &peer, &length));
	CHECK_EQUAL(call.pid, peer.pid);
	CHECK_EQUAL(geteuid(), peer.uid);
	CHECK_EQUAL(-EISCONN, made(&call));
	CHECK_EQUAL(0, unlinkat(directory_fd, "s", 0));
	close(accepted);
	close(client);
	close(server);
}

static void nothing_is_done_unless_it_goes(void)
{
	struct sockaddr_un address;
	int fd = stream();
	struct slk_apart call = prepared(fd, 0, &address, "never");
	int32_t pidfd;

	CHECK_EQUAL(0, slk_apart_begin(&call, &pidfd));
	close(pidfd);
	CHECK_EQUAL(-EINTR, slk_apart_end(&call, 0));
	CHECK(faccessat(directory_fd, "never", F_OK, 0) < 0);
	close(fd);
}

struct waiter {
	struct slk_apart call;
	pid_t tid;
	int result;
	int ended;
};

static void *wait_to_connect(void *argument)
{
	struct waiter *waiter = argument;

	__atomic_store_n(&waiter->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	waiter->result = made(&waiter->call);
	__atomic_store_n(&waiter->ended, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* The backlog is full, so it waits; a poke ends it, and the socket is not connected. */
static void a_wait_ends_when_poked(void)
{
	struct sockaddr_un address, first_address;
	int server = listening("full", 0), first = stream(), second = stream();
	struct slk_apart call = prepared(first, 1, &first_address, "full");
	struct waiter waiter = {.call = prepared(second, 1, &address, "full")};
	socklen_t length = sizeof(address);
	pthread_t thread;

	CHECK_EQUAL(0, made(&call));
	CHECK_EQUAL(0, pthread_create(&thread, NULL, wait_to_connect, &waiter));
	while (!__atomic_load_n(&waiter.ended, __ATOMIC_ACQUIRE)) {
		pid_t tid = __atomic_load_n(&waiter.tid, __ATOMIC_ACQUIRE);

		if (tid)
			CHECK_EQUAL(0, slk_poke(tid));
		usleep(POKE_EVERY_US);
	}
	CHECK_EQUAL(0, pthread_join(thread, NULL));
	CHECK_EQUAL(-EINTR, waiter.result);
	CHECK(getpeername(second, (struct sockaddr *)&address, &length) < 0);
	CHECK_EQUAL(0, unlinkat(directory_fd, "full", 0));
	close(first);
	close(second);
	close(server);
}

int main(void)
{
	CHECK(mkdtemp(directory));
	directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(directory_fd >= 0);
	RUN(binds_in_a_directory_of_its_own);
	RUN(binds_below_a_root_of_its_own);
	RUN(who_connects_is_known_before);
	RUN(nothing_is_done_unless_it_goes);
	RUN(a_wait_ends_when_poked);
	CHECK_EQUAL(0, rmdir(directory));
	return 0;
}
