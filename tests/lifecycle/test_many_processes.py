"""Ten thousand processes later the supervisor is as it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import supervisor_driver
from harness.running import SYSTEM_PATH, Runner

_MANY = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>

/* `forks` short-lived children, of which every `per_exec`-th executes itself; a quarter asks something. Then a line. */
static void batch(char *self, int forks, int per_exec)
{
	for (int i = 0; i < forks; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			if (i % per_exec == 0) {
				execl(self, self, "leave", (char *)NULL);
				_exit(99);
			}
			if (i % 4 == 0)
				close(open("/usr/lib/os-release", O_RDONLY));
			_exit(i % 7);
		}
		if (pid < 0)
			exit(98);
		int status;
		waitpid(pid, &status, 0);
		if (i % per_exec && (!WIFEXITED(status) || WEXITSTATUS(status) != i % 7))
			exit(97);
	}
}

int main(int argc, char **argv)
{
	char answer;
	if (argc > 1)
		return 0;
	for (int step = 0; step < 3; step++) {
		batch(argv[0], step == 0 ? 1000 : 4500, 10);
		printf("%d\n", step);
		fflush(stdout);
		if (read(0, &answer, 1) != 1)
			return 96;
	}
	return 0;
}
"""


@pytest.mark.one_user
def test_after_ten_thousand_processes_nothing_is_kept_of_them(
    runner: Runner, measured: Callable[[str, object], None]
) -> None:
    program = runner.compiler.compile(_MANY)
    policy = runner.policy_file(f'[filesystem]\nbase = true\nread = ["{runner.compiler.directory}"]\n')
    driver = Path(supervisor_driver.__file__)
    # A copy: the ordinary user may not be able to read the source tree.
    script = runner.place.file("driver.py", driver.read_text())
    ended = runner.run([sys.executable, script, policy, "3", program], timeout=90, env={"PATH": SYSTEM_PATH})
    assert ended.returncode == 0, ended.stderr.decode()
    told = json.loads(ended.stdout)
    assert told["status"]["exit_code"] == 0
    assert told["phase"] == "ended"
    assert told["index"] == 0
    after_1000, _, after_10000 = told["milestones"]
    measured("rss_kib", [milestone["rss_kib"] for milestone in told["milestones"]])
    measured("descriptors", [milestone["descriptors"] for milestone in told["milestones"]])
    for milestone in (after_1000, after_10000):
        assert milestone["index"] <= 1  # the program itself
    assert after_10000["descriptors"] == after_1000["descriptors"]
    assert after_10000["rss_kib"] - after_1000["rss_kib"] < 2048, told["milestones"]
