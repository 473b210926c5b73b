/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which names the upper directory of a tree has: the same as what lies on disk there, for the fast path to ask without
 * a system call. Who changes the upper directory tells it here; a new supervisor fills it from the disk.
 *
 * A worker that copies up tells while the loop asks: so there is a lock, and it is held for a lookup only.
 */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define BUCKETS_FIRST 1024u

struct slk_node {
	struct slk_node *parent;
	struct slk_node *chain; /* in the bucket */
	struct slk_node *child; /* the first */
	struct slk_node *next;  /* sibling */
	struct slk_node *before;
	char *name;
	uint64_t hash; /* of the name */
	uint16_t length;
	uint8_t kind;
	uint8_t flags;
	uint8_t links_known;
	uint8_t watched;
	int32_t links; /* how many more subdirectories it shows than the lower directory has */
};

struct slk_layers {
	pthread_mutex_t lock;
	int watched;    /* any of them */
	int links_lost; /* lower names are gone that were not all names of what they named */
	struct slk_node root;
	struct slk_node **buckets;
	uint64_t mask;
	uint64_t count;
};

static uint64_t hash_name(const char *name, size_t length)
{
	uint64_t hash = 14695981039346656037ull;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (unsigned char)name[i]) * 1099511628211ull;
	return hash;
}

static struct slk_node **bucket(const struct slk_layers *layers, const struct slk_node *parent, uint64_t hash)
{
	uint64_t key = (hash ^ (uint64_t)(uintptr_t)parent * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xff51afd7ed558ccd);

	return &layers->buckets[(key >> 32) & layers->mask];
}

int slk_layers_create(struct slk_layers **ret_layers)
{
	struct slk_layers *layers = calloc(1, sizeof(*layers));

	if (!layers)
		return -ENOMEM;
	layers->mask = BUCKETS_FIRST - 1;
	layers->buckets = calloc(BUCKETS_FIRST, sizeof(struct slk_node *));
	if (!layers->buckets) {
		free(layers);
		return -ENOMEM;
	}
	pthread_mutex_init(&layers->lock, NULL);
	layers->root.kind = SLK_LAYER_DIRECTORY;
	layers->root.flags = SLK_LAYER_MERGED;
	*ret_layers = layers;
	return 0;
}

static void enter_bucket(struct slk_layers *layers, struct slk_node *node)
{
	struct slk_node **first = bucket(layers, node->parent, node->hash);

	node->chain = *first;
	*first = node;
}

static void leave_bucket(struct slk_layers *layers, struct slk_node *node)
{
	struct slk_node **at = bucket(layers, node->parent, node->hash);

	while (*at != node)
		at = &(*at)->chain;
	*at = node->chain;
}

static void enter_parent(struct slk_node *node, struct slk_node *parent)
{
	parent->links_known = 0;
	node->parent = parent;
	node->before = NULL;
	node->next = parent->child;
	if (parent->child)
		parent->child->before = node;
	parent->child = node;
}

static void leave_parent(struct slk_node *node)
{
	node->parent->links_known = 0;
	if (node->before)
		node->before->next = node->next;
	else
		node->parent->child = node->next;
	if (node->next)
		node->next->before = node->before;
}

/* Without room for more buckets the chains grow. */
static void grow(struct slk_layers *layers)
{
	uint64_t size = (layers->mask + 1) * 4;
	struct slk_node **old = layers->buckets;
	struct slk_node **buckets;
	uint64_t old_size = layers->mask + 1;

	if (layers->count <= layers->mask * 2)
		return;
	buckets = calloc(size, sizeof(struct slk_node *));
	if (!buckets)
		return;
	layers->buckets = buckets;
	layers->mask = size - 1;
	for (uint64_t i = 0; i < old_size; i++) {
		struct slk_node *node = old[i];

		while (node) {
			struct slk_node *after = node->chain;

			enter_bucket(layers, node);
			node = after;
		}
	}
	free(old);
}

