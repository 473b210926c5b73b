/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole of what Python may ask of C.
 *
 * This text is read twice: by the C compiler (through slk.h) and by cffi (as its cdef), so the two sides cannot
 * disagree. It may hold declarations and plain numeric #defines only; cffi understands no other preprocessing.
 *
 * Every function returns a result >= 0, or -errno. Nothing here prints; only *_create allocates, and only
 * *_destroy releases. Output parameters come last, are named ret_*, and are written only on success. Python has
 * released the GIL for the length of the call.
 */

#define SLK_PATH_MAX 4096
#define SLK_CALLS_MAX 1024
#define SLK_BATCH_MAX 64
#define SLK_RLIMITS_MAX 16
#define SLK_CGROUPS_MAX 4
#define SLK_SYSINFO_BYTES 112 /* on 64-bit architectures */
#define SLK_GROUPS_MAX 65536 /* NGROUPS_MAX (linux/limits.h) */

/* ---- kernel.c: what this kernel has ---------------------------------------------------------------------- */

/* struct seccomp_notif_sizes, seccomp_unotify(2); all in bytes. */
struct slk_notif_sizes {
	uint16_t request;
	uint16_t response;
	uint16_t data;
};

int slk_notif_sizes(struct slk_notif_sizes *ret_sizes);
/* Would a filter be taken with these SECCOMP_FILTER_FLAG_*? 0, or -errno (-EINVAL: a flag is unknown). Installs none. */
int slk_seccomp_flags(unsigned int flags);

/* The Landlock ABI version (landlock(7)), or -errno: -ENOSYS without Landlock, -EOPNOTSUPP when it is off. */
int slk_landlock_abi(void);
/* A ruleset descriptor. The masks are struct landlock_ruleset_attr's. */
int slk_landlock_create(uint64_t handled_fs, uint64_t handled_net, uint64_t scoped);
int slk_landlock_add_path(int ruleset_fd, int path_fd, uint64_t access);
int slk_landlock_add_port(int ruleset_fd, uint64_t port, uint64_t access);
/* For probes only: restricts the calling thread for ever. */
int slk_landlock_restrict(int ruleset_fd);
/* fallocate(2). */
int slk_fallocate(int fd, int mode, int64_t offset, int64_t length);
/* sysinfo(2) as the kernel writes it: SLK_SYSINFO_BYTES. */
int slk_sysinfo(void *ret_info);
/* sched_getaffinity(2), the raw call: how many bytes were filled, or -errno. */
int slk_affinity(int32_t tid, uint32_t size, void *ret_mask);
/* Have a thread of ours run on the CPU that we are on; it is on `cpu`, or (-1) on any. Returns where it is now. */
int slk_stay_near(int32_t tid, int32_t cpu);
/* Let it run wherever we may. */
void slk_roam(int32_t tid);

/* ---- launch.c, init.c, child.c: from a plan to a running program ----------------------------------------- */

/* Where a process was when it failed; Python has the words, C has the number. */
enum slk_stage {
	SLK_STAGE_NONE,
	SLK_STAGE_FORK,
	SLK_STAGE_SUBREAPER,
	SLK_STAGE_NO_NEW_PRIVS,
	SLK_STAGE_SIGNAL_SCOPE,
	SLK_STAGE_THROTTLE,
	SLK_STAGE_DESCRIPTORS,
	SLK_STAGE_SIGNALS,
	SLK_STAGE_SESSION,
	SLK_STAGE_TERMINAL,
	SLK_STAGE_STDIO,
	SLK_STAGE_DIRECTORY,
	SLK_STAGE_CAPABILITIES,
	SLK_STAGE_LANDLOCK,
	SLK_STAGE_RLIMITS,
	SLK_STAGE_SECCOMP,
	SLK_STAGE_HANDOVER,
	SLK_STAGE_EXEC,
	SLK_STAGE_WORDS,   /* of a further program: what it is told could not be read, */
	SLK_STAGE_COMMAND, /* and no file that it may be was found, or the first one is no program */
};

struct slk_rlimit {
	int32_t resource;
	uint64_t soft;
	uint64_t hard;
};

struct slk_engine;
struct slk_shared;

/* Everything that happens between fork and exec, decided beforehand. */
struct slk_launch_plan {
	const char *executable; /* execve(2), after the directory was entered */
	char *const *argv;
	char *const *shell_argv; /* what runs a script without #!, as execvp(3) does; its first is executed */
	char *const *envp;
	const char *directory; /* NULL: stay */
	const void *filter;    /* struct sock_filter[filter_length] */
	uint16_t filter_length;
	uint8_t wait_killable; /* SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV; 2: without, where the kernel lacks it */
	uint8_t scope_signals; /* init confines its own signals to its descendants */
	uint8_t new_session;   /* setsid(2), and stdio[0] becomes the controlling terminal when it is one */
	uint8_t drop_capabilities;
	uint8_t is_kept;       /* others hold the leash too: a supervisor that dies is replaced */
	uint8_t keeps_ruleset; /* init does, for further programs (SLK_ORDER_EXECUTE); without, there are none */
	int32_t stdio[3];   /* -1: inherit, -2: closed */
	int32_t ruleset_fd; /* -1: no Landlock */
	int32_t umask;      /* -1: inherit */
	const struct slk_engine *engine; /* what init shares with it; NULL: init traces nobody */
	uint64_t kept_capabilities;
	uint64_t blocked_signals; /* the program's signal mask: bit n-1 is signal n */
	uint32_t rlimit_count;
	struct slk_rlimit rlimits[16];
	/* What init ends the sandbox for (limits.c). 0: never. The clocks run from SLK_ORDER_BEGIN on. */
	uint64_t timeout_ns; /* then all are asked to end (SIGTERM) */
	uint64_t grace_ns;   /* and so long after that they are killed */
	uint64_t cpu_time_ns; /* of all processors, by all processes together, the dead included */
	uint32_t cpu_percent; /* of one processor, which all together may use; whoever wants more waits (throttle.c) */
	/* Directories of cgroups that the program is in: init removes them where the supervisor is dead. NULL: no more. */
	const char *groups[SLK_CGROUPS_MAX];
};

