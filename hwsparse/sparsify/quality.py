"""How good a model's answers are with pruned weights, by onnxruntime, with an interval.

Splits are the caller's: what chooses a plan and what reports it must be different samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnxruntime

from hwsparse.data import Dataset
from hwsparse.errors import DataError, one_line
from hwsparse.model import Model
from hwsparse.sparsify.apply import pruned_proto

RESAMPLES = 1000
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
        self._dense: np.ndarray | None = None

    def evaluate(self, weights: Mapping[str, np.ndarray]) -> QualityReport:
        """The quality with these canonical weights by layer name, and constants by theirs, in the place of the model's.

        Raises:
            ModelError: a weight or constant is not of the model, or has not its shape.
            DataError: onnxruntime cannot run a sample, or gives a value that is not finite.
        """
        values = self.resampled(weights) if weights else self._dense_values()
        drops = self._dense_values() - values
        return QualityReport(
            self.dataset.metric,
            float(values[0]),
            resampled_interval(values),
            float(drops[0]),
            resampled_interval(drops),
            float(drops[1:].std()),
            len(self.dataset),
            self.dataset.name,
            self._split,
        )

    def resampled(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """The metric with these weights on all samples, and after it on every resample: (1 + RESAMPLES,).

        Resamples are the same for all weights, so that what is told of a difference is told of pairs.

        Raises:
            PlanError: a weight does not have its layer's shape.
            DataError: onnxruntime cannot run a sample, or gives a value that is not finite.
        """
        samples = len(self.dataset)
        scorer = METRICS[self.dataset.metric](self._outputs(weights), self.dataset.labels)
        resampled = [scorer(counts) for counts in _resampled(samples, self._seed)]
        return np.concatenate([scorer(np.ones((1, samples))), *resampled])

    def _dense_values(self) -> np.ndarray:
        if self._dense is None:
            self._dense = self.resampled({})
        return self._dense

    def _outputs(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """The first output for every row of inputs, flat: (rows, values) float64."""
        session = self._session(weights)
        name = session.get_outputs()[0].name
        inputs = self.dataset.inputs

        def answer(row: int) -> np.ndarray:
            try:
                (output,) = session.run([name], {key: values[row : row + 1] for key, values in inputs.items()})
            except Exception as error:  # onnxruntime's exceptions share no base but Exception
                raise DataError(
                    f"onnxruntime cannot run sample {row} of {self.dataset.name}: {one_line(error)}"
                ) from None
            return np.asarray(output, np.float64).reshape(-1)

        with ThreadPoolExecutor(self._threads) as pool:
            outputs = np.stack(list(pool.map(answer, range(self.dataset.rows))))
        if not np.isfinite(outputs).all():
            row = int(np.argwhere(~np.isfinite(outputs))[0][0])
            raise DataError(
                f"{self._model.name} gives a value that is not finite on sample {row} of {self.dataset.name}"
            )
        return outputs

    def _session(self, weights: Mapping[str, np.ndarray]) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        # Samples run side by side, each on one thread: faster than one sample on all.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what matters of its log is in the exception
        # Not SessionOptions.add_initializer: onnxruntime's layout optimiser keeps the weights that it
        # replaces, so that convolutions would silently be evaluated dense.
        proto = pruned_proto(self._model, weights)
        return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])


# How often each labelled sample counts, (resamples, samples) -> the metric of each resample.
Scorer = Callable[[np.ndarray], np.ndarray]


def top1(outputs: np.ndarray, labels: np.ndarray) -> Scorer:
    """The share of samples whose highest output is the label's; `outputs` is (samples, classes)."""
    correct = (outputs.argmax(axis=1) == labels).astype(np.float64)
    return lambda counts: counts @ correct / counts.sum(axis=1)


def spearman(outputs: np.ndarray, labels: np.ndarray) -> Scorer:
    """Rank correlation of the labels with the cosine of each pair's two embeddings (rows 2i and 2i + 1).

    A resample whose labels, or cosines, are all equal has correlation 0.
    """
    vectors = outputs / np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), 1e-12)
    rank_cosines = ranking((vectors[0::2] * vectors[1::2]).sum(axis=1))
    rank_labels = ranking(labels)

    def correlation(counts: np.ndarray) -> np.ndarray:
        middle = (counts.sum(axis=1, keepdims=True) - 1) / 2  # the mean of all ranks
        a, b = rank_cosines(counts) - middle, rank_labels(counts) - middle
        spread = np.sqrt((counts * a * a).sum(axis=1) * (counts * b * b).sum(axis=1))
        common = (counts * a * b).sum(axis=1)
        values: np.ndarray = np.divide(common, spread, out=np.zeros_like(common), where=spread > 0)
        return values.clip(-1, 1)

    return correlation


def ranking(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """How to rank samples of these values: counts (resamples, samples) -> ranks from 0, of the same shape.

    Equal values share the mean of their ranks. Values are sorted once, whatever the number of resamples.
    """
    order = np.argsort(values, kind="stable")
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    starts = np.cumsum(sizes) - sizes

    def ranks(counts: np.ndarray) -> np.ndarray:
        taken = np.add.reduceat(counts[:, order], starts, axis=1)
        return (np.cumsum(taken, axis=1) - (taken + 1) / 2)[:, group]

    return ranks


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


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], Scorer]] = {"top1": top1, "spearman": spearman}
