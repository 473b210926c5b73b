/* SPDX-License-Identifier: Apache-2.0 */
/* Acting as somebody else for the length of a call, in one thread: identity.c. Needs root. */
#include "check.h"

#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sys/fsuid.h>
#include <sys/stat.h>

#define SOMEBODY 4242u
#define THEIR_GROUP 4343u
#define FEW 8

static char tree[64];
static const struct slk_identity somebody = {
	.fsuid = SOMEBODY, .fsgid = THEIR_GROUP, .group_count = 2, .groups = (const uint32_t[]){7001, 7002}};

static const char *below(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", tree, name);
	return path;
}

static uint32_t fsuid(void)
{
	return (uint32_t)setfsuid((uid_t)-1);
}

static uint32_t fsgid(void)
{
	return (uint32_t)setfsgid((gid_t)-1);
}

/* As the kernel has them for this thread. */
#define groups(found) ((int)syscall(SYS_getgroups, sizeof(found) / sizeof(*(found)), (found)))

static uint64_t effective_capabilities(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct sets[2];

	CHECK_EQUAL(0, syscall(SYS_capget, &header, sets));
	return (uint64_t)sets[1].effective << 32 | sets[0].effective;
}

static uint64_t all_capabilities;

static void check_ourselves(void)
{
	gid_t found[FEW];

	CHECK_EQUAL(0, fsuid());
	CHECK_EQUAL(0, fsgid());
	CHECK_EQUAL(2, groups(found));
	CHECK_EQUAL(11, found[0]);
	CHECK_EQUAL(12, found[1]);
	CHECK_EQUAL(0, geteuid());
	CHECK_EQUAL(all_capabilities, effective_capabilities());
}

static void test_the_identity_is_taken_on_and_given_back(void)
{
	gid_t found[FEW];

	check_ourselves();
	CHECK_EQUAL(0, slk_identity_enter(&somebody));
	CHECK_EQUAL(SOMEBODY, fsuid());
	CHECK_EQUAL(THEIR_GROUP, fsgid());
	CHECK_EQUAL(2, groups(found));
	CHECK_EQUAL(7001, found[0]);
	CHECK_EQUAL(7002, found[1]);
	CHECK_EQUAL(0, geteuid()); /* so that nobody may signal or trace us */
	CHECK_EQUAL(0, slk_identity_leave());
	check_ourselves();
}

static void test_a_file_made_belongs_to_the_identity(void)
{
	struct stat status;
	int fd = slk_openat2(AT_FDCWD, below("made"), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0640, 0, &somebody);

	CHECK(fd >= 0);
	CHECK_EQUAL(0, fstat(fd, &status));
	CHECK_EQUAL(SOMEBODY, status.st_uid);
	CHECK_EQUAL(THEIR_GROUP, status.st_gid);
	CHECK_EQUAL(0640, status.st_mode & 07777);
	close(fd);
	CHECK_EQUAL(0, unlink(below("made")));
	check_ourselves();
}

/* What root may do and the identity may not is refused: the capabilities over files are gone with fsuid 0. */
static void test_permissions_are_judged_for_the_identity(void)
{
	int fd;

	make_file(below("secret"));
	CHECK_EQUAL(0, chmod(below("secret"), 0600));
	CHECK_EQUAL(-EACCES, slk_openat2(AT_FDCWD, below("secret"), O_RDONLY | O_CLOEXEC, 0, 0, &somebody));
	CHECK_EQUAL(-EACCES, slk_openat2(AT_FDCWD, "/etc/shadow", O_RDONLY | O_CLOEXEC, 0, 0, &somebody));
	CHECK_EQUAL(0, slk_identity_enter(&somebody));
	CHECK_EQUAL(-EPERM, slk_fchmodat(AT_FDCWD, below("secret"), 0666, 1));
	CHECK_EQUAL(0, slk_identity_leave());
	fd = slk_openat2(AT_FDCWD, below("secret"), O_RDONLY | O_CLOEXEC, 0, 0, NULL);
	CHECK(fd >= 0);
	close(fd);
	CHECK_EQUAL(0, unlink(below("secret")));
}