enum slk_report_kind {
	SLK_REPORT_STARTED,   /* pid: the program, before exec */
	SLK_REPORT_LISTENER,  /* fd: the seccomp listener, from the program-to-be, which is pid */
	SLK_REPORT_FAILED,    /* stage, error */
	SLK_REPORT_STOPPED,   /* status: the signal; stop: the how manieth of the program */
	SLK_REPORT_CONTINUED,
	SLK_REPORT_EXITED,    /* status: as wait(2) gives it */
	SLK_REPORT_EXECUTED,  /* a further program has ended: pid, status; its serial as in all reports of it */
	SLK_REPORT_LIMIT,     /* status: enum slk_limit, for which everything is ended now; used_ns */
	SLK_REPORT_DONE,      /* nothing of the sandbox is left; usage of all that was reaped */
	SLK_REPORT_GONE,      /* init has closed its end */
};

enum slk_limit {
	SLK_LIMIT_NONE,
	SLK_LIMIT_TIMEOUT,
	SLK_LIMIT_CPU_TIME,
	SLK_LIMIT_CPU, /* somebody uses processors who cannot be held, */
	SLK_LIMIT_PAUSE, /* or in a pause */
};

#define SLK_NOT_TOLD 0xffffffffffffffff

struct slk_report {
	int32_t kind;
	int32_t pid;
	int32_t stage;
	int32_t error;
	int32_t status;
	int32_t stop;
	int32_t fd;
	uint32_t serial;        /* of the order that it was started with, if it is of a further program; else 0 */
	uint64_t user_us;
	uint64_t system_us;
	uint64_t peak_rss_bytes;
	uint64_t reaped;
	uint64_t used_ns;       /* of processors */
	uint64_t passed_bytes;  /* to write(2) and its like, wherever it went (proc_pid_io(5), wchar); SLK_NOT_TOLD */
	uint64_t stored_bytes;  /* that it made the kernel write to storage (write_bytes); SLK_NOT_TOLD */
};

enum slk_order_kind {
	SLK_ORDER_SIGNAL,    /* to the program */
	SLK_ORDER_TRACE,     /* the process of this thread; see tracer.c */
	SLK_ORDER_INTERRUPT, /* trace it, and have this thread stop before it returns to the program */
	SLK_ORDER_RESTART,   /* have this thread, which init traces, make another call; see rewrite.c */
	SLK_ORDER_CONTINUE,  /* SIGCONT to the program's process group, if it is still in this stop */
	SLK_ORDER_BEGIN,     /* the program is about to be executed: time runs */
	SLK_ORDER_PAUSE,     /* nobody runs until RESUME; see throttle.c */
	SLK_ORDER_RESUME,
	SLK_ORDER_KILL,      /* everything, now */
	SLK_ORDER_EXECUTE,   /* start a further program; see slk_order_execute */
	SLK_ORDER_SIGNAL_EXECUTED, /* to the one with this serial */
	SLK_ORDER_SIGNAL_GROUP,    /* to the process group that the program leads, if it does; else to the program */
	SLK_ORDER_SIGNAL_EXECUTED_GROUP,
};

enum slk_restart_end {
	SLK_RESTART_LEAVE,  /* the caller is let go as it begins the call: of what does not come back */
	SLK_RESTART_RETURN, /* the call's result is the old one's, and the arguments are back in their registers */
	SLK_RESTART_AGAIN,  /* the old call is made again after it, and asked about again; see slk_restart_result */
	SLK_RESTART_OPEN,   /* of openat: as RETURN, and what it opens takes the number of close_fd, the lowest free one */
	SLK_RESTART_ENTER,  /* of openat: as RETURN, and what it opens is entered by fchdir, whose result it is, and closed */
};

/* The call that a caller is to make in the place of its own. */
struct slk_restart {
	int32_t nr;
	int32_t end;      /* enum slk_restart_end */
	int32_t close_fd; /* a descriptor of the program's that is closed after the call, -1: none; not with LEAVE */
	int32_t fd_argument; /* which argument is the number of an injected descriptor */
	uint64_t args[6];
};

/* It in the hands of a tracer. */
struct slk_rewrite {
	struct slk_restart call;
	int32_t tid;
	int32_t old_nr;
	uint64_t old_args[6];
	uint64_t instruction_pointer;
	uint64_t blocked; /* its signals, while it is in the call */
	int64_t result;
	int64_t entered; /* the descriptor of what is entered */
	int32_t phase;
};

struct slk_order {
	int32_t kind;
	int32_t number;  /* of the signal, the stop or the thread */
	uint32_t serial; /* of an order that is acknowledged, or of a further program */
	struct slk_rewrite rewrite;
};

/* Fork init, which forks the program. Returns init's pid; ret_control_fd is the leash: when its last duplicate
 * closes, everything in the sandbox dies. */
int slk_launch(const struct slk_launch_plan *plan, int *ret_control_fd);
/* One report, if there is one: 1, or 0 when none came within timeout_ms (-1: for ever). */
int slk_report_read(int control_fd, int timeout_ms, struct slk_report *ret_report);
int slk_order_send(int control_fd, const struct slk_order *order);

/* So many further programs are alive at once, at most: init takes a further order for something that it does not
 * understand. Who orders counts those whose end or failure it has not heard of. */
#define SLK_EXECUTED_MAX 16
#define SLK_WORDS_BYTES_MAX 4194304

/* What a further program is told: this head, and behind it as many words as it says, each ended by a NUL, in this order; in
 * a memfd that nobody can change (F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW). */
struct slk_words {
	uint32_t directories;  /* 1: where it starts, absolute */
	uint32_t candidates;   /* the paths that it may be, as PATH has them, or the one that was named: at least 1 */
	uint32_t arguments;    /* at least 1 */
	uint32_t environments; /* NAME=VALUE */
};

/* Have init start one in the place of its plan's program: the first candidate that is there, looked up as the program that
 * it becomes. Its reports are LISTENER, then FAILED or EXECUTED; or FAILED alone. All descriptors are borrowed. Does not wait.
 * serial: not 0, and nobody else's. */
int slk_order_execute(int control_fd, uint32_t serial, const int32_t *stdio, int words_fd);
/* A descriptor that becomes readable when one of the signals arrives; the caller's thread blocks them. */
int slk_signal_fd(uint64_t signals);
/* One signal from it: its number, 0 if none; ret_code is si_code, ret_pid the sender. */
int slk_signal_read(int signal_fd, int32_t *ret_code, int32_t *ret_pid);
/* Close every descriptor >= first, by method 0: cascade, 1: close_range, 2: getdents64, 3: brute force. */
int slk_close_from(int first, int method);

