"""How good a model's answers are with pruned weights, by onnxruntime, with an interval.

Splits are the caller's: what chooses a plan and what
reports it must be different samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnxruntime

from hwsparse.data import Dataset
from hwsparse.errors import DataError
from hwsparse.model import Model
from hwsparse.sparsify.apply import pruned_proto

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class QualityReport:
    """A metric on one split of a data set, with its 95 % bootstrap interval; more is better."""

    metric: str
    value: float
    interval: tuple[float, float]
    samples: int
    dataset: str
    split: str


class Evaluator:
    """Evaluates weights of one model on one split of a data set, `threads` samples at a time."""

    def __init__(self, model: Model, dataset: Dataset, split: str, threads: int = 1, seed: int = 0) -> None:
        """Prepares an evaluator.

        Raises:
            DataError: the data set does not fit the model.
        """
        dataset.check_fits(model)
        self._model, self._dataset, self._split, self._threads = model, dataset, split, threads
        # The same resamples for every plan: differences between plans are then paired.
        self._resamples = np.random.default_rng(seed).integers(0, len(dataset), (RESAMPLES, len(dataset)))

    def evaluate(self, weights: Mapping[str, np.ndarray]) -> QualityReport:
        """The quality with these canonical weights by layer name; other layers keep the model's own."""
        outputs = self._outputs(weights)
        scorer = METRICS[self._dataset.metric](outputs, self._dataset.labels)
        values = np.array([scorer(rows) for rows in self._resamples])
        low, high = np.percentile(values, (2.5, 97.5))
        value = scorer(np.arange(len(self._dataset)))
        return QualityReport(
            self._dataset.metric,
            value,
            (min(float(low), value), max(float(high), value)),
            len(self._dataset),
            self._dataset.name,
            self._split,
        )

    def _outputs(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """The first output for every row of inputs: (rows, ...) float64.

        Raises:
            DataError: an output is not finite.
        """
        session = self._session(weights)
        name = session.get_outputs()[0].name
        inputs = self._dataset.inputs

        def answer(row: int) -> np.ndarray:
            (output,) = session.run([name], {key: values[row : row + 1] for key, values in inputs.items()})
            return np.asarray(output[0], np.float64)

        with ThreadPoolExecutor(self._threads) as pool:
            outputs = np.stack(list(pool.map(answer, range(self._dataset.rows))))
        if not np.isfinite(outputs).all():
            row = int(np.argwhere(~np.isfinite(outputs))[0][0])
            raise DataError(
                f"{self._model.name} gives a value that is not finite on sample {row} of {self._dataset.name}"
            )
        return outputs

    def _session(self, weights: Mapping[str, np.ndarray]) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        # Samples run side by side, each on one thread: faster than one sample on all.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Not SessionOptions.add_initializer: onnxruntime's layout optimiser keeps the weights that it
        # replaces, so that convolutions would silently be evaluated dense.
        proto = pruned_proto(self._model, weights)
        return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])


Scorer = Callable[[np.ndarray], float]  # indices of labelled samples -> the metric on them


def top1(outputs: np.ndarray, labels: np.ndarray) -> Scorer:
    """The share of samples whose highest output is the label's."""
    correct = outputs.reshape(len(labels), -1).argmax(axis=1) == labels
    return lambda rows: float(correct[rows].mean())


def spearman(outputs: np.ndarray, labels: np.ndarray) -> Scorer:
    """Rank correlation of the labels with the cosine of each pair's two embeddings (rows 2i and 2i + 1)."""
    vectors = outputs.reshape(len(outputs), -1)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = (vectors[0::2] * vectors[1::2]).sum(axis=1)

    def score(rows: np.ndarray) -> float:
        a, b = ranks(cosines[rows]), ranks(labels[rows])
        if a.std() == 0 or b.std() == 0:
            return 0.0
        return float(np.corrcoef(a, b)[0, 1])

    return score


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse]


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], Scorer]] = {"top1": top1, "spearman": spearman}
