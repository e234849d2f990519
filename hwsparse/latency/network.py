"""From a network's layers to the network: what lies between the layers, fitted to whole networks.

A layer alone and a layer in a network differ in cache state, dispatch and fusion (the scale); what is
not prunable runs too (the offset). Bytes are as seconds. Knows no layers, plans or devices: pairs of figures only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hwsparse.errors import MeasureError

# Layers in a network cost neither half nor twice of what they cost alone; a fit that says so has seen noise.
SCALE_RANGE = (0.5, 2.0)
# A negative offset is overhead that layers timed alone carry; of a sparse network it may not take everything.
FLOOR = 0.1
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; the last serves for all above.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, slots=True)
class Residual:
    """figure = scale * that of layers + offset, with the relative spread of what that leaves unexplained."""

    scale: float
    offset: float
    spread: float | None  # 95 % of new networks lie within +- spread; None: fewer than 3 were measured
    fitted: tuple[float, float]  # least and most of layers that it was fitted to

    def apply(self, layers: float) -> float:
        """The figure of a network whose layers have this one."""
        return max(self.scale * layers + self.offset, FLOOR * self.scale * layers)

    def apply_interval(self, layers: float, interval: tuple[float, float]) -> tuple[float, float]:
        """The figure's interval, given that of the layers; the two uncertainties are independent."""
        whole, between = self.apply(layers), (self.spread or 0.0) * self.apply(layers)
        low = math.hypot(whole - self.apply(interval[0]), between)
        high = math.hypot(self.apply(interval[1]) - whole, between)
        return max(0.0, whole - low), whole + high

    def covers(self, layers: float) -> bool:
        """Whether a network like this one is among those fitted to, and the spread is known."""
        return self.spread is not None and self.fitted[0] <= layers <= self.fitted[1]


def fit_residual(pairs: Sequence[tuple[float, float]]) -> Residual:
    """Fits (layers, network) pairs, of seconds or bytes, by least squares of the relative error.

    One pair fits the offset alone; if the network has less than its layers, the scale, because a
    negative offset would take more from sparse networks than they have.

    Raises:
        MeasureError: no pairs, or one that is not two positive numbers.
    """
    if not pairs or not all(math.isfinite(value) and value > 0 for pair in pairs for value in pair):
        raise MeasureError("a network's residual is fitted to at least one measured network, in positive figures")
    sums, measured = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    weights = [1 / value**2 for value in measured]
    mean_sum, mean_measured = _mean(sums, weights), _mean(measured, weights)
    variance = _mean([(value - mean_sum) ** 2 for value in sums], weights)
    if variance > (1e-6 * mean_sum) ** 2:
        products = [(x - mean_sum) * (y - mean_measured) for x, y in zip(sums, measured, strict=True)]
        scale = _mean(products, weights) / variance
    else:
        scale = min(1.0, mean_measured / mean_sum)
    scale = min(max(scale, SCALE_RANGE[0]), SCALE_RANGE[1])
    offset = mean_measured - scale * mean_sum
    return Residual(scale, offset, _spread(pairs, scale, offset), (min(sums), max(sums)))


def _spread(pairs: Sequence[tuple[float, float]], scale: float, offset: float) -> float | None:
    """Half the width of a 95 % prediction interval, relative to the latency."""
    freedom = len(pairs) - 2
    if freedom < 1:
        return None
    squares = sum(((y - scale * x - offset) / y) ** 2 for x, y in pairs)
    quantile = T_QUANTILES[min(freedom, len(T_QUANTILES)) - 1]
    return quantile * math.sqrt(squares / freedom * (1 + 1 / len(pairs)))


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
