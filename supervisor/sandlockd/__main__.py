"""``python -m sandlockd``."""

from __future__ import annotations

from sandlockd.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
