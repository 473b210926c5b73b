"""On a terminal: keys, job control and the window, as bare. Each dialogue is held bare first, then sandboxed."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Sequence

import pytest
from harness.running import Argument, Runner, require
from harness.terminal import Terminal, open_terminal
from harness.waiting import Patience, until

_BASH = ["/bin/bash", "--norc", "--noprofile", "-i"]

_TELL_WINDOW = r"""
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
int main(void)
{
	sigset_t set;
	int number;
	struct winsize size;
	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	sigprocmask(SIG_BLOCK, &set, NULL);
	puts("ready");
	fflush(stdout);
	for (int i = 0; i < 2; i++) {
		sigwait(&set, &number);
		ioctl(0, TIOCGWINSZ, &size);
		printf("window %d %d\n", size.ws_row, size.ws_col);
		fflush(stdout);
	}
	return 0;
}
"""

Line = Callable[[Sequence[Argument]], list[str]]


@pytest.fixture(params=["native", "sandboxed"])
def line_for(request: pytest.FixtureRequest, runner: Runner) -> Line:
    """From a command to the words that run it."""

    def native(command: Sequence[Argument]) -> list[str]:
        return [os.fsdecode(word) for word in command]

    def sandboxed(command: Sequence[Argument]) -> list[str]:
        return native(runner.command_line(command, options=["--write", runner.work, "--quiet"]))

    return native if request.param == "native" else sandboxed


def _on_terminal(runner: Runner, words: Sequence[str]) -> Terminal:
    environment = runner.environment({"PS1": "[prompt]", "TERM": "dumb"})
    return open_terminal(words, user=runner.place.user, cwd=str(runner.work), environment=environment)


def _shell(runner: Runner) -> Terminal:
    """An interactive shell with job control, at its first prompt."""
    require("bash")
    terminal = _on_terminal(runner, _BASH)
    terminal.expect(rb"\[prompt\]")
    return terminal


def _shell_status(status: int) -> int:
    return 128 - status if status < 0 else status


def _leave(terminal: Terminal) -> None:
    terminal.send(b"exit 0\r")
    assert terminal.wait() == 0


def test_control_c_kills_the_program(runner: Runner, line_for: Line) -> None:
    with _on_terminal(runner, line_for(["/bin/sh", "-c", "echo ready; exec sleep 1000"])) as terminal:
        terminal.expect(b"ready")
        terminal.send(b"\x03")
        assert _shell_status(terminal.wait()) == 130


def test_control_backslash_kills_the_program(runner: Runner, line_for: Line) -> None:
    with _on_terminal(
        runner, line_for(["/bin/sh", "-c", "ulimit -c 0; echo ready; exec sleep 1000"])
    ) as terminal:
        terminal.expect(b"ready")
        terminal.send(b"\x1c")
        assert _shell_status(terminal.wait()) == 131


_CATCHES = r"""
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile sig_atomic_t interrupts;
static void interrupt(int number) { (void)number; interrupts++; }

