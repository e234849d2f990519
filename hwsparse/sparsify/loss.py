"""What a network loses when its weights change, on few samples: smoother than quality, which counts answers.

Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwsparse.data.answers import pair_cosines, unit
from hwsparse.metric import METRICS, Kind

# (rows, values) outputs and labels -> loss; less is better.
Loss = Callable[[np.ndarray, np.ndarray], float]
# (rows, values) outputs of the dense network and of another -> how far they are apart; 0 if they are equal.
Divergence = Callable[[np.ndarray, np.ndarray], float]

_TINY = 1e-12


def cross_entropy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -log p of the label; `outputs` are probabilities already, or logits."""
    return float(-log_probabilities(outputs)[np.arange(len(labels)), labels].mean())


def kullback_leibler(dense: np.ndarray, outputs: np.ndarray) -> float:
    """The mean of sum p (log p - log q), p the dense network's probabilities."""
    before, after = log_probabilities(dense), log_probabilities(outputs)
    return float(np.sum(np.exp(before) * (before - after), axis=1).mean())


def decorrelation(outputs: np.ndarray, labels: np.ndarray) -> float:
    """1 - Pearson's correlation of the labels with the cosines of embeddings 2i and 2i + 1."""
    cosines = pair_cosines(outputs)
    a, b = cosines - cosines.mean(), labels - labels.mean()
    return float(1 - (a @ b) / max(np.sqrt((a @ a) * (b @ b)), _TINY))


def cosine_distance(dense: np.ndarray, outputs: np.ndarray) -> float:
    """The mean of 1 - the cosine of both networks' embeddings of a row."""
    return float(1 - (unit(dense) * unit(outputs)).sum(axis=1).mean())


def log_probabilities(outputs: np.ndarray) -> np.ndarray:
    """Of every class, (rows, classes); `outputs` are probabilities already, or logits."""
    values = outputs.astype(np.float64)
    if values.min() >= 0 and np.allclose(values.sum(axis=1), 1, atol=1e-3):
        return np.asarray(np.log(np.maximum(values, _TINY)))
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


# By the data set's metric: those of one kind share them.
_LOSS_OF: dict[Kind, Loss] = {"classes": cross_entropy, "pairs": decorrelation}
_DIVERGENCE_OF: dict[Kind, Divergence] = {"classes": kullback_leibler, "pairs": cosine_distance}
LOSSES = {name: _LOSS_OF[metric.kind] for name, metric in METRICS.items()}
DIVERGENCES = {name: _DIVERGENCE_OF[metric.kind] for name, metric in METRICS.items()}
