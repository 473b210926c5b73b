"""FileRules: may the program do this to that file? The one evaluator, for the wall, the handlers and
`explain`.

Pure. Paths come in canonical (absolute, no symbolic links); what leads where was looked up by the caller
and comes in as Facts. Built once per run, asked at every path that the supervisor serves: one step per
component, no scan.

The order, which is the security of it:
1. a law (`law.proc`, `law.state`) and 2. a `deny` refuse whatever is at or beneath their path, and the
object itself under any other name. Nothing overrules them.
3. `base.secrets` is what base does not grant: only a grant at or beneath the secret itself reaches it.
4. Of the grants that are left the rights add up; the longest names the rule.
"""

from __future__ import annotations

from sandlockd.policy import base_tree
from sandlockd.policy.errors import PolicyError, PolicyErrors
from sandlockd.policy.frozen import Value
from sandlockd.policy.inputs import PathKind
from sandlockd.policy.spelling import fits, is_within, parent_of, printable, spelled, toml_string
from sandlockd.policy.verdict import Verdict, Want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sandlockd.policy.model import PathRule, Policy
    from sandlockd.policy.verdict import FileIdentity

LAW_PROC = "law.proc"
LAW_STATE = "law.state"
PRIVATE_RULE = "base.tmpdir"
WORKDIR_RULE = "filesystem.workdir"
TEMPORARY_RULE = "base.tmp"

_READ, _EXECUTE = Want.READ, Want.EXECUTE
_ALL = Want.READ | Want.EXECUTE | Want.WRITE | Want.CREATE | Want.DELETE | Want.METADATA
# Plain integers: Flag arithmetic takes microseconds, and this is asked at every path.
_EXECUTE_BIT: int = Want.EXECUTE.value
_READ_BIT: int = Want.READ.value
_NAME_BITS: int = (Want.CREATE | Want.DELETE).value
_DELETE_BIT: int = Want.DELETE.value


class Seen(Value):
    """What stands at a path. Of a missing one `path` is resolved as far as it exists."""

    path: bytes
    kind: PathKind
    identity: FileIdentity | None


class Facts(Value):
    """What the rules need of the machine.

    look: what stands at an absolute path, symbolic links followed.
    matches: the paths of the names in a directory that match a pattern.
    procfs: where a procfs is mounted, canonical.
    state: sandlockd's own directories, canonical.
    private: directories made for this run, granted whole; canonical.
    layers: directories made for this run that hold what trees are made of: nobody's by any name; canonical.
    home: canonical, for remedies that are not too broad.
    """

    look: Callable[[bytes], Seen]
    matches: Callable[[bytes, bytes], Iterable[bytes]]
    procfs: tuple[bytes, ...] = (b"/proc",)
    state: tuple[bytes, ...] = ()
    private: tuple[bytes, ...] = ()
    layers: tuple[bytes, ...] = ()
    home: bytes | None = None


class Grant(Value):
    """Rights on a path and all beneath. CREATE and DELETE are for names beneath it, not for its own."""

    path: bytes
    want: Want
    rule: str


class Hole(Value):
    """What no grant above it reaches; a grant of FileRules.grants() at or beneath a hole is meant to be
    there.

    pattern: the last name of the path is one, and stands for whatever fits it, now or later.
    path: a component may be missing, or (of a deny that was written through one) a symbolic link: what lies
        beyond it is then not reached by this name.
    identity: the object at the path, refused under every other name too; None if there is none now, or if a
        grant names it itself.
    """

    path: bytes
    rule: str
    identity: FileIdentity | None
    pattern: bool = False


