"""What every test runs under."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run: a test that fails, fails for whoever runs it next. No deadline: machines are busy.
settings.register_profile("hwsparse", derandomize=True, deadline=None, database=None)
settings.load_profile("hwsparse")
