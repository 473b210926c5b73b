/* SPDX-License-Identifier: Apache-2.0 */
/* Paths by their letters, and which zone covers them: zones.c, against a naive reading of the same rules. */
#include "check.h"

static struct slk_walk walk;

static const char *walked(const char *base, const char *path)
{
	int result = slk_walk_set(&walk, base, (uint32_t)strlen(base), path, (uint32_t)strlen(path));

	return result < 0 ? strerror(-result) : walk.text;
}

static void test_dots_and_slashes_are_normalised(void)
{
	CHECK_TEXT("", walked("", "/"));
	CHECK_TEXT("", walked("", "////"));
	CHECK_TEXT("/a/b", walked("", "/a/b"));
	CHECK_TEXT("/a/b", walked("", "//a///b//"));
	CHECK_TEXT("/a/b", walked("", "/./a/./b/."));
	CHECK_TEXT("/b", walked("", "/a/../b"));
	CHECK_TEXT("/a", walked("", "/a/b/.."));
	CHECK_TEXT("/a", walked("", "/a/b/../"));
	CHECK_TEXT("/...", walked("", "/..."));
	CHECK_TEXT("/..a/.b/c..", walked("", "/..a/.b/c.."));
}

static void test_dot_dot_stops_at_the_root(void)
{
	CHECK_TEXT("", walked("", "/.."));
	CHECK_TEXT("", walked("", "/a/../../.."));
	CHECK_TEXT("/b", walked("", "/../../b"));
	CHECK_TEXT("/b", walked("/a", "../../../b"));
}

static void test_a_relative_path_starts_at_its_base(void)
{
	CHECK_TEXT("/base/dir/a", walked("/base/dir", "a"));
	CHECK_TEXT("/base/a", walked("/base/dir", "../a"));
	CHECK_TEXT("/base/dir", walked("/base/dir", ""));
	CHECK_TEXT("/base/dir", walked("/base/dir", "."));
	CHECK_TEXT("/a", walked("/base/dir", "/a"));
	CHECK_TEXT("/a", walked("/", "a"));
}

static void test_only_the_given_length_is_read(void)
{
	CHECK_EQUAL(0, slk_walk_set(&walk, "/base-and-more", 5, "a/b-and-more", 3));
	CHECK_TEXT("/base/a/b", walk.text);
	CHECK_EQUAL(9, walk.length);
	CHECK_EQUAL(3, walk.count);
}

static void test_bytes_that_are_not_text_are_letters_like_others(void)
{
	CHECK_TEXT("/\xff\xfe/ \n\t/\x01", walked("", "/\xff\xfe/ \n\t/\x01"));
}

static void test_the_longest_path_with_the_longest_base_fits(void)
{
	static char base[SLK_PATH_MAX], path[SLK_PATH_MAX], whole[2 * SLK_PATH_MAX];

	memset(base, 'b', sizeof(base) - 1);
	memset(path, 'p', sizeof(path) - 1);
	base[0] = '/';
	CHECK_EQUAL(0, slk_walk_set(&walk, base, SLK_PATH_MAX - 1, path, SLK_PATH_MAX - 1));
	CHECK_EQUAL(2, walk.count);
	CHECK_EQUAL(2 * (SLK_PATH_MAX - 1) + 1, walk.length);
	CHECK_EQUAL('\0', walk.text[walk.length]);
	/* As much again does not: refused, not cut off. */
	memcpy(whole, walk.text, sizeof(whole));
	CHECK_EQUAL(-ENAMETOOLONG, slk_walk_set(&walk, whole, 2 * SLK_PATH_MAX - 1, path, 2));
}

