"""Pruning column by column, as SparseGPT does: what a dropped weight leaves undone, those to its right make up for.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can be Accurately Pruned in One-Shot", ICML 2023, algorithm
1: with the Cholesky factor U of H^-1 = U^T U the best update of all columns to the right of column c is

    W[:, c:] -= (W[:, c] - P[:, c]) / U[c, c] * U[c, c:]

and a weight's score is (W[:, c] / U[c, c])^2. Masks are chosen some input channels at a time, by scores of weights
that are already updated: of N:M, M channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from hwsparse.pattern import NM, Block, Channel, Pattern
from hwsparse.plan import Choice
from hwsparse.sparsify.mask import make_mask
from hwsparse.sparsify.output_power import least_powerful_gone
from hwsparse.sparsify.statistics import LayerStatistics
from hwsparse.sparsify.wanda import wanda

# About so many columns share a choice of mask: the paper's B_s.
COLUMNS = 128


def sparsegpt(weight: np.ndarray, statistics: LayerStatistics | None, choice: Choice, groups: int = 1) -> np.ndarray:
    """A canonical pruned weight, fitted to the dense layer's output.

    Without statistics, and where they are a diagonal because the layer is so wide, it is what `wanda` gives: weights
    that stand alone. Whole output channels stand alone as well: those of the least power go (`output_power`).

    Raises:
        PatternError: the weight's shape cannot have the pattern.
    """
    if statistics is None or statistics.apart:
        return wanda(weight, statistics, choice, groups)
    if isinstance(choice.pattern, Channel):
        return least_powerful_gone(weight, statistics, choice, groups)
    taps = math.prod(weight.shape[2:])
    inverse = np.linalg.inv(statistics.damped().astype(np.float64))
    upper = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    pivots = np.diagonal(upper, axis1=1, axis2=2)
    rows = weight.reshape(groups, weight.shape[0] // groups, -1).astype(np.float64)
    for first, last in _slices(choice.pattern, weight.shape[1], taps):
        channels = slice(first, last)
        begin, end = first * taps, last * taps
        scores = np.square(rows[:, :, begin:end] / pivots[:, None, begin:end]).reshape(weight[:, channels].shape)
        kept = make_mask(scores, choice, groups).reshape(groups, -1, end - begin)
        errors = np.zeros(kept.shape)
        for column in range(begin, end):
            dropped = np.where(kept[:, :, column - begin], 0, rows[:, :, column])
            errors[:, :, column - begin] = error = dropped / pivots[:, None, column]
            rows[:, :, column:end] -= error[:, :, None] * upper[:, None, column, column:end]
        rows[:, :, begin:end] *= kept
        rows[:, :, end:] -= errors @ upper[:, begin:end, end:]
    return rows.astype(np.float32).reshape(weight.shape)


def _slices(pattern: Pattern, inputs: int, taps: int) -> Iterator[tuple[int, int]]:
    """Input channels that share a choice of mask, from one to before another: as many as the pattern divides evenly.

    What is left over at the end goes with the last of them if it is too narrow for the pattern.
    """
    multiple = pattern.cols if isinstance(pattern, Block) else 1
    step = pattern.m if isinstance(pattern, NM) else multiple * max(1, round(COLUMNS / (taps * multiple)))
    starts = [first for first in range(0, inputs, step) if first == 0 or inputs - first >= multiple]
    yield from itertools.pairwise([*starts, inputs])