/* ---- memory.c: the program's memory ---------------------------------------------------------------------- */

/* A NUL-ended string of at most capacity-1 bytes; its length. -ENAMETOOLONG without a NUL in reach. */
int slk_read_string(int tid, uint64_t address, uint32_t capacity, char *ret_text);
/* Exactly size bytes or -EFAULT. */
int slk_read_memory(int tid, uint64_t address, uint32_t size, void *ret_data);
int slk_write_memory(int tid, uint64_t address, uint32_t size, const void *data);

/* ---- engine.c, fastpath.c, answers.c, restarts.c: notifications ------------------------------------------- */

enum slk_treatment {
	SLK_CALL_NONE,   /* not ours: refused with ENOSYS if it ever comes */
	SLK_CALL_OPEN,   /* rights by the flags of open(2) */
	SLK_CALL_PATH,   /* rights fixed by the row */
	SLK_CALL_SLOW,   /* Python decides */
	SLK_CALL_REFUSE, /* answered here with refuse_errno, told to Python for the audit; can never continue */
	SLK_CALL_NOTICE, /* the kernel's; C takes note of it */
	SLK_CALL_SEE,    /* tells what is there: the kernel's, unless the path leads into a tree */
	SLK_CALL_MEMORY, /* asks for memory, which is limited: the kernel's, where there is room (memlimit_calls.c) */
	SLK_CALL_COUNT,  /* makes a process or thread: the kernel's, as long as there is room; see forks.c */
};

/* What a call does, as far as C knows it in a tree (trees.c). From MKDIR on it makes or takes names. */
enum slk_act {
	SLK_ACT_NONE,
	SLK_ACT_OPEN,
	SLK_ACT_STAT,
	SLK_ACT_LSTAT,
	SLK_ACT_STATX,
	SLK_ACT_ACCESS,
	SLK_ACT_READLINK,
	SLK_ACT_CHDIR,
	SLK_ACT_EXECUTE,
	SLK_ACT_GETDENTS,
	SLK_ACT_FSTAT,
	SLK_ACT_GETCWD,
	SLK_ACT_ATTRIBUTE, /* of a descriptor */
	SLK_ACT_UMASK,     /* its own */
	SLK_ACT_IDS,       /* its own */
	SLK_ACT_MKDIR,
	SLK_ACT_UNLINK,
	SLK_ACT_RMDIR,
	SLK_ACT_RENAME,
};

/* Of SLK_CALL_MEMORY, in the place of `mode`. */
enum slk_asks {
	SLK_ASKS_BRK,
	SLK_ASKS_MMAP,
	SLK_ASKS_MPROTECT,
	SLK_ASKS_MREMAP,
	SLK_ASKS_OBJECT, /* Python makes it; or what it asks is how much there is */
};

/* One row of the system call table, at the index of its number. Arguments that it lacks are -1. */
struct slk_call {
	uint8_t treatment;
	int8_t dirfd;
	int8_t path;
	int8_t flags;
	int8_t dirfd2;
	int8_t path2;
	int16_t refuse_errno;
	uint32_t need; /* LANDLOCK_ACCESS_FS_* */
	uint32_t need2;
	uint8_t act;
	int8_t buffer; /* where what stat tells is to go */
	int8_t mode;   /* the argument: of a new object, of access(2), the mask of statx(2) */
	uint8_t is_always_trapped; /* whatever its arguments */
	uint8_t may_touch;         /* it may change a tree; of an open its flags tell more */
};

/* A refused call gets this errno, not its row's, where (args[argument] & mask) == value. 0: Python decides. */
struct slk_refusal {
	uint64_t mask;
	uint64_t value;
	int32_t nr;
	int16_t argument;
	int16_t refuse_errno;
};

#define SLK_ZONE_SLOW 1     /* Python decides about this path and what lies beneath, deeper zones apart */
#define SLK_ZONE_IDENTITY 2 /* the grant holds for this object only: another one under the same name is Python's */
#define SLK_ZONE_TREE 4     /* a copy-on-write tree, or its upper directory; slow as well */
#define SLK_ZONE_WHOLE 8    /* the root of a tree in which nothing is denied: C may answer */
#define SLK_ZONE_ASKER 16   /* what is there depends on who asks */
#define SLK_ZONE_TOLD 32    /* not all that is there is shown: its listings are Python's */

/* What the kernel grants at and beneath a path. */
struct slk_zone {
	const char *path; /* absolute, canonical, without a trailing slash ("" is the root) */
	uint32_t length;
	uint32_t flags;
	uint32_t rights; /* LANDLOCK_ACCESS_FS_* */
	uint64_t device;
	uint64_t inode;
};

struct slk_engine_config {
	const struct slk_call *calls; /* call_count rows; copied */
	uint32_t call_count;
	const struct slk_zone *zones; /* zone_count, copied */
	uint32_t zone_count;
	const struct slk_refusal *refusals; /* refusal_count, copied; the first that holds decides */
	uint32_t refusal_count;
	uint32_t native_arch;  /* AUDIT_ARCH_* */
	int32_t openat_nr;     /* the four openers, -1 where the architecture lacks one */
	int32_t open_nr;
	int32_t creat_nr;
	int32_t openat2_nr;
	int32_t slow_lookups;  /* a path lookup may block (network or user-space file systems are mounted) */
	int32_t tell_granted;  /* what the fast path would let through goes to Python first, to be put on record */
	int32_t mounts_fd;     /* /proc/self/mountinfo, asked with poll(2) whether that is still so; -1: not asked */
	int32_t ledger_fd;     /* a memfd of slk_ledger_bytes() bytes */
	struct slk_shared *shared; /* borrowed, and mapped for as long as the engine is there */
	int32_t own_pids;      /* processes outside do not exist: whatever path comes by /proc is Python's */
};

enum slk_notif_state { SLK_NOTIF_EMPTY, SLK_NOTIF_PENDING, SLK_NOTIF_TERMINAL };

