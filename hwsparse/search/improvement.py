"""How much a plan whose latency is known, and whose quality is not quite, should add to a front.

The hypervolume of a front is the area that its points beat, up to a reference that is no longer worth having. With
latency known, what a plan adds is a sum over the stretches between the front's points, each of which is the expected
excess of a normal variable over what the front reaches there (Emmerich, Giannakoglou, Naujoks, IEEE Transactions on
Evolutionary Computation 10(4), 2006, in one dimension less).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

SMALLEST = 1e-12


def expected_improvement(
    latencies: np.ndarray,
    means: np.ndarray,
    deviations: np.ndarray,
    front: np.ndarray,
    reference: tuple[float, float],
) -> np.ndarray:
    """Area (n,) that plans should add to a front, up to the best quality on it.

    What lies above that does not count: there is no end to the plans that are nearly dense, and as good as dense, of
    which one would be better by luck.

    Args:
        latencies: of the plans (n,)
        means: of their qualities (n,)
        deviations: their standard deviations (n,)
        front: latency and quality of each of its points (m, 2), both rising.
        reference: latency and quality that are not worth having.
    """
    inside = front[(front[:, 0] < reference[0]) & (front[:, 1] > reference[1])]
    starts = np.array([-np.inf, *inside[:, 0]])
    ends = np.array([*inside[:, 0], reference[0]])
    reached = np.array([reference[1], *inside[:, 1]])
    widths = np.clip(ends - np.maximum(starts, latencies[:, None]), 0, None)
    best = front[:, 1].max(initial=reference[1])
    above = _excess(means, deviations, reached) - _excess(means, deviations, np.array([best]))
    gains: np.ndarray = (widths * np.maximum(above, 0)).sum(1)
    return gains


def _excess(means: np.ndarray, deviations: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """By how much normal variables (n,) should exceed levels (m,), not negative where they do not: (n, m)."""
    deviations = np.maximum(deviations, SMALLEST)[:, None]
    over = (means[:, None] - levels) / deviations
    found: np.ndarray = deviations * (over * ndtr(over) + np.exp(-0.5 * over**2) / np.sqrt(2 * np.pi))
    return found
