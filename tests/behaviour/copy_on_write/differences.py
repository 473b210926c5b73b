"""Programs of the corpus whose result is known to differ from bare: by the reason, their names.

A name may be preceded by `root` or `ordinary`: for that user only; the name of a group means all of its programs. An
entry of SANDLOCKD_DIFFERS or GRANTED_DIFFERS that no longer differs fails its test.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.users import User

Differences = Mapping[str, tuple[str, ...]]

SANDLOCKD_DIFFERS: Differences = {
    "a descriptor opened for reading before the copy-up does not see later writes and locks (nor with overlayfs)": (
        "renaming-an_open_reader_sees_what_is_written_to_the_new_name",
        "linking-a_descriptor_of_one_name_sees_the_other",
        "linking-by_proc",
        "permissions-by_a_read_only_descriptor_and_then_written",
        "attributes-by_a_read_only_descriptor_then_written",
        "sizes-a_read_only_mapping_sees_later_writes",
        "sizes-a_reader_beside_a_writer",
        "descriptors-a_reader_sees_what_is_written_by_path",
        "descriptors-a_reader_sees_a_truncation",
        "descriptors-a_reader_sees_metadata_changed_by_path",
        "descriptors-a_reader_sees_what_another_process_writes",
        "descriptors-an_inherited_descriptor_sees_writes",
        "descriptors-a_duplicate_sees_writes",
        "descriptors-the_offset_stays_over_copy_up",
        "descriptors-written_by_proc_of_a_read_only_descriptor",
        "descriptors-passed_over_a_socket",
        "descriptors-file_locks",
        "descriptors-locks_of_a_reader_and_a_later_writer",
        "locking-a_lease_on_the_lower_that_a_writer_breaks",
    ),
    "a copy-up changes the ctime of the file and of the directories above": (
        "removing-times_of_the_directory_and_the_object",
        "times-change_times_of_what_is_only_copied_up",
    ),
    "no device is made, and 0:0 is the number of our own whiteouts": (
        "root making-devices",
        "making-a_device_with_the_number_of_a_whiteout",
    ),
    "it makes no whiteouts for others": ("renaming-leaving_a_whiteout",),
    "chroot is refused, whatever the path": ("places-changing_the_root",),
    "no datagram sockets: sendmsg would have to be trapped for everybody": ("sockets-datagrams",),
    "the attributes of overlays are its own": ("attributes-reserved_for_overlays",),
    "attributes of the security and trusted classes are not removed, even where none is": (
        "root attributes-names_of_other_classes",
    ),
    "flags of inodes are not set": (
        "attributes-flags_of_inodes_by_a_read_only_descriptor",
        "attributes-project_and_flags_by_a_read_only_descriptor",
    ),
    "opening and reading what was never changed is not told to who watches its directory; our reading of that is": (
        "watching-listing_a_watched_directory",
    ),
    "the kernel's name of a program (comm) is that of the file, not of the link in the upper that led to it": (
        "executing-through_links",
    ),
    "a program of the upper is told to be called by a descriptor (AT_EXECFN /dev/fd/N)": (
        "executing-the_name_that_a_program_is_told",
    ),
    "fchdir is the kernel's, which asks the original whether it may be searched": (
        "ordinary errnos-entering_a_directory_that_was_closed",
    ),
    "who may not read what he runs cannot be read by the supervisor, which then serves him nothing": (
        "ordinary executing-without_permission_to_read",
    ),
    "an ordinary user's supervisor cannot copy or list what he may not read, be it his own": (
        "ordinary telling-access_after_changes",
        "ordinary removing-rmdir_everywhere",
        "ordinary removing-unlinkat_directory_everywhere",
        "ordinary renaming-of_a_closed_directory",
        "ordinary permissions-chmod_everywhere",
        "ordinary permissions-fchmodat_everywhere",
        "ordinary permissions-fchmodat2_everywhere",
        "ordinary permissions-fchmodat2_not_following_everywhere",
        "ordinary permissions-opening_a_closed_directory",
        "ordinary permissions-a_directory_that_may_not_be_searched",
        "ordinary permissions-a_directory_that_may_not_be_listed",
        "ordinary times-utime_everywhere",
        "ordinary times-utime_now_everywhere",
        "ordinary times-utimes_everywhere",
        "ordinary times-utimes_now_everywhere",
        "ordinary times-futimesat_everywhere",
        "ordinary times-utimensat_everywhere",
        "ordinary times-utimensat_now_everywhere",
        "ordinary times-utimensat_not_following_everywhere",
        "ordinary times-utimensat_both_now_everywhere",
        "ordinary times-utimensat_one_now_everywhere",
        "ordinary attributes-set_everywhere",
        "ordinary attributes-set_not_following_everywhere",
        "ordinary attributes-remove_everywhere",
        "ordinary attributes-remove_not_following_everywhere",
        "ordinary sizes-truncate_everywhere",
        "ordinary sequences-remove_everything",
    ),
    "somebody else's object cannot be linked or moved by an ordinary user's commit, and nothing that goes with it": (
        "ordinary renaming-bad_sources",
        "ordinary linking-of_everything",
        "ordinary linking-of_everything_followed",
        "ordinary linking-of_what_is_not_ours",
        "ordinary owners-without_rights_in_directories_of_root",
    ),
    "an ordinary user's copy of what is somebody else's is his own, and so it is committed (the list says `owner`)": (
        "ordinary opening-writing_every_kind",
        "ordinary opening-both_every_kind",
        "ordinary opening-creating_every_kind",
        "ordinary opening-truncating_every_kind",
        "ordinary opening-truncating_for_reading_every_kind",
        "ordinary opening-creating_and_truncating_every_kind",
        "ordinary opening-appending_every_kind",
        "ordinary opening-writing_not_following_every_kind",
        "ordinary opening-creating_not_following_every_kind",
        "ordinary opening-no_access_mode_every_kind",
        "ordinary opening-exclusively_without_creating_every_kind",
        "ordinary opening-synchronously_every_kind",
        "ordinary opening-a_file_of_somebody_else",
        "ordinary making-mkdir_everywhere",
        "ordinary making-mkdirat_everywhere",
        "ordinary making-mknod_file_everywhere",
        "ordinary making-mknod_fifo_everywhere",
        "ordinary making-mknod_socket_everywhere",
        "ordinary making-symlink_everywhere",
        "ordinary making-link_everywhere",
        "ordinary removing-unlink_everywhere",
        "ordinary removing-unlinkat_everywhere",
        "ordinary removing-in_a_sticky_directory",
        "ordinary renaming-in_a_sticky_directory",
    ),
    "an ordinary user's copy of a directory with a group that he is not in has his own, and no set-group-ID bit": (
        "ordinary making-in_a_setgid_directory",
        "ordinary making-by_another_in_setgid_directories",
        "ordinary making-renamed_into_a_setgid_directory",
        "ordinary renaming-with_metadata",
        "ordinary permissions-group_of_the_owner_decides_about_setgid",
        "ordinary owners-chown_to_another",
        "ordinary owners-chown_to_nothing",
        "ordinary owners-chown_to_ones_own",
        "ordinary owners-lchown_to_another",
        "ordinary owners-lchown_to_nothing",
        "ordinary owners-lchown_to_ones_own",
        "ordinary owners-fchownat_to_another",
        "ordinary owners-fchownat_to_nothing",
        "ordinary owners-fchownat_to_ones_own",
        "ordinary owners-fchownat_not_following_to_another",
        "ordinary owners-fchownat_not_following_to_nothing",
        "ordinary owners-fchownat_not_following_to_ones_own",
        "ordinary sockets-modes_and_umasks_of_sockets",
    ),
}

# Without copy-on-write: the work directory is granted for writing.
GRANTED_DIFFERS: Differences = {
    "openat2 does not exist (ENOSYS)": ("resolving", "errnos-ways_to_open_that_are_none"),
    "no network, and AF_UNIX counts as such": ("sockets",),
    "no device is made": ("root making-devices", "making-a_device_with_the_number_of_a_whiteout"),
    "no set-group-ID file comes into being": (
        "permissions-set_ids_go_with_a_write",
        "owners-clears_setgid_of_files",
    ),
    "chroot is refused, whatever the path": ("places-changing_the_root",),
    "no datagram sockets: sendmsg would have to be trapped for everybody": ("sockets-datagrams",),
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
    "metadata and programs deeper than a path can tell: what has no path is not judged, and so refused": (
        "names-everything_deeper_than_a_path_can_be_long",
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
        "root owners-somebody_elses_file_stays_his",
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
        "resolving-from_above_the_tree",
        "places-file_systems",
        "places-limits_of_names",
        "linking-from_outside_of_the_tree",
    ),
    "it has no handles, unless mounted for NFS": ("places-handles", "places-handles_are_of_objects"),
}

# In the private /tmp, where everything is in the upper.
IN_TMP_DIFFERS: Differences = {
    "no device is made, and 0:0 is the number of our own whiteouts": (
        "root making-devices",
        "making-a_device_with_the_number_of_a_whiteout",
    ),
    "it makes no whiteouts for others": ("renaming-leaving_a_whiteout",),
    "attributes of the security and trusted classes are not removed, even where none is": (
        "root attributes-names_of_other_classes",
    ),
    "the attributes of overlays are its own": ("attributes-reserved_for_overlays",),
    "flags of inodes are not set": (
        "attributes-flags_of_inodes_by_a_read_only_descriptor",
        "attributes-project_and_flags_by_a_read_only_descriptor",
    ),
    "the kernel's name of a program (comm) is that of the file, not of the link in the upper that led to it": (
        "executing-through_links",
    ),
    "a program of the upper is told to be called by a descriptor (AT_EXECFN /dev/fd/N)": (
        "executing-the_name_that_a_program_is_told",
    ),
    "no datagram sockets: sendmsg would have to be trapped for everybody": ("sockets-datagrams",),
    "chroot is refused, whatever the path": ("places-changing_the_root",),
    "who may not read what he runs cannot be read by the supervisor, which then serves him nothing": (
        "ordinary executing-without_permission_to_read",
    ),
}


def reason(table: Differences, program: str, user: User) -> str | None:
    """Why this program, `group-name`, may differ; None when it must not."""
    who = "root" if user.is_root else "ordinary"
    names = {program, f"{who} {program}", program.partition("-")[0]}
    return next((why for why, known in table.items() if names & set(known)), None)
