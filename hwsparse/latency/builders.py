"""Builds layers' libraries, several at a time, wherever workers are: that a compiler crashes or hangs is a failure.

Knows of code generation only whom to call.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hwsparse import strictjson
from hwsparse.errors import CompileError, InputError, MeasureError, UnsupportedError
from hwsparse.execution import Workers, as_done
from hwsparse.latency.process import LostError, RefusedError, Worker
from hwsparse.plan import Choice, Layer, parse_choice
from hwsparse.target import Target, format_target, parse_target

LOADER = "hwsparse.latency.builders:Builder"
ORDER, REFUSAL = "order.json", "refused.txt"
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
    """An order on its way to whoever builds it: a file, in a directory there."""

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
    """Has workers build, each in a process of its own, whose crash or hang is a failure, and not the worker's."""

    def __init__(self, workers: Workers, loader: str = LOADER) -> None:
        self._workers, self._loader = workers, loader

    def kernels_for(self, layer: Layer, choice: Choice, target: Target) -> Sequence[str]:
        """Names of the kernels that serve a choice, the one expected to be fastest first."""
        from hwsparse.codegen import kernels_for

        return kernels_for(layer, choice, target)

    def build_many(self, orders: Iterable[Order], on_built: Callable[[], None]) -> Mapping[Order, str | None]:
        """Builds all orders, those of one kernel one after the other in one process, which compiles it once.

        What is built, on whatever host, comes back to this one, which times it. Nothing more is written when this
        returns or is stopped.

        Args:
            on_built: called after each, in no order, in this thread.

        Returns:
            Why an order could not be built; None of one that was.

        Raises:
            MeasureError: a process cannot be started, or cannot write: the disk is full.
            ExecutionError: workers were lost.
        """
        asked = list(orders)
        groups: dict[tuple[str, str], list[tuple[int, _Written]]] = {}
        for number, order in enumerate(asked):
            written = _Written(order.layer, str(order.choice), format_target(order.target), order.kernel)
            groups.setdefault((order.layer.signature, order.kernel), []).append((number, written))
        largest_first = sorted(groups.values(), key=len, reverse=True)
        calls = [(self._loader, group, BUILD_TIMEOUT_S) for group in largest_first]
        found: dict[Order, str | None] = {}
        for group in as_done(self._workers, _build, calls):
            for number, reason, files in group:
                order = asked[number]
                with _told(order.layer, str(order.choice), order.directory):
                    for name, content in files.items():
                        (order.directory / name).write_bytes(content)
                found[order] = reason
                on_built()
        return found


# Of each worker, by what they load: they know the kernels that they compiled.
_processes: dict[str, Worker] = {}


def _build(
    loader: str, orders: Sequence[tuple[int, _Written]], timeout_s: float
) -> list[tuple[int, str | None, dict[str, bytes]]]:
    """The task: of each order why it could not be built, and the files that were."""
    found = []
    for number, written in orders:
        with (
            _told(written.layer, written.choice, Path(tempfile.gettempdir())),
            tempfile.TemporaryDirectory(prefix="hwsparse-build-") as scratch,
        ):
            directory = Path(scratch)
            reason = _build_one(loader, written, directory, timeout_s)
            files = {} if reason else {path.name: path.read_bytes() for path in directory.iterdir()}
        found.append((number, reason, files))
    return found


def _build_one(loader: str, written: _Written, directory: Path, timeout_s: float) -> str | None:
    (directory / ORDER).write_text(strictjson.dumps(written))
    try:
        try:
            _process(loader).ask(timeout_s, do="load", slot=0, directory=str(directory))
        except LostError as lost:
            del _processes[loader]
            if not lost.killed:
                raise
            # For lack of memory, or while it waited: another may do.
            _process(loader).ask(timeout_s, do="load", slot=0, directory=str(directory))
    except LostError as lost:
        _processes.pop(loader, None)
        return f"the process that compiles: {lost.reason}"
    except RefusedError as refused:
        raise MeasureError(f"cannot build {written.layer.signature} as {written.choice}: {refused}") from None
    refusal = directory / REFUSAL
    return refusal.read_text() if refusal.exists() else None


def _process(loader: str) -> Worker:
    if loader not in _processes:
        _processes[loader] = Worker(loader, threads=1, pinned=False)
    return _processes[loader]


@contextmanager
def _told(layer: Layer, choice: str, directory: Path) -> Iterator[None]:
    """Says of a directory that cannot be used what was to be built there."""
    try:
        yield
    except OSError as error:
        what = f"{layer.signature} as {choice} in {directory}"
        raise MeasureError(f"cannot build {what}: {error.strerror or error}") from None
