"""Ctrl-C in the middle of what the interpreter does for itself, or of what a library swallows, stops the command."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from hwsparse.cli import interrupt
from hwsparse.cli.progress import StageProgress

PROGRAM = """
import signal, sys, weakref
from hwsparse.cli import interrupt

class Gone: ...

def raises(error):
    def callback(reference):
        if error is None:
            signal.raise_signal(signal.SIGINT)
        raise error
    gone = Gone()
    reference = weakref.ref(gone, callback)
    del gone

interrupt.listen()
raises(None)
raises(ValueError("told"))
try:
    interrupt.check()
except KeyboardInterrupt:
    print("raised again")
"""


def test_an_interrupt_that_is_ignored_there_is_not_printed_and_raised_again() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.stdout == "raised again\n"
    # What else is ignored is told as ever.
    assert "told" in done.stderr and "KeyboardInterrupt" not in done.stderr


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
