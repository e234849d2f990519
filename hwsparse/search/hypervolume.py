"""How much of the plane a front dominates, as one number: Optuna's computation in our directions.

Apart from pareto.py so that nobody who only reads a front has to import Optuna.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Private in Optuna, which offers it only as a picture; there is no reason to have a second one.
from optuna._hypervolume import compute_hypervolume

from hwsparse.search.candidate import Point


def hypervolume(points: Sequence[Point], *, max_latency_s: float, min_quality: float) -> float:
    """The area, in seconds times quality, that the points dominate within the reference corner.

    Points outside the corner (slower than `max_latency_s`, worse than `min_quality`) add nothing.
    """
    losses = np.array([(point.latency_s, -point.quality) for point in points], dtype=float).reshape(-1, 2)
    corner = np.array([max_latency_s, -min_quality])
    return float(compute_hypervolume(losses[(losses <= corner).all(axis=1)], corner))
