/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes raw system calls that are written in a script, and says what each returned.
 *
 *     calls FILE      one call per line; security/raw_calls.py writes such files
 *
 * A line: a mode, the number, up to six arguments, with one space between.
 *     -  in this process        &  in a child of its own, killed after 3 s; a descriptor that comes of it is
 *                                  read and written as far as possible
 *     iN       a number         $N       what call N returned
 *     sHEX     a string         zHEX     bytes, exactly these
 *     eHEX     bytes that end where an unmapped page begins
 *     bN       a buffer of N    vN       an iovec with a buffer of N        wHEX  an iovec with these bytes
 * Answers with a line for each: the result or -errno (K and a signal: the child died of it), and in hexadecimal
 * what was put into the buffers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CALLS_MAX 20000
#define ARGUMENTS 6

struct output {
	unsigned char *bytes;
	size_t size;
};

static long results[CALLS_MAX];
static struct output outputs[ARGUMENTS + 3];
static int output_count;

static int nibble(char digit)
{
	return digit <= '9' ? digit - '0' : digit - 'a' + 10;
}

static unsigned char *from_hex(const char *text, size_t *ret_size)
{
	size_t size = strlen(text) / 2;
	unsigned char *bytes = calloc(1, size + 1);

	for (size_t i = 0; i < size; i++)
		bytes[i] = (unsigned char)(nibble(text[2 * i]) << 4 | nibble(text[2 * i + 1]));
	*ret_size = size;
	return bytes;
}

static uint64_t at_the_edge(const char *text)
{
	size_t size;
	unsigned char *bytes = from_hex(text, &size);
	size_t room = (size + 8191) / 4096 * 4096;
	char *map = mmap(NULL, room + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(map + room, 4096);
	memcpy(map + room - size, bytes, size);
	return (uint64_t)(uintptr_t)(map + room - size);
}

static unsigned char *new_output(size_t size)
{
	struct output *output = &outputs[output_count++];

	output->bytes = calloc(1, size + 1);
	output->size = size;
	return output->bytes;
}

static uint64_t argument(const char *text)
{
	struct iovec *vector;
	size_t size;

	switch (text[0]) {
	case 'i':
		return text[1] == '-' ? (uint64_t)strtoll(text + 1, NULL, 0) : strtoull(text + 1, NULL, 0);
	case '$':
		return (uint64_t)results[atoi(text + 1)];
	case 'b':
		return (uint64_t)(uintptr_t)new_output(strtoul(text + 1, NULL, 0));
	case 'e':
		return at_the_edge(text + 1);
	case 'v':
		vector = calloc(1, sizeof(*vector));
		vector->iov_len = strtoul(text + 1, NULL, 0);
		vector->iov_base = new_output(vector->iov_len);
		return (uint64_t)(uintptr_t)vector;
	case 'w':
		vector = calloc(1, sizeof(*vector));
		vector->iov_base = from_hex(text + 1, &vector->iov_len);
		return (uint64_t)(uintptr_t)vector;
	default: /* s, z */
		return (uint64_t)(uintptr_t)from_hex(text + 1, &size);
	}
}

static void say(FILE *out, const char *kind, long result)
{
	int any = 0;

	fprintf(out, "%s%ld ", kind, result);
	for (int i = 0; i < output_count; i++) {
		size_t size = outputs[i].size;

		while (size && !outputs[i].bytes[size - 1])
			size--;
		for (size_t at = 0; at < size; at++)
			fprintf(out, "%02x", outputs[i].bytes[at]);
		any |= size > 0;
	}
	fputs(any ? "\n" : "-\n", out);
	fflush(out);
}

static long make(char *line)
{
	uint64_t args[ARGUMENTS] = {0};
	char *save = NULL;
	char *word = strtok_r(line, " \n", &save);
	long number = atol(word), result;

	output_count = 0;
	for (int i = 0; i < ARGUMENTS && (word = strtok_r(NULL, " \n", &save)); i++)
		args[i] = argument(word);
	result = syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
	return result < 0 ? -errno : result;
}

/* A descriptor came of it: what can be read through it? */
static void look_into(long fd)
{
	char *target;

	if (fd <= 2 || fd >= 200 || fcntl((int)fd, F_GETFD) < 0)
		return;
	output_count = 0;
	if (pread((int)fd, new_output(128), 128, 0) < 0 && errno == EISDIR)
		syscall(SYS_getdents64, fd, outputs[0].bytes, 128);
	fgetxattr((int)fd, "user.canary", new_output(64), 64);
	target = mmap(NULL, 64, PROT_READ, MAP_PRIVATE, (int)fd, 0);
	if (target != MAP_FAILED)
		memcpy(new_output(64), target, 64);
	ftruncate((int)fd, 3) == 0 ? (void)0 : (void)pwrite((int)fd, "changed", 7, 0);
}

static void make_in_child(char *line)
{
	struct itimerval limit = {.it_value = {3, 0}};
	int status, ends[2];
	char answer[8192];
	size_t length = 0;
	ssize_t got;
	FILE *out;
	pid_t child;

	if (pipe(ends) < 0)
		exit(70);
	child = fork();
	if (child < 0)
		exit(71);
	if (child == 0) {
		/* Far from the descriptors that the calls are about, which are small numbers. */
		dup2(ends[1], 200);
		dup2(ends[1], 1); /* of a program that is executed */
		setitimer(ITIMER_REAL, &limit, NULL);
		long result = make(line);
		look_into(result);
		out = fdopen(200, "w");
		if (out)
			say(out, "", result);
		_exit(0);
	}
	close(ends[1]);
	/* A call that was fork, vfork or clone leaves a child that holds the pipe too; it has ended the same way. */
	while (length < sizeof(answer) - 1 && (got = read(ends[0], answer + length, sizeof(answer) - 1 - length)) > 0)
		length += (size_t)got;
	close(ends[0]);
	if (waitpid(child, &status, __WALL) < 0)
		status = 0;
	answer[length] = '\0';
	if (length && !strchr("-0123456789", answer[0])) {
		printf("K0 "); /* not ours: a program was executed, and this is what it said */
		for (size_t i = 0; i < length; i++)
			printf("%02x", (unsigned char)answer[i]);
		printf("\n");
	} else if (length && strchr(answer, '\n'))
		printf("%.*s\n", (int)(strchr(answer, '\n') - answer), answer);
	else
		printf("K%d -\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	fflush(stdout);
}

/* All of it at once, so that the first descriptor that a call opens is 3. */
static char *read_script(const char *path)
{
	FILE *file = fopen(path, "r");
	size_t size = 0;
	char *text = NULL;

	if (!file || getdelim(&text, &size, '\0', file) <= 0)
		exit(72);
	fclose(file);
	return text;
}

int main(int argc, char **argv)
{
	char *next = argc == 2 ? read_script(argv[1]) : NULL;
	char *line;

	for (int i = 0; i < CALLS_MAX && (line = strsep(&next, "\n")) && *line; i++) {
		if (line[0] == '&') {
			make_in_child(line + 2);
			continue;
		}
		results[i] = make(line + 2);
		say(stdout, "", results[i]);
	}
	return 0;
}
