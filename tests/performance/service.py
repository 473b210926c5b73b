"""Measure the service: starts beside bare spawns, many sandboxes at once, what one of them and all of them cost.

    python tests/performance/service.py
    python tests/performance/service.py --only starts,memory --json today.json

docs/benchmarks.md says what each number means. The exit status is 1 only if something came out wrong.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

_CONFIG = """
[per_user]
sandboxes = 1000
connections = 2000
[starting]
warm = 8
"""
_WORK = "n=0; while [ $n -lt 20 ]; do n=$((n+1)); echo $n > f$n; cat f$n > g$n; done; ls | wc -l"
_KINDS = ("starts", "memory", "at_once", "sustained", "rss")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class Client:
    def __init__(self, path: str) -> None:
        self._connection = _Connection(path)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body)
        self._connection.request(
            method, path, content, {"content-type": "application/json"} if content else {}
        )
        response = self._connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {answer.decode()[:500]}")
        return json.loads(answer) if answer.startswith((b"{", b"[")) and answer.count(b"\n") == 0 else answer


class Service:
    def __init__(self, place: Path, process: subprocess.Popen[bytes]) -> None:
        self.place = place
        self.process = process
        self.socket = str(place / "s")

    def client(self) -> Client:
        return Client(self.socket)

    def tree(self, name: str) -> str:
        path = self.place / "trees" / name
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def request(self, command: list[str], tree: str) -> dict[str, Any]:
        return {"command": command, "workdir": tree, "cwd": tree, "on_exit": "discard"}

    @property
    def rss_kib(self) -> int:
        return _field(Path(f"/proc/{self.process.pid}/status"), "VmRSS")


def _field(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{name}:"))


@contextmanager
def _service(sandlockd: str) -> Iterator[Service]:
    place = Path(tempfile.mkdtemp(prefix="sandlockd-bench-", dir="/var/tmp"))
    (place / "config.toml").write_text(_CONFIG)
    line = [sandlockd, "serve", "--socket", place / "s", "--state-dir", place / "state"]
    with open(place / "log", "wb") as log:
        process = subprocess.Popen([*line, "--config", place / "config.toml"], stderr=log)
    try:
        while b"listens" not in (place / "log").read_bytes():
            time.sleep(0.01)
        yield Service(place, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(place)


def _ms(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered) * 1e3, 3),
        "p90": round(ordered[int(len(ordered) * 0.9)] * 1e3, 3),
        "p99": round(ordered[int(len(ordered) * 0.99)] * 1e3, 3),
    }


def _timed(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def starts(service: Service, count: int) -> dict[str, Any]:
    """From the request to the answer, which comes when the program was executed; bare: until Popen returns."""
    client, tree = service.client(), service.tree("starts")
    ways: dict[str, list[float]] = {"bare": [], "service": []}
    bubblewrap = shutil.which("bwrap")
    if bubblewrap:
        ways["bubblewrap"] = []
    steps: dict[str, list[float]] = {"recorded": [], "given": [], "executed": [], "answered": []}
    for _ in range(count):
        for command, name in (
            (["true"], "bare"),
            ([bubblewrap, "--ro-bind", "/", "/", "true"], "bubblewrap"),
        ):
            if name in ways:
                began = time.perf_counter()
                process = subprocess.Popen(command)  # type: ignore[arg-type]
                if name == "bubblewrap":
                    process.wait()
                ways[name].append(time.perf_counter() - began)
                process.wait()
        asked, began = time.time(), time.perf_counter()
        made = client.ask("POST", "/v1/sandboxes", service.request(["true"], tree))
        ways["service"].append(time.perf_counter() - began)
        answered = time.time()
        client.ask("POST", f"/v1/sandboxes/{made['id']}/wait", {})
        _note_steps(client, made["id"], asked, answered, steps)
        client.ask("DELETE", f"/v1/sandboxes/{made['id']}")
        time.sleep(0.02)  # until there is a warm one again
    found: dict[str, Any] = {name: _ms(values) for name, values in ways.items()}
    found["steps"] = {name: _ms(values) for name, values in steps.items()}
    found["budget_ms"] = round(2 * found["bare"]["median"] + 1, 3)
    return found


def _note_steps(
    client: Client, identifier: str, asked: float, answered: float, steps: dict[str, list[float]]
) -> None:
    lines = client.ask("GET", f"/v1/sandboxes/{identifier}/events").splitlines()
    times = [datetime.fromisoformat(json.loads(line)["time"]).timestamp() for line in lines[:3]]
    for name, before, after in zip(steps, (asked, *times), (*times, answered), strict=True):
        steps[name].append(max(after - before, 0.0))


def memory(service: Service, count: int) -> dict[str, Any]:
    """Private memory of the supervisor and the init of a sandbox that does nothing."""
    client, tree = service.client(), service.tree("memory")
    before = service.rss_kib
    made = [
        client.ask("POST", "/v1/sandboxes", service.request(["sleep", "1000"], tree)) for _ in range(count)
    ]
    time.sleep(1)
    each = []
    for one in made:
        each.append(sum(map(_private_kib, (one["supervisor_pid"], one["pid"]))))
    found = {"sandboxes": count, "private_kib": round(statistics.mean(each)), "most_kib": max(each)}
    found["control_plane_kib_each"] = round((service.rss_kib - before) / count)
    for one in made:
        client.ask("DELETE", f"/v1/sandboxes/{one['id']}?force=true")
    return found


def _private_kib(pid: int) -> int:
    path = Path(f"/proc/{pid}/smaps_rollup")
    return sum(_field(path, f"Private_{kind}") for kind in ("Clean", "Dirty"))


def at_once(service: Service, count: int) -> dict[str, Any]:
    """So many, each at work in a tree of its own; meanwhile others ask."""
    threads, failures, asked = [], [], list[float]()
    is_over = threading.Event()

    def one(number: int) -> None:
        client = service.client()
        try:
            made = client.ask(
                "POST", "/v1/sandboxes", service.request(["sh", "-c", _WORK], service.tree(f"t{number}"))
            )
            ended = client.ask("POST", f"/v1/sandboxes/{made['id']}/wait", {})
            output = client.ask("GET", f"/v1/sandboxes/{made['id']}/logs?raw=true&stream=stdout")
            if (ended["exit_status"], bytes(output).strip()) != (0, b"40"):
                failures.append(f"{ended['exit_status']} {ended['error']} {output!r}")
        except Exception as error:
            failures.append(repr(error))

    def look() -> None:
        client = service.client()
        while not is_over.wait(0.005):
            asked.append(_timed(lambda: client.ask("GET", "/v1/version")))

    began = time.perf_counter()
    looking = threading.Thread(target=look)
    looking.start()
    for number in range(count):
        threads.append(threading.Thread(target=one, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began
    is_over.set()
    looking.join()
    _remove_all(service)
    return {"sandboxes": count, "took_s": round(took_s, 2), "failed": failures[:5], "api_ms": _ms(asked)}


def sustained(service: Service, seconds: float) -> dict[str, Any]:
    """Starts, ends and removals by four clients."""
    count, asked, _ = _run_for(service, lambda began, done: time.perf_counter() - began < seconds)
    return {"per_s": round(count / seconds, 1), "start_ms": _ms(asked)}


def rss(service: Service, runs: int) -> dict[str, Any]:
    """Of the control plane, at eleven points of so many runs."""
    points = [service.rss_kib]
    began = time.perf_counter()
    for _ in range(10):
        _run_for(service, lambda began, done: done < runs // 10)
        points.append(service.rss_kib)
    return {"runs": runs, "rss_kib": points, "took_s": round(time.perf_counter() - began, 1)}


def _run_for(service: Service, goes_on: Callable[[float, int], bool]) -> tuple[int, list[float], float]:
    began, done, asked, lock = time.perf_counter(), 0, list[float](), threading.Lock()

    def work(number: int) -> None:
        nonlocal done
        client, tree = service.client(), service.tree(f"s{number}")
        while True:
            with lock:
                if not goes_on(began, done):
                    return
                done += 1
            start = time.perf_counter()
            made = client.ask("POST", "/v1/sandboxes", service.request(["true"], tree))
            asked.append(time.perf_counter() - start)
            client.ask("POST", f"/v1/sandboxes/{made['id']}/wait", {})
            client.ask("DELETE", f"/v1/sandboxes/{made['id']}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done, asked, time.perf_counter() - began


def _remove_all(service: Service) -> None:
    client = service.client()
    for one in client.ask("GET", "/v1/sandboxes?limit=1000")["sandboxes"]:
        client.ask("DELETE", f"/v1/sandboxes/{one['id']}?force=true")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sandlockd", default=str(Path(sys.executable).with_name("sandlockd")), metavar="FILE"
    )
    parser.add_argument("--only", default=",".join(_KINDS), help=f"some of {', '.join(_KINDS)}")
    parser.add_argument("--starts", type=int, default=60, metavar="N")
    parser.add_argument("--at-once", type=int, default=200, metavar="N")
    parser.add_argument("--seconds", type=float, default=20, metavar="S", help="of sustained starts")
    parser.add_argument(
        "--runs", type=int, default=5000, metavar="N", help="over which the memory is looked at"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found: dict[str, Any] = {"load": os.getloadavg()[0]}
    with _service(options.sandlockd) as service:
        for name, measure in (
            ("starts", lambda: starts(service, options.starts)),
            ("memory", lambda: memory(service, 50)),
            ("at_once", lambda: at_once(service, options.at_once)),
            ("sustained", lambda: sustained(service, options.seconds)),
            ("rss", lambda: rss(service, options.runs)),
        ):
            if name in options.only.split(","):
                found[name] = measure()
                print(name, json.dumps(found[name], indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found.get("at_once", {}).get("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
