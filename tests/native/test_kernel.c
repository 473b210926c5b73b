/* SPDX-License-Identifier: Apache-2.0 */
/* The thin wrappers: kernel.c. What they answer is the running kernel's; what they pass on must be what was asked. */
#include "check.h"

#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/socket.h>

static void test_the_kernels_notification_is_at_least_ours(void)
{
	struct slk_notif_sizes sizes;

	CHECK_EQUAL(0, slk_notif_sizes(&sizes));
	CHECK_EQUAL(0, slk_seccomp_flags(0));
	CHECK_EQUAL(-EINVAL, slk_seccomp_flags(1u << 31));
	CHECK(sizes.request >= sizeof(struct seccomp_notif));
	CHECK(sizes.response >= sizeof(struct seccomp_notif_resp));
	CHECK(sizes.data >= sizeof(struct seccomp_data));
}

static void test_procfs_is_known_by_the_object(void)
{
	int proc = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	int other = open("/", O_PATH | O_CLOEXEC);

	CHECK_EQUAL(1, slk_is_procfs(proc));
	CHECK_EQUAL(0, slk_is_procfs(other));
	CHECK_EQUAL(-EBADF, slk_is_procfs(-1));
	close(proc);
	close(other);
}

static int waits(void *argument)
{
	int *ends = argument;
	char byte;

	close(ends[1]);
	return read(ends[0], &byte, 1) == 1;
}

static void test_a_descriptor_of_another_process_is_taken(void)
{
	int ends[2], pidfd, copy;
	pid_t pid;

	CHECK_EQUAL(0, pipe2(ends, O_CLOEXEC));
	pid = in_child(waits, ends);
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	CHECK(pidfd >= 0);
	copy = slk_pidfd_getfd(pidfd, ends[0]);
	CHECK(copy >= 0);
	CHECK_EQUAL(FD_CLOEXEC, fcntl(copy, F_GETFD));
	CHECK_EQUAL(-EBADF, slk_pidfd_getfd(pidfd, 4000));
	close(ends[1]);
	CHECK_EQUAL(0, exit_of(pid));
	CHECK_EQUAL(-ESRCH, slk_pidfd_getfd(pidfd, ends[0]));
	close(copy);
	close(pidfd);
	close(ends[0]);
}

/* ---- Landlock */

static int grants_one_directory(void *argument)
{
	const char *tree = argument;
	char inside[128], outside[128];
	int ruleset = slk_landlock_create(LANDLOCK_ACCESS_FS_READ_FILE, 0, 0);
	int directory;

	snprintf(inside, sizeof(inside), "%s/inside", tree);
	snprintf(outside, sizeof(outside), "%s.outside", tree);
	directory = open(tree, O_PATH | O_CLOEXEC);
	CHECK(ruleset >= 0 && directory >= 0);
	CHECK_EQUAL(0, slk_landlock_add_path(ruleset, directory, LANDLOCK_ACCESS_FS_READ_FILE));
	CHECK_EQUAL(-EINVAL, slk_landlock_add_path(ruleset, directory, LANDLOCK_ACCESS_FS_WRITE_FILE));
	CHECK_EQUAL(0, slk_landlock_restrict(ruleset));
	CHECK_EQUAL(1, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	CHECK(open(inside, O_RDONLY | O_CLOEXEC) >= 0);
	CHECK(open(outside, O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES);
	return 0;
}

static void test_a_ruleset_grants_what_was_added(void)
{
	char tree[64], path[128];

	make_tree(tree, sizeof(tree));
	snprintf(path, sizeof(path), "%s/inside", tree);
	make_file(path);
	snprintf(path, sizeof(path), "%s.outside", tree);
	make_file(path);
	CHECK_EQUAL(0, exit_of(in_child(grants_one_directory, tree)));
	CHECK_EQUAL(0, unlink(path));
	rm_tree(tree);
}

static int bind_to(uint16_t port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int result;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	result = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	close(fd);
	return result;
}

static int grants_port_zero(void *unused)
{
	int ruleset = slk_landlock_create(0, 1 /* LANDLOCK_ACCESS_NET_BIND_TCP */, 0);

	(void)unused;
	CHECK(ruleset >= 0);
	CHECK_EQUAL(0, slk_landlock_add_port(ruleset, 0, 1));
	CHECK_EQUAL(-EINVAL, slk_landlock_add_port(ruleset, 1 << 16, 1));
	CHECK_EQUAL(0, slk_landlock_restrict(ruleset));
	CHECK_EQUAL(0, bind_to(0));
	CHECK_EQUAL(-EACCES, bind_to(54321));
	return 0;
}

static void test_a_port_may_be_granted(void)
{
	if (slk_landlock_abi() < 4) {
		printf("skipped: Landlock judges no ports here (ABI 4)\n");
		return;
	}
	CHECK_EQUAL(0, exit_of(in_child(grants_port_zero, NULL)));
}

static void test_errors_are_the_kernels(void)
{
	CHECK_EQUAL(-EINVAL, slk_landlock_create(1ull << 63, 0, 0));
	CHECK_EQUAL(-ENOMSG, slk_landlock_create(0, 0, 0));
	CHECK_EQUAL(-EBADF, slk_landlock_add_path(-1, 0, 1));
	CHECK_EQUAL(-EBADF, slk_landlock_restrict(-1));
}

int main(void)
{
	begin_tests();
	RUN(test_the_kernels_notification_is_at_least_ours);
	RUN(test_procfs_is_known_by_the_object);
	RUN(test_a_descriptor_of_another_process_is_taken);
	if (slk_landlock_abi() < 1) {
		printf("skipped: no Landlock (errno %d)\n", -slk_landlock_abi());
		return 0;
	}
	RUN(test_a_ruleset_grants_what_was_added);
	RUN(test_a_port_may_be_granted);
	RUN(test_errors_are_the_kernels);
	return 0;
}
