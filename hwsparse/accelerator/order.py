"""In which order the entries of a pass come from memory: beat after beat.

A beat is the next entry of every group of rows that has one left, the lowest group first: so all rows are filled side
by side, each by one word a cycle. Programs hold entries unit after unit; `Order` leads from one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsparse.accelerator.distribution import ABSENT


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Of one pass; all that is needed of it is what its head and its set's table say."""

    lengths: np.ndarray  # (groups,) entries of each group of rows
    _by_group: np.ndarray  # units of the set that are there, group after group

    @classmethod
    def of(cls, owners: np.ndarray, lengths: np.ndarray) -> Order:
        """Of a pass.

        Args:
            owners: (units,) the group of each unit of the set, or ABSENT.
            lengths: (groups,)
        """
        there = np.flatnonzero(owners != ABSENT)
        return cls(lengths, there[np.argsort(owners[there], kind="stable")])

    def beats(self) -> np.ndarray:
        """(entries,) of each that comes, its place among all were they to come group after group."""
        steps = np.arange(self.lengths.max(initial=0))[:, None]
        places = steps + np.cumsum(self.lengths) - self.lengths
        return np.asarray(places[steps < self.lengths])

    def by_unit(self, counts: np.ndarray) -> np.ndarray:
        """(entries,) of each, were they to come group after group, its place among all unit after unit.

        Args:
            counts: (units,) entries of each.
        """
        starts, own = (np.cumsum(counts) - counts)[self._by_group], counts[self._by_group]
        return np.asarray(np.repeat(starts - (np.cumsum(own) - own), own) + np.arange(own.sum()))

    def counts(self, found: np.ndarray, units: int) -> np.ndarray:
        """(units,) entries of each unit of the set.

        Args:
            found: of those that are there, group after group.
        """
        counts = np.zeros(units, np.int32)
        counts[self._by_group] = found
        return counts