enum slk_reason {
	SLK_REASON_SLOW,        /* the table says Python */
	SLK_REASON_ZONE,        /* the path lies where Python decides */
	SLK_REASON_NOT_GRANTED, /* the kernel grants less than the call needs */
	SLK_REASON_UNREADABLE,  /* path_error says why the path could not be read */
	SLK_REASON_REFUSED,     /* answered already */
	SLK_REASON_LOOKUP,      /* a lookup may block */
	SLK_REASON_GRANTED,     /* the kernel's own judgement suffices; only with tell_granted */
	SLK_REASON_FAILED,      /* path_error says why it could not be served; answered already, if anybody can */
	SLK_REASON_NO_ROOM,     /* memory is limited, and it asks for more than is left */
	SLK_REASON_CROWDED,     /* no more processes: answered already */
};

/* SLK_RESUMED_ACT: and it was being done, so that it may be done already. */
enum slk_resumed { SLK_RESUMED_NOT, SLK_RESUMED, SLK_RESUMED_ACT };

struct slk_request {
	uint64_t notif_id;
	uint64_t instruction_pointer;
	uint64_t args[6];
	int32_t tid;
	int32_t nr;
	uint32_t slot;
	uint32_t listener; /* by which it came: 0, the program's; else slk_engine_attach_further's number */
	int16_t reason;
	int16_t path_error; /* errno, 0 when path holds path_length bytes */
	int32_t may_wait;   /* continued, it may wait in the kernel for a signal to end it */
	int32_t is_resumed; /* who had received it has died: SLK_RESUMED_* */
	uint64_t noted;     /* where it was being done (SLK_RESUMED_ACT) */
	uint32_t path_length;
	char path[4096];
};

struct slk_engine_counts {
	uint64_t received;
	uint64_t continued; /* by the fast path */
	uint64_t answered;  /* by the fast path, in a tree */
	uint64_t refused;   /* by a table row */
	uint64_t to_python;
	uint64_t vanished; /* withdrawn before it was received, or gone before it was answered */
	uint64_t wakes;
	uint64_t failed; /* not served for want of a slot, or the answer could not be sent to a caller that is there */
};

/* How long calls with one number waited for their answer, from being received on. */
struct slk_times {
	int32_t nr;
	int32_t is_by_python; /* it was answered there; else here */
	uint32_t count;
	uint64_t p50_ns; /* an eighth too long at most, never too short */
	uint64_t p99_ns;
};

/* Give init an order about a thread that waits in a call (enum slk_order_kind), and wait until it is carried out. Of a
 * process that init traces, no signal with a handler makes other calls fail for our delay. Or SLK_ORDER_PAUSE, about all.
 * 1: done; 0: not to be had (no such init, or no answer in time); -errno: not sent, or why there is no pause. */
int slk_order_init(struct slk_engine *engine, int control_fd, int kind, int32_t tid, int32_t timeout_ms);

uint64_t slk_ledger_bytes(void);
/* What an engine shares with init and with whoever takes over from us (fork(2) hands it down), besides the ledger. */
int slk_shared_create(struct slk_shared **ret_shared);
void slk_shared_destroy(struct slk_shared *shared);
int slk_engine_create(const struct slk_engine_config *config, struct slk_engine **ret_engine);
void slk_engine_destroy(struct slk_engine *engine);
/* The listener stays the caller's; returns 1 where SYNC_WAKE_UP took, 0 where the kernel lacks it. */
int slk_engine_attach(struct slk_engine *engine, int listener_fd);
/* That of a further program, served beside the first one; taken, and closed when its last task is dead and nothing of it
 * waits for an answer. By the thread that drains or pumps. Its number, from 1 on: `at`, or for 0 any; -ENOSPC: there are as
 * many as can be, or another has it. */
int slk_engine_attach_further(struct slk_engine *engine, int listener_fd, uint32_t at);
/* How many of those there are. */
uint32_t slk_engine_further(const struct slk_engine *engine);
/* Readable when one of them has something to say: for who waits by himself, and drains then. */
int slk_engine_further_fd(const struct slk_engine *engine);
int slk_engine_counts(const struct slk_engine *engine, struct slk_engine_counts *ret_counts);
/* Bytes of data that the fast path copied into trees. */
uint64_t slk_engine_copied(const struct slk_engine *engine);
/* Of each number that was answered: how many were filled in. */
int slk_engine_times(const struct slk_engine *engine, struct slk_times *ret_times, uint32_t capacity);
/* How many of all calls waited no longer than each bound (and longer than the one before): C's, and then Python's. The last
 * of each: longer than all of them. bounds_ns: ascending. */
int slk_engine_latencies(const struct slk_engine *engine, const uint64_t *bounds_ns, uint32_t bound_count,
			 uint64_t *ret_counts);
int slk_listener_state(int listener_fd);
/* Does a path come by what depends on who asks? 1 also where that cannot be told. path: as it is written; base: absolute and
 * canonical, where path is relative. By the thread that drains or pumps. */
int slk_way_is_askers(struct slk_engine *engine, const char *base, uint32_t base_length, const char *path,
		      uint32_t length);
int slk_notif_id_valid(int listener_fd, uint64_t notif_id);
/* Receive all that is queued, answer what the fast path can, put the rest into batch. Returns the state. */
int slk_drain(struct slk_engine *engine, struct slk_request *batch, uint32_t capacity, uint32_t *ret_count);
/* Wait in C: drain until Python is needed (a batch, the listener's end, other_fd readable, timeout, new threads).
 * ret_other: other_fd is readable (-1: there is none). */
int slk_pump(struct slk_engine *engine, int other_fd, int64_t timeout_us, struct slk_request *batch,
	     uint32_t capacity, uint32_t *ret_count, int32_t *ret_other);
/* Threads that asked for the first time some milliseconds ago and still live: how many were copied. */
int slk_new_threads(struct slk_engine *engine, int32_t *ret_tids, uint32_t capacity);
void slk_forget_thread(struct slk_engine *engine, int32_t tid);

/* The call in this slot is being handled: who dies dies of it, perhaps. */
void slk_handles(struct slk_engine *engine, uint32_t slot);
/* What it asks for is about to be done, and nothing stands against it. noted: whatever says later whether it was. */
void slk_slot_acts(struct slk_engine *engine, uint32_t slot, uint64_t noted);
/* It is done, and others may undo it before it is answered: with 0, or a descriptor. From any thread, as slk_slot_acts. */
void slk_slot_acted(struct slk_engine *engine, uint32_t slot);
/* takeover.c: an engine with the ledger of one whose process has died; the listeners are attached. What was answered is
 * answered again. Once, before anything is drained. */
