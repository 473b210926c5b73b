"""The control plane's side of supervisors, driven by hand, as a script.

Orders are JSON Lines on standard input, and what comes of them JSON Lines on standard output:

    {"do": "start", "key", "start": {fields of messages.Start}, "streams": [paths, "" for none]}
    {"do": "order", "key", "order": "Stop", "fields": {...}}
    {"do": "raw", "key", "hex"}       # bytes that are no message of ours
    {"do": "beside", "key", "hex", "descriptors": number}    # a message, and so many descriptors beside it
    {"do": "kill", "key"}             # its supervisor, with -9

Each supervisor's reports come with its key: {"key", "report": "Began", ...fields}, in the end {"key", "lost": why} if
it had no last word. {"reaped": pid} is told by the zygote.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import msgspec
import trio

from sandlockd.control import channel, messages
from sandlockd.control.supervisors import Supervisor, SupervisorLost, Zygote

_by_key: dict[str, Supervisor] = {}


def _tell(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _start(fields: dict[str, Any]) -> messages.Start:
    fields["command"] = [word.encode() for word in fields["command"]]
    fields["cwd"] = fields["cwd"].encode()
    fields["environment"] = {name.encode(): value.encode() for name, value in fields["environment"].items()}
    settings = fields.setdefault("settings", {})
    for name in ("read", "write", "deny", "env"):
        settings[name] = [word.encode() for word in settings.get(name, ())]
    if "workdir" in settings:
        settings["workdir"] = settings["workdir"].encode()
    return msgspec.convert(fields, messages.Start)


async def _follow(key: str, order: dict[str, Any], zygote: Zygote) -> None:
    supervisor = await zygote.supervisor()
    _by_key[key] = supervisor
    _tell(key=key, supervisor=supervisor.pid)
    paths = [path or "/dev/null" for path in order["streams"]]
    flags = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)
    streams = [os.open(path, flag | os.O_CLOEXEC) for path, flag in zip(paths, flags, strict=True)]
    try:
        supervisor.order(_start(order["start"]), streams)
    finally:
        for fd in streams:
            os.close(fd)
    try:
        async for report in supervisor.reports():
            _tell(key=key, report=type(report).__name__, **msgspec.to_builtins(report))
    except SupervisorLost as error:
        _tell(key=key, lost=str(error))
    await supervisor.gone()
    supervisor.close()
    _tell(key=key, gone=True)


def _obey(order: dict[str, Any], zygote: Zygote, nursery: trio.Nursery) -> None:
    key = order["key"]
    match order["do"]:
        case "start":
            nursery.start_soon(_follow, key, order, zygote)
        case "order":
            try:
                _by_key[key].order(getattr(messages, order["order"])(**order["fields"]))
            except Exception as error:
                _tell(key=key, not_ordered=f"{type(error).__name__}: {error}")
        case "raw":
            _by_key[key]._channel._send(bytes.fromhex(order["hex"]), ())
        case "beside":
            packet = channel._HERE + bytes.fromhex(order["hex"])
            _by_key[key]._channel._send(packet, [2] * order["descriptors"])
        case "kill":
            _by_key[key].end()


async def _drive(zygote: Zygote) -> None:
    zygote.on_reaped = lambda pid, status: _tell(reaped=pid, status=status)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zygote.run)
        pending = b""
        while True:
            await trio.lowlevel.wait_readable(0)
            read = os.read(0, 1 << 16)
            if not read:
                break
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                _obey(json.loads(line), zygote, nursery)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    made = Zygote()
    _tell(zygote=made.pid)
    trio.run(_drive, made)
    made.close()
    sys.exit(0)
