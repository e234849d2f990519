"""Small networks of random sizes, at several batches, thread counts and instruction sets, against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from hwsparse.codegen import build_model, random_inputs, relative_error
from hwsparse.errors import UnsupportedError
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import apply_plan, pruned_proto
from hwsparse.target import Target, load_target


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

    def model(self, shape: Sequence[int], last: str, out: Sequence[int]) -> Model:
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, out)],
            self.stored,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        return import_onnx(proto.SerializeToString(), name="network")


def convolutional(batch: int, seed: int) -> Model:
    """A stem, a residual block, an inverted one with a depthwise convolution, groups, pooling of every kind."""
    net = Network(seed)
    size, wide, expanded = (int(net.rng.integers(*bounds)) for bounds in ((45, 70), (32, 41), (20, 50)))
    x = net.node("Relu", net.conv("x", 3, wide, 7, 2))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inner = net.node("Relu", net.conv(x, wide, wide, 3))
    x = net.node("Relu", net.node("Add", net.conv(inner, wide, wide, 1), x))
    inner = net.node("HardSwish", net.conv(x, wide, expanded, 1))
    low, high = (net.array(np.array(bound, np.float32)) for bound in (0, 6))
    inner = net.node("Clip", net.conv(inner, expanded, expanded, 3, 1, expanded), low, high)
    x = net.node("Add", x, net.conv(inner, expanded, wide, 1))
    x = net.node("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    x = net.node("Sigmoid", net.conv(x, wide, 3 * wide, 3, 2, 1))
    x = net.node("Relu", net.conv(x, 3 * wide, 24, 3, 1, 3))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    x = net.node("Gemm", x, net.weight(10, 24), net.weight(10), transB=1)
    return net.model((batch, 3, size, size), x, (batch, 10))


def transformer(batch: int, seed: int) -> Model:
    """One block: attention and a perceptron, each normalised first and added to what came in."""
    net = Network(seed)
    tokens, heads, depth = (int(net.rng.integers(*bounds)) for bounds in ((5, 40), (1, 4), (4, 20)))
    width = heads * depth
    x = net.product("x", 12, width)
    normal = net.norm(x, width)
    split, orders = net.ints(0, tokens, heads, depth), ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
    query, key, value = (
        net.node("Transpose", net.node("Reshape", net.product(normal, width, width), split), perm=order)
        for order in orders
    )
    scores = net.node("Mul", net.node("MatMul", query, key), net.array(np.array(depth**-0.5, np.float32)))
    heard = net.node("MatMul", net.node("Softmax", scores, axis=-1), value)
    heard = net.node("Reshape", net.node("Transpose", heard, perm=[0, 2, 1, 3]), net.ints(0, tokens, width))
    x = net.node("Add", x, net.product(heard, width, width))
    inner = net.node("Gelu", net.product(net.norm(x, width), width, 3 * width))
    x = net.node("Add", x, net.product(inner, 3 * width, width))
    x = net.node("ReduceMean", x, net.ints(1), keepdims=0)
    x = net.node("Gemm", x, net.weight(7, width), net.weight(7), transB=1)
    return net.model((batch, tokens, 12), x, (batch, 7))


def target_of(name: str, threads: int) -> Target:
    target = load_target(name).with_threads(threads)
    try:
        target.require_timing()
    except UnsupportedError as error:
        pytest.skip(str(error))
    return target


@pytest.mark.parametrize("make", [convolutional, transformer], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["x86-avx2", "x86-avx512"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("batch", "text"), [(1, "unstructured@0.7"), (2, "dense"), (8, "block4x1@0.5")])
def test_a_network_computes_what_onnxruntime_does(  # type: ignore[no-untyped-def]
    make, name: str, threads: int, batch: int, text: str, tmp_path: Path
) -> None:
    target, model, choice = target_of(name, threads), make(batch, seed=batch + threads), parse_choice(text)
    layers = [layer for layer in model.layers if layer.groups == 1 and not layer.outputs % 4]
    plan = Plan.uniform(model.digest, layers, choice)
    weights = apply_plan(model, plan)
    library = build_model(model, plan, weights, target, tmp_path)
    inputs = random_inputs(model.inputs)
    session = onnxruntime.InferenceSession(pruned_proto(model, weights), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, inputs)
    (value,) = library.run(inputs).values()
    assert relative_error(value, expected) < 1e-4
