/* SPDX-License-Identifier: Apache-2.0 */
/* What the fast path leaves to the kernel and what it hands to Python: fastpath.c, asked directly and by real calls. */
#include "target.h"

#include <sys/stat.h>

#define READ LANDLOCK_ACCESS_FS_READ_FILE
#define WRITE LANDLOCK_ACCESS_FS_WRITE_FILE
#define FOLLOW 1
#define NO_FOLLOW 0

/*
 * <tree>/granted/       READ, READ_DIR, MAKE_DIR      file, dir/, and links: out, in, loop, to_slow
 * <tree>/granted/slow/  SLOW                          file
 * <tree>/written/       READ and WRITE                file
 * <tree>/elsewhere/     nothing                       file, and links: to_granted, dir_to_granted
 * <tree>/object         READ, IDENTITY
 */
static char tree[64];
static struct slk_zone zones[4];
static char zone_paths[4][128];

static const char *below(const char *name)
{
	static char paths[4][256];
	static int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", tree, name);
	return path;
}

static void make_directory(const char *name)
{
	CHECK_EQUAL(0, mkdir(below(name), 0755));
}

static void make_link(const char *target, const char *name)
{
	CHECK_EQUAL(0, symlink(target, below(name)));
}

static void add_zone(int at, const char *name, uint32_t flags, uint32_t rights)
{
	struct stat status;

	strcpy(zone_paths[at], below(name));
	CHECK_EQUAL(0, stat(zone_paths[at], &status));
	zones[at] = (struct slk_zone){
		.path = zone_paths[at],
		.length = (uint32_t)strlen(zone_paths[at]),
		.flags = flags,
		.rights = rights,
		.device = status.st_dev,
		.inode = status.st_ino,
	};
}

static void make_scene(void)
{
	char real[256];

	make_tree(tree, sizeof(tree));
	CHECK(realpath(tree, real)); /* zones are canonical, and a temporary directory may lie behind a link */
	CHECK(strlen(real) < sizeof(tree));
	strcpy(tree, real);
	make_directory("granted");
	make_directory("granted/dir");
	make_directory("granted/slow");
	make_directory("written");
	make_directory("elsewhere");
	make_file(below("granted/file"));
	make_file(below("granted/slow/file"));
	make_file(below("written/file"));
	make_file(below("elsewhere/file"));
	make_file(below("object"));
	make_link("../elsewhere/file", "granted/out");
	make_link("../elsewhere", "granted/dir_out");
	make_link("file", "granted/in");
	make_link("loop", "granted/loop");
	make_link("slow/file", "granted/to_slow");
	make_link("../written/file", "granted/to_written");
	make_link("../granted/file", "elsewhere/to_granted");
	make_link("../granted", "elsewhere/dir_to_granted");
	add_zone(0, "granted", 0, READ | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_MAKE_DIR);
	add_zone(1, "granted/slow", SLK_ZONE_SLOW, 0);
	add_zone(2, "written", 0, READ | WRITE | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG);
	add_zone(3, "object", SLK_ZONE_IDENTITY, READ);
}

static struct served new_engine(const struct target *target)
{
	return start_engine(target, zones, 4);
}

static int continues(const struct served *served, const char *name, uint32_t need, int follow)
{
	return slk_engine_judge(served->engine, below(name), need, follow);
}