void slk_take_over(struct slk_engine *engine);
/* What had been received, and not answered: handled anew, as by a drain. ret_count: for Python. 0: that was all. */
int slk_take_over_calls(struct slk_engine *engine, struct slk_request *batch, uint32_t capacity, uint32_t *ret_count);

/* Answers. The slot is free afterwards whatever is returned; -ENOENT: the caller is gone. */
int slk_answer_errno(struct slk_engine *engine, uint32_t slot, int32_t error);
int slk_answer_value(struct slk_engine *engine, uint32_t slot, int64_t value);
/* -EPERM, and the program gets EPERM, for a call whose row says refuse. */
int slk_answer_continue(struct slk_engine *engine, uint32_t slot);
/* End the wait of a call with the signals that are pending for its thread, as the kernel would bare: EINTR, or begun
 * anew, by the handler's flags. 1: answered; 0: not to be had, and the call waits on. */
int slk_answer_interrupted(struct slk_engine *engine, uint32_t slot, int control_fd, int32_t timeout_ms);
/* Have the caller make another call in its place. If that one is trapped as well, it is let through, once.
 * fd: -1, or one of ours: the caller is given a duplicate, closed on exec, whose number is one of the arguments and, but for
 * LEAVE, close_fd; not before it is in our hands. Where it cannot be, the call was answered with EMFILE or EIO.
 * -EPERM: somebody else traces the caller, or the table refuses the call; -EAGAIN: its process is in execve. It waits on
 * then, to be answered, and has been given nothing. By a thread that goes on to drain or pump this engine. control_fd:
 * init's, which may be the tracer; -1: none. */
int slk_answer_restart(struct slk_engine *engine, uint32_t slot, int control_fd, const struct slk_restart *call,
		       int32_t fd, int32_t timeout_ms);
/* How many callers this thread of ours still has in its hands; the drain goes on with them. */
uint32_t slk_restarts_under_way(const struct slk_engine *engine);
/* 1: what the last call of this thread that ended with SLK_RESTART_AGAIN has returned; told once. */
int slk_restart_result(struct slk_engine *engine, int32_t tid, int64_t *ret_result);
/* Says beforehand that this call, continued, may wait in the kernel for a signal to end it. */
void slk_answer_may_wait(struct slk_engine *engine, uint32_t slot);
/* Injects a duplicate of fd; its number there. When that fails the program gets EMFILE if it is that, else EIO. */
int slk_answer_fd(struct slk_engine *engine, uint32_t slot, int32_t fd, int32_t close_on_exec);
/* The same in two steps: its number there or -errno, with the call waiting on; and the answer that goes with it. */
int slk_give_fd(struct slk_engine *engine, uint32_t slot, int32_t fd, int32_t close_on_exec);
int slk_answer_given(struct slk_engine *engine, uint32_t slot, int number);
/* In the place of one that the caller has; the call waits on. For a process of one thread: another could have closed that
 * one, and have another file under its number. */
int slk_exchange_fd(struct slk_engine *engine, uint32_t slot, int32_t fd, int32_t close_on_exec, int32_t number);
/* Likewise, and closes fd, whatever is returned. */
int slk_hand_over_fd(struct slk_engine *engine, uint32_t slot, int32_t fd, int32_t close_on_exec);

/* statx(2) of the opened object as the kernel writes it: 256 bytes. */
int slk_statx(int fd, uint32_t mask, int flags, void *ret_statx);
#define SLK_HANDLE_BYTES_MAX 128 /* MAX_HANDLE_SZ (linux/exportfs.h) */
/* name_to_handle_at(2) of the opened object: struct file_handle, of SLK_HANDLE_BYTES_MAX and its head; the mount's id, of 4
 * bytes or, with AT_HANDLE_MNT_ID_UNIQUE, 8. */
int slk_handle_of(int fd, int flags, void *ret_handle, void *ret_mount_id);
/* fstatfs(2), likewise: 120 bytes. */
int slk_statfs(int fd, void *ret_statfs);

/* ---- layers.c, trees.c: copy-on-write trees ---------------------------------------------------------------- */

enum slk_layer_kind {
	SLK_LAYER_NONE,
	SLK_LAYER_FILE, /* regular */
	SLK_LAYER_DIRECTORY,
	SLK_LAYER_SYMLINK,
	SLK_LAYER_WHITEOUT,
	SLK_LAYER_OTHER,
};
#define SLK_LAYER_MERGED 1 /* a directory: names of the lower one show through it */
#define SLK_LAYER_ACL 2    /* a directory: it has a default ACL */

struct slk_layers;

/* The index of an upper directory. Paths are relative to it, without slashes in front or behind; "" is the root. */
int slk_layers_create(struct slk_layers **ret_layers);
void slk_layers_destroy(struct slk_layers *layers);
/* -ENOENT: the directory above it is not there. What was below something that is no directory now is dropped. */
int slk_layers_set(struct slk_layers *layers, const char *path, int kind, int flags);
void slk_layers_drop(struct slk_layers *layers, const char *path);
/* What is below it. */
void slk_layers_clear(struct slk_layers *layers, const char *path);
/* Of a directory, and all below it: no lower names show through it any more. */
void slk_layers_unmerge(struct slk_layers *layers, const char *path);
/* Link counts of lower files may be too high from now on. */
void slk_layers_lose_links(struct slk_layers *layers);
int slk_layers_move(struct slk_layers *layers, const char *source, const char *target);
int slk_layers_exchange(struct slk_layers *layers, const char *first, const char *second);
/* enum slk_layer_kind, and the flags from bit 8 on. */
int slk_layers_find(struct slk_layers *layers, const char *path);
/* What a directory has: the kind of name number N, in no particular order; SLK_LAYER_NONE behind the last one.
 * ret_name: 256 bytes. */
int slk_layers_row(struct slk_layers *layers, const char *path, uint32_t number, char *ret_name);
/* Somebody watches this directory: what changes names in it, or below one in it, is Python's from now on. */
void slk_layers_watch(struct slk_layers *layers, const char *path);

/* ---- numbers.c: which device and inode number a program is told ----------------------------------------------- */

struct slk_number {
	uint64_t device;
	uint64_t inode;
};

#define SLK_NUMBER_FOREIGN 0x4000000000000000 /* is set where an object's own number could be another's */

struct slk_numbers;

