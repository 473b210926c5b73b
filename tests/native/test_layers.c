/* SPDX-License-Identifier: Apache-2.0 */
/* The index of an upper directory: what is set is found, what is moved is found there with all that is below it. */
#include "check.h"
#include "slk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int kind_at(struct slk_layers *layers, const char *path)
{
	return slk_layers_find(layers, path) & 0xff;
}

static struct slk_layers *some(void)
{
	struct slk_layers *layers = NULL;

	CHECK_EQUAL(0, slk_layers_create(&layers));
	CHECK_EQUAL(0, slk_layers_set(layers, "a", SLK_LAYER_DIRECTORY, SLK_LAYER_MERGED));
	CHECK_EQUAL(0, slk_layers_set(layers, "a/b", SLK_LAYER_DIRECTORY, 0));
	CHECK_EQUAL(0, slk_layers_set(layers, "a/b/file", SLK_LAYER_FILE, 0));
	CHECK_EQUAL(0, slk_layers_set(layers, "other", SLK_LAYER_WHITEOUT, 0));
	return layers;
}

static void what_is_set_is_found(void)
{
	struct slk_layers *layers = some();

	CHECK_EQUAL(SLK_LAYER_DIRECTORY | SLK_LAYER_MERGED << 8, slk_layers_find(layers, "a"));
	CHECK_EQUAL(SLK_LAYER_FILE, kind_at(layers, "a/b/file"));
	CHECK_EQUAL(SLK_LAYER_NONE, kind_at(layers, "a/file"));
	CHECK_EQUAL(SLK_LAYER_DIRECTORY, kind_at(layers, ""));
	CHECK_EQUAL(-ENOENT, slk_layers_set(layers, "no/such", SLK_LAYER_FILE, 0));
	slk_layers_destroy(layers);
}

static void what_is_below_goes_along(void)
{
	struct slk_layers *layers = some();

	CHECK_EQUAL(0, slk_layers_move(layers, "a/b", "moved"));
	CHECK_EQUAL(SLK_LAYER_FILE, kind_at(layers, "moved/file"));
	CHECK_EQUAL(SLK_LAYER_NONE, kind_at(layers, "a/b"));
	CHECK_EQUAL(0, slk_layers_move(layers, "moved", "other")); /* over what is there */
	CHECK_EQUAL(SLK_LAYER_FILE, kind_at(layers, "other/file"));
	CHECK_EQUAL(0, slk_layers_exchange(layers, "a", "other/file"));
	CHECK_EQUAL(SLK_LAYER_FILE, kind_at(layers, "a"));
	CHECK_EQUAL(SLK_LAYER_DIRECTORY, kind_at(layers, "other/file"));
	CHECK_EQUAL(-ENOENT, slk_layers_move(layers, "gone", "x"));
	slk_layers_destroy(layers);
}

static void what_is_dropped_takes_all_along(void)
{
	struct slk_layers *layers = some();

	slk_layers_drop(layers, "a");
	CHECK_EQUAL(SLK_LAYER_NONE, kind_at(layers, "a/b/file"));
	CHECK_EQUAL(0, slk_layers_set(layers, "other", SLK_LAYER_DIRECTORY, 0));
	CHECK_EQUAL(0, slk_layers_set(layers, "other/x", SLK_LAYER_FILE, 0));
	CHECK_EQUAL(0, slk_layers_set(layers, "other", SLK_LAYER_WHITEOUT, 0));
	CHECK_EQUAL(SLK_LAYER_NONE, kind_at(layers, "other/x"));
	slk_layers_clear(layers, "");
	CHECK_EQUAL(SLK_LAYER_NONE, kind_at(layers, "other"));
	slk_layers_destroy(layers);
}

static void many_names_are_found_again(void)
{
	struct slk_layers *layers = some();
	char path[64];

	for (int i = 0; i < 20000; i++) {
		snprintf(path, sizeof(path), "a/b/n%d", i);
		CHECK_EQUAL(0, slk_layers_set(layers, path, SLK_LAYER_FILE, 0));
	}
	CHECK_EQUAL(0, slk_layers_move(layers, "a", "z"));
	for (int i = 0; i < 20000; i += 7) {
		snprintf(path, sizeof(path), "z/b/n%d", i);
		CHECK_EQUAL(SLK_LAYER_FILE, kind_at(layers, path));
		slk_layers_drop(layers, path);
		CHECK_EQUAL(SLK_LAYER_NONE, kind_at(layers, path));
	}
	slk_layers_destroy(layers);
}

