"""Least squares under a mask: the kept weights that change a layer's output least.

For rows W, second moments H of the inputs and a mask, the P that minimises tr((W - P) H (W - P)^T) among those that
are zero where the mask is. Each row has a system of its own, of the columns that it keeps; conjugate gradients
(Hestenes and Stiefel, 1952), preconditioned by the diagonal, solve all of them together in products of whole matrices.

Knows no patterns and no data.
"""

from __future__ import annotations

import numpy as np

# Enough is what gains less than that share of the error that is left.
LEAST_GAIN = 1e-3
MAX_STEPS = 100


def refit(dense: np.ndarray, start: np.ndarray, kept: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """The weights fitted to the dense layer's output, from `start` on.

    Args:
        dense: (groups, rows, columns) float32.
        start: the same shape; a first guess, zero where `kept` is not.
        kept: the same shape, bool.
        moment: (groups, columns, columns) float32, positive definite.
    """
    fitted = start.copy()
    diagonal = np.diagonal(moment, axis1=1, axis2=2)[:, None, :]
    change = dense - fitted
    residual = change @ moment
    lost = np.sum(residual * change, dtype=np.float64)
    residual *= kept
    direction = residual / diagonal
    slope = np.sum(residual * direction, axis=2, keepdims=True)
    for _ in range(MAX_STEPS):
        image = (direction @ moment) * kept
        length = _ratio(slope, np.sum(direction * image, axis=2, keepdims=True))
        fitted += length * direction
        residual -= length * image
        gained = np.sum(length * slope, dtype=np.float64)
        lost -= gained
        if gained <= LEAST_GAIN * lost:
            break
        scaled = residual / diagonal
        before, slope = slope, np.sum(residual * scaled, axis=2, keepdims=True)
        direction = scaled + _ratio(slope, before) * direction
    return fitted


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Of a row that is solved already, or keeps nothing: 0."""
    result: np.ndarray = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return result
