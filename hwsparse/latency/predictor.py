"""The time of layers that were never measured, learned from those that were.

A layer's parts each take their time, the same for all layers of a kernel family: a non-negative least-squares fit
(Lawson and Hanson, Solving Least Squares Problems, 1974) of relative errors. What is left, caches and the like, is
learned by gradient-boosted trees (Friedman, Greedy function approximation, 2001) from parts and traits, as the
logarithm of a factor. How far predictions are off is told by layers that took no part: intervals are conformal, by
cross-validation over whole layers (Vovk, Cross-conformal predictors, 2015).

Knows counts and seconds only: no layers, kernels or devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwsparse.errors import MeasureError
from hwsparse.work import Work

CONFIDENCE = 0.9
FOLDS = 10
# With fewer layers nothing can be said about others.
MIN_LAYERS = 5
TREES = {"n_estimators": 300, "max_depth": 3, "learning_rate": 0.05, "subsample": 0.7, "random_state": 0}
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
    """Predicts seconds from work; made by `fit`."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """Learns from all examples; use `fit`, which tells how far off that is."""
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
        self.spread = math.inf

    @classmethod
    def fit(cls, examples: Sequence[Example]) -> Predictor:
        """Learns from examples, and from how well parts of them predict the others how far off predictions are.

        Raises:
            MeasureError: they are of too few layers.
        """
        from sklearn.model_selection import GroupKFold

        layers = [example.layer for example in examples]
        if len(set(layers)) < MIN_LAYERS:
            raise MeasureError(f"{len(set(layers))} layers are measured; predicting others takes at least {MIN_LAYERS}")
        errors = []
        for known, left_out in GroupKFold(min(FOLDS, len(set(layers)))).split(examples, groups=layers):
            part = cls([examples[at] for at in known])
            others = [examples[at] for at in left_out]
            errors += [abs(math.log(part.seconds(each.work) / each.seconds)) for each in others]
        whole = cls(examples)
        whole.spread = conformal(errors)
        return whole

    def seconds(self, work: Work) -> float:
        """The time that is most likely."""
        return float(self._sums([work])[0] * math.exp(float(self._trees.predict(self._columns([work]))[0])))

    def interval(self, work: Work) -> tuple[float, float]:
        """Seconds that enclose the time nine times out of ten, of layers like those learned from."""
        seconds = self.seconds(work)
        return seconds * math.exp(-self.spread), seconds * math.exp(self.spread)

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


def conformal(errors: Sequence[float]) -> float:
    """The error that so many of new ones stay below as `CONFIDENCE` says."""
    rank = math.ceil(CONFIDENCE * (len(errors) + 1))
    return math.inf if rank > len(errors) else sorted(errors)[rank - 1]
