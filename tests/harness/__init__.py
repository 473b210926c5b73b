"""What tests share: users, places, running bare and sandboxed, waiting, terminals, C programs, survivors."""

import pytest

# Its assertions are what most tests fail on: show their values.
pytest.register_assert_rewrite("harness.running")
