"""Least squares under a mask: the kept weights that change a layer's output least.

For rows W, second moments H of the inputs and a mask, the P that minimises tr((W - P) H (W - P)^T) among those that
are zero where the mask is. Each row has its own system, of the columns that it keeps. Conjugate gradients (Hestenes
and Stiefel, 1952), preconditioned by the diagonal, approach all of them together in products of whole matrices
(`refit`): few steps do, from a good start. Where rows share a mask, as those of a block do, or keep little, to factor
each system (Cholesky) is as fast, and needs no start (`solved`).

Knows no patterns and no data.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg.lapack import sposv

# Enough is what gains less than that share of the error that is left.
LEAST_GAIN = 1e-3
MAX_STEPS = 100
# From a poor start so many steps are usual. To factor takes so much longer a multiply-add than products of large
# matrices do, and to begin with a system as long as so many of these.
USUAL_STEPS, FACTORING, BEGINNING = 12, 4, 1e6


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


def solved(wanted: np.ndarray, kept: np.ndarray, moment: np.ndarray) -> np.ndarray | None:
    """P, zero where `kept` is not, with P H as `wanted` where it is: of W H, the weights fitted to W.

    Args:
        wanted: (groups, rows, columns) float32.
        kept: the same shape, bool.
        moment: (groups, columns, columns) float32.

    Returns:
        None: to approach it is faster, or H is not positive definite as far as float32 can tell.
    """
    shared = [list(_rows_by_mask(each)) for each in kept]
    sizes = [(len(columns), len(rows)) for each in shared for rows, columns in each]
    approaching = USUAL_STEPS * kept.size * kept.shape[2]
    if sum(FACTORING * size**2 * (size / 6 + rows) + BEGINNING for size, rows in sizes) > approaching:
        return None
    found = np.zeros_like(wanted)
    for own, each, right, square in zip(found, shared, wanted, moment, strict=True):
        for rows, columns in each:
            # Symmetric, so that its transpose, which is in LAPACK's order, is as good.
            system, place = square[np.ix_(columns, columns)].T, np.ix_(rows, columns)
            _, result, failed = sposv(system, right[place].T, overwrite_a=True, overwrite_b=True)
            if failed:
                return None
            own[place] = result.T
    return found


def _rows_by_mask(kept: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that keep the same columns, and these columns; rows that keep none are left out."""
    masks, which = np.unique(np.packbits(kept, axis=1), axis=0, return_inverse=True)
    by_mask = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which, minlength=len(masks)))[:-1])
    for rows in by_mask:
        columns = np.flatnonzero(kept[rows[0]])
        if len(columns):
            yield rows, columns


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Of a row that is solved already, or keeps nothing: 0."""
    result: np.ndarray = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return result
