"""The time of layers that were never measured, learned from those that were.

A layer's parts each take their time, the same for all layers of a kernel family: a non-negative least-squares fit
(Lawson and Hanson, Solving Least Squares Problems, 1974) of relative errors. What is left, caches and the like, is
learned by gradient-boosted trees (Friedman, Greedy function approximation, 2001) from parts and traits, as the
logarithm of a factor. How far predictions are off is told by layers that took no part.

Knows counts and seconds only: no layers, kernels or devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwsparse.errors import MeasureError
from hwsparse.work import Work

FOLDS = 10
# With fewer layers nothing can be said about others.
MIN_LAYERS = 5
TREES = {"n_estimators": 150, "max_depth": 3, "learning_rate": 0.1, "subsample": 0.7, "random_state": 0}
# How far beyond what was seen, as a factor, a trait or part still counts as seen.
MARGIN = 1.25
LEAST = 1e-3  # counts below are alike


@dataclass(frozen=True, slots=True)
class Example:
    """What a layer took; `layer` is equal for all ways in which one layer was measured."""

    layer: str
    work: Work
    seconds: float


class Predictor:
    """Predicts seconds from work."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """Learns from examples, of several layers."""
        # Not at the top: to import it takes a second, and few who import this predict.
        from sklearn.ensemble import GradientBoostingRegressor

        works = [example.work for example in examples]
        self._parts = sorted({name for each in works for name in each.parts})
        self._traits = sorted({name for each in works for name in each.traits})
        seconds = np.array([example.seconds for example in examples])
        self._rates = {
            family: _rates(self._matrix([works[at] for at in rows]), seconds[rows])
            for family, rows in _by_family(works).items()
        }
        self._ends = {
            family: (places.min(axis=0), places.max(axis=0))
            for family, rows in _by_family(works).items()
            for places in [self._places([works[at] for at in rows])]
        }
        columns = self._columns(works)
        self._trees = GradientBoostingRegressor(**TREES).fit(columns, np.log(seconds / self._sums(works)))

    def seconds(self, works: Sequence[Work]) -> np.ndarray:
        """The times that are most likely: (works,)."""
        return np.asarray(self._sums(works) * np.exp(self._trees.predict(self._columns(works))))

    def covers(self, work: Work) -> bool:
        """Whether layers like this one were learned from: of the family, and none of its counts beyond theirs."""
        if work.family not in self._ends:
            return False
        (low, high), (place,) = self._ends[work.family], self._places([work])
        return bool((place >= low - math.log(MARGIN)).all() and (place <= high + math.log(MARGIN)).all())

    def _matrix(self, works: Sequence[Work]) -> np.ndarray:
        """Parts: (works, parts)."""
        return np.array([[each.parts.get(name, 0.0) for name in self._parts] for each in works])

    def _columns(self, works: Sequence[Work]) -> np.ndarray:
        """What trees see: logarithms of parts and traits, -1 where there is none."""
        rows = [
            [_logarithm(each.parts.get(name)) for name in self._parts]
            + [_logarithm(each.traits.get(name)) for name in self._traits]
            for each in works
        ]
        return np.array(rows)

    def _places(self, works: Sequence[Work]) -> np.ndarray:
        """Where works lie among each other: plain logarithms of parts and traits."""
        rows = [
            [each.parts.get(name, 0.0) for name in self._parts] + [each.traits.get(name, 0.0) for name in self._traits]
            for each in works
        ]
        return np.asarray(np.log(np.maximum(np.array(rows), LEAST)))

    def _sums(self, works: Sequence[Work]) -> np.ndarray:
        """What the parts take together; by the rates of all families where the own one is unknown."""
        fallback = np.mean(list(self._rates.values()), axis=0)
        rates = np.array([self._rates.get(each.family, fallback) for each in works])
        return np.asarray(np.maximum((self._matrix(works) * rates).sum(axis=1), 1e-12))


@dataclass(frozen=True, slots=True)
class Miss:
    """How far off the prediction of an example was that had no part in it."""

    deviation: float  # logarithm of what was measured over what was predicted
    covered: bool


def misses(examples: Sequence[Example]) -> list[Miss]:
    """Of each example, what is predicted from other layers alone: in `FOLDS` parts, each of whole layers.

    Raises:
        MeasureError: they are of too few layers.
    """
    from sklearn.model_selection import GroupKFold

    layers = [example.layer for example in examples]
    if len(set(layers)) < MIN_LAYERS:
        raise MeasureError(f"{len(set(layers))} layers are measured; predicting others takes at least {MIN_LAYERS}")
    found: dict[int, Miss] = {}
    for known, left_out in GroupKFold(min(FOLDS, len(set(layers)))).split(examples, groups=layers):
        predictor = Predictor([examples[at] for at in known])
        predicted_s = predictor.seconds([examples[at].work for at in left_out])
        for at, likely_s in zip(left_out, predicted_s, strict=True):
            found[at] = Miss(math.log(examples[at].seconds / likely_s), predictor.covers(examples[at].work))
    return [found[at] for at in range(len(examples))]


def _by_family(works: Sequence[Work]) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = {}
    for at, each in enumerate(works):
        found.setdefault(each.family, []).append(at)
    return found


def _rates(parts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Seconds that one of each part takes: (parts,), none negative, with the least relative error."""
    from scipy.optimize import nnls

    scale = np.maximum(parts.max(axis=0), 1e-30)
    rates, _ = nnls(parts / scale / seconds[:, None], np.ones(len(seconds)))
    return np.asarray(rates / scale)


def _logarithm(count: float | None) -> float:
    return -1.0 if count is None else math.log1p(count)
