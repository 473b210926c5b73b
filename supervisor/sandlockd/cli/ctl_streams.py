"""sandlockctl logs, events: what was written, and what happened, as it comes."""

from __future__ import annotations

import base64
import os
import sys
from typing import Any

from sandlockd.cli.ctl_service import (
    DONE,
    client_of,
    command_line,
    program_of,
    put,
    put_json,
    say,
    until_interrupted,
)
from sandlockd.control.objects import Dropped, EventObject, LogRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def logs(options: argparse.Namespace) -> int:
    program = program_of(client_of(options).get(options.id), options)
    with until_interrupted():
        for record in program.logs(follow=options.follow, stream=options.stream, tail=options.tail):
            if options.json:
                put_json(record)
                sys.stdout.flush()
            elif isinstance(record, Dropped):
                say(f"{record.dropped} bytes before this are gone: the log is kept up to a size")
            else:
                _write(record)
    return DONE


def _write(record: LogRecord) -> None:
    """As it was written: bytes."""
    if record.data is not None:
        data = record.data.encode()
    else:
        data = base64.b64decode(record.data_base64 or "")
    fd = 2 if record.stream == "stderr" else 1
    while data:
        data = data[os.write(fd, data) :]


def events(options: argparse.Namespace) -> int:
    client = client_of(options)
    source = client if options.id is None else client.get(options.id)
    with until_interrupted():
        for event in source.events(follow=options.follow):
            if options.json:
                put_json(event)
            elif isinstance(event, Dropped):
                say(f"{event.dropped} events before this are gone")
            else:
                put(_line(event))
            if options.follow:
                sys.stdout.flush()
    return DONE


def _line(event: EventObject) -> str:
    data: dict[str, Any] = {name: value for name, value in event.data.items() if value is not None}
    told = "  ".join(f"{name}={command_line([str(value)])}" for name, value in data.items())
    return f"{event.time[:19]}  {event.sandbox}  {event.event:<9}  {told}".rstrip()
