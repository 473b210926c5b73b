/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLK_H
#define SLK_H

#include <linux/seccomp.h>
#include <sched.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "boundary.h"

/* Newer than Debian 12's headers (6.1); values from the kernel's uapi headers. */
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, uint64_t)
#endif
#define SLK_LANDLOCK_SCOPE_SIGNAL (1ULL << 1)
/* The kernel's own (include/linux/errno.h): no program ever sees them. */
#define SLK_ERESTARTSYS 512
#define SLK_ERESTARTNOINTR 513
#define SLK_ERESTARTNOHAND 514
#define SLK_TIDS_END (1u << 22) /* PID_MAX_LIMIT (include/linux/threads.h): no number is larger */

/* struct linux_dirent64, getdents64(2) */
struct slk_dirent {
	uint64_t inode;
	int64_t offset;
	unsigned short length;
	unsigned char type;
	char name[];
};

/* struct landlock_ruleset_attr of ABI 6; the one in 6.1's header ends after the first member. */
struct slk_landlock_attr {
	uint64_t handled_access_fs;
	uint64_t handled_access_net;
	uint64_t scoped;
};

struct slk_shared;
struct slk_engine_view;

/* fork has happened, exec has not: async-signal-safe calls only. None of the two returns. */
_Noreturn void slk_init_main(const struct slk_launch_plan *plan, int control_fd);
_Noreturn void slk_child_main(const struct slk_launch_plan *plan, int control_fd);
/* A further program; plan->stdio are its own. */
_Noreturn void slk_further_main(const struct slk_launch_plan *plan, int control_fd, uint32_t serial, int words_fd);
/* Tell the supervisor what failed. Errors are ignored: if it is gone, the leash has said so already. */
void slk_report_failure(int control_fd, enum slk_stage stage, int error);
int slk_report_send(int control_fd, const struct slk_report *report, int passed_fd);
/* 0: init cannot take it yet. Where it is gone, so is everything else. */
int slk_order_everything_ended(int control_fd);

/* What init has to say while nobody listens: a stopped supervisor must not keep it from its work. Of stops that follow one
 * another only the last counts; the rest is said once each. */
#define SLK_OUTBOX_MAX (8 + SLK_EXECUTED_MAX)
struct slk_outbox {
	uint32_t count;
	struct slk_report waiting[SLK_OUTBOX_MAX];
};

void slk_tell(struct slk_outbox *outbox, int control_fd, const struct slk_report *report);
/* What waits; wait: until it is said, or nobody is there to hear it. */
void slk_tell_waiting(struct slk_outbox *outbox, int control_fd, int wait);

struct slk_promptness {
	int nice;
	int slack_ns;
};

/* How many there may ever be. Asked once, before init has no heap any more: the C library may need it for that. */
uint32_t slk_processors(void);

/* ---- exec_order.c: further programs in a sandbox that runs */

#define SLK_ORDER_FDS_MAX 4 /* standard input, output and error, and the words */

struct slk_executed {
	pid_t pid; /* 0: none */
	uint32_t serial;
};

/* init's. */
struct slk_executing {
	struct slk_launch_plan plan; /* that of the program; but the ruleset is where init keeps it */
	struct slk_outbox *outbox;
	struct slk_promptness promptness; /* of a program */
	struct slk_executed executed[SLK_EXECUTED_MAX];
};

/* One order, and its descriptors; those that are not there are -1. As recv(2). */
ssize_t slk_order_receive(int control_fd, struct slk_order *ret_order, int *ret_fds);
/* 0, or -1: it is nothing that one understands. */
int slk_execute(struct slk_executing *executing, int control_fd, const struct slk_order *order, const int *fds);
/* If it is there still. */
void slk_signal_executed(struct slk_executing *executing, const struct slk_order *order);
/* Somebody was reaped. */
void slk_executed_ended(struct slk_executing *executing, int control_fd, pid_t pid, int status);

/* What a further program is told, in memory of its own. */
struct slk_told {
	const char *directory;
	char **candidates; /* all three end with NULL */
	char **arguments;
	char **environment;
	char **shell_arguments; /* what runs a script without #!; its second is the file */
};

/* 0, or -errno. */
int slk_words_read(int words_fd, struct slk_told *ret_told);

/* ---- the fast path's own parts */

/* An absolute path, normalised by its letters alone, with the hash of each prefix that ends at a component. */
#define SLK_COMPONENTS_MAX 128
struct slk_walk {
	uint32_t length;
	uint32_t count;
	uint32_t ends[SLK_COMPONENTS_MAX];
	uint64_t hashes[SLK_COMPONENTS_MAX];
	char text[2 * SLK_PATH_MAX];
};

int slk_walk_set(struct slk_walk *walk, const char *base, uint32_t base_length, const char *path, uint32_t length);
/* One more name. The text is not ended by it. */
int slk_walk_push(struct slk_walk *walk, const char *name, uint32_t length);

