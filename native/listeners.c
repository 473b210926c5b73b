/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listeners that one engine serves: the program's, and those of programs that were started in its sandbox later.
 *
 * A filter's listener can be had by installing it only, so each further program brings one of its own. The first is waited
 * for directly, and costs what it would cost alone; the others sit in an epoll instance that is waited for beside it.
 */
#define _GNU_SOURCE
#include "forks.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

int slk_listeners_create(struct slk_engine *engine)
{
	for (int i = 0; i < SLK_LISTENERS_MAX; i++)
		engine->listeners[i].fd = -1;
	engine->further_fd = epoll_create1(EPOLL_CLOEXEC);
	return engine->further_fd < 0 ? -errno : 0;
}

void slk_listeners_destroy(struct slk_engine *engine)
{
	for (int i = 1; i < SLK_LISTENERS_MAX; i++)
		if (engine->listeners[i].fd >= 0)
			close(engine->listeners[i].fd);
	if (engine->further_fd >= 0)
		close(engine->further_fd);
}

void slk_set_sync(struct slk_listener *listener, int on)
{
	unsigned long flags = on ? SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP : 0UL;
	int result;

	if (!listener->sync_wake_up || listener->sync_now == on)
		return;
	do
		result = ioctl(listener->fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags);
	while (result < 0 && errno == EINTR);
	if (result == 0)
		listener->sync_now = on;
}

static int take(struct slk_listener *listener, int fd)
{
	*listener = (struct slk_listener){.fd = fd, .sync_wake_up = 1};
	slk_set_sync(listener, 1);
	listener->sync_wake_up = listener->sync_now; /* Linux 6.6; slower without */
	return listener->sync_wake_up;
}

int slk_engine_attach(struct slk_engine *engine, int listener_fd)
{
	engine->pulls = take(&engine->listeners[0], listener_fd);
	return engine->pulls;
}

int slk_engine_attach_further(struct slk_engine *engine, int listener_fd, uint32_t at)
{
	struct epoll_event event = {.events = EPOLLIN};
	uint32_t index = at ? at : 1;

	while (!at && index < SLK_LISTENERS_MAX && engine->listeners[index].fd >= 0)
		index++;
	if (index >= SLK_LISTENERS_MAX || engine->listeners[index].fd >= 0)
		return -ENOSPC;
	event.data.u32 = index;
	if (epoll_ctl(engine->further_fd, EPOLL_CTL_ADD, listener_fd, &event) < 0)
		return -errno;
	take(&engine->listeners[index], listener_fd);
	engine->further_count++;
	if (engine->forks)
		slk_forks_one_more(engine->forks);
	return (int)index;
}

uint32_t slk_engine_further(const struct slk_engine *engine)
{
	return engine->further_count;
}

int slk_engine_further_fd(const struct slk_engine *engine)
{
	return engine->further_fd;
}

static void close_unused(struct slk_listener *listener)
{
	if (!listener->is_ended || listener->open)
		return;
	close(listener->fd);
	listener->fd = -1;
}

void slk_listener_ended(struct slk_engine *engine, uint32_t index)
{
	struct slk_listener *listener = &engine->listeners[index];

	epoll_ctl(engine->further_fd, EPOLL_CTL_DEL, listener->fd, NULL);
	engine->further_count--;
	listener->is_ended = 1;
	close_unused(listener);
}

void slk_listener_released(struct slk_engine *engine, uint32_t index)
{
	engine->listeners[index].open--;
	close_unused(&engine->listeners[index]);
}

/* HUP: the last task with the filter is a zombie. ERR, NVAL: never again anything to receive. */
int slk_listener_state_by(short revents)
{
	if (revents & POLLIN)
		return SLK_NOTIF_PENDING;
	return revents ? SLK_NOTIF_TERMINAL : SLK_NOTIF_EMPTY;
}

int slk_listener_state(int listener_fd)
{
	struct pollfd listener = {listener_fd, POLLIN, 0};
	int ready;

	do
		ready = poll(&listener, 1, 0);
	while (ready < 0 && errno == EINTR);
	if (ready < 0)
		return -errno;
	return slk_listener_state_by(listener.revents);
}
