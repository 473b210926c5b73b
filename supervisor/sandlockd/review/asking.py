"""`ask`: a person looks at the changes and says what becomes of them.

A loop over two streams, which need not be a terminal. Refuses to take silence for consent: an end of input, or ^C,
keeps the changes. What would throw away asks for a capital letter, what would let out what runs later for one more yes.
"""

from __future__ import annotations

from sandlockd.review.changelist import PLAIN, Row, Style, list_lines, shown, summary
from sandlockd.review.diffs import diff_lines
from sandlockd.review.reviewing import NotCommitted, Review

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from sandlockd.review.reviewing import Done

_MENU = "[c]ommit [d]iff [s]elect [k]eep [D]iscard"
_HELP = """\
c  commit all changes, or those selected, to the directory
d  show what changed in the files
s  select: numbers of the list (1 4-7) or paths; nothing: all again
k  keep them for later: sandlockctl diff, commit, discard
D  discard all changes, or those selected"""


class Asking:
    """read: a line without its end, None at the end of input. write: lines. prompt: without an end of line."""

    def __init__(
        self,
        review: Review,
        read: Callable[[], str | None],
        write: Callable[[str], None],
        prompt: Callable[[str], None],
        style: Style = PLAIN,
    ) -> None:
        self._review = review
        self._read = read
        self._write = write
        self._prompt = prompt
        self._style = style
        self._selected: list[bytes] | None = None
        self.did = "kept"

    def run(self) -> str:
        """Returns: `kept`, `committed` or `discarded`: what was done with the last of the changes."""
        self._list()
        while True:
            chosen = "" if self._selected is None else f" (of {len(self._selected)} selected)"
            answer = self._asked(f"{_MENU}{chosen}? ")
            match answer:
                case None | "k":
                    return "kept"
                case "c":
                    is_over = self._commit()
                case "D":
                    is_over = self._discard()
                case "d":
                    is_over = False
                    self._show(self._review.chosen(self._selected))
                case "s":
                    is_over = False
                    self._select()
                case "":
                    is_over = False
                case _:
                    is_over = False
                    self._say(_HELP.splitlines())
            if is_over:
                return self.did

    def _asked(self, text: str) -> str | None:
        self._prompt(text)
        try:
            answer = self._read()
        except KeyboardInterrupt:
            answer = None
        if answer is None:
            self._write("")
            return None
        return answer.strip()

    def _say(self, lines: Collection[str] | Iterator[str]) -> None:
        for line in lines:
            self._write(line)

    def _list(self) -> None:
        self._say(list_lines(self._review.rows, self._style, numbered=True))
        self._write(f"{summary(self._review.changes)} of {shown(self._review.workdir)}")

    def _show(self, rows: Collection[Row]) -> None:
        for row in rows:
            self._say(diff_lines(row, self._review.storage, self._style))

    def _commit(self) -> bool:
        marked = self._review.refused_marks(self._selected, ())
        named: list[bytes] = []
        skip = False
        if marked:
            self._write("These run later by themselves, or grant something:")
            self._say(list_lines(marked, self._style))
            answer = self._asked("[y] commit them too, [w] commit without them, anything else: back? ")
            if answer not in ("y", "w"):
                return False
            skip = answer == "w"
            named = [] if skip else [row.change.path for row in marked]
        return self._carry_out(
            "committed", lambda: self._review.commit(self._selected, named=named, skip_marked=skip)
        )

    def _discard(self) -> bool:
        return self._carry_out("discarded", lambda: self._review.discard(self._selected))

    def _carry_out(self, did: str, act: Callable[[], Done]) -> bool:
        try:
            done = act()
        except NotCommitted as error:
            self._say(error.lines)
            return False
        self._say(done.notes)
        self._write(f"{did}.")
        self.did = did
        self._selected = None
        if done.left:
            self._list()
        return done.left == 0

    def _select(self) -> None:
        answer = self._asked("numbers or paths: ")
        if not answer:
            self._selected = None
            return
        found = _numbered(answer, len(self._review.rows))
        if found is not None:
            paths = [self._review.rows[place - 1].change.path for place in found]
        else:
            paths = [answer.encode("utf-8", "surrogateescape")]
        try:
            rows = self._review.chosen(paths)
        except NotCommitted as error:
            self._say(error.lines)
            return
        self._selected = paths
        self._say(list_lines(rows, self._style))


def _numbered(answer: str, count: int) -> list[int] | None:
    """`1 4-7` or `1,4-7` as places in the list; None if it is something else."""
    found: list[int] = []
    for word in answer.replace(",", " ").split():
        first, dash, last = word.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            return None
        places = range(int(first), min(int(last or first), count) + 1)
        if not places or places[0] < 1 or int(last or first) > count:
            return None
        found += places
    return found