struct slk_zone_table;
int slk_zones_create(const struct slk_zone *zones, uint32_t count, struct slk_zone_table **ret_table);
void slk_zones_destroy(struct slk_zone_table *table);
/* The deepest zone that covers the path, or NULL. */
const struct slk_zone *slk_zones_find(const struct slk_zone_table *table, const struct slk_walk *walk);

/* ---- status.c */

/* Did we lack something? Then it is not known what there is. error: below 0. */
int slk_is_ours(int error);
/* Of a file of /proc as much as fits, NUL-ended: how much, or -errno. */
int slk_read_text(const char *path, char *ret_text, size_t size);
/* Of /proc/<tid>/status as much as fits, NUL-ended: how much, or -errno. */
int slk_read_status(int32_t tid, char *ret_text, size_t size);
/* The first number of a line, its name given as "\nName:"; -1: none. */
long slk_status_number(const char *text, const char *name);

/* ---- killing.c: whom init can signal */

/* From now on only itself and what descends from it. 0 when that is proven, or -errno. */
int slk_scope_signals(void);
/* Where that is not to be had. Orphans become our children, so passes reach every depth. */
void slk_kill_children_once(void);
/* Each process that /proc shows, or thread that /proc/<pid>/task does, in ascending order. */
void slk_each_number(const char *directory, void (*visit)(void *, pid_t), void *context);
/* Is it of our sandbox? scoped: it was proven that we can signal nobody else. We ourselves are not. */
int slk_is_inside(int scoped, pid_t pid);
/* To all of the sandbox. */
void slk_signal_all(int scoped, int number);

/* ---- cputime.c: what the processes of a sandbox have used of processors, together */

struct slk_cpu_process;

struct slk_cputime {
	int scoped;
	uint64_t dead_ns;  /* what those had used that we had waited for, at the last look */
	double missing_ns; /* what the gone had used and does not show; less than nothing, too, by chance */
	double variance;   /* of that */
	uint32_t parents;  /* the living that children's time shows with */
	struct slk_cpu_process *before, *now; /* who there was at the last look, and a place for the next; or NULL */
	uint32_t before_count, now_count;
};

void slk_cputime_begin(struct slk_cputime *cpu, int scoped);
/* Nanoseconds, of the living and the dead. between_ns: how long it is between two looks, on average. */
uint64_t slk_cputime_look(struct slk_cputime *cpu, uint64_t between_ns);
/* When all are dead and reaped. */
uint64_t slk_cputime_end(const struct slk_cputime *cpu);

/* ---- limits.c: what init ends its sandbox for */

enum slk_due { SLK_DUE_NOTHING, SLK_DUE_ASK, SLK_DUE_END };

struct slk_limits {
	uint64_t timeout_ns, grace_ns, cpu_time_ns;
	uint64_t ask_ns, end_ns, look_ns; /* when what is due (slk_now_ns); 0: never */
	uint32_t processors;
	uint64_t between_ns; /* the looks, as it is to be expected */
	uint64_t random;
	int reached; /* enum slk_limit */
	uint64_t used_ns;
	struct slk_cputime cpu;
};

void slk_limits_begin(struct slk_limits *limits, const struct slk_launch_plan *plan, int scoped);
/* Until something is due: milliseconds, -1: for ever. */
int slk_limits_wait_ms(const struct slk_limits *limits);
/* What is due now; `reached` says for what. */
enum slk_due slk_limits_due(struct slk_limits *limits);
/* Everything is about to be killed, */
void slk_limits_ending(struct slk_limits *limits);
/* and is dead, and reaped. 1: it turns out that a limit was passed. */
int slk_limits_ended(struct slk_limits *limits);

/* ---- throttle.c: a share of the processors, and pauses */

/* holding.c */
struct slk_holding {
	int scoped;
	int holds;    /* whoever computes, */
	int in_pause; /* and whoever has run since the last search */
	uint64_t pause_ns; /* between two of them */
	uint8_t *flags; /* of each thread, by its number; SLK_TIDS_END */
	pid_t *tids;    /* those that have any */
	uint32_t tid_count;
	uint32_t found; /* in this pass */
	int has_unheld;  /* in this search somebody computes who cannot be held, */
	uint32_t unheld; /* and so many searches had one since nobody was held */
};

struct slk_throttle {
	uint32_t percent; /* of one processor; 0: no limit */
	uint32_t processors;
	int is_paused;
	uint64_t until_ns; /* all are held for the share; in a pause, for as long as that is */
	uint64_t due_ns; /* the next look, or while all are held, search; 0: never */
	uint64_t used_ns;    /* by all, at the last look, */
	uint64_t counted_ns; /* which was then, */
	uint64_t allowed_ns; /* and what they might have used by then */
	uint64_t quota_ns;   /* so much less than that is not saved up */
	uint64_t random;
	int cannot_hold;
	struct slk_holding holding;
	struct slk_cputime cpu;
};

