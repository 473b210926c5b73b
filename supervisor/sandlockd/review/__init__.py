"""What becomes of a run's changes, after the program has ended: kept, looked at, committed, discarded.

`kept` knows where runs keep their changes, `reviewing` opens one and carries out what was decided, `changelist` and
`diffs` show, `asking` asks a person, `disposing` is what the foreground calls at the end of a run. Nothing here judges
what a program may do, or runs while one does.
"""
