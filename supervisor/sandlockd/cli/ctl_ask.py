"""`sandlockctl run --on-exit ask`: a person looks at the changes and says what becomes of them.

As in the foreground (review/asking.py), silence is no consent: an end of input, or ^C, keeps them.
"""

from __future__ import annotations

import sys

from sandlockd.cli.ctl_changes import finished_lines
from sandlockd.cli.ctl_service import say, told
from sandlockd.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.client.sync import Sandbox

_MENU = "[c]ommit [d]iff [k]eep [D]iscard? "


def ask(sandbox: Sandbox) -> None:
    """What is kept in the end stays so."""
    sys.stderr.write(sandbox.diff(only_list=True))
    while True:
        match _answer():
            case None | "k":
                say(f"its changes are kept: sandlockctl diff {sandbox.known.id}")
                return
            case "d":
                sys.stderr.write(sandbox.diff())
            case "c" | "D" as chosen:
                if _is_done(sandbox, chosen):
                    return
            case _:
                sys.stderr.write(
                    "c: put them into the directory; d: show them; k: decide later; D: drop them\n"
                )


def _answer() -> str | None:
    sys.stderr.write(_MENU)
    sys.stderr.flush()
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        line = ""
    if not line:
        sys.stderr.write("\n")
        return None
    return line.strip()


def _is_done(sandbox: Sandbox, chosen: str) -> bool:
    """False: it was refused, and why is said."""
    try:
        done = sandbox.commit() if chosen == "c" else sandbox.discard()
    except ApiError as error:
        told(error)
        return False
    for line in finished_lines(sandbox, done):
        sys.stderr.write(f"{line}\n")
    return True
