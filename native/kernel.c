/* SPDX-License-Identifier: Apache-2.0 */
/* What the running kernel offers: thin wrappers for calls that libc or Python has none for. */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/landlock.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define SLK_LANDLOCK_RULE_NET_PORT 2

int slk_notif_sizes(struct slk_notif_sizes *ret_sizes)
{
	struct seccomp_notif_sizes sizes;

	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0)
		return -errno;
	*ret_sizes = (struct slk_notif_sizes){
		.request = sizes.seccomp_notif,
		.response = sizes.seccomp_notif_resp,
		.data = sizes.seccomp_data,
	};
	return 0;
}

int slk_seccomp_flags(unsigned int flags)
{
	/* The flags are looked at before the program (seccomp_set_mode_filter(), kernel/seccomp.c). */
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, NULL) == 0)
		return 0;
	return errno == EFAULT ? 0 : -errno;
}

int slk_landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return abi < 0 ? -errno : (int)abi;
}

/* The kernel takes a longer attribute than it knows only when the rest is zero: so send no more than is used. */
static size_t attr_size(const struct slk_landlock_attr *attr)
{
	if (attr->scoped)
		return sizeof(*attr);
	if (attr->handled_access_net)
		return 2 * sizeof(uint64_t);
	return sizeof(uint64_t);
}

int slk_landlock_create(uint64_t handled_fs, uint64_t handled_net, uint64_t scoped)
{
	struct slk_landlock_attr attr = {handled_fs, handled_net, scoped};
	long fd = syscall(SYS_landlock_create_ruleset, &attr, attr_size(&attr), 0);

	return fd < 0 ? -errno : (int)fd;
}

int slk_landlock_add_path(int ruleset_fd, int path_fd, uint64_t access)
{
	struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = path_fd};

	if (syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		return -errno;
	return 0;
}

int slk_landlock_add_port(int ruleset_fd, uint64_t port, uint64_t access)
{
	/* struct landlock_net_port_attr, Landlock ABI 4. */
	struct {
		uint64_t allowed_access;
		uint64_t port;
	} rule = {access, port};

	if (syscall(SYS_landlock_add_rule, ruleset_fd, SLK_LANDLOCK_RULE_NET_PORT, &rule, 0) < 0)
		return -errno;
	return 0;
}

int slk_landlock_restrict(int ruleset_fd)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	if (syscall(SYS_landlock_restrict_self, ruleset_fd, 0) < 0)
		return -errno;
	return 0;
}

uint64_t slk_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail with this clock */
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int slk_is_procfs(int fd)
{
	struct statfs status;

	if (fstatfs(fd, &status) < 0)
		return -errno;
	return status.f_type == PROC_SUPER_MAGIC;
}

int slk_io_priority(int32_t tid)
{
	long result = syscall(SYS_ioprio_get, 1 /* IOPRIO_WHO_PROCESS */, tid);

	return result < 0 ? -errno : (int)result;
}

int slk_mount_id(int fd)
{
	struct statx status;

	/* DONT_SYNC: what a server would have to be asked is not wanted (statx(2)). STATX_MNT_ID is Linux 5.8. */
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &status) < 0)
		return -errno;
	return status.stx_mask & STATX_MNT_ID ? (int)status.stx_mnt_id : -ENODATA;
}

int slk_statx(int fd, uint32_t mask, int flags, void *ret_statx)
{
	/* The raw call: the program is given what the kernel says, bits unknown to our headers included. */
	return syscall(SYS_statx, fd, "", flags | AT_EMPTY_PATH, mask, ret_statx) < 0 ? -errno : 0;
}

int slk_handle_of(int fd, int flags, void *ret_handle, void *ret_mount_id)
{
	uint32_t capacity = SLK_HANDLE_BYTES_MAX;

	memcpy(ret_handle, &capacity, sizeof(capacity));
	return syscall(SYS_name_to_handle_at, fd, "", ret_handle, ret_mount_id, flags | AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int slk_statfs(int fd, void *ret_statfs)
{
	return syscall(SYS_fstatfs, fd, ret_statfs) < 0 ? -errno : 0;
}

int slk_pidfd_getfd(int pidfd, int fd)
{
	long number = syscall(SYS_pidfd_getfd, pidfd, fd, 0); /* close-on-exec always */

	return number < 0 ? -errno : (int)number;
}

static void poked(int number)
{
	(void)number; /* to have interrupted is all */
}

int slk_poke(int32_t tid)
{
	struct sigaction action = {.sa_handler = poked}; /* without SA_RESTART */

	if (sigaction(SLK_POKE_SIGNAL, &action, NULL) < 0)
		return -errno;
	if (syscall(SYS_tgkill, getpid(), tid, SLK_POKE_SIGNAL) < 0 && errno != ESRCH)
		return -errno;
	return 0;
}

int slk_become_subreaper(void)
{
	return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 ? -errno : 0;
}

int slk_become_dumpable(void)
{
	return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0 ? -errno : 0;
}

int slk_leave_keyring(void)
{
	/* Who cannot call it at all (a container's filter: EPERM) can read no key either. */
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS && errno != EPERM)
		return -errno;
	return 0;
}

int slk_fallocate(int fd, int mode, int64_t offset, int64_t length)
{
	return fallocate(fd, mode, offset, length) < 0 ? -errno : 0;
}

int slk_sysinfo(void *ret_info)
{
	_Static_assert(sizeof(struct sysinfo) == SLK_SYSINFO_BYTES, "sysinfo");
	return sysinfo(ret_info) < 0 ? -errno : 0;
}

int slk_affinity(int32_t tid, uint32_t size, void *ret_mask)
{
	long length = syscall(SYS_sched_getaffinity, tid, size, ret_mask);

	return length < 0 ? -errno : (int)length;
}