/* Can init hold what descends from it (throttle_trial.c)? 0, or -errno. */
int slk_throttle_possible(void);
/* percent: 0: no limit. There is one of these in a process. It was zero before, or paused. */
void slk_throttle_begin(struct slk_throttle *throttle, uint32_t percent, int scoped);
/* All that compute are held, and whoever begins to, until they are resumed. 0; -EPERM: who is there cannot be held; or -errno. */
int slk_throttle_pause(struct slk_throttle *throttle, int scoped);
void slk_throttle_resume(struct slk_throttle *throttle);
/* When something is due (slk_now_ns), -1: never. */
int64_t slk_throttle_due_ns(const struct slk_throttle *throttle);
/* Does it, if it is due. 1: somebody computes who cannot be held. */
int slk_throttle_due(struct slk_throttle *throttle);
/* A stop of a traced thread. 1: it was for this, and is dealt with. */
int slk_throttle_takes_stop(pid_t tid, int status);
/* It was reaped. */
void slk_throttle_gone(pid_t tid);
/* For this alone, and will be let go: */
int slk_throttle_has_seized(pid_t tid);
/* And now not for this alone any more, if it was. */
void slk_throttle_leave_seized(pid_t tid);

/* ---- signals_kept.c: what the program is sent while it is paused */

struct slk_signals_kept {
	uint32_t counts[64]; /* by number - 1 */
};

/* 1: it is for later; 0: it cannot wait. */
int slk_signals_keep(struct slk_signals_kept *kept, int number);
void slk_signals_send(struct slk_signals_kept *kept, pid_t pid);
/* As kill(2) wants it: the group that this process leads; else itself, as its group is somebody else's. */
pid_t slk_group_of(pid_t pid);

/* ---- tracer.c: init traces processes whose calls signals would interrupt */

/* Of a process that init traces all the time. */
#define SLK_TRACE_OPTIONS (PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)
/* PTRACE_SEIZE. 0; -EAGAIN: its process is in execve; or -errno. */
int slk_trace_seize(pid_t tid, int options);
/* Every thread of the process. 0, or -EAGAIN: one of them is in execve; reap, and try again. */
int slk_trace_process(pid_t tid);
/* Its execve takes long: */
void slk_trace_later(pid_t tid);
/* and one more try, of one of those. 1: some are left. */
int slk_trace_late(void);
/* A traced thread stops before it returns to the program from what it waits in. 1: it will. */
int slk_trace_interrupt(pid_t tid);
int slk_is_traced(pid_t tid);
/* A stop of a traced thread: let it go on. Returns the signal of a job-control stop, which lasts; else 0. */
int slk_traced_stopped(const struct slk_engine_view *engine, pid_t tid, int status);
/* Is it a child of ours, not a thread nor a traced process of somebody else? Asked while it is a zombie. */
int slk_is_own_child(pid_t pid);
void slk_acknowledge(struct slk_shared *shared, uint32_t serial, int done);
/* The supervisor's side: 1 when init has taken it, and the thread will stop. As slk_order_init. */
int slk_order_restart(struct slk_engine *engine, int control_fd, const struct slk_rewrite *rewrite, int32_t timeout_ms);
/* init's: at the thread's next stop. 1: it will stop. */
int slk_trace_restart(const struct slk_rewrite *rewrite);

/* ---- rewrite.c: another call in the place of one that is trapped */

/* A stop of a thread that we trace, on its way through. The ptrace(2) request to go on with, and its signal; 0: it is
 * over, and the thread goes on as without us. */
int slk_rewrite_step(struct slk_shared *shared, struct slk_rewrite *rewrite, int status, long *ret_signal);
int slk_is_job_control(int number);
#define SLK_IS_CALL_STOP(status) (WSTOPSIG(status) == (SIGTRAP | 0x80)) /* PTRACE_O_TRACESYSGOOD */

/* ---- restarts.c: the supervisor does it */

/* Goes on with what did not stop in time. 1: something is left. */
int slk_rewrites_finish(struct slk_engine *engine);
/* As much as can be had at the end. */
void slk_rewrites_end(struct slk_engine *engine);
/* 1: it is the call that its thread was made to make, and answered. */
int slk_rewrite_passes(struct slk_engine *engine, const struct slk_request *request);
void slk_rewrite_forget(struct slk_engine *engine, int32_t tid);

/* ---- fastpath.c */

/* 0: the kernel's own judgement suffices; else enum slk_reason + 1 says why Python must look. */
int slk_fast_judge(struct slk_engine *engine, const struct slk_walk *walk, uint32_t need, int follow,
		   int *ret_may_wait);
