"""A float32 graph whose layers compute with bytes, in the form that DeepSparse has kernels for.

    x -> QuantizeLinear -> ConvInteger or MatMulInteger -> Add of the bias, int32 -> Cast -> Mul by the scales -> float

That is what SparseML exports for it (`ONNXToDeepsparse` of https://github.com/neuralmagic/sparseml, 2024). Of
QLinearConv, QLinearMatMul and DequantizeLinear DeepSparse 1.8 takes only such as scale a whole tensor at once: what has
a scale for each channel, as onnxruntime's tool writes it, goes to the onnxruntime within it.

Weights are signed bytes, each output channel by a scale of its own, and a zero stays a zero; what a layer reads is
unsigned bytes, a tensor by one scale. Products of activations stay in float32. Knows no runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

INTEGER = {"Conv": "ConvInteger", "Gemm": "MatMulInteger", "MatMul": "MatMulInteger"}
UNSIGNED, SIGNED = 255, 127
# Sums start from the bias: half of what 32 bits hold is left to the products.
LARGEST_BIAS = 2**30


@dataclass(frozen=True, slots=True)
class Range:
    """Between what a tensor lies."""

    low: float
    high: float


def layer_inputs(proto: onnx.ModelProto) -> tuple[str, ...]:
    """The tensors that layers with bytes would read, each once."""
    constants = _constants(proto)
    return tuple(dict.fromkeys(node.input[0] for node in proto.graph.node if _is_layer(node, constants)))


def to_integers(proto: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """The same network, its convolutions and products with weights in bytes.

    Args:
        proto: in opset 13.
        ranges: of each of `layer_inputs`.
    """
    constants = _constants(proto)
    added: dict[str, np.ndarray] = {}
    nodes: list[NodeProto] = []
    read: dict[str, _Bytes] = {}
    for node in proto.graph.node:
        if not _is_layer(node, constants):
            nodes.append(node)
            continue
        name = node.input[0]
        if name not in read:
            read[name] = _Bytes.of(name, ranges[name])
            nodes.append(read[name].made(added))
        nodes += _integer_layer(node, read[name], constants, added)
    used = {name for node in nodes for name in node.input}
    stored = [item for item in proto.graph.initializer if item.name in used]
    stored += [numpy_helper.from_array(value, name) for name, value in added.items()]
    graph = helper.make_graph(nodes, proto.graph.name, proto.graph.input, proto.graph.output, stored)
    return helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A tensor as unsigned bytes: its values are scale * (byte - zero)."""

    tensor: str
    scale: float
    zero: int

    @classmethod
    def of(cls, tensor: str, seen: Range) -> _Bytes:
        """Zero is among the values: it is what convolutions pad with."""
        low, high = min(seen.low, 0.0), max(seen.high, 0.0)
        scale = (high - low) / UNSIGNED or 1.0
        return cls(tensor, scale, round(-low / scale))

    @property
    def name(self) -> str:
        return f"{self.tensor}/bytes"

    @property
    def zero_name(self) -> str:
        return f"{self.name}/zero"

    def made(self, added: dict[str, np.ndarray]) -> NodeProto:
        """The node that makes the bytes."""
        scale_name = f"{self.name}/scale"
        added |= {scale_name: np.array(self.scale, np.float32), self.zero_name: np.array(self.zero, np.uint8)}
        return helper.make_node("QuantizeLinear", [self.tensor, scale_name, self.zero_name], [self.name])


def _constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _is_layer(node: NodeProto, constants: Mapping[str, np.ndarray]) -> bool:
    """Whether it multiplies by weights, and adds at most one number to each output channel."""
    if node.op_type not in INTEGER or any(name not in constants for name in node.input[1:]):
        return False
    if node.op_type == "Conv":
        return True
    weight, attributes = constants[node.input[1]], _attributes(node)
    plain = {"alpha": 1, "beta": 1, "transA": 0}
    if weight.ndim != 2 or any(attributes.get(name, value) != value for name, value in plain.items()):
        return False
    columns = weight.shape[0 if attributes.get("transB", 0) else 1]
    return all(constants[name].shape in ((), (1,), (columns,), (1, columns)) for name in node.input[2:])


def _integer_layer(
    node: NodeProto, x: _Bytes, constants: Mapping[str, np.ndarray], added: dict[str, np.ndarray]
) -> Iterator[NodeProto]:
    """A layer's sums, its bias, and what makes floats of them again."""
    weight, attributes, out = constants[node.input[1]].astype(np.float64), _attributes(node), node.output[0]
    spread: tuple[int, ...] = (-1,)  # of one number for each channel over the outputs
    if node.op_type == "Conv":
        spread = (-1, *(1 for _ in weight.shape[2:]))
        rows = weight.reshape(len(weight), -1)
    else:
        rows = weight if attributes.get("transB", 0) else weight.T
        attributes = {}
    biases = [np.broadcast_to(constants[name].reshape(-1), len(rows)).astype(np.float64) for name in node.input[2:3]]
    step = _steps(rows, x.scale, biases)
    values = np.round(rows / step[:, None]).astype(np.int8)
    added[f"{out}/weight"] = values.reshape(weight.shape) if node.op_type == "Conv" else np.ascontiguousarray(values.T)
    added[f"{out}/zero"] = np.array(0, np.int8)
    added[f"{out}/scale"] = (step * x.scale).astype(np.float32).reshape(spread)
    operands, sums = [x.name, f"{out}/weight", x.zero_name, f"{out}/zero"], f"{out}/sums"
    yield helper.make_node(INTEGER[node.op_type], operands, [sums], node.name, **attributes)
    for bias in biases:
        added[f"{out}/bias"] = np.round(bias / (step * x.scale)).astype(np.int32).reshape(spread)
        yield helper.make_node("Add", [sums, f"{out}/bias"], [f"{out}/biased"])
        sums = f"{out}/biased"
    yield helper.make_node("Cast", [sums], [f"{out}/float"], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [f"{out}/float", f"{out}/scale"], [out])


def _steps(rows: np.ndarray, input_scale: float, biases: list[np.ndarray]) -> np.ndarray:
    """What one unit of each row's weights stands for; coarser where its bias would not fit 32 bits otherwise."""
    steps = np.abs(rows).max(axis=1) / SIGNED
    for bias in biases:
        steps = np.maximum(steps, np.abs(bias) / (LARGEST_BIAS * input_scale))
    return np.where(steps > 0, steps, 1.0)
