/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes calls while what they name is swapped, between a directory that may be used and one that may not.
 *
 *     every_call threads|processes MILLISECONDS ALLOWED DENIED SCRATCH PLAN [repair]
 *
 * repair: where nothing stops it, DENIED is put right after each call that changed it, which then counts as a leak.
 * ALLOWED and DENIED hold the same names. SCRATCH may be written. PLAN: a call per line,
 *
 *     LABEL NUMBER NAME WAYS HOW ARGUMENT...
 *
 * NAME: of what the call is about in ALLOWED and in DENIED. WAYS: how it is swapped, a letter each; all calls are made
 * in turn while one of these goes on:
 *     t  the text of the path, in shared memory          l  a symbolic link, replaced by rename
 *     d  a directory on the way, exchanged with a link   c  the working directory       (threads only)
 *     f  the descriptor that the path starts from        o  the descriptor of the object (threads only, both)
 * HOW: x in a child that has it executed, r put right what it changed, - nothing.
 * Arguments: iN a number, sHEX a string, p the path, d where the path starts, o the descriptor, b a buffer that is
 * looked through, z a zeroed one, hN struct open_how with these flags, y a file in SCRATCH, x a free name there, v an
 * argument vector, n an inotify descriptor, k struct file_handle.
 *
 * A line of answer for each call and way: label, way, calls made, calls during which it was swapped, calls that began
 * with the allowed one and with the denied one, calls that succeeded, and calls that gave a secret away.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define CALLS_MAX 128
#define SECRET "the-canary"
#define BUFFER 4096

/* Numbers that nothing else gets. */
enum { SWAPPED = 900, ALLOWED_DIRECTORY, DENIED_DIRECTORY, ALLOWED_OBJECT, DENIED_OBJECT, NOTIFY };

struct shared {
	atomic_int stop, side;
	atomic_ulong swaps;
	char path[4096];
};

struct call {
	char label[64], name[32], ways[16];
	long number;
	char how;
	char words[6][256];
	int words_count;
};

struct count {
	unsigned long calls, met, began[2], succeeded, leaks;
};

static const char WAYS[] = "tldcfo";

static struct shared *shared;
static const char *allowed, *denied, *scratch;
static struct call plan[CALLS_MAX];
static struct count counts[CALLS_MAX][sizeof(WAYS)];
static int plan_size, with_processes, repairs;
static char way;
static const char *swapped_name; /* of the call that is being made */
static char paths[5][4096];	 /* made of SCRATCH */
enum { LINK, NEXT_LINK, DIRECTORY, OTHER_DIRECTORY, FILE_BESIDE };
static char free_name[4096];

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void join(char *ret_path, const char *directory, const char *name)
{
	snprintf(ret_path, 4096, "%.3000s/%.1000s", directory, name);
}

/* ---- the one who swaps ---- */

static char targets[2][4096]; /* of the name that is being swapped */

static void swap_once(int side)
{
	switch (way) {
	case 't':
		strcpy(shared->path, targets[side]);
		break;
	case 'l':
		unlink(paths[NEXT_LINK]);
		if (symlink(targets[side], paths[NEXT_LINK]) == 0)
			rename(paths[NEXT_LINK], paths[LINK]);
		break;
	case 'd':
		syscall(SYS_renameat2, AT_FDCWD, paths[DIRECTORY], AT_FDCWD, paths[OTHER_DIRECTORY], 2);
		break;
	case 'c':
		if (fchdir(side ? DENIED_DIRECTORY : ALLOWED_DIRECTORY) < 0)
			return;
		break;
	case 'f':
		dup2(side ? DENIED_DIRECTORY : ALLOWED_DIRECTORY, SWAPPED);
		break;
	case 'o':
		dup2(side ? DENIED_OBJECT : ALLOWED_OBJECT, SWAPPED);
		break;
	}
	shared->side = side;
	shared->swaps++;
}