static void test_a_grant_continues_and_nothing_else(void)
{
	struct served served = new_engine(NULL);

	CHECK_EQUAL(1, continues(&served, "granted/file", READ, FOLLOW));
	CHECK_EQUAL(1, continues(&served, "granted/dir/none", READ, FOLLOW)); /* the kernel says ENOENT */
	CHECK_EQUAL(1, continues(&served, "granted", LANDLOCK_ACCESS_FS_READ_DIR, FOLLOW));
	CHECK_EQUAL(0, continues(&served, "granted/file", WRITE, FOLLOW));
	CHECK_EQUAL(0, continues(&served, "granted/file", READ | WRITE, FOLLOW));
	CHECK_EQUAL(1, continues(&served, "written/file", READ | WRITE, FOLLOW));
	CHECK_EQUAL(0, continues(&served, "granted/slow/file", READ, FOLLOW));
	CHECK_EQUAL(0, continues(&served, "granted/slow", READ, FOLLOW));
	CHECK_EQUAL(0, continues(&served, "granted/slow/none", READ, FOLLOW));
	CHECK_EQUAL(0, continues(&served, "elsewhere/file", READ, FOLLOW));
	CHECK_EQUAL(1, continues(&served, "elsewhere/none", READ, FOLLOW)); /* the same */
	CHECK_EQUAL(0, continues(&served, "elsewhere/none", WRITE | LANDLOCK_ACCESS_FS_MAKE_REG, FOLLOW));
	CHECK_EQUAL(0, continues(&served, "granted/../elsewhere/file", READ, FOLLOW));
	CHECK_EQUAL(0, slk_engine_judge(served.engine, "/proc/self/environ", READ, FOLLOW));
	CHECK_EQUAL(0, slk_engine_judge(served.engine, "/", READ, FOLLOW));
	end_engine(&served);
}

static void test_a_link_is_judged_by_where_it_leads(void)
{
	struct served served = new_engine(NULL);

	for (int again = 0; again < 2; again++) { /* the second time from what was judged before */
		CHECK_EQUAL(0, continues(&served, "granted/out", READ, FOLLOW));
		CHECK_EQUAL(0, continues(&served, "granted/dir_out/file", READ, FOLLOW));
		CHECK_EQUAL(0, continues(&served, "granted/dir_out/file", READ, NO_FOLLOW));
		CHECK_EQUAL(1, continues(&served, "granted/in", READ, FOLLOW));
		CHECK_EQUAL(0, continues(&served, "granted/to_slow", READ, FOLLOW));
		CHECK_EQUAL(1, continues(&served, "granted/to_written", READ, FOLLOW));
		CHECK_EQUAL(1, continues(&served, "granted/to_written", READ | WRITE, FOLLOW));
		CHECK_EQUAL(1, continues(&served, "elsewhere/to_granted", READ, FOLLOW));
		CHECK_EQUAL(1, continues(&served, "elsewhere/dir_to_granted/file", READ, FOLLOW));
		CHECK_EQUAL(0, continues(&served, "elsewhere/dir_to_granted/slow/file", READ, FOLLOW));
		CHECK_EQUAL(1, continues(&served, "granted/loop", READ, FOLLOW)); /* the kernel says ELOOP */
	}
	end_engine(&served);
}

/* The name itself is made, moved or removed, whatever it leads to. */
static void test_a_link_in_the_last_place_counts_itself_when_not_followed(void)
{
	struct served served = new_engine(NULL);

	CHECK_EQUAL(1, continues(&served, "granted/out", READ, NO_FOLLOW));
	CHECK_EQUAL(0, continues(&served, "elsewhere/to_granted", READ, NO_FOLLOW));
	end_engine(&served);
}

static void test_another_object_under_a_granted_name_is_pythons(void)
{
	struct served served = new_engine(NULL);

	CHECK_EQUAL(1, continues(&served, "object", READ, NO_FOLLOW));
	make_file(below("stranger"));
	CHECK_EQUAL(0, rename(below("stranger"), below("object")));
	/* At once: the kernel has no rule for it, and would refuse what the policy grants. */
	CHECK_EQUAL(0, continues(&served, "object", READ, NO_FOLLOW));
	CHECK_EQUAL(0, continues(&served, "object", READ, FOLLOW));
	CHECK_EQUAL(0, unlink(below("object")));
	CHECK_EQUAL(0, continues(&served, "object", READ, FOLLOW));
	make_file(below("object"));
	end_engine(&served);
	add_zone(3, "object", SLK_ZONE_IDENTITY, READ); /* for the tests that follow */
}

