"""`sandlockd check`: every error of a policy, or what it comes to. Starts nothing, changes nothing."""

from __future__ import annotations

import os
import sys

from sandlockd.cli.ending import say
from sandlockd.launch.temporary import described, temporary_of
from sandlockd.policy.errors import PolicyErrors
from sandlockd.policy.show import effective, effective_toml, path_rules
from sandlockd.policy.spelling import spelled
from sandlockd.sandbox.policies import compile_file_rules, load_policy, temporary_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlockd.launch.temporary import Temporary
    from sandlockd.policy.model import Policy

_EXIT_BAD_POLICY = 125


def check(files: Sequence[str], json: bool, policy_dir: str | None = None) -> int:
    """Print what `--policy` with these files and presets would mean; `base` without any. policy_dir: as of `serve`.

    Returns: 0, or 125 with one line per error on stderr (with `json`: in the object on stdout).
    """
    try:
        policy = load_policy(files, None, None if policy_dir is None else os.fsencode(policy_dir))
        # Where the paths lead is part of what may be wrong with them.
        rules = compile_file_rules(policy, None)
        root = temporary_root(policy)
        temporary = None if root is None else temporary_of(root, rules)
    except PolicyErrors as errors:
        _print_errors(errors, json=json)
        return _EXIT_BAD_POLICY
    except OSError as error:
        say("sandlockd", f"this machine's mounts cannot be read: {error}")
        return _EXIT_BAD_POLICY
    if json:
        _print_json({**_described(policy), "temporary": _temporary(temporary)})
    else:
        sys.stdout.write(effective_toml(policy))
        print(f"\n# {described(temporary)}")
    return 0


def _print_errors(errors: PolicyErrors, *, json: bool) -> None:
    if json:
        rows = [
            {"file": error.file, "line": error.line, "key": error.key, "message": error.message}
            for error in errors.errors
        ]
        _print_json({"ok": False, "errors": rows})
        return
    for error in errors.errors:
        say("sandlockd", str(error))


def _described(policy: Policy) -> dict[str, object]:
    rules = [
        {"rule": rule.rule, "path": spelled(rule.path), "source": rule.source} for rule in path_rules(policy)
    ]
    return {
        "ok": True,
        "errors": [],
        "sources": list(policy.sources),
        "policy": effective(policy),
        "rules": rules,
    }


def _temporary(temporary: Temporary | None) -> dict[str, object]:
    if temporary is None:
        return {"kind": "directory"}
    passages = [spelled(temporary.root + b"/" + passage) for passage in temporary.passages]
    return {"kind": "tree", "path": spelled(temporary.root), "granted": passages}


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value))
