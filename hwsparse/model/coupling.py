"""Which channels of a network can only be removed together, and the network without some of them.

A channel is followed from the layer that makes it through everything that hands it on: elementwise operators, pooling,
depthwise convolutions, sums with other channels, concatenations, heads of attention. Channels that meet are one unit:
what makes them, what reads them and every constant between goes with them (the dependency graph of Fang et al.,
"DepGraph: Towards Any Structural Pruning", CVPR 2023, here over ONNX and channel by channel). Channels that reach an
output, or an operator that is not known here, stay.

Knows nothing of what a channel is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwsparse.errors import ModelError
from hwsparse.model.channels import NONE, Coupling, Trace
from hwsparse.model.fold import infer
from hwsparse.model.model import Model
from hwsparse.model.onnx_file import model_of
from hwsparse.model.operators import FROM_MANY, FROM_ONE
from hwsparse.model.read import opset

# The opset from which on Split takes sizes as an input.
SIZES_ARE_INPUTS = 13


def couple(model: Model) -> Coupling:
    """Finds the units of a model."""
    proto = onnx.load_from_string(model.proto)
    trace = Trace(proto.graph, opset(proto))
    for node in proto.graph.node:
        _follow(trace, node)
    return trace.coupling()


def _follow(trace: Trace, node: onnx.NodeProto) -> None:
    """Takes channels on from what a node reads to what it makes."""
    source = trace.channels.get(node.input[0]) if node.input else None
    if node.op_type in FROM_MANY:
        FROM_MANY[node.op_type](trace, node)
    elif node.op_type not in FROM_ONE:
        trace.fix(*node.input)
    elif source is not None:
        made = FROM_ONE[node.op_type](trace, node, source)
        if made is None:
            trace.keep(source.ids)
        elif made is not NONE:
            trace.put(node, made.axis, made.ids)


def without(model: Model, coupling: Coupling, removed: np.ndarray) -> Model:
    """The model without some of its units; its layers keep their names.

    Args:
        removed: (1 + units,) bool; removed[STAYS] is False.

    Raises:
        ModelError: nothing would be left of an axis.
    """
    proto = onnx.load_from_string(model.proto)
    nodes = {node.name: node for node in proto.graph.node}
    stored = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    for (name, place, axis), units in coupling.stored.items():
        kept = np.flatnonzero(~removed[units])
        if not kept.size:
            raise ModelError(f"model {model.name!r}: no channel would be left of {name!r}")
        array = stored[nodes[name].input[place]].take(kept, axis)
        nodes[name].input[place] = _constant(proto.graph, f"{name}/{place}/{axis}", array)
        stored[nodes[name].input[place]] = array
    for name, counted in coupling.counted.items():
        left = [int(np.count_nonzero(~removed[units])) for units in counted]
        _RECOUNT[nodes[name].op_type](proto, nodes[name], left)
    read = {name for node in proto.graph.node for name in node.input}
    left_over = [item for item in proto.graph.initializer if item.name in read]
    del proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.initializer.extend(left_over)
    return model_of(infer(proto), model.name)


def _set_groups(proto: onnx.ModelProto, node: onnx.NodeProto, left: Sequence[int]) -> None:
    next(item for item in node.attribute if item.name == "group").i = left[0]


def _set_divisor(proto: onnx.ModelProto, node: onnx.NodeProto, left: Sequence[int]) -> None:
    constants = {item.name: item for item in proto.graph.initializer}
    place = next(place for place, name in enumerate(node.input) if name in constants)
    dtype = numpy_helper.to_array(constants[node.input[place]]).dtype
    node.input[place] = _constant(proto.graph, f"{node.name}/left", np.array(1 / left[0], dtype))


def _set_operand(proto: onnx.ModelProto, node: onnx.NodeProto, left: Sequence[int]) -> None:
    """Sizes that were a constant, or an attribute, become a constant of the node's own."""
    operands = [node.input[0], _constant(proto.graph, f"{node.name}/left", np.array(left, np.int64)), *node.input[2:]]
    del node.input[:]
    node.input.extend(operands)
    kept = [item for item in node.attribute if item.name != "num_outputs"]
    del node.attribute[:]
    node.attribute.extend(kept)


def _set_sizes(proto: onnx.ModelProto, node: onnx.NodeProto, left: Sequence[int]) -> None:
    if opset(proto) >= SIZES_ARE_INPUTS:
        _set_operand(proto, node, left)
    else:
        kept = [item for item in node.attribute if item.name != "split"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("split", left)])


def _constant(graph: onnx.GraphProto, name: str, array: np.ndarray) -> str:
    """Stores a constant for one node: others may read the one that it had."""
    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


_RECOUNT: dict[str, Callable[[onnx.ModelProto, onnx.NodeProto, Sequence[int]], None]] = {
    "Conv": _set_groups,
    "Mul": _set_divisor,
    "Pad": _set_operand,
    "Reshape": _set_operand,
    "Split": _set_sizes,
}
