"""Weights rounded to what bytes stand for, so that one makes up for what others lose: by coordinate descent.

Of rows P on a grid, each of a step of its own, that differ from wanted ones T, with H the second moments of the inputs:

    minimise  tr((P - T) H (P - T)^T)

column by column, each weight put at the place on its grid that is best as the others are (Behdin et al., "QuantEase:
Optimization-based Quantization for Language Models", 2023, equation 9). Zeros stay: what is pruned, and the grid, are
taken into account at once. Each row's largest weight stays, for the grid to be what its bytes stand for.

Knows no layers and no data.
"""

from __future__ import annotations

import numpy as np

from hwsparse.quantise import MOST_WEIGHT, weight_bytes

SWEEPS = 2
# Columns whose changes reach all others in one product.
TOGETHER = 64


def rounded_to_fit(wanted: np.ndarray, start: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Weights that bytes stand for; never worse than `start` rounded to the nearest.

    Args:
        wanted: T, (groups, rows, columns).
        start: the same shape; what is 0 in it stays 0.
        moment: H, (groups, columns, columns), positive definite.
    """
    signed, scales = weight_bytes(start.reshape(-1, start.shape[2]))
    scale = scales.astype(np.float64).reshape(*start.shape[:2], 1)
    bytes_ = signed.astype(np.float64).reshape(start.shape)
    moves = (start != 0) & (np.abs(bytes_) < MOST_WEIGHT)
    for group, own in enumerate(moment):
        _descend(bytes_[group], moves[group], scale[group], wanted[group], own)
    return bytes_ * scale


def _descend(bytes_: np.ndarray, moves: np.ndarray, scale: np.ndarray, wanted: np.ndarray, moment: np.ndarray) -> None:
    """Moves the bytes of one group, in place."""
    diagonal = np.diagonal(moment)
    slope = (bytes_ - wanted / scale) @ moment  # half the gradient, in steps of each row
    for _ in range(SWEEPS):
        for first in range(0, len(moment), TOGETHER):
            part = slice(first, first + TOGETHER)
            before, near, mutual = bytes_[:, part].copy(), slope[:, part].copy(), moment[part, part]
            for place in range(len(mutual)):
                column = first + place
                best = np.rint(bytes_[:, column] - near[:, place] / diagonal[column])
                best = np.clip(best, 1 - MOST_WEIGHT, MOST_WEIGHT - 1)
                change = np.where(moves[:, column], best - bytes_[:, column], 0)
                bytes_[:, column] += change
                near += change[:, None] * mutual[place]
            slope += (bytes_[:, part] - before) @ moment[part]
