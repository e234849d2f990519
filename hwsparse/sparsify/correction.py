"""Correction of a pruned network, layer after layer: each makes up for what those before it changed.

Layers are pruned one by one, as if all others were dense. Once a plan has put them together, a layer reads inputs x'
where the dense one read x. In the order of the network each layer, pruned or not, is fitted anew under its mask:

    minimise  mean |W x - P x'|^2 + ridge |P - P0|^2      so that  P (H' + ridge) = W C + ridge P0

with H' the mean of x' x'^T, C that of x x'^T, and P0 the weights so far: the asymmetric least squares of Zhang, Zou, He
and Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection", TPAMI 2016, section 3.2,
here under masks.

The dense network and the pruned one walk side by side over all samples and keep only what later layers read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from hwsparse.data import Dataset
from hwsparse.model import Model
from hwsparse.plan import Layer
from hwsparse.sparsify.least_squares import refit
from hwsparse.sparsify.parts import part_of, run_part, session_of, tensors_read
from hwsparse.sparsify.statistics import DAMPING, MAX_COLUMNS, patches_of

# Patches per sample: neighbours tell much the same.
POSITIONS = 128

Tensors = dict[str, np.ndarray]


def correct(
    model: Model,
    weights: Mapping[str, np.ndarray],
    dataset: Dataset,
    *,
    samples: int = 128,
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
    rows = np.random.default_rng(seed).permutation(dataset.rows)[:samples].tolist()
    attended = [dataset.attended(row) for row in rows]
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        dense, pruned = (_Walk(model, dataset, rows, pool) for _ in range(2))
        for done, layer in enumerate(model.layers):
            if corrected.keys() & {each.name for each in model.layers[: done + 1]} and layer.inputs <= MAX_COLUMNS:
                reads = dense.reach(layer, {}), pruned.reach(layer, corrected)
                moment, cross = _moments(layer, *reads, attended, seed, pool)
                current = corrected.get(layer.name, model.weight(layer.name))
                corrected[layer.name] = _fitted(model.weight(layer.name), current, layer.groups, moment, cross)
            progress(done + 1, len(model.layers))
    return corrected


class _Walk:
    """A network on its way over some samples, as far as some node."""

    def __init__(self, model: Model, dataset: Dataset, rows: Sequence[int], pool: ThreadPoolExecutor) -> None:
        self._model, self._dataset, self._pool = model, dataset, pool
        self._proto = onnx.load_from_string(model.proto)
        self._left = list(self._proto.graph.node)
        self._kept: list[Tensors] = [
            {name: values[row : row + 1] for name, values in dataset.inputs.items()} for row in rows
        ]

    def reach(self, layer: Layer, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Goes on up to a layer, with these weights by layer name; what it reads, sample by sample.

        Raises:
            DataError: onnxruntime cannot run a sample.
            ModelError: a weight does not have its layer's shape.
        """
        place = next(index for index, node in enumerate(self._left) if layer.weight in node.input)
        steps, self._left = self._left[:place], self._left[place:]
        if steps:
            self._take(steps, weights)
        return [kept[self._left[0].input[0]] for kept in self._kept]

    def _take(self, steps: Sequence[onnx.NodeProto], weights: Mapping[str, np.ndarray]) -> None:
        read, later = tensors_read(steps), tensors_read(self._left)
        replaced = {
            layer.weight: self._model.initializer(layer, weights[layer.name])
            for layer in self._model.layers
            if layer.name in weights and layer.weight in read
        }
        fed = {name: value for name, value in self._kept[0].items() if name in read}
        made = [name for node in steps for name in node.output if name in later]
        session = session_of(part_of(self._proto, steps, fed, made, replaced), optimised=False)

        def step(kept: Tensors) -> Tensors:
            found = run_part(session, made, {name: kept[name] for name in fed}, self._dataset)
            return {name: value for name, value in kept.items() if name in later} | dict(zip(made, found, strict=True))

        self._kept = list(self._pool.map(step, self._kept))


def _moments(
    layer: Layer,
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    attended: Sequence[np.ndarray | None],
    seed: int,
    pool: ThreadPoolExecutor,
) -> tuple[np.ndarray, np.ndarray]:
    """The means of x' x'^T and x x'^T, x what the dense layer reads and x' what it reads now, float64."""

    def of_sample(sample: int) -> tuple[np.ndarray, np.ndarray, int]:
        x, own = (
            patches_of(tensors[sample], layer, np.random.default_rng([seed, sample]), POSITIONS, attended[sample])
            for tensors in (before, after)
        )
        return own.transpose(0, 2, 1) @ own, x.transpose(0, 2, 1) @ own, x.shape[1]

    moment = np.zeros((layer.groups, layer.inputs, layer.inputs))
    cross, count = np.zeros_like(moment), 0
    for own, crossed, positions in pool.map(of_sample, range(len(before))):
        moment += own
        cross += crossed
        count += positions
    return moment / count, cross / count


def _fitted(dense: np.ndarray, current: np.ndarray, groups: int, moment: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """The weight that answers to x' as the dense one does to x, where `current` is not zero."""
    shape = (groups, dense.shape[0] // groups, -1)
    powers = np.diagonal(moment, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    ridge = np.where(powers > 0, DAMPING * powers, 1)  # a group whose inputs are all zero stays as it is
    damped = moment + ridge * np.eye(moment.shape[1])
    start = current.reshape(shape)
    wanted = dense.reshape(shape) @ cross + ridge * start
    target = np.linalg.solve(damped, wanted.transpose(0, 2, 1)).transpose(0, 2, 1)
    if start.all():
        return np.asarray(target, np.float32).reshape(dense.shape)
    scale = np.sqrt(np.diagonal(damped, axis1=1, axis2=2))[:, None, :]
    scaled = (damped / (scale * scale.transpose(0, 2, 1))).astype(np.float32)
    found = refit((target * scale).astype(np.float32), (start * scale).astype(np.float32), start != 0, scaled) / scale
    return np.asarray(found, np.float32).reshape(dense.shape)
