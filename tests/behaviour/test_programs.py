"""Ordinary programs, unchanged: the same output, status and files as bare."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from harness.running import Runner, require, system_python

_GIT = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z",
    "GIT_CONFIG_NOSYSTEM": "1",
}


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_three_hundred_pipelines(runner: Runner, shell: str, soak: bool) -> None:
    """No call may be interrupted that is not bare: a lost pipe or a failed fork shows as a message or a hang."""
    require(shell)
    script = "for i in $(seq 300); do echo a | cat | cat > /dev/null; done; echo ok"
    for _ in range(20 if soak else 1):  # in a row: what is lost is lost once in thousands
        ended = runner.sandboxed([shell, "-c", script])
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"ok\n", b"")


@pytest.mark.parametrize(
    "script",
    [
        'ls -la /usr/bin | head -50; ls -ld --time-style=+ . "$HOME"',
        "id; id -un; groups; whoami",
        "locale; locale -a",
        "date -u -d @0; TZ=Europe/Berlin date -d @0; uname -a; nproc; hostname",
        "find /etc -maxdepth 1 -name 'p*' | sort",
        "echo abc | sed s/b/X/ > out; sed -i s/X/Y/ out; cat out",
        "seq 1000 | awk '{ s += $1 } END { print s }' | tee sum; wc -c sum",
        "mkdir a; echo x > a/f; ln -s f a/l; ln a/f a/h; mkfifo a/p; tar cf t.tar --mtime=@0 a; tar tf t.tar; mkdir b;"
        " tar xf t.tar -C b; ls -R b; rm -r a b t.tar",
        "mkdir -p x/y; touch x/y/z; mv x/y w; cp -a w v; chmod 640 v/z; rm -rf x; find . | sort",
        "seq 50000 | sort -rn | uniq | md5sum; seq 20000 | gzip -n | gunzip | tail -1",
        'mktemp > name; test -f "$(cat name)"; echo $?; rm name',
        "echo 'echo from $0' > s; chmod +x s; sh ./s; cat <<END\nhere\nEND",
        "set -- $(ps -o comm= -p $$); echo $1; ps >/dev/null; echo $?",
        "dd if=/dev/zero of=zeros bs=64k count=16 2>/dev/null; truncate -s 10 zeros; stat -c '%s %a %F' zeros",
        "head -c 16 /dev/urandom | wc -c; echo x > /dev/null; cat /dev/null; head -c 4 /dev/zero | od",
        "trap 'echo trapped' EXIT; (exit 3); echo $?; sleep 0.01 & wait $!; echo $?",
        "test -r /etc/hostname && cat /etc/hostname; getent passwd 0; getent group 0",
    ],
)
def test_everyday_commands(runner: Runner, script: str) -> None:
    runner.both(["bash", "-c", script])


@pytest.mark.parametrize(
    "script",
    [
        'perl -e \'open(F, ">f"); print F "x\\n" for 1..3; close F; print -s "f", "\\n"\'',
        "perl -MPOSIX -e 'my $p = fork // die; if (!$p) { exit 3 } waitpid $p, 0;"
        ' print $? >> 8, "\\n"; print getcwd()\'',
    ],
)
def test_perl(runner: Runner, script: str) -> None:
    require("perl")
    runner.both(["sh", "-c", script])


def test_git_init_commit_clone_checkout_and_status(runner: Runner) -> None:
    require("git")
    script = """
        set -e
        git init -q -b main first; cd first
        for i in 1 2 3; do echo "$i" > "file$i"; git add .; git commit -q -m "commit $i"; done
        git log --oneline; git checkout -q -b other HEAD~1; git status; git diff main --stat
        cd ..; git clone -q first second; cd second; git log --format=%H; git checkout -q -b third HEAD~1
        echo changed > file1; git status --short; git stash -q; git status --short; git gc -q; git fsck
    """
    ignored = ["*/.git/index", "*.idx", "*.pack", "*.rev", "*/.git/ORIG_HEAD", "*/.git/objects/*"]
    ended = runner.both(["bash", "-c", script], env=_GIT, ignored=ignored, same_stderr=False)
    assert ended.returncode == 0


def _many_sources(work: Path) -> None:
    for number in range(30):
        calls = f"int f{number + 1}(int);" if number < 29 else ""
        result = f"f{number + 1}(x + 1)" if number < 29 else "x"
        text = (
            f"#include <stdio.h>\n#include <stdlib.h>\n{calls}\nint f{number}(int x) {{ return {result}; }}\n"
        )
        (work / f"f{number}.c").write_text(text)
    (work / "main.c").write_text(
        '#include <stdio.h>\nint f0(int);\nint main(void) { printf("%d\\n", f0(0)); }\n'
    )
    (work / "Makefile").write_text(
        "OBJECTS = main.o $(patsubst %,f%.o,$(shell seq 0 29))\n"
        "program: $(OBJECTS)\n\t$(CC) -o $@ $^\n%.o: %.c\n\t$(CC) -O0 -c -o $@ $<\n"
    )


def test_gcc_and_make_of_thirty_files(runner: Runner) -> None:
    require("gcc", "make")
    ended = runner.both(["sh", "-c", "make -j2 >/dev/null && ./program && make"], prepare=_many_sources)
    assert ended.stdout.startswith(b"29\n")


def _wheel(work: Path) -> None:
    name = "sandlockd_test_wheel"
    files = {
        f"{name}.py": "def answer():\n    return 42\n",
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{name}-1.0.dist-info/RECORD"
    with zipfile.ZipFile(work / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(record, "".join(f"{path},,\n" for path in (*files, record)))


@pytest.mark.one_user
def test_python_venv_and_pip_install_of_a_wheel(runner: Runner) -> None:
    python = system_python()
    if runner.bare([python, "-c", "import ensurepip, venv"]).returncode:
        pytest.skip("the machine's python3 lacks venv or ensurepip")
    script = f"""
        set -e
        {python} -m venv env
        env/bin/pip --disable-pip-version-check install -q --no-index --no-deps ./*.whl
        env/bin/python -c 'import sandlockd_test_wheel as w; print(w.answer(), w.__file__)'
        find env -not -name '*.pyc' | sort
    """
    ended = runner.both(["bash", "-c", script], prepare=_wheel, ignored=["*"], env={"HOME": str(runner.work)})
    assert ended.stdout.startswith(b"42 ")


@pytest.mark.parametrize(
    "text",
    [
        "import sqlite3; c = sqlite3.connect('db'); c.execute('create table t (x)');"
        " c.executemany('insert into t values (?)', [(i,) for i in range(1000)]); c.commit();"
        " print(c.execute('select sum(x) from t').fetchone(), c.execute('pragma journal_mode=wal').fetchone())",
        "import subprocess; print(subprocess.run(['echo', 'x'], capture_output=True))",
        "import multiprocessing as m; print(m.get_context('fork').Pool(2).map(abs, range(-3, 3)))",
        "import threading; t = [threading.Thread(target=print, args=(i,)) for i in range(3)];"
        " [(x.start(), x.join()) for x in t]",
        "import tempfile, os; f = tempfile.TemporaryFile(); f.write(b'x'); f.flush();"
        " print(os.fstat(f.fileno()).st_size)",
        "import os; print(os.cpu_count(), os.getcwd(), sorted(os.listdir('/proc/self/fd'))[:3])",
        "import ssl, socket, select, asyncio; asyncio.run(asyncio.sleep(0)); print('ok')",
        "import os; os.mkdir('d'); f = os.open('d/f', os.O_CREAT | os.O_RDWR, 0o640); os.write(f, b'abc');"
        " os.fchmod(f, 0o600); os.utime('d/f', (1, 2)); os.rename('d/f', 'd/g'); print(os.stat('d/g').st_mtime)",
    ],
)
def test_python(runner: Runner, text: str) -> None:
    ignored = ["db*"]  # SQLite writes its version and change counters
    # multiprocessing's locks live in /dev/shm.
    runner.both([system_python(), "-c", text], ignored=ignored, options=["--write", "/dev/shm"])


def test_node(runner: Runner) -> None:
    require("node")
    text = (
        "const fs = require('fs'), cp = require('child_process'); fs.writeFileSync('f', 'x');"
        "console.log(fs.readFileSync('f', 'utf8'), process.version, require('os').cpus().length > 0,"
        " cp.execFileSync('echo', ['hi']).toString(), process.cwd());"
        "setTimeout(() => process.exit(3), 5)"
    )
    assert runner.both(["node", "-e", text]).returncode == 3


def test_a_go_program(runner: Runner) -> None:
    require("go")
    source = (
        'package main\nimport ("fmt"; "os")\nfunc main() { h, _ := os.ReadDir("."); fmt.Println(len(h)) }\n'
    )
    program = runner.place.file("go/main.go", source).with_name("program")
    runner.bare(["go", "build", "-o", program, program.with_name("main.go")])
    runner.both([program], options=["--read", program])
