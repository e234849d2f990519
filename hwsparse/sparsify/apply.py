"""From a plan to pruned weights, and to an ONNX file that has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwsparse.errors import ModelError, PatternError, PlanError
from hwsparse.model import Model
from hwsparse.model.apart import Apart
from hwsparse.model.fold import infer
from hwsparse.model.names import free_name, names_in
from hwsparse.model.onnx_file import model_of
from hwsparse.plan import Choice, Plan
from hwsparse.quantise import MOST_FLOAT16, MOST_VALUE, Scale, beyond, read_name, rounded, split_weights
from hwsparse.sparsify.magnitude import magnitude
from hwsparse.sparsify.mask import applicable
from hwsparse.sparsify.statistics import LayerStatistics

# Axes of what convolutions of pictures read.
PICTURES = 4
# What a tensor's rounded values are called after it, if nothing else is.
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
    return _pruned(model, weights, model.proto, ()).graph


def rounding_proto(model: Model, weights: Mapping[str, np.ndarray]) -> tuple[bytes, dict[str, Scale]]:
    """As `pruned_proto`, with the scales of what was rounded by those of `weights`, and of nothing else.

    Returns:
        The file, and what bytes stand for by the constant that the last node of each rounding multiplies by.
    """
    pruned = _pruned(model, weights, model.proto, ())
    return pruned.graph, pruned.rounded


def pruned_apart(model: Model, weights: Mapping[str, np.ndarray]) -> Apart:
    """The same network as `pruned_proto` gives, taken apart, with its errors."""
    arrays = model.apart.arrays
    pruned = _pruned(model, weights, model.apart.graph, arrays)
    return Apart(pruned.graph, {**arrays, **pruned.apart})


class _Pruned(NamedTuple):
    graph: bytes
    apart: dict[str, np.ndarray]  # of what is kept apart from the graph what takes the place of it
    rounded: dict[str, Scale]  # by the constants that bytes are multiplied by


def _pruned(model: Model, weights: Mapping[str, np.ndarray], graph: bytes, apart: Container[str]) -> _Pruned:
    """A model's graph with weights replaced."""
    proto = onnx.load_from_string(graph)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    plain, scales, reads = split_weights(weights)
    replaced = model.replaced(plain)
    for name, values in replaced.items():
        if name not in apart:
            stored[name].CopyFrom(numpy_helper.from_array(values, name))
    names = names_in(proto.graph) if scales or reads else set[str]()
    told = _round(proto.graph, scales, {layer.name for layer in model.layers}, names)
    _round_reads(proto.graph, reads, names)
    kept = {name: values for name, values in replaced.items() if name in apart}
    return _Pruned(bytes(proto.SerializeToString(deterministic=True)), kept, told)


def _round(
    graph: onnx.GraphProto, scales: Mapping[str, Scale], layers: Collection[str], names: set[str]
) -> dict[str, Scale]:
    """Has layers read the nearest values that bytes stand for, rounded as kernels round and not as QuantizeLinear does.

    So does what adds pictures: residuals are then bytes too.

    Args:
        names: what the graph has; those of what is put in are added.

    Returns:
        The scales, by the constants that bytes are multiplied by.

    Raises:
        ModelError: there is no such tensor, or nobody reads it.
    """
    adds, nodes = adds_of_pictures(graph), list[onnx.NodeProto]()
    values, told = dict[str, str](), dict[str, Scale]()  # of what was read what is read now
    for node in graph.node:
        for place, read in enumerate(node.input):
            if read not in scales or not (node.name in adds or (node.name in layers and place == 0)):
                continue
            if read not in values:
                steps, constants = _rounding(read, scales[read], names)
                nodes.extend(steps)
                graph.initializer.extend(constants)
                values[read], told[steps[-1].input[1]] = steps[-1].output[0], scales[read]
            node.input[place] = values[read]
        nodes.append(node)
    if left := scales.keys() - values:
        raise ModelError(f"no layer reads a tensor {min(left)!r}, of which a range is given")
    if scales:
        _replace_nodes(graph, nodes)
    return told


def _round_reads(graph: onnx.GraphProto, layers: Mapping[str, str], names: set[str]) -> None:
    """Has layers read the nearest values of a type, by name.

    Raises:
        ModelError: there is no such layer.
    """
    nodes, made, left = list[onnx.NodeProto](), dict[tuple[str, str], str](), dict(layers)
    for node in graph.node:
        if node.name in layers:
            dtype, read = left.pop(node.name), node.input[0]
            if (read, dtype) not in made:
                made[read, dtype] = values = free_name(f"{read}{AS_FLOATS}{dtype}", names)
                steps, constants = _ROUNDINGS[dtype](read, values, names)
                nodes.extend(steps)
                graph.initializer.extend(constants)
            node.input[0] = made[read, dtype]
        nodes.append(node)
    if left:
        name = min(left)
        raise ModelError(f"there is no layer {name!r}, of which it is said that it reads {left[name]}")
    if layers:
        _replace_nodes(graph, nodes)


_Steps = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def _to_bfloat16(read: str, values: str, names: set[str]) -> _Steps:
    """Dekker's splitting, which any opset has the operators for.

    T. J. Dekker, A Floating-Point Technique for Extending the Available Precision, Numerische Mathematik 18, 1971.
    """
    scaled, rest, cut = (free_name(f"{values}/{each}", names) for each in ("scaled", "rest", "cut"))
    steps = (("Mul", (read, cut), scaled), ("Sub", (scaled, read), rest), ("Sub", (scaled, rest), values))
    return _nodes(steps), [numpy_helper.from_array(np.array(CUT, np.float32), cut)]


def _to_float16(read: str, values: str, names: set[str]) -> _Steps:
    """There and back; what lies beyond the last of them is that one."""
    low, high, clipped, narrow = (free_name(f"{values}/{each}", names) for each in ("low", "high", "clipped", "narrow"))
    nodes = _nodes((("Clip", (read, low, high), clipped), ("Cast", (clipped,), narrow), ("Cast", (narrow,), values)))
    for node, kind in zip(nodes[1:], (onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT), strict=True):
        node.attribute.append(helper.make_attribute("to", kind))
    ends = {low: -MOST_FLOAT16, high: MOST_FLOAT16}
    return nodes, [numpy_helper.from_array(np.array(end, np.float32), name) for name, end in ends.items()]


# What rounds a tensor, by its name and that of the result, to a type of floats; with the names that are taken.
_ROUNDINGS: dict[str, Callable[[str, str, set[str]], _Steps]] = {"bfloat16": _to_bfloat16, "float16": _to_float16}


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


def _rounding(read: str, scale: Scale, names: set[str]) -> _Steps:
    """Nodes from a tensor to its rounded values, and their constants."""
    values = free_name(read + AS_BYTES, names)
    numbers = {"inverse": scale.inverse, "low": -scale.zero, "high": MOST_VALUE - scale.zero, "scale": scale.scale}
    own = {each: free_name(f"{values}/{each}", names) for each in (*numbers, "scaled", "rounded", "clipped")}
    steps = (
        ("Mul", (read, own["inverse"]), own["scaled"]),
        ("Round", (own["scaled"],), own["rounded"]),
        ("Clip", (own["rounded"], own["low"], own["high"]), own["clipped"]),
        ("Mul", (own["clipped"], own["scale"]), values),
    )
    return (
        _nodes(steps),
        [numpy_helper.from_array(np.array(number, np.float32), own[each]) for each, number in numbers.items()],
    )
