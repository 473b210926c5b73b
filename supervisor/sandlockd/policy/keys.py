"""The one table of every key of a policy file. Validation, merging, the JSON Schema and docs/policy.md come
from it.

Pure data. A key that a later version will enforce stands in NOT_YET: it is parsed and validated, then
refused.
"""

from __future__ import annotations

from sandlockd.policy import model, values
from sandlockd.policy.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Literal

# Refused with "not supported yet: KEY". The version that enforces a key deletes its line here, and nothing
# else. Of a list, only a list with something in it is refused.
NOT_YET: Final = frozenset(
    {
        "network.allow",
        "network.deny",
        "network.bind",
        "network.unix",
    }
)


class Key(Value):
    """One key.

    shape: `one` value; `many` values in an array; a `table` of names and values.
    kind: reads one value, or one element.
    merge: what a later policy does to an earlier one's: `override`, `add` to the end, `update` name by name.
    is_path: elements become PathRules, with rule and source.
    example: a value, as TOML; the docs show it and a test loads it.
    """

    name: str
    shape: Literal["one", "many", "table"]
    kind: values.Kind
    merge: Literal["override", "add", "update"]
    default: Any
    doc: str
    example: str
    is_path: bool = False
    instead: str = ""  # said of a default None that is more than nothing


def _one(name: str, kind: values.Kind, default: Any, example: str, doc: str) -> Key:
    return Key(name, "one", kind, "override", default, doc, example)


def _many(name: str, kind: values.Kind, example: str, doc: str) -> Key:
    return Key(name, "many", kind, "add", (), doc, example)


def _paths(name: str, kind: values.Kind, example: str, doc: str) -> Key:
    return Key(name, "many", kind, "add", (), doc, example, True)


_disposal = values.one_of("commit", "discard", "keep", "ask")

