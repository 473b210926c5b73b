"""sandlockd: run commands you do not trust, walled by the kernel and supervised by notification."""

__version__ = "0.1.0"
