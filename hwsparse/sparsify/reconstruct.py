"""Reconstruction: the weights that a mask keeps are fitted anew, so that the layer's output changes least.

The mask is that of `wanda`. For a row w with kept columns S and second moments H of the inputs, the p that
minimises the mean of ((w - p) x)^2 among those that are zero outside S solves H[S, S] p[S] = H[S, :] w. It
is the exact solution, for a given mask, of the problem that Optimal Brain Surgeon and its successors solve
step by step (Hassibi and Stork, NeurIPS 1992; Frantar and Alistarh, "Optimal Brain Compression", NeurIPS
2022, eq. 1).
"""

from __future__ import annotations

import numpy as np

from hwsparse.plan import Choice
from hwsparse.sparsify.statistics import LayerStatistics
from hwsparse.sparsify.wanda import wanda_mask

# Added to the diagonal, relative to its mean: inputs that never vary, or fewer samples than inputs, leave H singular.
DAMPING = 0.01


def reconstruct(weight: np.ndarray, statistics: LayerStatistics | None, choice: Choice, groups: int = 1) -> np.ndarray:
    """A canonical pruned weight, fitted to the dense layer's output.

    Without statistics it is pruned by magnitude, and the kept weights stay as they are; so do they where a
    layer is so wide that its statistics are a diagonal.

    Raises:
        PatternError: the weight's shape cannot have the pattern.
    """
    mask = wanda_mask(weight, statistics, choice, groups)
    pruned = np.where(mask, weight, np.float32(0))
    if statistics is None or statistics.second_moment.ndim == 2:
        return pruned  # where only a diagonal is known, inputs count as uncorrelated, and nothing makes up for another
    shape = (groups, weight.shape[0] // groups, -1)
    dense, fitted, kept = weight.reshape(shape), pruned.reshape(shape), mask.reshape(shape)
    for group, moment in enumerate(statistics.second_moment):
        ridge = DAMPING * float(np.mean(np.diag(moment)))
        if ridge > 0:  # else every input is zero, and so is the output
            fitted[group] = _fit(dense[group], kept[group], moment + ridge * np.eye(len(moment), dtype=np.float32))
    return fitted.reshape(weight.shape)


def _fit(dense: np.ndarray, kept: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Solves for all rows of one group; rows with the same mask, as in a block, are solved together."""
    fitted = np.zeros_like(dense)
    targets = dense @ moment
    masks, which = np.unique(kept, axis=0, return_inverse=True)
    for number, mask in enumerate(masks):
        rows, columns = np.flatnonzero(which.reshape(-1) == number), np.flatnonzero(mask)
        if columns.size == mask.size:
            fitted[rows] = dense[rows]
        elif columns.size:
            system = moment[np.ix_(columns, columns)]
            fitted[np.ix_(rows, columns)] = np.linalg.solve(system, targets[np.ix_(rows, columns)].T).T
    return fitted
