"""sandlockd's service, for programs: sandboxes that are started, followed and reviewed from Python.

    from sandlockd.client import Client

    sandbox = Client().run(["make", "-j4"], policy="build", cwd="/work/proj")
    for record in sandbox.logs(follow=True):
        print(record.data)
    assert sandbox.wait().exit_status == 0

`AsyncClient` is the same for trio. Nothing of the service itself is imported, and trio only with AsyncClient.
"""

from __future__ import annotations

from sandlockd.client.errors import ApiError, ConnectionBroke, NoService, ServiceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlockd.client.concurrent import AsyncAttachment, AsyncClient, AsyncExecution, AsyncSandbox
    from sandlockd.client.link import Exit, Lost, Output
    from sandlockd.client.sync import Attachment, Client, Execution, Sandbox

_WHERE = {
    "AsyncAttachment": "concurrent",
    "AsyncClient": "concurrent",
    "AsyncExecution": "concurrent",
    "AsyncSandbox": "concurrent",
    "Attachment": "sync",
    "Client": "sync",
    "Execution": "sync",
    "Sandbox": "sync",
    "Exit": "link",
    "Lost": "link",
    "Output": "link",
}

__all__ = [
    "ApiError",
    "AsyncAttachment",
    "AsyncClient",
    "AsyncExecution",
    "AsyncSandbox",
    "Attachment",
    "Client",
    "ConnectionBroke",
    "Execution",
    "Exit",
    "Lost",
    "NoService",
    "Output",
    "Sandbox",
    "ServiceError",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
