"""From a plan to pruned weights, and to an ONNX file that has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwsparse.errors import ModelError, PatternError, PlanError
from hwsparse.model import Model
from hwsparse.model.apart import Apart
from hwsparse.model.fold import infer
from hwsparse.model.onnx_file import model_of
from hwsparse.plan import Choice, Plan
from hwsparse.quantise import MOST_FLOAT16, MOST_VALUE, Scale, beyond, read_name, rounded, split_weights
from hwsparse.sparsify.magnitude import magnitude
from hwsparse.sparsify.mask import applicable
from hwsparse.sparsify.statistics import LayerStatistics

# Axes of what convolutions of pictures read.
PICTURES = 4
# What a tensor's rounded values are called after it.
AS_BYTES, AS_FLOATS = "/as bytes", "/as "  # the type of floats
# What floats are multiplied by to be cut off after 8 of 24 digits: 2**16 + 1.
CUT = 65537.0
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
            layer a pattern that its weight cannot have, or a type, or a weight holds a value that is not finite.
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
        if reason := applicable(layer, choice.pattern) or beyond(model.weight(name), choice.dtype):
            raise PlanError(f"layer {name!r} cannot be {choice}: {reason}")
        try:
            weights[name] = pruner(model.weight(name), (statistics or {}).get(name), choice, layer.groups)
        except PatternError as error:
            raise PlanError(f"layer {name!r} cannot be {choice}: {error}") from None
    return weights


def in_types(plan: Plan, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Canonical weights, by layer name, rounded to the types that a plan gives them, with its `reads_of`."""
    types = {name: choice.dtype for name, choice in plan.choices}
    found = {name: rounded(weight, types.get(name, "float32")) for name, weight in weights.items()}
    return found | reads_of(plan)


def reads_of(plan: Plan) -> dict[str, np.ndarray]:
    """What says among weights which layers of a plan read bfloat16 or float16."""
    kinds = ((name, choice.dtype) for name, choice in plan.choices if choice.dtype in _ROUNDINGS)
    return {read_name(name, dtype): np.zeros(0, np.float32) for name, dtype in kinds}


def pruned_model(model: Model, weights: Mapping[str, np.ndarray]) -> Model:
    """The model with some weights and constants replaced, as `pruned_proto` takes them."""
    return model_of(infer(onnx.load_from_string(pruned_proto(model, weights))), model.name)


def pruned_proto(model: Model, weights: Mapping[str, np.ndarray]) -> bytes:
    """The model's ONNX file with some weights (canonical, by layer name) and constants (by their own) replaced.

    Layers read what bytes can stand for, where their inputs have a range among the weights, or bfloat16 or float16.

    Raises:
        ModelError: a weight or constant is not of the model, or has not its shape.
        DataError: bytes cannot stand for a range.
    """
    return _pruned(model, weights, model.proto, ())[0]


def pruned_apart(model: Model, weights: Mapping[str, np.ndarray]) -> Apart:
    """The same network as `pruned_proto` gives, taken apart, with its errors."""
    arrays = model.apart.arrays
    graph, replaced = _pruned(model, weights, model.apart.graph, arrays)
    return Apart(graph, {**arrays, **replaced})


def _pruned(
    model: Model, weights: Mapping[str, np.ndarray], graph: bytes, apart: Container[str]
) -> tuple[bytes, dict[str, np.ndarray]]:
    """A model's graph with weights replaced, and of what is kept apart from it what takes the place of it."""
    proto = onnx.load_from_string(graph)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    plain, scales, reads = split_weights(weights)
    replaced = model.replaced(plain)
    for name, values in replaced.items():
        if name not in apart:
            stored[name].CopyFrom(numpy_helper.from_array(values, name))
    _round(proto.graph, scales, {layer.name for layer in model.layers})
    _round_reads(proto.graph, reads)
    kept = {name: values for name, values in replaced.items() if name in apart}
    return bytes(proto.SerializeToString(deterministic=True)), kept


def _round(graph: onnx.GraphProto, scales: Mapping[str, Scale], layers: Collection[str]) -> None:
    """Has layers read the nearest values that bytes stand for, rounded as kernels round and not as QuantizeLinear does.

    So does what adds pictures: residuals are then bytes too.

    Raises:
        ModelError: there is no such tensor, or nobody reads it.
    """
    adds, nodes, left = adds_of_pictures(graph), list[onnx.NodeProto](), dict(scales)
    for node in graph.node:
        for place, read in enumerate(node.input):
            if read not in scales or not (node.name in adds or (node.name in layers and place == 0)):
                continue
            if read in left:
                steps, constants = _rounding(read, left.pop(read))
                nodes.extend(steps)
                graph.initializer.extend(constants)
            node.input[place] = read + AS_BYTES
        nodes.append(node)
    if left:
        raise ModelError(f"no layer reads a tensor {min(left)!r}, of which a range is given")
    if scales:
        _replace_nodes(graph, nodes)


