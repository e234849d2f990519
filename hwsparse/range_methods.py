"""How the range that bytes stand for is told from a tensor's values: every way by name.

    averaged     of each sample the ends, but for a share of 1e-5 beyond each; their means over samples
    minmax       the lowest and the highest value of all samples
    percentile   what 99.99 % of all values lie in, with as many left out at each end (Wu et al., Integer Quantization
                 for Deep Learning Inference, 2020, section 4.1)
    entropy      where what bytes tell differs least from what values tell (Migacz, 8-bit Inference with TensorRT, 2017)
    mse          where rounding and clipping err least, in the mean square (Nagel et al., A White Paper on Neural
                 Network Quantization, 2021, section 3.1)

Values come sample after sample, and none is kept: the last three look at a histogram of all. A range never reaches
beyond the values; where it does not hold 0, bytes do so all the same (`Scale.of`), and entropy and mse reckon with it.

Knows arrays only: no layers, models or data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import numpy as np

from hwsparse.errors import DataError, InputError
from hwsparse.quantise import MOST_VALUE, Scale

Ends = tuple[float, float]

# Of a sample's values `averaged` leaves so many out at each end.
BEYOND = 1e-5
# Of all values `percentile` leaves so many out, half of them at each end.
LEFT_OUT = 1e-4
# Bins of a histogram on each side of 0.
BINS = 8192
# Of those of magnitudes, as Migacz has them: with finer ones chance would tell values apart that lie far out.
MAGNITUDES = 2048
# Of values but zeros `entropy` clips so many at most. What is clipped counts as if it were in the last bin: of values
# that all lie far from 0, nothing would show of all being clipped.
CLIPPED = 0.01
# Two to this power is the least number above 0: of bins before any value but 0 was seen.
NARROWEST = -1074
# So many places of an end are tried between 0 and the outermost value.
PLACES = 128
# After so many turns `mse` has settled, or gains next to nothing.
TURNS = 8


class Range(Protocol):
    """Of a tensor: sees its values, then tells the range."""

    def see(self, values: np.ndarray) -> None:
        """Takes a sample's values in, of any shape; all of them are finite.

        Raises:
            DataError: there are none.
        """

    @property
    def ends(self) -> Ends:
        """The lowest and the highest value that bytes should stand for, of what was seen."""


def _require_values(values: np.ndarray) -> None:
    if not values.size:
        raise DataError(f"a tensor of shape {values.shape} holds no values, and so has no range")


class Averaged:
    """The ends of each sample, but for some outliers, and their means.

    One sample's outlier then neither sets the step of all others, nor is forgotten.
    """

    def __init__(self, beyond: float = BEYOND) -> None:
        """Leaves out the share `beyond` of a sample's values at each end."""
        self._shares, self._sums, self._count = (beyond, 1 - beyond), np.zeros(2), 0

    def see(self, values: np.ndarray) -> None:
        _require_values(values)
        self._sums += np.quantile(values, self._shares, method="nearest").astype(np.float64)
        self._count += 1

    @property
    def ends(self) -> Ends:
        low, high = self._sums / self._count
        return float(low), float(high)


