"""From a plan to pruned weights, and to an ONNX file that has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwsparse.errors import PatternError, PlanError
from hwsparse.model import Model
from hwsparse.model.onnx_file import model_of
from hwsparse.plan import Choice, Plan
from hwsparse.quantise import MOST_VALUE, Scale, split_ranges
from hwsparse.sparsify.magnitude import magnitude
from hwsparse.sparsify.mask import applicable
from hwsparse.sparsify.statistics import LayerStatistics

# Axes of what convolutions of pictures read.
PICTURES = 4
# (canonical weight, statistics of the layer's inputs, choice, groups) -> canonical pruned weight
Pruner = Callable[[np.ndarray, LayerStatistics | None, Choice, int], np.ndarray]


def apply_plan(
    model: Model,
    plan: Plan,
    pruner: Pruner = magnitude,
    statistics: Mapping[str, LayerStatistics] | None = None,
) -> dict[str, np.ndarray]:
    """Canonical pruned weights of the layers that a plan makes sparse, by name.

    Raises:
        PlanError: the plan is for another model, names a layer that this one does not have, or gives a
            layer a pattern that its weight cannot have, or a weight holds a value that is not finite.
    """
    if plan.model_digest != model.digest:
        raise PlanError(
            f"the plan is for the model {plan.model_digest[:12]}, not for {model.name} ({model.digest[:12]})"
        )
    known = {layer.name: layer for layer in model.layers}
    weights = {}
    for name, choice in plan.choices:
        layer = known.get(name)
        if layer is None:
            raise PlanError(f"the plan names the layer {name!r}, which {model.name} does not have")
        if reason := applicable(layer, choice.pattern):
            raise PlanError(f"layer {name!r} cannot be {choice}: {reason}")
        try:
            weights[name] = pruner(model.weight(name), (statistics or {}).get(name), choice, layer.groups)
        except PatternError as error:
            raise PlanError(f"layer {name!r} cannot be {choice}: {error}") from None
    return weights


def pruned_model(model: Model, weights: Mapping[str, np.ndarray]) -> Model:
    """The model with some weights and constants replaced, as `pruned_proto` takes them."""
    return model_of(onnx.load_from_string(pruned_proto(model, weights)), model.name)


def pruned_proto(model: Model, weights: Mapping[str, np.ndarray]) -> bytes:
    """The model's ONNX file with some weights (canonical, by layer name) and constants (by their own) replaced.

    Layers whose inputs have a range among the weights read what bytes can stand for.

    Raises:
        ModelError: a weight or constant is not of the model, or has not its shape.
        DataError: bytes cannot stand for a range.
    """
    proto = onnx.load_from_string(model.proto)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    plain, scales = split_ranges(weights)
    for name, values in model.replaced(plain).items():
        stored[name].CopyFrom(numpy_helper.from_array(values, name))
    _round_inputs(proto.graph, {model.layer(name).name: scale for name, scale in scales.items()})
    return bytes(proto.SerializeToString(deterministic=True))


def _round_inputs(graph: onnx.GraphProto, scales: Mapping[str, Scale]) -> None:
    """Has layers read the nearest values that bytes stand for, rounded as kernels round and not as QuantizeLinear does.

    A tensor is rounded once, by the scale of the first layer that reads it so. What pictures are added to is rounded
    with them: residuals are then bytes too.
    """
    nodes = {node.name: node for node in graph.node}
    shapes = {item.name: len(item.type.tensor_type.shape.dim) for item in graph.value_info}
    rounded: dict[str, Scale] = {}
    for name, scale in scales.items():
        rounded.setdefault(nodes[name].input[0], scale)
    for read, scale in rounded.items():
        values = f"{read}/as bytes"
        for node in graph.node:
            if node.name in scales and node.input[0] == read:
                node.input[0] = values
            elif node.op_type == "Add" and shapes.get(read) == PICTURES:
                node.input[:] = [values if each == read else each for each in node.input]
        steps, constants = _rounding(read, values, scale)
        graph.initializer.extend(constants)
        first = next(index for index, node in enumerate(graph.node) if values in node.input)
        for step in reversed(steps):
            graph.node.insert(first, step)


def _rounding(read: str, values: str, scale: Scale) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from a tensor to its rounded values, and their constants."""
    numbers = {"inverse": scale.inverse, "low": -scale.zero, "high": MOST_VALUE - scale.zero, "scale": scale.scale}
    names = {each: f"{values}/{each}" for each in (*numbers, "scaled", "rounded", "clipped")}
    steps = (
        ("Mul", (read, names["inverse"]), names["scaled"]),
        ("Round", (names["scaled"],), names["rounded"]),
        ("Clip", (names["rounded"], names["low"], names["high"]), names["clipped"]),
        ("Mul", (names["clipped"], names["scale"]), values),
    )
    return (
        [helper.make_node(operator, inputs, [output], output) for operator, inputs, output in steps],
        [numpy_helper.from_array(np.array(number, np.float32), names[each]) for each, number in numbers.items()],
    )