static void test_as_many_components_as_there_is_room_for_and_no_more(void)
{
	static char path[SLK_PATH_MAX];

	for (int i = 0; i < SLK_COMPONENTS_MAX; i++)
		memcpy(path + 2 * i, "/x", 3);
	CHECK_EQUAL(0, slk_walk_set(&walk, "", 0, path, 2 * SLK_COMPONENTS_MAX));
	CHECK_EQUAL(SLK_COMPONENTS_MAX, walk.count);
	memcpy(path + 2 * SLK_COMPONENTS_MAX, "/x", 3);
	CHECK_EQUAL(-ENAMETOOLONG, slk_walk_set(&walk, "", 0, path, 2 * SLK_COMPONENTS_MAX + 2));
	/* What is taken back makes room again. */
	memcpy(path + 2 * SLK_COMPONENTS_MAX, "/../y", 6);
	CHECK_EQUAL(0, slk_walk_set(&walk, "", 0, path, 2 * SLK_COMPONENTS_MAX + 5));
	CHECK_EQUAL(SLK_COMPONENTS_MAX, walk.count);
}

/* ---- zones */

static struct slk_zone zone_at(const char *path, uint32_t rights)
{
	return (struct slk_zone){.path = path, .length = (uint32_t)strlen(path), .rights = rights};
}

static uint32_t rights_at(const struct slk_zone_table *table, const char *path)
{
	const struct slk_zone *zone;

	CHECK_EQUAL(0, slk_walk_set(&walk, "", 0, path, (uint32_t)strlen(path)));
	zone = slk_zones_find(table, &walk);
	return zone ? zone->rights : 0;
}

static void test_the_deepest_zone_decides(void)
{
	struct slk_zone zones[] = {zone_at("/a", 1), zone_at("/a/b/c", 2), zone_at("/a/b", 3), zone_at("/ab", 4)};
	struct slk_zone_table *table = NULL;

	CHECK_EQUAL(0, slk_zones_create(zones, 4, &table));
	CHECK_EQUAL(1, rights_at(table, "/a"));
	CHECK_EQUAL(1, rights_at(table, "/a/x"));
	CHECK_EQUAL(3, rights_at(table, "/a/b"));
	CHECK_EQUAL(3, rights_at(table, "/a/b/x/y"));
	CHECK_EQUAL(2, rights_at(table, "/a/b/c/d"));
	CHECK_EQUAL(3, rights_at(table, "/a/b/cc"));
	CHECK_EQUAL(4, rights_at(table, "/ab/c"));
	CHECK_EQUAL(1, rights_at(table, "/a/b/../x"));
	CHECK_EQUAL(0, rights_at(table, "/"));
	CHECK_EQUAL(0, rights_at(table, "/abc"));
	slk_zones_destroy(table);
}

static void test_the_root_zone_covers_the_rest(void)
{
	struct slk_zone zones[] = {zone_at("", 1), zone_at("/a", 2)};
	struct slk_zone_table *table = NULL;

	CHECK_EQUAL(0, slk_zones_create(zones, 2, &table));
	CHECK_EQUAL(1, rights_at(table, "/"));
	CHECK_EQUAL(1, rights_at(table, "/x/y"));
	CHECK_EQUAL(2, rights_at(table, "/a/y"));
	CHECK_EQUAL(1, rights_at(table, "/a/.."));
	slk_zones_destroy(table);
}

static void test_without_zones_nothing_is_covered(void)
{
	struct slk_zone_table *table = NULL;

	CHECK_EQUAL(0, slk_zones_create(NULL, 0, &table));
	CHECK_EQUAL(0, rights_at(table, "/"));
	CHECK_EQUAL(0, rights_at(table, "/a"));
	slk_zones_destroy(table);
}

static void test_the_table_keeps_its_own_copy(void)
{
	char path[] = "/a/b";
	struct slk_zone zone = zone_at(path, 7);
	struct slk_zone_table *table = NULL;

	CHECK_EQUAL(0, slk_zones_create(&zone, 1, &table));
	memset(path, 'z', sizeof(path) - 1);
	CHECK_EQUAL(7, rights_at(table, "/a/b"));
	slk_zones_destroy(table);
}

/* ---- against a naive reading */

static const char *const words[] = {".", "..", "", "a", "b", "aa", "...", ".a", "a."};

