"""A task on its way to a worker and back, in bytes; and values that many tasks need, as files.

What is read here was written by this job's own processes: nothing else may be unpickled.
"""

from __future__ import annotations

import itertools
import pickle
import struct
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from hwsparse.errors import writing

T = TypeVar("T")
ALIGNMENT = 64  # of arrays, in bytes
_SIZE = struct.Struct("<Q")


class Shared(Generic[T]):
    """Stands for a value among a task's arguments."""


class Filed(Shared[T]):
    """A value that lies in a file, of this host or of the one that the task was sent from."""

    def __init__(self, path: str) -> None:
        self.path = path


class Shelf:
    """Values in files of a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._numbers = directory, itertools.count()

    def put(self, value: T) -> Filed[T]:
        """Writes a value.

        Raises:
            StorageError: there is no room.
        """
        path = self._directory / f"{next(self._numbers)}"
        with writing(path):
            path.write_bytes(pack(value))
        return Filed(str(path))


def pack(value: object) -> bytearray:
    """What `unpack` makes the value of."""
    arrays: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    parts: list[memoryview] = [memoryview(body), *(array.raw() for array in arrays)]
    head = b"".join(_SIZE.pack(number) for number in (len(parts), *(part.nbytes for part in parts)))
    packed = bytearray()
    for part in (memoryview(head), *parts):
        packed += bytes(-len(packed) % ALIGNMENT)
        packed += part
    return packed


def unpack(packed: memoryview) -> Any:
    """The value; its arrays are views, as writable as what they are views of."""
    (count,) = _SIZE.unpack_from(packed)
    sizes = [_SIZE.unpack_from(packed, _SIZE.size * (1 + number))[0] for number in range(count)]
    parts, end = [], _SIZE.size * (1 + count)
    for size in sizes:
        start = end + -end % ALIGNMENT
        end = start + size
        parts.append(packed[start:end])
    return pickle.loads(parts[0], buffers=parts[1:])


def attempt(payload: bytes, value_of: Callable[[str], Any]) -> bytes:
    """Does a task, and gives what came of it, for `outcome`.

    Args:
        payload: the pickled task, and its arguments.
        value_of: gives the value of a `Filed` by its path.
    """
    try:
        task, arguments = pickle.loads(payload)
        result = task(*(value_of(each.path) if isinstance(each, Filed) else each for each in arguments))
        return pickle.dumps((result, None, ""), protocol=5)
    except Exception as error:  # whatever a task raises
        trace = "".join(traceback.format_exception(error))
        try:
            told = pickle.dumps((None, error, trace), protocol=5)
            pickle.loads(told)  # some exceptions can be written, and not read
        except Exception:
            told = pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}"), trace), protocol=5)
        return told


def outcome(told: bytes) -> Any:
    """What a task gave; raises what it raised."""
    result, error, trace = pickle.loads(told)
    if error is not None:
        raise error from _RaisedThereError(trace)
    return result


class _RaisedThereError(Exception):
    """Shows, in a traceback, where in the worker an error was raised."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"
