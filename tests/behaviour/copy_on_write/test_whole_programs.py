"""Ordinary programs under copy-on-write: the same output and tree as bare, the same after a commit, and no trace after
a discard.

    pytest tests/behaviour/copy_on_write/test_whole_programs.py -k "git and root and sandboxed"
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from harness.compiling import Compiler
from harness.copy_on_write import Bench, Result, Runs, runs_of
from harness.running import require
from harness.users import User
from harness.ways import BARE, BARE_AGAIN, COMMITTED, DISCARDED, OVERLAYFS, Way

_TREE = """
mkdir -p tree/a/b/c tree/d tree/empty
for i in 1 2 3 4 5 6 7 8; do echo "$i" > tree/a/$i; echo "b$i" > tree/a/b/$i; echo "c$i" > tree/a/b/c/$i; done
ln -s ../a tree/d/link; ln tree/a/1 tree/d/hard; mkfifo tree/d/fifo; chmod 600 tree/a/2; chmod 700 tree/a/b
head -c 300000 /dev/zero | tr '\\\\0' x > tree/big; truncate -s 1M tree/sparse; : > 'tree/a name'
"""

_REPOSITORY = """
git init -q -b main repository; cd repository
for i in 1 2 3 4 5; do
    mkdir dir$i; echo "$i" > file$i; echo "$i" > dir$i/in; git add .; git commit -q -m "commit $i"
done
git branch other HEAD~2
"""

_GIT = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}
# What holds inode numbers and times, or is packed by several threads.
_GIT_CHANGES = ("*.git/*index", "*.idx", "*.pack", "*.rev")

_PROJECT = r"""
for i in 0 1 2 3 4 5 6 7; do
    printf 'int f%d(void) { return %d; }\n' $i $i > f$i.c
done
cat > main.c <<'END'
#include <stdio.h>
int f7(void);
int main(int argc, char **argv) { printf("%s %d\n", argv[0], f7()); }
END
objects="main.o f0.o f1.o f2.o f3.o f4.o f5.o f6.o f7.o"
printf "a.out: $objects\n\t\$(CC) -o \$@ \$^\n%%.o: %%.c\n\t\$(CC) -c -o \$@ \$<\n" > Makefile
"""

_WHEEL = """
python3 - <<'END'
import zipfile
name = "sandlockd_test_wheel"
files = {
    f"{name}.py": "def answer():\\n    return 42\\n",
    f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n",
    f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
}
record = f"{name}-1.0.dist-info/RECORD"
with zipfile.ZipFile(f"{name}-1.0-py3-none-any.whl", "w") as wheel:
    for path, text in files.items():
        wheel.writestr(path, text)
    wheel.writestr(record, "".join(f"{path},,\\n" for path in (*files, record)))
END
"""

_DATABASE = """
import sqlite3, sys
db = sqlite3.connect("db")
db.execute("pragma journal_mode=wal")
db.executemany("insert into t values (?)", [(i,) for i in range(2000)])
db.commit()
other = sqlite3.connect("db")
print(other.execute("select count(*), sum(x) from t").fetchone())
db.execute("delete from t where x % 2"); db.commit()
print(other.execute("select count(*) from t").fetchone(), db.execute("pragma wal_checkpoint(truncate)").fetchone())
db.execute("vacuum"); print(db.execute("pragma integrity_check").fetchone())
other.close(); db.close()
"""

_MANAGER = """
import multiprocessing, os
from multiprocessing.managers import BaseManager
class Manager(BaseManager):
    pass
Manager.register("store", callable=dict, exposed=("get", "update", "__len__"))
multiprocessing.set_start_method("fork")
manager = Manager(address="manager.sock", authkey=b"key")
manager.start()
store = manager.store()
workers = [multiprocessing.Process(target=store.update, args=({i: i * i},)) for i in range(4)]
for worker in workers: worker.start()
for worker in workers: worker.join()
open("left", "w").close()
print([store.get(i) for i in range(5)], manager.address, sorted(os.listdir(".")))
manager.shutdown()
print(sorted(os.listdir(".")))
"""

_ASYNCIO = """
import asyncio, os, pwd, socket, struct
async def serve(reader, writer):
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("=iII", peer)
    line = await reader.readline()
    writer.write(b"%d %d %d %s" % (pid == os.getpid(), uid == os.getuid(), gid == os.getgid(), line))
    writer.close()