int slk_fast_call(struct slk_engine *engine, struct slk_request *request);
/* For tests: what the fast path thinks of an absolute path: 1 continue, 0 Python. */
int slk_engine_judge(struct slk_engine *engine, const char *path, uint32_t need, int follow);

struct slk_judged {
	uint64_t key;
	uint64_t expires_ns;
	const struct slk_zone *object; /* granted to an object, which may have another in its place by now; or NULL */
	int may_wait;
};

/* In the place of rights (LANDLOCK_ACCESS_FS_*), for what else is remembered of a path: none of them is another's. */
#define SLK_NEED_TO_SEE (1u << 31)  /* what only looks: it asks for no right, and any zone or none is the same to it */
#define SLK_NEED_IN_TREE (1u << 30) /* the kernel finds what the program is to see; with an enum slk_look beside it */
#define SLK_NEED_TO_SEARCH (1u << 29)
#define SLK_NEED_DIRECTORY (1u << 28)      /* beside SLK_NEED_IN_TREE: found, without a link or a mount on the way */
#define SLK_NEED_AS_INTERPRETER (1u << 27) /* it does not come by what depends on who asks, */
#define SLK_NEED_AS_EXECUTED (1u << 26)    /* nor does what this file names to be executed */

/* ---- trees.c */

#define SLK_TREES_MAX 4
#define SLK_ORIGIN_ATTRIBUTE "user.sandlockd.origin" /* overlay/identity.py */
#define SLK_ANSWERED (-1) /* beside 0 and reason + 1 */

struct slk_tree {
	char root[SLK_PATH_MAX];
	char upper[SLK_PATH_MAX];
	uint32_t root_length;
	uint32_t upper_length;
	uint32_t root_components;
	struct slk_layers *layers;
	struct slk_numbers *numbers;
	int lower_fd, upper_fd, work_fd; /* lower_fd: -1: there is none */
	uint64_t upper_device;
	int has_moved;
	int touched; /* see touched.c */
};

/* What the index has of a path. */
struct slk_layered {
	uint32_t depth; /* how many components it has */
	uint8_t kind;   /* of the deepest of them, as flags */
	uint8_t flags;
	uint8_t parent_kind; /* of the directory above it */
	uint8_t parent_flags;
	uint8_t is_whole; /* all */
	uint8_t is_last;  /* all, or all but the last */
};

void slk_layers_walk(struct slk_layers *layers, const char *text, const uint32_t *ends, uint32_t first, uint32_t count,
		     struct slk_layered *ret_found);
struct slk_tree *slk_tree_of(struct slk_engine *engine, const struct slk_walk *walk);
int slk_tree_rename_base(const struct slk_engine *engine, char *base, uint32_t *length);
int slk_tree_is_passage(struct slk_engine *engine, const struct slk_walk *walk);
int slk_tree_may_have_moved(const struct slk_engine *engine, const char *base, uint32_t length);
int slk_tree_has_anew(const struct slk_engine *engine, const char *base, uint32_t length);
int slk_is_plain(const char *path, uint32_t length);
int slk_tree_call(struct slk_engine *engine, struct slk_request *request, struct slk_tree *tree,
		  const struct slk_walk *walk, int from_upper);
int slk_tree_rename(struct slk_engine *engine, struct slk_request *request, struct slk_tree *tree,
		    const struct slk_walk *from, const struct slk_walk *to);
int slk_layers_links_lost(const struct slk_layers *layers);
int slk_layers_is_empty(const struct slk_layers *layers);
/* Is the directory that this name is in watched, or the one above? */
int slk_layers_is_watched(struct slk_layers *layers, const char *path);
int slk_layers_links(struct slk_layers *layers, const char *path, int lower_fd, int *ret_links);
const char *slk_tree_relative(const struct slk_tree *tree, const struct slk_walk *walk);
int slk_open_confined(int fd, const char *path, uint64_t flags, uint64_t mode);
/* Links are not followed, and no mount is crossed (-EXDEV): its server might not answer. */
struct stat;
int slk_stat_confined(int fd, const char *path, struct stat *ret_status);
int slk_answer_call(struct slk_engine *engine, struct slk_request *request, int64_t value, int error);
int slk_tree_alive(const struct slk_engine *engine, const struct slk_request *request);
uint32_t slk_tree_open_flags_of(const struct slk_engine *engine, const struct slk_request *request);
int slk_tree_hand_over(struct slk_engine *engine, struct slk_request *request, int fd, uint32_t flags);
int slk_tree_open_upper(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			const char *path, uint32_t flags);
/* changes.c: SLK_ANSWERED, or reason + 1. path: relative to the tree. */
int slk_tree_open_to_change(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			    const char *path, const struct slk_layered *found, uint32_t flags);
int slk_tree_make_directory(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			    const char *path, const struct slk_layered *found);
int slk_tree_remove_file(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			 const char *path, const struct slk_layered *found);
int slk_tree_remove_directory(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
			      const char *path, const struct slk_layered *found);