static void test_what_was_judged_is_forgotten_soon(void)
{
	struct served served = new_engine(NULL);

	CHECK_EQUAL(1, continues(&served, "granted/dir/x", READ, FOLLOW)); /* not there, so not remembered */
	make_link("../../elsewhere/file", "granted/dir/x");
	CHECK_EQUAL(0, continues(&served, "granted/dir/x", READ, FOLLOW));
	CHECK_EQUAL(0, unlink(below("granted/dir/x")));
	make_file(below("granted/dir/x"));
	CHECK_EQUAL(1, continues(&served, "granted/dir/x", READ, FOLLOW));
	CHECK_EQUAL(0, unlink(below("granted/dir/x")));
	make_link("../../elsewhere/file", "granted/dir/x");
	CHECK(COMES_TRUE(continues(&served, "granted/dir/x", READ, FOLLOW) == 0));
	CHECK_EQUAL(0, unlink(below("granted/dir/x")));
	end_engine(&served);
}

static void test_a_path_that_is_too_long_or_too_deep_is_pythons(void)
{
	static char path[3 * SLK_PATH_MAX];
	struct served served = start_engine(NULL, &(struct slk_zone){.path = "", .rights = READ}, 1);

	path[0] = '/';
	memset(path + 1, 'x', sizeof(path) - 2);
	CHECK_EQUAL(0, slk_engine_judge(served.engine, path, READ, FOLLOW));
	for (int i = 0; i < 200; i++)
		memcpy(path + 2 * i, "/x", 3);
	CHECK_EQUAL(0, slk_engine_judge(served.engine, path, READ, FOLLOW));
	CHECK_EQUAL(1, slk_engine_judge(served.engine, "/none", READ, FOLLOW));
	end_engine(&served);
}

/* A name that the kernel has in no cache has to be looked up: that is Python's while it may wait for a server. */
static void test_a_lookup_that_may_wait_is_not_made_in_c(void)
{
	struct served served = new_engine(NULL);
	int32_t local = 0;
	int directory;

	slk_engine_set_mounts(served.engine, 1, &local, 0);
	CHECK_EQUAL(0, continues(&served, "granted/dir/never-looked-up", READ, FOLLOW));
	CHECK_EQUAL(1, continues(&served, "granted/file", READ, FOLLOW));
	directory = open(below("granted/dir"), O_PATH | O_CLOEXEC);
	local = slk_mount_id(directory);
	CHECK(local >= 0);
	slk_engine_set_mounts(served.engine, 1, &local, 1);
	CHECK_EQUAL(1, continues(&served, "granted/dir/never-looked-up", READ, FOLLOW));
	local++;
	slk_engine_set_mounts(served.engine, 1, &local, 1);
	CHECK_EQUAL(0, continues(&served, "granted/dir/never-looked-up-elsewhere", READ, FOLLOW));
	slk_engine_set_mounts(served.engine, 0, &local, 0);
	CHECK_EQUAL(1, continues(&served, "granted/dir/never-looked-up-either", READ, FOLLOW));
	close(directory);
	end_engine(&served);
}

/* ---- by real calls */

static struct target target;
static struct served served;

static void begin(void)
{
	target = start_target(1, 0);
	served = new_engine(&target);
}

static void end(void)
{
	end_engine(&served);
	end_target(&target);
}

static const char *word(const char *name)
{
	return words_at(&target, 0, below(name));
}

/* The call is settled in C, and the kernel's own answer is the program's. */
static long settled(void)
{
	uint64_t continued = counts_of(&served).continued;
	long result = served_by_c(&target, &served, 0);

	CHECK_EQUAL(continued + 1, counts_of(&served).continued);
	return result;
}

/* The call comes to Python, which refuses it. */
static struct slk_request *handed_over(int reason)
{
	struct slk_request *request = next_request(&served);

	CHECK_EQUAL(reason, request->reason);
	CHECK_EQUAL(0, slk_answer_errno(served.engine, request->slot, EXFULL));
	CHECK_EQUAL(-EXFULL, told(&target, 0));
	return request;
}