int main(void)
{
	struct sigaction action = {.sa_handler = interrupt};
	sigset_t one, none;
	char line[64];

	sigemptyset(&none);
	sigemptyset(&one);
	sigaddset(&one, SIGINT);
	sigprocmask(SIG_BLOCK, &one, NULL);
	sigaction(SIGINT, &action, NULL);
	puts("ready");
	fflush(stdout);
	while (!interrupts)
		sigsuspend(&none);
	puts("caught");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	printf("got %s", line);
	return 0;
}
"""


def test_a_program_that_handles_control_c_goes_on(runner: Runner, line_for: Line) -> None:
    # No shell: its trap is not run when ^C comes just before its `read` waits.
    program = runner.compiler.compile(_CATCHES)
    with _on_terminal(runner, line_for([program])) as terminal:
        terminal.expect(b"ready")
        terminal.send(b"\x03")
        terminal.expect(b"caught")
        terminal.send(b"one\r")
        terminal.expect(b"got one")
        assert terminal.wait() == 0
        assert terminal.screen.count(b"caught") == 1


def test_control_c_in_a_shell_gives_the_prompt_and_the_status_back(runner: Runner, line_for: Line) -> None:
    with _shell(runner) as terminal:
        terminal.send(shlex.join(line_for(["sh", "-c", "echo rea''dy; exec sleep 1000"])).encode() + b"\r")
        terminal.expect(b"ready")
        terminal.send(b"\x03")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"echo status=$?\r")
        terminal.expect(b"status=130")
        _leave(terminal)


def test_control_z_stops_the_job_and_fg_goes_on_with_it(runner: Runner, line_for: Line) -> None:
    script = "echo rea''dy; read line; echo got-$line; exit 3"
    with _shell(runner) as terminal:
        terminal.send(shlex.join(line_for(["sh", "-c", script])).encode() + b"\r")
        terminal.expect(b"ready")
        terminal.send(b"\x1a")
        terminal.expect(b"Stopped")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"jobs\r")
        terminal.expect(rb"\[1\]\+ +Stopped")
        terminal.bring_to_front()
        terminal.send(b"hello\r")
        terminal.expect(b"got-hello")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"echo status=$?\r")
        terminal.expect(b"status=3")
        _leave(terminal)


def test_control_z_twice_and_then_in_the_background(runner: Runner, line_for: Line) -> None:
    with _shell(runner) as terminal:
        script = (
            "trap 'echo contin\\ued' CONT; echo rea''dy; "
            "while :; do read -t 0.01 line < gate && break; done; echo ov''er; exit 6"
        )
        terminal.send(b"mkfifo gate; exec 9<>gate\r")
        terminal.expect(rb"\[prompt\]")
        terminal.send(shlex.join(line_for(["bash", "-c", script])).encode() + b"\r")
        terminal.expect(b"ready")
        for _ in range(2):
            terminal.send(b"\x1a")
            terminal.expect(b"Stopped")
            terminal.bring_to_front()
            terminal.expect(b"\ncontinued")
        terminal.send(b"\x1a")
        terminal.expect(b"Stopped")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"bg\r")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"echo go >&9; wait %1; echo status=$?\r")
        terminal.expect(b"over")
        terminal.expect(b"status=6")
        _leave(terminal)


_TIMED = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

static void tick(int number) { (void)number; }
static void go_on(int number)
{
	(void)number;
	if (write(1, "continued\n", 10) != 10)
		_exit(2);
}

int main(void)
{
	struct sigaction ticks = {.sa_handler = tick}, goes_on = {.sa_handler = go_on};
	struct itimerval every = {{0, 1000}, {0, 1000}};
	char line[64];
	ssize_t got;

	sigaction(SIGALRM, &ticks, NULL);
	sigaction(SIGCONT, &goes_on, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	if (write(1, "ready\n", 6) != 6)
		return 2;
	while ((got = read(0, line, sizeof(line))) < 0 && (errno == EINTR || errno == EIO))
		if (close(open("/usr/lib/os-release", O_RDONLY)) < 0)
			return 3;
	return got == 4 ? 5 : 4;
}
"""


def test_control_z_with_a_program_that_has_a_timer(runner: Runner, line_for: Line) -> None:
    # init traces it then (native/tracer.c), which must not show.
    program = runner.compiler.compile(_TIMED)
    with _shell(runner) as terminal:
        terminal.send(shlex.join(line_for([program])).encode() + b"\r")
        terminal.expect(b"ready")
        for _ in range(3):
            terminal.send(b"\x1a")
            terminal.expect(b"Stopped")
            terminal.bring_to_front()
            terminal.expect(b"\ncontinued")
        terminal.send(b"end\r")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"echo status=$?\r")
        terminal.expect(b"status=5")
        _leave(terminal)


def test_a_child_that_stops_itself_goes_on_with_the_job(runner: Runner, line_for: Line) -> None:
    """Its parent waits for it, and nobody but the shell can end that."""
    child = 'echo pid-$$-; kill -STOP $$; echo contin"ued"'
    script = f"sh -c {shlex.quote(child)}; echo ov''er; exit 4"
    with _shell(runner) as terminal:
        terminal.send(shlex.join(line_for(["sh", "-c", script])).encode() + b"\r")
        _until_stopped(int(terminal.expect(rb"pid-(\d+)-")[1]))
        terminal.send(b"\x1a")
        terminal.expect(b"Stopped")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"fg\r")
        terminal.expect(b"\ncontinued")
        terminal.expect(b"\r\nover")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"echo status=$?\r")
        terminal.expect(b"status=4")
        _leave(terminal)