class FileRules:
    """The compiled rules. Immutable."""

    def __init__(
        self,
        grants: tuple[Grant, ...],
        holes: tuple[Hole, ...],
        sources: Mapping[str, str],
        home: bytes | None,
    ) -> None:
        """sources: for each rule of the policy, the line or option that it comes from."""
        self._grants = grants
        self._holes = holes
        self._sources = sources
        self._home = home
        self._execute_is_given = any(rule.startswith("filesystem.execute") for rule in sources)
        self._grants_at: dict[bytes, list[tuple[int, str]]] = {}
        for grant in grants:
            self._grants_at.setdefault(grant.path, []).append((grant.want.value, grant.rule))
        self._hole_at: dict[bytes, str] = {}
        self._hole_above: dict[bytes, str] = {}  # directories on the way to a hole
        self._patterns: dict[bytes, list[tuple[bytes, str]]] = {}  # by directory, the strictest first
        self._objects: dict[FileIdentity, str] = {}
        for hole in sorted(holes, key=_strictness, reverse=True):
            if hole.pattern:
                name = hole.path[hole.path.rfind(b"/") + 1 :]
                self._patterns.setdefault(parent_of(hole.path), []).insert(0, (name, hole.rule))
            else:
                self._hole_at[hole.path] = hole.rule  # the strictest is set last
            above = hole.path
            while above != b"/":
                above = parent_of(above)
                self._hole_above[above] = hole.rule
            if hole.identity is not None:
                self._objects[hole.identity] = hole.rule

    def grants(self) -> tuple[Grant, ...]:
        """What is granted, without what a law or a deny takes back whole."""
        return self._grants

    def holes(self) -> tuple[Hole, ...]:
        """What is taken out of the grants."""
        return self._holes

    def denies_object(self, identity: FileIdentity) -> bool:
        """Whatever its name is."""
        return identity in self._objects

    def also_denied(self, objects: Mapping[FileIdentity, str]) -> FileRules:
        """The same rules, with more objects refused under every name: files beneath a denied directory."""
        rules = FileRules(self._grants, self._holes, self._sources, self._home)
        rules._objects = {**objects, **self._objects}
        return rules

    def also_holes(self, more: Iterable[Hole]) -> FileRules:
        """The same rules with more holes: further names of what is denied."""
        rules = FileRules(self._grants, (*self._holes, *more), self._sources, self._home)
        rules._objects = {**rules._objects, **self._objects}
        return rules

    def with_temporary(self, roots: Iterable[bytes]) -> FileRules:
        """The same rules for names in trees that start empty: all there is the program's, but for what is denied.

        These rules are about names in the trees alone: what the machine has at such a path, they do not grant.
        """
        given = tuple(roots)
        if not given:
            return self
        grants = (*self._grants, *(Grant(root, _ALL, TEMPORARY_RULE) for root in given))
        holes = tuple(
            hole
            for hole in self._holes
            if hole.rule != LAW_STATE or not any(is_within(hole.path, root) for root in given)
        )
        rules = FileRules(grants, holes, self._sources, self._home)
        rules._objects = self._objects
        return rules

    def narrowed(self, rule: str, want: Want) -> FileRules:
        """The same rules, with the grants of one rule giving no more than this."""
        grants = tuple(
            Grant(grant.path, grant.want & want, grant.rule) if grant.rule == rule else grant
            for grant in self._grants
        )
        rules = FileRules(grants, self._holes, self._sources, self._home)
        rules._objects = self._objects
        return rules

    def hole_beneath(self, path: bytes) -> str | None:
        """The rule of a hole that lies below this path, if there is one: whoever makes the path prepares its place."""
        return self._hole_above.get(path)

    def patterns_in(self, directory: bytes) -> list[bytes]:
        """Of names there, which are holes."""
        return [pattern for pattern, _ in self._patterns.get(directory, ())]

    def hole_by_pattern(self, path: bytes) -> str | None:
        """The rule whose pattern the last name of this path fits."""
        slash = path.rfind(b"/")
        name = path[slash + 1 :]
        for pattern, rule in self._patterns.get(path[:slash] or b"/", ()):
            if name and fits(name, pattern):
                return rule
        return None

    def judge(
        self, path: bytes, want: Want, identity: FileIdentity | None = None, *, directory: bool = False
    ) -> Verdict:
        """Whether the program may.

        path: canonical. For CREATE and DELETE it is the name that is made or taken away, and its directory
            must be granted, as for Landlock: a grant of /a allows /a/b to be removed, not /a.
        identity: the object, where it is open or known.
        directory: the object is one; only the remedy differs.
        """
        need = want.value
        if identity is not None and identity in self._objects:
            return self._refused(self._objects[identity], path, need, directory)
        if not path.startswith(b"/"):
            return Verdict(False, "default")
        rights, named, partial, hole = self._walk(path, need)
        if hole is not None and hole != base_tree.SECRETS_RULE:
            return self._refused(hole, path, need, directory)
        if need & ~rights == 0 and (named or partial):
            if need & _DELETE_BIT and path in self._hole_above:
                # Renaming a directory above a denied path would carry what is denied out of the rule's reach.
                rule = self._hole_above[path]
                return Verdict(False, rule, self._narrower(rule))
            return Verdict(True, named or partial)
        if hole is not None:
            return self._refused(hole, path, need, directory)
        if self._execute_is_given and need & ~rights == _EXECUTE_BIT and rights & _READ_BIT:
            return Verdict(False, "filesystem.execute", self._line("execute", path, directory))
        return self._refused("default", path, need, directory)

    def _walk(self, path: bytes, need: int) -> tuple[int, str, str, str | None]:
        """From the path up to the root.

        Returns: the rights that add up; the longest rule that gives all that is needed; the longest that
            gives some; the rule of the strictest hole.
        """
        rights, named, partial, hole = 0, "", "", None
        own, at = True, path
        shielded = False  # below a directory made for this run: sandlockd's state around it is not meant
        while True:
            if hole is None:
                for given, rule in self._grants_at.get(at, ()):
                    if own:
                        given &= ~_NAME_BITS
                    if given & need == need and not named:
                        named = rule
                    if given & need and not partial:
                        partial = rule
                    rights |= given
                    shielded = shielded or rule == PRIVATE_RULE
            found = self._hole_at.get(at)
            if self._patterns:
                by_pattern = self.hole_by_pattern(at)
                if found is None or (by_pattern is not None and _rank(by_pattern) < _rank(found)):
                    found = by_pattern
            if found is not None and not (shielded and found == LAW_STATE):
                hole = found if hole is None or _rank(found) < _rank(hole) else hole
            if at == b"/":
                return rights, named, partial, hole
            own, at = False, at[: at.rfind(b"/")] or b"/"

    # --- what would allow it ---

    def _refused(self, rule: str, path: bytes, need: int, directory: bool) -> Verdict:
        if rule != "default" and rule != base_tree.SECRETS_RULE:
            return Verdict(False, rule, self._narrower(rule))
        key = "read"
        if need & ~(_READ_BIT | _EXECUTE_BIT):
            key = "write"
        elif need & _EXECUTE_BIT and self._execute_is_given:
            key = "execute"
        if rule == base_tree.SECRETS_RULE and not need & _NAME_BITS:
            return Verdict(False, rule, _policy_line(key, path))
        return Verdict(False, rule, self._line(key, path, directory, names=bool(need & _NAME_BITS)))

    def _narrower(self, rule: str) -> str | None:
        """What to do about a deny; nothing helps against a law."""
        source = self._sources.get(rule)
        return None if source is None else f"remove or narrow {rule} ({source})"

    def _line(self, key: str, path: bytes, directory: bool, *, names: bool = False) -> str:
        """The line that grants enough: the directory around a file, unless that is broad (/etc, the home)."""
        around = parent_of(path)
        if names:
            return _policy_line(key, around)
        is_broad = around.count(b"/") < 2 or around == self._home
        return _policy_line(key, path if directory or is_broad else around)