static struct slk_node *lookup(const struct slk_layers *layers, const struct slk_node *parent, const char *name,
			       size_t length)
{
	uint64_t hash = hash_name(name, length);

	for (struct slk_node *node = *bucket(layers, parent, hash); node; node = node->chain)
		if (node->parent == parent && node->hash == hash && node->length == length &&
		    memcmp(node->name, name, length) == 0)
			return node;
	return NULL;
}

/* The directory that holds the last name, and that name. NULL: it is not there. */
static struct slk_node *parent_of(struct slk_layers *layers, const char *path, const char **ret_name)
{
	struct slk_node *node = &layers->root;

	for (;;) {
		const char *slash = strchr(path, '/');

		if (!slash) {
			*ret_name = path;
			return node;
		}
		node = lookup(layers, node, path, (size_t)(slash - path));
		if (!node)
			return NULL;
		path = slash + 1;
	}
}

static struct slk_node *node_at(struct slk_layers *layers, const char *path)
{
	const char *name;
	struct slk_node *parent;

	if (!*path)
		return &layers->root;
	parent = parent_of(layers, path, &name);
	return parent ? lookup(layers, parent, name, strlen(name)) : NULL;
}

static void drop_children(struct slk_layers *layers, struct slk_node *top)
{
	struct slk_node *node = top;

	while (top->child) {
		struct slk_node *above;

		while (node->child)
			node = node->child;
		above = node->parent;
		leave_bucket(layers, node);
		leave_parent(node);
		free(node->name);
		free(node);
		layers->count--;
		node = above;
	}
}

static void drop(struct slk_layers *layers, struct slk_node *node)
{
	drop_children(layers, node);
	leave_bucket(layers, node);
	leave_parent(node);
	free(node->name);
	free(node);
	layers->count--;
}

void slk_layers_destroy(struct slk_layers *layers)
{
	if (!layers)
		return;
	drop_children(layers, &layers->root);
	free(layers->buckets);
	pthread_mutex_destroy(&layers->lock);
	free(layers);
}

static int set_name(struct slk_node *node, const char *name)
{
	size_t length = strlen(name);
	char *copy = malloc(length + 1);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, name, length + 1);
	free(node->name);
	node->name = copy;
	node->length = (uint16_t)length;
	node->hash = hash_name(name, length);
	return 0;
}

static int set(struct slk_layers *layers, const char *path, int kind, int flags)
{
	const char *name = "";
	struct slk_node *parent, *node;

	if (!*path) {
		layers->root.flags = (uint8_t)flags;
		return 0;
	}
	parent = parent_of(layers, path, &name);
	if (!parent || strlen(name) > UINT16_MAX)
		return -ENOENT;
	node = lookup(layers, parent, name, strlen(name));
	if (!node) {
		node = calloc(1, sizeof(*node));
		if (!node || set_name(node, name) < 0) {
			free(node);
			return -ENOMEM;
		}
		enter_parent(node, parent);
		enter_bucket(layers, node);
		layers->count++;
		grow(layers);
	}
	if (kind != SLK_LAYER_DIRECTORY) {
		drop_children(layers, node);
		node->watched = 0;
	}
	parent->links_known = 0;
	node->kind = (uint8_t)kind;
	node->flags = (uint8_t)flags;
	return 0;
}

int slk_layers_set(struct slk_layers *layers, const char *path, int kind, int flags)
{
	int result;

	pthread_mutex_lock(&layers->lock);
	result = set(layers, path, kind, flags);
	pthread_mutex_unlock(&layers->lock);
	return result;
}

void slk_layers_drop(struct slk_layers *layers, const char *path)
{
	struct slk_node *node;

	pthread_mutex_lock(&layers->lock);
	node = node_at(layers, path);
	if (node == &layers->root)
		drop_children(layers, node);
	else if (node)
		drop(layers, node);
	pthread_mutex_unlock(&layers->lock);
}

