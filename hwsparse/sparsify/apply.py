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
    for name, scale in scales.items():
        _round_input(proto.graph, model.layer(name).name, scale)
    return bytes(proto.SerializeToString(deterministic=True))


def _round_input(graph: onnx.GraphProto, layer: str, scale: Scale) -> None:
    """Has a layer read the nearest values that bytes stand for: rounded as the kernels round, not as QuantizeLinear."""
    place = next(index for index, node in enumerate(graph.node) if node.name == layer)
    read = graph.node[place].input[0]
    names = [f"{layer}/{step}" for step in ("scaled", "rounded", "clipped", "values")]
    constants = {
        f"{layer}/inverse": np.float32(scale.inverse),
        f"{layer}/low": np.float32(-scale.zero),
        f"{layer}/high": np.float32(MOST_VALUE - scale.zero),
        f"{layer}/scale": np.float32(scale.scale),
    }
    inverse, low, high, back = constants
    steps = [
        helper.make_node("Mul", [read, inverse], names[:1], names[0]),
        helper.make_node("Round", names[:1], names[1:2], names[1]),
        helper.make_node("Clip", [names[1], low, high], names[2:3], names[2]),
        helper.make_node("Mul", [names[2], back], names[3:], names[3]),
    ]
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    graph.node[place].input[0] = names[3]
    for step in reversed(steps):
        graph.node.insert(place, step)