def _policy_line(key: str, path: bytes) -> str:
    return f"[filesystem] {key} = [{toml_string(spelled(path))}]"


def _rank(rule: str) -> int:
    if rule.startswith("law."):
        return 0
    return 2 if rule == base_tree.SECRETS_RULE else 1


def _strictness(hole: Hole) -> int:
    return _rank(hole.rule)


# --- building ---


def compile_rules(policy: Policy, facts: Facts) -> FileRules:
    """The rules of a policy on this machine, now.

    Raises:
        PolicyErrors: a granted path has gone, or leads to what no policy can grant.
    """
    errors: list[PolicyError] = []
    laws = [Hole(path, LAW_PROC, None) for path in facts.procfs]
    laws += [Hole(path, LAW_STATE, None) for path in (*facts.state, *facts.layers)]
    denies = _denied(policy, facts)
    grants = [*_base_grants(policy, facts), *_policy_grants(policy, facts, laws, errors)]
    grants += _workdir_grant(policy, facts, laws, grants, errors)
    if errors:
        raise PolicyErrors(errors)
    strict = [hole.path for hole in denies] + [hole.path for hole in laws]
    kept = [grant for grant in grants if not any(is_within(grant.path, path) for path in strict)]
    for path in facts.private:
        if not any(is_within(path, hole.path) for hole in denies):
            kept.append(Grant(path, _ALL, PRIVATE_RULE))
    secrets = _secrets(facts, {grant.path for grant in kept if grant.rule != base_tree.RULE})
    home = facts.look(facts.home).path if facts.home else None
    return FileRules(tuple(kept), (*laws, *denies, *secrets), _sources(policy), home)