/* Of one tree. The descriptors: of the lower directory and the upper. */
int slk_numbers_create(int lower_fd, int upper_fd, struct slk_numbers **ret_numbers);
void slk_numbers_destroy(struct slk_numbers *numbers);
/* The object of the upper with this inode number is a copy, and bears the number of its original from now on. 1; 0: another
 * copy bears it, and this one is told by its own. */
int slk_numbers_copied(struct slk_numbers *numbers, uint64_t copy, uint64_t origin_device, uint64_t origin_inode);
/* A new object of the upper has this inode number. */
void slk_numbers_made(struct slk_numbers *numbers, uint64_t inode);
/* What a program is told of the object of the upper that has this inode number. */
void slk_numbers_told(struct slk_numbers *numbers, uint64_t inode, struct slk_number *ret_told);
/* The original's number in the record that a copy bears (overlay/identity.py). 0: it bears none. */
int slk_read_origin(int dirfd, const char *name, struct slk_number *ret_origin);

struct slk_tree_config {
	const char *root; /* canonical, as the program knows it */
	uint32_t root_length;
	const char *upper; /* where the upper directory is, canonical */
	uint32_t upper_length;
	struct slk_layers *layers; /* borrowed, as the numbers and the descriptors */
	struct slk_numbers *numbers;
	int32_t lower_fd; /* -1: it has none, and what really is below `root` is no part of it */
	int32_t upper_fd;
	int32_t work_fd;
};

/* A tree in another one comes before it. */
int slk_engine_add_tree(struct slk_engine *engine, const struct slk_tree_config *config);
/* Lower directories of this tree have been renamed: where one is, its path does not tell any more. */
void slk_engine_tree_moved(struct slk_engine *engine, uint32_t number);
/* An object of an upper directory (fd: O_PATH): may somebody hold its lock, for as long as he likes? 1 also where that
 * cannot be told. */
int slk_engine_may_be_locked(struct slk_engine *engine, int32_t fd);
/* A file (fd: O_PATH) of which to free the space takes milliseconds. 1 also where that cannot be told. */
int slk_is_large(int32_t fd);
/* The program watches something in a tree. */
void slk_engine_watched(struct slk_engine *engine);
/* Another thread changes the trees, and waits for such a lock: C leaves them alone. From any thread. */
void slk_engine_park_trees(struct slk_engine *engine, int32_t parked);
/* Has anybody this file open for writing? opened: for reading, and not for writing. 1 also where that cannot be told. */
int slk_is_written(int opened);
/* What every process of the program has, until one changes its own. */
void slk_engine_ids_changed(struct slk_engine *engine);
void slk_engine_set_umask(struct slk_engine *engine, uint32_t umask);

/* What the mount table says now; holds until mounts_fd tells of a change. local_mounts: ids of mounts where no lookup
 * waits for a server, as far as they are known. */
void slk_engine_set_mounts(struct slk_engine *engine, int slow_lookups, const int32_t *local_mounts, uint32_t count);

#define SLK_POKE_SIGNAL 40
#define SLK_PATIENCE_SIGNAL 41 /* ends our own waits in patience.c */
/* Interrupt the call that this thread of ours waits in; it has the signal unblocked. */
int slk_poke(int32_t tid);
int slk_become_subreaper(void);
/* That /proc/self is its user's again after it has changed its ids (proc(5), PR_SET_DUMPABLE). */
int slk_become_dumpable(void);
/* Have a session keyring of its own, with nothing in it: that of who started us may hold keys (session-keyring(7)), and stays
 * ours when ids change. */
int slk_leave_keyring(void);
int slk_pidfd_getfd(int pidfd, int fd);
/* The id of the mount that an open descriptor is on, as in mountinfo; asks no file system server. */
int slk_mount_id(int fd);
/* ioprio_get(2) of one thread: 0 is none of its own. */
int slk_io_priority(int32_t tid);
/* Reads a directory from its position to its end: 1 if `.` was among what came, plus 2 if `..` was. */
int slk_dots_ahead(int fd);
/* 1: the opened object is one of procfs (fstatfs(2), PROC_SUPER_MAGIC). */
int slk_is_procfs(int fd);

/* ---- status.c: what /proc/<tid>/status tells ----------------------------------------------------------------- */

#define SLK_STATUS_GROUPS_MAX 256
#define SLK_STATUS_BYTES_MAX 8192

struct slk_status {
	int32_t tgid;
	int32_t ppid;
	uint32_t uids[4]; /* real, effective, saved, file system */
	uint32_t gids[4];
	uint32_t umask;
	uint32_t group_count;
	uint64_t capabilities; /* effective */
	uint32_t groups[256];
};

/* -E2BIG: it has more groups than fit. */
int slk_status(int32_t tid, struct slk_status *ret_status);

/* ---- members.c: who belongs to a sandbox ------------------------------------------------------------------- */

/* The leader of a thread that descends from init; 0: it is not there, or not below init; -errno: that cannot be told. */
int slk_member_leader(int32_t tid, int32_t init_pid);
/* All processes below init, zombies included, by number: how many there are, of which at most capacity are filled in.
 * -E2BIG: more than most, which ends the search (0: none does). -EOPNOTSUPP: this kernel does not tell children (CONFIG_PROC_CHILDREN). */
int slk_members(int32_t init_pid, uint32_t most, int32_t *ret_pids, uint32_t capacity);

/* ---- identity.c: acting with the caller's identity --------------------------------------------------------- */

struct slk_identity {
	uint32_t fsuid;
	uint32_t fsgid;
	uint64_t capabilities; /* effective; what we lack we do not gain */
	uint32_t group_count;
	const uint32_t *groups; /* at most SLK_GROUPS_MAX; the caller's */
};

/* openat2(2) by this thread as that identity (NULL: as ourselves). Returns the descriptor. */
int slk_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve,
		const struct slk_identity *identity);
/* Take the identity on in this thread until slk_identity_leave; every call between is short and cannot block. */
int slk_identity_enter(const struct slk_identity *identity);
int slk_identity_leave(void);

