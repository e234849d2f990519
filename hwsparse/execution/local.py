"""Workers that are processes of this machine: one for each CPU, each with one thread.

Threads would do where tasks stay within numpy and onnxruntime; what they do in between, such as making sessions and
scoring, is Python's, and two threads evaluate plans no faster than one.
"""

from __future__ import annotations

import mmap
import pickle
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from hwsparse.errors import Cancelled, ExecutionError
from hwsparse.execution.child import Child, ChildLostError, end_with_parent, line_to_parent
from hwsparse.execution.task import Shared, Shelf, attempt, outcome, unpack
from hwsparse.probe import ALLOWED_CPUS

R = TypeVar("R")
T = TypeVar("T")

MOST_PROCESSES = 16  # each takes some 200 MB, and of what is shared what it computes from that
TRIES = 2


class LocalWorkers:
    """Processes that work; a context manager that leaves none. They start when there is something to do."""

    def __init__(self, processes: int | None = None) -> None:
        """As many processes as there are CPUs for this one, unless told otherwise."""
        self.parallel = processes or min(len(ALLOWED_CPUS), MOST_PROCESSES)
        # A process ends with the thread that started it: each has one of its own for good.
        self._pool = ThreadPoolExecutor(self.parallel, "work")
        self._own = threading.local()
        self._children: list[Child] = []
        self._closed = False
        self._directory = tempfile.TemporaryDirectory(prefix="hwsparse-shared-")
        self._shelf = Shelf(Path(self._directory.name))

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.kill()
        self._pool.shutdown()
        for child in self._children:
            child.close()
        self._directory.cleanup()

    def submit(self, task: Callable[..., R], *arguments: object) -> Future[R]:
        """As `Workers.submit`."""
        return self._pool.submit(self._do, task, arguments)

    def share(self, value: T) -> Shared[T]:
        """As `Workers.share`."""
        return self._shelf.put(value)

    def _do(self, task: Callable[..., R], arguments: tuple[object, ...]) -> R:
        payload = pickle.dumps((task, arguments), protocol=5)
        reason = ""
        for _ in range(TRIES):
            child = self._child()
            try:
                return cast(R, outcome(child.ask(payload)))
            except ChildLostError as lost:
                self._own.child, reason = None, str(lost)
            if self._closed:
                raise Cancelled("stopped")
        raise ExecutionError(f"the process that worked was lost {TRIES} times: {reason}")

    def _child(self) -> Child:
        """This thread's process."""
        child: Child | None = getattr(self._own, "child", None)
        if child is None:
            child = self._own.child = Child("hwsparse.execution.local")
            self._children.append(child)
            if self._closed:  # since it was started
                child.kill()
        return child


def main() -> None:
    """Does tasks until the parent closes the line."""
    line = line_to_parent(sys.argv)
    end_with_parent(int(sys.argv[2]))
    while True:
        try:
            payload = line.recv_bytes()
        except (EOFError, OSError):
            return
        line.send_bytes(attempt(payload, _value_of))


@cache
def _value_of(path: str) -> Any:
    """What is shared lies in memory once, whoever looks at it."""
    with open(path, "rb") as file:
        return unpack(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


if __name__ == "__main__":
    main()
