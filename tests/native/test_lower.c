/* SPDX-License-Identifier: Apache-2.0 */
/* What the lower tree has of a name: lower.c, in a real directory, beside what has been found in it before. */
#include "check.h"

#include <sys/stat.h>

#define PYTHON (SLK_REASON_ZONE + 1)

static struct slk_engine engine;
static struct slk_tree tree;

static void at(struct slk_walk *walk, const char *name)
{
	char path[SLK_PATH_MAX];
	int length = snprintf(path, sizeof(path), "%s/%s", tree.root, name);

	CHECK_EQUAL(0, slk_walk_set(walk, "", 0, path, (uint32_t)length));
}

static int looked(const char *name, int follow, enum slk_look for_what)
{
	struct slk_walk walk;

	at(&walk, name);
	return slk_lower_only(&engine, &tree, &walk, follow, for_what);
}

static void put_file(const char *name)
{
	int fd = openat(tree.lower_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	CHECK(fd >= 0);
	close(fd);
}

static void forget_all(void)
{
	memset(engine.judged, 0, sizeof(engine.judged));
}

/* Each twice: all the way, and beside what was found. */
static void test_what_is_found_beside_is_what_is_found_all_the_way(void)
{
	static const struct {
		const char *name;
		int follow;
		enum slk_look for_what;
		int result;
	} looks[] = {
		{"dir/file", 1, SLK_LOOK_OPEN, 0},	   {"dir/file", 0, SLK_LOOK_STAT, 0},
		{"dir/sub", 1, SLK_LOOK_OPEN, 0},	   {"dir/nothing", 1, SLK_LOOK, 0},
		{"dir/link", 1, SLK_LOOK, PYTHON},	   {"dir/link", 0, SLK_LOOK, 0},
		{"dir/link", 0, SLK_LOOK_OPEN, PYTHON},	   {"dir/fifo", 1, SLK_LOOK_OPEN, PYTHON},
		{"dir/fifo", 1, SLK_LOOK_STAT, 0},	   {"dir/two", 1, SLK_LOOK_STAT, 0},
		{"dir/link/x", 1, SLK_LOOK, PYTHON},	   {"dir/file/x", 1, SLK_LOOK, 0},
		{"dir/sub/nothing/x", 1, SLK_LOOK, 0},
	};

	for (size_t i = 0; i < sizeof(looks) / sizeof(*looks); i++) {
		forget_all();
		CHECK_EQUAL(looks[i].result, looked(looks[i].name, looks[i].follow, looks[i].for_what));
		forget_all();
		CHECK_EQUAL(0, looked("dir/beside", 1, SLK_LOOK));
		CHECK_EQUAL(looks[i].result, looked(looks[i].name, looks[i].follow, looks[i].for_what));
	}
	slk_layers_lose_links(tree.layers);
	forget_all();
	CHECK_EQUAL(PYTHON, looked("dir/two", 1, SLK_LOOK_STAT));
	CHECK_EQUAL(0, looked("dir/beside", 1, SLK_LOOK));
	CHECK_EQUAL(PYTHON, looked("dir/two", 1, SLK_LOOK_STAT));
}

/* Somebody outside puts a link in the place of a directory. */
static void test_a_directory_is_known_no_longer_than_from_one_look(void)
{
	struct slk_walk walk;
	uint64_t until_ns;

	forget_all();
	CHECK_EQUAL(0, looked("dir/beside", 1, SLK_LOOK));
	at(&walk, "dir/beside");
	until_ns = slk_judged_before(&engine, &walk, walk.count, SLK_NEED_IN_TREE | SLK_LOOK, 1);
	CHECK(until_ns > slk_now_ns());
	at(&walk, "dir/file");
	while (slk_now_ns() + 100000000 < until_ns)
		usleep(1000);
	CHECK_EQUAL(0, looked("dir/file", 1, SLK_LOOK)); /* late, and beside */
	CHECK(slk_judged_before(&engine, &walk, walk.count, SLK_NEED_IN_TREE | SLK_LOOK, 1) <= until_ns);
	CHECK_EQUAL(0, renameat(tree.lower_fd, "dir", tree.lower_fd, "away"));
	CHECK_EQUAL(0, symlinkat("away", tree.lower_fd, "dir"));
	while (slk_now_ns() <= until_ns)
		usleep(1000);
	CHECK_EQUAL(PYTHON, looked("dir/file", 1, SLK_LOOK));
	CHECK_EQUAL(PYTHON, looked("dir/two", 1, SLK_LOOK));
	CHECK_EQUAL(0, unlinkat(tree.lower_fd, "dir", 0));
	CHECK_EQUAL(0, renameat(tree.lower_fd, "away", tree.lower_fd, "dir"));
}

/* Where a server could be asked, all the way is looked, which crosses no mount. */
static void test_with_slow_mounts_nothing_is_looked_at_beside(void)
{
	forget_all();
	engine.slow_lookups = 1;
	CHECK_EQUAL(0, looked("dir/beside", 1, SLK_LOOK));
	CHECK_EQUAL(0, renameat(tree.lower_fd, "dir", tree.lower_fd, "away"));
	CHECK_EQUAL(0, symlinkat("away", tree.lower_fd, "dir"));
	CHECK_EQUAL(PYTHON, looked("dir/file", 1, SLK_LOOK));
	engine.slow_lookups = 0;
	CHECK_EQUAL(0, unlinkat(tree.lower_fd, "dir", 0));
	CHECK_EQUAL(0, renameat(tree.lower_fd, "away", tree.lower_fd, "dir"));
}

static void prepare(void)
{
	make_tree(tree.root, sizeof(tree.root));
	tree.root_length = (uint32_t)strlen(tree.root);
	for (uint32_t i = 0; i < tree.root_length; i++)
		tree.root_components += tree.root[i] == '/';
	tree.lower_fd = open(tree.root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	CHECK_EQUAL(0, slk_layers_create(&tree.layers));
	CHECK_EQUAL(0, mkdirat(tree.lower_fd, "dir", 0755));
	CHECK_EQUAL(0, mkdirat(tree.lower_fd, "dir/sub", 0755));
	put_file("dir/file");
	put_file("dir/beside");
	put_file("dir/two");
	CHECK_EQUAL(0, linkat(tree.lower_fd, "dir/two", tree.lower_fd, "dir/too", 0));
	CHECK_EQUAL(0, symlinkat("sub", tree.lower_fd, "dir/link"));
	CHECK_EQUAL(0, mkfifoat(tree.lower_fd, "dir/fifo", 0600));
}

int main(void)
{
	begin_tests();
	engine.mounts_fd = -1;
	prepare();
	RUN(test_what_is_found_beside_is_what_is_found_all_the_way);
	RUN(test_a_directory_is_known_no_longer_than_from_one_look);
	RUN(test_with_slow_mounts_nothing_is_looked_at_beside);
	rm_tree(tree.root);
	slk_layers_destroy(tree.layers);
	close(tree.lower_fd);
	return 0;
}
