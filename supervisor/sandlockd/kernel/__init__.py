"""The only modules that touch the kernel: they wrap `sandlockd._native` and the raw system interfaces.

Every function raises OSError with the kernel's errno; no cdata and no unowned descriptor leaves this package.
"""
