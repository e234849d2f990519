"""Magnitude pruning: a weight is worth its size.

Han, Pool, Tran, Dally, "Learning both weights and connections for efficient neural networks", NeurIPS 2015.
"""

from __future__ import annotations

import numpy as np

from hwsparse.plan import Choice
from hwsparse.sparsify.mask import make_mask
from hwsparse.sparsify.statistics import LayerStatistics


def magnitude(weight: np.ndarray, statistics: LayerStatistics | None, choice: Choice, groups: int = 1) -> np.ndarray:
    """A canonical weight with the smallest magnitudes that the pattern can drop set to zero.

    Raises:
        PatternError: the weight's shape cannot have the pattern.
    """
    return np.where(make_mask(np.abs(weight), choice, groups), weight, np.float32(0))
