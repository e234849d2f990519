"""An ONNX graph of opset 18 rewritten in opset 13, which older runtimes know; onnx's converter does not get there.

Rewrites what the benchmarks' networks hold: layer normalisation is written out, reductions take their axes as an
attribute again, attributes that came later go. Whatever else they hold has not changed between the two.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

OPSET, IR_VERSION = 13, 7
# Of ReduceSum they were an input already.
AXES_AS_ATTRIBUTE = ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin")
LATER_ATTRIBUTES = ("allowzero", "noop_with_empty_axes")


def to_opset13(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network; nodes keep their order, weights their names."""
    constants = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    added: dict[str, np.ndarray] = {}
    nodes = [step for node in proto.graph.node for step in _rewrite(node, constants, added)]
    used = {name for node in nodes for name in node.input}
    stored = [item for item in proto.graph.initializer if item.name in used]
    stored += [numpy_helper.from_array(value, name) for name, value in added.items()]
    graph = helper.make_graph(nodes, proto.graph.name, proto.graph.input, proto.graph.output, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _rewrite(node: NodeProto, constants: Mapping[str, np.ndarray], added: dict[str, np.ndarray]) -> list[NodeProto]:
    if node.op_type == "LayerNormalization":
        return _layer_normalization(node, added)
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    for name in LATER_ATTRIBUTES:
        attributes.pop(name, None)
    inputs = list(node.input)
    if node.op_type in AXES_AS_ATTRIBUTE and len(inputs) == 2:
        attributes["axes"] = constants[inputs.pop()].tolist()
    return [helper.make_node(node.op_type, inputs, list(node.output), node.name, **attributes)]


def _layer_normalization(node: NodeProto, added: dict[str, np.ndarray]) -> list[NodeProto]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, over the last axis."""
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if attributes.get("axis", -1) != -1:
        raise ValueError(f"{node.name}: only normalisation of the last axis is rewritten")
    (x, scale, bias), out = node.input, node.output[0]
    parts = ("mean", "centred", "square", "variance", "moved", "deviation", "normal", "scaled", "two", "epsilon")
    mean, centred, square, variance, moved, deviation, normal, scaled, two, epsilon = (
        f"{out}/{part}" for part in parts
    )
    added[two] = np.array(2, np.float32)
    added[epsilon] = np.array(attributes.get("epsilon", 1e-5), np.float32)
    return [
        helper.make_node("ReduceMean", [x], [mean], axes=[-1], keepdims=1),
        helper.make_node("Sub", [x, mean], [centred]),
        helper.make_node("Pow", [centred, two], [square]),
        helper.make_node("ReduceMean", [square], [variance], axes=[-1], keepdims=1),
        helper.make_node("Add", [variance, epsilon], [moved]),
        helper.make_node("Sqrt", [moved], [deviation]),
        helper.make_node("Div", [centred, deviation], [normal]),
        helper.make_node("Mul", [normal, scale], [scaled]),
        helper.make_node("Add", [scaled, bias], [out]),
    ]
