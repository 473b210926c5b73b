"""Programs of the corpus whose result is known to differ from bare: by the reason, their names.

A name may be preceded by `root` or `ordinary`: for that user only. An entry of SANDLOCKD_DIFFERS that no longer
differs fails its test.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.users import User

Differences = Mapping[str, tuple[str, ...]]

SANDLOCKD_DIFFERS: Differences = {}

# With index=on and redirect_dir=on, as of Linux 6.18. What is not here, even the kernel's overlayfs does as bare.
OVERLAYFS_DIFFERS: Differences = {
    "a descriptor of a lower file whose name is removed: link count 1, and its metadata cannot be changed (EEXIST)": (
        "removing-an_open_file_lives_on",
        "removing-a_new_file_with_the_name_of_an_open_removed_one",
        "removing-times_of_the_directory_and_the_object",
        "permissions-of_a_removed_file_by_descriptor",
        "owners-of_a_removed_file_by_descriptor",
        "attributes-of_a_removed_file",
    ),
    "a FIFO of the lower keeps its times when written, and its link count when removed": (
        "opening-a_fifo_of_the_tree",
        "removing-a_fifo_and_a_socket_that_are_open",
    ),
    "a mapping of a lower file does not see what is written later": (
        "sizes-a_read_only_mapping_sees_later_writes",
    ),
    "a copy-up changes the ctime of the file and of the directories above": (
        "times-change_times_of_what_is_only_copied_up",
    ),
    "a copy-up counts against the caller's limit of file sizes": ("sizes-limits_of_file_sizes",),
    "a directory has one link": ("telling-link_counts_of_directories",),
    "0:0 is the number of its own whiteouts": ("making-a_device_with_the_number_of_a_whiteout",),
    "it makes no whiteouts for others": ("renaming-leaving_a_whiteout",),
    "an ACL without entries is removed where none is": ("attributes-bad_acls",),
    "the size of a list of names counts its own, which are left out": ("attributes-values",),
    "it is another file system": (
        "places-file_systems",
        "places-limits_of_names",
        "linking-from_outside_of_the_tree",
    ),
    "it has no handles, unless mounted for NFS": ("places-handles", "places-handles_are_of_objects"),
}


def reason(table: Differences, program: str, user: User) -> str | None:
    """Why this program may differ; None when it must not."""
    names = {program, f"{'root' if user.is_root else 'ordinary'} {program}"}
    return next((why for why, known in table.items() if names & set(known)), None)
