"""A machine without files: what the policy tests give the pure code in place of the real one."""

from __future__ import annotations

from collections.abc import Mapping

from sandlockd.policy.errors import PolicyErrors, Unavailable
from sandlockd.policy.files import Facts, FileRules, Seen, compile_rules
from sandlockd.policy.inputs import Context, Overrides, PathKind, Source
from sandlockd.policy.load import load
from sandlockd.policy.model import Policy
from sandlockd.policy.shipped import PRESETS, preset_source
from sandlockd.policy.verdict import FileIdentity

DIRECTORIES = frozenset(
    {b"/", b"/usr", b"/etc", b"/tmp", b"/work", b"/work/proj", b"/opt", b"/opt/data", b"/home/u", b"/home"}
)
FILES = frozenset({b"/etc/passwd", b"/etc/shadow", b"/home/u/.ssh", b"/work/proj/tool", b"/work/proj/file"})
DEVICES = frozenset({b"/dev/null", b"/dev/tty"})


def kind_of(path: bytes) -> PathKind:
    if path in DIRECTORIES:
        return PathKind.DIRECTORY
    if path in FILES:
        return PathKind.FILE
    if path in DEVICES:
        return PathKind.OTHER
    return PathKind.UNREADABLE if path.startswith(b"/locked") else PathKind.MISSING


def context(
    files: Mapping[str, str] | None = None,
    overrides: Overrides | None = None,
    *,
    home: bytes | None = b"/home/u",
    environment: Mapping[bytes, bytes] | None = None,
    resolve: Mapping[bytes, bytes] | None = None,
) -> Context:
    """A Context on the machine above. files: what `extends` finds by name."""

    def find(name: str, relative_to: bytes) -> Source:
        if name in PRESETS:
            return preset_source(name)
        if files is None or name not in files:
            raise Unavailable("there is no such file")
        return Source(name, relative_to, files[name].encode())

    return Context(
        environment={b"HOME": b"/home/u", b"DATA": b"/opt/data", b"EMPTY": b""}
        if environment is None
        else environment,
        home=home,
        cwd=b"/work/proj",
        find=find,
        kind_of=kind_of,
        syscall_names=lambda: ("read", "mount", "openat", "ptrace"),
        overrides=overrides or Overrides(),
        resolve=lambda path: (resolve or {}).get(path, path),
    )


def policy_of(text: str, overrides: Overrides | None = None, **more: str) -> Policy:
    """The policy that my.toml with this text, in /work/proj, makes. more: other files, `a_toml` being a.toml."""
    files = {name.replace("_toml", ".toml"): content for name, content in more.items()}
    return load([Source("my.toml", b"/work/proj", text.encode())], context(files, overrides))


def errors_of(text: str, overrides: Overrides | None = None, **more: str) -> list[str]:
    """What is said about a broken policy, line by line."""
    try:
        policy_of(text, overrides, **more)
    except PolicyErrors as errors:
        return str(errors).split("\n")
    raise AssertionError("the policy was accepted")


def facts(
    links: Mapping[bytes, bytes] | None = None,
    kinds: Mapping[bytes, PathKind] | None = None,
    **more: tuple[bytes, ...],
) -> Facts:
    """Facts of a machine where everything named in `links` leads elsewhere. Inodes are the place in the alphabet."""

    def look(path: bytes) -> Seen:
        canonical = (links or {}).get(path, path)
        for link, target in (links or {}).items():
            if canonical.startswith(link + b"/"):
                canonical = target + canonical[len(link) :]
        kind = (kinds or {}).get(canonical, kind_of(canonical))
        missing = kind in (PathKind.MISSING, PathKind.UNREADABLE)
        return Seen(canonical, kind, None if missing else identity_of(canonical))

    return Facts(look, lambda directory, pattern: [], home=b"/home/u", **more)


def identity_of(path: bytes) -> FileIdentity:
    """The object that the fake machine has at a canonical path."""
    return FileIdentity(1, int.from_bytes(path, "big"))


def rules_of(text: str, *, machine: Facts | None = None, overrides: Overrides | None = None) -> FileRules:
    return compile_rules(policy_of(text, overrides), machine or facts())


def test_every_preset_loads_on_a_machine_that_lacks_everything() -> None:
    for name in PRESETS:
        bare = context(home=None, environment={})
        policy = load([preset_source(name)], bare)
        assert policy.filesystem.base
        assert not policy.filesystem.read
        compile_rules(policy, facts())
