"""A program with a child in its process group: each tells what it has heard.

The child says `ready`, and `inner` when it has heard one of the signals; then it ends. The program says `heard` for
each, and in the end `outer` if it has heard any; it ends with 5.
"""

from __future__ import annotations

import re
import sys

SIGNALS = "INT QUIT USR1"
_INNER = f"trap 'echo inner; exit' {SIGNALS}; echo ready; while :; do sleep 0.01; done"
_OUTER = f"""
import signal, subprocess, sys
heard = []
def hear(*_):
    heard.append(1)
    print("heard", flush=True)
for name in {SIGNALS!r}.split():
    signal.signal(getattr(signal, "SIG" + name), hear)
child = subprocess.Popen(["sh", "-c", {_INNER!r}])
child.wait()
print("outer" if heard else "nothing", flush=True)
sys.exit(5)
"""
COMMAND = [sys.base_prefix + "/bin/python3", "-c", _OUTER]


def told(output: bytes) -> list[bytes]:
    """Without what a terminal shows of a key, and a shell says of the signal that its sleep had."""
    return re.findall(rb"inner|outer|nothing", output)
