"""The life of one sandbox: prepared, started, served, ended."""
