"""The evaluator: laws, denies, the secrets of base, grants, and what is said to who is refused."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model.test_policy_fakes import facts, identity_of, kind_of, rules_of

from sandlockd.policy.errors import PolicyErrors
from sandlockd.policy.files import FileRules, Grant, Hole
from sandlockd.policy.inputs import PathKind
from sandlockd.policy.verdict import Verdict, Want

R, X, W = Want.READ, Want.EXECUTE, Want.WRITE
EVERYTHING = R | X | W | Want.CREATE | Want.DELETE | Want.METADATA
BASE = "[filesystem]\nbase = true\n"


def allowed(rules: FileRules, path: bytes, want: Want) -> str | None:
    """The rule that allows, or None."""
    verdict = rules.judge(path, want)
    assert verdict.remedy is None or not verdict.allowed
    return verdict.rule if verdict.allowed else None


def refused(rules: FileRules, path: bytes, want: Want) -> str | None:
    verdict = rules.judge(path, want)
    return None if verdict.allowed else verdict.rule


# --- grants ---


def test_an_empty_policy_grants_nothing() -> None:
    rules = rules_of("")
    for want in Want:
        assert refused(rules, b"/usr/bin/ls", want) == "default"
        assert refused(rules, b"/", want) == "default"


def test_read_includes_listing_and_executing() -> None:
    rules = rules_of("[filesystem]\nread = ['/opt/data']\n")
    assert allowed(rules, b"/opt/data", R) == "filesystem.read[0]"
    assert allowed(rules, b"/opt/data/a/b", R | X) == "filesystem.read[0]"
    assert refused(rules, b"/opt/data/a", W) == "default"
    assert refused(rules, b"/opt/database", R) == "default"
    assert refused(rules, b"/opt", R) == "default"


def test_once_execute_is_given_read_and_write_no_longer_include_it_but_base_does() -> None:
    rules = rules_of(BASE + "read = ['/opt/data']\nwrite = ['/work/proj']\nexecute = ['/work/proj/tool']\n")
    assert refused(rules, b"/opt/data/x", X) == "filesystem.execute"
    assert refused(rules, b"/work/proj/x", X) == "filesystem.execute"
    assert allowed(rules, b"/work/proj/tool", R | X) == "filesystem.execute[0]"
    assert allowed(rules, b"/work/proj/tool", W | X) is not None
    assert allowed(rules, b"/usr/bin/ls", X) == "base"
    verdict = rules.judge(b"/opt/data/bin/x", X)
    assert verdict.remedy == '[filesystem] execute = ["/opt/data/bin"]'


def test_write_gives_everything_beneath_but_not_the_name_of_the_granted_directory_itself() -> None:
    rules = rules_of("[filesystem]\nwrite = ['/work/proj']\n")
    assert allowed(rules, b"/work/proj/new", EVERYTHING) == "filesystem.write[0]"
    assert allowed(rules, b"/work/proj", R | Want.METADATA) == "filesystem.write[0]"
    assert refused(rules, b"/work/proj", Want.DELETE) == "default"
    assert refused(rules, b"/work/proj", Want.CREATE) == "default"


def test_rights_of_several_grants_add_up_and_the_longest_that_suffices_names_the_rule() -> None:
    rules = rules_of("[filesystem]\nwrite = ['/work']\nread = ['/work/proj', '/']\n")
    assert allowed(rules, b"/work/proj/x", W) == "filesystem.write[0]"
    assert allowed(rules, b"/work/proj/x", R) == "filesystem.read[0]"
    assert allowed(rules, b"/work/x", R) == "filesystem.write[0]"
    assert allowed(rules, b"/srv", R) == "filesystem.read[1]"


def test_base_gives_the_ordinary_tree_and_harmless_devices() -> None:
    rules = rules_of(BASE)
    assert allowed(rules, b"/usr/lib/x.so", R | X) == "base"
    assert allowed(rules, b"/etc/passwd", R) == "base"
    assert refused(rules, b"/usr/lib/x.so", W) == "default"
    assert allowed(rules, b"/dev/null", R | W) == "base"
    assert refused(rules, b"/dev/null", X) == "default"
    assert refused(rules, b"/dev/sda", R) == "default"
    assert refused(rules, b"/opt/data", R) == "default"
    assert refused(rules, b"/home/u/x", R) == "default"


def test_a_file_in_the_place_of_a_device_is_not_granted_for_writing() -> None:
    rules = rules_of(BASE, machine=facts(kinds={b"/dev/null": PathKind.FILE}))
    assert refused(rules, b"/dev/null", W) == "default"


def test_a_grant_through_a_symbolic_link_grants_what_it_leads_to() -> None:
    rules = rules_of("[filesystem]\nread = ['/opt/data']\n", machine=facts({b"/opt/data": b"/usr"}))
    assert allowed(rules, b"/usr/x", R) == "filesystem.read[0]"
    assert refused(rules, b"/opt/data/x", R) == "default"


# --- deny ---


def test_deny_beats_every_grant_however_long() -> None:
    rules = rules_of(BASE + "read = ['/opt/data']\nwrite = ['/opt/data']\ndeny = ['/opt']\n")
    assert refused(rules, b"/opt/data/x", R) == "filesystem.deny[0]"
    assert all(grant.path != b"/opt/data" for grant in rules.grants())


def test_a_denied_object_is_refused_under_every_name() -> None:
    rules = rules_of("[filesystem]\nwrite = ['/work']\ndeny = ['/etc/shadow']\n")
    verdict = rules.judge(b"/work/innocent", R, identity_of(b"/etc/shadow"))
    assert (verdict.allowed, verdict.rule) == (False, "filesystem.deny[0]")
    assert rules.judge(b"/work/innocent", R, identity_of(b"/work/innocent")).allowed


def test_more_objects_can_be_denied_once_their_links_are_known() -> None:
    rules = rules_of("[filesystem]\nwrite = ['/work']\ndeny = ['/etc']\n")
    inner = identity_of(b"/etc/secret")
    assert rules.judge(b"/work/link", R, inner).allowed
    assert not rules.also_denied({inner: "filesystem.deny[0]"}).judge(b"/work/link", R, inner).allowed


def test_a_deny_of_a_missing_path_holds_when_it_appears() -> None:
    rules = rules_of("[filesystem]\nwrite = ['/work']\ndeny = ['/work/proj/.env']\n")
    assert refused(rules, b"/work/proj/.env", Want.CREATE) == "filesystem.deny[0]"
    assert Hole(b"/work/proj/.env", "filesystem.deny[0]", None) in rules.holes()


def test_a_directory_above_a_denied_path_cannot_be_renamed_away() -> None:
    rules = rules_of("[filesystem]\nwrite = ['/work']\ndeny = ['/work/a/b/secret']\n")
    assert refused(rules, b"/work/a", Want.DELETE) == "filesystem.deny[0]"
    assert refused(rules, b"/work/a/b", Want.DELETE | W) == "filesystem.deny[0]"
    assert allowed(rules, b"/work/a/b", Want.METADATA) == "filesystem.write[0]"
    assert allowed(rules, b"/work/a/b/other", Want.DELETE) == "filesystem.write[0]"


def test_the_link_to_a_denied_directory_cannot_be_replaced_by_a_directory() -> None:
    text = "[filesystem]\nwrite = ['/work']\ndeny = ['/work/link']\n"
    rules = rules_of(text, machine=facts({b"/work/link": b"/work/real"}))
    assert refused(rules, b"/work/real/x", R) == "filesystem.deny[0]"
    assert refused(rules, b"/work/link", Want.DELETE) == "filesystem.deny[0]"
    assert refused(rules, b"/work/link/x", R) == "filesystem.deny[0]"


def test_a_deny_written_through_a_link_holds_where_it_leads_and_as_written() -> None:
    text = "[filesystem]\nwrite = ['/work']\ndeny = ['/work/link/secret']\n"
    rules = rules_of(text, machine=facts({b"/work/link": b"/work/real"}))
    assert refused(rules, b"/work/real/secret", R) == "filesystem.deny[0]"
    assert refused(rules, b"/work/link/secret", Want.CREATE) == "filesystem.deny[0]"
    assert refused(rules, b"/work/link", Want.DELETE) == "filesystem.deny[0]"


def test_a_deny_of_everything_denies_everything() -> None:
    rules = rules_of(BASE + "deny = ['/']\n")
    assert refused(rules, b"/usr/bin/ls", R) == "filesystem.deny[0]"
    assert rules.grants() == ()


# --- laws ---


def test_procfs_is_never_granted_by_path() -> None:
    rules = rules_of("[filesystem]\nread = ['/']\n", machine=facts(procfs=(b"/proc", b"/work/jail/proc")))
    assert refused(rules, b"/proc/self/environ", R) == "law.proc"
    assert refused(rules, b"/work/jail/proc/1/root", R) == "law.proc"
    assert rules.judge(b"/proc/1", R).remedy is None


def test_a_grant_that_leads_into_procfs_is_an_error_with_its_line() -> None:
    with pytest.raises(PolicyErrors) as caught:
        rules_of("[filesystem]\nread = [\n'/opt/data']\n", machine=facts({b"/opt/data": b"/proc/1/root"}))
    assert str(caught.value) == (
        "my.toml:3: filesystem.read[0]: /opt/data leads to /proc/1/root, which no policy can grant (law.proc)"
    )


def test_the_state_directory_is_out_of_reach_inside_a_grant() -> None:
    state = b"/home/u/.local/state/sandlockd"
    rules = rules_of("[filesystem]\nwrite = ['~']\n", machine=facts(state=(state,)))
    for want in Want:
        assert refused(rules, state + b"/runs/1/audit", want) == "law.state"
    assert refused(rules, b"/home/u/.local", Want.DELETE) == "law.state"
    assert allowed(rules, b"/home/u/.local/x", W) == "filesystem.write[0]"


def test_a_directory_made_for_the_run_is_granted_even_within_the_state_directory() -> None:
    rules = rules_of(BASE, machine=facts(state=(b"/state",), private=(b"/state/1/tmp",)))
    assert allowed(rules, b"/state/1/tmp/x", EVERYTHING) == "base.tmpdir"
    assert refused(rules, b"/state/1/log", R) == "law.state"
    assert refused(rules, b"/state/1/tmp", Want.DELETE) is not None


def test_a_user_deny_beats_the_directory_made_for_the_run() -> None:
    rules = rules_of(BASE + "deny = ['/tmp']\n", machine=facts(private=(b"/tmp/run",)))
    assert refused(rules, b"/tmp/run/x", R) == "filesystem.deny[0]"


# --- the secrets of base ---


def test_base_does_not_grant_the_secrets_in_etc() -> None:
    rules = rules_of(BASE)
    assert refused(rules, b"/etc/shadow", R) == "base.secrets"
    assert refused(rules, b"/etc/ssl/private/key.pem", R) == "base.secrets"
    assert rules.judge(b"/usr/share/link", R, identity_of(b"/etc/shadow")).rule == "base.secrets"


def test_a_grant_of_an_ancestor_does_not_lift_a_secret() -> None:
    rules = rules_of(BASE + "read = ['/etc']\nwrite = ['/']\n")
    assert refused(rules, b"/etc/shadow", R) == "base.secrets"
    assert refused(rules, b"/etc/ssl/private/key.pem", W) == "base.secrets"


def test_a_grant_of_the_secret_itself_or_beneath_lifts_it_there() -> None:
    rules = rules_of(BASE + "read = ['/etc/shadow']\nwrite = ['/etc']\n")
    assert allowed(rules, b"/etc/shadow", R) == "filesystem.read[0]"
    assert refused(rules, b"/etc/shadow", W) == "base.secrets"
    assert rules.judge(b"/usr/link", R, identity_of(b"/etc/shadow")).allowed
    assert refused(rules, b"/etc/gshadow", R) == "base.secrets"


def test_an_explicit_deny_beats_a_lifted_secret() -> None:
    rules = rules_of(BASE + "read = ['/etc/shadow']\ndeny = ['/etc']\n")
    assert refused(rules, b"/etc/shadow", R) == "filesystem.deny[0]"


# --- remedies ---


@pytest.mark.parametrize(
    ("path", "want", "directory", "remedy"),
    [
        (b"/opt/data/x", R, False, '[filesystem] read = ["/opt/data"]'),
        (b"/opt/data/x", R, True, '[filesystem] read = ["/opt/data/x"]'),
        (b"/opt/data/x", W, False, '[filesystem] write = ["/opt/data"]'),
        (b"/opt/data/x", Want.CREATE, False, '[filesystem] write = ["/opt/data"]'),
        (b"/opt/data/x", Want.CREATE, True, '[filesystem] write = ["/opt/data"]'),
        (b"/home/u/.netrc", R, False, '[filesystem] read = ["/home/u/.netrc"]'),
        (b"/boot/x", R, False, '[filesystem] read = ["/boot/x"]'),
        (b"/x", R, False, '[filesystem] read = ["/x"]'),
        (b'/a/b"\\c\n/x', R, False, '[filesystem] read = ["/a/b\\"\\\\c\\u000A"]'),
        (b"/a/\xff$/x", R, False, '[filesystem] read = ["/a/${0xff}$$"]'),
    ],
)
def test_a_refusal_says_which_line_would_allow_it(
    path: bytes, want: Want, directory: bool, remedy: str
) -> None:
    assert rules_of("").judge(path, want, directory=directory) == Verdict(False, "default", remedy)


def test_a_denied_path_is_told_where_the_deny_stands() -> None:
    rules = rules_of("[filesystem]\ndeny = [\n'/x']\n")
    assert rules.judge(b"/x", R).remedy == "remove or narrow filesystem.deny[0] (my.toml:3)"


names = st.sampled_from([b"a", b"b", b"\xff", b"$x", b'"', b"\xc2\x9b31m", b"?", b"~", b" "])
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))
wants = st.sets(st.sampled_from(list(Want)), min_size=1).map(lambda some: _together(some))


def _together(some: set[Want]) -> Want:
    result = Want(0)
    for want in some:
        result |= want
    return result


@given(paths, wants, st.booleans())
def test_following_the_remedy_allows_exactly_what_was_refused(
    path: bytes, want: Want, directory: bool
) -> None:
    remedy = rules_of("").judge(path, want, directory=directory).remedy
    assert remedy is not None
    assert remedy.isprintable()
    section, _, line = remedy.partition(" ")
    tomllib.loads(f"{section}\n{line}")
    rules = FileRules(_grants_of(line), (), {}, None)
    if want & (Want.CREATE | Want.DELETE) and path.count(b"/") == 1:
        return  # names in the root directory: the remedy is the root
    assert rules.judge(path, want).allowed


def _grants_of(line: str) -> tuple[Grant, ...]:
    from model.test_policy_fakes import context

    from sandlockd.policy.spelling import expanded

    ((key, (text,)),) = tomllib.loads(line).items()
    want = EVERYTHING if key == "write" else R | X
    return (Grant(expanded(text, context()), want, f"filesystem.{key}[0]"),)


# --- against the definition ---

some_paths = st.lists(st.sampled_from([b"a", b"b"]), max_size=4).map(lambda parts: b"/" + b"/".join(parts))
grants = st.lists(st.tuples(some_paths, wants), max_size=4)
holes = st.lists(
    st.tuples(some_paths, st.sampled_from(["law.proc", "filesystem.deny[0]", "base.secrets"])), max_size=3
)


def _within(path: bytes, top: bytes) -> bool:
    return top == b"/" or path == top or path.startswith(top + b"/")


def _defined(
    path: bytes, want: Want, given: list[tuple[bytes, Want]], taken: list[tuple[bytes, str]]
) -> bool:
    """The definition, word by word."""
    for top, rule in taken:
        if rule != "base.secrets" and _within(path, top):
            return False
        if want & Want.DELETE and _within(top, path) and top != path:
            return False
    secrets = [top for top, rule in taken if rule == "base.secrets" and _within(path, top)]
    rights = Want(0)
    for top, rights_there in given:
        if _within(path, top) and all(_within(top, secret) for secret in secrets):
            rights |= rights_there & ~(Want.CREATE | Want.DELETE) if top == path else rights_there
    return want & ~rights == Want(0)


@given(some_paths, wants, grants, holes)
def test_the_evaluator_agrees_with_the_definition(
    path: bytes, want: Want, given: list[tuple[bytes, Want]], taken: list[tuple[bytes, str]]
) -> None:
    rules = FileRules(
        tuple(Grant(top, rights, f"filesystem.write[{index}]") for index, (top, rights) in enumerate(given)),
        tuple(Hole(top, rule, None) for top, rule in taken),
        {},
        None,
    )
    verdict = rules.judge(path, want)
    assert verdict.allowed == _defined(path, want, given, taken)
    assert verdict.rule


@pytest.mark.parametrize("path", [b"", b"relative", b"./x"])
def test_what_is_not_an_absolute_path_is_refused(path: bytes) -> None:
    assert refused(rules_of("[filesystem]\nread = ['/']\n"), path, R) == "default"


def test_a_path_that_went_away_since_it_was_read_is_an_error() -> None:
    kinds = {b"/opt/data": PathKind.MISSING}
    assert kind_of(b"/opt/data") is PathKind.DIRECTORY
    with pytest.raises(PolicyErrors, match="cannot be found now"):
        rules_of("[filesystem]\nread = ['/opt/data']\n", machine=facts(kinds=kinds))
