/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking memory, each in its own way, and holding it.
 *
 *     takers WAY MEGABYTES COUNTER
 *
 * COUNTER: a file; how many bytes have been taken stands in it at any time, for whoever looks afterwards. When all is taken:
 * "taken", and an end with 0; with the environment variable HOLD never an end. What is refused: its error, and an end with 3.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEGA ((size_t)1 << 20)
#define PAGE ((size_t)4096)
#define PIECE (MEGA / 2)

static size_t all;
static uint64_t *taken;

__attribute__((noreturn)) static void refused(const char *what)
{
	perror(what);
	_exit(3);
}

static void held(void)
{
	if (getenv("HOLD"))
		for (;;)
			pause();
}

static void touch(char *memory, size_t size)
{
	for (size_t at = 0; at < size; at += PAGE) {
		memory[at] = 1;
		__atomic_add_fetch(taken, PAGE, __ATOMIC_RELAXED);
	}
}

static char *mapped(size_t size, int protection, int flags, int fd)
{
	char *memory = mmap(NULL, size, protection, flags, fd, 0);

	if (memory == MAP_FAILED)
		refused("mmap");
	return memory;
}

static char *own(size_t size)
{
	return mapped(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static void in_pieces(size_t size)
{
	for (size_t done = 0; done < size; done += PIECE)
		touch(own(PIECE), PIECE);
}

static int object(size_t size)
{
	int fd = memfd_create("object", 0);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		refused("memfd");
	return fd;
}

static void written(int fd)
{
	static char data[PIECE];

	memset(data, 1, sizeof(data));
	for (size_t done = 0; done < all; done += sizeof(data)) {
		if (write(fd, data, sizeof(data)) != (ssize_t)sizeof(data))
			refused("write");
		__atomic_add_fetch(taken, sizeof(data), __ATOMIC_RELAXED);
	}
}

static void brk_at_once(void)
{
	char *memory = sbrk((intptr_t)all);

	if (memory == (void *)-1)
		refused("brk");
	touch(memory, all);
}

static void brk_in_steps(void)
{
	for (size_t done = 0; done < all; done += PIECE) {
		char *memory = sbrk(PIECE);

		if (memory == (void *)-1)
			refused("brk");
		touch(memory, PIECE);
	}
}

static void at_once(void)
{
	touch(own(all), all);
}

static void small_pieces(void)
{
	in_pieces(all);
}

static void granted_then_touched(void)
{
	char *memory[1024];
	size_t count = 0;

	for (size_t done = 0; done < all; done += 4 * MEGA)
		memory[count++] = own(4 * MEGA);
	while (count)
		touch(memory[--count], 4 * MEGA);
}

static void not_reserved(void)
{
	touch(mapped(all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1), all);
}

static void private_file(void)
{
	touch(mapped(all, PROT_READ | PROT_WRITE, MAP_PRIVATE, object(all)), all);
}

static void memfd_written(void)
{
	written(memfd_create("object", 0));
}

static void memfd_mapped(void)
{
	touch(mapped(all, PROT_READ | PROT_WRITE, MAP_SHARED, object(all)), all);
}

static void memfd_allocated(void)
{
	if (fallocate(object(0), 0, 0, (off_t)all) < 0)
		refused("fallocate");
	*taken = all;
}

/* Nobody has it but a socket. */
static void memfd_on_its_way(void)
{
	for (size_t done = 0; done < all; done += 10 * MEGA) {
		int ends[2], fd = object(10 * MEGA);
		char space[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
		struct iovec data = {&byte, 1};
		struct msghdr message = {
			.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		char *memory = mapped(10 * MEGA, PROT_READ | PROT_WRITE, MAP_SHARED, fd);

		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(head), &fd, sizeof(fd));
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0 || sendmsg(ends[0], &message, 0) < 0)
			refused("sendmsg");
		touch(memory, 10 * MEGA);
		munmap(memory, 10 * MEGA);
		close(fd);
	}
}

/* By the name alone: no descriptor, no mapping, nobody is told when it is closed. */
static void memfd_by_path(void)
{
	for (size_t done = 0; done < all; done += 10 * MEGA) {
		int fd = object(10 * MEGA);
		char path[32], *memory = mapped(10 * MEGA, PROT_READ | PROT_WRITE, MAP_SHARED, fd);

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (open(path, O_PATH) < 0)
			refused("O_PATH");
		touch(memory, 10 * MEGA);
		munmap(memory, 10 * MEGA);
		close(fd);
	}
}

/* Kept by its path while nobody has it open for writing, for as long as somebody may be looking. */
static void memfd_reopened(void)
{
	char path[32];
	int fd = object(0), kept;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	kept = open(path, O_PATH);
	close(fd);
	usleep(300000);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", kept);
	fd = open(path, O_RDWR);
	if (fd < 0)
		refused(path);
	written(fd);
}

static void shm_file(void)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/taken", getenv("SHM"));
	fd = open(path, O_CREAT | O_RDWR, 0600);
	if (fd < 0)
		refused(path);
	written(fd);
}

static void shm_file_without_a_name(void)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/taken", getenv("SHM"));
	fd = open(path, O_CREAT | O_RDWR, 0600);
	if (fd < 0)
		refused(path);
	unlink(path);
	written(fd);
}