void slk_layers_clear(struct slk_layers *layers, const char *path)
{
	struct slk_node *node;

	pthread_mutex_lock(&layers->lock);
	node = node_at(layers, path);
	if (node)
		drop_children(layers, node);
	pthread_mutex_unlock(&layers->lock);
}

static int move(struct slk_layers *layers, const char *from, const char *to)
{
	const char *name = "";
	struct slk_node *node = node_at(layers, from);
	struct slk_node *parent = parent_of(layers, to, &name);
	struct slk_node *there;
	int result;

	if (!node || !parent || node == &layers->root)
		return -ENOENT;
	there = lookup(layers, parent, name, strlen(name));
	if (there == node)
		return 0;
	if (there)
		drop(layers, there);
	leave_bucket(layers, node);
	result = set_name(node, name);
	if (result == 0) {
		leave_parent(node);
		enter_parent(node, parent);
	}
	enter_bucket(layers, node);
	return result;
}

int slk_layers_move(struct slk_layers *layers, const char *from, const char *to)
{
	int result;

	pthread_mutex_lock(&layers->lock);
	result = move(layers, from, to);
	pthread_mutex_unlock(&layers->lock);
	return result;
}

/* Two nodes change their places; what is below them goes along, by their addresses. */
int slk_layers_exchange(struct slk_layers *layers, const char *first, const char *second)
{
	struct slk_node *one, *other, *parent;
	char *name;
	uint64_t hash;
	uint16_t length;
	int result = -ENOENT;

	pthread_mutex_lock(&layers->lock);
	one = node_at(layers, first);
	other = node_at(layers, second);
	if (one && other && one != &layers->root && other != &layers->root) {
		leave_bucket(layers, one);
		leave_bucket(layers, other);
		parent = one->parent;
		leave_parent(one);
		enter_parent(one, other->parent);
		leave_parent(other);
		enter_parent(other, parent);
		name = one->name, hash = one->hash, length = one->length;
		one->name = other->name, one->hash = other->hash, one->length = other->length;
		other->name = name, other->hash = hash, other->length = length;
		enter_bucket(layers, one);
		enter_bucket(layers, other);
		result = 0;
	}
	pthread_mutex_unlock(&layers->lock);
	return result;
}

static int count_links(const struct slk_node *node, const char *path, int lower_fd)
{
	char name[SLK_PATH_MAX];
	int links = 0;

	for (const struct slk_node *child = node->child; child; child = child->next) {
		int length = snprintf(name, sizeof(name), "%s%s%s", path, *path ? "/" : "", child->name);
		struct stat status;
		int result;

		if (length >= (int)sizeof(name))
			return -ENAMETOOLONG;
		if (child->kind == SLK_LAYER_DIRECTORY && child->flags & SLK_LAYER_MERGED)
			continue;
		result = slk_stat_confined(lower_fd, name, &status);
		if (result < 0) /* only on a directory another one can be mounted by now that matters here */
			status.st_mode = result == -EXDEV ? S_IFDIR : 0;
		links += (child->kind == SLK_LAYER_DIRECTORY) - (S_ISDIR(status.st_mode) != 0);
	}
	return links;
}

int slk_layers_links(struct slk_layers *layers, const char *path, int lower_fd, int *ret_links)
{
	struct slk_node *node;
	int result = 0;

	pthread_mutex_lock(&layers->lock);
	node = node_at(layers, path);
	if (!node) {
		result = -ENOENT;
	} else {
		if (!node->links_known)
			node->links = count_links(node, path, lower_fd);
		node->links_known = 1;
		*ret_links = node->links;
	}
	pthread_mutex_unlock(&layers->lock);
	return result;
}

