"""Ctrl-C that a library swallowed still stops the command."""

from __future__ import annotations

import contextlib
import io
import signal

import pytest
from rich.console import Console

from hwsparse.cli import interrupt
from hwsparse.cli.progress import StageProgress


def test_an_interrupt_that_was_swallowed_is_raised_at_the_next_step() -> None:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt.listen()
        interrupt.check()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with StageProgress(Console(file=io.StringIO())) as progress, pytest.raises(KeyboardInterrupt):
            progress("search", 1, 2, ())
    finally:
        interrupt._asked.clear()
        signal.signal(signal.SIGINT, before)
