"""Bytes from outside become an ONNX graph of standard operators, or one clear error.

Knows nothing of shapes, layers or onnxruntime.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import checker, inliner

from hwsparse.errors import ModelError, one_line
from hwsparse.model.external import MAX_MODEL_BYTES, inline_external_data

OPSETS = range(11, 23)
_STANDARD = ("", "ai.onnx")
QDQ = ("QuantizeLinear", "DequantizeLinear")
INSTEAD_OF_BYTES = (
    "export it in QDQ format, with the standard QuantizeLinear and DequantizeLinear of 8 bits around operators on "
    "floats and constant scales, or give the float model"
)
# Operators on bytes, of ONNX and of onnxruntime, but for the pairs of a QDQ graph.
_ON_BYTES = re.compile(
    r"Q(Linear|Ordered|Gemm|Attention|Embed|MoE).*|Dynamic(Quantize|Matmul).*|\w*Integer\w*|(De)?[Qq]uantize.*"
    r"|(GatherBlockQuantized|MatMul(NBits|Bnb4|FpQ4))"
)


def read_proto(source: Path | bytes) -> onnx.ModelProto:
    """Reads an ONNX model; weights inline, local functions inlined, standard operators only.

    Raises:
        ModelError: unreadable, too large, truncated, not ONNX, of another opset, or with custom operators.
    """
    data = source if isinstance(source, bytes) else _read_file(source)
    if len(data) > MAX_MODEL_BYTES:
        raise ModelError(f"the model takes {len(data)} bytes; an ONNX model holds at most {MAX_MODEL_BYTES}")
    try:
        proto = onnx.load_from_string(data)
    except (DecodeError, ValueError, RecursionError):
        raise ModelError("not an ONNX model, or a truncated one") from None
    if not proto.graph.output:
        raise ModelError("not an ONNX model, or a truncated one: it holds no graph with an output")
    _check_text(proto)
    _check_opset(proto)
    inline_external_data(proto, None if isinstance(source, bytes) else source.parent)
    proto = _inline_functions(proto)
    _check_operators(proto)
    return proto


def check_graph(proto: onnx.ModelProto) -> None:
    """Checks that a model whose inputs are static keeps the rules of ONNX; drops the shapes its outputs claim.

    Raises:
        ModelError: it does not; says which node where one is at fault.
    """
    inputs = {item.name for item in proto.graph.input}
    for output in proto.graph.output:
        if output.name in inputs:
            raise ModelError(f"output {output.name!r} is an input of the model")
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.shape.SetInParent()  # the checker wants one, though it follows from the rest
    try:
        checker.check_model(proto)
    except (checker.ValidationError, ValueError) as error:
        raise ModelError(f"not a valid ONNX model: {one_line(error)}") from None
    for output in proto.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")


def opset(proto: onnx.ModelProto) -> int:
    """Version of the default operator set; 0 if the model names none."""
    return next((item.version for item in proto.opset_import if item.domain in _STANDARD), 0)


def describe(node: onnx.NodeProto) -> str:
    """A node as errors name it."""
    return f"node {node.name!r} ({node.op_type})"


def not_qdq(node: onnx.NodeProto, what: str) -> ModelError:
    """The error that says what is wrong with a node of a quantised model."""
    return ModelError(f"{describe(node)}: {what}: {INSTEAD_OF_BYTES}")


def _read_file(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MAX_MODEL_BYTES:
            raise ModelError(f"{path} takes {size} bytes; an ONNX file holds at most {MAX_MODEL_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def _check_text(proto: onnx.ModelProto) -> None:
    """Refuses names that are not UTF-8, which protobuf hands over as bytes, and such as hold a zero character."""
    texts: list[str | bytes] = [item.domain for item in proto.opset_import]
    texts += [item.name for item in (*proto.graph.input, *proto.graph.output)]
    texts += [item.name for item in proto.graph.initializer]
    for node in chain(nodes(proto.graph), *(function.node for function in proto.functions)):
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
        texts += [attribute.name for attribute in node.attribute]
    if not all(isinstance(text, str) for text in texts):
        raise ModelError("not an ONNX model, or a damaged one: a name in it is not UTF-8 text")
    if (zero := next((text for text in texts if "\0" in str(text)), None)) is not None:
        raise ModelError(f"the name {zero!r} in the model holds a zero character: export it again with another name")


def _check_opset(proto: onnx.ModelProto) -> None:
    if (version := opset(proto)) not in OPSETS:
        raise ModelError(
            f"the model has opset {version}; {OPSETS[0]} to {OPSETS[-1]} can be read: export it again with one of these"
        )


def _inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    if not proto.functions:
        return proto
    try:
        return inliner.inline_local_functions(proto)
    except Exception as error:  # the inliner raises bare RuntimeErrors from C++ and whatever its checker raises
        raise ModelError(f"the model's functions cannot be inlined: {one_line(error)}") from None


def _check_operators(proto: onnx.ModelProto) -> None:
    version = opset(proto)
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise ModelError(f"weight {name!r} is stored as a sparse tensor: store it dense")
    for node in nodes(proto.graph):
        is_pair = node.op_type in QDQ and node.domain in _STANDARD
        if _ON_BYTES.fullmatch(node.op_type) and not is_pair:
            raise not_qdq(node, "the model is quantised, and this operator computes with its bytes")
        if node.domain not in _STANDARD:
            raise ModelError(f"{describe(node)}: operator {node.domain}.{node.op_type} is not a standard ONNX operator")
        if not onnx.defs.has(node.op_type, max_inclusive_version=version):
            raise ModelError(f"{describe(node)}: opset {version} of ONNX has no operator {node.op_type}")


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from nodes(inner)
