"""``python -m sandlockd``."""

from __future__ import annotations

from sandlockd.cli.main import command

if __name__ == "__main__":
    command()
