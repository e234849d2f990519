"""What a reader found, before it is settled what a network is judged by on it.

Knows neither files nor how they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hwsparse.data.answers import labelled_by
from hwsparse.data.dataset import Dataset
from hwsparse.data.table import choose
from hwsparse.errors import DataError
from hwsparse.metric import METRICS, ROWS_PER_LABEL, Kind

if TYPE_CHECKING:
    from hwsparse.model import Model


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs by name, and labels where there are any.

    `kinds` are those that a metric of these samples can be of, the likeliest first; `metric` is what the data say of
    themselves. If that is of own answers, the labels are answers.
    """

    name: str
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    kinds: tuple[Kind, ...]
    metric: str | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that fit, the one that is taken if nobody says otherwise first; own answers can always be had."""
        answers = self.metric in METRICS and METRICS[self.metric].own
        fitting = [name for kind in self.kinds for name, metric in METRICS.items() if metric.kind == kind]
        return tuple(name for name in fitting if METRICS[name].own or (self.labels is not None and not answers))

    def drawn(self, limit: int, seed: int, metric: str | None = None) -> Samples:
        """At most so many labels' samples, drawn by the seed, in their order; `metric` as in `judged`."""
        step = self._rows_per_label(metric)
        count = self._rows() // step if self.labels is None else self.labels.size
        whole = all(array.ndim > 0 and len(array) == count * step for array in self.inputs.values())
        if not whole or (self.labels is not None and self.labels.ndim != 1):
            return self  # `judged` says what does not go together
        chosen = np.array(choose(count, limit, seed), np.int64)
        rows = (chosen[:, None] * step + np.arange(step)).ravel()
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[chosen])

    def _rows(self) -> int:
        return min((len(array) for array in self.inputs.values() if array.ndim), default=0)

    def _rows_per_label(self, metric: str | None) -> int:
        chosen = metric or self.metric or self.metrics[0]
        return ROWS_PER_LABEL[METRICS[chosen].kind] if chosen in METRICS else 1

    def judged(self, metric: str | None = None, model: Model | None = None) -> Dataset:
        """The data set of these samples under a metric.

        Args:
            metric: one of `metrics`; by default what the data say of themselves, or the first.
            model: the dense one, whose answers are the labels where the metric is of own answers.

        Raises:
            DataError: the metric does not fit; a model is needed and not known, or does not fit; or the arrays do not
                go together.
        """
        chosen = metric or self.metric or self.metrics[0]
        if chosen not in self.metrics:
            known = ", which has no labels" if METRICS[self.metrics[0]].own else ""
            raise DataError(
                f"metric {chosen!r} does not fit data set {self.name!r}{known}: use {' or '.join(self.metrics)}"
            )
        if self.labels is not None and (metric is None or not METRICS[chosen].own):
            return Dataset(self.name, self.inputs, self.labels, chosen)
        if model is None:
            why = "has no labels" if self.labels is None else f"is to be judged by {chosen}"
            raise DataError(f"data set {self.name!r} {why}: labels are then a model's own answers, so name the model")
        count = self._rows() // self._rows_per_label(chosen)
        return labelled_by(model, Dataset(self.name, self.inputs, np.zeros(count, np.int64), chosen))