class MinMax:
    """The outermost values."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf

    def see(self, values: np.ndarray) -> None:
        _require_values(values)
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))

    @property
    def ends(self) -> Ends:
        return self._low, self._high


class Histogram:
    """How many values lie where: in bins about 0 as wide as the power of 2 that the outermost value takes.

    Where a value lies further out, bins are merged: in whatever order samples come, the same is found.
    """

    def __init__(self) -> None:
        self.counts, self.outermost = np.zeros(2 * BINS, np.int64), MinMax()
        self._exponent = NARROWEST

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self._exponent)

    @property
    def edges(self) -> np.ndarray:
        """Where bins end, (2 * BINS + 1,)."""
        return np.arange(-BINS, BINS + 1) * self.width

    def see(self, values: np.ndarray) -> None:
        self.outermost.see(values)
        if (furthest := max(map(abs, self.outermost.ends))) > 0:  # zeros alone fit bins of any width
            _, needed = math.frexp(furthest)
            self._widen(needed - BINS.bit_length() + 1)
        places = np.floor(values.astype(np.float64).ravel() / self.width).astype(np.int64)
        self.counts += np.bincount(places + BINS, minlength=2 * BINS)

    def _widen(self, exponent: int) -> None:
        wider = exponent - self._exponent
        if wider > 0:
            merged = np.arange(-BINS, BINS) >> min(wider, BINS.bit_length())
            self.counts = np.bincount(merged + BINS, self.counts, 2 * BINS).astype(np.int64)
            self._exponent = exponent


class OfHistogram:
    """What a method makes of the histogram of all values."""

    def __init__(self, method: Callable[[Histogram], Ends]) -> None:
        self._method, self._histogram = method, Histogram()

    def see(self, values: np.ndarray) -> None:
        self._histogram.see(values)

    @property
    def ends(self) -> Ends:
        return self._method(self._histogram)


def percentile(histogram: Histogram, left_out: float = LEFT_OUT) -> Ends:
    """The edges of the innermost bins with at most half of `left_out` beyond them, at either end."""
    below = np.cumsum(histogram.counts)
    allowed = below[-1] * left_out / 2
    first = int(np.searchsorted(below, allowed, side="right"))
    last = int(np.searchsorted(below, below[-1] - allowed, side="left"))
    low, high = histogram.outermost.ends
    return max(low, float(histogram.edges[first])), min(high, float(histogram.edges[last + 1]))


def entropy(histogram: Histogram) -> Ends:
    """The values up to a magnitude, of which a byte's levels tell the distribution best.

    Of all magnitudes from so many bins on as there are levels, the one of least divergence. Zeros count as nothing:
    a byte tells them exactly, and as a part of a level's values they, half of all behind a ReLU, would decide.
    """
    low, high = histogram.outermost.ends
    counts = histogram.counts[BINS:] + histogram.counts[BINS - 1 :: -1]
    counts, width = counts.reshape(MAGNITUDES, -1).sum(axis=1), histogram.width * BINS / MAGNITUDES
    counts[0] = 0
    best, least = max(abs(low), abs(high)), math.inf
    fewest = int(np.searchsorted(np.cumsum(counts), (1 - CLIPPED) * counts.sum())) + 1
    for bins in range(max(fewest, MOST_VALUE + 1), int(best / width) + 2):
        limit = bins * width
        step = Scale.of(max(low, -limit), min(high, limit)).scale / width
        if (told := divergence(counts, bins, step)) < least:
            best, least = limit, told
    return float(np.clip(-best, low, high)), float(np.clip(best, low, high))


def divergence(counts: np.ndarray, bins: int, step: float) -> float:
    """Of what levels tell of magnitudes in so many bins, from the magnitudes with all beyond in the last bin.

    Infinite where values lie beyond, and none in the last bin.

    Args:
        counts: of magnitudes, by bin.
        step: from level to level, in bins.
    """
    inside = counts[:bins].astype(np.float64)
    true = inside.copy()
    true[-1] += counts[bins:].sum()
    held = inside > 0
    levels = np.rint((np.arange(bins) + 0.5) / step).astype(np.int64)
    sums, sizes = np.bincount(levels, inside), np.bincount(levels, held)
    told = np.where(held, sums[levels] / np.maximum(sizes[levels], 1), 0)
    if true[-1] and not held[-1]:
        return math.inf
    p, q = true[held] / true.sum(), told[held] / told.sum()
    return float((p * np.log(p / q)).sum())


def mse(histogram: Histogram) -> Ends:
    """The ends by which values, each in the middle of its bin, err least as bytes: found in turns, one by the other."""
    low, high = whole = histogram.outermost.ends
    held = np.flatnonzero(histogram.counts)
    middles = (held - BINS + 0.5) * histogram.width
    counts = histogram.counts[held].astype(np.float64)
    shares = np.arange(PLACES, 0, -1) / PLACES

    def error(ends: Ends) -> float:
        scale = Scale.of(*ends)
        back = scale.scale * (scale.bytes_of(middles).astype(np.float64) - scale.zero)
        return float(counts @ (back - middles) ** 2)

    for _ in range(TURNS):
        before = low, high
        if whole[1] > 0:
            high = min((max(whole[1] * share, whole[0]) for share in shares), key=lambda end: error((low, end)))
        if whole[0] < 0:
            low = min((min(whole[0] * share, whole[1]) for share in shares), key=lambda end: error((end, high)))
        if (low, high) == before:
            break
    return float(low), float(high)


METHODS: dict[str, Callable[[], Range]] = {
    "averaged": Averaged,
    "minmax": MinMax,
    "percentile": partial(OfHistogram, percentile),
    "entropy": partial(OfHistogram, entropy),
    "mse": partial(OfHistogram, mse),
}
# Of dense int8 networks (DS-CNN, ResNet-20, MiniLM-L6, EfficientNet-Lite0) it moves answers least, or nearly so.
DEFAULT_METHOD = "minmax"


def require_use(name: str, dtypes: Iterable[str]) -> None:
    """Refuses a method that was asked for where it says nothing.

    Raises:
        InputError: no layer may be int8, and the method is not the one that nobody need ask for; or there is no such.
    """
    range_method(name)
    if name != DEFAULT_METHOD and "int8" not in dtypes:
        raise InputError(f"ranges by {name} are of what int8 layers read, and no layer is to be int8; ask for both")


def range_method(name: str) -> Callable[[], Range]:
    """A method by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in METHODS:
        raise InputError(f"ranges: {name!r} is no way to find them; use {', '.join(METHODS)}")
    return METHODS[name]
