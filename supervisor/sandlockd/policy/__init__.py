"""What a program may do: TOML to a frozen Policy, and Policy plus request to a Verdict.

Pure: nothing in this package opens a file, reads a process or awaits. Text, environment and file facts come
    in
as arguments; whoever calls has read them.
"""
