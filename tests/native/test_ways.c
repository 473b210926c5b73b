/* SPDX-License-Identifier: Apache-2.0 */
/* By which way a path goes: ways.c. The asker's zone is a directory here, so that there is something to go through. */
#include "check.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * <tree>/asker/number/      the zone, and something in it; asker/number/back -> ../../plain
 * <tree>/plain/file         and links: in -> ../asker/number, out -> ../asker/number/../../plain,
 *                           near -> file, loop -> loop, root -> /
 * <tree>/told/below/        not all that is there is shown
 */
static char tree[64];
static char asker[128], told[128];
static struct slk_engine *engine;

static const char *below(const char *name)
{
	static char paths[4][256];
	static int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", tree, name);
	return path;
}

static int lists_told(const char *path)
{
	struct slk_request request = {.tid = gettid()};
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), result;

	CHECK(fd >= 0);
	request.args[0] = (uint64_t)fd;
	result = slk_lists_told(engine, &request);
	slk_bases_forget(engine, request.tid); /* it keeps the link in /proc open */
	close(fd);
	return result;
}

static void make_scene(void)
{
	char real[256];
	struct slk_zone zones[] = {{.path = asker, .flags = SLK_ZONE_SLOW | SLK_ZONE_ASKER},
				   {.path = told, .flags = SLK_ZONE_SLOW | SLK_ZONE_TOLD}};
	struct slk_call calls[1] = {{0}};
	struct slk_engine_config config = {
		.calls = calls, .call_count = 1, .zones = zones, .zone_count = 2, .mounts_fd = -1, .own_pids = 1};

	make_tree(tree, sizeof(tree));
	CHECK(realpath(tree, real));
	strcpy(tree, real);
	CHECK_EQUAL(0, mkdir(below("asker"), 0755));
	CHECK_EQUAL(0, mkdir(below("asker/number"), 0755));
	CHECK_EQUAL(0, mkdir(below("plain"), 0755));
	CHECK_EQUAL(0, mkdir(below("told"), 0755));
	CHECK_EQUAL(0, mkdir(below("told/below"), 0755));
	make_file(below("plain/file"));
	CHECK_EQUAL(0, symlink("../../plain", below("asker/number/back")));
	CHECK_EQUAL(0, symlink("../asker/number", below("plain/in")));
	CHECK_EQUAL(0, symlink("../asker/number/../../plain", below("plain/out")));
	CHECK_EQUAL(0, symlink("file", below("plain/near")));
	CHECK_EQUAL(0, symlink("loop", below("plain/loop")));
	CHECK_EQUAL(0, symlink("/", below("plain/root")));
	snprintf(asker, sizeof(asker), "%s/asker", tree);
	snprintf(told, sizeof(told), "%s/told", tree);
	zones[0].length = (uint32_t)strlen(asker);
	zones[1].length = (uint32_t)strlen(told);
	config.ledger_fd = memfd_create("ledger", 0);
	CHECK_EQUAL(0, ftruncate(config.ledger_fd, (off_t)slk_ledger_bytes()));
	CHECK_EQUAL(0, slk_shared_create(&config.shared));
	CHECK_EQUAL(0, slk_engine_create(&config, &engine));
	close(config.ledger_fd);
}

static int comes_by(const char *base, const char *path)
{
	return slk_way_is_askers(engine, base, (uint32_t)strlen(base), path, (uint32_t)strlen(path));
}

static void test_a_listing_that_python_tells(void)
{
	CHECK_EQUAL(1, lists_told(below("told")));
	CHECK_EQUAL(1, lists_told(below("told/below")));
	CHECK_EQUAL(1, lists_told(below("asker")));
	CHECK_EQUAL(0, lists_told(below("plain")));
	CHECK_EQUAL(0, lists_told("/"));
	CHECK_EQUAL(0, comes_by("", below("told/below")));
}

