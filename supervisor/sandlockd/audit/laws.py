"""Why no policy line may allow what a law refuses, in words for people. Data only.

A law without words here is told as such; a test names those that the source knows and this table does not.
"""

from __future__ import annotations

_REASONS = {
    "law.bpf": "BPF programs run in the kernel, outside of every sandbox",
    "law.devices": "device nodes reach hardware and the kernel, whatever they are called",
    "law.dumpable": "a process that hides its memory could not be judged any more",
    "law.errors_refuse": "it could not be judged, and what cannot be judged is refused",
    "law.file_flags": "a file's flags (immutable, append only, ...) would outlive the run and bind everybody",
    "law.file_handle": "opening by handle goes round every path that the policy names",
    "law.host": "it is about the whole machine (clock, name, devices, accounting), not about one program",
    "law.io_uring": "io_uring carries out file and network calls that no filter sees",
    "law.kexec": "it replaces the running kernel",
    "law.keyring": "the keyrings belong to the user and hold secrets of programs outside",
    "law.modules": "modules run in the kernel, outside of every sandbox",
    "law.mount": "mounts change what every path of the policy means",
    "law.mqueue": "message queues are the machine's: programs outside can be met there",
    "law.namespaces": "a new namespace changes what paths and identities of the policy mean",
    "law.perf": "performance events show what other programs and the kernel do",
    "law.personality": "it turns protections of the address space off",
    "law.process_access": "it reaches into a process outside of the sandbox",
    "law.proc": "/proc tells of the host; what is the program's own there is served without a grant",
    "law.ptrace": "who traces a process decides what it does, after the filter has judged it",
    "law.new_beside_denied": "it was made in this run beside something denied, where the kernel grants nothing new;"
    " the next run can execute it",
    "law.setuid": "a set-user-ID file would give whoever executes it, outside too, the rights of this user",
    "law.seccomp": "a second listener would take decisions away from this one",
    "law.state": "these are sandlockd's own records, and the program could change what they say",
    "law.sysv_ipc": "System V IPC is the machine's: programs outside can be met there",
    "law.terminal": "it types into the terminal, as if the user had",
    "law.unreadable": "the memory with the call's arguments could not be read, so it could not be judged",
    "network": "sockets need network rules, and those are not supported yet; with a copy-on-write tree there are"
    " stream and seqpacket sockets of AF_UNIX",
    "network.unix": "a socket that is not this sandbox's own, in a copy-on-write tree, belongs to somebody outside",
    "law.userfaultfd": "it can hold the kernel in the middle of reading memory that is being judged",
}


def reason(rule: str) -> str:
    """The words after "nothing may allow this"."""
    if known := _REASONS.get(rule):
        return known
    if rule.startswith("law."):
        return f"{rule} is a law of sandlockd, and no policy lifts it"
    return "no line of a policy could name it"
