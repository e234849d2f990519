"""Tasks, which workers find by their names."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hwsparse.errors import DataError


class UnreadableError(Exception):
    """Can be pickled, and not unpickled."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def double(number: int) -> int:
    return 2 * number


def total(shared: Mapping[str, np.ndarray], more: float) -> float:
    return float(shared["x"].sum()) + more


def identity(shared: object) -> tuple[int, int]:
    return os.getpid(), id(shared)


def changed(shared: Mapping[str, np.ndarray]) -> None:
    shared["x"][0] = 1


def refuse(text: str) -> None:
    raise DataError(text)


def stumble() -> None:
    raise KeyError("a bug")


def fail_oddly() -> None:
    raise UnreadableError(1, 2)


def give_a_function() -> object:
    return lambda: None


def threads() -> str:
    return os.environ["OMP_NUM_THREADS"]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def linger(directory: Path, tries: int = 1) -> int:
    """At its first tries it tells its process and stays; afterwards it ends, and says which try that was."""
    made = len(list(directory.iterdir()))
    scratch = directory.with_name(f".{directory.name}")
    scratch.write_text(str(os.getpid()))
    scratch.rename(directory / str(made))
    if made < tries:
        time.sleep(1000)
    return made + 1
