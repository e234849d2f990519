"""Whole output channels, pruned by the power of what they hand on.

Rows of a weight share no column sums: what one leaves undone no other can make up for. So the exact answer of optimal
brain surgeon is that the channels of least output power go, and the others stay as they are.
"""

from __future__ import annotations

import numpy as np

from hwsparse.plan import Choice
from hwsparse.sparsify.mask import make_mask
from hwsparse.sparsify.statistics import LayerStatistics


def least_powerful_gone(weight: np.ndarray, statistics: LayerStatistics, choice: Choice, groups: int) -> np.ndarray:
    """A canonical weight without the output channels of least power; of statistics that are more than a diagonal.

    Raises:
        PatternError: the weight's shape cannot have the pattern.
    """
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    power = np.sum(rows @ statistics.damped() * rows, axis=2, keepdims=True)
    scores = np.broadcast_to(np.sqrt(np.maximum(power, 0)), rows.shape)
    return np.where(make_mask(scores.reshape(weight.shape), choice, groups), weight, np.float32(0))