def _sources(policy: Policy) -> dict[str, str]:
    files = policy.filesystem
    rules = (*files.read, *files.execute, *files.write, *files.deny)
    return {rule.rule: rule.source for rule in rules}


def _base_grants(policy: Policy, facts: Facts) -> Iterable[Grant]:
    if not policy.filesystem.base:
        return
    for paths, want in (
        (base_tree.TREES, _READ | _EXECUTE),
        (base_tree.DATA, _READ),
        (base_tree.DEVICES, _READ | Want.WRITE),
    ):
        there: list[bytes] = []
        for path in paths:
            seen = facts.look(path)
            if seen.kind in (PathKind.MISSING, PathKind.UNREADABLE):
                continue
            if any(is_within(seen.path, path) for path in there):
                continue  # /bin is /usr/bin on most machines
            if paths is base_tree.DEVICES and seen.kind is not PathKind.OTHER:
                continue  # a file in the place of a device would be written for good
            there.append(seen.path)
            yield Grant(seen.path, want, base_tree.RULE)


def _policy_grants(
    policy: Policy, facts: Facts, laws: list[Hole], errors: list[PolicyError]
) -> Iterable[Grant]:
    files = policy.filesystem
    execute = Want(0) if files.execute else _EXECUTE
    for rules, want in (
        (files.read, _READ | execute),
        (files.execute, _READ | _EXECUTE),
        (files.write, (_ALL & ~_EXECUTE) | execute),
    ):
        for rule in rules:
            seen = facts.look(rule.path)
            law = next((hole for hole in laws if is_within(seen.path, hole.path)), None)
            if law is not None:
                shown = printable(seen.path.decode("utf-8", "backslashreplace"))
                errors.append(_gone(rule, f"leads to {shown}, which no policy can grant ({law.rule})"))
            elif seen.kind in (PathKind.MISSING, PathKind.UNREADABLE):
                errors.append(_gone(rule, "was there a moment ago and cannot be found now"))
            else:
                yield Grant(seen.path, want, rule.rule)


