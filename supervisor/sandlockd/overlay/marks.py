"""What a reviewer must see before it is let out: changes that later run, or grant, by themselves.

Pure. The list is of files that a program reads and obeys without being asked to run anything: by opening a
shell, an editor or a directory, by any git command, by starting Python. A Makefile, package.json or setup.py is
not in it: those run when somebody runs them, a reviewer expects them to change, and a mark on every other change
is a mark that nobody reads.
"""

from __future__ import annotations

from typing import Final

from sandlockd.overlay.entries import FsError, Kind
from sandlockd.overlay.identity import Facts
from sandlockd.overlay.lookup import Goal, Outside, entrance, walk
from sandlockd.overlay.view import View

SETUID: Final = "set-user-ID or set-group-ID"
LEADS_OUT: Final = "symbolic link out of the tree"

# The last component of a path, and who obeys it.
NAMES: Final[dict[bytes, str]] = {
    b".bash_aliases": "bash",
    b".bash_login": "bash",
    b".bash_logout": "bash",
    b".bash_profile": "bash",
    b".bashrc": "bash",
    b".cshrc": "csh",
    b".envrc": "direnv",
    b".exrc": "vi",
    b".gdbinit": "gdb",
    b".git": "git",  # a file of this name says where the repository is, and so whose hooks run
    b".gitconfig": "git",
    b".gitmodules": "git",
    b".inputrc": "readline",
    b".kshrc": "ksh",
    b".lldbinit": "lldb",
    b".login": "csh",
    b".logout": "csh",
    b".npmrc": "npm",
    b".nvimrc": "neovim",
    b".pam_environment": "pam",
    b".profile": "sh",
    b".tcshrc": "tcsh",
    b".vimrc": "vim",
    b".yarnrc": "yarn",
    b".yarnrc.yml": "yarn",
    b".zlogin": "zsh",
    b".zlogout": "zsh",
    b".zprofile": "zsh",
    b".zshenv": "zsh",
    b".zshrc": "zsh",
    b"conftest.py": "pytest",
    b"sitecustomize.py": "python",
    b"usercustomize.py": "python",
}

# How a name ends.
SUFFIXES: Final[dict[bytes, str]] = {b".pth": "python", b".desktop": "desktop"}

# Components that follow each other, anywhere in the path; what lies below them counts, too.
SEQUENCES: Final[dict[tuple[bytes, ...], str]] = {
    (b".git", b"hooks"): "git hook",
    (b".git", b"config"): "git",
    (b".git", b"config.worktree"): "git",
    (b".git", b"info", b"attributes"): "git",
    (b".husky",): "git hook",
    (b".githooks",): "git hook",
    (b".vscode", b"settings.json"): "vscode",
    (b".vscode", b"tasks.json"): "vscode",
    (b".vscode", b"launch.json"): "vscode",
    (b".ssh",): "ssh",
    (b".config", b"autostart"): "desktop",
    (b".config", b"fish"): "fish",
    (b".config", b"git"): "git",
    (b".config", b"systemd"): "systemd",
}


def path_marks(path: bytes, kind: Kind) -> tuple[str, ...]:
    """Who obeys what is at this path, without being asked; each name once, sorted."""
    parts = path.split(b"/")
    found = {who for names, who in SEQUENCES.items() if _contains(parts, names)}
    # Repositories of submodules and worktrees: .git/modules/NAME/hooks.
    if b".git" in parts[:-1] and (b"hooks" in parts or parts[-1] in (b"config", b"config.worktree")):
        found.add("git hook" if b"hooks" in parts else "git")
    if kind is not Kind.DIRECTORY:
        if parts[-1] in NAMES:
            found.add(NAMES[parts[-1]])
        found |= {who for suffix, who in SUFFIXES.items() if parts[-1].endswith(suffix)}
    return tuple(sorted(found))


def _contains(parts: list[bytes], names: tuple[bytes, ...]) -> bool:
    width = len(names)
    return any(tuple(parts[at : at + width]) == names for at in range(len(parts) - width + 1))


def marks(view: View, path: bytes, facts: Facts) -> tuple[str, ...]:
    """All marks of a new or changed object in the upper."""
    found = list(path_marks(path, facts.kind))
    if facts.mode & 0o6000 and facts.kind is Kind.FILE:
        found.append(SETUID)
    if facts.kind is Kind.SYMLINK and leads_out(view, path):
        found.append(LEADS_OUT)
    return tuple(found)


def leads_out(view: View, path: bytes) -> bool:
    """Whether a symbolic link of the view leads, or could lead once something is created, out of the tree."""
    link = view.at(path)
    if link is None or link.parent is None or link.kind is not Kind.SYMLINK:
        return False
    target = view.target(link)
    if _climbs_out(view, path, target):
        return True
    try:
        found = walk(link.parent, target, Goal.FOLLOW, enter=entrance([view]))
    except FsError:
        # Dangling or a loop: what its letters say is all there is.
        return False
    return isinstance(found, Outside)


def _climbs_out(view: View, path: bytes, target: bytes) -> bool:
    if target.startswith(b"/"):
        entered = entrance([view])(target)
        if entered is None:
            return True
        depth, target = 0, entered[1]
    else:
        depth = path.count(b"/")
    for part in target.split(b"/"):
        depth += {b"": 0, b".": 0, b"..": -1}.get(part, 1)
        if depth < 0:
            return True
    return False
