"""Normalisations, fitted anew in a pruned network as its layers are (`correction`).

Layer norms, and batch norms that are no part of a layer: those behind an activation or a sum. What is normalised there
has other proportions than in the dense network. Channel by channel, scale g and shift b:

    minimise  mean (y - g z' - b)^2 + ridge (g - g0)^2

with z' what the pruned network normalises, before scale and shift, y what the dense network hands on, and g0 the scale
so far. Of a batch norm this is the same as new statistics, and a new scale and shift with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from hwsparse.model import Model
from hwsparse.plan import Layer
from hwsparse.sparsify.statistics import DAMPING
from hwsparse.sparsify.walk import SideBySide


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation; `scale` and `shift` are names of constants that nothing else reads.

    Over the last axis, or where there are `mean` and `variance`, names of constants too, of channels by these.
    """

    scale: str
    shift: str
    epsilon: float
    mean: str | None = None
    variance: str | None = None

    @property
    def channels(self) -> int:
        """The axis that scale and shift are of."""
        return -1 if self.mean is None else 1


def in_order(model: Model) -> list[Layer | Norm]:
    """A model's layers, and the normalisations that can be fitted, as they come in the graph."""
    graph = onnx.load_from_string(model.proto).graph
    layers = {layer.name: layer for layer in model.layers}
    read = Counter(name for node in graph.node for name in node.input)
    # A name that is a layer's too would be taken for its weight.
    own = {item.name: tuple(item.dims) for item in graph.initializer if read[item.name] == 1}
    shapes = {name: shape for name, shape in own.items() if name not in layers}
    found = ((layers.get(node.name) or _norm(node, shapes)) for node in graph.node)
    return [each for each in found if each is not None]


def _norm(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> Norm | None:
    """The normalisation that a node is, if all that it is made of are constants; `shapes` are those it alone reads."""
    if len(node.input) != {"LayerNormalization": 3, "BatchNormalization": 5}.get(node.op_type):
        return None
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    scale, shift, *statistics = node.input[1:]
    shape = shapes.get(scale, ())
    if attributes.get("axis", -1) != -1 or len(shape) != 1:
        return None
    if any(shapes.get(name) != shape for name in (shift, *statistics)):
        return None
    return Norm(scale, shift, attributes.get("epsilon", 1e-5), *statistics)


def fitted_norm(model: Model, norm: Norm, both: SideBySide, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scale and shift by their names; nothing if the pruned network runs away.

    Raises:
        DataError: onnxruntime cannot run a sample.
    """
    scale, shift = (model.constant(name).astype(np.float64) for name in (norm.scale, norm.shift))
    sums, count = np.zeros((4, len(scale))), 0
    with np.errstate(over="ignore", invalid="ignore"):
        for x, own in both.rows(norm.scale, weights, norm.channels):
            z = _normalised(model, norm, own)
            y = scale * _normalised(model, norm, x) + shift
            sums += [z.sum(axis=0), y.sum(axis=0), np.square(z).sum(axis=0), (z * y).sum(axis=0)]
            count += len(z)
    z_mean, y_mean, power, product = sums / count
    ridge = DAMPING * max(power.mean(), np.finfo(np.float32).tiny)
    fitted = (product - z_mean * y_mean + ridge * scale) / (power - np.square(z_mean) + ridge)
    if not np.isfinite(fitted).all():
        return {}
    return {norm.scale: fitted.astype(np.float32), norm.shift: (y_mean - fitted * z_mean).astype(np.float32)}


def _normalised(model: Model, norm: Norm, rows: np.ndarray) -> np.ndarray:
    """Rows (rows, channels) before scale and shift, in float64."""
    if norm.mean is not None and norm.variance is not None:
        mean, variance = (model.constant(name).astype(np.float64) for name in (norm.mean, norm.variance))
    else:
        mean, variance = rows.mean(1, dtype=np.float64, keepdims=True), rows.var(1, dtype=np.float64, keepdims=True)
    return np.asarray((rows - mean) / np.sqrt(variance + norm.epsilon))
