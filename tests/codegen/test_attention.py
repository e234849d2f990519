"""Attention: the kernel against float64 over random sizes, and whole networks in the forms that exporters write."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper

from hwsparse.codegen import build_model, lowering, relative_error
from hwsparse.codegen.attentions import find_attentions
from hwsparse.codegen.cpu.attention import Attention, Placed, attention
from hwsparse.codegen.cpu.product_tile import tile_shape
from hwsparse.codegen.graph import contiguous
from hwsparse.model import Model, import_onnx
from hwsparse.plan import Plan
from tests.codegen.compiling import run_kernel
from tests.codegen.layers import CPU


def placed(sizes: Sequence[int], order: Sequence[int]) -> Placed:
    """An array of these sizes (batch, heads, rows, columns) whose axes lie in memory in another order."""
    buffer = tuple(sizes[axis] for axis in order)
    strides = dict(zip(order, contiguous(buffer), strict=True))
    one, two, three, four = (strides[axis] for axis in range(4))
    return Placed(buffer, 0, (one, two, three, four))


def in_memory(array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(order), np.float32)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_kernel(data: st.DataObject) -> None:
    batch, heads, queries, keys, depth, width = (
        data.draw(st.integers(1, most)) for most in (2, 3, 20, 40, 36, 36)
    )  # fmt: skip
    orders = [data.draw(st.sampled_from(list(itertools.permutations(range(4))))) for _ in range(4)]
    orders = data.draw(st.sampled_from([orders, [(0, 2, 1, 3)] * 4]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    q, k, v = (rng.standard_normal((batch, heads, *size)) for size in ((queries, depth), (keys, depth), (keys, width)))
    mask_shape = tuple(data.draw(st.sampled_from((1, size))) for size in (batch, heads, queries, keys))
    mask = np.where(rng.random(mask_shape) < 0.3, -40, rng.standard_normal(mask_shape)).astype(np.float32)
    masked = data.draw(st.booleans())
    one, two, three, four = (
        0 if size == 1 else stride for size, stride in zip(mask_shape, contiguous(mask_shape), strict=True)
    )
    sizes = Attention(
        batch, heads, queries, keys, depth, width, 0.3,
        *(placed(array.shape, order) for array, order in zip((q, k, v), orders, strict=False)),
        Placed(mask_shape, 0, (one, two, three, four)) if masked else None,
        placed((batch, heads, queries, width), orders[3]),
    )  # fmt: skip
    lanes, registers = data.draw(st.sampled_from(((4, 32), (8, 16), (16, 32))))
    kernel = attention(sizes, lanes, registers, data.draw(st.integers(1, 3)))
    inputs = [in_memory(array, order) for array, order in zip((q, k, v), orders, strict=False)]
    value = run_kernel(kernel, sizes.out.buffer, *inputs, *([mask] if masked else []))
    scores = q @ k.transpose(0, 1, 3, 2) * 0.3 + (mask.astype(np.float64) if masked else 0)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    expected = powers / powers.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(value, expected.transpose(orders[3]), atol=2e-5)


@given(st.integers(1, 8), st.integers(1, 40), st.sampled_from((16, 32)))
def test_tiles_fit_the_registers(rows: int, vectors: int, registers: int) -> None:
    height, across = tile_shape(rows, vectors, registers)
    assert rows % height == 0 and (height + 1) * across + 1 <= registers


class Network:
    """A transformer's attention between the products that make queries, keys and values, and one after it."""

    def __init__(self, batch: int, tokens: int, heads: int, head_width: int) -> None:
        self.batch, self.tokens, self.heads, self.width = batch, tokens, heads, heads * head_width
        self.rng = np.random.default_rng(0)
        self.nodes: list[NodeProto] = []
        self.stored: list[TensorProto] = []

    def constant(self, array: object) -> str:
        self.stored.append(numpy_helper.from_array(np.asarray(array), f"c{len(self.stored)}"))
        return str(self.stored[-1].name)

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.float32(value))

    def product(self, value: str, outputs: int | None = None) -> str:
        weight = self.rng.standard_normal((self.width, outputs or self.width)) / np.sqrt(self.width)
        return self.node("MatMul", value, self.constant(weight.astype(np.float32)))

    def shaped(self, value: str, *shape: int) -> str:
        return self.node("Reshape", value, self.constant(np.array(shape, np.int64)))

    def split(self, value: str, *axes: int) -> str:
        heads = self.shaped(value, self.batch, self.tokens, self.heads, self.width // self.heads)
        return self.node("Transpose", heads, perm=axes)

    def merged(self, value: str) -> str:
        return self.shaped(self.node("Transpose", value, perm=[0, 2, 1, 3]), self.batch, self.tokens, self.width)

    def model(self, result: str) -> Model:
        self.node("Identity", self.product(result))
        self.nodes[-1].output[0] = "y"
        shape = [self.batch, self.tokens, self.width]
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
        mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [self.batch, 1, 1, self.tokens])
        used = any("mask" in node.input for node in self.nodes)
        graph = helper.make_graph(self.nodes, "g", [ports[0], *([mask] if used else [])], ports[1:], self.stored)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        return import_onnx(proto.SerializeToString(), name="network")