/* User 0 of a program that gave its capabilities up is an ordinary user to the kernel, and so to us on its behalf. */
static void test_what_the_identity_lacks_in_capabilities_is_not_lent(void)
{
	struct slk_identity root = {.capabilities = 0};
	int fd;

	make_file(below("theirs"));
	CHECK_EQUAL(0, chown(below("theirs"), SOMEBODY, THEIR_GROUP));
	CHECK_EQUAL(0, chmod(below("theirs"), 0600));
	CHECK_EQUAL(-EACCES, slk_openat2(AT_FDCWD, below("theirs"), O_RDONLY | O_CLOEXEC, 0, 0, &root));
	check_ourselves();
	CHECK_EQUAL(0, slk_identity_enter(&root));
	CHECK_EQUAL(0, effective_capabilities());
	CHECK_EQUAL(0, slk_identity_leave());
	root.capabilities = 1 << CAP_DAC_OVERRIDE;
	fd = slk_openat2(AT_FDCWD, below("theirs"), O_RDONLY | O_CLOEXEC, 0, 0, &root);
	CHECK(fd >= 0);
	close(fd);
	check_ourselves();
	CHECK_EQUAL(0, unlink(below("theirs")));
}

/* Somebody who is not root may still hold a capability over files. */
static void test_a_capability_of_an_ordinary_identity_counts(void)
{
	struct slk_identity holder = somebody;
	int fd;

	make_file(below("closed"));
	CHECK_EQUAL(0, chmod(below("closed"), 0));
	CHECK_EQUAL(-EACCES, slk_openat2(AT_FDCWD, below("closed"), O_RDONLY | O_CLOEXEC, 0, 0, &holder));
	holder.capabilities = 1 << CAP_DAC_OVERRIDE;
	fd = slk_openat2(AT_FDCWD, below("closed"), O_RDONLY | O_CLOEXEC, 0, 0, &holder);
	CHECK(fd >= 0);
	close(fd);
	check_ourselves();
	CHECK_EQUAL(0, unlink(below("closed")));
}

static void test_a_supplementary_group_of_the_identity_counts(void)
{
	int fd;

	make_file(below("of-a-group"));
	CHECK_EQUAL(0, chown(below("of-a-group"), 0, 7002));
	CHECK_EQUAL(0, chmod(below("of-a-group"), 0640));
	fd = slk_openat2(AT_FDCWD, below("of-a-group"), O_RDONLY | O_CLOEXEC, 0, 0, &somebody);
	CHECK(fd >= 0);
	close(fd);
	CHECK_EQUAL(0, chown(below("of-a-group"), 0, 11)); /* ours, not theirs */
	CHECK_EQUAL(-EACCES, slk_openat2(AT_FDCWD, below("of-a-group"), O_RDONLY | O_CLOEXEC, 0, 0, &somebody));
	CHECK_EQUAL(0, unlink(below("of-a-group")));
}

static void test_an_error_leaves_us_as_we_were(void)
{
	struct slk_identity too_many = {.fsuid = SOMEBODY, .fsgid = THEIR_GROUP, .group_count = SLK_GROUPS_MAX + 1};

	CHECK_EQUAL(-E2BIG, slk_identity_enter(&too_many));
	check_ourselves();
	CHECK_EQUAL(-E2BIG, slk_openat2(AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0, 0, &too_many));
	check_ourselves();
	CHECK_EQUAL(-ENOENT, slk_openat2(AT_FDCWD, below("none"), O_RDONLY | O_CLOEXEC, 0, 0, &somebody));
	check_ourselves();
}

static uint32_t all_groups[SLK_GROUPS_MAX];

static void test_as_many_groups_as_the_kernel_has_room_for(void)
{
	static const uint32_t counts[] = {0, 1, 63, 64, 65, 5000, SLK_GROUPS_MAX};
	static gid_t found[SLK_GROUPS_MAX];

	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		struct slk_identity many = {
			.fsuid = SOMEBODY, .fsgid = THEIR_GROUP, .group_count = counts[i], .groups = all_groups};

		CHECK_EQUAL(0, slk_identity_enter(&many));
		CHECK_EQUAL(counts[i], groups(found));
		CHECK_EQUAL(0, memcmp(all_groups, found, counts[i] * sizeof(*found)));
		CHECK_EQUAL(0, slk_identity_leave());
		check_ourselves();
	}
}

/* Those that we ourselves have come back, however many they are. */
static int with_many_groups_of_our_own(void *count_of_them)
{
	static gid_t found[SLK_GROUPS_MAX];
	uint32_t count = *(const uint32_t *)count_of_them;

	CHECK_EQUAL(0, setgroups(count, all_groups));
	for (int i = 0; i < 100; i++) { /* and nothing is kept of each */
		CHECK_EQUAL(0, slk_identity_enter(&somebody));
		CHECK_EQUAL(2, groups(found));
		CHECK_EQUAL(0, slk_identity_leave());
		CHECK_EQUAL(count, groups(found));
		CHECK_EQUAL(0, memcmp(all_groups, found, count * sizeof(*found)));
	}
	return 0;
}

static void test_many_groups_of_our_own_come_back(void)
{
	static uint32_t counts[] = {64, 65, 5000, SLK_GROUPS_MAX};

	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++)
		CHECK_EQUAL(0, exit_of(in_child(with_many_groups_of_our_own, &counts[i])));
}

/* ---- threads */

static pthread_barrier_t entered, looked;

static void *other_thread(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&entered);
	check_ourselves();
	pthread_barrier_wait(&looked);
	return NULL;
}

static void test_another_thread_stays_itself(void)
{
	pthread_t thread;

	pthread_barrier_init(&entered, NULL, 2);
	pthread_barrier_init(&looked, NULL, 2);
	CHECK_EQUAL(0, pthread_create(&thread, NULL, other_thread, NULL));
	CHECK_EQUAL(0, slk_identity_enter(&somebody));
	pthread_barrier_wait(&entered);
	pthread_barrier_wait(&looked);
	CHECK_EQUAL(SOMEBODY, fsuid());
	CHECK_EQUAL(0, slk_identity_leave());
	pthread_join(thread, NULL);
	check_ourselves();
}

static void *comes_and_goes(void *argument)
{
	uint32_t id = *(uint32_t *)argument;
	struct slk_identity own = {.fsuid = id, .fsgid = id, .group_count = 1, .groups = &id};

	for (int i = 0; i < 2000; i++) {
		gid_t found[FEW];

		CHECK_EQUAL(0, slk_identity_enter(&own));
		CHECK_EQUAL(own.fsuid, fsuid());
		CHECK_EQUAL(1, groups(found));
		CHECK_EQUAL(own.fsuid, found[0]);
		CHECK_EQUAL(0, slk_identity_leave());
		check_ourselves();
	}
	return NULL;
}

static void test_threads_with_different_identities_do_not_mix(void)
{
	static uint32_t ids[3] = {5001, 5002, 5003};
	pthread_t threads[3];

	for (int i = 0; i < 3; i++)
		CHECK_EQUAL(0, pthread_create(&threads[i], NULL, comes_and_goes, &ids[i]));
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
}

/* ---- without root there is nobody else to be */

static int as_an_ordinary_user(void *unused)
{
	(void)unused;
	CHECK_EQUAL(0, setgroups(0, NULL));
	CHECK_EQUAL(0, setresgid(SOMEBODY, SOMEBODY, SOMEBODY));
	CHECK_EQUAL(0, setresuid(SOMEBODY, SOMEBODY, SOMEBODY));
	CHECK_EQUAL(-EPERM, slk_identity_enter(&somebody));
	CHECK_EQUAL(SOMEBODY, fsuid());
	CHECK_EQUAL(SOMEBODY, fsgid());
	CHECK_EQUAL(-EPERM, slk_openat2(AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0, 0, &somebody));
	return 0;
}

static void test_an_ordinary_user_is_refused(void)
{
	CHECK_EQUAL(0, exit_of(in_child(as_an_ordinary_user, NULL)));
}

int main(void)
{
	gid_t ours[2] = {11, 12};

	begin_tests();
	if (geteuid() != 0 || setgroups(2, ours) < 0)
		skip_all("taking on another identity needs root");
	all_capabilities = effective_capabilities();
	make_tree(tree, sizeof(tree));
	CHECK_EQUAL(0, chmod(tree, 0777));
	for (uint32_t i = 0; i < SLK_GROUPS_MAX; i++)
		all_groups[i] = 8000 + i; /* sorted, as the kernel gives them back */
	RUN(test_the_identity_is_taken_on_and_given_back);
	RUN(test_a_file_made_belongs_to_the_identity);
	RUN(test_permissions_are_judged_for_the_identity);
	RUN(test_what_the_identity_lacks_in_capabilities_is_not_lent);
	RUN(test_a_capability_of_an_ordinary_identity_counts);
	RUN(test_a_supplementary_group_of_the_identity_counts);
	RUN(test_an_error_leaves_us_as_we_were);
	RUN(test_as_many_groups_as_the_kernel_has_room_for);
	RUN(test_many_groups_of_our_own_come_back);
	RUN(test_another_thread_stays_itself);
	RUN(test_threads_with_different_identities_do_not_mix);
	RUN(test_an_ordinary_user_is_refused);
	rm_tree(tree);
	return 0;
}
