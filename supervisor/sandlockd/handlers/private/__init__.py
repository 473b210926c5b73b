"""`proc.pids = "own"`: a process outside of the sandbox does not exist for the program, by every call that could tell.

`members` knows who belongs to it; `walk` by which way a path goes; `paths`, `listing` and `processes` answer the calls.
A number that is free and one of somebody outside get the same answer, on the same lines of code wherever that can be.
"""