def _round_reads(graph: onnx.GraphProto, layers: Mapping[str, str]) -> None:
    """Has layers read the nearest values of a type, by name.

    Raises:
        ModelError: there is no such layer.
    """
    nodes, made, left = list[onnx.NodeProto](), set[str](), dict(layers)
    for node in graph.node:
        if node.name in layers:
            dtype, read = left.pop(node.name), node.input[0]
            if (values := f"{read}{AS_FLOATS}{dtype}") not in made:
                made.add(values)
                steps, constants = _ROUNDINGS[dtype](read, values)
                nodes.extend(steps)
                graph.initializer.extend(constants)
            node.input[0] = values
        nodes.append(node)
    if left:
        name = min(left)
        raise ModelError(f"there is no layer {name!r}, of which it is said that it reads {left[name]}")
    if layers:
        _replace_nodes(graph, nodes)


_Steps = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def _to_bfloat16(read: str, values: str) -> _Steps:
    """Dekker's splitting, which any opset has the operators for.

    T. J. Dekker, A Floating-Point Technique for Extending the Available Precision, Numerische Mathematik 18, 1971.
    """
    scaled, rest = f"{values}/scaled", f"{values}/rest"
    steps = (
        ("Mul", (read, f"{values}/cut"), scaled),
        ("Sub", (scaled, read), rest),
        ("Sub", (scaled, rest), values),
    )
    return _nodes(steps), [numpy_helper.from_array(np.array(CUT, np.float32), f"{values}/cut")]


def _to_float16(read: str, values: str) -> _Steps:
    """There and back; what lies beyond the last of them is that one."""
    ends = {f"{values}/low": -MOST_FLOAT16, f"{values}/high": MOST_FLOAT16}
    clipped, narrow = f"{values}/clipped", f"{values}/narrow"
    nodes = _nodes((("Clip", (read, *ends), clipped), ("Cast", (clipped,), narrow), ("Cast", (narrow,), values)))
    for node, kind in zip(nodes[1:], (onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT), strict=True):
        node.attribute.append(helper.make_attribute("to", kind))
    return nodes, [numpy_helper.from_array(np.array(end, np.float32), name) for name, end in ends.items()]


# What rounds a tensor, by its name and that of the result, to a type of floats.
_ROUNDINGS: dict[str, Callable[[str, str], _Steps]] = {"bfloat16": _to_bfloat16, "float16": _to_float16}


def _nodes(steps: Iterable[tuple[str, Sequence[str], str]]) -> list[onnx.NodeProto]:
    """Operators, with what they read, and what they give: called as that is."""
    return [helper.make_node(operator, inputs, [output], output) for operator, inputs, output in steps]


def _replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copied)


def adds_of_pictures(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that add two tensors of four axes, but where only depthwise layers could: none does."""
    shapes = {item.name: len(item.type.tensor_type.shape.dim) for item in (*graph.value_info, *graph.input)}
    depthwise = {node.output[0]: is_depthwise(node, graph) for node in graph.node if node.op_type == "Conv"}

    def added(node: onnx.NodeProto) -> bool:
        kinds = [depthwise[name] for name in node.input if name in depthwise]
        pictures = node.op_type == "Add" and all(shapes.get(name) == PICTURES for name in node.input)
        return pictures and not (kinds and all(kinds))

    return {node.name for node in graph.node if added(node)}


def is_depthwise(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether a convolution's outputs read one channel each."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    of_one = (list(tensor.dims)[1:2] == [1] for tensor in graph.initializer if tensor.name == node.input[1])
    return groups > 1 and next(of_one, False)


def _rounding(read: str, scale: Scale) -> _Steps:
    """Nodes from a tensor to its rounded values, and their constants."""
    values = read + AS_BYTES
    numbers = {"inverse": scale.inverse, "low": -scale.zero, "high": MOST_VALUE - scale.zero, "scale": scale.scale}
    names = {each: f"{values}/{each}" for each in (*numbers, "scaled", "rounded", "clipped")}
    steps = (
        ("Mul", (read, names["inverse"]), names["scaled"]),
        ("Round", (names["scaled"],), names["rounded"]),
        ("Clip", (names["rounded"], names["low"], names["high"]), names["clipped"]),
        ("Mul", (names["clipped"], names["scale"]), values),
    )
    return (
        _nodes(steps),
        [numpy_helper.from_array(np.array(number, np.float32), names[each]) for each, number in numbers.items()],
    )