int slk_tree_may_search_above(struct slk_engine *engine, const struct slk_tree *tree, const struct slk_walk *walk,
			      const struct slk_layered *found);
int slk_tree_unchanged(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
		       const struct slk_walk *walk, const struct slk_layered *found);
/* descriptors.c */
int slk_tree_descriptor(struct slk_engine *engine, struct slk_request *request);
int slk_is_below(const char *path, uint32_t length, const char *top, uint32_t top_length);
/* The tree that a normalised path is in, by its letters. */
struct slk_tree *slk_tree_at(struct slk_engine *engine, const char *path, uint32_t length);

/* ---- touched.c: whether a tree may be other than the kernel has it */

int slk_tree_begins_untouched(const struct slk_engine *engine, const struct slk_tree *tree);
/* May this call change a tree? */
int slk_may_touch(const struct slk_engine *engine, const struct slk_request *request);
void slk_touch_trees(struct slk_engine *engine);
/* There are trees, and what the kernel finds by any path is what is to be told. */
int slk_trees_are_untouched(const struct slk_engine *engine);
/* Whatever is open, the kernel tells of it what is to be told: nothing in a lower tree has a counterpart in the upper, and
 * everything in an upper is told by its own number. */
int slk_all_is_as_open(const struct slk_engine *engine);

/* 1: everything in the upper is told by the number that it has. */
int slk_numbers_are_own(const struct slk_numbers *numbers);
/* telling.c: 0 (only of a descriptor): the kernel tells the same; SLK_ANSWERED, or reason + 1. path: as above. */
int slk_tell_path(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree, const char *path,
		  const struct slk_layered *found);
int slk_tell_descriptor(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree);
int slk_tell_merged(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
		    const char *path);
/* listing.c: likewise, of a descriptor of a directory through which nothing of the lower tree shows. */
int slk_tell_listing(struct slk_engine *engine, struct slk_request *request, const struct slk_tree *tree,
		     const char *path);
/* The magic link of a descriptor, or of the working directory. */
void slk_descriptor_link(const struct slk_request *request, int fd, char *ret_link, size_t size);
/* ---- judged.c: what was judged a moment ago, of the first `depth` components of a path */

/* NULL: nothing that still holds. */
const struct slk_judged *slk_judged_find(struct slk_engine *engine, const struct slk_walk *walk, uint32_t depth,
					 uint32_t need, int follow);
/* judged: all but the key. */
void slk_judged_keep(struct slk_engine *engine, const struct slk_walk *walk, uint32_t depth, uint32_t need, int follow,
		     const struct slk_judged *judged);
/* That it is granted, or there: until when it holds (slk_now_ns), or 0. */
uint64_t slk_judged_before(struct slk_engine *engine, const struct slk_walk *walk, uint32_t depth, uint32_t need,
			   int follow);
void slk_judged_now(struct slk_engine *engine, const struct slk_walk *walk, uint32_t depth, uint32_t need, int follow,
		    uint64_t until_ns);
/* Of what is found now. */
uint64_t slk_judged_until(void);
/* Does the mount table hold a file system whose lookups wait for a server? */
int slk_lookups_may_wait(struct slk_engine *engine);
/* Is it on one of the mounts that are known to be local? Asked where some are not. */
int slk_is_on_local_mount(const struct slk_engine *engine, int fd);
/* O_PATH, of an absolute path. -EAGAIN: it would have to wait. */
int slk_open_path(struct slk_engine *engine, const char *path, uint64_t flags, uint64_t resolve);

/* ---- ways.c: whether a path comes by what depends on who asks */

int slk_lists_told(struct slk_engine *engine, const struct slk_request *request);

/* ---- interpreters.c */

/* Does the file that is executed name an interpreter by way of what depends on who asks? 1 also where that cannot be told. */
int slk_execution_names_askers(struct slk_engine *engine, const struct slk_walk *walk);

/* ---- lower.c: what only the lower tree has */

enum slk_look { SLK_LOOK, SLK_LOOK_OPEN, SLK_LOOK_STAT };
/* 0: the kernel finds what the program is to see. Else reason + 1. */
int slk_lower_only(struct slk_engine *engine, const struct slk_tree *tree, const struct slk_walk *walk, int follow,
		   enum slk_look for_what);

/* ---- given.c: whose lock may be held for long */

#define SLK_GIVEN_BITS (1u << 18)
/* This descriptor is about to be the program's. */
void slk_note_given(struct slk_engine *engine, int fd);
/* A file of the upper. path: relative to the tree. */
int slk_tree_takes_long(struct slk_engine *engine, const struct slk_tree *tree, const char *path);
int slk_trees_parked(const struct slk_engine *engine);

