"""Correction of a pruned network, layer after layer: each makes up for what those before it changed.

Layers are pruned one by one, as if all others were dense. Once a plan has put them together, a layer reads inputs x'
where the dense one read x. In the order of the network each layer, pruned or not, is fitted anew under its mask:

    minimise  mean |W x - P x'|^2 + ridge |P - P0|^2      so that  P (H' + ridge) = W C + ridge P0

with H' the mean of x' x'^T, C that of x x'^T, and P0 the weights so far: the asymmetric least squares of Zhang, Zou, He
and Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection", TPAMI 2016, section 3.2,
here under masks. A layer with a bias gets a new one with it: x and x' are then taken from their means, and what the
means give is the bias's to make up for. Where batch norm is part of the layer before it, this estimates its statistics
anew; other batch norms, and layer norms, are fitted on the way (`norms`).

Where layers read bytes, bfloat16 or float16, x' is what these stand for, and P is rounded to what they do. What both
lose is made up for by biases, and by weights of bytes (`rounding`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import dropwhile

import numpy as np

from hwsparse.data import Dataset
from hwsparse.model import Model
from hwsparse.plan import Layer, Plan
from hwsparse.quantise import rounded, split_weights
from hwsparse.sparsify.apply import pruned_model
from hwsparse.sparsify.least_squares import refit, solved
from hwsparse.sparsify.norms import Norm, fitted_norm, in_order
from hwsparse.sparsify.rounding import rounded_to_fit
from hwsparse.sparsify.statistics import DAMPING, MAX_COLUMNS
from hwsparse.sparsify.walk import Moments, SideBySide

# That weights are fitted on, at most, by pruning and narrowing as well.
SAMPLES = 256


def correct(
    model: Model,
    weights: Mapping[str, np.ndarray],
    dataset: Dataset,
    *,
    plan: Plan | None = None,
    samples: int = SAMPLES,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """Canonical weights by layer name, those given and those of dense layers behind them; constants by their own names.

    Args:
        weights: canonical pruned weights by layer name; what is zero in them stays zero. What they say of what layers
            read, as ranges do, stays as it is.
        dataset: at most `samples` of its samples are used.
        plan: tells the types of layers; those of other types than float32 that have no weight here are dense. None: all
            are float32.

    Raises:
        DataError: onnxruntime cannot run a sample.
        ModelError: a weight does not have its layer's shape, or there is no such layer.
    """
    types = {name: choice.dtype for name, choice in plan.choices} if plan else {}
    plain = split_weights(weights).plain
    for name, weight in plain.items():
        model.initializer(model.layer(name), weight)  # refuses what does not fit
    told = {name: values for name, values in weights.items() if name not in plain}
    corrected = {name: model.weight(name) for name, dtype in types.items() if dtype != "float32"} | plain
    steps = list(dropwhile(lambda step: isinstance(step, Norm) or step.name not in corrected, in_order(model)))
    with SideBySide(model, pruned_model(model, told) if told else model, dataset, samples, threads, seed) as both:
        for done, step in enumerate(steps, 1):
            if isinstance(step, Norm):
                corrected |= fitted_norm(model, step, both, corrected)
            elif step.inputs <= MAX_COLUMNS:
                moments = both.moments(step, step, corrected)
                dense = model.weight(step.name)
                bias = None if step.bias is None else model.constant(step.bias)
                current = corrected.get(step.name, dense)
                corrected |= named(step, *fitted(dense, bias, current, moments, types.get(step.name, "float32")))
            progress(done, len(steps))
    return corrected | told


def named(layer: Layer, weight: np.ndarray, bias: np.ndarray | None) -> dict[str, np.ndarray]:
    """A layer's weight and bias by the names that a network's weights have."""
    return {layer.name: weight} if bias is None or layer.bias is None else {layer.name: weight, layer.bias: bias}


def fitted(
    dense: np.ndarray, bias: np.ndarray | None, current: np.ndarray, moments: Moments, dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray | None]:
    """The weight and bias that answer to x' as the dense ones do to x; weights where `current` is not zero.

    Where a network runs away, so that x' is not finite, they stay as they are: whoever judges it will say so.

    Args:
        dense: canonical, the rows that are left.
        bias: of the same rows, in any shape; None stays None.
        current: canonical, of as many rows; its columns are those of x'.
        dtype: of the weights.
    """
    if not (np.isfinite(moments.own).all() and np.isfinite(moments.cross).all()):
        return rounded(current, dtype), bias
    groups = len(moments.own)
    wide = dense.reshape(groups, dense.shape[0] // groups, -1)
    powers = np.diagonal(moments.own, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    ridge = np.where(powers > 0, DAMPING * powers, 1)  # a group whose inputs are all zero stays as it is
    moment, cross = moments.own, moments.cross
    if bias is not None:
        moment = moment - moments.own_mean * moments.own_mean.transpose(0, 2, 1)
        cross = cross - moments.mean * moments.own_mean.transpose(0, 2, 1)
    weight = _weight(wide, current.reshape(*wide.shape[:2], -1), moment, cross, ridge, dtype)
    if bias is not None:
        moved = wide @ moments.mean - weight @ moments.own_mean
        bias = (bias + moved.reshape(bias.shape)).astype(np.float32)
    return weight.astype(np.float32).reshape(current.shape), bias


def _weight(
    dense: np.ndarray, start: np.ndarray, moment: np.ndarray, cross: np.ndarray, ridge: np.ndarray, dtype: str
) -> np.ndarray:
    """P as above, of P0 = `start`: (groups, rows, columns)."""
    damped = moment + ridge * np.eye(moment.shape[1])
    wanted = dense @ cross + ridge * start
    kept = start != 0
    whole = bool(kept.all())
    found = None if whole else _masked(wanted, kept, damped)
    if found is not None and dtype != "int8":
        return rounded(found, dtype)
    target = np.asarray(np.linalg.solve(damped, wanted.transpose(0, 2, 1)).transpose(0, 2, 1))
    if found is None:
        found = target if whole else _approached(target, start, damped)
    return rounded_to_fit(target, found, damped) if dtype == "int8" else rounded(found, dtype)


def _masked(wanted: np.ndarray, kept: np.ndarray, damped: np.ndarray) -> np.ndarray | None:
    """What solves P damped = wanted where it is kept, and is 0 elsewhere; None: that takes too long."""
    scale, scaled = _scaled(damped)
    found = solved((wanted / scale).astype(np.float32), kept, scaled)
    return None if found is None else np.asarray(found / scale)


def _approached(target: np.ndarray, start: np.ndarray, damped: np.ndarray) -> np.ndarray:
    """The nearest to the target that is 0 where `start` is, to a thousandth of the error."""
    scale, scaled = _scaled(damped)
    found = refit((target * scale).astype(np.float32), (start * scale).astype(np.float32), start != 0, scaled) / scale
    return np.asarray(found)


def _scaled(damped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What inputs are divided by to have the power 1, (groups, 1, columns), and their moments then, float32."""
    scale = np.sqrt(np.diagonal(damped, axis1=1, axis2=2))[:, None, :]
    return scale, (damped / (scale * scale.transpose(0, 2, 1))).astype(np.float32)
