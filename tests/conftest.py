"""What every test runs under."""

from __future__ import annotations

import signal

from hypothesis import settings

# The same examples in every run: a test that fails, fails for whoever runs it next. No deadline: machines are busy.
settings.register_profile("hwsparse", derandomize=True, deadline=None, database=None)
settings.load_profile("hwsparse")
# Started in the background by a shell, everything would ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