def with_mask(net: Network) -> str:
    """BERT: divided scores, an added mask of keys."""
    q, k, v = (net.split(net.product("x"), 0, 2, 1, 3) for _ in range(3))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.node("Add", net.node("Div", scores, net.scalar(3.0)), "mask")
    return net.merged(net.node("MatMul", net.node("Softmax", scores, axis=-1), v))


def scaled_operands(net: Network) -> str:
    """PyTorch's scaled_dot_product_attention: both operands are scaled; a constant mask of queries and keys, first."""
    q, v = (net.split(net.product("x"), 0, 2, 1, 3) for _ in range(2))
    k = net.split(net.product("x"), 0, 2, 3, 1)
    scores = net.node("MatMul", net.node("Mul", q, net.scalar(0.6)), net.node("Mul", k, net.scalar(0.6)))
    causal = np.where(np.tri(net.tokens), 0, -np.inf).astype(np.float32)
    scores = net.node("Add", net.constant(causal), scores)
    return net.merged(net.node("MatMul", net.node("Softmax", scores, axis=3), v))


def folded_heads(net: Network) -> str:
    """Batch and heads in one axis."""
    rows, size = net.batch * net.heads, net.width // net.heads
    q, k, v = (net.shaped(net.split(net.product("x"), 0, 2, 1, 3), rows, net.tokens, size) for _ in range(3))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]))
    out = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    return net.merged(net.shaped(out, net.batch, net.heads, net.tokens, size))


def used_scores(net: Network) -> str:
    """The probabilities are used once more, so that they have to exist."""
    q, k, v = (net.split(net.product("x"), 0, 2, 1, 3) for _ in range(3))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    weights = net.node("Softmax", scores, axis=-1)
    again = net.node("Mul", net.node("MatMul", weights, v), net.node("MatMul", weights, q))
    return net.merged(again)


def scaled_mask(net: Network) -> str:
    """The mask is scaled with the scores."""
    q, k, v = (net.split(net.product("x"), 0, 2, 1, 3) for _ in range(3))
    scores = net.node("Add", net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2])), "mask")
    weights = net.node("Softmax", net.node("Mul", scores, net.scalar(0.2)), axis=-1)
    return net.merged(net.node("MatMul", weights, v))


def across_queries(net: Network) -> str:
    """A softmax over another axis is not attention."""
    q, k, v = (net.split(net.product("x"), 0, 2, 1, 3) for _ in range(3))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    return net.merged(net.node("MatMul", net.node("Softmax", scores, axis=2), v))


FORMS = (
    (with_mask, 1),
    (scaled_operands, 1),
    (folded_heads, 1),
    (used_scores, 0),
    (scaled_mask, 0),
    (across_queries, 0),
)


SIZES = (1, 17, 2, 8), (2, 5, 3, 20), (3, 1, 1, 16)
# What is fused in every size, and what is left as it is in one size after the other.
NETWORKS = [
    pytest.param(form, fused, sizes, id=f"{form.__name__}-{sizes}")
    for place, (form, fused) in enumerate(FORMS)
    for sizes in (SIZES if fused else SIZES[place % 3 :][:1])
]


@pytest.mark.parametrize(("form", "fused", "sizes"), NETWORKS)
def test_a_network(
    form: Callable[[Network], str], fused: int, sizes: tuple[int, int, int, int], tmp_path: Path
) -> None:
    net = Network(*sizes)
    model = net.model(form(net))
    names = lowering._weight_names(model)
    assert len(find_attentions(lowering._simplified(lowering._import(model, names, {}).module)["main"])) == fused
    library = build_model(model, Plan(model.digest), {}, CPU, tmp_path)
    rng = np.random.default_rng(1)
    inputs = {spec.name: rng.standard_normal(spec.shape).astype(np.float32) for spec in model.inputs}
    session = onnxruntime.InferenceSession(model.proto, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, inputs)
    assert relative_error(library.run(inputs)["y"], expected) < 1e-5
