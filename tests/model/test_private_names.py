"""The handlers of a private /proc are brought late: the table knows beforehand which calls they answer."""

from __future__ import annotations

from sandlockd.handlers import metadata, naming, opening, table, targets
from sandlockd.handlers.private.table import around


def test_the_table_names_exactly_what_they_answer() -> None:
    bare = {
        **dict.fromkeys(("open", "openat", "creat", "openat2"), opening.handle),
        **dict.fromkeys(naming.NAMES, naming.handle),
        **dict.fromkeys(("execve", "execveat"), naming.handle_execute),
        **dict.fromkeys(metadata.NAMES, metadata.handle),
        **dict.fromkeys(metadata.ATTRIBUTES, metadata.handle_attributes),
        **dict.fromkeys(targets.PROCESS_CALLS, targets.handle_process),
    }
    assert table._Private(bare).by_name().keys() == around(bare).keys()
