"""Networks compiled by workers, several at a time, wherever they are; checked from here, where they are timed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwsparse import compiler
from hwsparse.codegen import compile_model
from hwsparse.compiler import Answer
from hwsparse.errors import StorageError, writing
from hwsparse.execution import Shared, Workers, as_done
from hwsparse.latency.sent import Compiled, Sent
from hwsparse.model import Model
from hwsparse.plan import Plan
from hwsparse.target import Target

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class NetworkOrder:
    """A settled plan of a model to be built as `compiler.build` does, into a directory that exists and is empty."""

    model: Model
    plan: Plan
    weights: Mapping[str, np.ndarray]
    kernels: Mapping[str, str]
    directory: Path


def build_networks(
    target: Target,
    inputs: Mapping[str, np.ndarray],
    workers: Workers,
    orders: Iterable[NetworkOrder],
    answer: Answer | None = None,
) -> Iterator[tuple[NetworkOrder, Compiled]]:
    """Each order with its library, as soon as it is there.

    Args:
        inputs: a real sample, that all models take: what is built must give what onnxruntime does.
        orders: of different plans; the next is asked for when there is somebody to build it.
        answer: runs what is built where the target is; None: that is here.

    Raises:
        CompileError: a plan does not compile, or its outputs are wrong.
        MeasureError: it does not run where the target is.
        StorageError: there is no room for what is built.
        ExecutionError: workers were lost.
    """
    for order, directory in _compiled(target, workers, orders):
        yield order, compiler.checked(order.model, order.plan, order.weights, target, inputs, directory, answer)


def compile_networks(
    target: Target, workers: Workers, orders: Iterable[NetworkOrder]
) -> Iterator[tuple[NetworkOrder, Compiled]]:
    """Each order with its library, as soon as it is there; it was run nowhere, and nothing is known of its outputs.

    Raises:
        CompileError, StorageError, ExecutionError: as `build_networks`.
    """
    for order, directory in _compiled(target, workers, orders):
        yield order, Sent.read(directory)


def _compiled(target: Target, workers: Workers, orders: Iterable[NetworkOrder]) -> Iterator[tuple[NetworkOrder, Path]]:
    """Each order, once its library is in its directory."""
    shared: dict[str, Shared[tuple[Model, Target]]] = {}
    begun: dict[Plan, NetworkOrder] = {}

    def calls() -> Iterator[tuple[object, ...]]:
        for order in orders:
            begun[order.plan] = order
            if order.model.digest not in shared:
                shared[order.model.digest] = workers.share((order.model, target))
            yield shared[order.model.digest], order.plan, dict(order.weights), dict(order.kernels)

    for plan, files in as_done(workers, _compile, calls(), _compiling):
        order = begun.pop(plan)
        for name, content in files.items():
            with writing(order.directory / name):
                (order.directory / name).write_bytes(content)
        yield order, order.directory


def _compiling(known: object, plan: Plan, *rest: object) -> str:
    return f"compiling plan {plan.digest[:12]}"


def _compile(
    known: tuple[Model, Target], plan: Plan, weights: Mapping[str, np.ndarray], kernels: Mapping[str, str]
) -> tuple[Plan, Files]:
    """The task: the files of a library."""
    model, target = known
    try:
        with tempfile.TemporaryDirectory(prefix="hwsparse-build-") as scratch:
            compile_model(model, plan, weights, target, Path(scratch), kernels)
            return plan, {path.name: path.read_bytes() for path in Path(scratch).iterdir()}
    except OSError as error:
        raise StorageError(f"cannot build in {tempfile.gettempdir()}: {error.strerror or error}") from None
