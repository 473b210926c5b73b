/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room for what is made on behalf of the program: whether there is any, and keeping some until it is noted (disk.c).
 */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>

#define NEAR_BYTES (UINT64_C(64) << 20) /* with less room than that, whoever asks for some has us look first */

static uint64_t room_with(const struct slk_disk *disk, uint64_t freed_bytes)
{
	uint64_t used = disk->total + disk->reserved;

	used -= freed_bytes < used ? freed_bytes : used;
	return used < disk->opened_below ? disk->opened_below - used : 0;
}

uint64_t slk_disk_room(const struct slk_disk *disk)
{
	return room_with(disk, 0);
}

static int has_room(struct slk_disk *disk, uint64_t bytes, uint64_t freed_bytes)
{
	uint64_t there = room_with(disk, freed_bytes);
	/* What may have been written since: */
	uint64_t near = disk->processors * SLK_DISK_FASTEST_BYTES_PER_NS * SLK_DISK_FRESH_NS;

	if (slk_disk_is_stale(disk) && near < NEAR_BYTES)
		near = NEAR_BYTES;
	if (there >= bytes && there - bytes >= near)
		return 1;
	slk_disk_look(disk);
	return room_with(disk, freed_bytes) >= bytes;
}

int slk_disk_has_room(struct slk_disk *disk, uint64_t bytes, uint64_t freed_bytes)
{
	int result;

	pthread_mutex_lock(&disk->lock);
	result = has_room(disk, bytes, freed_bytes);
	pthread_mutex_unlock(&disk->lock);
	return result;
}

int slk_disk_reserve(struct slk_disk *disk, uint64_t bytes)
{
	int result;

	pthread_mutex_lock(&disk->lock);
	result = has_room(disk, bytes, 0) ? 0 : -ENOSPC;
	if (result == 0)
		disk->reserved += bytes;
	slk_disk_hurry(disk);
	pthread_mutex_unlock(&disk->lock);
	return result;
}

void slk_disk_release(struct slk_disk *disk, uint64_t bytes)
{
	pthread_mutex_lock(&disk->lock);
	disk->reserved -= bytes < disk->reserved ? bytes : disk->reserved;
	pthread_mutex_unlock(&disk->lock);
}
