"""What `sandlockctl run` asks for: the options of the foreground, as a request that means the same in the service.

So what is relative here is told in full, and what a program would inherit here is sent: the environment, the directory,
the umask.
"""

from __future__ import annotations

import os
from typing import Any

from sandlockd.cli.ctl_service import say
from sandlockd.policy.spelling import is_policy_name, toml_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

_SERVICE_UMASK = 0o022  # what supervisors have


class BadRequest(Exception):
    """One line."""


def request_of(options: argparse.Namespace) -> dict[str, Any]:
    """All but the command. Raises BadRequest."""
    here = _here()
    cwd = here if options.cwd is None else os.path.join(here, options.cwd)
    return {
        "policies": _policies(options, here, cwd),
        "environment": _environment(),
        "cwd": cwd,
        "env": dict(variables(options.env)),
        "clean_env": options.clean_env,
        "name": options.name,
        "labels": dict(_labels(options.label)),
        "stdin": options.interactive,
        "timeout": options.timeout,
        "on_exit": "keep" if options.on_exit == "ask" else options.on_exit,
        "dry_run": options.dry_run,
        "workdir": None if options.workdir is None else os.path.join(here, options.workdir),
        "read": [os.path.join(here, path) for path in options.read],
        "write": [os.path.join(here, path) for path in options.write],
        "deny": [os.path.join(here, path) for path in options.deny],
        "allow_net": options.allow_net,
        "memory": options.memory,
        "processes": options.processes,
        "disk": options.disk,
        "quiet": options.quiet,
    }


def _here() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise BadRequest(f"the directory you are in: {error.strerror}") from None


# ---- policies


def _policies(options: argparse.Namespace, here: str, cwd: str) -> list[str | dict[str, str]]:
    """Later ones beat earlier ones: so what is inherited comes first, and what an option says last."""
    found: list[str | dict[str, str]] = [_policy(name, here) for name in options.policy] or ["base"]
    if options.umask != _SERVICE_UMASK:
        found.insert(0, {"text": f'[program]\numask = "{options.umask:03o}"\n', "name": "umask"})
    if options.cwd is not None:
        found.append({"text": f"[program]\ncwd = {toml_string(cwd)}\n", "name": "--cwd"})
    return found


def _policy(name: str, here: str) -> str | dict[str, str]:
    """A name goes as a name: the service has presets, and policies of its own. A file is read here.

    A file that happens to be called so does not take its place: we may be in a directory that is not to be trusted.
    """
    if is_policy_name(name):
        return name
    from sandlockd.policy.errors import Unavailable
    from sandlockd.policy.inputs import MAX_POLICY_BYTES
    from sandlockd.sandbox.policies import find_policy

    try:
        source = find_policy(name, os.fsencode(here))
        text, directory = source.content.decode(), source.directory.decode()
    except Unavailable as error:
        raise BadRequest(f"{name}: {error}") from None
    except UnicodeDecodeError:
        raise BadRequest(f"{name}: the policy, or the name of its directory, is not UTF-8") from None
    if source.size_bytes is not None:
        raise BadRequest(f"{name}: has more than {MAX_POLICY_BYTES} bytes, which no policy needs")
    return {"text": text, "name": name, "directory": directory}


# ---- environment and labels


def _environment() -> dict[str, str]:
    """Variables that are no text cannot be sent: they are named, and left out."""
    from sandlockd.cli.main import forget_coerced_locale

    forget_coerced_locale()
    found = dict(os.environ)
    odd = [name for name, value in found.items() if not (_is_text(name) and _is_text(value))]
    for name in odd:
        say(f"the variable {ascii(name)[1:-1]} is not UTF-8: it is left out")
        del found[name]
    return found


def _is_text(word: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in word)


def variables(given: Iterable[str]) -> Iterable[tuple[str, str]]:
    for word in given:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise BadRequest(f"--env {word}: must be NAME=VALUE")
        yield name, value


def _labels(given: Iterable[str]) -> Iterable[tuple[str, str]]:
    for word in given:
        name, _, value = word.partition("=")
        if not name:
            raise BadRequest(f"--label {word}: must be KEY or KEY=VALUE")
        yield name, value
