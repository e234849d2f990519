"""One at a time: whoever times something on this machine waits for others of ours who do.

Two that are pinned to the same CPU would each measure the other.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hwsparse.probe import cache_directory

_log = logging.getLogger(__name__)


def timing_lock() -> Path | None:
    """The lock of this machine, for this user; None: there is no place for it."""
    directory = cache_directory()
    return None if directory is None else directory / "timing.lock"


@contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Holds a lock file that all who time on a machine know; where that cannot be, nobody waits for anybody."""
    held = None if lock is None else _held(lock)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def _held(lock: Path) -> int | None:
    """The file, locked; None: it cannot be made, or files are not locked where it lies."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say_that_others_time(lock)
            fcntl.flock(opened, fcntl.LOCK_EX)
    except OSError:
        os.close(opened)
        return None
    except BaseException:  # Ctrl-C while it waits
        os.close(opened)
        raise
    return opened


@cache
def _say_that_others_time(lock: Path) -> None:
    """Once: two who take turns wait for each other again and again."""
    _log.warning(
        "another process of hwsparse is timing on this machine (%s); the two take turns, and need longer", lock
    )