/* ---- memlimit.c */

/* This descriptor is about to be the program's: is it one more of an object that counts? An error: it must not be. */
int slk_memory_given(struct slk_memory *memory, int fd);

/* ---- memlimit_group.c */

int slk_memory_is_by_group(const struct slk_memory *memory);

/* ---- memlimit_calls.c */

/* 0: it may go on. Else reason + 1. */
int slk_memory_call(struct slk_engine *engine, struct slk_request *request);
/* Does the filter trap this call, whose number it traps at times? */
int slk_memory_is_asked(const struct slk_engine *engine, int32_t nr, const uint64_t *args);

/* ---- inuse.c: whether anybody still has a file */

/* Is it open for writing (by_readers: at all) anywhere? fd: O_PATH. 1 also where that cannot be told. */
int slk_in_use(int fd, int by_readers);
/* Is it open by anybody else? opened: for reading. 1 also where that cannot be told. */
int slk_is_shared(int opened);
/* A watch that tells when the object is gone for good (IN_DELETE_SELF), and of_writers: that one of them has closed it. */
int slk_watch_gone(int inotify_fd, int dirfd, const char *path, int of_writers);
/* Each watch that there still is. */
int slk_watches_left(int inotify_fd, void (*left)(void *, int), void *context);

#define SLK_JUDGED_MAX 4096
#define SLK_SEEN_MAX 8192
#define SLK_LOCAL_MOUNTS_MAX 512 /* those beyond cost time only */
#define SLK_NEW_MAX 1024

/* One notification in flight, for whoever takes over after us. */
struct slk_slot {
	uint64_t notif_id; /* 0: free (the kernel's ids start at random; 0 is skipped by giving it up) */
	uint64_t args[6];
	uint64_t instruction_pointer;
	int32_t tid;
	int32_t nr;
	uint32_t phase;
	int32_t error;
	int64_t value;
	uint64_t noted;    /* of an act: enough to tell whether it was done */
	uint32_t flags;    /* of the answer */
	uint32_t listener; /* in slk_engine.listeners */
	uint32_t deaths;   /* of who handled it, and when the first of them was */
	uint64_t death_ns;
};

/* A call that was let go on and may wait in the kernel, as it waits bare: for the other end of a FIFO, say. */
struct slk_waiting_call {
	int32_t tid;
	int32_t nr;
	uint64_t instruction_pointer;
	uint64_t args[2];
};

/* By thread number: two that share a place lose the mark of the first, whose wait no signal ends then. Few numbers are
 * larger than this, and of the pages only those in use exist. */
#define SLK_WAITING_MAX 65536

struct slk_restart_result {
	int32_t tid;
	int64_t value;
};
#define SLK_RESULTS_MAX 256 /* it is asked for at once; one that is lost is a call made anew */

/* What the supervisor and init both see. */
struct slk_confined {
	int32_t tid;
	size_t cpu;
	size_t length; /* of the kernel's mask, in bytes */
	cpu_set_t own;
	int is_set; /* or about to be */
};

/* Init has it as well, and so has whoever takes over when we die (takeover.c). */
struct slk_shared {
	uint32_t acknowledged; /* the serial of the last order that init has carried out; a futex */
	int32_t done;          /* did it succeed? */
	uint32_t orders;       /* that init acknowledges, so far */
	int tracing;           /* init traces somebody */
	int umask_changed;     /* by somebody */
	int ids_changed;
	struct slk_engine_counts counts;
	uint64_t copied_bytes; /* into trees */
	/* What is received comes here first: the kernel writes it whole, or gives the call to nobody. */
	struct seccomp_notif arrival;
	uint32_t arrival_listener;
	uint32_t handled; /* the slot of the call that is being handled; SLK_SLOTS_MAX: none */
	struct slk_confined confined; /* whoever is */
	struct slk_waiting_call waiting[SLK_WAITING_MAX];
	struct slk_restart_result results[SLK_RESULTS_MAX]; /* by thread number */
};

#define SLK_REWRITES_MAX 64
#define SLK_DEADLY_MAX 4 /* one at a time is handled; of more only the first ones are told */

#define SLK_SLOTS_MAX 4096
/* ACTING: what it asks for is being done, and may be done: nothing stood against it. ACTED: it is. PREPARED: with its
 * answer. */
enum slk_phase { SLK_PHASE_FREE, SLK_PHASE_RECEIVED, SLK_PHASE_ACTING, SLK_PHASE_ACTED, SLK_PHASE_PREPARED };

struct slk_new_thread {
	int32_t tid;
	uint64_t since_ns;
};

#define SLK_BREAKS_MAX 1024

/* What a thread asked for last by brk(2), and got as far as we know. */
struct slk_break {
	int32_t tid;
	uint64_t end;
};

#define SLK_BASES_MAX 64

