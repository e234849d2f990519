"""Which channels and heads a network misses least: structured optimal brain surgeon.

Kurtic, Frantar, Alistarh, "ZipLM: Inference-Aware Structured Pruning of Language Models", NeurIPS 2023, algorithm 1.
Removing the columns S of a layer's weight W, and fitting the others anew, changes its output by

    tr(W_S ((H^-1)_SS)^-1 W_S^T)        W <- W - W_S ((H^-1)_SS)^-1 (H^-1)_S

(equations 2 and 3), H the second moments of its inputs. Columns go one step after the other, and both W and H^-1 are
brought up to date in between, so that what is left makes up for what has gone. A unit that several layers read costs
what it costs all of them, each relative to its output. Here a step takes a few units and not one: the cheapest
PORTION of those left.

With the identity for H it is magnitude: a unit costs the power of the weights that read it, and nothing is made up for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PORTION = 1 / 32


class Reader:
    """A layer that reads units, while they are removed one after the other."""

    def __init__(self, weight: np.ndarray, moment: np.ndarray, units: np.ndarray) -> None:
        """Prepares a layer.

        Args:
            weight: canonical, of a layer in one group.
            moment: H, of full rank, (columns, columns).
            units: the unit of each column, (columns,); others than those asked for stay.
        """
        moment = moment.astype(np.float64)
        rows = weight.reshape(len(weight), -1).astype(np.float64)
        self._energy = max(float(np.sum((rows @ moment) * rows)), np.finfo(np.float64).tiny)
        self._weight, self._inverse, self._units = rows, np.linalg.inv(moment), units

    def costs(self, units: Sequence[int]) -> np.ndarray:
        """What each unit's removal would add to the output's error, relative to the output, (units,)."""
        costs = np.zeros(len(units))
        columns = [np.flatnonzero(self._units == unit) for unit in units]
        sizes = np.array([own.size for own in columns])
        for size in set(sizes.tolist()) - {0}:
            places = np.flatnonzero(sizes == size)
            own = np.stack([columns[place] for place in places])  # (units, size)
            gone = self._weight[:, own].transpose(1, 2, 0)
            solved = np.linalg.solve(self._inverse[own[:, :, None], own[:, None, :]], gone)
            costs[places] = np.sum(solved * gone, axis=(1, 2)) / self._energy
        return costs

    def remove(self, units: Sequence[int]) -> None:
        """Removes units, and fits what is left."""
        gone = np.isin(self._units, units)
        if gone.any():
            kept = ~gone
            across = np.linalg.solve(self._inverse[np.ix_(gone, gone)], self._inverse[np.ix_(gone, kept)])
            self._weight = self._weight[:, kept] - self._weight[:, gone] @ across
            self._inverse = self._inverse[np.ix_(kept, kept)] - self._inverse[np.ix_(kept, gone)] @ across
            self._units = self._units[kept]


def removal_order(units: Sequence[int], readers: Sequence[Reader]) -> list[int]:
    """The units from the one that is missed least to the last one; with no reader in the order given."""
    left, order = list(units), []
    while left:
        costs = sum((reader.costs(left) for reader in readers), np.zeros(len(left)))
        count = max(1, round(PORTION * len(left)))
        going = [left[place] for place in np.argsort(costs, kind="stable")[:count]]
        for reader in readers:
            reader.remove(going)
        order += going
        gone = set(going)
        left = [unit for unit in left if unit not in gone]
    return order
