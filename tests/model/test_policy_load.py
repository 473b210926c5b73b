"""Loading: every error is found, told in one line, and nothing falls back to a default because it was broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model.test_policy_fakes import context, errors_of, policy_of

from sandlockd.policy.errors import PolicyErrors
from sandlockd.policy.inputs import MAX_EXTENDS_DEPTH, MAX_POLICY_BYTES, Overrides, Source
from sandlockd.policy.keys import KEYS, NOT_YET, OPTIONS, SECTIONS
from sandlockd.policy.load import load
from sandlockd.policy.model import PathRule, Policy


def errors_of_bytes(content: bytes, size_bytes: int | None = None) -> list[str]:
    with pytest.raises(PolicyErrors) as caught:
        load([Source("my.toml", b"/work/proj", content, size_bytes)], context())
    return str(caught.value).split("\n")


# --- what cannot be read at all ---


def test_a_policy_of_100_mb_is_refused_naming_its_size() -> None:
    (line,) = errors_of_bytes(b"", 100 << 20)
    assert line == f"my.toml: is {100 << 20} bytes; a policy has at most {MAX_POLICY_BYTES}"


def test_a_policy_one_byte_too_large_is_refused_and_the_largest_is_not() -> None:
    assert load([Source("my.toml", b"/", b"#" * MAX_POLICY_BYTES)], context()).sources == ("my.toml",)
    (line,) = errors_of_bytes(b"#" * (MAX_POLICY_BYTES + 1))
    assert "at most" in line


def test_a_byte_that_is_not_utf8_is_refused_with_its_line() -> None:
    (line,) = errors_of_bytes(b"[filesystem]\n# fine: \xc3\xa9\nread = ['/\xff']\n")
    assert line == "my.toml:3: is not UTF-8 (byte 0xff); save it as UTF-8"


def test_a_byte_order_mark_is_named_as_such() -> None:
    (line,) = errors_of_bytes(b"\xef\xbb\xbf[filesystem]\n")
    assert line.startswith("my.toml:1: begins with a byte order mark")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[filesystem]\nread = [\n", 2),
        ("\n\n[filesystem\n", 3),
        ("a = 1\na = 2\n", 2),
        ("[program]\n[program]\n", 2),
        ("x = 'never closed", 1),
        ("\n[limits]\nmemory = 512M\n", 3),
    ],
)
def test_a_syntax_error_is_told_with_its_line(text: str, line: int) -> None:
    (told,) = errors_of(text)
    assert told.startswith(f"my.toml:{line}: is not TOML: ")


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "9" * 5000,
        "a." * 500_000 + "b = 1",
        '\'a\'."\\"" . ' * 50_000 + "b = 1",
    ],
)
def test_a_policy_made_to_break_the_parser_is_refused(text: str) -> None:
    assert errors_of(text)


def test_a_path_with_many_dots_is_no_deep_key() -> None:
    policy = policy_of(f"[filesystem]\ndeny = ['{'../' * 200}x', '{'a.b/' * 200}']\n")
    assert len(policy.filesystem.deny) == 2


# --- keys ---


def test_an_unknown_key_is_an_error_with_line_and_suggestion() -> None:
    told = errors_of("\n[filesystem]\nbase = true\nraed = ['/opt']\n")
    assert told == ['my.toml:4: filesystem.raed: unknown key; did you mean "read"?']


def test_an_unknown_section_is_an_error_with_line_and_suggestion() -> None:
    assert errors_of("[filesystm]\nbase = true\n") == [
        'my.toml:1: filesystm: unknown key; did you mean "filesystem"?'
    ]


def test_a_key_in_the_wrong_section_is_sent_to_the_right_one() -> None:
    assert errors_of("[limits]\numask = '022'\n") == [
        'my.toml:2: limits.umask: unknown key; did you mean "program.umask"?'
    ]
    assert errors_of("timeout = '5m'\n") == [
        'my.toml:1: timeout: unknown key; did you mean "limits.timeout"?'
    ]


def test_a_key_that_resembles_nothing_gets_the_list_of_what_there_is() -> None:
    (told,) = errors_of("[audit]\nxyzzy = 1\n")
    assert told == "my.toml:2: audit.xyzzy: unknown key; there may be level"


def test_a_key_with_a_newline_in_its_name_is_still_told_in_one_line() -> None:
    (told,) = errors_of('[audit]\n"a\\nb\\u001b[31m" = 1\n')
    assert told.startswith('my.toml:2: audit."a\\u000Ab\\u001B[31m": unknown key')


def test_a_section_that_is_no_table_is_an_error() -> None:
    assert errors_of("filesystem = 3\n") == [
        "my.toml:1: filesystem: must be a table, [filesystem], not an integer"
    ]
    assert errors_of("[[filesystem]]\nbase = true\n") == [
        "my.toml:1: filesystem: must be a table, [filesystem], not an array"
    ]


def test_all_errors_are_reported_in_the_order_of_their_lines() -> None:
    told = errors_of(
        "\n".join(
            [
                "[filesystem]",
                "base = 'yes'",
                "read = ['/opt/data', '/nope',",
                "  7, '/etc']",
                "raed = 1",
                "[limits]",
                "memory = '16E'",
                "[nonsense]",
                "[program]",
                "cwd = '/etc/passwd'",
                "env = { A = 1, 'B=C' = 'x' }",
            ]
        )
    )
    assert [line.partition(": ")[2].partition(":")[0] for line in told] == [
        "filesystem.base",
        "filesystem.read[1]",
        "filesystem.read[2]",
        "filesystem.raed",
        "limits.memory",
        "nonsense",
        "program.cwd",
        "program.env.A",
        'program.env."B=C"',
    ]
    assert [line.partition(": ")[0] for line in told] == [
        f"my.toml:{number}" for number in (2, 3, 4, 5, 7, 8, 10, 11, 11)
    ]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
@pytest.mark.parametrize(
    "wrong", ["3.5", "1979-05-27", "[[1]]", "{ a = { b = 1 } }", "inf", "[true]", "''", "['']"]
)
def test_a_value_of_the_wrong_type_is_an_error_for_every_key(key: object, wrong: str) -> None:
    name = key.name  # type: ignore[attr-defined]
    fine = {
        ("3.5", "limits.cpu_time"),
        ("3.5", "limits.timeout"),
        ("['']", "program.args"),
    }
    if (wrong, name) in fine:
        return
    section, dot, last = name.partition(".")
    text = f"[{section}]\n{last} = {wrong}\n" if dot else f"{name} = {wrong}\n"
    told = errors_of(text)
    assert all(line.startswith(f"my.toml:{2 if dot else 1}: {name}") for line in told)
    assert not any("not supported yet" in line for line in told)


# --- what later versions will enforce ---


def _as_toml(name: str, value: str) -> str:
    section, _, last = name.partition(".")
    return f"[{section}]\n{last} = {value}\n"


@pytest.mark.parametrize("key", [key for key in KEYS if "." in key.name], ids=lambda key: key.name)
def test_the_example_of_a_key_is_accepted_or_refused_as_not_supported_yet(key: object) -> None:
    name, example = key.name, key.example  # type: ignore[attr-defined]
    text = _as_toml(name, example.replace("/usr/share", "/usr").replace("/usr/bin", "/usr"))
    if name in NOT_YET:
        assert errors_of(text) == [f"my.toml:2: not supported yet: {name}"]
    else:
        policy_of(text)


def test_an_empty_list_of_what_is_not_supported_yet_asks_for_nothing_and_is_accepted() -> None:
    policy = policy_of("[network]\nallow = []\ndeny = []\nbind = []\nunix = []\n[proc]\nhide = []\n")
    assert policy.network.allow == ()


@pytest.mark.parametrize(
    ("overrides", "option", "key"),
    [
        (Overrides(allow_net=("example.org:443",)), "--allow-net", "network.allow"),
    ],
)
def test_an_option_that_is_not_supported_yet_is_refused_by_option_and_key(
    overrides: Overrides, option: str, key: str
) -> None:
    assert errors_of("", overrides) == [f"{option}: not supported yet: {key}"]


def test_a_wrong_value_of_an_unsupported_key_gets_its_own_error() -> None:
    (told,) = errors_of("[filesystem]\nworkdir = '/etc/passwd'\n")
    assert told == "my.toml:2: filesystem.workdir: /etc/passwd is not a directory"
    (told,) = errors_of("", Overrides(processes="-1"))
    assert told.startswith("--processes: limits.processes: must be a whole number")


# --- paths ---


def only(policy: Policy, name: str) -> PathRule:
    (rule,) = getattr(policy.filesystem, name)
    return rule  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", b"/home/u"),
        ("~/.ssh", b"/home/u/.ssh"),
        ("$HOME/.ssh", b"/home/u/.ssh"),
        ("${DATA}", b"/opt/data"),
        ("${DATA}/../data/.//", b"/opt/data"),
        ("file", b"/work/proj/file"),
        ("./file", b"/work/proj/file"),
        ("..", b"/work"),
        ("../../etc/passwd", b"/etc/passwd"),
        ("../../../../etc", b"/etc"),
        ("/", b"/"),
    ],
)
def test_a_path_expands_and_is_relative_to_the_policy_file(text: str, path: bytes) -> None:
    assert only(policy_of(f"[filesystem]\nread = ['{text}']\n"), "read").path == path


@pytest.mark.parametrize(
    "text", ["$NOPE/x", "${NOPE}", "$EMPTY/etc", "${HOME", "$/x", "~bob/x", "${A-B}", "a\\u0000b", ""]
)
def test_a_path_that_cannot_be_expanded_is_an_error(text: str) -> None:
    (told,) = errors_of(f'[filesystem]\ndeny = ["{text}"]\n')
    assert told.startswith("my.toml:2: filesystem.deny[0]: ")


def test_a_variable_that_is_not_set_is_named() -> None:
    assert errors_of("[filesystem]\ndeny = ['$NOPE/x']\n") == [
        "my.toml:2: filesystem.deny[0]: the variable NOPE is not set"
    ]


def test_dollar_dollar_is_a_dollar_and_a_byte_can_be_written_by_number() -> None:
    rule = only(policy_of("[filesystem]\ndeny = ['/a$$b${0xff}']\n"), "deny")
    assert rule.path == b"/a$b\xff"


def test_dot_dot_behind_a_symbolic_link_means_the_parent_of_its_target() -> None:
    source = Source("my.toml", b"/work", b"[filesystem]\ndeny = ['link/../secret']\n")
    policy = load([source], context(resolve={b"/work/link": b"/srv/deep/place"}))
    assert only(policy, "deny").path == b"/srv/deep/secret"


def test_a_missing_path_is_an_error_that_names_the_optional_mark() -> None:
    assert errors_of("[filesystem]\nwrite = ['/nope']\n") == [
        'my.toml:2: filesystem.write[0]: /nope does not exist; write "?/nope" if it may be missing'
    ]


def test_an_optional_path_counts_if_it_exists() -> None:
    policy = policy_of("[filesystem]\nread = ['?/nope', '?/opt', '?$NOPE/x', '?/locked/x']\n")
    assert [rule.path for rule in policy.filesystem.read] == [b"/opt"]


def test_a_path_that_cannot_be_reached_is_an_error() -> None:
    (told,) = errors_of("[filesystem]\nread = ['/locked/x']\n")
    assert "cannot be reached" in told


def test_a_path_below_proc_cannot_be_granted() -> None:
    (told,) = errors_of("[filesystem]\nread = ['/proc/meminfo']\n")
    assert "cannot be granted" in told


def test_a_deny_may_name_what_does_not_exist_yet() -> None:
    assert only(policy_of("[filesystem]\ndeny = ['?/nope/key']\n"), "deny").path == b"/nope/key"


def test_a_path_longer_than_any_path_is_an_error() -> None:
    (told,) = errors_of(f"[filesystem]\ndeny = ['/{'a' * 5000}']\n")
    assert "5001 bytes" in told


def test_a_program_by_path_must_exist_and_by_name_need_not() -> None:
    assert policy_of("[program]\nexec = 'make'\n").program.exec == b"make"
    assert policy_of("[program]\nexec = './tool'\n").program.exec == b"/work/proj/tool"
    assert errors_of("[program]\nexec = './nope'\n") == [
        "my.toml:2: program.exec: /work/proj/nope does not exist"
    ]
    assert errors_of("[program]\nexec = '/tmp'\n") == ["my.toml:2: program.exec: /tmp is not a file"]


# --- merging ---


def test_lists_of_several_policies_add_up_and_scalars_override() -> None:
    policy = policy_of(
        "extends = ['a.toml']\n[filesystem]\nbase = true\nread = ['/opt']\ndeny = ['/b']\n"
        "[program]\numask = '077'\nargs = ['new']\n"
        "env = { B = '2', C = '3' }\n",
        a_toml="[filesystem]\nbase = false\nread = ['/etc', '/opt']\ndeny = ['/a']\n"
        "[program]\numask = '022'\nargs = ['old']\n"
        "env = { A = '1', B = '1' }\n",
    )
    assert policy.filesystem.base
    assert policy.filesystem.read == (
        PathRule(b"/etc", "filesystem.read[0]", "a.toml:3"),
        PathRule(b"/opt", "filesystem.read[1]", "a.toml:3"),
    )
    assert [rule.path for rule in policy.filesystem.deny] == [b"/a", b"/b"]
    assert policy.program.umask == 0o077
    assert policy.program.args == ("new",)
    assert dict(policy.program.env) == {"A": "1", "B": "2", "C": "3"}
    assert policy.sources == ("a.toml", "my.toml")


def test_each_rule_knows_the_line_of_its_own_element() -> None:
    policy = policy_of("[filesystem]\nread = [\n  '/opt',\n\n  # a comment\n  '/etc', '/tmp',\n]\n")
    assert [rule.source for rule in policy.filesystem.read] == ["my.toml:3", "my.toml:6", "my.toml:6"]


def test_a_rule_of_a_preset_names_the_preset() -> None:
    policy = policy_of("extends = ['agent']\n")
    assert {rule.source for rule in policy.filesystem.deny} >= {"preset agent", "preset node"}
    assert policy.sources.count("preset base") == 1


def test_options_are_applied_last_and_are_taken_literally() -> None:
    policy = policy_of(
        "[program]\ncwd = '/tmp'\nenv = { A = '1' }\n[filesystem]\ndeny = ['/x']\n",
        Overrides(
            read=(b"file", b"/etc"), deny=(b"~/$x\xff",), env=(b"A=a=b", b"N="), clean_env=True, cwd=b"/opt"
        ),
    )
    assert [(rule.path, rule.source) for rule in policy.filesystem.read] == [
        (b"/work/proj/file", "--read"),
        (b"/etc", "--read"),
    ]
    assert policy.filesystem.deny[1] == PathRule(b"/work/proj/~/$x\xff", "filesystem.deny[1]", "--deny")
    assert policy.program.env == (("A", "a=b"), ("N", ""))
    assert policy.program.clean_env
    assert policy.program.cwd == b"/opt"


def test_broken_options_are_named_by_option() -> None:
    told = errors_of("", Overrides(read=(b"/nope",), env=(b"NOVALUE", b"=x"), cwd=b"/etc/passwd"))
    assert told == [
        "--read: filesystem.read: /nope does not exist",
        '--env: program.env: must be NAME=VALUE, not "NOVALUE"',
        '--env: program.env: must be NAME=VALUE, not "=x"',
        "--cwd: program.cwd: /etc/passwd is not a directory",
    ]


def test_the_environment_of_the_program_is_the_callers_and_the_policys() -> None:
    inherited = {b"PATH": b"/bin", b"SECRET": b"s"}
    open_policy = policy_of("[program]\nenv = { A = '1' }\n").program
    assert open_policy.environment(inherited) == {b"PATH": b"/bin", b"SECRET": b"s", b"A": b"1"}
    clean = policy_of("[program]\nclean_env = true\npass_env = ['PATH']\nenv = { A = '1' }\n").program
    assert clean.environment(inherited) == {b"PATH": b"/bin", b"A": b"1"}


# --- extends ---


def test_a_policy_that_extends_itself_is_an_error() -> None:
    assert errors_of("extends = ['my.toml']\n", my_toml="extends = ['my.toml']\n") == [
        "my.toml:1: extends[0]: my.toml extends itself"
    ]


def test_a_circle_of_extends_is_an_error() -> None:
    told = errors_of("extends = ['a.toml']\n", a_toml="\nextends = ['my.toml']\n", my_toml="")
    assert told == ["a.toml:2: extends[0]: my.toml extends itself, by way of what it extends"]


def test_extends_that_go_too_deep_are_an_error() -> None:
    chain = {f"f{n}_toml": f"extends = ['f{n + 1}.toml']\n" for n in range(MAX_EXTENDS_DEPTH + 2)}
    (told,) = errors_of("extends = ['f0.toml']\n", None, **chain)
    assert "policies deep" in told


def test_too_many_policies_are_an_error() -> None:
    names = [f"f{n}" for n in range(70)]
    files = {f"{name}_toml": "" for name in names}
    told = errors_of(f"extends = {[name + '.toml' for name in names]}\n", None, **files)
    assert "one policy too many" in told[0]


def test_an_extends_that_cannot_be_found_is_told_where_it_is_written() -> None:
    assert errors_of("extends = [\n'base',\n'nope.toml', 3]\n") == [
        "my.toml:3: extends[1]: there is no such file",
        "my.toml:3: extends[2]: must be a string, not an integer",
    ]


def test_errors_of_an_extended_policy_are_told_with_its_own_lines() -> None:
    told = errors_of("extends = ['a.toml']\n[x]\n", a_toml="\n\n[y]\n")
    assert [line.partition(": ")[0] for line in told] == ["a.toml:3", "my.toml:2"]


# --- the table ---


def test_the_table_of_keys_and_the_types_name_the_same() -> None:
    assert list(Policy.fields) == [*SECTIONS, "sources"]
    for section, of_type in SECTIONS.items():
        names = [key.name.partition(".")[2] for key in KEYS if key.name.startswith(f"{section}.")]
        assert list(of_type.fields) == names
    assert {key.name for key in KEYS} >= NOT_YET
    assert {attribute for attribute, _, _ in OPTIONS} == set(Overrides.fields)


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_one_line_per_error(text: str) -> None:
    try:
        load([Source("my.toml", b"/", text.encode("utf-8", "surrogatepass"))], context())
    except PolicyErrors as errors:
        assert errors.errors
        assert all(str(error).isprintable() and str(error).startswith("my.toml") for error in errors.errors)


json_like = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([key.name for key in KEYS]), json_like, max_size=6))
def test_any_values_are_a_policy_or_errors_that_name_their_keys(values: dict[str, object]) -> None:
    table: dict[str, object] = {}
    for name, value in values.items():
        section, dot, last = name.partition(".")
        if dot:
            body = table.setdefault(section, {})
            assert isinstance(body, dict)
            body[last] = value
        else:
            table[section] = value
    try:
        load([Source("preset x", b"/", b"", table=table)], context())
    except PolicyErrors as errors:
        assert all(error.key.split("[")[0].startswith(tuple(values)) for error in errors.errors)