static void *swap(void *unused)
{
	int side = 0;

	while (!shared->stop) {
		swap_once(side = !side);
		/* Not so fast that a call sees nothing but halves of paths. */
		for (volatile int wait = rand() % 4096; wait; wait--)
			;
	}
	if (side)
		swap_once(0);
	return unused;
}

/* ---- what a call is given, and what came of it ---- */

static const char *swapped_path(void)
{
	static char path[4096];

	switch (way) {
	case 't':
		return shared->path;
	case 'l':
		return paths[LINK];
	case 'd':
		join(path, paths[DIRECTORY], swapped_name);
		return path;
	default:
		return swapped_name;
	}
}

static long argument(const char *word, char *buffer)
{
	static char *const argv[] = {"x", NULL};
	struct open_how how = {0};
	size_t length;

	switch (word[0]) {
	case 'i':
		return strtol(word + 1, NULL, 0);
	case 's':
		length = strlen(word + 1) / 2;
		for (size_t i = 0; i < length; i++) {
			unsigned int byte;

			sscanf(word + 1 + 2 * i, "%2x", &byte);
			buffer[i] = (char)byte;
		}
		buffer[length] = 0;
		return (long)buffer;
	case 'p':
		return (long)swapped_path();
	case 'd':
		return way == 'f' ? SWAPPED : AT_FDCWD;
	case 'o':
		return SWAPPED;
	case 'h':
		how.flags = strtoull(word + 1, NULL, 0);
		memcpy(buffer, &how, sizeof(how));
		return (long)buffer;
	case 'k':
		*(unsigned int *)buffer = 128;
		return (long)buffer;
	case 'y':
		return (long)paths[FILE_BESIDE];
	case 'x':
		return (long)free_name;
	case 'v':
		return (long)argv;
	case 'n':
		return NOTIFY;
	default: /* b, z */
		return (long)buffer;
	}
}

static int tells(const char *bytes, size_t size)
{
	return memmem(bytes, size, SECRET, strlen(SECRET)) != NULL;
}

/* A descriptor that a call returned: is it the canary's, or does it list it? */
static int opened(int fd)
{
	char text[BUFFER] = "";
	int found = 0;

	if (pread(fd, text, 64, 0) > 0)
		found |= tells(text, 64);
	if (fgetxattr(fd, "user.canary", text, sizeof(text)) > 0)
		found |= tells(text, sizeof(text));
	if (syscall(SYS_getdents64, fd, text, sizeof(text)) > 0)
		found |= tells(text, sizeof(text));
	close(fd);
	return found;
}

/* Where a file was created, opened for writing. */
static void make_file(const char *directory, const char *name)
{
	char path[4096];
	int fd;

	join(path, directory, name);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
	if (fd >= 0) {
		if (write(fd, "allowed", 7) < 0)
			_exit(70);
		fsetxattr(fd, "user.canary", "allowed", 7, 0);
		close(fd);
	}
}

/* Only what a call took away, or made, under the names of the plan. */
static void put_right_in(const char *directory)
{
	char path[4096];

	join(path, directory, "new");
	if (unlink(path) < 0)
		rmdir(path);
	join(path, directory, "fifo");
	unlink(path);
	join(path, directory, "empty");
	mkdir(path, 0755);
	make_file(directory, "canary");
}

static int put_right(void)
{
	int fd = open(free_name, O_RDONLY), found = fd >= 0 && opened(fd);

	unlink(free_name);
	rmdir(free_name);
	put_right_in(allowed);
	if (way == 'd') {
		put_right_in(paths[DIRECTORY]);
		put_right_in(paths[OTHER_DIRECTORY]);
	}
	unlink(paths[FILE_BESIDE]);
	make_file(scratch, strrchr(paths[FILE_BESIDE], '/') + 1);
	if (fchdir(way == 'c' && shared->side ? DENIED_DIRECTORY : ALLOWED_DIRECTORY) < 0 && fchdir(ALLOWED_DIRECTORY) < 0)
		exit(71);
	return found;
}

/* The canary in DENIED, as it was at the beginning. */
static struct stat canary;

