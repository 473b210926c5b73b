/* SPDX-License-Identifier: Apache-2.0 */
/* What init keeps of the supervisor's memory, however much that has; and that it is all that it needs. */
#include "launch.h"

#define HEAP_BYTES (32u << 20)
#define INIT_KIB_MAX 1024

static long kib_of(pid_t pid, const char *name)
{
	char path[64], line[256];
	long found = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	file = fopen(path, "re");
	CHECK(file != NULL);
	while (found < 0 && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			found = atol(line + strlen(name));
	fclose(file);
	return found;
}

static void write_all(volatile char *memory, char value)
{
	for (size_t at = 0; at < HEAP_BYTES; at += 4096)
		memory[at] = value;
}

static void test_init_keeps_none_of_the_supervisors_heap(void)
{
	char *memory = malloc(HEAP_BYTES);
	struct slk_launch_plan plan = plan_of(SHELL("kill -STOP $$"));
	struct launched launched;

	CHECK(memory != NULL);
	write_all(memory, 1);
	launched = launch(&plan);
	hear(&launched, SLK_REPORT_STOPPED);
	write_all(memory, 2); /* what init had would be its own now */
	CHECK(kib_of(launched.init, "Rss:") < INIT_KIB_MAX + kib_of(launched.init, "Shared_Clean:"));
	let_go(&launched);
	free(memory);
}

static void test_the_words_of_a_program_reach_it_whole(void)
{
	static char word[128 * 1024 - 1], *environment[] = {word, "LAST=last", NULL};
	char *argv[] = {"/bin/sh", "-c", "printf '%s ' ${#A} ${#1} \"$2\" $LAST; pwd", "sh", word + 2, "", NULL};
	struct slk_launch_plan plan;

	memset(word, 'x', sizeof(word) - 1);
	memcpy(word, "A=", 2);
	plan = plan_of(argv);
	plan.envp = environment;
	plan.directory = "/usr";
	CHECK(!strcmp("131068 131068  last /usr\n", output_of(plan)));
}

int main(void)
{
	begin_tests();
#if !defined(__SANITIZE_ADDRESS__) /* which needs all of it */
	RUN(test_init_keeps_none_of_the_supervisors_heap);
#endif
	RUN(test_the_words_of_a_program_reach_it_whole);
	return 0;
}
