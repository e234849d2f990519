"""Metrics, worked out for all samples and for every bootstrap resample of them at once.

A resample is how often each sample counts. Of every metric more is better. Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwsparse.data.answers import pair_cosines
from hwsparse.sparsify.loss import log_probabilities

# How often each labelled sample counts, (resamples, samples) -> the metric of each resample.
Scorer = Callable[[np.ndarray], np.ndarray]


def top1(outputs: np.ndarray, labels: np.ndarray) -> Scorer:
    """The share of samples whose highest output is the label's; `outputs` is (samples, classes)."""
    return _mean((outputs.argmax(axis=1) == labels).astype(np.float64))


def neg_log_loss(outputs: np.ndarray, labels: np.ndarray) -> Scorer:
    """The mean log probability of the label; `outputs` are probabilities already, or logits."""
    return _mean(log_probabilities(outputs)[np.arange(len(labels)), labels])


def f1(outputs: np.ndarray, labels: np.ndarray) -> Scorer:
    """The mean, over classes, of the harmonic mean of precision and recall.

    The classes of a resample are those that one of its samples has as label or as answer: a class with neither says
    nothing of the network, and would count as 0 or as 1 at will.
    """
    answers = outputs.argmax(axis=1)
    classes = np.unique(np.concatenate([labels, answers]))
    is_label, is_answer = ((of[:, None] == classes).astype(np.float64) for of in (labels, answers))

    def mean(counts: np.ndarray) -> np.ndarray:
        right, named = counts @ (is_label * is_answer), counts @ (is_label + is_answer)
        scores = np.divide(2 * right, named, out=np.zeros_like(right), where=named > 0)
        return np.asarray(scores.sum(axis=1) / (named > 0).sum(axis=1))

    return mean


def spearman(outputs: np.ndarray, labels: np.ndarray) -> Scorer:
    """Rank correlation of the labels with the cosine of each pair's two embeddings (rows 2i and 2i + 1).

    A resample whose labels, or cosines, are all equal has correlation 0.
    """
    rank_cosines, rank_labels = ranking(pair_cosines(outputs)), ranking(labels)
    return lambda counts: _correlation(counts, rank_cosines(counts), rank_labels(counts))


def pearson(outputs: np.ndarray, labels: np.ndarray) -> Scorer:
    """Correlation of the labels with the cosine of each pair's two embeddings; 0 as in `spearman`."""
    cosines = pair_cosines(outputs)

    def correlation(counts: np.ndarray) -> np.ndarray:
        # Less its rounded mean, what never varies may seem to.
        varied = _varies(counts, cosines) & _varies(counts, labels)
        return np.where(varied, _correlation(counts, cosines, labels), 0.0)

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


def _mean(values: np.ndarray) -> Scorer:
    """The mean of a figure that each sample has for itself."""
    return lambda counts: counts @ values / counts.sum(axis=1)


def _correlation(counts: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation in every resample; 0 where one of the two does not vary."""
    samples = counts.sum(axis=1, keepdims=True)
    a, b = (x - (counts * x).sum(axis=1, keepdims=True) / samples for x in (a, b))
    spread = np.sqrt((counts * a * a).sum(axis=1) * (counts * b * b).sum(axis=1))
    common = (counts * a * b).sum(axis=1)
    values: np.ndarray = np.divide(common, spread, out=np.zeros_like(common), where=spread > 0)
    return values.clip(-1, 1)


def _varies(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether the samples drawn have different values, for each resample."""
    drawn = counts > 0
    lowest = np.where(drawn, values, np.inf).min(axis=1)
    return np.asarray(lowest < np.where(drawn, values, -np.inf).max(axis=1))


# By name, as in `hwsparse.metric`.
SCORERS: dict[str, Callable[[np.ndarray, np.ndarray], Scorer]] = {
    "top1": top1,
    "f1": f1,
    "neg_log_loss": neg_log_loss,
    "agreement": top1,
    "spearman": spearman,
    "pearson": pearson,
    "pair_agreement": spearman,
}
