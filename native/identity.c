/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Acting on behalf, with the caller's file system identity.
 *
 * setfsuid(2) and setgroups(2) are per thread in the kernel; glibc's setgroups is not, so the raw call is used.
 * Leaving fsuid 0 takes CAP_DAC_OVERRIDE and its like out of the effective set, coming back restores them
 * (capabilities(7), "Effect of user ID changes"), so a root supervisor is judged as the caller would be.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <sys/fsuid.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define FEW_GROUPS 64

/* What this thread comes back to. groups: few, or a mapping of their own where they are more. */
static _Thread_local struct slk_identity own;
static _Thread_local uint32_t few[FEW_GROUPS];

/* The effective set of this thread; permitted stays, so it can come back (capabilities(7)). */
static int set_effective(uint64_t wanted)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct sets[2];

	if (syscall(SYS_capget, &header, sets) < 0)
		return -errno;
	for (int half = 0; half < 2; half++)
		sets[half].effective = sets[half].permitted & (uint32_t)(wanted >> (32 * half));
	return syscall(SYS_capset, &header, sets) < 0 ? -errno : 0;
}

static void forget_groups(void)
{
	if (own.groups && own.groups != few)
		munmap((void *)(uintptr_t)own.groups, SLK_GROUPS_MAX * sizeof(*own.groups));
	own.groups = NULL;
	own.group_count = 0;
}

/* More than a few are rare: then a mapping per call, of which only the pages in use exist. */
static int remember_groups(void)
{
	uint32_t *groups = few;
	long count = syscall(SYS_getgroups, FEW_GROUPS, few);

	if (count < 0 && errno == EINVAL) {
		groups = mmap(NULL, SLK_GROUPS_MAX * sizeof(*groups), PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (groups == MAP_FAILED)
			return -errno;
		count = syscall(SYS_getgroups, SLK_GROUPS_MAX, groups);
	}
	own.groups = groups;
	if (count < 0) {
		int error = errno;

		forget_groups();
		return -error;
	}
	own.group_count = (uint32_t)count;
	return 0;
}

static int remember_own(void)
{
	int result = remember_groups();

	if (result < 0)
		return result;
	own.fsuid = (uint32_t)geteuid();
	own.fsgid = (uint32_t)getegid();
	own.capabilities = UINT64_MAX; /* all that are permitted */
	return 0;
}

/* setfsuid gives no error: ask for the value back with an impossible one. */
static int set_ids(uint32_t fsuid, uint32_t fsgid)
{
	setfsgid(fsgid);
	if ((uint32_t)setfsgid((gid_t)-1) != fsgid)
		return -EPERM;
	setfsuid(fsuid);
	if ((uint32_t)setfsuid((uid_t)-1) != fsuid)
		return -EPERM;
	return 0;
}

static int take_on(const struct slk_identity *identity)
{
	int result;

	if (syscall(SYS_setgroups, identity->group_count, identity->groups) < 0)
		return -errno;
	result = set_ids(identity->fsuid, identity->fsgid);
	/* Last: changing fsuid moves the file capabilities in and out of the effective set by itself. */
	return result < 0 ? result : set_effective(identity->capabilities);
}

int slk_identity_leave(void)
{
	int result = set_effective(UINT64_MAX); /* CAP_SETUID and CAP_SETGID first: the rest needs them */

	if (result == 0)
		result = take_on(&own);
	forget_groups();
	return result;
}

int slk_identity_enter(const struct slk_identity *identity)
{
	int result;

	if (identity->group_count > SLK_GROUPS_MAX)
		return -E2BIG;
	result = remember_own();
	if (result < 0)
		return result;
	result = take_on(identity);
	if (result < 0)
		slk_identity_leave(); /* the first error is the one to tell */
	return result;
}

int slk_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve,
		const struct slk_identity *identity)
{
	struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};
	int result;
	long fd;

	if (identity && (result = slk_identity_enter(identity)) < 0)
		return result;
	fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
	result = fd < 0 ? -errno : (int)fd;
	if (identity) {
		int left = slk_identity_leave();

		if (left < 0) { /* never go on with half an identity */
			if (result >= 0)
				close(result);
			return left;
		}
	}
	return result;
}

static int checked(long result)
{
	return result < 0 ? -errno : (int)result;
}

int slk_fchownat_empty(int fd, uint32_t uid, uint32_t gid)
{
	return checked(fchownat(fd, "", uid, gid, AT_EMPTY_PATH));
}

int slk_fchmodat(int dirfd, const char *path, uint32_t mode, int follow)
{
	return checked(fchmodat(dirfd, path, (mode_t)mode, follow ? 0 : AT_SYMLINK_NOFOLLOW));
}

int slk_setxattr(const char *path, const char *name, const void *value, uint64_t size, int flags, int follow)
{
	return checked(follow ? setxattr(path, name, value, size, flags) : lsetxattr(path, name, value, size, flags));
}

int slk_getxattr(const char *path, const char *name, void *value, uint64_t size, int follow)
{
	return checked(follow ? getxattr(path, name, value, size) : lgetxattr(path, name, value, size));
}

int slk_listxattr(const char *path, char *list, uint64_t size, int follow)
{
	return checked(follow ? listxattr(path, list, size) : llistxattr(path, list, size));
}

int slk_removexattr(const char *path, const char *name, int follow)
{
	return checked(follow ? removexattr(path, name) : lremovexattr(path, name));
}

int slk_renameat2(int old_dirfd, const char *old_name, int new_dirfd, const char *new_name, uint32_t flags)
{
	return checked(syscall(SYS_renameat2, old_dirfd, old_name, new_dirfd, new_name, flags));
}

int slk_inotify_add_watch(int fd, const char *path, uint32_t mask)
{
	return checked(inotify_add_watch(fd, path, mask));
}

int slk_inotify_rm_watch(int fd, int wd)
{
	return checked(inotify_rm_watch(fd, wd));
}

int slk_utimensat(int dirfd, const char *path, int64_t atime_s, int64_t atime_ns, int64_t mtime_s, int64_t mtime_ns,
		  int flags)
{
	struct timespec times[2] = {{atime_s, atime_ns}, {mtime_s, mtime_ns}};

	/* The raw call: libc refuses an empty path before the kernel can look at AT_EMPTY_PATH. */
	return checked(syscall(SYS_utimensat, dirfd, path, times, flags));
}
