"""What a program finds when it starts: signals, directory, environment, limits, descriptors, priority, arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.fresh_disk import on_a_fresh_disk
from harness.running import SYSTEM_PATH, Ended, Runner, require, system_python

_SHOW_ARGUMENTS = r"""
#include <stdio.h>
int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		for (const unsigned char *at = (void *)argv[i]; *at; at++)
			printf("%02x", *at);
		putchar('\n');
	}
	return 0;
}
"""

_SHOW_DESCRIPTORS = r"""
#include <fcntl.h>
#include <stdio.h>
int main(void)
{
	for (int fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf("%d ", fd);
	return 0;
}
"""

_SIGNALS = ["grep", "^Sig[BIC]", "/proc/self/status"]


# --- signals ---


def test_signal_dispositions_and_mask_are_as_bare(runner: Runner) -> None:
    runner.both(_SIGNALS)


@pytest.mark.parametrize(
    "option",
    ["--block-signal=USR1", "--block-signal=TERM", "--ignore-signal=HUP", "--ignore-signal=INT,QUIT,TERM"],
)
def test_what_was_blocked_or_ignored_stays_so(runner: Runner, option: str) -> None:
    runner.both(_SIGNALS, wrap=["env", option])


def test_sigpipe_is_at_its_default_in_a_child_of_the_program(runner: Runner) -> None:
    ended = runner.both(["bash", "-c", "yes | head -1 >/dev/null; echo ${PIPESTATUS[0]}"])
    assert ended.stdout == b"141\n"


# --- files ---


@pytest.mark.parametrize("umask", ["000", "022", "027", "077", "777"])
def test_the_umask_is_as_bare(runner: Runner, umask: str) -> None:
    script = "umask; mkdir d; > f; mknod p p; ln -s x l"
    runner.both(["sh", "-c", script], wrap=["sh", "-c", f'umask {umask}; exec "$@"', "sh"])


def test_the_policys_umask_is_the_programs(runner: Runner) -> None:
    ended = runner.sandboxed(
        ["sh", "-c", "umask"], policy='[program]\numask = "0137"\n[filesystem]\nbase = true\n'
    )
    assert ended.stdout == b"0137\n"


def test_the_working_directory_is_as_bare(runner: Runner) -> None:
    runner.both(
        ["sh", "-c", "pwd -P; ls -a; cat here"], prepare=lambda work: (work / "here").write_text("x\n")
    )


def test_a_working_directory_that_is_not_granted_is_no_obstacle(runner: Runner) -> None:
    runner.place.file("work/secret", "x\n")
    assert runner.sandboxed(["pwd"]).stdout == f"{runner.work}\n".encode()
    assert runner.sandboxed(["echo", "hi"]).stdout == b"hi\n"
    refused = runner.sandboxed(["cat", "secret"])
    assert refused.returncode == 1
    assert b"Permission denied" in refused.stderr


def test_a_working_directory_that_was_removed_is_as_bare(runner: Runner) -> None:
    wrap = ["sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh"]
    runner.both(["/bin/echo", "hi"], wrap=wrap)


def test_cwd_says_where_the_program_starts(runner: Runner) -> None:
    assert runner.sandboxed(["pwd"], options=["--cwd", "/usr"]).stdout == b"/usr\n"


def test_a_cwd_that_is_missing_is_an_error(runner: Runner) -> None:
    ended = runner.sandboxed(["pwd"], options=["--cwd", "/no/such"])
    assert ended.returncode == 125
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith("sandlockd: ") and "/no/such" in line


# --- environment ---


def _variables(ended: Ended) -> dict[bytes, bytes]:
    pairs = (entry.partition(b"=") for entry in ended.stdout.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def test_the_environment_is_as_bare_but_for_tmpdir(runner: Runner) -> None:
    odd = {
        "EMPTY": "",
        "SPACES": " a  b ",
        "LINES_IN": "a\nb",
        "RAW": os.fsdecode(b"\xff\xfe"),
        "EQUALS": "a=b=c",
    }
    command = ["env", "-0", "-u", "TMPDIR"]
    bare, ended = runner.bare(command, env=odd), runner.sandboxed(command, env=odd)
    assert _variables(ended) == _variables(bare)
    assert _variables(ended)[b"RAW"] == b"\xff\xfe"


@pytest.mark.parametrize(
    "locale",
    [
        {"LANG": "C"},
        {"LANG": "POSIX"},
        {"LANG": ""},
        {"LC_ALL": "C"},
        {"LANG": "C", "LC_CTYPE": "C"},
        {"LANG": "C", "LC_CTYPE": ""},
        {"LANG": "C", "LC_CTYPE": "C.UTF-8"},
        {"LANG": "C", "LC_CTYPE": "C.utf8"},
        {"LANG": "C", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda locale: ",".join(f"{name}={value}" for name, value in locale.items()),
)
def test_the_locale_is_the_callers_not_pythons(runner: Runner, locale: dict[str, str]) -> None:
    command = ["env", "-0", "-u", "TMPDIR"]
    bare, ended = runner.bare(command, env=locale), runner.sandboxed(command, env=locale)
    assert _variables(bare)[next(iter(locale)).encode()] == next(iter(locale.values())).encode()
    assert _variables(ended) == _variables(bare)


def test_clean_env_starts_from_nothing_but_what_is_named(runner: Runner) -> None:
    policy = (
        '[program]\nclean_env = true\npass_env = ["LANG", "NOT_THERE"]\nenv = { CC = "gcc", LANG2 = "" }\n'
        "[filesystem]\nbase = true\n"
    )
    found = _variables(runner.sandboxed(["env", "-0"], policy=policy, env={"SECRET": "x"}))
    assert found.pop(b"TMPDIR").startswith(bytes(runner.place.temporary))
    assert found.pop(b"PATH")
    assert found == {b"LANG": b"C.UTF-8", b"CC": b"gcc", b"LANG2": b""}


def test_env_and_clean_env_on_the_command_line(runner: Runner) -> None:
    found = _variables(
        runner.sandboxed(["env", "-0"], options=["--clean-env", "--env", "A=b=c", "--env", "E="])
    )
    assert found.keys() == {b"A", b"E", b"PATH", b"TMPDIR"}
    assert found[b"A"] == b"b=c"


# --- the private temporary directory ---


def test_the_temporary_directory_is_private_and_gone_afterwards(runner: Runner) -> None:
    ended = runner.sandboxed(
        ["sh", "-c", 'stat -c %a "$TMPDIR"; ls -A "$TMPDIR"; echo x > "$TMPDIR/f"; echo "$TMPDIR"']
    )
    mode, path = ended.stdout.decode().splitlines()
    assert mode == "700"
    assert not os.path.lexists(path)


@pytest.mark.parametrize(
    "script",
    [
        "mkdir -p a/b/c; touch a/b/c/f; chmod 000 a/b/c a/b a .",
        "mkdir a; mkfifo a/p; ln -s / a/l; touch a/-rf; chmod 500 a",
        'touch "$(printf "\\377\\n\\001")"; mkdir " "',
    ],
    ids=["no rights", "odd kinds", "odd names"],
)
def test_whatever_the_program_leaves_in_its_temporary_directory_is_removed(
    runner: Runner, script: str
) -> None:
    ended = runner.sandboxed(["sh", "-c", f'cd "$TMPDIR"; {script}'])
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert os.listdir(runner.place.temporary) == []


def test_a_temporary_directory_deeper_than_a_path_is_long_is_removed(runner: Runner) -> None:
    def check() -> None:
        deep = runner.place.file("deep.py", _AS_DEEP_AS_POSSIBLE)
        command = ["sh", "-c", f'cd "$TMPDIR"; exec {system_python()} {deep}']
        ended = runner.sandboxed(command, options=["--read", deep])
        assert (ended.returncode, ended.stdout, ended.stderr) == (7, b"2100\n", b"")
        assert os.listdir(runner.place.temporary) == []

    on_a_fresh_disk(runner.place, check)


# And than a naive recursion goes.
_AS_DEEP_AS_POSSIBLE = """
import os
depth = 0
try:
    for _ in range(2100):
        os.mkdir("d")
        os.chdir("d")
        depth += 1
except OSError:
    pass
print(depth, flush=True)
os._exit(7)
"""


def test_directories_may_be_nested_deeper_than_a_path_is_long(runner: Runner) -> None:
    text = (
        "import os\nfor _ in range(50):\n os.mkdir('d' * 100); os.chdir('d' * 100)\n"
        "open('f', 'w').write('x'); print(os.listdir('.'))"
    )
    script = f'{system_python()} -c "{text}"; rm -rf d*'
    runner.both(["sh", "-c", script])


def test_removing_the_temporary_directory_changes_nothing_that_it_links_to(runner: Runner) -> None:
    """A link in a directory that may not be changed: getting it out of the way must not touch where it leads."""
    outside = runner.place.root / "outside"
    outside.mkdir()
    runner.place.file("outside/file", "x", 0o444)
    runner.place.give(outside)
    outside.chmod(0o555)
    script = 'cd "$TMPDIR"; mkdir a; ln -s "$1" a/link; ln -s "$1/file" a/other; chmod 500 a'
    ended = runner.sandboxed(["sh", "-c", script, "sh", outside])
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert os.listdir(runner.place.temporary) == []
    assert outside.stat().st_mode & 0o7777 == 0o555
    assert (outside / "file").stat().st_mode & 0o7777 == 0o444


# --- limits, descriptors, priority ---


@pytest.mark.parametrize(
    "limit", ["", "ulimit -n 200;", "ulimit -Sn 128;", "ulimit -c 0; ulimit -f 1000;", "ulimit -s 1024;"]
)
def test_resource_limits_are_as_bare(runner: Runner, limit: str) -> None:
    runner.both(["cat", "/proc/self/limits"], wrap=["sh", "-c", f'{limit} exec "$@"', "sh"])


def test_descriptors_of_the_caller_do_not_reach_the_program(runner: Runner) -> None:
    program = runner.compiler.compile(_SHOW_DESCRIPTORS)
    opened = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(60)]
    wanted = [fd for fd in opened if fd <= 50]
    try:
        bare = runner.bare([program], pass_fds=wanted)
        ended = runner.sandboxed([program], pass_fds=wanted)
    finally:
        for fd in opened:
            os.close(fd)
    assert len(bare.stdout.split()) == 3 + len(wanted) > 30
    assert ended.stdout.split() == [b"0", b"1", b"2"]


def test_a_descriptor_far_above_the_soft_limit_does_not_reach_the_program(runner: Runner) -> None:
    program = runner.compiler.compile(_SHOW_DESCRIPTORS)
    wrap = [sys.executable, "-c", _HIGH_DESCRIPTOR]
    ended = runner.sandboxed([program], wrap=wrap)
    assert ended.stdout.split() == [b"0", b"1", b"2"]


_HIGH_DESCRIPTOR = """
import fcntl, os, resource, sys
high = fcntl.fcntl(os.open("/etc/passwd", os.O_RDONLY), fcntl.F_DUPFD, 900)
os.set_inheritable(high, True)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("wrap", "command"),
    [
        (["nice", "-n", "7"], ["nice"]),
        (["ionice", "-c", "3"], ["ionice"]),
        (["ionice", "-c", "2", "-n", "6"], ["ionice"]),
        (["taskset", "-c", "0"], ["grep", "Cpus_allowed_list", "/proc/self/status"]),
        (["chrt", "--batch", "0"], ["sh", "-c", "chrt -p $$ | sed 's/pid [0-9]*//'"]),
        (["setsid", "-w"], ["sh", "-c", "test -t 0; echo $?"]),
    ],
)
def test_priority_and_affinity_are_as_bare(runner: Runner, wrap: list[str], command: list[str]) -> None:
    require(wrap[0])
    runner.both(command, wrap=wrap)


