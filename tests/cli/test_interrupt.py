"""Ctrl-C in the middle of what the interpreter does for itself."""

from __future__ import annotations

import subprocess
import sys

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
