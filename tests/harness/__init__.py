"""What tests share: users, places, running bare and sandboxed, waiting, terminals, C programs, survivors."""
