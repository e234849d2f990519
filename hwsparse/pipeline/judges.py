"""The data in three parts, so that nothing is judged on the samples that made it or chose it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from hwsparse.data import Dataset
from hwsparse.errors import DataError
from hwsparse.model import Model
from hwsparse.sparsify import Evaluator, Robustness
from hwsparse.sparsify.correction import SAMPLES
from hwsparse.target import Target

# Half of the data chooses; a third of that half fits weights, which look better on it than they are.
CALIBRATION_SHARE, FITTING_SHARE = 0.5, 1 / 3
MIN_LABELS = 6


@dataclass(frozen=True, slots=True)
class Judges:
    """Samples to fit weights on, who chooses plans by quality, and who only reports on them.

    `corrupted` report on the same samples as `reporting`, each under another corruption.
    """

    fitting: Dataset
    choosing: Evaluator
    reporting: Evaluator
    corrupted: tuple[Evaluator, ...] = ()

    @property
    def sample(self) -> dict[str, np.ndarray]:
        """One sample as the model takes it."""
        return {name: np.ascontiguousarray(values[:1]) for name, values in self.fitting.inputs.items()}

    def robustness(self, weights: Mapping[str, np.ndarray]) -> Robustness | None:
        """What these weights are worth under corruption; None where there is none to judge it by."""
        return Robustness.of(self.corrupted, weights) if self.corrupted else None

    def robustness_of(self, other: Model) -> Robustness | None:
        """What another model is worth under the same corruption; None where there is none to judge it by."""
        return Robustness.of([each.beside(other) for each in self.corrupted], {}) if self.corrupted else None


def fitted_on(judges: Judges) -> int:
    """How many samples weights are fitted on: by pruning, by correction, and by narrowing alike."""
    return min(SAMPLES, judges.fitting.rows)


def appoint_judges(
    model: Model, dataset: Dataset, target: Target, seed: int, corrupted: Iterable[Dataset] = ()
) -> Judges:
    """Splits the data; equal data and seed are split the same way.

    Args:
        corrupted: the whole data set under one corruption each; what is held out of it is kept, and nothing else.

    Raises:
        DataError: the data do not fit the model, or are too few.
    """
    dataset.check_fits(model)
    if len(dataset) < MIN_LABELS:
        raise DataError(
            f"data set {dataset.name!r} has {len(dataset)} labels: to fit weights, choose plans and judge them on "
            f"different samples takes at least {MIN_LABELS}, and a sound choice some hundred"
        )
    chooses, reports = dataset.parted(CALIBRATION_SHARE, seed)
    fitting, choosing = dataset.subset(chooses).split(FITTING_SHARE, seed)
    return Judges(
        fitting,
        Evaluator(model, choosing, "calibration", target.host_cores, seed),
        Evaluator(model, dataset.subset(reports), "held-out", target.host_cores, seed),
        tuple(
            Evaluator(model, of_the_same(dataset, each).subset(reports), "held-out", target.host_cores, seed)
            for each in corrupted
        ),
    )


def of_the_same(dataset: Dataset, corrupted: Dataset) -> Dataset:
    """A data set under a corruption, once it is seen to have the labels of the data set as it is.

    Raises:
        DataError: it is another one.
    """
    if corrupted.metric != dataset.metric or not np.array_equal(corrupted.labels, dataset.labels):
        raise DataError(f"data set {corrupted.name!r} has other labels than {dataset.name!r}, or another metric")
    return corrupted
