"""Programs of the corpus whose result is known to differ from bare: by the reason, their names.

A name may be preceded by `root` or `ordinary`: for that user only; the name of a group means all of its programs. An
entry of SANDLOCKD_DIFFERS or GRANTED_DIFFERS that no longer differs fails its test.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.users import User

Differences = Mapping[str, tuple[str, ...]]

SANDLOCKD_DIFFERS: Differences = {}

# Without copy-on-write: the work directory is granted for writing.
GRANTED_DIFFERS: Differences = {
    "openat2 does not exist (ENOSYS)": ("resolving",),
    "no network, and AF_UNIX counts as such": ("sockets",),
    "no device is made": ("root making-devices", "making-a_device_with_the_number_of_a_whiteout"),
    "no set-group-ID file comes into being": (
        "permissions-set_ids_go_with_a_write",
        "owners-clears_setgid_of_files",
    ),
    "chroot is refused, whatever the path": ("places-changing_the_root",),
    "the directory in /proc is refused before the kernel sees two file systems (EACCES, not EXDEV)": (
        "renaming-out_of_the_tree",
        "linking-by_proc_not_followed",
        "linking-from_outside_of_the_tree",
    ),
    "attributes of the security and trusted classes are not removed, even where none is": (
        "root attributes-names_of_other_classes",
    ),
    "flags of inodes are not set": (
        "attributes-flags_of_inodes_by_a_read_only_descriptor",
        "attributes-project_and_flags_by_a_read_only_descriptor",
    ),
    "who may not read what he runs cannot be read by the supervisor, which then serves him nothing": (
        "ordinary executing-without_permission_to_read",
    ),
}

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
    """Why this program, `group-name`, may differ; None when it must not."""
    who = "root" if user.is_root else "ordinary"
    names = {program, f"{who} {program}", program.partition("-")[0]}
    return next((why for why, known in table.items() if names & set(known)), None)
