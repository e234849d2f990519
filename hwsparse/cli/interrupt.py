"""Ctrl-C that cannot be lost.

An exception that is raised while the interpreter runs a callback of its own, of a weak reference say, is printed and
forgotten. Here it is remembered, and raised again at the next step of a job; printed it is not.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial
from threading import Event
from types import FrameType

_asked = Event()


def listen() -> None:
    """Remembers Ctrl-C from now on, unless the process was started to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = partial(_pass_over, sys.unraisablehook)


def check() -> None:
    """Raises KeyboardInterrupt where one was asked for since `listen`."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _pass_over(others: Callable[[sys.UnraisableHookArgs], object], ignored: sys.UnraisableHookArgs) -> None:
    if not isinstance(ignored.exc_value, KeyboardInterrupt):
        others(ignored)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt
