"""Runtimes that reserve much more than they use run under `limits.memory`, and are told how much there is; and with all
their threads under a small `limits.processes`."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.running import Runner, require, system_python

_ASAN = r"""
#include <stdio.h>
#include <stdlib.h>
int main(void)
{
	char *hello = malloc(6);

	snprintf(hello, 6, "hello");
	puts(hello);
	free(hello);
	return 0;
}
"""

_JAVA = 'class Hello { public static void main(String[] words) { System.out.println("hello"); } }'

_NOTHING_IN_TMP = "-XX:-UsePerfData"

_GO = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello") }\n'

_LIMIT = ["--memory", "256M"]


def _says_hello(runner: Runner, command: list[str | Path], *options: str | Path) -> None:
    assert runner.bare(command).stdout == b"hello\n"
    limits = [*_LIMIT, "--processes", "16"]
    ended = runner.sandboxed(command, options=[*limits, "--quiet", *options], timeout=60)
    assert (ended.returncode, ended.stdout) == (0, b"hello\n"), ended.stderr
    assert ended.status is not None and ended.status["usage"]["peak_memory"] < 256 << 20


def test_a_program_with_shadow_memory_runs(runner: Runner) -> None:
    """16 TB are mapped. (Looking for leaks it would trace itself.)"""
    program = runner.compiler.compile(_ASAN, "-fsanitize=address")
    command = ["env", "ASAN_OPTIONS=detect_leaks=0", program]
    _says_hello(runner, command)


def test_node_runs(runner: Runner) -> None:
    require("node")
    _says_hello(runner, ["node", "-e", "console.log('hello')"])


def test_a_java_virtual_machine_runs(runner: Runner) -> None:
    """Its first heap is a 64th of the machine."""
    require("java")
    source = runner.place.file("work/Hello.java", _JAVA)
    compiled = runner.bare(["javac", "-J-XX:-UsePerfData", source], cwd=runner.work)
    if compiled.returncode != 0:
        _says_hello(runner, ["java", _NOTHING_IN_TMP, source], "--read", runner.work)
        return
    _says_hello(runner, ["java", _NOTHING_IN_TMP, "-cp", runner.work, "Hello"], "--read", runner.work)


def test_a_go_program_runs(runner: Runner) -> None:
    require("go")
    source = runner.place.file("work/hello.go", _GO)
    program = runner.work / "hello"
    assert runner.bare(["go", "build", "-o", program, source], timeout=120).returncode == 0
    _says_hello(runner, [program], "--read", runner.work)


def test_the_machine_has_no_more_than_the_limit(runner: Runner) -> None:
    script = "import os; print(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20)"
    ended = runner.sandboxed([system_python(), "-S", "-c", script], options=_LIMIT)
    if ended.stdout != b"256\n":  # a C library that reads /proc/meminfo instead
        pytest.skip("it does not ask by sysinfo(2)")


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_what_fits_is_what_it_is_bare(runner: Runner, shell: str) -> None:
    require(shell)
    count = "awk 'BEGIN { for (i = 0; i < 1e5; i++) a[i] = i; print length(a) }'"
    script = f"for i in 1 2 3; do ls /usr | sort | wc -l; done; {count}"
    runner.both([shell, "-c", script], options=_LIMIT)