static void test_an_open_in_a_grant_never_leaves_c(void)
{
	begin();
	ASK(&target, 0, SYS_openat, AT_FDCWD, word("granted/file"), O_RDONLY);
	CHECK(settled() > 2);
	ASK(&target, 0, SYS_openat, AT_FDCWD, word("granted/none"), O_RDONLY);
	CHECK_EQUAL(-ENOENT, settled());
	ASK(&target, 0, SYS_openat, AT_FDCWD, word("granted"), O_RDONLY | O_DIRECTORY);
	CHECK(settled() > 2);
	ASK(&target, 0, SYS_openat, AT_FDCWD, word("written/file"), O_RDWR);
	CHECK(settled() > 2);
	ASK(&target, 0, SYS_openat, AT_FDCWD, word("elsewhere/file"), O_PATH); /* Landlock does not judge it */
	CHECK(settled() > 2);
	CHECK_EQUAL(0, counts_of(&served).to_python);
	end();
}

static void test_an_open_elsewhere_comes_with_its_path(void)
{
	struct slk_request *request;

	begin();
	ASK(&target, 0, SYS_openat, AT_FDCWD, word("granted/slow/file"), O_RDONLY);
	request = handed_over(SLK_REASON_ZONE);
	CHECK_EQUAL(strlen(target.words), request->path_length);
	CHECK_EQUAL(0, memcmp(target.words, request->path, request->path_length));
	ASK(&target, 0, SYS_openat, AT_FDCWD, word("granted/file"), O_WRONLY);
	handed_over(SLK_REASON_NOT_GRANTED);
	ASK(&target, 0, SYS_openat, AT_FDCWD, word("granted/out"), O_RDONLY);
	handed_over(SLK_REASON_NOT_GRANTED);
	ASK(&target, 0, SYS_openat, AT_FDCWD, word("granted/out"), O_RDONLY | O_NOFOLLOW);
	CHECK_EQUAL(-ELOOP, settled());
	ASK(&target, 0, SYS_openat, AT_FDCWD, words_at(&target, 0, ""), O_RDONLY);
	CHECK_EQUAL(0, handed_over(SLK_REASON_ZONE)->path_length);
	end();
}

static void test_a_relative_path_starts_where_the_caller_is(void)
{
	long directory;

	begin();
	ASK(&target, 0, SYS_chdir, word("granted/dir"));
	CHECK_EQUAL(0, told(&target, 0));
	ASK(&target, 0, SYS_openat, AT_FDCWD, words_at(&target, 0, "../file"), O_RDONLY);
	CHECK(settled() > 2);
	ASK(&target, 0, SYS_openat, AT_FDCWD, words_at(&target, 0, "../slow/file"), O_RDONLY);
	handed_over(SLK_REASON_ZONE);
	ASK(&target, 0, SYS_openat, AT_FDCWD, word("elsewhere"), O_PATH);
	directory = settled();
	CHECK(directory > 2);
	ASK(&target, 0, SYS_openat, directory, words_at(&target, 0, "file"), O_RDONLY);
	handed_over(SLK_REASON_NOT_GRANTED);
	ASK(&target, 0, SYS_openat, directory, words_at(&target, 0, "dir_to_granted/file"), O_RDONLY);
	CHECK(settled() > 2);
	ASK(&target, 0, SYS_openat, 999, words_at(&target, 0, "file"), O_RDONLY);
	handed_over(SLK_REASON_ZONE); /* no such descriptor: Python finds out */
	/* The kernel looks at the low 32 bits of a descriptor only. */
	ASK(&target, 0, SYS_openat, (1L << 32) | directory, words_at(&target, 0, "file"), O_RDONLY);
	handed_over(SLK_REASON_NOT_GRANTED);
	end();
}

static void test_an_unreadable_path_comes_with_its_error(void)
{
	char *last = NULL;

	begin();
	ASK(&target, 0, SYS_openat, AT_FDCWD, 1, O_RDONLY);
	CHECK_EQUAL(EFAULT, handed_over(SLK_REASON_UNREADABLE)->path_error);
	memset(target.words, 'x', WORDS_BYTES);
	ASK(&target, 0, SYS_openat, AT_FDCWD, target.words, O_RDONLY);
	CHECK_EQUAL(ENAMETOOLONG, handed_over(SLK_REASON_UNREADABLE)->path_error);
	last = words_at(&target, WORDS_BYTES - 5, "none"); /* ends with the mapping */
	ASK(&target, 0, SYS_openat, AT_FDCWD, last, O_WRONLY | O_CREAT);
	CHECK_EQUAL(4, handed_over(SLK_REASON_NOT_GRANTED)->path_length);
	end();
}