static void shared(void)
{
	touch(mapped(all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1), all);
}

/* Nobody has it in his page tables any more, and it is there all the same. */
static void let_go(char *memory, size_t size)
{
	touch(memory, size);
	if (madvise(memory, size, MADV_DONTNEED) < 0)
		refused("madvise");
}

static void shared_let_go(void)
{
	for (size_t done = 0; done < all; done += 10 * MEGA)
		let_go(mapped(10 * MEGA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1), 10 * MEGA);
}

static void shared_small_let_go(void)
{
	for (size_t done = 0; done < all; done += PIECE)
		let_go(mapped(PIECE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1), PIECE);
}

static void shared_of_zero(void)
{
	int fd = open("/dev/zero", O_RDWR);

	for (size_t done = 0; done < all; done += 10 * MEGA)
		let_go(mapped(10 * MEGA, PROT_READ | PROT_WRITE, MAP_SHARED, fd), 10 * MEGA);
}

static void sysv(void)
{
	int id = shmget(IPC_PRIVATE, all, IPC_CREAT | 0600);
	char *memory = id < 0 ? NULL : shmat(id, NULL, 0);

	if (!memory)
		refused("shmget");
	shmctl(id, IPC_RMID, NULL);
	touch(memory, all);
}

static void moved(void)
{
	char *memory = mremap(own(MEGA), MEGA, all, MREMAP_MAYMOVE);

	if (memory == MAP_FAILED)
		refused("mremap");
	touch(memory, all);
}

