"""What the machine is to a program with limits: the same numbers wherever it asks, and none of what it cannot have.

`texts` makes them, `view` knows which of them are told and where, `calls` answers the calls that tell of the machine.
It is a view, no wall: who measures finds out, and gains nothing by it.
"""