KEYS: Final = (
    _many("extends", values.text, '["build"]', "Policies that this one adds to: presets by name, or files."),
    _one(
        "program.exec",
        values.command,
        None,
        '"make"',
        "The program, used when no command is given: a name for PATH to find, or a path.",
    ),
    Key(
        "program.args",
        "many",
        values.text,
        "override",
        (),
        "Its arguments. A later policy's replace them: they are one value, a command line.",
        '["-j4"]',
    ),
    _one("program.cwd", values.directory, None, '"/tmp"', "The directory that the program starts in."),
    Key("program.env", "table", values.text, "update", (), "Variables to set, literally.", '{ CC = "gcc" }'),
    _one(
        "program.clean_env",
        values.boolean,
        False,
        "true",
        "Start from nothing but `env` and the variables that `pass_env` names.",
    ),
    _many("program.pass_env", values.variable_name, '["PATH", "HOME"]', "What `clean_env` lets through."),
    _one("program.umask", values.umask, None, '"022"', "The file mode creation mask, in octal."),
    _one(
        "filesystem.base",
        values.boolean,
        False,
        "true",
        "The machine's ordinary read-only tree, the harmless devices and a private temporary directory.",
    ),
    _paths(
        "filesystem.read",
        values.granted_path,
        '["/usr/share", "?~/.gitconfig"]',
        "Files, and directories with all beneath, to read, list and (unless `execute` is given) execute.",
    ),
    _paths(
        "filesystem.execute",
        values.granted_path,
        '["/usr/bin"]',
        "To read and execute. Once given, `read` and `write` no longer include executing.",
    ),
    _paths(
        "filesystem.write",
        values.granted_path,
        '["/tmp"]',
        "To read and change, with all beneath. The real files are changed.",
    ),
    _paths(
        "filesystem.deny",
        values.denied_path,
        '["?~/.ssh", "/etc/shadow", "/etc/*.key"]',
        "Beats every grant, however the file is reached. It need not exist yet. `*` in the last name is a pattern.",
    ),
    _one(
        "filesystem.workdir", values.directory, None, '"/tmp"', "Copy-on-write: changed freely, kept apart."
    ),
    _one(
        "filesystem.on_exit", _disposal, "keep", '"keep"', "What becomes of the changes after exit status 0."
    ),
    _one("filesystem.on_error", _disposal, "discard", '"discard"', "What becomes of them otherwise."),
    _one("filesystem.storage", values.directory_to_be, None, '"/tmp/kept"', "Where kept changes are stored."),
    Key(
        "proc.pids",
        "one",
        values.one_of("own", "all"),
        "override",
        None,  # model.hides_processes
        "Which processes there are for the program: the sandbox's own, or all of the machine's.",
        '"own"',
        instead='`"own"` with a workdir, else `"all"`',
    ),
    _paths(
        "proc.hide", values.any_path, '["/proc/cmdline"]', "More files of /proc that do not exist for it."
    ),
    _one("limits.memory", values.size, None, '"512M"', "All memory of all processes together."),
    _one(
        "limits.processes",
        values.integer(1, 1 << 22, "processes"),
        None,
        "64",
        "Processes alive at once, the program among them, and those that ended and were not waited for. Threads: all"
        " together 16 times as many.",
    ),
    _one(
        "limits.open_files",
        values.integer(4, 1 << 30, "open files"),
        None,
        "1024",
        "Descriptors of each process (RLIMIT_NOFILE); at most as many as sandlockd itself was given.",
    ),
    _one(
        "limits.cpu",
        values.percent,
        None,
        '"150%"',
        "Share of the processors, of all processes together; 100% is one of them. Who wants more waits.",
    ),
    _one(
        "limits.cpu_time",
        values.duration,
        None,
        '"60s"',
        "Processor time of all processes together, of those that have ended too; then everything is ended.",
    ),
    _one(
        "limits.timeout",
        values.duration,
        None,
        '"5m"',
        "Time from the start, stopped, paused or not; then all are asked to end (SIGTERM), and after 5 s killed.",
    ),
    _one(
        "limits.disk",
        values.size,
        None,
        '"2G"',
        "What the run's copy-on-write trees may hold, its own /tmp included, as the file system counts it.",
    ),
    _one(
        "limits.output",
        values.size,
        None,
        '"50M"',
        "What is passed on of standard output and error together, where they are no devices; the rest is dropped.",
    ),
    _many("network.allow", values.network_target, '["example.org:443"]', "Where connections may go."),
    _many(
        "network.deny",
        values.network_target,
        '["169.254.169.254"]',
        "Where they may not, whatever is allowed.",
    ),
    _many("network.bind", values.network_address, '["127.0.0.1:8000-8010"]', "Where the program may listen."),
    _paths(
        "network.unix", values.any_path, '["/run/postgresql/.s.PGSQL.5432"]', "Unix sockets to connect to."
    ),
    _many("syscalls.deny", values.syscall, '["mount"]', "System calls to refuse as well, by name."),
    _many("syscalls.allow", values.give_back, '["ptrace"]', "Groups of refused calls to give back."),
    _one(
        "audit.level",
        values.one_of("off", "denials", "all"),
        "denials",
        '"all"',
        "What is recorded: nothing, what was refused, or every trapped call.",
    ),
    _many(
        "degrade.allow",
        values.feature,
        '["landlock.scope_signal"]',
        "Kernel features that the run may do without. One that is missing and not named here ends the start.",
    ),
)

BY_NAME: Final = {key.name: key for key in KEYS}

# The type of each section, in the order of Policy's fields.
SECTIONS: Final = {
    "program": model.Program,
    "filesystem": model.Filesystem,
    "proc": model.Proc,
    "limits": model.Limits,
    "network": model.Network,
    "syscalls": model.Syscalls,
    "audit": model.Audit,
    "degrade": model.Degrade,
}

# Options that mean the same as a key: attribute of Overrides, option, key.
OPTIONS: Final = (
    ("read", "--read", "filesystem.read"),
    ("write", "--write", "filesystem.write"),
    ("deny", "--deny", "filesystem.deny"),
    ("env", "--env", "program.env"),
    ("clean_env", "--clean-env", "program.clean_env"),
    ("cwd", "--cwd", "program.cwd"),
    ("workdir", "--workdir", "filesystem.workdir"),
    ("on_exit", "--on-exit", "filesystem.on_exit"),
    ("dry_run", "--dry-run", "filesystem.on_exit"),
    ("allow_net", "--allow-net", "network.allow"),
    ("disk", "--disk", "limits.disk"),
    ("memory", "--memory", "limits.memory"),
    ("processes", "--processes", "limits.processes"),
    ("timeout", "--timeout", "limits.timeout"),
)
