"""`deny = ["dir/*.key"]`: what fits, what is accepted, and whom it beats. Pure."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model.test_policy_fakes import errors_of, facts, identity_of, rules_of

from sandlockd.policy.files import Facts
from sandlockd.policy.inputs import Overrides
from sandlockd.policy.spelling import fits
from sandlockd.policy.verdict import Want

_TEXT = st.text(alphabet="ab*", max_size=12)


@given(_TEXT.map(lambda text: text.replace("*", "a")), _TEXT)
def test_a_pattern_means_what_fnmatch_means_by_it(name: str, pattern: str) -> None:
    assert fits(name.encode(), pattern.encode()) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize("name", [b"a?", b"[ab]", b"a\xff", b"a\n", b".hidden"])
def test_all_but_the_star_stands_for_itself(name: bytes) -> None:
    assert fits(name, name) and fits(name, b"*") and not fits(b"ab", name)


def test_names_that_fit_are_denied_now_and_later_with_all_beneath() -> None:
    rules = rules_of('[filesystem]\nwrite = ["/work/proj"]\ndeny = ["*.key", "sub/a*b*c"]\n')
    for path in (b"x.key", b".key", b"x.key/beneath", b"sub/abc", b"sub/axbyc"):
        for want in (Want.READ, Want.WRITE, Want.CREATE, Want.DELETE, Want.METADATA):
            verdict = rules.judge(b"/work/proj/" + path, want)
            assert not verdict.allowed and verdict.rule.startswith("filesystem.deny["), path
            assert verdict.remedy is not None and verdict.remedy.startswith(
                "remove or narrow filesystem.deny"
            )
    for path in (b"x.keys", b"key", b"other/x.key", b"sub/acb", b"sub/x.key"):
        assert rules.judge(b"/work/proj/" + path, Want.WRITE).allowed, path


def test_the_directory_of_a_pattern_is_kept_in_its_place() -> None:
    rules = rules_of('[filesystem]\nwrite = ["/work"]\ndeny = ["/work/proj/later/*.key"]\n')
    assert rules.hole_beneath(b"/work/proj/later") == "filesystem.deny[0]"
    assert not rules.judge(b"/work/proj", Want.DELETE).allowed
    assert not rules.judge(b"/work/proj/later", Want.DELETE).allowed


def test_a_pattern_of_the_root() -> None:
    rules = rules_of('[filesystem]\nread = ["/"]\ndeny = ["/*.key"]\n')
    assert rules.judge(b"/", Want.READ).allowed
    assert not rules.judge(b"/x.key", Want.READ).allowed


def test_what_fits_now_is_denied_under_its_other_names() -> None:
    machine = facts(links={b"/work/proj/link.key": b"/opt/data"})
    there = {(b"/work/proj", b"*.key"): [b"/work/proj/link.key"]}
    machine = Facts(machine.look, lambda directory, pattern: there.get((directory, pattern), []))
    rules = rules_of('[filesystem]\nread = ["/opt/data", "/work/proj"]\ndeny = ["*.key"]\n', machine=machine)
    assert not rules.judge(b"/opt/data/x", Want.READ).allowed
    assert not rules.judge(b"/elsewhere", Want.READ, identity_of(b"/opt/data")).allowed


def test_a_directory_that_is_reached_by_a_link() -> None:
    machine = facts(links={b"/work/proj/link": b"/opt/data"})
    rules = rules_of('[filesystem]\nwrite = ["/work", "/opt/data"]\ndeny = ["link/*.key"]\n', machine=machine)
    assert not rules.judge(b"/opt/data/x.key", Want.READ).allowed
    assert not rules.judge(b"/work/proj/link/x.key", Want.READ).allowed
    assert rules.judge(b"/opt/data/x", Want.READ).allowed


def test_the_patterns_of_base_hold_for_what_appears_later() -> None:
    rules = rules_of("[filesystem]\nbase = true\n")
    for path in (b"/etc/shadow.x", b"/etc/shadow~", b"/etc/ssh/ssh_host_new_key", b"/etc/krb5.old.keytab"):
        assert rules.judge(path, Want.READ).rule == "base.secrets", path
    assert rules.judge(b"/etc/ssh/ssh_host_new_key.pub", Want.READ).allowed
    # Asked for by its own name it is granted, as the other secrets are.
    named = rules_of('[filesystem]\nbase = true\nread = ["/etc/passwd"]\ndeny = ["/etc/shadow.*"]\n')
    assert named.judge(b"/etc/shadow.x", Want.READ).rule == "filesystem.deny[0]"


@pytest.mark.parametrize("path", ["*/x", "/work/*/proj", "**", "**/x.key", "a**b", "/work/proj/**"])
def test_a_star_elsewhere_is_an_error(path: str) -> None:
    (error,) = errors_of(f'[filesystem]\ndeny = ["{path}"]\n')
    assert "my.toml:2: filesystem.deny[0]" in error and "the last name of a path" in error


def test_an_option_is_a_pattern_too() -> None:
    rules = rules_of("", overrides=Overrides(read=(b"/work/proj",), deny=(b"*.key",)))
    assert not rules.judge(b"/work/proj/x.key", Want.READ).allowed