/* What a walk along a path says, as the fast path asks. */
static void a_walk_tells_how_far_it_got(void)
{
	struct slk_layers *layers = some();
	struct slk_layered found;
	struct slk_walk walk;
	const char *path = "/root/tree/a/b/file";

	CHECK_EQUAL(0, slk_walk_set(&walk, "", 0, path, (uint32_t)strlen(path)));
	slk_layers_walk(layers, walk.text, walk.ends, 2, walk.count, &found);
	CHECK(found.is_whole && found.kind == SLK_LAYER_FILE && found.parent_kind == SLK_LAYER_DIRECTORY);
	CHECK_EQUAL(0, found.parent_flags);
	path = "/root/tree/a/new";
	CHECK_EQUAL(0, slk_walk_set(&walk, "", 0, path, (uint32_t)strlen(path)));
	slk_layers_walk(layers, walk.text, walk.ends, 2, walk.count, &found);
	CHECK(!found.is_whole && found.is_last && found.flags == SLK_LAYER_MERGED);
	path = "/root/tree/other/below/it";
	CHECK_EQUAL(0, slk_walk_set(&walk, "", 0, path, (uint32_t)strlen(path)));
	slk_layers_walk(layers, walk.text, walk.ends, 2, walk.count, &found);
	CHECK(!found.is_whole && !found.is_last && found.kind == SLK_LAYER_WHITEOUT);
	slk_layers_destroy(layers);
}

static void only_plain_paths_are_plain(void)
{
	const char *plain[] = {"a", "./a/b", "../a", ".././x", ".", "..", "/a/./b", "a//b"};
	const char *other[] = {"a/", "a/.", "a/..", "a/../b", "/a/../b", "/..", "a/./"};

	for (size_t i = 0; i < sizeof(plain) / sizeof(*plain); i++)
		CHECK(slk_is_plain(plain[i], (uint32_t)strlen(plain[i])));
	for (size_t i = 0; i < sizeof(other) / sizeof(*other); i++)
		CHECK(!slk_is_plain(other[i], (uint32_t)strlen(other[i])));
}

static void what_is_watched_stays_so_until_it_is_no_directory(void)
{
	struct slk_layers *layers = some();

	CHECK_EQUAL(0, slk_layers_is_watched(layers, "a/b/file"));
	slk_layers_watch(layers, "a");
	CHECK_EQUAL(0, slk_layers_is_watched(layers, "a"));
	CHECK_EQUAL(1, slk_layers_is_watched(layers, "a/new"));
	CHECK_EQUAL(1, slk_layers_is_watched(layers, "a/b/file"));
	CHECK_EQUAL(0, slk_layers_set(layers, "a/b/deep", SLK_LAYER_DIRECTORY, 0));
	CHECK_EQUAL(0, slk_layers_is_watched(layers, "a/b/deep/new"));
	CHECK_EQUAL(0, slk_layers_move(layers, "a", "moved"));
	CHECK_EQUAL(1, slk_layers_is_watched(layers, "moved/new"));
	CHECK_EQUAL(0, slk_layers_is_watched(layers, "gone/new"));
	CHECK_EQUAL(0, slk_layers_set(layers, "moved", SLK_LAYER_WHITEOUT, 0));
	CHECK_EQUAL(0, slk_layers_set(layers, "moved", SLK_LAYER_DIRECTORY, 0));
	CHECK_EQUAL(0, slk_layers_is_watched(layers, "moved/new"));
	slk_layers_destroy(layers);
}

static void a_directory_tells_all_that_it_has(void)
{
	struct slk_layers *layers = some();
	char name[256], all[1024] = "";
	int kind;

	CHECK_EQUAL(0, slk_layers_set(layers, "a/b/gone", SLK_LAYER_WHITEOUT, 0));
	for (uint32_t number = 0; (kind = slk_layers_row(layers, "a/b", number, name)) != SLK_LAYER_NONE; number++) {
		CHECK_EQUAL(kind == SLK_LAYER_WHITEOUT, strcmp(name, "gone") == 0);
		strcat(all, name);
	}
	CHECK(strstr(all, "file") && strstr(all, "gone"));
	CHECK_EQUAL(SLK_LAYER_NONE, slk_layers_row(layers, "nowhere", 0, name));
	slk_layers_destroy(layers);
}

int main(void)
{
	RUN(a_directory_tells_all_that_it_has);
	RUN(what_is_watched_stays_so_until_it_is_no_directory);
	RUN(what_is_set_is_found);
	RUN(what_is_below_goes_along);
	RUN(what_is_dropped_takes_all_along);
	RUN(many_names_are_found_again);
	RUN(a_walk_tells_how_far_it_got);
	RUN(only_plain_paths_are_plain);
	return 0;
}
