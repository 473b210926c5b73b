/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing a stopped program's memory: process_vm_readv(2). */
#define _GNU_SOURCE
#include "slk.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#define PAGE 4096u /* the smallest page of any architecture: never reads over a boundary of a larger one */
#define FIRST_CHUNK 256u /* most paths are shorter: one small copy */

static uint32_t chunk_size(uint64_t address, uint32_t done, uint32_t capacity)
{
	uint32_t to_page_end = PAGE - (uint32_t)(address & (PAGE - 1));
	uint32_t chunk = done == 0 ? FIRST_CHUNK : PAGE;

	if (chunk > to_page_end)
		chunk = to_page_end;
	return chunk < capacity - done ? chunk : capacity - done;
}

/* A string may end one byte before an unmapped page, so no chunk crosses a page boundary. */
int slk_read_string(int tid, uint64_t address, uint32_t capacity, char *ret_text)
{
	uint32_t done = 0;

	if (tid <= 0)
		return -ESRCH;
	while (done < capacity) {
		uint32_t want = chunk_size(address + done, done, capacity);
		struct iovec local = {ret_text + done, want};
		struct iovec remote = {(void *)(uintptr_t)(address + done), want};
		ssize_t got = process_vm_readv(tid, &local, 1, &remote, 1, 0);
		const char *end;

		if (got <= 0)
			return got < 0 ? -errno : -EFAULT;
		end = memchr(ret_text + done, '\0', (size_t)got);
		if (end)
			return (int)(end - ret_text);
		done += (uint32_t)got;
	}
	return -ENAMETOOLONG;
}

static int whole(ssize_t moved, uint32_t size)
{
	if (moved < 0)
		return -errno;
	return (uint32_t)moved == size ? 0 : -EFAULT;
}

int slk_read_memory(int tid, uint64_t address, uint32_t size, void *ret_data)
{
	struct iovec local = {ret_data, size};
	struct iovec remote = {(void *)(uintptr_t)address, size};

	if (tid <= 0)
		return -ESRCH;
	return whole(process_vm_readv(tid, &local, 1, &remote, 1, 0), size);
}

int slk_write_memory(int tid, uint64_t address, uint32_t size, const void *data)
{
	struct iovec local = {(void *)(uintptr_t)data, size};
	struct iovec remote = {(void *)(uintptr_t)address, size};

	if (tid <= 0)
		return -ESRCH;
	return whole(process_vm_writev(tid, &local, 1, &remote, 1, 0), size);
}
