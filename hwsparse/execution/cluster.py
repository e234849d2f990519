"""Workers that are a Ray cluster's.

A process of ours speaks with Ray (`ray_driver.py`): Ray prints what it does, waits for minutes at an address where
there is nothing, and ends the process that loses its cluster. None of that is a job's to suffer.

What a cluster must have: on every host the Python, the Ray and the hwsparse of the host that runs the job.
"""

from __future__ import annotations

import importlib.util
import itertools
import pickle
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from hwsparse.errors import Cancelled, ExecutionError
from hwsparse.execution.child import Child, ChildLostError
from hwsparse.execution.task import Filed, Shared, Shelf, outcome

R = TypeVar("R")
T = TypeVar("T")

START_TIMEOUT_S = 60.0
PATIENCE_S = 20.0  # to take its leave of a cluster, or to end one


class RayWorkers:
    """Ray's workers, as many as the cluster has CPUs for us; a context manager that leaves nothing running."""

    def __init__(self, address: str, start_s: float = START_TIMEOUT_S) -> None:
        """Connects to a cluster, or starts one.

        Args:
            address: as `open_workers` takes it.
            start_s: how long that may take.

        Raises:
            ExecutionError: Ray is not installed, or the cluster cannot be reached or used.
        """
        if importlib.util.find_spec("ray") is None:
            raise ExecutionError("work on a Ray cluster takes Ray, which is not installed: pip install 'hwsparse[ray]'")
        self._address = address
        self._driver = Child("hwsparse.execution.ray_driver", address)
        try:
            self.parallel, refusal = pickle.loads(self._driver.answer(start_s))
        except ChildLostError as lost:
            refusal = str(lost)
        except BaseException:  # Ctrl-C
            self._driver.close()
            raise
        if refusal:
            self._driver.close(PATIENCE_S)
            raise ExecutionError(f"the Ray cluster {address} cannot be used: {refusal}")
        self._directory = tempfile.TemporaryDirectory(prefix="hwsparse-shared-")
        self._shelf = Shelf(Path(self._directory.name))
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()  # of what is waited for, and of the line to the driver
        self._lost, self._closed = "", False
        self._reader = threading.Thread(target=self._read, name="ray", daemon=True)
        self._reader.start()

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives up what is under way, and leaves the cluster; one that was started here ends."""
        self._closed = True
        self._driver.hang_up()
        self._reader.join(PATIENCE_S)
        self._driver.kill()
        self._reader.join()
        self._driver.close()
        self._directory.cleanup()

    def submit(self, task: Callable[..., R], *arguments: object) -> Future[R]:
        """As `Workers.submit`."""
        payload = pickle.dumps((task, arguments), protocol=5)
        shared = [each.path for each in arguments if isinstance(each, Filed)]
        future: Future[R] = Future()
        with self._lock:
            if self._lost:
                _settle(future, self._gone)
                return future
            number = next(self._numbers)
            self._waiting[number] = future
            self._driver.say(pickle.dumps((number, payload, shared), protocol=5))
        return future

    def share(self, value: T) -> Shared[T]:
        """As `Workers.share`."""
        return self._shelf.put(value)

    def _read(self) -> None:
        """Hands out results as they come, until the driver has ended."""
        while True:
            try:
                number, told, refusal = pickle.loads(self._driver.answer())
            except ChildLostError as lost:
                with self._lock:
                    self._lost = str(lost)
                    left = list(self._waiting.values())
                for future in left:
                    _settle(future, self._gone)
                return
            with self._lock:
                future = self._waiting.pop(number)
            _settle(future, partial(_result, told, refusal))

    def _gone(self) -> None:
        if self._closed:
            raise Cancelled("stopped")
        raise ExecutionError(f"the connection to the Ray cluster {self._address} was lost: {self._lost}")


def _result(told: bytes, refusal: str) -> Any:
    if refusal:
        raise ExecutionError(f"the Ray cluster could not do it: {refusal}")
    return outcome(told)


def _settle(future: Future[Any], result: Callable[[], Any]) -> None:
    """Gives a future the result of a call, or what that raises; one that was cancelled stays so."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        found = result()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(found)
