"""Layer normalisations, fitted anew in a pruned network as its layers are (`correction`).

What is normalised there has other proportions than in the dense network. Channel by channel, scale g and shift b:

    minimise  mean (y - g z' - b)^2 + ridge (g - g0)^2

with z' what the pruned network normalises, before scale and shift, y what the dense network hands on, and g0 the scale
so far.
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
    """A layer normalisation over the last axis; `scale` and `shift` are names of constants that nothing else reads."""

    scale: str
    shift: str
    epsilon: float


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
    """The normalisation that a node is; `shapes` are those of constants that one node reads."""
    if node.op_type != "LayerNormalization" or len(node.input) != 3:
        return None
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    scale, shift = node.input[1:]
    shape = shapes.get(scale, ())
    if attributes.get("axis", -1) != -1 or len(shape) != 1 or shapes.get(shift) != shape:
        return None
    return Norm(scale, shift, attributes.get("epsilon", 1e-5))


def fitted_norm(model: Model, norm: Norm, both: SideBySide, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scale and shift by their names; nothing if the pruned network runs away.

    Raises:
        DataError: onnxruntime cannot run a sample.
    """
    scale, shift = (model.constant(name).astype(np.float64) for name in (norm.scale, norm.shift))
    sums, count = np.zeros((4, len(scale))), 0
    with np.errstate(over="ignore", invalid="ignore"):
        for x, own in both.rows(norm.scale, weights, len(scale)):
            z = _normalised(own, norm.epsilon)
            y = scale * _normalised(x, norm.epsilon) + shift
            sums += [z.sum(axis=0), y.sum(axis=0), np.square(z).sum(axis=0), (z * y).sum(axis=0)]
            count += len(z)
    z_mean, y_mean, power, product = sums / count
    ridge = DAMPING * max(power.mean(), np.finfo(np.float32).tiny)
    fitted = (product - z_mean * y_mean + ridge * scale) / (power - np.square(z_mean) + ridge)
    if not np.isfinite(fitted).all():
        return {}
    return {norm.scale: fitted.astype(np.float32), norm.shift: (y_mean - fitted * z_mean).astype(np.float32)}


def _normalised(rows: np.ndarray, epsilon: float) -> np.ndarray:
    """Each row from its mean, by its deviation, in float64."""
    moved = rows - rows.mean(axis=1, dtype=np.float64, keepdims=True)
    return np.asarray(moved / np.sqrt(np.square(moved).mean(axis=1, keepdims=True) + epsilon))
