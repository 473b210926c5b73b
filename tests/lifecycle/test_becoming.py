"""Who becomes another user has nothing of root's any more: what a process keeps although its ids change."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness.users import User

_ROOT = pytest.mark.parametrize("as_user", ["root"], indirect=True)
_KEYS = """
import ctypes, errno, os, sys
from sandlockd.kernel import users
call = ctypes.CDLL(None, use_errno=True).syscall
call.restype = ctypes.c_long
ADD_KEY, KEYCTL, JOIN, READ, SESSION = 248, 250, 1, 11, -3
if call(KEYCTL, JOIN, None) < 0:
    sys.exit(errno.errorcode[ctypes.get_errno()])
key = call(ADD_KEY, b"user", b"a secret of root's", b"secret", 6, SESSION)
assert key > 0

def read():
    text = ctypes.create_string_buffer(16)
    size = call(KEYCTL, READ, key, text, 16)
    return text.raw[:size].decode() if size >= 0 else errno.errorcode[ctypes.get_errno()]

before = read()
if os.fork() == 0:
    users.become(int(sys.argv[1]))
    os.write(1, read().encode())
    os._exit(0)
os.wait()
assert before == read() == "secret"
"""


@_ROOT
def test_the_keys_of_who_started_the_service_are_not_its_users(as_user: User, _ordinary_user: User) -> None:
    """A session keyring is possessed by whoever inherits it, whatever its ids (session-keyring(7))."""
    line = [sys.executable, "-c", _KEYS, str(_ordinary_user.uid)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode and done.stderr.strip() in ("ENOSYS", "EPERM"):
        pytest.skip("keyctl cannot be called here")
    assert done.returncode == 0, done.stderr
    assert done.stdout in ("EACCES", "ENOKEY"), done.stdout


@_ROOT
def test_nothing_of_roots_groups_and_capabilities_is_left(as_user: User, _ordinary_user: User) -> None:
    script = (
        "import os, sys; from sandlockd.kernel import users; os.setgroups([0, 4, 27]); users.become(int(sys.argv[1]));"
        "print(os.getresuid(), os.getresgid(), set(os.getgroups()) & {0, 4, 27});"
        "kinds = 'CapPrm', 'CapEff', 'CapInh', 'CapAmb';"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith(kinds)])"
    )
    line = [sys.executable, "-c", script, str(_ordinary_user.uid)]
    ids, capabilities = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    uid, gid = _ordinary_user.uid, _ordinary_user.gid
    assert ids == f"{(uid,) * 3} {(gid,) * 3} set()"
    assert capabilities == str(["0" * 16] * 4)
