"""How good a model's answers are with pruned weights, by onnxruntime, with an interval.

Splits are the caller's: what chooses a plan and what reports it must be different samples.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwsparse.data import Dataset
from hwsparse.data.answers import Respondent, fewer_tokens
from hwsparse.model import Model
from hwsparse.sparsify.apply import pruned_apart
from hwsparse.sparsify.scores import SCORERS

RESAMPLES = 1000
# What is hopeless shows on this share of the samples, unless they are too few to tell anything: where the quality, so
# many standard errors of the loss better than it looks, would still be too low.
FIRST_SHARE, FEWEST, SURE = 0.25, 30, 3.0
# Of the counts that resampling makes, so many at a time: 8 MB.
_COUNTS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class QualityReport:
    """A metric on one split of a data set, with its 95 % bootstrap interval; more is better.

    `drop` is what was lost against the dense model on the same samples. Its interval and its standard error
    are of the difference, sample by sample: much narrower than those of the two values.
    """

    metric: str
    value: float
    interval: tuple[float, float]
    drop: float
    drop_interval: tuple[float, float]
    drop_error: float
    samples: int
    dataset: str
    split: str


@dataclass(frozen=True, slots=True)
class Robustness:
    """The mean of a metric over corruptions of one split of a data set, with its 95 % bootstrap interval over samples.

    `corruptions` are the names of the data sets that it is the mean of.
    """

    value: float
    interval: tuple[float, float]
    corruptions: tuple[str, ...]

    @classmethod
    def of(cls, evaluators: Sequence[Evaluator], weights: Mapping[str, np.ndarray]) -> Robustness:
        """The robustness with these weights, by evaluators as `mean_resampled` takes them."""
        means = mean_resampled(evaluators, weights)
        return cls(float(means[0]), resampled_interval(means), tuple(each.dataset.name for each in evaluators))


class Evaluator:
    """Evaluates weights of one model on one split of a data set, `threads` samples at a time."""

    def __init__(self, model: Model, dataset: Dataset, split: str, threads: int = 1, seed: int = 0) -> None:
        """Prepares an evaluator.

        Raises:
            DataError: the data set does not fit the model.
        """
        dataset.check_fits(model)
        self.dataset = dataset
        self._model, self._split, self._threads, self._seed = model, split, threads, seed
        order = np.random.default_rng(seed).permutation(len(dataset))
        first = round(FIRST_SHARE * len(dataset))
        # Places of labels: of all, and of two parts, of which the first may be enough.
        self._all, self._first, self._rest = np.arange(len(dataset)), np.sort(order[:first]), np.sort(order[first:])
        self._fewer: tuple[int, ...] | None = None
        self._dense: np.ndarray | None = None
        self._dense_scores: np.ndarray | None = None

    def evaluate(self, weights: Mapping[str, np.ndarray], at_least: float = -math.inf) -> QualityReport:
        """The quality with these canonical weights by layer name, and constants by theirs, in the place of the model's.

        Args:
            weights: none of them: the model's own.
            at_least: a quality; where a part of the samples shows that it is not reached, the report is of that part.

        Raises:
            ModelError: a weight or constant is not of the model, or has not its shape.
            DataError: onnxruntime cannot run a sample, or gives a value that is not finite.
        """
        if not weights:
            return self._report(self._all, self._dense_answers())
        asked = self._respondent(weights)
        if at_least == -math.inf or len(self._first) < FEWEST:
            return self._report(self._all, asked.answers(self.dataset))
        first, rest = self._rows(self._first), self._rows(self._rest)
        seen = asked.answers(self.dataset, first)
        so_far = self._report(self._first, seen)
        # Where all of a few samples agree, that the next one does not is as likely as one in so many.
        error = max(so_far.drop_error, 1 / len(self._first))
        if float(self._scores_of_dense()[0]) - so_far.drop + SURE * error < at_least:
            return so_far
        outputs = np.empty((self.dataset.rows, seen.shape[1]))
        outputs[first], outputs[rest] = seen, asked.answers(self.dataset, rest)
        return self._report(self._all, outputs)

    def evaluate_other(self, other: Model) -> QualityReport:
        """The quality of another model on the same samples, such as a narrower one; its drop is against this one.

        Raises:
            DataError: the data do not fit it, onnxruntime cannot run a sample, or gives a value that is not finite.
        """
        return self._report(self._all, self.beside(other)._dense_answers())

    def beside(self, other: Model) -> Evaluator:
        """An evaluator of another model on the same samples.

        Raises:
            DataError: the data do not fit it.
        """
        return Evaluator(other, self.dataset, self._split, self._threads, self._seed)

    def on_one_thread(self) -> Evaluator:
        """The same, for a process that has one CPU to itself; what this one knows of the dense model, it knows too."""
        alone = copy.copy(self)
        alone._threads = 1
        return alone

    def resampled(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """The metric with these weights on all samples, and after it on every resample: (1 + RESAMPLES,).

        Resamples are the same for all weights, so that what is told of a difference is told of pairs.

        Raises:
            ModelError: a weight does not have its layer's shape.
            DataError: onnxruntime cannot run a sample, or gives a value that is not finite.
        """
        return self._scores(self._all, self._respondent(weights).answers(self.dataset))

    def _report(self, labels: np.ndarray, outputs: np.ndarray) -> QualityReport:
        """Of the labels at these places, and the answers for their rows."""
        values = self._scores(labels, outputs)
        whole = labels is self._all
        dense = self._scores_of_dense() if whole else self._scores(labels, self._dense_answers()[self._rows(labels)])
        drops = dense - values
        return QualityReport(
            self.dataset.metric,
            float(values[0]),
            resampled_interval(values),
            float(drops[0]),
            resampled_interval(drops),
            float(drops[1:].std()),
            len(labels),
            self.dataset.name,
            self._split,
        )

    def _respondent(self, weights: Mapping[str, np.ndarray]) -> Respondent:
        # Not SessionOptions.add_initializer: onnxruntime's layout optimiser keeps the weights that it
        # replaces, so that convolutions would silently be evaluated dense.
        if self._fewer is None:
            self._fewer = fewer_tokens(self._model, self.dataset)
        return Respondent(pruned_apart(self._model, weights), self._model.name, self._threads, self._fewer)

    def _scores(self, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        scorer = SCORERS[self.dataset.metric](outputs, self.dataset.labels[labels])
        resampled = [scorer(counts) for counts in _resampled(len(labels), self._seed)]
        return np.concatenate([scorer(np.ones((1, len(labels)))), *resampled])

    def _rows(self, labels: np.ndarray) -> np.ndarray:
        """Places of the rows that labels at these places speak of."""
        step = self.dataset.rows_per_label
        rows: np.ndarray = (labels[:, None] * step + np.arange(step)).ravel()
        return rows

    def _dense_answers(self) -> np.ndarray:
        if self._dense is None:
            self._dense = self._respondent({}).answers(self.dataset)
        return self._dense

    def _scores_of_dense(self) -> np.ndarray:
        if self._dense_scores is None:
            self._dense_scores = self._scores(self._all, self._dense_answers())
        return self._dense_scores


def mean_resampled(evaluators: Sequence[Evaluator], weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """The mean of what evaluators of the same samples, each corrupted in another way, find: as `Evaluator.resampled`.

    Raises:
        ModelError, DataError: as there.
    """
    return np.asarray(np.mean([evaluator.resampled(weights) for evaluator in evaluators], axis=0))


def resampled_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % of the resamples; the value itself, which comes first, is always within."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return min(float(low), float(values[0])), max(float(high), float(values[0]))


def _resampled(samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each sample counts in each of RESAMPLES draws with replacement, some draws at a time.

    The same draws for every plan: differences between plans are then paired.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, _COUNTS_AT_ONCE // samples)
    for start in range(0, RESAMPLES, at_once):
        draws = min(at_once, RESAMPLES - start)
        drawn = rng.integers(0, samples, (draws, samples)) + samples * np.arange(draws)[:, None]
        yield np.bincount(drawn.ravel(), minlength=draws * samples).reshape(draws, samples).astype(np.float64)