static int is_as_it_was(void)
{
	struct stat now;
	char path[4096];

	join(path, denied, "canary");
	if (lstat(path, &now) < 0 || now.st_ino != canary.st_ino || now.st_ctim.tv_sec != canary.st_ctim.tv_sec ||
	    now.st_ctim.tv_nsec != canary.st_ctim.tv_nsec)
		return 0;
	join(path, denied, "new");
	if (lstat(path, &now) == 0)
		return 0;
	join(path, denied, "fifo");
	if (lstat(path, &now) == 0)
		return 0;
	join(path, denied, "empty");
	return lstat(path, &now) == 0;
}

static int repaired(void)
{
	char path[4096];
	int fd;

	if (is_as_it_was())
		return 0;
	put_right_in(denied);
	join(path, denied, "canary");
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT, 0644);
	if (fd < 0 || write(fd, SECRET, strlen(SECRET)) < 0 || fsetxattr(fd, "user.canary", SECRET, strlen(SECRET), 0) < 0 ||
	    fstat(fd, &canary) < 0)
		exit(76);
	close(fd);
	if (way == 'o') {
		fd = open(path, O_RDWR);
		dup2(fd, DENIED_OBJECT);
		close(fd);
		if (shared->side)
			dup2(DENIED_OBJECT, SWAPPED);
	}
	return 1;
}

static long execute(long number, const long *a, int *ret_leaks)
{
	char text[64] = "";
	int ends[2], status;
	pid_t child;

	if (pipe(ends) < 0)
		exit(70);
	child = fork();
	if (child == 0) {
		dup2(ends[1], 1);
		syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
		_exit(126);
	}
	close(ends[1]);
	*ret_leaks = read(ends[0], text, sizeof(text)) > 0 && tells(text, sizeof(text));
	close(ends[0]);
	waitpid(child, &status, 0);
	return status ? -1 : 0;
}

