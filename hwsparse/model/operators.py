"""How each operator of ONNX hands channels on: one function for each kind, two tables that name them.

What is not in the tables keeps the channels that it reads, and makes none that could be removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwsparse.model.channels import NONE, STAYS, Channels, Trace

# The opset from which on Softmax is over one axis, the last unless it says another.
SOFTMAX_IS_OVER_ONE_AXIS = 13


def _conv(trace: Trace, node: onnx.NodeProto) -> None:
    source, weight = trace.channels.get(node.input[0]), node.input[1]
    groups = _attribute(node, "group", 1)
    if weight not in trace.constants or (source is not None and source.axis != 1):
        trace.fix(*node.input)
        return
    outputs = trace.shapes[weight][0]
    if groups == 1:
        ids = trace.new(outputs)
        if source is not None:
            trace.cut(node, 1, 1, source.ids)
    elif source is None:
        return  # as many groups as there are inputs, which stay
    else:
        # Each group reads channels and makes others: all of them are one unit.
        whole = source.ids.reshape(groups, -1)
        ids = np.repeat(whole[:, 0], outputs // groups)
        trace.unite(whole.ravel(), np.repeat(whole[:, 0], whole.shape[1]))
        trace.count(node, whole[:, 0])
    _made(trace, node, 0, 1, ids)


def _made(trace: Trace, node: onnx.NodeProto, weight_axis: int, axis: int, ids: np.ndarray) -> None:
    """New channels of a layer: rows of its weight, and of its bias if it has one."""
    trace.cut(node, 1, weight_axis, ids)
    if len(node.input) > 2 and node.input[2]:
        shape = trace.shapes[node.input[2]]
        if node.input[2] not in trace.constants:
            trace.keep(ids)
        elif shape and shape[-1] == len(ids):
            trace.cut(node, 2, len(shape) - 1, ids)
    trace.put(node, axis, ids)


def _gemm(trace: Trace, node: onnx.NodeProto) -> None:
    source, weight = trace.channels.get(node.input[0]), node.input[1]
    last = trace.rank(node) - 1
    fits = weight in trace.constants and len(trace.shapes[weight]) == 2 and not _attribute(node, "transA", 0)
    if not fits or (source is not None and source.axis != last):
        trace.fix(*node.input)
        return
    inputs_axis = int(bool(_attribute(node, "transB", 0)))
    if source is not None:
        trace.cut(node, 1, inputs_axis, source.ids)
    _made(trace, node, 1 - inputs_axis, last, trace.new(trace.shapes[weight][1 - inputs_axis]))


def _matmul(trace: Trace, node: onnx.NodeProto) -> None:
    """A layer; or activations by activations: heads are multiplied one by one, what is summed over ends here."""
    if any(name in trace.constants for name in node.input):
        _gemm(trace, node)
        return
    first, second = (trace.channels.get(name) for name in node.input)
    rank = trace.rank(node)
    if first is None or second is None or rank != len(trace.shapes[node.input[1]]):
        trace.fix(*node.input)
    elif first.axis == second.axis < rank - 2 and len(first.ids) == len(second.ids):
        trace.unite(first.ids, second.ids)
        trace.put(node, first.axis, first.ids)
    elif first.axis == rank - 1 and second.axis == rank - 2:
        trace.unite(first.ids, second.ids)
    else:
        trace.fix(*node.input)


def _elementwise(trace: Trace, node: onnx.NodeProto) -> None:
    known = {name: trace.channels[name] for name in node.input if name in trace.channels}
    # Axes are counted from the last: that is how shapes are broadcast.
    places = {each.axis - len(trace.shapes[name]) for name, each in known.items()}
    if len(places) != 1:
        trace.fix(*known)
        if not places:
            _from_constant(trace, node)
        return
    axis = places.pop()
    ids = max((each.ids for each in known.values()), key=len)
    if trace.shapes[node.output[0]][axis] != len(ids):  # a single channel meets many that are none of these
        trace.fix(*known)
        return
    for place, name in enumerate(node.input):
        shape = trace.shapes[name] if name else ()
        if name in known and len(known[name].ids) == len(ids):
            trace.unite(known[name].ids, ids)
        elif name in known:
            trace.fix(name)  # a single channel meets all of the others
        elif len(shape) >= -axis and shape[axis] == len(ids):
            if name in trace.constants:
                trace.cut(node, place, len(shape) + axis, ids)
            else:
                trace.keep(ids)
    trace.put(node, len(trace.shapes[node.output[0]]) + axis, ids)


def _from_constant(trace: Trace, node: onnx.NodeProto) -> None:
    """A single value becomes channels by the factors, or terms, that it meets."""
    result = trace.shapes[node.output[0]]
    for place, name in enumerate(node.input):
        own = (1,) * (len(result) - len(trace.shapes[name])) + trace.shapes[name]
        wide = [axis for axis, size in enumerate(own) if size > 1]
        if name in trace.constants and len(wide) == 1 and math.prod(result) == result[wide[0]]:
            ids = trace.new(own[wide[0]])
            trace.cut(node, place, wide[0] - len(result) + len(trace.shapes[name]), ids)
            trace.put(node, wide[0], ids)
            return


def _same(trace: Trace, node: onnx.NodeProto, source: Channels) -> Channels:
    """Channels stay apart and where they are."""
    return source


def _normalise(trace: Trace, node: onnx.NodeProto, source: Channels) -> Channels | None:
    """Each channel has constants of its own."""
    if source.axis != 1 or any(name not in trace.constants for name in node.input[1:]):
        return None
    for place in range(1, len(node.input)):
        trace.cut(node, place, 0, source.ids)
    return source


def _softmax(trace: Trace, node: onnx.NodeProto, source: Channels) -> Channels | None:
    """Over one axis, or in older opsets over all axes from one on."""
    usual = -1 if trace.opset >= SOFTMAX_IS_OVER_ONE_AXIS else 1
    return source if source.axis < _attribute(node, "axis", usual) % trace.rank(node) else None


def _layer_norm(trace: Trace, node: onnx.NodeProto, source: Channels) -> Channels | None:
    """What is normalised over channels is normalised over those that are left."""
    first, last = _attribute(node, "axis", -1) % trace.rank(node), trace.rank(node) - 1
    if source.axis >= first and (first != last or any(name not in trace.constants for name in node.input[1:])):
        return None
    for place in range(1, len(node.input)) if source.axis == last else ():
        trace.cut(node, place, 0, source.ids)
    return source


def _reduce(trace: Trace, node: onnx.NodeProto, source: Channels) -> Channels | None:
    """The mean, or the largest, of channels becomes that of those that are left."""
    operand = _operand(trace, node, 1)
    rank = trace.rank(node)
    axes = [axis % rank for axis in (_attribute(node, "axes", range(rank)) if operand is None else operand)]
    if source.axis not in axes:
        dropped = 0 if _attribute(node, "keepdims", 1) else sum(axis < source.axis for axis in axes)
        return Channels(source.axis - dropped, source.ids)
    if node.op_type == "ReduceSum":
        scalings = trace.readers[node.output[0]]
        if axes != [source.axis] or not all(_divides(trace, each, len(source.ids)) for each in scalings):
            return None
        for each in scalings:
            trace.count(each, source.ids)
    return NONE


def _divides(trace: Trace, node: onnx.NodeProto, count: int) -> bool:
    """Whether a node makes the mean of a sum of so many."""
    constants = [numpy_helper.to_array(trace.constants[name]) for name in node.input if name in trace.constants]
    return node.op_type == "Mul" and len(constants) == 1 and bool(np.all(np.isclose(constants[0] * count, 1)))


def _transpose(trace: Trace, node: onnx.NodeProto, source: Channels) -> Channels:
    order = list(_attribute(node, "perm", range(trace.rank(node))[::-1]))
    return Channels(order.index(source.axis), source.ids)


def _reshape(trace: Trace, node: onnx.NodeProto, source: Channels) -> Channels | None:
    """Channels that keep their axis, are merged with what lies within or around them, or taken together as heads."""
    before, after = trace.shapes[node.input[0]], trace.shapes[node.output[0]]
    count, outer, inner = len(source.ids), math.prod(before[: source.axis]), math.prod(before[source.axis + 1 :])
    for axis, size in enumerate(after):
        around, within = math.prod(after[:axis]), math.prod(after[axis + 1 :])
        if within == inner and size % count == 0:
            ids = np.tile(source.ids, size // count)
        elif around == outer and size % count == 0:
            ids = np.repeat(source.ids, size // count)
        elif around == outer and size > 1 and count % size == 0:
            heads = source.ids.reshape(size, -1)
            trace.unite(heads.ravel(), np.repeat(heads[:, 0], heads.shape[1]))
            ids = heads[:, 0]
        else:
            continue
        if node.op_type == "Reshape":
            trace.count(node, *(ids if i == axis else np.full(other, STAYS) for i, other in enumerate(after)))
        return Channels(axis, ids)
    return None


def _slice(trace: Trace, node: onnx.NodeProto, source: Channels) -> Channels | None:
    before, after = (trace.shapes[name][source.axis] for name in (node.input[0], node.output[0]))
    steps = _operand(trace, node, 4)
    return source if before == after and (len(node.input) < 5 or (steps is not None and min(steps) > 0)) else None


def _pad(trace: Trace, node: onnx.NodeProto, source: Channels) -> Channels | None:
    """Constant channels may be added to those that are there: a shortcut without weights. Other axes grow as they like.

    What reflects channels, or repeats them, makes others of them; what crops them takes some away: these stay.
    """
    rank = trace.rank(node)
    every = len(node.input) < 4 or not node.input[3]
    pads, axes = _operand(trace, node, 1), list(range(rank)) if every else _operand(trace, node, 3)
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        return None
    place = next((place for place, axis in enumerate(axes) if axis % rank == source.axis), None)
    if place is None:
        return source
    before, after = place, place + len(axes)
    if not pads[before] and not pads[after]:
        return source
    if _attribute(node, "mode", b"constant") != b"constant" or min(pads) < 0:
        return None
    counted = [np.full(count, STAYS) for count in pads]
    for end in (before, after):
        counted[end] = trace.new(pads[end])
    trace.count(node, *counted)
    return Channels(source.axis, np.concatenate([counted[before], source.ids, counted[after]]))


def _concat(trace: Trace, node: onnx.NodeProto) -> None:
    known = [trace.channels.get(name) for name in node.input]
    axis = _attribute(node, "axis", 0) % len(trace.shapes[node.output[0]])
    if any(each is not None and each.axis != axis for each in known):
        trace.fix(*node.input)
    elif any(known):
        stay = [np.full(trace.shapes[name][axis], STAYS) for name in node.input]
        ids = [own if each is None else each.ids for each, own in zip(known, stay, strict=True)]
        trace.put(node, axis, np.concatenate(ids))


def _split(trace: Trace, node: onnx.NodeProto) -> None:
    source = trace.channels.get(node.input[0])
    if source is None:
        return
    if _attribute(node, "axis", 0) % trace.rank(node) != source.axis:
        trace.put(node, source.axis, source.ids)
        return
    sizes = [trace.shapes[name][source.axis] for name in node.output]
    parts = np.split(source.ids, np.cumsum(sizes)[:-1])
    trace.count(node, *parts)
    for name, ids in zip(node.output, parts, strict=True):
        trace.channels[name] = Channels(source.axis, ids)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _operand(trace: Trace, node: onnx.NodeProto, place: int) -> list[int] | None:
    """An input that holds constant integers; None where there is none."""
    if len(node.input) <= place or node.input[place] not in trace.constants:
        return None
    return [int(value) for value in numpy_helper.to_array(trace.constants[node.input[place]]).ravel()]


_ELEMENTWISE = (
    "Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal",
    "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where",
)  # fmt: skip
FROM_ONE: dict[str, Callable[[Trace, onnx.NodeProto, Channels], Channels | None]] = {
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _same),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _normalise),
    **dict.fromkeys(("LogSoftmax", "Softmax"), _softmax),
    "LayerNormalization": _layer_norm,
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduce),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    "Pad": _pad,
    "Slice": _slice,
    "Transpose": _transpose,
}
FROM_MANY: dict[str, Callable[[Trace, onnx.NodeProto], None]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    "Concat": _concat,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Split": _split,
}