def _workdir_grant(
    policy: Policy, facts: Facts, laws: list[Hole], grants: list[Grant], errors: list[PolicyError]
) -> Iterable[Grant]:
    """The copy-on-write tree: everything in it is the program's, and nothing of it is real before it is committed.

    Landlock's rules are recursive and cannot subtract: a real grant around the tree would reach its lower files, and
    one in it would make some of what is changed there real.
    """
    if policy.filesystem.workdir is None:
        return
    seen = facts.look(policy.filesystem.workdir)
    wrong = ""
    if seen.kind is not PathKind.DIRECTORY:
        wrong = "was a directory a moment ago and is none now"
    for hole in laws:
        if is_within(seen.path, hole.path):
            wrong = f"leads to {_shown(hole.path)}, which no policy can grant ({hole.rule})"
    for grant in grants:
        if not grant.want & Want.WRITE or grant.rule == base_tree.RULE:
            continue
        if is_within(seen.path, grant.path) or is_within(grant.path, seen.path):
            wrong = (
                f"and {grant.rule} ({_shown(grant.path)}) lie in one another: what is written there cannot be both"
                " real and a copy; keep one of them"
            )
    for path in (*facts.private, *facts.layers):
        if is_within(path, seen.path):
            wrong = f"contains the temporary directory {_shown(path)}: set TMPDIR to a place outside of it"
    if wrong:
        errors.append(PolicyError(WORKDIR_RULE, None, "", f"{_shown(seen.path)} {wrong}"))
    else:
        yield Grant(seen.path, _ALL, WORKDIR_RULE)


def _shown(path: bytes) -> str:
    return printable(path.decode("utf-8", "backslashreplace"))


def _gone(rule: PathRule, message: str) -> PolicyError:
    file, colon, line = rule.source.rpartition(":")
    has_line = bool(colon) and line.isdigit()
    shown = printable(rule.path.decode("utf-8", "backslashreplace"))
    return PolicyError(
        file if has_line else rule.source, int(line) if has_line else None, rule.rule, f"{shown} {message}"
    )


def _denied(policy: Policy, facts: Facts) -> list[Hole]:
    """Each deny under every name that leads to it now.

    As written too, and as the last link is named: otherwise a program that may write around the link could
    put something else in the link's place, which no longer led to what is denied.
    """
    holes: dict[bytes, Hole] = {}
    for rule in policy.filesystem.deny:
        directory, _, name = rule.path.rpartition(b"/")
        if b"*" not in name:
            _deny(holes, facts, rule.path, rule.rule)
            continue
        for matching in facts.matches(directory or b"/", name):
            _deny(holes, facts, matching, rule.rule)
        for hole in _pattern_holes(facts, directory or b"/", name, rule.rule):
            holes.setdefault(hole.path, hole)
    return list(holes.values())


def _deny(holes: dict[bytes, Hole], facts: Facts, path: bytes, rule: str) -> None:
    seen = facts.look(path)
    for name in _names_of(facts, path):
        holes.setdefault(name, Hole(name, rule, seen.identity if name == seen.path else None))


def _names_of(facts: Facts, path: bytes) -> tuple[bytes, ...]:
    """Where it leads, as its last link is named, and as it is written."""
    in_place = facts.look(parent_of(path)).path.rstrip(b"/") + b"/" + path.rpartition(b"/")[2]
    return facts.look(path).path, in_place, path


def _pattern_holes(facts: Facts, directory: bytes, pattern: bytes, rule: str) -> Iterable[Hole]:
    """Under each name of the directory: what appears in it later is judged by its own name."""
    for name in dict.fromkeys(_names_of(facts, directory)):
        yield Hole(name.rstrip(b"/") + b"/" + pattern, rule, None, True)


def _secrets(facts: Facts, granted: set[bytes]) -> list[Hole]:
    """The secrets of the base tree. One granted by its own name is none under other names either."""
    paths = list(base_tree.SECRETS)
    patterns: list[Hole] = []
    for directory, pattern in base_tree.SECRET_PATTERNS:
        paths += facts.matches(directory, pattern)
        patterns += _pattern_holes(facts, directory, pattern, base_tree.SECRETS_RULE)
    holes: dict[bytes, Hole] = {}
    for path in paths:
        seen = facts.look(path)
        identity = None if seen.path in granted else seen.identity
        holes.setdefault(seen.path, Hole(seen.path, base_tree.SECRETS_RULE, identity))
    return [*holes.values(), *patterns]