/* Nothing of the lower tree shows through it any more, nor through what is below it. */
void slk_layers_unmerge(struct slk_layers *layers, const char *path)
{
	struct slk_node *top, *node;

	pthread_mutex_lock(&layers->lock);
	top = node = node_at(layers, path);
	while (node) {
		node->flags &= (uint8_t)~SLK_LAYER_MERGED;
		node->links_known = 0;
		if (node->child) {
			node = node->child;
			continue;
		}
		while (node != top && !node->next)
			node = node->parent;
		node = node == top ? NULL : node->next;
	}
	pthread_mutex_unlock(&layers->lock);
}

void slk_layers_watch(struct slk_layers *layers, const char *path)
{
	struct slk_node *node;

	pthread_mutex_lock(&layers->lock);
	node = node_at(layers, path);
	if (node)
		node->watched = 1;
	pthread_mutex_unlock(&layers->lock);
	__atomic_store_n(&layers->watched, 1, __ATOMIC_RELAXED);
}

int slk_layers_is_watched(struct slk_layers *layers, const char *path)
{
	const struct slk_node *parent;
	const char *name;
	int result;

	if (!__atomic_load_n(&layers->watched, __ATOMIC_RELAXED))
		return 0;
	pthread_mutex_lock(&layers->lock);
	parent = parent_of(layers, path, &name);
	result = parent && (parent->watched || (parent->parent && parent->parent->watched));
	pthread_mutex_unlock(&layers->lock);
	return result;
}

void slk_layers_lose_links(struct slk_layers *layers)
{
	__atomic_store_n(&layers->links_lost, 1, __ATOMIC_RELAXED);
}

int slk_layers_links_lost(const struct slk_layers *layers)
{
	return __atomic_load_n(&layers->links_lost, __ATOMIC_RELAXED);
}

int slk_layers_is_empty(const struct slk_layers *layers)
{
	return __atomic_load_n(&layers->count, __ATOMIC_RELAXED) == 0;
}

static int told(const struct slk_node *node)
{
	return node->kind | node->flags << 8;
}

int slk_layers_find(struct slk_layers *layers, const char *path)
{
	const struct slk_node *node;
	int result;

	pthread_mutex_lock(&layers->lock);
	node = node_at(layers, path);
	result = node ? told(node) : SLK_LAYER_NONE;
	pthread_mutex_unlock(&layers->lock);
	return result;
}

int slk_layers_row(struct slk_layers *layers, const char *path, uint32_t number, char *ret_name)
{
	const struct slk_node *node;
	int result = SLK_LAYER_NONE;

	pthread_mutex_lock(&layers->lock);
	node = node_at(layers, path);
	node = node ? node->child : NULL;
	while (node && number--)
		node = node->next;
	if (node) {
		memcpy(ret_name, node->name, node->length);
		ret_name[node->length] = '\0';
		result = node->kind;
	}
	pthread_mutex_unlock(&layers->lock);
	return result;
}

/* As the fast path walks: each component of `path` from `start` on, which ends at ends[i]. */
void slk_layers_walk(struct slk_layers *layers, const char *text, const uint32_t *ends, uint32_t first, uint32_t count,
		     struct slk_layered *ret_found)
{
	const struct slk_node *node = &layers->root;
	struct slk_layered found = {.depth = first, .kind = SLK_LAYER_DIRECTORY, .parent_kind = SLK_LAYER_NONE};

	pthread_mutex_lock(&layers->lock);
	found.flags = node->flags;
	while (found.depth < count) {
		uint32_t start = ends[found.depth - 1] + 1;
		const struct slk_node *child;

		found.parent_kind = node->kind;
		found.parent_flags = node->flags;
		if (node->kind != SLK_LAYER_DIRECTORY)
			break;
		child = lookup(layers, node, text + start, ends[found.depth] - start);
		if (!child)
			break;
		node = child;
		found.depth++;
		found.kind = node->kind;
		found.flags = node->flags;
	}
	found.is_whole = found.depth == count;
	found.is_last = found.depth + 1 >= count;
	pthread_mutex_unlock(&layers->lock);
	*ret_found = found;
}
