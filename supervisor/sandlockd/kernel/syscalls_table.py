"""The system calls of Linux, one row each: what a number is called, what its arguments are, how we treat it.

Data only; `syscalls` reads it and says what the words mean. The filter, the C fast path's rows, the decoder
and `docs/syscalls.md` all come from here, so a call that is missing here does not exist
for a program: ENOSYS.

    x86_64, aarch64   the number there; - where the architecture lacks the call.
                      Source: arch/x86/entry/syscalls/syscall_64.tbl, scripts/syscall.tbl of Linux 7.0.
    treat             pass, notice, see, count, grow, memory, tell, behalf, open, path, slow, refuse, enosys: see
                      syscalls.Treatment. For some calls it also depends on arguments: syscalls_arguments.
    operands          a letter and the argument's position, in the order of the arguments:
                      p path, d directory that the next path starts from, o open descriptor,
                      f flags (of openat2: struct open_how), i process or thread id,
                      t text that is no path to us (a symbolic link's target)
    effect            for each path: r read, w write, c create, d delete, m metadata, x execute, l list,
                      s see (that it exists, and what stat tells)
    follow            for each path, or one for all, whether a link in the last place is followed: always,
                      never, open (by open's own flags), if:N or unless:N (the flags have the bits N)
    detail            path: the Landlock right that each path needs at least;
                      refuse and slow: the rule's name, and the errno where it is not EPERM

Why a row is as it is, where the row does not say it:

- Refusals are trapped rather than an errno in the filter because each is owed a record in the audit log. That
  stays closed: without a supervisor a trapped call gets ENOSYS, with a stopped one it waits, and C never
  answers such a number with Continue.
- `clone3`, whose flags lie in memory, is ENOSYS: libc falls back to `clone`, whose flags BPF can see.
- `openat2` likewise: its flags and mode could be changed after they were judged, and for some of them
  (access mode 3) the kernel has no rule of its own. Whoever uses it falls back to `openat`. With a copy-on-write tree
  every one is made on behalf (`behalf`), so that nothing is read twice.
- `*xattrat` (6.13), `file_getattr`, `file_setattr` (6.17), `statmount`, `listmount`, `listns` are ENOSYS:
  every user of them has a fallback for older kernels, and the fallback is judged (setxattr,
  FS_IOC_FSSETXATTR) or shows only what is granted (/proc/self/mountinfo). One decoder less each, and nothing
  lost. `fchmodat2` is served: without it glibc emulates chmod(AT_SYMLINK_NOFOLLOW) through /proc/self/fd.
- `lsm_set_self_attr` is ENOSYS for the same reason: its fallback is /proc/self/attr.
- `uretprobe` and `uprobe` are called by the kernel's own trampolines when the host traces a program; refused,
  the traced program would crash.
- `alarm`, `setitimer` and `timer_settime` are let through, and noticed: signals at a pace would make other
  calls fail for our delay (native/tracer.c).
- `adjtimex` and `clock_adjtime` only read for most callers, but what they do lies in memory, and a supervisor
  that runs as root has CAP_SYS_TIME to lose.
- `see` is for calls that only tell what is there: bare for a program without copy-on-write trees, since no rule
  hides what stat tells; with one they must tell of the merged tree, so C asks where the path leads.
- `bind`, `connect` and, for the options that tell who the peer is, `getsockopt` are `see` as well: without a tree
  there is no socket to name, with one they are answered on behalf and never let through with an address.
- `grow` is for what takes any amount of a disk within a moment: only with a limit of what the trees hold. What a
  `write` takes is counted afterwards: no program could pay for each write being asked for.
- `memory` is for calls that ask for memory, or make an object that lies in it: only with a limit of that. What is
  smaller than 1 MiB passes, but for shared memory; `brk` tells no size, and is asked about. `memfd_secret` is ENOSYS
  then: what it makes is told as no process's. So are `splice` and `vmsplice`, whose pages are a pipe's by reference: of
  a huge page that is all of it, for one byte.
- `tell` is for calls that tell of the machine: `sysinfo` with a limit of memory (or a virtual machine of a language
  takes a heap that is larger than the limit for a small one), and where the number of processes is the sandbox's own;
  `sched_getaffinity` where not all processors are shown. `rseq` is ENOSYS then: by it allocators find the processor
  that they run on, and they have room for as many as are shown.
- `count` is for what makes processes: trapped only where their number is limited, as it would cost every program. With
  that limit all of `clone` is counted, too, but for what is refused.
- `notice` is for calls that change what a process makes its files with, umask and ids: with a tree we make them.
- `uselib`, `nfsservctl` and `lookup_dcookie` no longer exist in current kernels, and give what those give.
- `fgetxattr`, `flistxattr`, `cachestat` tell of a descriptor that was opened under judgement; with trees the first two
  must not show the attributes that are the store's own.
"""