async def main():
    for path in ("run/asyncio.sock", os.path.abspath("run/absolute.sock")):
        server = await asyncio.start_unix_server(serve, path)
        os.chmod(path, 0o600)
        for _ in range(20):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello\\n")
            print(await reader.read(), writer.get_extra_info("peername") == path, oct(os.stat(path).st_mode))
            writer.close()
        print(server.sockets[0].getsockname() == path)
        server.close()
os.mkdir("run", 0o700)
asyncio.run(main())
"""

# It looks whether its database is still the file that it has open (os_unix.c, verifyDbFile).
_OPEN_DATABASE = """
import os, sqlite3, subprocess, sys
reader, writer = sqlite3.connect("file:db?mode=ro", uri=True), sqlite3.connect("db")
print(reader.execute("select count(*) from t").fetchone())
writer.execute("insert into t values (1)"); writer.commit()
print(writer.execute("select count(*) from t").fetchone())
again = "import sqlite3; d = sqlite3.connect(\\"db\\"); d.execute(\\"insert into t values (2)\\"); d.commit()"
print(subprocess.run([sys.executable, "-c", again], capture_output=True))
writer.execute("insert into t values (3)"); writer.commit()
os.rename("db", "moved"); os.rename("moved", "db")
writer.execute("begin immediate"); writer.execute("delete from t where x = 2"); writer.commit()
print(writer.execute("select x from t").fetchall(), writer.execute("pragma integrity_check").fetchone())
"""

_LIST = "find . -printf '%p %y %m %l\\n' | sort"


@dataclass(frozen=True)
class Whole:
    """A shell script, run in what another one prepared.

    masked: patterns of paths whose content and size are chance. differs: why it does not do the same under sandlockd.
    """

    script: str
    prepare: str = _TREE
    needs: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    masked: tuple[str, ...] = ()
    differs: str = ""


_WHOLE = {
    "cp-and-rm": Whole(f"cp -r tree copy; cp -a tree all; diff -r copy/a all/a; rm -rf tree copy; {_LIST}"),
    "rm-rf": Whole("rm -rf tree; ls -A; mkdir tree; ls -A tree"),
    "mv": Whole(f"mv tree/a tree/d/a; mv tree/d moved; mv moved/a/b tree; mv -T tree moved/tree; {_LIST}"),
    "mv-over": Whole(f"mkdir other; mv -T tree/a other; mv tree/big other/1; mv -n other/2 other/3; {_LIST}"),
    "ln-and-install": Whole(
        f"ln -sfn a tree/now; ln -sfn d tree/now; ln -f tree/big x; install -m 600 x tree/y; {_LIST}"
    ),
    "find-exec-cat": Whole(
        "echo new > tree/a/new; rm tree/a/3; find tree -type f -size -100k -exec cat {} + | sort"
    ),
    "find-delete": Whole(
        f"find tree/a -name '[1-4]' -delete; find tree -depth -type d -empty -delete; {_LIST}"
    ),
    "sed-in-place": Whole(
        "sed -i s/b/B/ tree/a/b/[1-8]; sed -i.old s/c/C/ tree/a/b/c/1; cat tree/a/b/[1-8]; ls tree/a/b/c"
    ),
    "sort-in-place": Whole(
        "seq 50 > tree/n; sort -rno tree/n tree/n; sort -o tree/a/1 tree/a/[1-8]; cat tree/n tree/d/hard"
    ),
    "shell": Whole(
        "cd tree/a; for f in [1-8]; do echo x >> $f; mv $f $f.x; done; cat *.x;"
        " echo */*; pwd; cd ../d; pwd -P"
    ),
    "touch-and-stat": Whole(
        "touch tree/a/1; touch -r tree/a/2 tree/a/3; touch -d @5 tree/d; stat -c '%n %Y' tree/a/[23] tree/d"
    ),
    "chmod-and-chown": Whole(f"chmod -R go-rwx tree; chmod a+x tree/a/*; chown -R $(id -u) tree; {_LIST}"),
    "truncate-and-dd": Whole(
        "truncate -s 10 tree/a/1; dd if=tree/big of=tree/sparse bs=1k seek=512 count=2 conv=notrunc status=none;"
        " md5sum tree/sparse tree/big; du --apparent-size tree/sparse; stat -c %s tree/a/1 tree/d/hard"
    ),
    "tar": Whole(
        f"tar cf t.tar tree; mkdir x; tar xpf t.tar -C x; tar xf t.tar; tar df t.tar && rm -r tree; {_LIST}",
        masked=("t.tar",),
    ),
    "tar-pipe": Whole(
        "touch tree/a/* tree/d/hard; mv tree/a/b tree/moved; mkdir x; tar c tree | tar x -C x;"
        " tar --one-file-system -c tree | tar t | sort; stat -c '%n %h' x/tree/a/1 x/tree/d/hard;"
        " ln tree/moved/1 tree/moved/9; tar c tree/moved | tar tv | grep -c link",
    ),
    "same-file": Whole(
        "touch tree/a/1 tree/big; echo x >> tree/a/b/1; mv tree/a/2 tree/a/two; ln tree/a/3 tree/a/three;"
        " find . -inum $(stat -c %i tree/a/1) | sort; find . -samefile tree/d/hard | sort;"
        " cp tree/a/1 tree/d/hard 2>&1 || mv tree/a/1 tree/d/hard 2>&1 || ls tree/a tree/d;"
        " test tree/a/3 -ef tree/a/three && find . -xdev -name 'b*' | sort; du -sx --inodes .;"
        " cp -a tree all; find all -samefile all/a/3 | sort; diff -r tree/a all/a"
    ),
    "gzip": Whole(f"gzip -n tree/big tree/a/2; gunzip tree/big.gz; zcat tree/a/2; {_LIST}", needs=("gzip",)),
    "patch": Whole(
        "cp -r tree new; echo changed > new/a/1; echo added > new/added; rm new/a/2;"
        " diff -ruN tree/a new/a > p || true;"
        " patch -s -p1 -d tree < p; cat tree/a/1 tree/d/hard; ls tree/a",
        needs=("patch", "diff"),
        masked=("p",),
    ),
    "vim": Whole(
        "printf '%s\\n' '%s/b/B/' 'r tree/a/2' wq | vim.tiny -u NONE -es tree/a/b/1;"
        " vim.tiny -u NONE -es -c 'normal ox' -c 'wq!' tree/a/1;"
        " cat tree/a/b/1 tree/d/hard; ls -A tree/a/b",
        needs=("vim.tiny",),
    ),
    "rsync": Whole(
        "rsync -aH tree/ copy; echo x > copy/a/1; rsync -axH --delete tree/ copy;"
        f" rsync -ax --inplace copy/ tree; {_LIST}",
        needs=("rsync",),
    ),
    "perl": Whole(
        "perl -i -pe 's/b/X/' tree/a/b/[1-8]; perl -MFile::Path -e 'rmtree \"tree/a/b/c\"'; cat tree/a/b/[1-8]",
        needs=("perl",),
    ),
    "git-work": Whole(
        "cd repository; git status --short; echo x > file1;"
        " git rm -q file2; git mv dir3 moved; git status --short;"
        " git commit -q -a -m changed; git log --format=%H; git stash list; git checkout -q other;"
        " ls; git diff main --stat",
        _REPOSITORY,
        ("git",),
        _GIT,
        _GIT_CHANGES,
    ),
    "git-rebase": Whole(
        "cd repository; git checkout -q -b topic HEAD~2; echo t > topic; git add topic; git commit -q -m topic;"
        " git rebase -q main; git log --format='%H %s'; git reset -q --hard HEAD~3; git clean -fdx; git fsck; ls",
        _REPOSITORY,
        ("git",),
        _GIT,
        _GIT_CHANGES,
    ),
    "git-clone": Whole(
        "git clone -q repository second; cd second; git log --format=%H; git checkout -q -b third HEAD~1; git gc -q;"
        " git worktree add -q ../worktree other; git -C ../worktree log -1 --format=%s; git fsck",
        _REPOSITORY,
        ("git",),
        _GIT,
        _GIT_CHANGES,
    ),
    "git-clone-of-bare": Whole(
        "git clone -q repository.git second; git -C second log --format=%H; cd second; echo x > x; git add x;"
        " git commit -q -m x; git push -q; git -C ../repository.git log -1 --format=%s main;"
        " git -C ../repository.git gc -q; git -C ../repository.git fsck; git pull -q; git status --short --branch",
        _REPOSITORY + "cd ..; git clone -q --bare repository repository.git",
        ("git",),
        _GIT,
        _GIT_CHANGES,
    ),
    "make": Whole(
        "make -s && ./a.out; make; echo 'int f7(void) { return 70; }' > f7.c;"
        " make -s && ./a.out; rm *.o; make -s; make",
        _PROJECT,
        ("gcc", "make"),
    ),
    "venv-and-pip": Whole(
        "python3 -m venv env; env/bin/pip --disable-pip-version-check install -q --no-index --no-deps ./*.whl;"
        " env/bin/python -c 'import sandlockd_test_wheel as w; print(w.answer(), w.__file__)'; ls env/bin",
        _WHEEL,
        ("python3",),
        masked=("*.pyc", "*.whl"),
    ),
    "compileall": Whole(
        "cp -r /usr/lib/python3*/json .; python3 -m compileall -q json; python3 -c 'import json; print(json.__file__)';"
        " rm -r json/__pycache__",
        ":",
        ("python3",),
    ),
    "python-files": Whole(
        "python3 -c \"import shutil, os, tempfile; shutil.copytree('tree/a', 'copy');"
        " shutil.move('copy', 'tree/d/copy');"
        " shutil.rmtree('tree/a'); os.replace('tree/big', 'big'); shutil.make_archive('z', 'zip', 'tree/d/copy');"
        " tempfile.TemporaryDirectory(dir='.').cleanup(); tempfile.TemporaryFile(dir='.').write(b'x');"
        " print(sorted(os.listdir('.')))\"",
        needs=("python3",),
        masked=("z.zip",),
    ),
    "python-same-file": Whole(
        "python3 -c \"import shutil, os; f = open('tree/a/2', 'r+'); s = os.fstat(f.fileno()); f.write('x'); f.flush();"
        " print(os.path.samestat(s, os.stat('tree/a/2')), os.path.samefile('tree/a/1', 'tree/d/hard'));"
        " shutil.copyfile('tree/a/2', 'tree/a/4'); shutil.copystat('tree/a/2', 'tree/a/4');"
        " print(os.path.samefile('tree/a/2', 'tree/a/4')); open('tree/d/hard', 'a').write('y');"
        " print(os.path.samefile('tree/a/1', 'tree/d/hard'), open('tree/a/1').read());"
        " shutil.copyfile('tree/a/1', 'tree/d/hard')\" 2>&1 | grep -v '^  '",
        needs=("python3",),
    ),
    "sqlite-while-open": Whole(
        f"python3 -c '{_OPEN_DATABASE}'",
        'python3 -c \'import sqlite3; d = sqlite3.connect("db"); d.execute("create table t (x)"); d.commit()\'',
        ("python3",),
    ),
    "sqlite": Whole(
        f"python3 -c '{_DATABASE}'; ls",
        'python3 -c \'import sqlite3; d = sqlite3.connect("db"); d.execute("create table t (x)"); d.commit()\'',
        ("python3",),
    ),
    "python-manager": Whole(f"python3 -c '{_MANAGER}'", ":", ("python3",)),
    "asyncio-server": Whole(f"python3 -c '{_ASYNCIO}'", ":", ("python3",)),
    "ssh-agent": Whole(
        "eval $(ssh-agent -a agent) >/dev/null; ssh-keygen -q -t ed25519 -N '' -f key -C comment;"
        " ssh-add -q key; ssh-add -l | sed 's/SHA256:[^ ]*//'; stat -c %F:%a agent;"
        " mv agent moved; SSH_AUTH_SOCK=$PWD/moved ssh-add -D -q; ssh-add -l 2>&1 || true; mv moved agent;"
        " ssh-add -l || true; ssh-agent -k >/dev/null; ls",
        ":",
        ("ssh-agent", "ssh-keygen", "ssh-add", "stat"),
        masked=("key*",),
    ),
    "tmux": Whole(  # without a window: there are no pseudo-terminals in the sandbox
        "tmux -f /dev/null -S $PWD/socket start-server ';' set -g exit-empty off ';' set -g @option hello;"
        " tmux -S socket show -gv @option; stat -c %F:%a socket; (cd /; tmux -S $OLDPWD/socket set -g @option again);"
        " tmux -S ./socket show -gv @option; tmux -S socket kill-server || true; stat -c %F socket",
        ":",
        ("tmux", "stat"),
    ),
    "npm": Whole(
        "cd app; npm install --offline --no-audit --no-fund --silent ../package;"
        " node -e \"console.log(require('package')())\";"
        " npm uninstall --offline --no-audit --no-fund --silent package; ls -A . node_modules 2>&1",
        'mkdir app package; echo \'{"name": "app", "version": "1.0.0"}\' > app/package.json;'
        ' echo \'{"name": "package", "version": "1.0.0"}\' > package/package.json;'
        " echo 'module.exports = () => 42' > package/index.js",
        ("npm", "node"),
        {"npm_config_cache": ".npm", "npm_config_update_notifier": "false", "npm_config_logs_max": "0"},
        (".npm/*", "*/.npm/*"),
    ),
    "ar-and-flock": Whole(
        "gcc -c f*.c; ar rcsD lib.a f*.o; ar t lib.a; flock lib.a ar dD lib.a f0.o; ar t lib.a",
        _PROJECT,
        ("gcc", "flock"),
    ),
}


@pytest.fixture(scope="session")
def wholes(users: None, compiler: Compiler) -> Iterator[Runs]:
    with runs_of(compiler, {}) as made:
        yield made


class Found:
    """One user's results of one program, by the way."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench = bench
        self.name = name
        self.whole = _WHOLE[name]
        self.by_way: dict[Way, Result] = {}

    def of(self, way: Way) -> Result:
        if way not in self.by_way:
            whole = self.whole
            env = {"HOME": str(self.bench.runner.work), "PYTHONDONTWRITEBYTECODE": "", **whole.env}
            script, prepare = (["sh", "-ec", text] for text in (whole.script, whole.prepare))
            self.by_way[way] = self.bench.run_command(way, script, prepare, env)
        return self.by_way[way]

    def differences(self, way: Way) -> list[str]:
        bare, other = self.of(BARE), self.of(way)
        found = _difference(bare.lines, other.lines) + self._tree_difference(bare.seen, other.seen)
        return [*found, f"ended with {other.ended}"] if bare.ended != other.ended else found

    def _tree_difference(self, expected: Sequence[str], got: Sequence[str]) -> list[str]:
        return _difference(self._masked(expected), self._masked(got))

    def left(self, way: Way) -> list[str]:
        """How the real tree differs from what a bare run leaves."""
        return self._tree_difference(self.of(BARE).left, self.of(way).left)

    def _masked(self, lines: Sequence[str]) -> list[str]:
        masks = self.whole.masked

        def shown(line: str) -> str:
            name = line.split(": ", 1)[0].strip("'")
            return f"{name} ..." if any(fnmatch.fnmatchcase(name, mask) for mask in masks) else line

        return [shown(line) for line in lines]


