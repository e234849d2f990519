"""The layers of a canonical graph that can be pruned.

A layer is a convolution over one or two axes, a Gemm, or a matrix product, whose weight is a float32
constant that nothing else reads: a weight read twice would be pruned twice with one mask fitting neither use.
Left out too are a Gemm that scales or transposes its input. A layer's bias is told likewise: a constant of its own,
an operand of the node or added right behind it. Knows nothing of patterns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import onnx
from onnx import helper

from hwsparse.model.shapes import static_shape
from hwsparse.plan import Layer, Window

Shapes = Mapping[str, tuple[int, ...]]


def find_layers(proto: onnx.ModelProto) -> tuple[Layer, ...]:
    """The prunable layers of a canonical graph, in graph order."""
    graph = proto.graph
    uses = Counter(name for node in graph.node for name in node.input) + Counter(item.name for item in graph.output)
    weights = {
        item.name: tuple(item.dims)
        for item in graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT and uses[item.name] == 1
    }
    known = ((item.name, static_shape(item)) for item in (*graph.input, *graph.value_info, *graph.output))
    shapes = {name: shape for name, shape in known if shape is not None}
    # Weights go by their layers' names, and other constants by their own: they must not be taken for each other.
    names = {node.name for node in graph.node}
    constants = {name: shape for name, shape in weights.items() if name not in names}
    additions = {name: node for node in graph.node if node.op_type == "Add" for name in node.input if uses[name] == 1}
    found = ((node, _layer(node, weights, shapes)) for node in graph.node)
    return tuple(
        replace(layer, bias=_bias(node, layer, constants, additions)) for node, layer in found if layer is not None
    )


def _layer(node: onnx.NodeProto, weights: Shapes, shapes: Shapes) -> Layer | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in weights or node.input[0] not in shapes:
        return None
    weight, source, result = weights[node.input[1]], shapes[node.input[0]], shapes[node.output[0]]
    if 0 in weight + source + result:
        return None
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type == "Conv":
        return _conv(node, weight, source, result, attributes)
    return _matmul(node, weight, source, result, attributes)


def _bias(node: onnx.NodeProto, layer: Layer, constants: Shapes, additions: Mapping[str, onnx.NodeProto]) -> str | None:
    """The constant that is added to a layer's outputs; `additions` by what they read and no other node does."""
    if node.op_type != "MatMul":
        name = "".join(node.input[2:])
    elif (addition := additions.get(node.output[0])) is not None:
        (name,) = (each for each in addition.input if each != node.output[0])
    else:
        return None
    shape = constants.get(name, ())
    return name if shape == (1,) * (len(shape) - 1) + (layer.outputs,) else None


def _conv(
    node: onnx.NodeProto,
    weight: tuple[int, ...],
    source: tuple[int, ...],
    result: tuple[int, ...],
    attributes: Mapping[str, object],
) -> Layer | None:
    axes = len(weight) - 2
    if axes not in (1, 2) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    pads = _ints(attributes, "pads", (0,) * (2 * axes))
    window = Window(
        strides=_ints(attributes, "strides", (1,) * axes),
        pads=tuple(zip(pads[:axes], pads[axes:], strict=True)),
        dilations=_ints(attributes, "dilations", (1,) * axes),
        groups=_ints(attributes, "group", (1,))[0],
    )
    macs = math.prod(result) * math.prod(weight[1:])
    return Layer(node.name, "Conv", node.input[1], weight, source, result, macs, window)


def _matmul(
    node: onnx.NodeProto,
    weight: tuple[int, ...],
    source: tuple[int, ...],
    result: tuple[int, ...],
    attributes: Mapping[str, object],
) -> Layer | None:
    if len(weight) != 2 or len(source) < 2:
        return None
    scaled = attributes.get("alpha", 1.0) != 1.0 or (len(node.input) > 2 and attributes.get("beta", 1.0) != 1.0)
    if attributes.get("transA", 0) or scaled:
        return None
    transposed = not attributes.get("transB", 0)
    canonical = weight[::-1] if transposed else weight
    macs = math.prod(result) * canonical[1]
    return Layer(node.name, node.op_type, node.input[1], canonical, source, result, macs, transposed=transposed)


def _ints(attributes: Mapping[str, object], name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = attributes.get(name, default)
    return (value,) if isinstance(value, int) else tuple(cast("Sequence[int]", value))
