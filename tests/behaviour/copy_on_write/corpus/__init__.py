"""The corpus of copy-on-write: short programs of raw system calls, which print what each call gave.

A program is a function that takes `Calls` (vocabulary.py). It starts in a directory of its own that holds the tree of
fixture.py, in a process of its own, with umask 022 and no descriptors but 0, 1 and 2. Every module named in GROUPS
holds one group of programs in `PROGRAMS`, and may have `prepare(root)`, which adds to the tree of each of
them and returns the names.

The package is run bare and in the sandbox by run.py, with whatever Python the machine has: it imports nothing but the
standard library. What must not be printed, because it differs from one bare run to the next: inode and device numbers
(but whether two are equal), the order of a directory, free space, times that are "now".
"""

GROUPS = (
    "opening",
    "resolving",
    "telling",
    "identity",
    "listing",
    "making",
    "removing",
    "unwritable",
    "renaming",
    "linking",
    "permissions",
    "owners",
    "times",
    "attributes",
    "sizes",
    "descriptors",
    "names",
    "executing",
    "sockets",
    "watching",
    "errnos",
    "locking",
    "places",
    "sequences",
)
