"""Small ONNX networks, built node by node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from hwsparse.model import Model, import_onnx


class Network:
    """Nodes in a row, with what they need of weights; every method returns the name of what it computes."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.stored: list[TensorProto] = []

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def array(self, array: np.ndarray) -> str:
        name = f"stored_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.array(np.array(values, np.int64))

    def weight(self, *shape: int) -> str:
        """A weight that keeps values about as large as they were."""
        scale = np.sqrt(2 / max(1, np.prod(shape[1:]))) if len(shape) > 1 else 0.1
        return self.array((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def conv(self, x: str, channels: int, outputs: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        weight, bias = self.weight(outputs, channels // group, kernel, kernel), self.weight(outputs)
        pads = [kernel // 2] * 4
        return self.node("Conv", x, weight, bias, pads=pads, strides=[stride, stride], group=group)

    def product(self, x: str, inputs: int, outputs: int) -> str:
        matrix = self.rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        return self.node("Add", self.node("MatMul", x, self.array(matrix.astype(np.float32))), self.weight(outputs))

    def norm(self, x: str, width: int) -> str:
        scale = self.array((1 + 0.1 * self.rng.standard_normal(width)).astype(np.float32))
        return self.node("LayerNormalization", x, scale, self.weight(width), axis=-1)

    def model(self, shape: Sequence[int], *outputs: tuple[str, Sequence[int]]) -> Model:
        """The network of input `x`, of that shape, with outputs of given names and shapes."""
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, out) for name, out in outputs],
            self.stored,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        return import_onnx(proto.SerializeToString(), name="network")