/* fchownat(2) with AT_EMPTY_PATH: works on an O_PATH descriptor of a symbolic link too. -1: leave as it is. */
int slk_fchownat_empty(int fd, uint32_t uid, uint32_t gid);
int slk_fchmodat(int dirfd, const char *path, uint32_t mode, int follow);
int slk_setxattr(const char *path, const char *name, const void *value, uint64_t size, int flags, int follow);
int slk_getxattr(const char *path, const char *name, void *value, uint64_t size, int follow);
int slk_listxattr(const char *path, char *list, uint64_t size, int follow);
int slk_removexattr(const char *path, const char *name, int follow);
int slk_renameat2(int old_dirfd, const char *old_name, int new_dirfd, const char *new_name, uint32_t flags);
int slk_inotify_add_watch(int fd, const char *path, uint32_t mask);
int slk_inotify_rm_watch(int fd, int wd);
int slk_utimensat(int dirfd, const char *path, int64_t atime_s, int64_t atime_ns, int64_t mtime_s, int64_t mtime_ns,
		  int flags);

/* ---- copyup.c: copying an object to another, and what a layer says of a name ------------------------------- */

/* A copy of data under way. */
struct slk_copy {
	int32_t from_fd; /* borrowed, both */
	int32_t to_fd;
	uint64_t offset; /* so far */
	uint64_t end;    /* never further */
	uint32_t method;
};

#define SLK_LOST_OWNER 1
#define SLK_LOST_ATTRIBUTES 2

/* Cloned already where the file system can share blocks; to_fd is empty. At most limit_bytes. */
int slk_copy_begin(int from_fd, int to_fd, uint64_t limit_bytes, struct slk_copy *ret_copy);
/* About this much more, holes for nothing: 1 there is more, 0 done. To be asked at least once. */
int slk_copy_slice(struct slk_copy *copy, uint64_t slice_bytes);
/* Owner, extended attributes, mode, times, in this order. Either may be O_PATH. What was not to be kept: SLK_LOST_*. */
int slk_copy_metadata(int from_fd, int to_fd);
/* Whether an attribute goes with a copy. */
int slk_copy_wants_attribute(const char *name);

#define SLK_RESOLVE_CONFINED 0x0e /* RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH */

struct slk_layer_entry {
	uint32_t mode;
	uint32_t is_opaque;
	uint64_t device;
	uint64_t inode;
	uint64_t links;
	uint64_t special; /* st_rdev */
	uint32_t uid;
	uint32_t gid;
};

/* What is at a path below a directory, no link followed ("": the directory itself). The lookup is the identity's. */
int slk_layer_entry(int dirfd, const char *path, int with_opaque, const struct slk_identity *identity,
		    struct slk_layer_entry *ret_entry);
/* access(2) of an opened object (O_PATH too) by the file system identity of this thread. mode: R_OK, W_OK, X_OK. */
int slk_may_access(int fd, uint32_t mode);
/* What execve(2) would say of the opened file, without executing it. -EINVAL: a kernel that cannot tell (before 6.14). */
int slk_may_execute(int fd);

/* ---- disk*.c: what the uppers of a sandbox hold, and the limit of that ------------------------------------------- */

#define SLK_DISK_BLOCK 4096 /* what file systems allocate at least, as far as it matters for how much may be needed */

struct slk_disk;

struct slk_disk_state {
	uint64_t total_bytes; /* what they hold, or held when they were found over the limit, if that was more */
	uint64_t room_bytes;
	uint32_t open_files; /* that somebody may be writing to */
	int32_t is_over;     /* by writes; everything was ended for it, or is to be */
};

int slk_disk_create(uint64_t limit_bytes, struct slk_disk **ret_disk);
/* Ends the watcher, and closes all. What it is asked and told from then on, by who is late, changes only numbers. */
void slk_disk_end(struct slk_disk *disk);
void slk_disk_destroy(struct slk_disk *disk);
/* Descriptors of files below this directory, whose canonical path this is, count when they are given to the program. */
int slk_disk_add_upper(struct slk_disk *disk, int upper_fd, const char *path);
/* From now on look at what is open for writing; above the limit, init is told by control_fd to end everything. What is
 * held by now is no reason. */
int slk_disk_watch(struct slk_disk *disk, int control_fd);
void slk_disk_stop(struct slk_disk *disk);
/* What is there now (""; dirfd itself) counts with what it holds now. Any number of times. */
int slk_disk_note(struct slk_disk *disk, int dirfd, const char *path);
/* Likewise of an opened file, of which the program has reserved space beyond its end. */
int slk_disk_note_reserved(struct slk_disk *disk, int fd);
/* This name is about to be taken from what has it; it has been. What is not there, or stays, does no harm. */
void slk_disk_leaving(struct slk_disk *disk, int dirfd, const char *path);
void slk_disk_left(struct slk_disk *disk);
/* 1: so much may be added, once so much is given back. */
int slk_disk_has_room(struct slk_disk *disk, uint64_t size_bytes, uint64_t freed_bytes);
/* Keep room for what is made, until it is noted. -ENOSPC. */
int slk_disk_reserve(struct slk_disk *disk, uint64_t size_bytes);
void slk_disk_release(struct slk_disk *disk, uint64_t size_bytes);
/* This descriptor is about to be the program's. An error: it must not be. */
int slk_disk_given(struct slk_disk *disk, int fd);
/* The program may have O_PATH descriptors of what the uppers hold. */
void slk_disk_path_given(struct slk_disk *disk);
/* 1: the object behind this descriptor counts. */
int slk_disk_holds(struct slk_disk *disk, int fd);
void slk_disk_state(struct slk_disk *disk, struct slk_disk_state *ret_state);
/* Of this engine's calls in trees; borrowed. */
void slk_engine_set_disk(struct slk_engine *engine, struct slk_disk *disk);

/* ---- memlimit*.c: how much memory a sandbox uses, and the limit of that ------------------------------------------ */

struct slk_memory;

struct slk_memory_state {
	uint64_t used_bytes; /* at the last look */
	uint64_t peak_bytes; /* of all looks; what processes share after a fork may be in it more than once, below the limit */
	uint32_t processes;
	int32_t is_over; /* everything was ended for it, or is to be */
	int32_t uncounted_error; /* because nobody could tell what is in use, for this reason; 0: it was above the limit */
};

int slk_memory_create(uint64_t limit_bytes, struct slk_memory **ret_memory);
void slk_memory_destroy(struct slk_memory *memory);
/* A file or directory that the program may write. 1; 0: it lies in no memory. What lies there now does not count. */
int slk_memory_add_place(struct slk_memory *memory, int fd);
/* Shared memory will be made that slk_memory_note is not told of: what is mapped of it counts. */
void slk_memory_count_mapped(struct slk_memory *memory);

