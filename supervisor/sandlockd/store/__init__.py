"""The store of copy-on-write on a real disk: two layers as directories, and who carries the model's steps out.

`layer` and `access` tell the model what is there and who may; `executor` carries out; `storage` is the run's directory.
Nothing here decides what a call comes to (`overlay` does), reads a program or awaits. Everything may be used from a
worker thread, by one thread at a time for one tree.
"""
