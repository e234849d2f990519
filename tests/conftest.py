"""What every test runs under."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run: a test that fails, fails for whoever runs it next. No deadline: machines are busy.
settings.register_profile("hwsparse", derandomize=True, deadline=None, database=None)
settings.load_profile("hwsparse")
# Started in the background by a shell, everything would ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Whose tests time code: on one CPU, always the same. Of several processes one runs them all, one after the other.
TIMING = {"benchmarks", "cli", "latency", "pipeline"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if TIMING & set(item.path.relative_to(Path(__file__).parent).parts):
            item.add_marker(pytest.mark.xdist_group("timing"))