/* A thread that asked from its working directory (AT_FDCWD) or by a descriptor. fd: of that link in /proc, or -1. */
struct slk_base {
	int32_t tid;
	int32_t number;
	int fd;
};

/* The first is the program's and the caller's. The others are of programs that were started later, and ours; those that
 * have ended stay until no slot is of them. */
#define SLK_LISTENERS_MAX 33

struct slk_listener {
	int fd; /* -1: there is none */
	int sync_wake_up; /* the kernel has it */
	int sync_now;     /* it is set at this moment */
	int is_ended;     /* its last task is dead */
	uint32_t open;    /* slots */
};

struct slk_engine {
	struct slk_listener listeners[SLK_LISTENERS_MAX];
	uint32_t further_count; /* without those that have ended */
	int further_fd;         /* an epoll instance of them */
	int pulls;              /* one caller at a time is answered, and wakes on our CPU */
	uint64_t unconfined_until_ns; /* a thread may be setting the mask of another one */
	uint32_t native_arch;
	int32_t openat_nr, open_nr, creat_nr, openat2_nr;
	int slow_lookups;
	int tell_granted;
	int own_pids; /* processes outside do not exist for the program */
	int tells_listings; /* of some directories Python does */
	int has_trees;
	uint32_t tree_count;
	uint32_t umask;
	uint32_t uid, gid; /* of all at the start */
	struct slk_tree trees[SLK_TREES_MAX];
	struct slk_disk *disk; /* borrowed; NULL: no limit */
	struct slk_memory *memory; /* likewise */
	struct slk_forks *forks; /* NULL: processes are not limited */
	int has_watches;       /* the program watches something in a tree, or did */
	int trees_parked;      /* another thread changes them, and waits */
	uint64_t given[SLK_GIVEN_BITS / 64];
	struct slk_refusal *refusals;
	uint32_t refusal_count;
	int mounts_fd; /* borrowed */
	uint32_t local_count;
	int32_t local_mounts[SLK_LOCAL_MOUNTS_MAX];
	struct slk_zone_table *zones;
	struct slk_slot *slots;
	struct slk_shared *shared;
	uint32_t next_slot;
	uint32_t resumed; /* so far (slk_take_over_calls) */
	uint32_t deadly_count;
	struct slk_slot deadly[SLK_DEADLY_MAX]; /* refused while taking over, for the log */
	uint32_t new_count;
	int newcomers_fd;    /* a timer: the oldest of them is due */
	int newcomers_timed; /* it is set */
	uint32_t unfinished_count;
	uint32_t passing_count;
	int32_t patient_tid; /* whose timer it is; 0: there is none */
	timer_t patience;
	struct slk_rewrite unfinished[SLK_REWRITES_MAX]; /* seized by us, not stopped yet */
	struct slk_rewrite passing[SLK_REWRITES_MAX];    /* may come as a notification, to be let through */
	uint64_t generation; /* of names and of rights in trees, as far as we see them change */
	int32_t last_tid;    /* whose calls the last ones were, and how many of them in a row */
	uint32_t in_a_row;
	struct slk_timing *timing;
	struct slk_call calls[SLK_CALLS_MAX];
	struct slk_judged judged[SLK_JUDGED_MAX];
	int32_t seen[SLK_SEEN_MAX];
	struct slk_base bases[SLK_BASES_MAX];
	struct slk_break breaks[SLK_BREAKS_MAX];
	struct slk_new_thread new_threads[SLK_NEW_MAX]; /* the oldest first */
};

uint64_t slk_now_ns(void);

/* ---- init_memory.c: what init keeps of the memory that it was forked with */

/* What init sees of the engine. */
struct slk_engine_view {
	struct slk_shared *shared;
	uint8_t is_always_trapped[SLK_CALLS_MAX];
};

/* All of it in one place. */
struct slk_kept {
	struct slk_launch_plan plan; /* without an engine */
	struct slk_engine_view view;
	int has_engine;
	char *words; /* of the first program: what further ones are not started with */
	size_t words_bytes;
};

/* Copies it: 0, or -errno. */
int slk_init_keep(const struct slk_launch_plan *plan, struct slk_kept **ret_kept);
/* All else is gone then, as far as it costs anything. */
void slk_init_give_back(const struct slk_kept *kept);
/* The first program is on its way. */
void slk_init_drop_words(struct slk_kept *kept);
/* As fork(2), without what others want to have called for it. The child may do what it may after that. */
pid_t slk_fork(void);

/* ---- prompt.c */

/* This thread, from now on. */
void slk_be_prompt(void);
/* No more than it was before. */
struct slk_promptness slk_own_promptness(void);
void slk_be_as_prompt_as(const struct slk_promptness *before);
/* Likewise, for a thread that by itself never takes more than a part of a processor. */
void slk_be_first(void);
/* A thread of ours that is about to make an end. */
void slk_let_be_first(pid_t pid);
/* What this thread has used. */
uint64_t slk_cpu_ns(void);