static void test_a_way_that_is_spelled_out(void)
{
	CHECK_EQUAL(1, comes_by("", below("asker")));
	CHECK_EQUAL(1, comes_by("", below("asker/number")));
	CHECK_EQUAL(1, comes_by("", below("asker/nobody")));
	CHECK_EQUAL(0, comes_by("", below("plain/file")));
	CHECK_EQUAL(0, comes_by("", below("plain/nothing/more")));
	CHECK_EQUAL(0, comes_by("", "/"));
	CHECK_EQUAL(0, comes_by("", "//"));
}

static void test_a_way_that_leads_out_again(void)
{
	CHECK_EQUAL(1, comes_by("", below("asker/number/../../plain/file")));
	CHECK_EQUAL(1, comes_by("", below("asker/../plain/file")));
	CHECK_EQUAL(0, comes_by("", below("plain/../plain/./file")));
	CHECK_EQUAL(1, comes_by("", below("plain/../asker/number/..")));
	CHECK_EQUAL(1, comes_by("", below("asker/number/back/file")));
}

static void test_a_way_through_links(void)
{
	CHECK_EQUAL(1, comes_by("", below("plain/in")));
	CHECK_EQUAL(1, comes_by("", below("plain/in/back/file")));
	CHECK_EQUAL(1, comes_by("", below("plain/out/file")));
	CHECK_EQUAL(1, comes_by("", below("plain/in/../../plain/file")));
	CHECK_EQUAL(0, comes_by("", below("plain/near")));
	CHECK_EQUAL(0, comes_by("", below("plain/near/more")));
	CHECK_EQUAL(0, comes_by("", below("plain/loop/file")));
	CHECK_EQUAL(0, comes_by("", below("plain/root/usr/..")));
	CHECK_EQUAL(0, comes_by(below("plain"), "root/../in")); /* not the one beside the link */
}

static void test_a_way_from_somewhere(void)
{
	CHECK_EQUAL(0, comes_by(below("plain"), "file"));
	CHECK_EQUAL(1, comes_by(below("plain"), "../asker/../plain/file"));
	CHECK_EQUAL(1, comes_by(below("asker/number"), "../../plain/file"));
	CHECK_EQUAL(0, comes_by(below("asker/number"), below("plain/file")));
	CHECK_EQUAL(1, comes_by(below("gone (deleted)"), "../plain/near"));
	CHECK_EQUAL(0, comes_by(below("gone (deleted)"), below("plain/near")));
}

static void test_a_way_that_is_too_long_is_pythons(void)
{
	static char path[2 * SLK_PATH_MAX + 3];

	for (size_t at = 0; at + 2 < sizeof(path); at += 2)
		memcpy(path + at, "/a", 2);
	CHECK_EQUAL(1, comes_by("", path));
}

/* The kernel needs no descriptor for what it executes: it would find what we could not look at. */
static void test_what_could_not_be_opened_for_want_of_descriptors_is_pythons(void)
{
	const char *path = below("plain/file");
	struct rlimit before, none;
	struct slk_walk walk;

	CHECK_EQUAL(0, slk_walk_set(&walk, "", 0, path, (uint32_t)strlen(path)));
	CHECK_EQUAL(0, slk_execution_names_askers(engine, &walk));
	CHECK_EQUAL(0, getrlimit(RLIMIT_NOFILE, &before));
	none = (struct rlimit){0, before.rlim_max};
	CHECK_EQUAL(0, setrlimit(RLIMIT_NOFILE, &none));
	CHECK_EQUAL(1, slk_execution_names_askers(engine, &walk));
	CHECK_EQUAL(0, setrlimit(RLIMIT_NOFILE, &before));
}

int main(void)
{
	begin_tests();
	make_scene();
	RUN(test_a_listing_that_python_tells);
	RUN(test_a_way_that_is_spelled_out);
	RUN(test_a_way_that_leads_out_again);
	RUN(test_a_way_through_links);
	RUN(test_a_way_from_somewhere);
	RUN(test_a_way_that_is_too_long_is_pythons);
	RUN(test_what_could_not_be_opened_for_want_of_descriptors_is_pythons);
	slk_engine_destroy(engine);
	rm_tree(tree);
	return 0;
}