static uint32_t random_path(uint64_t *seed, char *ret_path, uint32_t parts_max)
{
	uint32_t length = 0;
	uint32_t parts = random_below(seed, parts_max) + 1;

	for (uint32_t i = 0; i < parts; i++)
		length += (uint32_t)sprintf(ret_path + length, "/%s", words[random_below(seed, 9)]);
	return length;
}

/* One component at a time, in strings. */
static void naive_normal(const char *path, char *ret_normal)
{
	char copy[512];
	char *rest = copy, *part;

	strcpy(copy, path);
	ret_normal[0] = '\0';
	while ((part = strsep(&rest, "/"))) {
		if (!strcmp(part, "..")) {
			char *slash = strrchr(ret_normal, '/');

			if (slash)
				*slash = '\0';
		} else if (*part && strcmp(part, ".") != 0) {
			strcat(strcat(ret_normal, "/"), part);
		}
	}
}

/* The longest zone that is the path, or a directory above it. */
static uint32_t naive_rights(const struct slk_zone *zones, uint32_t count, const char *normal)
{
	uint32_t best_length = 0, rights = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t length = zones[i].length;
		int covers = !strncmp(zones[i].path, normal, length) && (!normal[length] || normal[length] == '/');

		if (covers && (length >= best_length)) {
			best_length = length;
			rights = zones[i].rights;
		}
	}
	return rights;
}

static int is_new(const struct slk_zone *zones, uint32_t count, const char *path)
{
	for (uint32_t i = 0; i < count; i++)
		if (!strcmp(zones[i].path, path))
			return 0;
	return 1;
}

static void compare_one_table(uint64_t *seed)
{
	static char texts[40][512];
	struct slk_zone zones[40];
	struct slk_zone_table *table = NULL;
	uint32_t wanted = random_below(seed, 40);
	uint32_t count = 0;

	for (uint32_t i = 0; i < wanted; i++) {
		char path[256];

		random_path(seed, path, 6);
		naive_normal(path, texts[count]);
		if (!is_new(zones, count, texts[count]))
			continue;
		zones[count] = zone_at(texts[count], i + 1);
		count++;
	}
	CHECK_EQUAL(0, slk_zones_create(zones, count, &table));
	for (int i = 0; i < 200; i++) {
		char path[256], normal[512];

		random_path(seed, path, 12);
		naive_normal(path, normal);
		CHECK_TEXT(normal, walked("", path));
		CHECK_EQUAL(strlen(normal), walk.length);
		CHECK_EQUAL(naive_rights(zones, count, normal), rights_at(table, path));
	}
	slk_zones_destroy(table);
}

static void test_random_tables_and_paths_agree_with_the_naive_reading(void)
{
	uint64_t seed = 88172645463325252ull;

	for (int round = 0; round < 300; round++)
		compare_one_table(&seed);
}

static void test_a_base_and_a_path_are_one_path(void)
{
	uint64_t seed = 1234567;

	for (int round = 0; round < 20000; round++) {
		char base[256], path[256], whole[600], normal[600];

		random_path(&seed, base, 6);
		random_path(&seed, path, 6);
		sprintf(whole, "%s/%s", base, path + 1);
		naive_normal(whole, normal);
		if (path[1] != '/') /* an empty first word makes it absolute */
			CHECK_TEXT(normal, walked(base, path + 1));
	}
}

int main(void)
{
	begin_tests();
	RUN(test_dots_and_slashes_are_normalised);
	RUN(test_dot_dot_stops_at_the_root);
	RUN(test_a_relative_path_starts_at_its_base);
	RUN(test_only_the_given_length_is_read);
	RUN(test_bytes_that_are_not_text_are_letters_like_others);
	RUN(test_the_longest_path_with_the_longest_base_fits);
	RUN(test_as_many_components_as_there_is_room_for_and_no_more);
	RUN(test_the_deepest_zone_decides);
	RUN(test_the_root_zone_covers_the_rest);
	RUN(test_without_zones_nothing_is_covered);
	RUN(test_the_table_keeps_its_own_copy);
	RUN(test_random_tables_and_paths_agree_with_the_naive_reading);
	RUN(test_a_base_and_a_path_are_one_path);
	return 0;
}