static void protected(void)
{
	char *memory = mapped(all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (mprotect(memory, all, PROT_READ | PROT_WRITE) < 0)
		refused("mprotect");
	touch(memory, all);
}

static void protected_in_pieces(void)
{
	char *memory = mapped(all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	for (size_t done = 0; done < all; done += PIECE) {
		if (mprotect(memory + done, PIECE, PROT_READ | PROT_WRITE) < 0)
			refused("mprotect");
		touch(memory + done, PIECE);
	}
}

static void deep(size_t size)
{
	volatile char frame[16384];

	for (size_t at = 0; at < sizeof(frame); at += PAGE)
		frame[at] = 1;
	__atomic_add_fetch(taken, sizeof(frame), __ATOMIC_RELAXED);
	if (size > sizeof(frame))
		deep(size - sizeof(frame));
	else
		held();
	frame[0] = 0;
}

static void children(size_t each, void (*take)(size_t))
{
	int count = 0;

	for (size_t done = 0; done < all; done += each, count++) {
		pid_t pid = fork();

		if (pid < 0)
			refused("fork");
		if (pid == 0) {
			take(each);
			held();
			_exit(0);
		}
	}
	while (count--)
		wait(NULL);
}

static void many_children(void)
{
	children(4 * MEGA, in_pieces);
}

/* Areas that the kernel makes larger by itself, downwards, by whoever touches what is below them: nobody asks for that. */
static void grows_down(void)
{
	size_t each = 7 * MEGA, apart = 9 * MEGA; /* RLIMIT_STACK for each, and a gap that the kernel keeps free */
	char *place = mapped((all / each + 1) * apart, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	munmap(place, (all / each + 1) * apart);
	for (size_t done = 0; done < all; done += each, place += apart) {
		char *top = place + apart - PAGE;

		if (mmap(top, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0) != top)
			refused("mmap");
		for (size_t at = 0; at < each; at += PAGE)
			touch(top - at, PAGE);
	}
}

static void stacks(void)
{
	children(7 * MEGA, deep);
}

static void *thread_stack(void *ignored)
{
	deep(7 * MEGA);
	return ignored;
}

static void *thread_pieces(void *size)
{
	in_pieces((size_t)size);
	return NULL;
}

static void threads_with(void *(*take)(void *), size_t each)
{
	pthread_t threads[1024];
	size_t count = 0;

	for (size_t done = 0; done < all; done += each)
		if (pthread_create(&threads[count++], NULL, take, (void *)each) != 0)
			refused("pthread_create");
	while (count)
		pthread_join(threads[--count], NULL);
}

static void threads(void)
{
	threads_with(thread_pieces, 10 * MEGA);
}

static void thread_stacks(void)
{
	threads_with(thread_stack, 7 * MEGA);
}

static void *take_all(void *ignored)
{
	small_pieces();
	puts("taken");
	fflush(stdout);
	held();
	_exit(0);
	return ignored;
}

static void first_thread_has_ended(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, take_all, NULL) != 0)
		refused("pthread_create");
	pthread_exit(NULL);
}

static void written_after_fork(void)
{
	size_t size = 40 * MEGA;
	char *memory = own(size);

	touch(memory, size);
	for (size_t done = 0; done < all; done += size)
		if (fork() == 0) {
			touch(memory, size);
			held();
			_exit(0);
		}
	while (wait(NULL) > 0)
		;
}

/* Named like the one that nobody counts, by whose name it was told. */
static void named_like_init(void)
{
	int ends[2];
	char byte;

	if (pipe(ends) < 0 || prctl(PR_SET_NAME, "sandlockd-init") < 0)
		refused("name");
	if (fork() == 0) {
		if (fork() > 0)
			_exit(0);
		usleep(20000); /* until it has lost its parent */
		in_pieces(all);
		held();
		_exit(0);
	}
	close(ends[1]);
	while (read(ends[0], &byte, 1) > 0)
		;
}

/* A byte of each huge page is in a pipe, and the page is nobody's any more. */
static void huge_pages_in_pipes(void)
{
	size_t huge = 2 * MEGA;

	for (size_t done = 0; done < all; done += huge) {
		static int ends[2] = {-1, -1};
		char *memory = mapped(2 * huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
		char *start = (char *)(((uintptr_t)memory + huge - 1) & ~(uintptr_t)(huge - 1));
		struct iovec byte = {start, 1};

		if (done % (16 * huge) == 0 && pipe(ends) < 0)
			refused("pipe");
		madvise(start, huge, MADV_HUGEPAGE);
		*start = 1;
		if (vmsplice(ends[1], &byte, 1, 0) < 0)
			refused("vmsplice");
		munmap(memory, 2 * huge);
		__atomic_add_fetch(taken, huge, __ATOMIC_RELAXED);
	}
}

/* Each takes a KiB of a tmpfs. */
static void empty_files(void)
{
	char path[96];

	for (size_t number = 0; number < all / 1024; number++) {
		snprintf(path, sizeof(path), "%s/%zu", getenv("SHM"), number);
		if (mknod(path, S_IFREG | 0600, 0) < 0)
			refused(path);
		__atomic_add_fetch(taken, 1024, __ATOMIC_RELAXED);
	}
}

/* Nobody is there for long but the last, who has it all. */
static void passed_on_by_fork(void)
{
	int ends[2];
	char byte;

	if (pipe(ends) < 0)
		refused("pipe");
	if (fork() > 0) {
		close(ends[1]);
		while (read(ends[0], &byte, 1) > 0)
			;
		return;
	}
	for (size_t done = 0; done < all; done += 5 * MEGA) {
		in_pieces(5 * MEGA);
		if (fork() > 0)
			_exit(0);
	}
}

static const struct {
	const char *name;
	void (*take)(void);
} ways[] = {
	{"brk", brk_at_once},
	{"brk-in-steps", brk_in_steps},
	{"mmap", at_once},
	{"small-pieces", small_pieces},
	{"granted-then-touched", granted_then_touched},
	{"not-reserved", not_reserved},
	{"private-file", private_file},
	{"memfd-written", memfd_written},
	{"memfd-mapped", memfd_mapped},
	{"memfd-allocated", memfd_allocated},
	{"memfd-on-its-way", memfd_on_its_way},
	{"memfd-by-path", memfd_by_path},
	{"memfd-reopened", memfd_reopened},
	{"shm-file", shm_file},
	{"shm-file-without-a-name", shm_file_without_a_name},
	{"shared", shared},
	{"shared-let-go", shared_let_go},
	{"shared-small-let-go", shared_small_let_go},
	{"shared-of-zero", shared_of_zero},
	{"sysv", sysv},
	{"mremap", moved},
	{"mprotect", protected},
	{"mprotect-in-pieces", protected_in_pieces},
	{"many-children", many_children},
	{"stacks", stacks},
	{"grows-down", grows_down},
	{"threads", threads},
	{"thread-stacks", thread_stacks},
	{"first-thread-has-ended", first_thread_has_ended},
	{"written-after-fork", written_after_fork},
	{"passed-on-by-fork", passed_on_by_fork},
	{"named-like-init", named_like_init},
	{"huge-pages-in-pipes", huge_pages_in_pipes},
	{"empty-files", empty_files},
};

int main(int count, char **words)
{
	int fd;

	if (count != 4)
		return 2;
	all = (size_t)atol(words[2]) * MEGA;
	fd = open(words[3], O_CREAT | O_RDWR, 0600);
	if (fd < 0 || ftruncate(fd, PAGE) < 0)
		refused(words[3]);
	taken = (uint64_t *)mapped(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	*taken = 0;
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++)
		if (strcmp(ways[i].name, words[1]) == 0) {
			ways[i].take();
			puts("taken");
			fflush(stdout);
			held();
			return 0;
		}
	return 2;
}
