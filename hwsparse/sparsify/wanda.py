"""Pruning by weights and activations: a weight is worth its size times that of the input it multiplies.

Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, eq. 1;
the scores are compared over the whole layer, as the patterns need, not row by row.
"""

from __future__ import annotations

import numpy as np

from hwsparse.plan import Choice
from hwsparse.sparsify.mask import make_mask
from hwsparse.sparsify.statistics import LayerStatistics


def wanda_mask(weight: np.ndarray, statistics: LayerStatistics | None, choice: Choice, groups: int = 1) -> np.ndarray:
    """Where a canonical weight is kept; without statistics, by magnitude alone.

    Raises:
        PatternError: the weight's shape cannot have the pattern.
    """
    if statistics is None:
        return make_mask(np.abs(weight), choice, groups)
    sizes = np.sqrt(statistics.diagonal)
    rows = np.abs(weight).reshape(groups, weight.shape[0] // groups, -1)
    return make_mask((rows * sizes[:, None, :]).reshape(weight.shape), choice, groups)


def wanda(weight: np.ndarray, statistics: LayerStatistics | None, choice: Choice, groups: int = 1) -> np.ndarray:
    """A canonical weight with what `wanda_mask` drops set to zero."""
    return np.where(wanda_mask(weight, statistics, choice, groups), weight, np.float32(0))
