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
Stage = Literal["build", "load", "check", "run", "timeout", "noise"]
Cache = Literal["warm", "cold"]

CONFIDENCE = 0.95
# With fewer samples no two of them enclose the median with 95 % confidence.
MIN_SAMPLES = 6
# On a machine with neighbours the fastest tenth of the samples tells how fast code is, the rest how busy they are: of
# five runs the tenth differs by 1 % in the median of layers, the median itself by 2 to 6 % (EPYC, virtual).
QUIET, MEDIAN = 0.1, 0.5


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a library is timed, in seconds; `timeout_s` is for each step: load, check, a turn of timing.

    With a `precision`, rounds go on beyond `samples` until the quiet time's interval is within it, relative, or
    `stretch` times as many are taken. With a `cold` cache a call finds nothing in any cache.
    """

    threads: int
    samples: int = 60
    rounds: int = 12  # libraries timed together take turns, so that drift hits all alike
    precision: float | None = None
    stretch: int = 5
    cache: Cache = "warm"
    warmup_s: float = 0.02
    min_sample_s: float = 1e-4  # shorter calls are repeated within a sample: clocks are coarse
    timeout_s: float = 60.0
    tolerance: float = 1e-3  # largest error of the output, relative to the largest reference value

    def __post_init__(self) -> None:
        if self.threads < 1 or self.rounds < 1 or self.samples < MIN_SAMPLES:
            raise MeasureError(f"timing needs at least 1 thread, 1 round and {MIN_SAMPLES} samples, not {self}")
        if self.cache not in get_args(Cache):
            raise MeasureError(f"{self.cache!r} is no state of a cache; use {' or '.join(get_args(Cache))}")
        if self.stretch < 1 or not (self.precision is None or 0 < self.precision < 1):
            raise MeasureError(f"stretch must be at least 1, and precision a fraction above 0: {self}")
        limits = (self.warmup_s, self.min_sample_s, self.timeout_s, self.tolerance)
        if not all(math.isfinite(value) and value >= 0 for value in limits) or self.timeout_s == 0:
            raise MeasureError(f"times and tolerance must be finite, not negative, and the timeout not 0: {self}")


# What no call takes less or more than: it would be no reading of a clock.
SHORTEST_S, LONGEST_S = 1e-12, 1e6


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds that one call took, over and over, and all that is needed to judge the figure.

    `key` says of what: a workload's key, or a text naming a whole network's library. `kernel` is the kernel that ran
    a layer, None for a network, which has many. `reference_s` is the quiet time of the reference kernel in the same
    run, and tells a slower clock from slower code; `cpu_share` how much of its CPU the process had, or of all CPUs
    others left, whichever is less. What is `imported` comes from a file, and not from a device of ours.
    """

    key: str
    samples_s: tuple[float, ...]
    source: Source
    settings: RunSettings
    device: Device
    toolchain: Toolchain
    taken_at: datetime
    kernel: str | None = None
    reference_s: float | None = None
    cpu_share: float = 1.0
    imported: bool = False

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise MeasureError(f"{self.key}: {self.source!r} is no source; use {' or '.join(get_args(Source))}")
        if len(self.samples_s) < MIN_SAMPLES:
            raise MeasureError(f"{self.key}: {len(self.samples_s)} samples; at least {MIN_SAMPLES} are needed")
        if not all(SHORTEST_S <= sample <= LONGEST_S for sample in self.samples_s):
            raise MeasureError(f"{self.key}: a sample is not a positive number of seconds")
        if self.reference_s is not None and not SHORTEST_S <= self.reference_s <= LONGEST_S:
            raise MeasureError(f"{self.key}: the reference kernel's time is {self.reference_s}, no number of seconds")
        if not 0 <= self.cpu_share <= 1:
            raise MeasureError(f"{self.key}: a share of a CPU is from 0 to 1, not {self.cpu_share}")
        if self.taken_at.utcoffset() is None:
            raise MeasureError(f"{self.key}: the time {self.taken_at} lacks its time zone")

    @property
    def is_exact(self) -> bool:
        """Whether it was counted, and every call takes as long."""
        return self.source == "simulated" and len(set(self.samples_s)) == 1

    @property
    def median_s(self) -> float:
        return statistics.median(self.samples_s)

    @property
    def interval_s(self) -> tuple[float, float]:
        """95 % confidence interval of the median."""
        return median_interval(self.samples_s)

    @property
    def known_to(self) -> float:
        """How far the ends of the median's interval are from it at most, relative to it."""
        return max(abs(end - self.median_s) for end in self.interval_s) / self.median_s

    @property
    def quiet_s(self) -> float:
        """What a call takes when nothing disturbs it: the fastest tenth of the samples, at its slow end."""
        return quiet(self.samples_s)

    @property
    def quiet_interval_s(self) -> tuple[float, float]:
        """95 % confidence interval of the quiet time."""
        return quantile_interval(self.samples_s, QUIET)


@dataclass(frozen=True, slots=True)
class MeasureFailure:
    """Why there is no measurement: a candidate's failure is data, not an exception."""

    key: str
    stage: Stage
    reason: str  # one line

    def __post_init__(self) -> None:
        if self.stage not in get_args(Stage):
            raise MeasureError(f"{self.key}: {self.stage!r} is no stage; use {', '.join(get_args(Stage))}")


def quiet(samples: Sequence[float]) -> float:
    """The 10 % quantile."""
    return sorted(samples)[math.ceil(QUIET * len(samples)) - 1]


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """The two of independent samples that enclose the median with at least 95 % confidence, whatever the distribution.

    Raises:
        MeasureError: fewer than 6 samples.
    """
    if len(samples) < MIN_SAMPLES:
        raise MeasureError(f"{len(samples)} samples; an interval of the median needs at least {MIN_SAMPLES}")
    return quantile_interval(samples, MEDIAN)


def quantile_interval(samples: Sequence[float], quantile: float) -> tuple[float, float]:
    """The two of independent samples that enclose a quantile with 95 % confidence, whatever the distribution.

    Where none lies beyond it surely enough, as below the 10 % quantile with fewer than 36, the outermost stands in.
    """
    ordered = sorted(samples)
    low, high = _ranks(len(ordered), quantile)
    return ordered[low], ordered[high]


@functools.cache
def _ranks(count: int, quantile: float) -> tuple[int, int]:
    """Places, in their order, of the samples that enclose a quantile.

    How many samples lie below it is binomial. The sample at place k is above it if k or fewer lie below, and
    below it if more than k do: either may happen with half of what confidence leaves.
    """
    miss, at_most = (1 - CONFIDENCE) / 2, 0.0
    low, high = 0, count - 1
    for below in range(count):
        ways = math.lgamma(count + 1) - math.lgamma(below + 1) - math.lgamma(count - below + 1)
        at_most += math.exp(ways + below * math.log(quantile) + (count - below) * math.log1p(-quantile))
        if at_most <= miss:
            low = below
        if 1 - at_most <= miss:
            high = below
            break
    return low, high
