"""A checked graph becomes the canonical one: constants and batch norm folded, every shape static.

onnxruntime's basic optimisations do the folding, because they stay within standard operators and are the
ones whose results everything is compared with. What is written down is made the same for the same input:
names, order, no trace of who made the file. Knows nothing of layers.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import onnx
import onnxruntime
from onnx import helper

from hwsparse.errors import ModelError, one_line, writing
from hwsparse.model.read import describe, nodes
from hwsparse.model.shapes import MAX_TENSOR_ELEMENTS, static_shape, with_shapes

_FUSED = "/MatMulAddFusion"  # what onnxruntime appends to a node's name; the user knows the node without it


def fold(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The canonical form of a graph with static inputs.

    Raises:
        ModelError: onnxruntime cannot take the graph, or something in it cannot be made static.
        StorageError: the directory for temporary files cannot be written to.
    """
    _name_nodes(proto.graph)
    _check_sizes(proto)
    folded = _optimize(proto)
    for node in folded.graph.node:
        node.name = node.name.removesuffix(_FUSED)
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ModelError(f"{describe(node)}: control flow that depends on the input cannot be compiled")
    for item in nodes(folded.graph):
        if item.domain not in ("", "ai.onnx"):
            raise ModelError(f"{describe(item)}: onnxruntime made an operator of {item.domain}, which is not standard")
    _name_nodes(folded.graph)
    _resolve_auto_pad(folded)
    return infer(_strip(folded))


def _optimize(proto: onnx.ModelProto) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4  # what matters of its log is in the exception; all of it would reach the terminal
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # constants behind DequantizeLinear fold too
    with tempfile.TemporaryDirectory(prefix="hwsparse-") as directory:
        path = Path(directory) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        with writing(path):
            try:
                onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
                return onnx.load(path)
            except Exception as error:  # onnxruntime's exceptions share no base but Exception
                raise ModelError(f"onnxruntime cannot take the model: {one_line(error)}") from None


def _check_sizes(proto: onnx.ModelProto) -> None:
    """Refuses tensors that no device holds, before folding would allocate them."""
    inferred = with_shapes(proto).graph
    for item in (*inferred.input, *inferred.value_info, *inferred.output):
        shape = static_shape(item)
        if shape is not None and math.prod(shape) > MAX_TENSOR_ELEMENTS:
            raise ModelError(f"value {item.name!r} has shape {shape}: more than {MAX_TENSOR_ELEMENTS} elements")


def infer(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes of all values, static, listed in graph order."""
    inferred = with_shapes(proto).graph
    known = {item.name: item for item in (*inferred.value_info, *inferred.output)}
    outputs = {item.name for item in proto.graph.output}
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        for name in filter(None, node.output):
            if name in known and not known[name].type.HasField("tensor_type"):
                raise ModelError(f"{describe(node)}: its output {name!r} is not a tensor")
            if name not in known or static_shape(known[name]) is None:
                raise ModelError(f"{describe(node)}: the shape of its output {name!r} depends on the input's values")
            if name not in outputs:
                proto.graph.value_info.append(known[name])
    for output in proto.graph.output:
        output.CopyFrom(known[output.name])
    return proto


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Gives every node a name of its own; existing names keep their first holder."""
    taken = {node.name for node in graph.node}
    seen: set[str] = {""}
    for index, node in enumerate(graph.node):
        if node.name in seen:
            stem = node.name or node.op_type
            number = index if not node.name else 1
            while f"{stem}_{number}" in taken:
                number += 1
            node.name = f"{stem}_{number}"
            taken.add(node.name)
        seen.add(node.name)


def _strip(folded: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without remarks, producers and operator sets it does not use."""
    graph = folded.graph
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for field in ("doc_string", "metadata_props", "quantization_annotation"):
        graph.ClearField(field)
    graph.name = "main"
    version = next(item.version for item in folded.opset_import if item.domain in ("", "ai.onnx"))
    return helper.make_model(graph, ir_version=folded.ir_version, opset_imports=[helper.make_opsetid("", version)])


def _resolve_auto_pad(proto: onnx.ModelProto) -> None:
    """Writes a convolution's padding out, so that nothing later has to work it out again."""
    inferred = with_shapes(proto).graph
    shapes = {item.name: static_shape(item) for item in (*inferred.value_info, *inferred.input)}
    kernels = {item.name: tuple(item.dims)[2:] for item in proto.graph.initializer}
    for node in proto.graph.node:
        attributes = {item.name: item for item in node.attribute}
        if node.op_type != "Conv" or "auto_pad" not in attributes:
            continue
        mode = attributes.pop("auto_pad").s.decode()
        source, kernel = shapes.get(node.input[0]), kernels.get(node.input[1])
        if mode != "NOTSET" and source is not None and kernel is not None:
            ones = [1] * len(kernel)
            strides = list(attributes["strides"].ints) if "strides" in attributes else ones
            dilations = list(attributes["dilations"].ints) if "dilations" in attributes else ones
            pads = [_same_pad(*sizes, mode) for sizes in zip(source[2:], kernel, strides, dilations, strict=True)]
            attributes["pads"] = helper.make_attribute("pads", [p[0] for p in pads] + [p[1] for p in pads])
        elif mode != "NOTSET":
            continue
        del node.attribute[:]
        node.attribute.extend(attributes.values())


def _same_pad(size: int, kernel: int, stride: int, dilation: int, mode: str) -> tuple[int, int]:
    """Zeros before and after one axis, as ONNX defines auto_pad."""
    if mode == "VALID":
        return 0, 0
    reach = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if mode == "SAME_UPPER" else (large, small)