# --- arguments ---


def test_arguments_arrive_byte_by_byte(runner: Runner) -> None:
    program = runner.compiler.compile(_SHOW_ARGUMENTS)
    arguments = [
        b"",
        b"\xff\xfe\x80",
        b" a  b ",
        b"-x",
        b"--",
        b"--policy",
        b"'\"\\$`",
        "é".encode(),
        b"a\nb",
        b"",
    ]
    ended = runner.both([program, *arguments])
    assert ended.stdout.decode().split("\n")[:-1] == [argument.hex() for argument in arguments]


def test_many_and_long_arguments_arrive(runner: Runner) -> None:
    program = runner.compiler.compile(_SHOW_ARGUMENTS)
    runner.both([program, *("x" * length for length in range(500)), "y" * 100_000])


# --- PATH ---


@pytest.fixture
def directories(runner: Runner) -> Path:
    """Below the work directory: `first` and `second`, each with commands that say where they are."""
    for where in ("first", "second", "."):
        for name in ("both", f"only-{where}") if where != "." else ("here",):
            runner.place.file(f"work/{where}/{name}", f"#!/bin/sh\necho {where}\n", 0o755)
    runner.place.file("work/first/not-executable", "x", 0o644)
    runner.place.file("work/second/not-executable", "#!/bin/sh\necho found\n", 0o755)
    runner.place.file("work/first/directory/x", "x")
    runner.place.file("work/second/directory", "#!/bin/sh\necho found\n", 0o755)
    runner.place.file("work/first/nowhere-executable", "x", 0o644)
    runner.place.file("work/a-file", "x")
    return runner.work