static void call_once(const struct call *call, struct count *count)
{
	static char buffers[6][BUFFER];
	unsigned long swaps = shared->swaps;
	long a[6] = {0}, result;
	int leaks = 0, looked_through = -1;

	if (way == 'o')
		lseek(SWAPPED, 0, SEEK_SET);
	count->began[shared->side]++;
	for (int i = 0; i < call->words_count; i++) {
		if (call->words[i][0] == 'b' || call->words[i][0] == 'z')
			memset(buffers[i], 0, BUFFER);
		if (call->words[i][0] == 'b')
			looked_through = i;
		a[i] = argument(call->words[i], buffers[i]);
	}
	if (call->how == 'x')
		result = execute(call->number, a, &leaks);
	else
		result = syscall(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
	count->calls++;
	count->met += shared->swaps != swaps;
	if (result >= 0)
		count->succeeded++;
	if (looked_through >= 0)
		leaks |= tells(buffers[looked_through], BUFFER);
	if (result > 2 && result < SWAPPED && call->how != 'x')
		leaks |= opened((int)result);
	if (repairs)
		leaks |= repaired();
	if (result >= 0 && call->how == 'r')
		leaks |= put_right();
	if (repairs)
		repaired();
	count->leaks += (unsigned long)leaks;
}

/* ---- the course ---- */

/* A letter of what the swapper swaps is the same for all calls but for the name: so calls of one name in one go. */
static void race(const char *name, double seconds)
{
	pthread_t thread;
	pid_t child = 0;
	double end;

	swapped_name = name;
	join(targets[0], allowed, name);
	join(targets[1], denied, name);
	shared->stop = 0;
	if (way != 'd') /* there the next turn is the other one, whichever that is */
		swap_once(0);
	if (with_processes) {
		child = fork();
		if (child == 0) {
			swap(NULL);
			_exit(0);
		}
	} else if (pthread_create(&thread, NULL, swap, NULL)) {
		exit(72);
	}
	end = now() + seconds;
	do {
		for (int i = 0; i < plan_size; i++)
			if (strcmp(plan[i].name, name) == 0 && strchr(plan[i].ways, way))
				call_once(&plan[i], &counts[i][strchr(WAYS, way) - WAYS]);
	} while (now() < end);
	shared->stop = 1;
	if (child)
		waitpid(child, NULL, 0);
	else
		pthread_join(thread, NULL);
	put_right();
}

static int calls_of(const char *name)
{
	int found = 0;

	for (int i = 0; i < plan_size; i++)
		found += strcmp(plan[i].name, name) == 0 && strchr(plan[i].ways, way);
	return found;
}

static void open_objects(const char *name)
{
	char path[4096];

	join(path, allowed, name);
	dup2(open(path, O_RDONLY), ALLOWED_OBJECT);
	join(path, denied, name);
	if (dup2(open(path, O_RDONLY), DENIED_OBJECT) < 0)
		dup2(open(path, O_PATH), DENIED_OBJECT);
}

static void race_in_this_way(double seconds)
{
	int all = 0;

	for (int i = 0; i < plan_size; i++)
		all += strchr(plan[i].ways, way) != NULL;
	for (int i = 0; i < plan_size; i++) {
		int first = 1;

		for (int k = 0; k < i; k++)
			first &= strcmp(plan[k].name, plan[i].name) != 0;
		if (!first || !calls_of(plan[i].name))
			continue;
		if (way == 'o')
			open_objects(plan[i].name);
		race(plan[i].name, seconds * calls_of(plan[i].name) / all);
	}
}

static void read_plan(const char *path)
{
	FILE *file = fopen(path, "r");
	char line[2048];

	while (file && fgets(line, sizeof(line), file) && plan_size < CALLS_MAX) {
		struct call *call = &plan[plan_size++];

		call->words_count = sscanf(line, "%63s %ld %31s %15s %c %255s %255s %255s %255s %255s %255s", call->label,
					   &call->number, call->name, call->ways, &call->how, call->words[0],
					   call->words[1], call->words[2], call->words[3], call->words[4],
					   call->words[5]) - 5;
	}
	if (!file || plan_size == 0)
		exit(73);
}

static void prepare(void)
{
	static const char *const names[] = {"link", "next-link", "directory", "other-directory", "beside"};

	for (int i = 0; i < 5; i++)
		join(paths[i], scratch, names[i]);
	join(free_name, scratch, "free");
	mkdir(paths[DIRECTORY], 0755);
	if (symlink(denied, paths[OTHER_DIRECTORY]) < 0)
		exit(74);
	put_right_in(paths[DIRECTORY]);
	put_right_in(allowed);
	make_file(scratch, "beside");
	dup2(open(allowed, O_RDONLY | O_DIRECTORY), ALLOWED_DIRECTORY);
	dup2(open(denied, O_PATH | O_DIRECTORY), DENIED_DIRECTORY);
	dup2(inotify_init(), NOTIFY);
	if (fchdir(ALLOWED_DIRECTORY) < 0)
		exit(71);
}

int main(int argc, char **argv)
{
	double seconds;
	int ways;

	if (argc != 7 && argc != 8)
		return 75;
	repairs = argc == 8;
	with_processes = strcmp(argv[1], "processes") == 0;
	seconds = atof(argv[2]) / 1000;
	allowed = argv[3];
	denied = argv[4];
	scratch = argv[5];
	read_plan(argv[6]);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	prepare();
	ways = with_processes ? 3 : 6;
	if (repairs)
		repaired();
	for (int i = 0; i < ways; i++) {
		way = WAYS[i];
		race_in_this_way(seconds / ways);
	}
	for (int i = 0; i < plan_size; i++)
		for (int w = 0; w < ways; w++) {
			const struct count *count = &counts[i][w];

			if (count->calls)
				printf("%s %c %lu %lu %lu %lu %lu %lu\n", plan[i].label, WAYS[w], count->calls, count->met,
				       count->began[0], count->began[1], count->succeeded, count->leaks);
		}
	return 0;
}
