"""Correction of a pruned network, layer after layer: each makes up for what those before it changed.

Layers are pruned one by one, as if all others were dense. Once a plan has put them together, a layer reads inputs x'
where the dense one read x. In the order of the network each layer, pruned or not, is fitted anew under its mask:

    minimise  mean |W x - P x'|^2 + ridge |P - P0|^2      so that  P (H' + ridge) = W C + ridge P0

with H' the mean of x' x'^T, C that of x x'^T, and P0 the weights so far: the asymmetric least squares of Zhang, Zou, He
and Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection", TPAMI 2016, section 3.2,
here under masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from hwsparse.data import Dataset
from hwsparse.model import Model
from hwsparse.sparsify.least_squares import refit
from hwsparse.sparsify.statistics import DAMPING, MAX_COLUMNS
from hwsparse.sparsify.walk import SideBySide

SAMPLES = 128


def correct(
    model: Model,
    weights: Mapping[str, np.ndarray],
    dataset: Dataset,
    *,
    samples: int = SAMPLES,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """Canonical weights by layer name: those given, and dense layers behind them, fitted to each other.

    Args:
        weights: canonical pruned weights by layer name; what is zero in them stays zero.
        dataset: at most `samples` of its samples are used.

    Raises:
        DataError: onnxruntime cannot run a sample.
        ModelError: a weight does not have its layer's shape, or there is no such layer.
    """
    for name, weight in weights.items():
        model.initializer(model.layer(name), weight)  # refuses what does not fit
    corrected = dict(weights)
    first = next((place for place, layer in enumerate(model.layers) if layer.name in weights), len(model.layers))
    with SideBySide(model, model, dataset, samples, threads, seed) as both:
        for done, layer in enumerate(model.layers[first:], 1):
            if layer.inputs <= MAX_COLUMNS:
                moments = both.moments(layer, layer, corrected)
                current = corrected.get(layer.name, model.weight(layer.name))
                corrected[layer.name] = fitted(model.weight(layer.name), current, layer.groups, *moments)
            progress(done, len(model.layers) - first)
    return corrected


def fitted(dense: np.ndarray, current: np.ndarray, groups: int, moment: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """The weight that answers to x' as the dense one does to x, where `current` is not zero.

    Args:
        dense: canonical, the rows that are left.
        current: canonical, of as many rows; its columns are those of x'.
        moment: the mean of x' x'^T, (groups, columns, columns).
        cross: that of x x'^T, (groups, columns of `dense`, columns).
    """
    rows = dense.shape[0] // groups
    powers = np.diagonal(moment, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    ridge = np.where(powers > 0, DAMPING * powers, 1)  # a group whose inputs are all zero stays as it is
    damped = moment + ridge * np.eye(moment.shape[1])
    start = current.reshape(groups, rows, -1)
    wanted = dense.reshape(groups, rows, -1) @ cross + ridge * start
    target = np.linalg.solve(damped, wanted.transpose(0, 2, 1)).transpose(0, 2, 1)
    if start.all():
        return np.asarray(target, np.float32).reshape(current.shape)
    scale = np.sqrt(np.diagonal(damped, axis1=1, axis2=2))[:, None, :]
    scaled = (damped / (scale * scale.transpose(0, 2, 1))).astype(np.float32)
    found = refit((target * scale).astype(np.float32), (start * scale).astype(np.float32), start != 0, scaled) / scale
    return np.asarray(found, np.float32).reshape(current.shape)