@pytest.mark.parametrize(
    "command", ["both", "only-second", "not-executable", "directory", "nowhere-executable", "here", "nope"]
)
@pytest.mark.parametrize(
    "path",
    [
        "{work}/first:{work}/second:{system}",
        "{work}/second:{work}/first:{system}",
        "first:second:{system}",
        ":{system}",
        "{system}:",
        "/no/such:{work}/a-file:{work}/second:{system}",
        "",
    ],
)
def test_a_command_is_looked_up_as_env_looks_it_up(
    runner: Runner, directories: Path, path: str, command: str
) -> None:
    search = {"PATH": path.format(work=directories, system=SYSTEM_PATH)}
    bare = runner.bare(["/usr/bin/env", "--", command], env=search)
    ended = runner.sandboxed([command], env=search, options=["--read", directories])
    assert (ended.returncode, ended.stdout) == (bare.returncode, bare.stdout), ended.stderr


def test_without_path_the_usual_directories_are_searched(runner: Runner) -> None:
    assert runner.sandboxed(["echo", "hi"], wrap=["env", "-u", "PATH"]).stdout == b"hi\n"


def test_standard_error_of_a_program_is_not_touched(runner: Runner) -> None:
    ended = runner.sandboxed(["sh", "-c", "echo only this >&2; exit 1"], stderr=subprocess.PIPE)
    assert ended.stderr == b"only this\n"