static void test_openat2_is_judged_by_the_flags_in_memory(void)
{
	struct open_how how = {.flags = O_RDONLY};
	char *where;

	begin();
	where = target.words + 4096;
	memcpy(where, &how, sizeof(how));
	ASK(&target, 0, SYS_openat2, AT_FDCWD, word("granted/file"), where, sizeof(how));
	CHECK(settled() > 2);
	how.flags = O_RDWR;
	memcpy(where, &how, sizeof(how));
	ASK(&target, 0, SYS_openat2, AT_FDCWD, word("granted/file"), where, sizeof(how));
	handed_over(SLK_REASON_NOT_GRANTED);
	ASK(&target, 0, SYS_openat2, AT_FDCWD, word("granted/file"), 8, sizeof(how));
	CHECK_EQUAL(EFAULT, handed_over(SLK_REASON_UNREADABLE)->path_error);
	end();
}

static void test_both_paths_of_a_rename_are_judged(void)
{
	const char *from, *to;

	begin();
	make_file(below("written/a"));
	from = words_at(&target, 0, below("written/a"));
	to = words_at(&target, 4096, below("written/b"));
	ASK(&target, 0, SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
	CHECK_EQUAL(0, settled());
	words_at(&target, 0, below("written/b"));
	words_at(&target, 4096, below("granted/b"));
	ASK(&target, 0, SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
	handed_over(SLK_REASON_NOT_GRANTED);
	words_at(&target, 4096, below("granted/file"));
	ASK(&target, 0, SYS_renameat2, AT_FDCWD, to, AT_FDCWD, from, 0);
	handed_over(SLK_REASON_NOT_GRANTED);
	ASK(&target, 0, SYS_renameat2, AT_FDCWD, from, AT_FDCWD, 1, 0);
	CHECK_EQUAL(EFAULT, handed_over(SLK_REASON_UNREADABLE)->path_error);
	CHECK_EQUAL(0, access(below("written/b"), F_OK));
	CHECK_EQUAL(0, unlink(below("written/b")));
	end();
}

static void test_a_row_with_fixed_rights_needs_them(void)
{
	begin();
	ASK(&target, 0, SYS_mkdirat, AT_FDCWD, word("granted/new"), 0755);
	CHECK_EQUAL(0, settled());
	ASK(&target, 0, SYS_mkdirat, AT_FDCWD, word("written/new"), 0755);
	handed_over(SLK_REASON_NOT_GRANTED);
	CHECK_EQUAL(0, rmdir(below("granted/new")));
	CHECK(access(below("written/new"), F_OK) < 0);
	end();
}

int main(void)
{
	begin_tests();
	make_scene();
	RUN(test_a_grant_continues_and_nothing_else);
	RUN(test_a_link_is_judged_by_where_it_leads);
	RUN(test_a_link_in_the_last_place_counts_itself_when_not_followed);
	RUN(test_another_object_under_a_granted_name_is_pythons);
	RUN(test_what_was_judged_is_forgotten_soon);
	RUN(test_a_lookup_that_may_wait_is_not_made_in_c);
	RUN(test_a_path_that_is_too_long_or_too_deep_is_pythons);
	RUN(test_an_open_in_a_grant_never_leaves_c);
	RUN(test_an_open_elsewhere_comes_with_its_path);
	RUN(test_a_relative_path_starts_where_the_caller_is);
	RUN(test_an_unreadable_path_comes_with_its_error);
	RUN(test_openat2_is_judged_by_the_flags_in_memory);
	RUN(test_both_paths_of_a_rename_are_judged);
	RUN(test_a_row_with_fixed_rights_needs_them);
	rm_tree(tree);
	return 0;
}
