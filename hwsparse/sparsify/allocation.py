"""How many zeros each layer gets when a network is to have a share of them: what search is compared with.

Equal ratios everywhere; Erdos-Renyi-Kernel, by a layer's shape; one threshold for the magnitudes of all weights; and
the least sum of measured harm.

Knows no patterns and no devices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hwsparse.errors import PlanError
from hwsparse.plan import Layer

# Of harm measured: by ratio, which rise.
Curve = Mapping[float, float]


def uniform(layers: Sequence[Layer], ratio: float) -> dict[str, float]:
    """The same ratio of zeros for every layer, by name."""
    return dict.fromkeys((layer.name for layer in layers), _checked(ratio))


def erdos_renyi_kernel(layers: Sequence[Layer], ratio: float) -> dict[str, float]:
    """Density in proportion to the sum of a weight's sizes over their product, at most 1.

    Evci, Gale, Menick, Castro, Elsen, "Rigging the Lottery: Making All Tickets Winners", ICML 2020, section 3: a large
    layer gets more zeros. Layers that would be more than dense are dense, and the others share what is left.
    """
    sizes = np.array([_size(layer) for layer in layers], np.float64)
    raw = np.array([sum(layer.weight_shape) for layer in layers], np.float64) / sizes
    whole = np.zeros(len(layers), bool)
    kept = (1 - _checked(ratio)) * sizes.sum()
    densities = np.ones(len(layers))
    while not whole.all():
        densities[~whole] = raw[~whole] * max(kept - sizes[whole].sum(), 0) / (raw * sizes)[~whole].sum()
        over = ~whole & (densities > 1)
        if not over.any():
            break
        densities[over], whole = 1, whole | over
    return {layer.name: float(1 - density) for layer, density in zip(layers, densities, strict=True)}


def global_magnitude(layers: Sequence[Layer], ratio: float, weight: Callable[[str], np.ndarray]) -> dict[str, float]:
    """What each layer loses when the least magnitudes of all layers together go; `weight` gives a layer's, by name.

    Of equal ones, those of earlier layers go first.
    """
    magnitudes = {layer.name: np.abs(weight(layer.name)).ravel() for layer in layers}
    owners = np.repeat(np.arange(len(layers)), [own.size for own in magnitudes.values()])
    order = np.argsort(np.concatenate(list(magnitudes.values())), kind="stable")
    dropped = owners[order[: round(_checked(ratio) * order.size)]]
    counts = np.bincount(dropped, minlength=len(layers))
    return {name: int(count) / own.size for count, (name, own) in zip(counts, magnitudes.items(), strict=True)}


def least_harm(layers: Sequence[Layer], ratio: float, harm: Mapping[str, Curve]) -> dict[str, float]:
    """Of the ratios measured for each layer, those of the least sum of harm; of one layer a ratio between two of them.

    Steps along the lower convex hulls of the layers' curves, cheapest by the weight first, and only a part of the last
    (Everett, "Generalized Lagrange multiplier method", Operations Research 1963). Harm that is not finite is never
    taken.

    Raises:
        PlanError: so many zeros cannot be had.
    """
    chosen = uniform(layers, 0.0)
    steps: list[tuple[float, str, float, float, int]] = []
    for layer in layers:
        points = [point for point in sorted(harm.get(layer.name, {}).items()) if math.isfinite(point[1])]
        hull = _lower_hull([(0.0, 0.0), *points])
        for (low, before), (high, after) in itertools.pairwise(hull):
            zeros = round((high - low) * _size(layer))
            steps.append(((after - before) / max(zeros, 1), layer.name, low, high, zeros))
    missing = round(_checked(ratio) * sum(_size(layer) for layer in layers))
    for _, name, low, high, zeros in sorted(steps):
        if missing <= 0:
            break
        chosen[name] = high if zeros <= missing else low + (high - low) * missing / zeros
        missing -= zeros
    if missing > len(layers):  # what rounding may take
        raise PlanError(f"the ratios that were measured do not reach {ratio:.0%} zeros")
    return chosen


def _lower_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points from left to right, those below all lines between others."""
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) >= (y - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((x, y))
    return hull


def _size(layer: Layer) -> int:
    return layer.outputs * layer.inputs


def _checked(ratio: float) -> float:
    if not 0 <= ratio <= 1:
        raise PlanError(f"a ratio of zeros lies between 0 and 1, not at {ratio}")
    return ratio
