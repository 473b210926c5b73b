"""/proc as the program sees it: its own files are as bare, those of others do not exist."""

from __future__ import annotations

import os

import pytest
from harness.running import Runner, require, system_python


@pytest.mark.parametrize(
    "script",
    [
        "readlink /proc/self/exe; readlink /proc/self/cwd; readlink /proc/self/root",
        "readlink /proc/$$/exe; readlink /proc/$$/cwd; cat /proc/$$/comm",
        "cat /proc/self/comm; tr '\\0' ' ' < /proc/self/cmdline",
        "grep -E '^(Name|Umask|Uid|Gid|Groups|Threads|SigBlk|SigIgn|SigCgt|Cpus_allowed)' /proc/self/status",
        "cat <(echo hi); cat /dev/fd/3 3< <(echo there); echo x | cat /dev/stdin; echo y > /dev/stdout",
        "echo one >&2; echo two > /dev/stderr; cat /proc/self/fd/0 < /etc/hostname;"
        " tail -c 2 /dev/fd/0 < /etc/hostname",
        "ls /proc/self/fd | head -3; ls /proc/self/task | wc -l; test -d /proc/$$; ls /dev/fd/ | head -3",
        "diff <(sort /etc/passwd) <(sort /etc/passwd) && echo same; exec 5>f; echo z > /proc/self/fd/5; cat f",
        "cat /proc/self/limits; cat /proc/self/oom_score_adj; wc -l < /proc/self/cgroup; cat /proc/self/personality",
        "test -s /proc/self/maps && echo maps; test -r /proc/self/environ && echo environ;"
        " test -d /proc/self/ns && echo ns",
        "tr '\\0' '\\n' < /proc/self/environ | grep ^LANG; cat /proc/thread-self/comm;"
        " head -c 5 /proc/thread-self/stat | wc -c",
        "echo renamed > /proc/self/comm; cat /proc/$$/comm",
        "cd /proc/self && pwd -P | sed 's/[0-9][0-9]*/N/'; cat comm; cat ../self/comm",
        "cd /proc/self/fd && ls -d 0; cat < /proc/self/status | head -1;"
        " [ -e /proc/self/exe ] && [ -L /proc/self/exe ] && echo both",
        "cat /proc/sys/kernel/ostype /proc/sys/kernel/pid_max; head -1 /proc/meminfo; grep -c processor /proc/cpuinfo",
        "sleep 100 & until grep -q sleep /proc/$!/comm; do :; done; cat /proc/$!/comm; kill $!; wait $!",
        pytest.param(
            "head -1 /etc/mtab >/dev/null && echo mtab; cat /proc/filesystems | wc -l; wc -l < /proc/self/mountinfo",
            marks=pytest.mark.alone,  # another test may mount something
        ),
        "grep -c . /proc/version; cut -d' ' -f2 /proc/self/stat; cut -d' ' -f1 /proc/self/statm >/dev/null; echo $?",
    ],
)
def test_the_programs_own_proc_is_as_bare(runner: Runner, script: str) -> None:
    runner.both(["bash", "-c", script])


@pytest.mark.parametrize(
    "text",
    [
        "open('f', 'w').write('abc'); f = open('f'); print(open(f'/proc/self/fd/{f.fileno()}').read())",
        "f = os.memfd_create('m'); os.write(f, b'xyz');"
        " print(open(f'/proc/self/fd/{f}').read(), os.readlink(f'/proc/self/fd/{f}'))",
        "r, w = os.pipe(); os.write(w, b'p'); print(os.read(os.open(f'/dev/fd/{r}', os.O_RDONLY), 1))",
        "f = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(f, b't'); os.link(f'/proc/self/fd/{f}', 'linked',"
        " src_dir_fd=os.open('.', os.O_RDONLY),"
        " follow_symlinks=True); print(open('linked').read())",
        "print(os.readlink('/proc/self/exe') == os.path.realpath(sys.executable))",
        "d = os.open('/proc/self', os.O_RDONLY); print(open(os.open('comm', os.O_RDONLY, dir_fd=d)).read())",
        "import threading; t = threading.Thread(target=lambda: print(open('/proc/thread-self/comm').read() =="
        " open(f'/proc/self/task/{threading.get_native_id()}/comm').read())); t.start(); t.join()",
        "print(os.stat('/proc/self/exe').st_size == os.stat(sys.executable).st_size, os.path.islink('/proc/self'))",
        "print(int(os.readlink('/proc/self')) == os.getpid(), os.access('/proc/self/mem', os.R_OK))",
        "p = os.fork(); p or os._exit(0 if open(f'/proc/{os.getppid()}/comm').read() else 1);"
        " print(os.waitpid(p, 0)[1])",
        "open('/proc/self/oom_score_adj', 'w').write('500'); print(open('/proc/self/oom_score_adj').read())",
        "m = open('/proc/self/mem', 'rb', 0); a = int(open('/proc/self/maps').readline().split('-')[0], 16);"
        " m.seek(a); print(m.read(4))",
    ],
)
def test_the_programs_own_proc_is_as_bare_in_python(runner: Runner, text: str) -> None:
    runner.both([system_python(), "-c", f"import os, sys\n{text}"])


@pytest.mark.parametrize(
    "file", ["", "/status", "/cmdline", "/environ", "/fd", "/maps", "/task", "/cwd/", "/root/etc/passwd"]
)
def test_processes_outside_do_not_exist(runner: Runner, file: str) -> None:
    for pid in (1, os.getpid()):
        ended = runner.sandboxed(
            ["ls" if file in ("", "/fd", "/task", "/cwd/") else "cat", f"/proc/{pid}{file}"]
        )
        assert ended.returncode != 0
        assert ended.stdout == b""


_OTHER_MTAB = (
    'etc=$(mktemp -d) && cp -a /etc/. "$etc" && rm -f "$etc/mtab" && {made}'
    ' && mount --bind "$etc" /etc && exec "$@"'
)


@pytest.mark.parametrize("made", ["true", 'echo of the machine > "$etc/mtab"'], ids=["none", "a file"])
def test_a_machine_without_the_usual_link(runner: Runner, made: str) -> None:
    """/etc/mtab leads to the mounts of whoever asks, where it is a link; a small machine has none."""
    if not runner.place.user.is_root:
        pytest.skip("mounting needs root")
    require("unshare", "mount")
    wrap = ["unshare", "-m", "sh", "-c", _OTHER_MTAB.format(made=made), "sh"]
    runner.both(["sh", "-c", "cat /etc/mtab"], wrap=wrap)
