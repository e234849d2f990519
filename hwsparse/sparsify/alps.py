"""Pruning by the alternating direction method of multipliers: mask and weights are found together.

Meng, Behdin, Wang, Mazumder, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language
Models", NeurIPS 2024, algorithm 1: the layer's output error over W, a copy D of W that has the pattern, and a
multiplier V that draws the two together,

    W = (H + rho)^-1 (H W0 - V + rho D)        D = the nearest matrix of the pattern to W + V / rho
    V = V + rho (W - D)

with a growing penalty rho, until the mask of D stays; then least squares under that mask. The nearest matrix keeps
what is largest in sum of squares: all that has to be known of a pattern is its mask. Inputs are scaled to equal power
(section 3.3), so that the first D is what `wanda` keeps.

Here rho grows by the same factor in every step, whatever the mask does: by 1.1 that was as good as the paper's
schedule, in two thirds of the steps (ResNet-20 on CIFAR-10, four patterns); by 1.15 it takes two thirds of that again,
and errors grow by one to two hundredths of themselves (layers of MiniLM, six choices).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from hwsparse.pattern import Channel
from hwsparse.plan import Choice
from hwsparse.sparsify.least_squares import refit
from hwsparse.sparsify.mask import make_mask
from hwsparse.sparsify.output_power import least_powerful_gone
from hwsparse.sparsify.statistics import LayerStatistics
from hwsparse.sparsify.wanda import wanda

FIRST_PENALTY = 0.03  # inputs have power 1
GROWTH = 1.15
MAX_STEPS = 42
# After so many steps without a change of the mask it is taken as found.
PATIENCE = 4


def alps(weight: np.ndarray, statistics: LayerStatistics | None, choice: Choice, groups: int = 1) -> np.ndarray:
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
    problem = _problem(statistics)
    dense: np.ndarray = weight.reshape(groups, weight.shape[0] // groups, -1) * problem.scale

    def largest(matrix: np.ndarray) -> np.ndarray:
        mask = make_mask(np.square(matrix).reshape(weight.shape), choice, groups)
        return np.reshape(mask, dense.shape)

    first = kept = largest(dense)
    copy = dense * kept
    multiplier = np.zeros_like(dense)
    image = dense @ problem.moment
    penalty, since = FIRST_PENALTY, 0
    for _ in range(MAX_STEPS):
        solved = problem.solve(image - multiplier + penalty * copy, penalty)
        near = solved + multiplier / penalty
        before, kept = kept, largest(near)
        copy = near * kept
        since = since + 1 if np.array_equal(kept, before) else 0
        if since == PATIENCE:
            break
        multiplier += penalty * (solved - copy)
        penalty *= GROWTH
    fitted = refit(dense, copy, kept, problem.moment)
    if problem.lost(dense - dense * first) < problem.lost(dense - fitted):  # of few weights, a mask may be a bad one
        fitted = refit(dense, dense * first, first, problem.moment)
    return np.asarray(fitted / problem.scale, np.float32).reshape(weight.shape)


@dataclass(frozen=True, slots=True)
class _Problem:
    """A layer's damped moments with inputs scaled to power 1: (groups, columns, columns) = basis values basis^T."""

    moment: np.ndarray
    scale: np.ndarray  # of the weights, (groups, 1, columns)
    values: np.ndarray  # (groups, 1, columns)
    basis: np.ndarray

    def solve(self, rows: np.ndarray, penalty: float) -> np.ndarray:
        """rows (moment + penalty)^-1."""
        return np.asarray((rows @ self.basis) / (self.values + np.float32(penalty)) @ self.basis.transpose(0, 2, 1))

    def lost(self, change: np.ndarray) -> float:
        """The squared change of the output that a change of the weights makes."""
        return float(np.sum((change @ self.moment) * change, dtype=np.float64))


# A layer is pruned in several ways, one after the other, by a process that has one at a time: a wide one's are large.
@functools.lru_cache(maxsize=1)
def _problem(statistics: LayerStatistics) -> _Problem:
    damped = statistics.damped()
    scale = np.sqrt(np.diagonal(damped, axis1=1, axis2=2))
    moment = damped / (scale[:, :, None] * scale[:, None, :])
    values, basis = np.linalg.eigh(moment)
    return _Problem(moment, scale[:, None, :], np.maximum(values, 0)[:, None, :], basis)