def test_a_program_that_stops_itself_is_given_back_to_the_shell(runner: Runner, line_for: Line) -> None:
    """Bare at once; sandboxed with ^Z, because by SIGSTOP something in the sandbox may have stopped it for a moment."""
    script = "echo pid-$$-; kill -STOP $$; echo contin''ued; exit 5"
    with _shell(runner) as terminal:
        words = line_for(["sh", "-c", script])
        terminal.send(shlex.join(words).encode() + b"\r")
        _until_stopped(int(terminal.expect(rb"pid-(\d+)-")[1]))
        shell = terminal.pid
        while len(words) > 3 and terminal.foreground_group() != shell:
            terminal.send(b"\x1a")  # again, where it came before the stop was known
            with contextlib.suppress(Patience):
                until(lambda: terminal.foreground_group() == shell, "the prompt", limit_s=1)
        terminal.expect(b"Stopped")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"fg\r")
        terminal.expect(b"\ncontinued")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"echo status=$?\r")
        terminal.expect(b"status=5")
        _leave(terminal)


def _until_stopped(pid: int) -> None:
    def stopped() -> bool:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"

    until(stopped, "the stop")


def test_a_new_window_size_reaches_the_program_once(runner: Runner, line_for: Line) -> None:
    program = runner.compiler.compile(_TELL_WINDOW)
    with _on_terminal(runner, line_for([program])) as terminal:
        terminal.expect(b"ready")
        terminal.resize(30, 100)
        terminal.expect(b"window 30 100")
        terminal.resize(31, 101)
        terminal.expect(b"window 31 101")
        assert terminal.wait() == 0


def test_in_the_middle_of_a_pipeline(runner: Runner, line_for: Line) -> None:
    with _shell(runner) as terminal:
        words = shlex.join(line_for(["cat"]))
        terminal.send(f"echo da''ta | cat | {words} | cat; echo status=$?\r".encode())
        terminal.expect(b"\r\ndata")
        terminal.expect(b"status=0")
        terminal.send(f"{{ echo rea''dy; cat; }} | {words} | cat\r".encode())
        terminal.expect(b"ready")
        terminal.send(b"line\r")
        terminal.expect(b"line\r\nline\r\n")
        terminal.send(b"\x04")
        terminal.expect(rb"\[prompt\]")
        _leave(terminal)


def test_reading_the_terminal_in_the_background_stops_the_job(runner: Runner, line_for: Line) -> None:
    with _shell(runner) as terminal:
        terminal.send(shlex.join(line_for(["sh", "-c", "echo rea''dy; exec cat"])).encode() + b" &\r")
        terminal.expect(b"ready")
        terminal.send(b'while [ -z "$(jobs -s)" ]; do read -t 0.01 < /dev/null; done; jobs\r')
        terminal.expect(rb"\[1\]\+ +Stopped")
        terminal.bring_to_front()
        terminal.send(b"hello\r")
        terminal.expect(b"hello\r\nhello")
        terminal.send(b"\x04")
        terminal.expect(rb"\[prompt\]")
        _leave(terminal)


def test_an_interactive_shell_inside_has_job_control(runner: Runner, line_for: Line) -> None:
    require("bash")
    with _on_terminal(runner, line_for(_BASH)) as terminal:
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"sh -c \"echo rea''dy; exec sleep 1000\"\r")
        terminal.expect(b"ready")
        terminal.send(b"\x1a")
        terminal.expect(rb"\[1\]\+ +Stopped")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"bg\r")
        terminal.expect(rb"\[1\]\+ .*&")
        terminal.bring_to_front()
        terminal.send(b"\x03")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"echo status=$?; tty; test -t 0 && echo term''inal\r")
        terminal.expect(b"status=130")
        terminal.expect(b"/dev/pts/")
        terminal.expect(b"terminal")
        terminal.expect(rb"\[prompt\]")
        terminal.send(b"echo x > /dev/tty; exit 7\r")
        assert terminal.wait() == 7
        assert b"no job control" not in terminal.screen


def test_closing_the_terminal_ends_everything(runner: Runner, line_for: Line) -> None:
    with _on_terminal(runner, line_for(["/bin/sh", "-c", "echo ready; sleep 1000"])) as terminal:
        terminal.expect(b"ready")
        os.kill(terminal.pid, 1)  # what the kernel sends to the leader of the session
        assert _shell_status(terminal.wait()) == 129
    # The runner's fixture fails when something is left.


def test_stty_changes_the_terminal(runner: Runner, line_for: Line) -> None:
    with _on_terminal(
        runner, line_for(["/bin/sh", "-c", "stty -echo; stty size; stty -a | grep -o -e -echo | head -1"])
    ) as terminal:
        terminal.expect(b"24 80")
        terminal.expect(b"-echo")
        assert terminal.wait() == 0
