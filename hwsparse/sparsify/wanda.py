"""Pruning by weights and activations: a weight is worth its size times that of the input it multiplies.

Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, eq. 1;
the scores are compared over the whole layer, as the patterns need, not row by row.
"""

from __future__ import annotations

import numpy as np

from hwsparse.plan import Choice
from hwsparse.sparsify.mask import make_mask
from hwsparse.sparsify.statistics import LayerStatistics


def wanda(weight: np.ndarray, statistics: LayerStatistics | None, choice: Choice, groups: int = 1) -> np.ndarray:
    """A canonical weight with what is worth least set to zero; without statistics, by magnitude alone.

    Args:
        weight: canonical, (outputs, inputs of a group, ...).

    Raises:
        PatternError: the weight's shape cannot have the pattern.
    """
    scores = np.abs(weight)
    if statistics is not None:
        rows = scores.reshape(groups, weight.shape[0] // groups, -1)
        scores = (rows * np.sqrt(statistics.diagonal)[:, None, :]).reshape(weight.shape)
    return np.where(make_mask(scores, choice, groups), weight, np.float32(0))
