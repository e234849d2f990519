"""Our own Optuna sampler: proposes the plan that should add most to the front.

Candidates are the additive surrogate's whole fronts, by the likeliest coefficients and by others that trials allow
(Thompson, Biometrika 25, 1933), and plans near those on the front, a step along the layers' hulls away. Their latency
is known, their quality told by what trials taught (quality_model.py); that which is expected to add the most area to
the front is proposed (improvement.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from hwsparse.plan import Plan
from hwsparse.search.additive import Additive
from hwsparse.search.improvement import expected_improvement
from hwsparse.search.pareto import staircase
from hwsparse.search.quality_model import QualityModel
from hwsparse.search.space import SettledChoices
from hwsparse.search.trials import ANSWERED, quality_of

# Coefficients drawn to average predictions over; of so many, and of the likeliest, the fronts are candidates.
DRAWS, FRONTS = 12, 6
# Of each front so many at most: neighbours differ by one layer's step.
PER_FRONT = 150
# Plans near those on the front, and how many layers differ at most.
NEIGHBOURS, MOST_MOVES = 300, 3
# So many of the best are looked at for one that fits.
CHECKED = 50


@dataclass(frozen=True, slots=True)
class Aims:
    """What is worth having.

    `worst_drop`: quality below the dense network's by more than this is not; None: any that was seen is.
    `max_latency_s`: nor is latency above it. `fits`: whether a plan keeps to what else is asked of it.
    """

    worst_drop: float | None = None
    max_latency_s: float | None = None
    fits: Callable[[Plan], bool] = lambda plan: True


class FrontSampler(BaseSampler):
    """Proposes by everything that was evaluated; the same seed and trials give the same proposal."""

    def __init__(self, additive: Additive, settled: SettledChoices, aims: Aims, seed: int) -> None:
        """For one study.

        Args:
            additive: of the plans that can be had.
            settled: what the study's parameters are.
            aims: what to search for.
        """
        self._additive, self._settled, self._aims = additive, settled, aims
        self._rng = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: CategoricalDistribution(texts) for name, texts in self._settled.layers}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        # What others tried and cannot be had here tells nothing that could be used.
        tried = [each for each in study.get_trials(deepcopy=False) if self._additive.has(each.params)]
        tried_rows = [self._additive.row(each.params) for each in tried]
        known = {row.tobytes() for row in tried_rows}
        judged = [
            (row, quality_of(each)) for row, each in zip(tried_rows, tried, strict=True) if each.state in ANSWERED
        ]
        if not judged or not self._additive.layers:
            return {}  # then each choice is drawn alone
        rows, qualities = zip(*judged, strict=True)
        timed = [(row, each.values[0]) for row, each in zip(tried_rows, tried, strict=True) if each.values]
        row = self._proposed(np.stack(rows), np.array(qualities), known, self._slowest_s(timed))
        return {**dict.fromkeys(search_space, "dense"), **self._additive.texts(row)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _slowest_s(self, timed: Sequence[tuple[np.ndarray, float]]) -> float:
        """The most that a plan's layers may take for the network to keep to its limit.

        What lies between layers is told by trials, of layers and of networks: a straight line.
        """
        limit_s = self._aims.max_latency_s
        if limit_s is None or not timed:
            return math.inf
        rows, networks_s = zip(*timed, strict=True)
        layers_s = self._additive.latencies(np.stack(rows))
        if np.ptp(layers_s) == 0:
            return math.inf
        scale, offset = np.polyfit(layers_s, networks_s, 1)
        return float((limit_s - offset) / scale) if scale > 0 else math.inf

    def _proposed(self, rows: np.ndarray, qualities: np.ndarray, known: set[bytes], slowest_s: float) -> np.ndarray:
        additive, rng = self._additive, self._rng
        model = QualityModel.fit(additive.errors(rows), qualities)
        latencies = additive.latencies(rows)
        dense = np.zeros((1, rows.shape[1]), np.int64)
        slowest_s = min(slowest_s, float(additive.latencies(dense)[0]))
        floor = float(qualities.min())
        if self._aims.worst_drop is not None:
            floor = float(qualities[rows.sum(1) == 0].max(initial=floor)) - self._aims.worst_drop
        reference = slowest_s, floor
        front = staircase(latencies, qualities)
        points = model.draw(rng, DRAWS)
        fronts = [_thinned(additive.front(np.exp(point[:-3]))) for point in (model.point, *points[:FRONTS])]
        near = additive.near(rows[front], rng, NEIGHBOURS, MOST_MOVES)
        fresh = {row.tobytes(): row for row in np.concatenate([*fronts, near])}
        found = [row for text, row in fresh.items() if text not in known]
        if not found:  # all that is near was tried
            return rng.integers(0, additive.counts)
        candidates = np.stack(found)
        told = model.predict(additive.errors(candidates), points)
        places = np.column_stack([latencies, qualities])[front]
        gains = expected_improvement(additive.latencies(candidates), *told, places, reference)
        best = np.argsort(-gains, kind="stable")[:CHECKED]
        fitting = (at for at in best if self._aims.fits(additive.plan(candidates[at])))
        row: np.ndarray = candidates[next(fitting, best[0])]
        return row


def _thinned(front: np.ndarray) -> np.ndarray:
    """At most PER_FRONT plans of a front (n, L), evenly spaced, both ends among them."""
    count = min(len(front), PER_FRONT)
    return front[np.linspace(0, len(front) - 1, count).round().astype(np.int64)]
