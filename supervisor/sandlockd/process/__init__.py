"""Who is in the sandbox: identity, membership, and the watcher that tells when a process ends."""
