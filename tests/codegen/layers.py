"""Layers of random shape, and what they must compute, for the tests of code generation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hwsparse.codegen.cpu import winograd
from hwsparse.codegen.cpu.arithmetic import arithmetic_on
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry
from hwsparse.codegen.cpu.select import Kernel
from hwsparse.codegen.cpu.winograd_kernel import winograd_convolution
from hwsparse.plan import Layer, Window
from hwsparse.target import Target

CPU = Target(
    name="test-cpu",
    kind="cpu",
    description="whatever this machine is",
    tvm_target='{"kind": "llvm"}',
    runner="local",
    supported=(("dense", "float32"),),
    threads=2,
    cores=2,
    memory_bytes=1 << 30,
    peak_flops=1e11,
    bandwidth_bytes_per_s=1e10,
    vector_bits=256,
    vector_registers=16,
    l1d_bytes=32 << 10,
    l2_bytes=1 << 20,
)

# Whose weights are lanes of vectors.
BY_LANE = replace(CPU, vector_bits=128, vector_registers=32, isa=("asimd", "asimddp"))


def conv(
    batch: int,
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    kernel: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    pads: tuple[tuple[int, int], ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Layer:
    """A convolution layer; the output's size follows from the rest."""
    rank = len(size)
    window = Window(strides or (1,) * rank, pads or ((0, 0),) * rank, dilations or (1,) * rank, groups)
    spans = [d * (k - 1) + 1 for d, k in zip(window.dilations, kernel, strict=True)]
    out = tuple(
        (length + sum(pad) - span) // stride + 1
        for length, pad, span, stride in zip(size, window.pads, spans, window.strides, strict=True)
    )
    weight_shape = (outputs, channels // groups, *kernel)
    return Layer("l", "Conv", "w", weight_shape, (batch, channels, *size), (batch, outputs, *out), 1, window)


def product(tokens: tuple[int, ...], inputs: int, outputs: int) -> Layer:
    """A matrix product of activations (*tokens, inputs)."""
    return Layer("l", "MatMul", "w", (outputs, inputs), (*tokens, inputs), (*tokens, outputs), 1, transposed=True)


@st.composite
def convs(draw: st.DrawFn) -> Layer:
    """Convolutions of any stride, padding, dilation, groups, odd sizes, batch 1 to 8, one or two dimensions."""
    rank = draw(st.sampled_from((1, 2, 2, 2)))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    pads = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(rank))
    size = tuple(draw(st.integers(d * (k - 1) + 1, 24)) for d, k in zip(dilations, kernel, strict=True))
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    channels, outputs = groups * draw(st.integers(1, 9)), groups * draw(st.integers(1, 20))
    return conv(draw(st.integers(1, 8)), channels, size, outputs, kernel, strides, pads, dilations, groups)


@st.composite
def depthwise_convs(draw: st.DrawFn) -> Layer:
    """Depthwise convolutions, with up to two outputs for each channel."""
    layer = draw(convs())
    window = layer.window
    assert window is not None
    channels = draw(st.integers(2, 6))
    return conv(
        layer.input_shape[0], channels, layer.input_shape[2:], channels * draw(st.integers(1, 2)),
        layer.weight_shape[2:], window.strides, window.pads, window.dilations, channels,
    )  # fmt: skip


@st.composite
def products(draw: st.DrawFn) -> Layer:
    """Matrix products of 1 to 3 leading axes, down to a single row."""
    tokens = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=2)))
    return product(tokens, draw(st.integers(1, 48)), draw(st.integers(1, 48)))


def onnxruntime_answer(layer: Layer, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What onnxruntime computes for the layer with a canonical weight, plus bias."""
    if layer.window is None:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
        weight = np.ascontiguousarray(weight.T)
    else:
        window = layer.window
        pads = [begin for begin, _ in window.pads] + [end for _, end in window.pads]
        nodes = [
            helper.make_node(
                "Conv", ["x", "w", "b"], ["y"],
                strides=window.strides, pads=pads, dilations=window.dilations, group=window.groups,
            )
        ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, layer.output_shape)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": x})
    return np.asarray(answer)


def winograd_kernel(layer: Layer, scheme: winograd.Scheme, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel of a scheme, whether it pays or not."""
    geometry = Geometry.of(layer)
    tiling = winograd.tiling_for(geometry, scheme, target)
    arithmetic = arithmetic_on("float32", target.isa, target.vector_bits)
    function = winograd_convolution(geometry, scheme, tiling, epilogue, arithmetic)
    return Kernel(str(scheme), function, lambda weight: winograd.pack_transformed(weight, geometry, scheme, tiling))