/* What tells of the memory of a cgroup, opened. */
struct slk_memory_group {
	int32_t usage_fd;
	int32_t peak_fd; /* -1: there is none */
	int32_t stat_fd;
	int32_t events_fd; /* memory.oom_control; version 2: memory.events */
	int32_t event_fd;  /* an eventfd that is told when it runs out; version 2: -1 */
};

/* The kernel keeps the limit, by a cgroup that all processes will be in: nothing else counts. Before anything is watched. The
 * descriptors are taken. */
void slk_memory_keep_by_group(struct slk_memory *memory, const struct slk_memory_group *group);
/* Not so after all. */
void slk_memory_count(struct slk_memory *memory);
/* From now on look at all that descends from init; above the limit, it is told by control_fd to end everything. */
int slk_memory_watch(struct slk_memory *memory, int control_fd, int init_pid);
void slk_memory_stop(struct slk_memory *memory);
/* This object lives in memory, and is about to be the program's. An error: it must not be. */
int slk_memory_note(struct slk_memory *memory, int fd);
/* 1: so much may be taken. 0: it does not fit into what was found last, where shared memory may count too often. Does not
 * wait for long. */
int slk_memory_asks(struct slk_memory *memory, uint64_t size_bytes);
/* 1: so much may be taken, when all is counted anew. May take a second. */
int slk_memory_asks_exactly(struct slk_memory *memory, uint64_t size_bytes);
/* A call that C has said SLK_REASON_NO_ROOM of, whose caller waits: likewise, by what the kernel has of its memory. May wait for
 * what the program does with that. ret_end: of its heap, where it is brk. */
int slk_memory_judge(struct slk_memory *memory, int asks, int tid, const uint64_t *args, uint64_t *ret_end);
void slk_memory_state(struct slk_memory *memory, struct slk_memory_state *ret_state);
/* Of this engine's calls; borrowed. */
void slk_engine_set_memory(struct slk_engine *engine, struct slk_memory *memory);
/* Where the heap of a thread that waits in brk ends. end: as slk_memory_judge has told it, up to a page. Returns it to the byte,
 * as far as that is known. */
uint64_t slk_break_known(struct slk_engine *engine, int32_t tid, uint64_t end);

/* ---- throttle_trial.c: whether a share of the processors can be kept ------------------------------------------- */

/* A child that computes is held for so long, and let go. What it used of processors meanwhile, and afterwards until it was
 * seen to have used any; 0: it has not, within seconds. 0 or -errno. */
int slk_throttle_try(uint64_t for_ns, uint64_t *ret_held_ns, uint64_t *ret_free_ns);

/* ---- forks.c, descendants.c: how many processes there are below init, and the limit of that -------------------- */

/* Before the listener is attached. Calls whose row says count are let through as long as no more processes than `limit`
 * live below init, and no more threads of all of them than task_limit; else they get EAGAIN: so many refusals at once, then
 * they are put off (forks_held.c). control_fd: init's, where it
 * may trace processes, so that their signals make no fork fail; else -1. -ENOENT: the kernel does not list children
 * (CONFIG_PROC_CHILDREN). */
int slk_engine_limit_processes(struct slk_engine *engine, uint32_t limit, uint32_t task_limit, uint32_t refusals_at_once,
			       int32_t init_pid, int control_fd);
/* 1: there is room for a process more, that is about to be made below init, and it counts. 0: there is none. By the thread
 * that drains or pumps. */
int slk_engine_process_fits(struct slk_engine *engine);
/* 1: some wait for others; to be drained again soon, whether or not anything comes. Pumping does so by itself. */
int slk_engine_holds_forks(const struct slk_engine *engine);

/* ---- output.c: standard output and error of the program, passed on up to a limit ----------------------------- */

#define SLK_OUTPUT_STREAMS_MAX 2
#define SLK_OUTPUT_TOLD_MAX 256 /* bytes, with the NUL */

struct slk_output;

struct slk_output_state {
	uint64_t passed_bytes;
	uint64_t dropped_bytes; /* above the limit */
	uint64_t failed_bytes;  /* could not be written, or were left */
	int32_t error;          /* an errno of writing, other than that nobody reads; 0 */
	int32_t is_done;        /* all that there was has been passed on */
};

/* told is written to told_fd (-1: nowhere) when the first byte is dropped. */
int slk_output_create(uint64_t limit_bytes, const char *told, int told_fd, struct slk_output **ret_output);
/* Another stream, which goes on to to_fd: the end that the program is to write to, the caller's to close once it has it. */
int slk_output_add(struct slk_output *output, int to_fd);
/* From now on it is passed on. */
int slk_output_start(struct slk_output *output);
/* Nobody writes any more: what is there is passed on, and that is all. done_fd is readable when a stream has come to its end. */
void slk_output_ended(struct slk_output *output);
int slk_output_done_fd(const struct slk_output *output);
void slk_output_state(const struct slk_output *output, struct slk_output_state *ret_state);
/* What was not passed on by now is lost. */
void slk_output_destroy(struct slk_output *output);
/* Are both descriptors of one open file, with one position? 1, 0 or -errno. */
int slk_same_open_file(int fd, int other_fd);

/* ---- apart.c: bind and connect by a process for one call ----------------------------------------------------- */

struct slk_apart {
	int32_t socket_fd; /* a duplicate of the program's; borrowed, as all of this */
	int32_t connects;  /* else it binds */
	const void *address;
	uint32_t length;
	uint32_t umask;
	int32_t root_fd;      /* the root for the address; -1: ours */
	int32_t directory_fd; /* the working directory; -1: ours */
	const struct slk_identity *identity; /* NULL: as ourselves */
	/* Not the caller's to set or read, but for pid. */
	int32_t pid;
	int32_t parent;
	int32_t go;
	int32_t lives;
	int32_t result;
	void *stack;
};

/* Make the process, which does nothing yet. -EOPNOTSUPP: a root is not to be had. ret_pidfd: whoever called closes it. */
int slk_apart_begin(struct slk_apart *call, int32_t *ret_pidfd);
/* Have it make the call, and wait for its end; or (go is 0) end it. To be called once after each begin, whatever comes
 * between, by the same thread. -EINTR: the wait was poked, and nothing was done; -EOPNOTSUPP: as above. */
int slk_apart_end(struct slk_apart *call, int go);
