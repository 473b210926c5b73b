/* SPDX-License-Identifier: Apache-2.0 */
/*
 * More waiting opens than there are workers.
 *
 *     fifos PATH COUNT
 *
 * Says "ready", reads a line, opens the FIFO for reading in COUNT threads, and says "refused ERRNO" for each that failed.
 * After each line that it reads it opens what the supervisor serves and says "served"; at the end of its input it waits
 * for its threads and says "opened COUNT".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *path;
static int opened;

static void *wait_in_open(void *unused)
{
	int fd = open(path, O_RDONLY);

	(void)unused;
	if (fd < 0)
		printf("refused %s\n", strerrorname_np(errno));
	else
		__atomic_add_fetch(&opened, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

int main(int argc, char **argv)
{
	int count = argc == 3 ? atoi(argv[2]) : 0;
	pthread_t *threads = calloc((size_t)count, sizeof(*threads));
	pthread_attr_t small;
	char line[16];

	path = argv[1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	puts("ready");
	if (!threads || !fgets(line, sizeof(line), stdin))
		return 2;
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], &small, wait_in_open, NULL))
			return 3;
	while (fgets(line, sizeof(line), stdin)) {
		int fd = open("/proc/self/stat", O_RDONLY);

		if (fd < 0)
			return 4;
		close(fd);
		puts("served");
	}
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	printf("opened %d\n", opened);
	return 0;
}
