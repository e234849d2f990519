"""Pruned layers on disk: for each layer and choice its weights, its output error and what it harms.

    pruned.sqlite                      a row for each layer and choice of a basis
    weights/ab/ab12....safetensors     a mask and the weights it keeps, named by the file's sha256

A basis is all that decides what a layer becomes: model, calibration data, pruner. Another basis has rows of its own,
so that nothing made for one model is given out for another. A file is complete before its row is written; one that is
not what its name says is removed, row and all, and made again by the next build.

Weights are kept as they were before they were rounded to a layer's type. What int8 layers' inputs lie between is kept
as well, by the method that found it.

Knows neither devices nor searches.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import final

import numpy as np
from safetensors.numpy import load, save
from sqlalchemy import delete, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from hwsparse import strictjson
from hwsparse.data import Dataset
from hwsparse.errors import PatternError, PlanError, StorageError, writing
from hwsparse.execution import Here, Shared, Workers, as_done
from hwsparse.model import Model
from hwsparse.plan import Choice, Layer, Plan, parse_choice
from hwsparse.quantise import rounded
from hwsparse.range_methods import DEFAULT_METHOD, range_method
from hwsparse.sparsify.apply import apply_plan, reads_of
from hwsparse.sparsify.correction import SAMPLES
from hwsparse.sparsify.pruners import PRUNERS, VERSION
from hwsparse.sparsify.ranges import ranges_for, ranges_on, rounded_weights
from hwsparse.sparsify.sensitivity import Harm, Sensitivity
from hwsparse.sparsify.statistics import LayerStatistics, collect_statistics, output_error, passes
from hwsparse.sqlitefile import sqlite_engine, translated

# Where a layer's curves are looked at when all of it is wanted.
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
# What a layer harms is told by so many rows of the data: a run of all that lies behind it, for each and every choice.
HARM_ROWS = 16
ABANDONED_S = 3600.0  # a file takes a second to write
_DIGEST = re.compile("[0-9a-f]{64}")

OnStage = Callable[[str, int, int], None]  # stage, steps done, steps in all
_Made = tuple[Layer, Choice, np.ndarray, float, Harm]


@dataclass(frozen=True, slots=True)
class Basis:
    """What all entries have in common that a job reads and writes."""

    model_digest: str
    dataset_digest: str
    pruner: str
    samples: int  # of the data, at most
    seed: int
    version: int = VERSION

    @property
    def digest(self) -> str:
        """sha256, in hexadecimal."""
        return hashlib.sha256(strictjson.dumps(self).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PrunedLayer:
    """What a layer becomes under a choice.

    `output_error` is the squared change of the layer's output relative to its square; `harm` what it does to the
    network's answers; `weights` the sha256 of the file that holds it.
    """

    output_error: float
    harm: Harm
    weights: str


class _Base(DeclarativeBase):
    pass


class _Range(_Base):
    __tablename__ = "tensor_ranges"
    basis: Mapped[str] = mapped_column(primary_key=True)
    method: Mapped[str] = mapped_column(primary_key=True)
    tensor: Mapped[str] = mapped_column(primary_key=True)
    low: Mapped[float]
    high: Mapped[float]


class _Row(_Base):
    __tablename__ = "pruned_layers"
    basis: Mapped[str] = mapped_column(primary_key=True)
    layer: Mapped[str] = mapped_column(primary_key=True)
    choice: Mapped[str] = mapped_column(primary_key=True)
    output_error: Mapped[float]
    loss: Mapped[float]
    divergence: Mapped[float]
    weights: Mapped[str]


@final
class LayerDatabase:
    """The pruned layers of one model, fitted on one data set.

    Several processes may build at once; what both make is the same.
    """

    def __init__(
        self,
        directory: Path,
        model: Model,
        dataset: Dataset,
        *,
        pruner: str = "alps",
        samples: int = SAMPLES,
        seed: int = 0,
        threads: int = 1,
        workers: Workers | None = None,
        ranges: str = DEFAULT_METHOD,
    ) -> None:
        """Opens the database in a directory, or makes it.

        Args:
            threads: of this process, that statistics are collected with.
            workers: prune layers; by default this process does.
            ranges: the method that tells what tensors lie between.

        Raises:
            InputError: there is no such method.
            StorageError: it cannot be made, or something else is there.
            DataError: the data do not fit the model.
        """
        range_method(ranges)
        dataset.check_runs(model)  # few samples may all have one label, which harm can do with
        self._model, self._dataset, self._threads, self._workers = model, dataset, threads, workers or Here()
        self._basis = Basis(model.digest, dataset.digest, pruner, samples, seed)
        self._directory, self._method = directory, ranges
        self._engine = sqlite_engine(directory / "pruned.sqlite", keep_open=False)
        with self._said("cannot be opened"):
            directory.mkdir(parents=True, exist_ok=True)
            _sweep(directory)
            _Base.metadata.create_all(self._engine)

    def build(
        self, wanted: Mapping[str, Sequence[Choice]], on_stage: OnStage = lambda stage, done, total: None
    ) -> None:
        """Makes what is missing of these choices, by layer name; what is made is on disk at once.

        Raises:
            ModelError: there is no such layer.
            PlanError: a layer cannot have a choice, or holds a value that is not finite.
            DataError: onnxruntime cannot run a sample, or an input of a layer is not finite on it.
            StorageError: the database cannot be written.
            ExecutionError: workers were lost.
        """
        for name in wanted:
            self._model.layer(name)
        known = self.entries()
        missing = {
            name: [choice for choice in dict.fromkeys(choices) if (name, choice) not in known]
            for name, choices in wanted.items()
        }
        layers = [layer for layer in self._model.layers if missing.get(layer.name)]
        done, total = 0, sum(map(len, missing.values()))
        for together in passes(layers):
            for made in self._made(together, missing, on_stage):
                self._add(*made)
                done += 1
                on_stage("pruning", done, total)

    def entries(self) -> dict[tuple[str, Choice], PrunedLayer]:
        """All that is known of this basis, by layer name and choice.

        Raises:
            StorageError: the database cannot be read, or holds what no build wrote.
        """
        query = select(_Row).where(_Row.basis == self._basis.digest)
        with self._said("cannot be read"), Session(self._engine) as session:
            rows = session.scalars(query).all()
        return dict(map(self._entry, rows))

    def weights(self, plan: Plan) -> dict[str, np.ndarray]:
        """As `unrounded`, with weights rounded to the types that the plan gives its layers.

        Raises:
            PlanError, DataError, StorageError: as `unrounded`.
        """
        return rounded_weights(self._model, plan, self.unrounded(plan))

    def unrounded(self, plan: Plan) -> dict[str, np.ndarray]:
        """Canonical pruned weights of a plan that `build` made all layers of, by layer name.

        With them come the ranges of what int8 layers read, and which layers read bfloat16 or float16.

        Raises:
            PlanError: the plan is of another model, or of a layer and choice that were not built.
            DataError: onnxruntime cannot run a sample, or what layers read is not finite.
            StorageError: a file is missing or damaged: it is forgotten, and made again by the next build.
        """
        if plan.model_digest != self._model.digest:
            raise PlanError(f"the plan is of another model than {self._model.name}")
        entries = self.entries()
        if absent := [f"{name} as {choice}" for name, choice in plan.choices if (name, choice) not in entries]:
            raise PlanError(f"{self._directory}: {absent[0]} was not built")
        found = {
            name: self._load(self._model.layer(name), entries[name, choice].weights) for name, choice in plan.choices
        }
        return found | reads_of(plan) | self.ranges(plan)

    def ranges(self, plan: Plan) -> dict[str, np.ndarray]:
        """Between what tensors lie that a plan's int8 layers read as bytes, by the names that ranges have.

        Raises:
            DataError: onnxruntime cannot run a sample, or what layers read is not finite.
            StorageError: the database cannot be read or written.
        """
        if not plan.in_bytes:
            return {}
        return ranges_for(self._model, plan, self._tensor_ranges)

    @cached_property
    def _tensor_ranges(self) -> dict[str, tuple[float, float]]:
        """Of every tensor that any plan may have as bytes: looked at once for basis and method, and kept."""
        query = select(_Range).where(_Range.basis == self._basis.digest, _Range.method == self._method)
        with self._said("cannot be read"), Session(self._engine) as session:
            known = {row.tensor: (row.low, row.high) for row in session.scalars(query)}
        if known:
            return known
        found = ranges_on(self._model, self._dataset, self._method)
        with self._said("cannot be written"), Session(self._engine) as session, session.begin():
            for tensor, (low, high) in found.items():
                row = _Range(basis=self._basis.digest, method=self._method, tensor=tensor, low=low, high=high)
                session.merge(row)
        return found

    def _made(
        self, layers: Sequence[Layer], missing: Mapping[str, Sequence[Choice]], on_stage: OnStage
    ) -> Iterator[_Made]:
        """Prunes layers side by side: a task for each layer and ratio."""
        statistics = collect_statistics(
            self._model,
            self._dataset,
            layers,
            max_samples=self._basis.samples,
            threads=self._threads,
            seed=self._basis.seed,
            progress=lambda done, total: on_stage("statistics", done, total),
        )
        model, tried_on = self._shared
        calls = [
            (model, tried_on, layer, statistics[layer.name], tuple(choices), self._basis.pruner)
            for layer in layers
            # Patterns at one ratio have a part of the work in common (`regroup`).
            for _, choices in groupby(sorted(missing[layer.name], key=_ratio), _ratio)
        ]
        for made in as_done(self._workers, _prune, calls, _pruning):
            yield from made

    @cached_property
    def _shared(self) -> tuple[Shared[Model], Shared[Dataset]]:
        """What all tasks need: the model, and the samples that tell harm."""
        labels = len(self._dataset)
        samples = min(max(HARM_ROWS * labels // self._dataset.rows, 1), labels)
        tried_on = self._dataset.subset(np.linspace(0, labels - 1, samples).round())
        return self._workers.share(self._model), self._workers.share(tried_on)

    def _add(self, layer: Layer, choice: Choice, weight: np.ndarray, error: float, harm: Harm) -> None:
        mask = weight != 0
        content = save({"mask": np.packbits(mask), "values": weight[mask]})
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        if not path.exists():
            scratch = path.with_name(f".{digest}.{secrets.token_hex(6)}.tmp")
            with self._said("cannot be written"):
                path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with writing(scratch):
                    scratch.write_bytes(content)
                    os.replace(scratch, path)
            finally:
                scratch.unlink(missing_ok=True)
        row = _Row(
            basis=self._basis.digest,
            layer=layer.name,
            choice=str(choice),
            output_error=error,
            loss=harm.loss,
            divergence=harm.divergence,
            weights=digest,
        )
        with self._said("cannot be written"), Session(self._engine) as session, session.begin():
            session.merge(row)  # another process may have made the same meanwhile

    def _load(self, layer: Layer, digest: str) -> np.ndarray:
        path = self._path(digest)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise self._forgotten(digest, error.strerror or str(error)) from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise self._forgotten(digest, "it is damaged")
        stored = load(content)
        weight = np.zeros(layer.weight_shape, np.float32)
        weight[np.unpackbits(stored["mask"], count=weight.size).astype(bool).reshape(weight.shape)] = stored["values"]
        return weight

    def _forgotten(self, digest: str, reason: str) -> StorageError:
        """Removes a file and the rows that name it; the error that says so."""
        path = self._path(digest)
        with self._said("cannot be written"), Session(self._engine) as session, session.begin():
            session.execute(delete(_Row).where(_Row.weights == digest))
        with suppress(OSError):
            path.unlink()
        return StorageError(f"{path}: {reason}; it is made again when the same command is run again")

    def _path(self, digest: str) -> Path:
        return self._directory / "weights" / digest[:2] / f"{digest}.safetensors"

    def _entry(self, row: _Row) -> tuple[tuple[str, Choice], PrunedLayer]:
        figures = (row.output_error, row.loss, row.divergence)
        sound = all(isinstance(figure, float) for figure in figures) and math.isfinite(row.output_error)
        damaged = StorageError(
            f"{self._directory}: the entry of {row.layer} as {row.choice} is damaged; remove the directory"
        )
        if not sound or row.divergence < 0 or not _DIGEST.fullmatch(str(row.weights)):
            raise damaged
        try:
            choice = parse_choice(str(row.choice))
        except PatternError:
            raise damaged from None
        return (row.layer, choice), PrunedLayer(row.output_error, Harm(row.loss, row.divergence), row.weights)

    def _said(self, what: str) -> AbstractContextManager[None]:
        return translated(f"pruned layers in {self._directory}: {what}", StorageError)


def _prune(
    model: Model, tried_on: Dataset, layer: Layer, statistics: LayerStatistics, choices: Sequence[Choice], pruner: str
) -> list[_Made]:
    """The task: a layer under choices of one ratio, each with its output error and its harm."""
    dense, sensitivity = model.weight(layer.name), _sensitivity(model, layer, tried_on)
    found = []
    with threadpool_limits(1):  # also where the worker is this process
        for choice in choices:
            alone = Plan.of(model.digest, {layer.name: choice})
            pruned = apply_plan(model, alone, PRUNERS[pruner], {layer.name: statistics})[layer.name]
            weight = rounded(pruned, choice.dtype)
            found.append((layer, choice, pruned, output_error(dense, weight, statistics), sensitivity.harm(weight)))
    return found


def _pruning(model: object, tried_on: object, layer: Layer, *rest: object) -> str:
    return f"pruning layer {layer.name!r}"


@lru_cache(maxsize=1)
def _sensitivity(model: Model, layer: Layer, tried_on: Dataset) -> Sensitivity:
    """Kept for the next task, which is likely to be of the same layer."""
    return Sensitivity(model, layer, tried_on)


def _ratio(choice: Choice) -> float:
    return choice.ratio


def _sweep(directory: Path) -> None:
    """Removes what a process left that was killed while it wrote; what another one writes is younger."""
    for scratch in directory.glob("weights/*/.*.tmp"):
        with suppress(OSError):  # another one swept it
            if time.time() - scratch.stat().st_mtime > ABANDONED_S:
                scratch.unlink()
