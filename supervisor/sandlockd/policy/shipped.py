"""The shipped presets, parsed already: reading TOML would take longer than all the rest of a policy.

Pure data, generated from presets/*.toml by tests/model/test_policy_generated.py, which also keeps them equal.
"""

from __future__ import annotations

from sandlockd.policy.inputs import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

PRESETS: Final = ("base", "build", "python", "node", "agent", "offline")


def preset_source(name: str) -> Source:
    """A shipped preset. Raises KeyError."""
    return Source(f"preset {name}", b"/", b"", table=_TABLES[name])


# fmt: off
_TABLES: Final[dict[str, dict[str, Any]]] = (
{'base': {'filesystem': {'base': True}},
 'build': {'extends': ['base'],
           'filesystem': {'read': ['?~/.gitconfig', '?~/.config/git/config', '?~/.config/git/ignore',
                                   '?~/.config/git/attributes', '?~/.cargo/bin', '?~/.cargo/config.toml',
                                   '?~/.cargo/git', '?~/.cargo/registry', '?~/.rustup', '?~/go/pkg/mod',
                                   '?~/.m2/repository', '?~/.sdkman/candidates', '?~/.ghcup/bin',
                                   '?~/.ghcup/ghc', '?~/.opam', '?/usr/local/go'],
                          'deny': ['?~/.cargo/credentials', '?~/.cargo/credentials.toml',
                                   '?~/.m2/settings.xml']}},
 'python': {'extends': ['base'],
            'filesystem': {'read': ['?~/.gitconfig', '?~/.config/git/config', '?~/.pyenv', '?~/.local/bin',
                                    '?~/.local/lib', '?~/.local/pipx', '?~/.local/share/pipx',
                                    '?~/.local/share/uv/python', '?~/.local/share/uv/tools',
                                    '?~/.cache/pip'],
                           'deny': ['?~/.pypirc', '?~/.config/pip/pip.conf', '?~/.netrc']}},
 'node': {'extends': ['base'],
          'program': {'env': {'NPM_CONFIG_USERCONFIG': '/dev/null'}},
          'filesystem': {'read': ['?~/.gitconfig', '?~/.config/git/config', '?~/.nvm', '?~/.fnm',
                                  '?~/.local/share/fnm', '?~/.volta', '?~/.asdf', '?~/.local/share/pnpm',
                                  '?~/.local/share/corepack', '?~/.cache/node/corepack'],
                         'deny': ['?~/.npmrc', '?~/.yarnrc.yml', '?~/.config/yarn']}},
 'agent': {'extends': ['build', 'python', 'node'],
           'program': {'clean_env': True,
                       'pass_env': ['PATH', 'HOME', 'USER', 'LOGNAME', 'SHELL', 'LANG', 'LANGUAGE',
                                    'LC_ALL', 'LC_CTYPE', 'TZ', 'TERM', 'COLORTERM', 'NO_COLOR', 'COLUMNS',
                                    'LINES']},
           'filesystem': {'deny': ['?~/.ssh', '?~/.gnupg', '?~/.aws', '?~/.azure', '?~/.config/gcloud',
                                   '?~/.kube', '?~/.docker', '?~/.config/containers/auth.json',
                                   '?~/.config/gh', '?~/.config/hub', '?~/.git-credentials',
                                   '?~/.config/git/credentials', '?~/.terraform.d', '?~/.vault-token',
                                   '?~/.password-store', '?~/.local/share/keyrings', '?~/.pki',
                                   '?~/.mozilla', '?~/.thunderbird', '?~/.config/google-chrome',
                                   '?~/.config/chromium', '?~/.config/BraveSoftware', '?~/.bash_history',
                                   '?~/.zsh_history', '?~/.python_history', '?~/.node_repl_history',
                                   '?~/.psql_history', '?~/.mysql_history', '?~/.pgpass', '?~/.my.cnf']}},
 'offline': {'extends': ['base'], 'network': {'allow': [], 'bind': [], 'unix': []}}}
)
