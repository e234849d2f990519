"""Parts of a network as models of their own: some of its nodes, fed with what the others give.

Knows nothing of pruning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper, numpy_helper


def depending(graph: onnx.GraphProto, tensor: str) -> list[onnx.NodeProto]:
    """The nodes that a tensor has an influence on, in order."""
    reached, found = {tensor}, []
    for node in graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
            found.append(node)
    return found


def tensors_read(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Names of all that the nodes read."""
    return {name for node in nodes for name in node.input if name}


def tensors_made(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Names of all that the nodes give."""
    return {name for node in nodes for name in node.output}


def part_of(
    proto: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    fed: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    replaced: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> onnx.ModelProto:
    """The model made of some nodes.

    Args:
        fed: arrays like those that its inputs will get; if there are none, it has the graph's own inputs.
        replaced: initializers that take the place of the graph's.
    """
    read = tensors_read(nodes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in fed.items()
    ]
    stored = [
        numpy_helper.from_array(replaced[item.name], item.name) if item.name in replaced else item
        for item in proto.graph.initializer
        if item.name in read and item.name not in fed
    ]
    named = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, proto.graph.name, inputs or list(proto.graph.input), named, stored)
    return helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