def _difference(expected: Sequence[str], got: Sequence[str]) -> list[str]:
    return list(itertools.islice(difflib.unified_diff(expected, got, "bare", "here", lineterm="", n=0), 60))


_found: dict[tuple[int, str], Found] = {}


@pytest.fixture(params=_WHOLE)
def found(request: pytest.FixtureRequest, wholes: Runs, as_user: User) -> Found:
    require(*_WHOLE[request.param].needs)
    key = as_user.uid, request.param
    if key not in _found:
        _found[key] = Found(wholes.bench(as_user), request.param)
    return _found[key]


def _same(differences: list[str]) -> None:
    assert not differences, "\n" + "\n".join(differences)


@pytest.mark.one_user
def test_bare_again(found: Found, soak: bool) -> None:
    """The script is right; that nothing of it is chance shows in the long run only."""
    assert found.of(BARE).ended == 0, "\n".join(found.of(BARE).lines)
    if soak:
        _same(found.differences(BARE_AGAIN) + found.left(BARE_AGAIN))


@pytest.mark.soak  # nothing of ours is in it
@pytest.mark.one_user
def test_overlayfs(found: Found) -> None:
    why_not = OVERLAYFS.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    _same(found.differences(OVERLAYFS))
    overlayfs = found.of(OVERLAYFS)
    assert overlayfs.after == overlayfs.before


def test_sandboxed(found: Found) -> None:
    why_not = COMMITTED.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    committed = found.of(COMMITTED)
    _same(_difference(committed.before, committed.after))
    differences = found.differences(COMMITTED) + found.left(COMMITTED)
    if found.whole.differs:
        assert differences, f"no longer different, do not say so: {found.whole.differs}"
    else:
        _same(differences)


# All with --soak. That nothing reaches the real tree before a commit is seen with every program, and none of them can
# know what becomes of its changes.
_DISCARDED = ("rm-rf", "mv", "chmod-and-chown", "vim", "git-rebase", "sqlite", "python-manager")


@pytest.mark.one_user
def test_discarded(found: Found, soak: bool) -> None:
    if not soak and found.name not in _DISCARDED:
        pytest.skip("a long run, only with --soak")
    why_not = DISCARDED.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    discarded = found.of(DISCARDED)
    _same(_difference(discarded.before, discarded.after))
    if not found.whole.differs:
        _same(found.differences(DISCARDED))
