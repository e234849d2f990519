"""Benches whose times follow from weights: what is fastest, and what wins, depends on no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

import hwsparse.pipeline
from hwsparse.codegen.library import WEIGHTS
from hwsparse.latency import CalibrationReport, Crew, Measurement, RunSettings, Workload
from hwsparse.latency.builders import Order
from hwsparse.latency.contender import MODEL
from hwsparse.latency.measurement import MIN_SAMPLES
from hwsparse.model import Model
from hwsparse.pipeline import compilation
from hwsparse.pipeline.bench import Bench, Steps, open_bench
from hwsparse.pipeline.finals import SMALL_DENSE
from hwsparse.plan import Choice, Layer, parse_signature
from hwsparse.target import Target

WEIGHT_S = 1e-9
BYTE_S = WEIGHT_S / 4  # dense, a network takes about as long as its layers


@dataclass(frozen=True)
class FirstKernel:
    """Builds what is expected to be fastest and nothing else: which of several kernels is, a clock would say."""

    crew: Crew

    def kernels_for(self, layer: Layer, choice: Choice, target: Target) -> Sequence[str]:
        return self.crew.kernels_for(layer, choice, target)[:1]

    def build_many(self, orders: Iterable[Order], on_built: Callable[[], None]) -> Mapping[Order, str | None]:
        return self.crew.build_many(orders, on_built)


@dataclass(frozen=True)
class ByWeight(Bench):
    """Builds, runs and checks everything as any bench does, and then says other times than it took.

    A layer takes a nanosecond for each weight that it keeps, a network a quarter of one for each byte of its weights,
    and a small dense one so many times as long.
    """

    small_dense_takes: float = 1.0

    def calibrate(
        self,
        model: Model,
        options: Mapping[str, Sequence[Choice]],
        progress: Steps,
        settings: RunSettings | None = None,
    ) -> CalibrationReport:
        report = super().calibrate(model, options, progress, self._shortly)
        return replace(
            report, table={workload: took(taken, kept_s(workload)) for workload, taken in report.table.items()}
        )

    def time_networks(self, directories: Mapping[str, Path], patience_s: float = 0.0) -> dict[str, Measurement]:
        found = self.networks.run_many(directories, replace(self._shortly, tolerance=1e-4))
        taken = {key: each for key, each in found.items() if isinstance(each, Measurement)}
        assert taken.keys() == directories.keys(), found
        bytes_s = {key: BYTE_S * stored_bytes(directory) for key, directory in directories.items()}
        longer = {key: self.small_dense_takes if key.startswith(SMALL_DENSE) else 1.0 for key in taken}
        return {key: took(each, bytes_s[key] * longer[key]) for key, each in taken.items()}

    @property
    def _shortly(self) -> RunSettings:
        """What is timed counts for nothing, but that it runs and gives what it is to give."""
        return RunSettings(threads=self.target.threads, samples=MIN_SAMPLES, rounds=1, warmup_s=0)


def kept_s(workload: Workload) -> float:
    layer = parse_signature(workload.signature)
    size = {"float32": 1.0, "float16": 0.5, "bfloat16": 0.5, "int8": 0.25}[workload.choice.dtype]
    return size * WEIGHT_S * (1 - workload.choice.ratio) * layer.outputs * layer.inputs


def stored_bytes(network: Path) -> int:
    """Of a library's weights, or of all of a model for onnxruntime."""
    library = network / WEIGHTS
    return (library if library.exists() else network / MODEL).stat().st_size


def took(taken: Measurement, latency_s: float) -> Measurement:
    """A measurement as if it had taken that long, known to a tenth of a percent."""
    samples = (0.999 * latency_s, latency_s, 1.001 * latency_s) * 2
    return replace(taken, samples_s=samples, reference_s=None, cpu_share=1.0)


@contextmanager
def open_by_weight(small_dense_takes: float, *arguments: Any, **more: Any) -> Iterator[ByWeight]:
    """Such a bench, as `open_bench` gives one."""
    with open_bench(*arguments, **more) as real:
        parts = {field.name: getattr(real, field.name) for field in fields(real)}
        parts["crew"] = cast(Crew, FirstKernel(real.crew))
        yield ByWeight(**parts, small_dense_takes=small_dense_takes)


@contextmanager
def times_by_weight(small_dense_takes: float = 1.0) -> Iterator[None]:
    """Meanwhile every job of this process measures on such a bench."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (hwsparse.pipeline, compilation):
            patch.setattr(module, "open_bench", partial(open_by_weight, small_dense_takes))
        yield
