"""How something is timed, and what came of it: samples with their provenance, or a reason why not.

Knows no layers, patterns or processes.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from hwsparse.errors import MeasureError
from hwsparse.latency.fingerprint import Device, Toolchain

Source = Literal["measured", "simulated"]
Stage = Literal["build", "load", "check", "run", "timeout"]

CONFIDENCE = 0.95
# With fewer samples no two of them enclose the median with 95 % confidence.
MIN_SAMPLES = 6


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a library is timed, in seconds; `timeout_s` is for each step: load, check, a turn of timing."""

    threads: int
    samples: int = 30
    rounds: int = 5  # libraries timed together take turns, so that drift hits all alike
    warmup_s: float = 0.02
    min_sample_s: float = 1e-4  # shorter calls are repeated within a sample: clocks are coarse
    timeout_s: float = 60.0
    tolerance: float = 1e-3  # largest error of the output, relative to the largest reference value

    def __post_init__(self) -> None:
        if self.threads < 1 or self.rounds < 1 or self.samples < MIN_SAMPLES:
            raise MeasureError(f"timing needs at least 1 thread, 1 round and {MIN_SAMPLES} samples, not {self}")
        limits = (self.warmup_s, self.min_sample_s, self.timeout_s, self.tolerance)
        if not all(math.isfinite(value) and value >= 0 for value in limits) or self.timeout_s == 0:
            raise MeasureError(f"times and tolerance must be finite, not negative, and the timeout not 0: {self}")


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds that one call took, over and over, and all that is needed to judge the figure.

    `key` says of what: a workload's key, or a text naming a whole network's library. `kernel` is the kernel that ran
    a layer, None for a network, which has many.
    """

    key: str
    samples_s: tuple[float, ...]
    source: Source
    settings: RunSettings
    device: Device
    toolchain: Toolchain
    taken_at: datetime
    kernel: str | None = None

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise MeasureError(f"{self.key}: {self.source!r} is no source; use {' or '.join(get_args(Source))}")
        if len(self.samples_s) < MIN_SAMPLES:
            raise MeasureError(f"{self.key}: {len(self.samples_s)} samples; at least {MIN_SAMPLES} are needed")
        if not all(math.isfinite(sample) and sample > 0 for sample in self.samples_s):
            raise MeasureError(f"{self.key}: a sample is not a positive number of seconds")
        if self.taken_at.utcoffset() is None:
            raise MeasureError(f"{self.key}: the time {self.taken_at} lacks its time zone")

    @property
    def median_s(self) -> float:
        return statistics.median(self.samples_s)

    @property
    def interval_s(self) -> tuple[float, float]:
        """95 % confidence interval of the median."""
        return median_interval(self.samples_s)


@dataclass(frozen=True, slots=True)
class MeasureFailure:
    """Why there is no measurement: a candidate's failure is data, not an exception."""

    key: str
    stage: Stage
    reason: str  # one line

    def __post_init__(self) -> None:
        if self.stage not in get_args(Stage):
            raise MeasureError(f"{self.key}: {self.stage!r} is no stage; use {', '.join(get_args(Stage))}")


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """The two samples that enclose the median with at least 95 % confidence, whatever the distribution.

    Raises:
        MeasureError: fewer than 6 samples.
    """
    ordered = sorted(samples)
    rank = _rank(len(ordered))
    return ordered[rank], ordered[-1 - rank]


@functools.cache
def _rank(count: int) -> int:
    """How many of `count` samples may be cut at either end, so that the rest encloses the median.

    The number of samples below the median is binomial with probability 1/2; the interval from the
    k-th smallest to the k-th largest misses it with probability 2 P(fewer than k below).
    """
    if count < MIN_SAMPLES:
        raise MeasureError(f"{count} samples; an interval of the median needs at least {MIN_SAMPLES}")
    below, cut = 1, 0  # below / 2**count = P(at most `cut` samples below the median)
    while below + math.comb(count, cut + 1) <= (1 - CONFIDENCE) / 2 * 2**count:
        cut += 1
        below += math.comb(count, cut)
    return cut