from typing import Final

TABLE: Final = """
# name                  x86_64 aarch64  treat  operands       effect follow           detail
read                         0      63  pass   o0             -      -                -
write                        1      64  pass   o0             -      -                -
open                         2       -  open   p0,f1          rwcl   open             -
close                        3      57  pass   o0             -      -                -
stat                         4       -  see    p0             s      always           -
fstat                        5      80  see    o0             -      -                -
lstat                        6       -  see    p0             s      never            -
poll                         7       -  pass   -              -      -                -
lseek                        8      62  pass   o0             -      -                -
mmap                         9     222  memory o4             -      -                -
mprotect                    10     226  memory -              -      -                -
munmap                      11     215  pass   -              -      -                -
brk                         12     214  memory -              -      -                -
rt_sigaction                13     134  pass   -              -      -                -
rt_sigprocmask              14     135  pass   -              -      -                -
rt_sigreturn                15     139  pass   -              -      -                -
ioctl                       16      29  refuse o0             -      -                law.file_flags:ENOTSUP
pread64                     17      67  pass   o0             -      -                -
pwrite64                    18      68  pass   o0             -      -                -
readv                       19      65  pass   o0             -      -                -
writev                      20      66  pass   o0             -      -                -
access                      21       -  see    p0             s      always           -
pipe                        22       -  pass   -              -      -                -
select                      23       -  pass   -              -      -                -
sched_yield                 24     124  pass   -              -      -                -
mremap                      25     216  memory -              -      -                -
msync                       26     227  pass   -              -      -                -
mincore                     27     232  pass   -              -      -                -
madvise                     28     233  pass   -              -      -                -
shmget                      29     194  refuse -              -      -                law.sysv_ipc
shmat                       30     196  refuse -              -      -                law.sysv_ipc
shmctl                      31     195  refuse -              -      -                law.sysv_ipc
dup                         32      23  pass   o0             -      -                -
dup2                        33       -  pass   o0,o1          -      -                -
pause                       34       -  pass   -              -      -                -
nanosleep                   35     101  pass   -              -      -                -
getitimer                   36     102  pass   -              -      -                -
alarm                       37       -  slow   -              -      -                -
setitimer                   38     103  slow   -              -      -                -
getpid                      39     172  pass   -              -      -                -
sendfile                    40      71  pass   o0,o1          -      -                -
socket                      41     198  refuse -              -      -                network:EACCES
connect                     42     203  see    o0             -      -                -
accept                      43     202  pass   o0             -      -                -
sendto                      44     206  pass   o0             -      -                -
recvfrom                    45     207  pass   o0             -      -                -
sendmsg                     46     211  pass   o0             -      -                -
recvmsg                     47     212  pass   o0             -      -                -
shutdown                    48     210  pass   o0             -      -                -
bind                        49     200  see    o0             -      -                -
listen                      50     201  pass   o0             -      -                -
getsockname                 51     204  pass   o0             -      -                -
getpeername                 52     205  pass   o0             -      -                -
socketpair                  53     199  refuse -              -      -                network:EACCES
setsockopt                  54     208  pass   o0             -      -                -
getsockopt                  55     209  see    o0             -      -                -
clone                       56     220  refuse f0             -      -                law.namespaces
fork                        57       -  count  -              -      -                -
vfork                       58       -  count  -              -      -                -
execve                      59     221  path   p0             x      always           EXECUTE
exit                        60      93  pass   -              -      -                -
wait4                       61     260  pass   i0             -      -                -
kill                        62     129  pass   i0             -      -                -
uname                       63     160  pass   -              -      -                -
semget                      64     190  refuse -              -      -                law.sysv_ipc
semop                       65     193  refuse -              -      -                law.sysv_ipc
semctl                      66     191  refuse -              -      -                law.sysv_ipc
shmdt                       67     197  refuse -              -      -                law.sysv_ipc
msgget                      68     186  refuse -              -      -                law.sysv_ipc
msgsnd                      69     189  refuse -              -      -                law.sysv_ipc
msgrcv                      70     188  refuse -              -      -                law.sysv_ipc
msgctl                      71     187  refuse -              -      -                law.sysv_ipc
fcntl                       72      25  pass   o0             -      -                -
flock                       73      32  pass   o0             -      -                -
fsync                       74      82  pass   o0             -      -                -
fdatasync                   75      83  pass   o0             -      -                -
truncate                    76      45  path   p0             w      always           TRUNCATE
ftruncate                   77      46  pass   o0             -      -                -
getdents                    78       -  see    o0             -      -                -
getcwd                      79      17  see    -              -      -                -
chdir                       80      49  see    p0             s      always           -
fchdir                      81      50  pass   o0             -      -                -
rename                      82       -  path   p0,p1          d,c    never            REMOVE_FILE,MAKE_REG
mkdir                       83       -  path   p0             c      never            MAKE_DIR
rmdir                       84       -  path   p0             d      never            REMOVE_DIR
creat                       85       -  open   p0             wc     always           -
link                        86       -  path   p0,p1          m,c    never            REFER,MAKE_REG
unlink                      87       -  path   p0             d      never            REMOVE_FILE
symlink                     88       -  path   t0,p1          c      never            MAKE_SYM
readlink                    89       -  see    p0             s      never            -
chmod                       90       -  slow   p0             m      always           -
fchmod                      91      52  slow   o0             -      -                -
chown                       92       -  slow   p0             m      always           -
fchown                      93      55  slow   o0             -      -                -
lchown                      94       -  slow   p0             m      never            -
umask                       95     166  notice -              -      -                -
gettimeofday                96     169  pass   -              -      -                -
getrlimit                   97     163  pass   -              -      -                -
getrusage                   98     165  pass   -              -      -                -
sysinfo                     99     179  tell   -              -      -                -
times                      100     153  pass   -              -      -                -
ptrace                     101     117  refuse i1             -      -                law.ptrace
getuid                     102     174  pass   -              -      -                -
syslog                     103     116  refuse -              -      -                law.host
getgid                     104     176  pass   -              -      -                -
setuid                     105     146  notice -              -      -                -
setgid                     106     144  notice -              -      -                -
geteuid                    107     175  pass   -              -      -                -
getegid                    108     177  pass   -              -      -                -
setpgid                    109     154  pass   i0,i1          -      -                -
getppid                    110     173  pass   -              -      -                -
getpgrp                    111       -  pass   -              -      -                -
setsid                     112     157  pass   -              -      -                -
setreuid                   113     145  notice -              -      -                -
setregid                   114     143  notice -              -      -                -
getgroups                  115     158  pass   -              -      -                -
setgroups                  116     159  notice -              -      -                -
setresuid                  117     147  notice -              -      -                -
getresuid                  118     148  pass   -              -      -                -
setresgid                  119     149  notice -              -      -                -
getresgid                  120     150  pass   -              -      -                -
getpgid                    121     155  pass   i0             -      -                -
setfsuid                   122     151  notice -              -      -                -
setfsgid                   123     152  notice -              -      -                -
getsid                     124     156  pass   i0             -      -                -
capget                     125      90  pass   -              -      -                -
capset                     126      91  notice -              -      -                -
rt_sigpending              127     136  pass   -              -      -                -
rt_sigtimedwait            128     137  pass   -              -      -                -
rt_sigqueueinfo            129     138  pass   i0             -      -                -
rt_sigsuspend              130     133  pass   -              -      -                -
sigaltstack                131     132  pass   -              -      -                -
utime                      132       -  slow   p0             m      always           -
mknod                      133       -  path   p0             c      never            MAKE_REG
uselib                     134       -  refuse p0             x      always           law.host:ENOSYS
personality                135      92  refuse -              -      -                law.personality
ustat                      136       -  pass   -              -      -                -
statfs                     137      43  see    p0             s      always           -
fstatfs                    138      44  pass   o0             -      -                -
sysfs                      139       -  enosys -              -      -                -
getpriority                140     141  pass   i1             -      -                -
setpriority                141     140  slow   i1             -      -                law.process_access
sched_setparam             142     118  slow   i0             -      -                law.process_access
sched_getparam             143     121  pass   i0             -      -                -
sched_setscheduler         144     119  slow   i0             -      -                law.process_access
sched_getscheduler         145     120  pass   i0             -      -                -
sched_get_priority_max     146     125  pass   -              -      -                -
sched_get_priority_min     147     126  pass   -              -      -                -
sched_rr_get_interval      148     127  pass   i0             -      -                -
mlock                      149     228  pass   -              -      -                -
munlock                    150     229  pass   -              -      -                -
mlockall                   151     230  pass   -              -      -                -
munlockall                 152     231  pass   -              -      -                -
vhangup                    153      58  refuse -              -      -                law.host
modify_ldt                 154       -  pass   -              -      -                -
pivot_root                 155      41  refuse p0,p1          m,m    always           law.mount
_sysctl                    156       -  enosys -              -      -                -
prctl                      157     167  slow   -              -      -                law.dumpable
arch_prctl                 158       -  pass   -              -      -                -
adjtimex                   159     171  refuse -              -      -                law.host
setrlimit                  160     164  pass   -              -      -                -
chroot                     161      51  refuse p0             s      always           law.mount
sync                       162      81  pass   -              -      -                -
acct                       163      89  refuse p0             w      always           law.host
settimeofday               164     170  refuse -              -      -                law.host
mount                      165      40  refuse p0,p1          m,m    always           law.mount
umount2                    166      39  refuse p0,f1          m      unless:0x8       law.mount
swapon                     167     224  refuse p0             w      always           law.host
swapoff                    168     225  refuse p0             w      always           law.host
reboot                     169     142  refuse -              -      -                law.host
sethostname                170     161  refuse -              -      -                law.host
setdomainname              171     162  refuse -              -      -                law.host
iopl                       172       -  refuse -              -      -                law.host
ioperm                     173       -  refuse -              -      -                law.host
create_module              174       -  enosys -              -      -                -
init_module                175     105  refuse -              -      -                law.modules
delete_module              176     106  refuse -              -      -                law.modules
get_kernel_syms            177       -  enosys -              -      -                -
query_module               178       -  enosys -              -      -                -
quotactl                   179      60  refuse p1             s      always           law.host
nfsservctl                 180      42  refuse -              -      -                law.host:ENOSYS
getpmsg                    181       -  enosys -              -      -                -
putpmsg                    182       -  enosys -              -      -                -
afs_syscall                183       -  enosys -              -      -                -
tuxcall                    184       -  enosys -              -      -                -
security                   185       -  enosys -              -      -                -
gettid                     186     178  pass   -              -      -                -
readahead                  187     213  pass   o0             -      -                -
setxattr                   188       5  slow   p0             m      always           -
lsetxattr                  189       6  slow   p0             m      never            -
fsetxattr                  190       7  slow   o0             -      -                -
getxattr                   191       8  slow   p0             s      always           -
lgetxattr                  192       9  slow   p0             s      never            -
fgetxattr                  193      10  see    o0             -      -                -
listxattr                  194      11  slow   p0             s      always           -
llistxattr                 195      12  slow   p0             s      never            -
flistxattr                 196      13  see    o0             -      -                -
removexattr                197      14  slow   p0             m      always           -
lremovexattr               198      15  slow   p0             m      never            -
fremovexattr               199      16  slow   o0             -      -                -
tkill                      200     130  pass   i0             -      -                -
time                       201       -  pass   -              -      -                -
futex                      202      98  pass   -              -      -                -
sched_setaffinity          203     122  slow   i0             -      -                law.process_access
sched_getaffinity          204     123  tell   i0             -      -                -
set_thread_area            205       -  enosys -              -      -                -
io_setup                   206       0  pass   -              -      -                -
io_destroy                 207       1  pass   -              -      -                -
io_getevents               208       4  pass   -              -      -                -
io_submit                  209       2  pass   -              -      -                -
io_cancel                  210       3  pass   -              -      -                -
get_thread_area            211       -  enosys -              -      -                -
lookup_dcookie             212      18  refuse -              -      -                law.host:ENOSYS
epoll_create               213       -  pass   -              -      -                -
epoll_ctl_old              214       -  enosys -              -      -                -
epoll_wait_old             215       -  enosys -              -      -                -
remap_file_pages           216     234  pass   -              -      -                -
getdents64                 217      61  see    o0             -      -                -
set_tid_address            218      96  pass   -              -      -                -
restart_syscall            219     128  pass   -              -      -                -
semtimedop                 220     192  refuse -              -      -                law.sysv_ipc
fadvise64                  221     223  pass   o0             -      -                -
timer_create               222     107  pass   -              -      -                -
timer_settime              223     110  slow   -              -      -                -
timer_gettime              224     108  pass   -              -      -                -
timer_getoverrun           225     109  pass   -              -      -                -
timer_delete               226     111  pass   -              -      -                -
clock_settime              227     112  refuse -              -      -                law.host
clock_gettime              228     113  pass   -              -      -                -
clock_getres               229     114  pass   -              -      -                -
clock_nanosleep            230     115  pass   -              -      -                -
exit_group                 231      94  pass   -              -      -                -
epoll_wait                 232       -  pass   o0             -      -                -
epoll_ctl                  233      21  pass   o0,o2          -      -                -
tgkill                     234     131  pass   i0,i1          -      -                -
utimes                     235       -  slow   p0             m      always           -
vserver                    236       -  enosys -              -      -                -
mbind                      237     235  pass   -              -      -                -
set_mempolicy              238     237  pass   -              -      -                -
get_mempolicy              239     236  pass   -              -      -                -
mq_open                    240     180  refuse -              -      -                law.mqueue
mq_unlink                  241     181  refuse -              -      -                law.mqueue
mq_timedsend               242     182  refuse o0             -      -                law.mqueue
mq_timedreceive            243     183  refuse o0             -      -                law.mqueue
mq_notify                  244     184  refuse o0             -      -                law.mqueue
mq_getsetattr              245     185  refuse o0             -      -                law.mqueue
kexec_load                 246     104  refuse -              -      -                law.kexec
waitid                     247      95  pass   i1             -      -                -
add_key                    248     217  refuse -              -      -                law.keyring
request_key                249     218  refuse -              -      -                law.keyring
keyctl                     250     219  refuse -              -      -                law.keyring
ioprio_set                 251      30  slow   i1             -      -                law.process_access
ioprio_get                 252      31  pass   i1             -      -                -
inotify_init               253       -  pass   -              -      -                -
inotify_add_watch          254      27  slow   o0,p1,f2       l      unless:0x2000000 -
inotify_rm_watch           255      28  pass   o0             -      -                -
migrate_pages              256     238  slow   i0             -      -                law.process_access
openat                     257      56  open   d0,p1,f2       rwcl   open             -
mkdirat                    258      34  path   d0,p1          c      never            MAKE_DIR
mknodat                    259      33  path   d0,p1          c      never            MAKE_REG
fchownat                   260      54  slow   d0,p1,f4       m      unless:0x100     -
futimesat                  261       -  slow   d0,p1          m      always           -
newfstatat                 262      79  see    d0,p1,f3       s      unless:0x100     -
unlinkat                   263      35  path   d0,p1,f2       d      never            REMOVE_FILE
renameat                   264      38  path   d0,p1,d2,p3    d,c    never            REMOVE_FILE,MAKE_REG
linkat                     265      37  path   d0,p1,d2,p3,f4 m,c    if:0x400,never   REFER,MAKE_REG
symlinkat                  266      36  path   t0,d1,p2       c      never            MAKE_SYM
readlinkat                 267      78  see    d0,p1          s      never            -
fchmodat                   268      53  slow   d0,p1          m      always           -
faccessat                  269      48  see    d0,p1          s      always           -
pselect6                   270      72  pass   -              -      -                -
ppoll                      271      73  pass   -              -      -                -
unshare                    272      97  refuse f0             -      -                law.namespaces
set_robust_list            273      99  pass   -              -      -                -
get_robust_list            274     100  pass   i0             -      -                -
splice                     275      76  memory o0,o2          -      -                -
tee                        276      77  pass   o0,o1          -      -                -
sync_file_range            277      84  pass   o0             -      -                -
vmsplice                   278      75  memory o0             -      -                -
move_pages                 279     239  slow   i0             -      -                law.process_access
utimensat                  280      88  slow   d0,p1,f3       m      unless:0x100     -
epoll_pwait                281      22  pass   o0             -      -                -
signalfd                   282       -  pass   o0             -      -                -
timerfd_create             283      85  pass   -              -      -                -
eventfd                    284       -  pass   -              -      -                -
fallocate                  285      47  grow   o0             -      -                -
timerfd_settime            286      86  pass   o0             -      -                -
timerfd_gettime            287      87  pass   o0             -      -                -
accept4                    288     242  pass   o0             -      -                -
signalfd4                  289      74  pass   o0             -      -                -
eventfd2                   290      19  pass   -              -      -                -
epoll_create1              291      20  pass   -              -      -                -
dup3                       292      24  pass   o0,o1          -      -                -
pipe2                      293      59  pass   -              -      -                -
inotify_init1              294      26  pass   -              -      -                -
preadv                     295      69  pass   o0             -      -                -
pwritev                    296      70  pass   o0             -      -                -
rt_tgsigqueueinfo          297     240  pass   i0,i1          -      -                -
perf_event_open            298     241  refuse i1,o3          -      -                law.perf
recvmmsg                   299     243  pass   o0             -      -                -
fanotify_init              300     262  refuse -              -      -                law.host
fanotify_mark              301     263  refuse o0,f1,d3,p4    l      unless:0x4       law.host
prlimit64                  302     261  slow   i0             -      -                law.process_access
name_to_handle_at          303     264  see    d0,p1,f4       s      if:0x400         -
open_by_handle_at          304     265  refuse o0             -      -                law.file_handle
clock_adjtime              305     266  refuse -              -      -                law.host
syncfs                     306     267  pass   o0             -      -                -
sendmmsg                   307     269  pass   o0             -      -                -
setns                      308     268  refuse o0,f1          -      -                law.namespaces
getcpu                     309     168  pass   -              -      -                -
process_vm_readv           310     270  slow   i0             -      -                law.process_access
process_vm_writev          311     271  slow   i0             -      -                law.process_access
kcmp                       312     272  slow   i0,i1          -      -                law.process_access
finit_module               313     273  refuse -              -      -                law.modules
sched_setattr              314     274  slow   i0             -      -                law.process_access
sched_getattr              315     275  pass   i0             -      -                -
renameat2                  316     276  path   d0,p1,d2,p3,f4 dc,dc  never            REMOVE_FILE,MAKE_REG
seccomp                    317     277  slow   -              -      -                law.seccomp
getrandom                  318     278  pass   -              -      -                -
memfd_create               319     279  memory -              -      -                -
kexec_file_load            320     294  refuse -              -      -                law.kexec
bpf                        321     280  refuse -              -      -                law.bpf
execveat                   322     281  path   d0,p1,f4       x      unless:0x100     EXECUTE
userfaultfd                323     282  refuse -              -      -                law.userfaultfd
membarrier                 324     283  pass   -              -      -                -
mlock2                     325     284  pass   -              -      -                -
copy_file_range            326     285  pass   o0,o2          -      -                -
preadv2                    327     286  pass   o0             -      -                -
pwritev2                   328     287  pass   o0             -      -                -
pkey_mprotect              329     288  memory -              -      -                -
pkey_alloc                 330     289  pass   -              -      -                -
pkey_free                  331     290  pass   -              -      -                -
statx                      332     291  see    d0,p1,f2       s      unless:0x100     -
io_pgetevents              333     292  pass   -              -      -                -
rseq                       334     293  tell   -              -      -                -
uretprobe                  335       -  pass   -              -      -                -
uprobe                     336       -  pass   -              -      -                -
pidfd_send_signal          424     424  pass   o0             -      -                -
io_uring_setup             425     425  refuse -              -      -                law.io_uring
io_uring_enter             426     426  refuse o0             -      -                law.io_uring
io_uring_register          427     427  refuse o0             -      -                law.io_uring
open_tree                  428     428  refuse d0,p1,f2       s      unless:0x100     law.mount
move_mount                 429     429  refuse d0,p1,d2,p3,f4 m,m    if:0x1,if:0x10   law.mount
fsopen                     430     430  refuse -              -      -                law.mount
fsconfig                   431     431  refuse o0             -      -                law.mount
fsmount                    432     432  refuse o0             -      -                law.mount
fspick                     433     433  refuse d0,p1,f2       s      unless:0x2       law.mount
pidfd_open                 434     434  pass   i0             -      -                -
clone3                     435     435  enosys -              -      -                -
close_range                436     436  pass   -              -      -                -
openat2                    437     437  behalf d0,p1,f2       rwcl   open             -
pidfd_getfd                438     438  refuse o0             -      -                law.process_access
faccessat2                 439     439  see    d0,p1,f3       s      unless:0x100     -
process_madvise            440     440  slow   o0             -      -                law.process_access
epoll_pwait2               441     441  pass   o0             -      -                -
mount_setattr              442     442  refuse d0,p1,f2       m      unless:0x100     law.mount
quotactl_fd                443     443  refuse o0             -      -                law.host
landlock_create_ruleset    444     444  pass   -              -      -                -
landlock_add_rule          445     445  pass   o0             -      -                -
landlock_restrict_self     446     446  pass   o0             -      -                -
memfd_secret               447     447  memory -              -      -                -
process_mrelease           448     448  slow   o0             -      -                law.process_access
futex_waitv                449     449  pass   -              -      -                -
set_mempolicy_home_node    450     450  pass   -              -      -                -
cachestat                  451     451  pass   o0             -      -                -
fchmodat2                  452     452  slow   d0,p1,f3       m      unless:0x100     -
map_shadow_stack           453     453  pass   -              -      -                -
futex_wake                 454     454  pass   -              -      -                -
futex_wait                 455     455  pass   -              -      -                -
futex_requeue              456     456  pass   -              -      -                -
statmount                  457     457  enosys -              -      -                -
listmount                  458     458  enosys -              -      -                -
lsm_get_self_attr          459     459  pass   -              -      -                -
lsm_set_self_attr          460     460  enosys -              -      -                -
lsm_list_modules           461     461  pass   -              -      -                -
mseal                      462     462  pass   -              -      -                -
setxattrat                 463     463  enosys d0,p1,f2       m      unless:0x100     -
getxattrat                 464     464  enosys d0,p1,f2       s      unless:0x100     -
listxattrat                465     465  enosys d0,p1,f2       s      unless:0x100     -
removexattrat              466     466  enosys d0,p1,f2       m      unless:0x100     -
open_tree_attr             467     467  refuse d0,p1,f2       s      unless:0x100     law.mount
file_getattr               468     468  enosys d0,p1,f4       s      unless:0x100     -
file_setattr               469     469  enosys d0,p1,f4       m      unless:0x100     -
listns                     470     470  enosys -              -      -                -
rseq_slice_yield           471     471  pass   -              -      -                -
"""