/* ---- bases.c: where relative paths start */

void slk_bases_create(struct slk_engine *engine);
void slk_bases_destroy(struct slk_engine *engine);
void slk_bases_forget(struct slk_engine *engine, int32_t tid);
/* readlink(2) of the working directory (AT_FDCWD) or a descriptor. */
ssize_t slk_read_link(struct slk_engine *engine, int32_t tid, int32_t number, char *ret_text, size_t size);
/* ret_path: SLK_PATH_MAX bytes. 0; -EINVAL where it is no path. */
int slk_read_base(struct slk_engine *engine, int32_t tid, int dirfd, char *ret_path, uint32_t *ret_length);

/* ---- newcomers.c: threads seen for the first time */

int slk_newcomers_create(struct slk_engine *engine);
void slk_newcomers_destroy(struct slk_engine *engine);
void slk_notice_thread(struct slk_engine *engine, int32_t tid);
/* Is one due that lives? */
int slk_newcomer_is_due(struct slk_engine *engine);
/* So that newcomers_fd becomes readable when the oldest is due. */
void slk_newcomers_set_timer(struct slk_engine *engine);
void slk_newcomers_timer_ran(struct slk_engine *engine);

/* ---- times.c: how long calls wait for their answer */

struct slk_timing;

/* NULL: there is no memory for it. */
struct slk_timing *slk_timing_create(void);
void slk_timing_destroy(struct slk_timing *timing);
void slk_timing_begin(struct slk_timing *timing, uint32_t slot);
/* It is Python's from now on. */
void slk_timing_by_python(struct slk_timing *timing, uint32_t slot);
void slk_timing_end(struct slk_timing *timing, uint32_t slot, int32_t nr);

/* ---- affinity.c: which CPU a caller wakes on */

/* Not where several callers are to spread over the CPUs (engine.c, drain), nor where masks are being set. */
int slk_may_confine(const struct slk_engine *engine);
/* Confine a waiting thread to this CPU; 0 where that makes no difference, or is not to be had. */
int slk_confine(int32_t tid, struct slk_confined *ret_confined);
void slk_release(struct slk_confined *confined);

/* Of a call whose row says refuse: does Python decide, by its arguments? */
int slk_is_asked(const struct slk_engine *engine, int32_t nr, const uint64_t *args);

/* ---- listeners.c */

int slk_listeners_create(struct slk_engine *engine);
void slk_listeners_destroy(struct slk_engine *engine);
/* enum slk_notif_state, by what poll(2) has said. */
int slk_listener_state_by(short revents);
/* Of a further one: nothing comes any more. */
void slk_listener_ended(struct slk_engine *engine, uint32_t index);
/* It has one slot less. */
void slk_listener_released(struct slk_engine *engine, uint32_t index);
/* Those that are answered wake on our CPU. */
void slk_set_sync(struct slk_listener *listener, int on);

/* ---- answers.c */

/* A free slot, or NULL. */
struct slk_slot *slk_slot_take(struct slk_engine *engine);
struct slk_slot *slk_slot_in_use(struct slk_engine *engine, uint32_t slot);
void slk_slot_release(struct slk_engine *engine, struct slk_slot *slot);
/* For tests: 1: its caller waits still; -ENOENT, -EBADSLT. */
int slk_answer_alive(struct slk_engine *engine, uint32_t slot);
/* For a notification without a slot. */
int slk_respond(struct slk_engine *engine, uint32_t listener, uint64_t notif_id, int64_t value, int32_t error,
		uint32_t flags);
/* Is it still waited for? */
int slk_slot_alive(const struct slk_engine *engine, const struct slk_slot *slot);
int slk_request_alive(const struct slk_engine *engine, const struct slk_request *request);

/* Forget that a call of this thread may wait in the kernel (slk_answer_may_wait). */
void slk_waits_no_more(struct slk_engine *engine, int32_t tid);
/* It waits for its answer from now on. */
void slk_slot_received(struct slk_engine *engine, struct slk_slot *slot);
/* It was not done after all. */
void slk_slot_acts_not(struct slk_engine *engine, uint32_t slot);
/* engine.c: what a drain does with a call that it has received. 1: Python has something to do with it. */
int slk_handle(struct slk_engine *engine, struct slk_request *request);
/* Of what was received: a slot, or NULL; and the request, but for its path. */
struct slk_slot *slk_slot_fill(struct slk_engine *engine, const struct seccomp_notif *notif, uint32_t listener,
			       struct slk_request *ret_request);
/* Frees the slot whatever it returns. */
int slk_answer(struct slk_engine *engine, uint32_t slot, int64_t value, int32_t error, uint32_t flags);

#endif /* SLK_H */
