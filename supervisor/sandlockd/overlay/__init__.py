"""The model of copy-on-write: a lower tree that is only read, and an upper directory that holds every change.

Pure: nothing here opens a file, makes a call or awaits. The handlers gather facts through the `Layer`
protocol and carry out the steps that come out; what decides is here. The upper directory is a standard
overlayfs one in the `userxattr` format, and every plan keeps it one that the kernel's overlayfs can mount.
"""
