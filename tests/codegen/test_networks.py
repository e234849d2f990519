"""Small networks of random sizes, at several batches, thread counts and instruction sets, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hwsparse.codegen import build_model, random_inputs, relative_error
from hwsparse.errors import UnsupportedError
from hwsparse.model import Model
from hwsparse.plan import Plan, parse_choice
from hwsparse.sparsify import apply_plan, pruned_proto
from hwsparse.target import Target, load_target
from tests.codegen.building import Network


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
    return net.model((batch, 3, size, size), (x, (batch, 10)))


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
    return net.model((batch, tokens, 12), (x, (batch, 7)))


def target_of(name: str, threads: int) -> Target:
    target = load_target(name).with_threads(threads)
    try:
        target.require_timing()
    except UnsupportedError as error:
        pytest.skip(str(error))
    return target


@pytest.mark.parametrize("make", [convolutional, transformer], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["x86-avx2", "x86-avx512"])
@pytest.mark.parametrize(
    ("threads", "batch", "text"), [(1, 1, "unstructured@0.7"), (2, 2, "dense"), (2, 8, "block4x1@0.5")]
)
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
