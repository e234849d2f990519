"""Builds layers' libraries, several at a time, in processes: that a compiler crashes or hangs is a failure.

Knows of code generation only whom to call.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hwsparse import strictjson
from hwsparse.errors import CompileError, InputError, MeasureError, UnsupportedError
from hwsparse.latency.process import LostError, RefusedError, Worker
from hwsparse.plan import Choice, Layer, parse_choice
from hwsparse.probe import ALLOWED_CPUS
from hwsparse.target import Target, format_target, parse_target

LOADER = "hwsparse.latency.builders:Builder"
ORDER, REFUSAL = "order.json", "refused.txt"
MOST_PROCESSES = 8  # each takes some 300 MB
BUILD_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Order:
    """A layer under a choice, to be built with a kernel into a directory that exists and is empty."""

    layer: Layer
    choice: Choice
    target: Target
    kernel: str
    directory: Path


@dataclass(frozen=True, slots=True)
class _Written:
    """An order as a file in its directory."""

    layer: Layer
    choice: str
    target: str
    kernel: str


class Builder:
    """What a building process calls."""

    @staticmethod
    def load(directory: Path, threads: int) -> None:
        """Builds what the directory's order says; what cannot be built is told in a file beside it."""
        from hwsparse.codegen import build_layer

        order = strictjson.loads(_Written, (directory / ORDER).read_text(), ORDER)
        target = parse_target(order.target, ORDER)
        try:
            build_layer(order.layer, parse_choice(order.choice), target, directory, order.kernel)
        except (CompileError, UnsupportedError, InputError) as error:
            (directory / REFUSAL).write_text(str(error))


class Crew:
    """Processes that build; a context manager that leaves none. They start when there is something to build."""

    def __init__(self, processes: int | None = None, loader: str = LOADER) -> None:
        """As many processes as there are CPUs for this one, unless told otherwise."""
        self.processes = processes or min(len(ALLOWED_CPUS), MOST_PROCESSES)
        self._loader = loader
        # A process ends with the thread that started it: each has one of its own for good.
        self._pool = ThreadPoolExecutor(self.processes, "build")
        self._own = threading.local()
        self._workers: list[Worker] = []
        self._closed = False

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()
        self._pool.shutdown()
        for worker in self._workers:
            worker.close()

    def kernels_for(self, layer: Layer, choice: Choice, target: Target) -> Sequence[str]:
        """Names of the kernels that serve a choice, the one expected to be fastest first."""
        from hwsparse.codegen import kernels_for

        return kernels_for(layer, choice, target)

    def build_many(self, orders: Iterable[Order], on_built: Callable[[], None]) -> Mapping[Order, str | None]:
        """Builds all orders, those of one kernel one after the other in one process, which compiles it once.

        Args:
            on_built: called after each, in no order, in this thread.

        Returns:
            Why an order could not be built; None of one that was.

        Raises:
            MeasureError: a process cannot be started, or cannot write: the disk is full.
        """
        groups: dict[tuple[str, str], list[Order]] = {}
        for order in orders:
            groups.setdefault((order.layer.signature, order.kernel), []).append(order)
        built: queue.SimpleQueue[object] = queue.SimpleQueue()
        largest_first = sorted(groups.values(), key=len, reverse=True)
        futures: list[Future[dict[Order, str | None]]] = [
            self._pool.submit(self._build, group, lambda: built.put(None)) for group in largest_first
        ]
        for future in futures:
            future.add_done_callback(built.put)
        found: dict[Order, str | None] = {}
        left = set(futures)
        try:
            while left:
                done = built.get()
                if done is None:
                    on_built()
                else:
                    assert isinstance(done, Future)
                    left.remove(done)
                    found |= done.result()
        except BaseException:  # Ctrl-C, or a full disk: nothing may be written any more when this returns
            for future in left:
                future.cancel()
            for worker in self._workers:
                worker.kill()
            wait(left)
            raise
        return found

    def _build(self, orders: Sequence[Order], on_built: Callable[[], None]) -> dict[Order, str | None]:
        reasons: dict[Order, str | None] = {}
        for order in orders:
            reasons[order] = "stopped" if self._closed else self._build_one(order)
            on_built()
        return reasons

    def _build_one(self, order: Order) -> str | None:
        written = _Written(order.layer, str(order.choice), format_target(order.target), order.kernel)
        what = f"{order.layer.signature} as {order.choice}"
        try:
            (order.directory / ORDER).write_text(strictjson.dumps(written))
            self._worker().ask(BUILD_TIMEOUT_S, do="load", slot=0, directory=str(order.directory.absolute()))
            refusal = order.directory / REFUSAL
            return refusal.read_text() if refusal.exists() else None
        except LostError as lost:
            self._own.worker = None
            return f"the process that compiles: {lost.reason}"
        except RefusedError as refused:
            raise MeasureError(f"cannot build {what}: {refused}") from None
        except OSError as error:
            raise MeasureError(f"cannot build {what} in {order.directory}: {error.strerror or error}") from None

    def _worker(self) -> Worker:
        """This thread's process."""
        worker: Worker | None = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = Worker(self._loader, threads=1, pinned=False)
            self._workers.append(worker)
            if self._closed:  # since it was started
                worker.kill()
        return worker
