"""Every kernel against onnxruntime, over random shapes, patterns and ratios, with bounds checked."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsparse.codegen.cpu import winograd
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry, choose_variant
from hwsparse.codegen.cpu.matmul import matmul
from hwsparse.codegen.cpu.select import Kernel, kernel_for, kernels_for, refusal
from hwsparse.pattern import NM, Dense, parse_pattern
from hwsparse.plan import Choice, Layer
from hwsparse.sparsify.mask import applicable, make_mask
from hwsparse.target import Target
from tests.codegen.compiling import compile_kernel
from tests.codegen.layers import (
    BY_LANE,
    CPU,
    conv,
    convs,
    depthwise_convs,
    onnxruntime_answer,
    product,
    products,
    winograd_kernel,
)

PATTERNS = ("dense", "unstructured", "block2x1", "block4x1", "block8x1", "block16x1", "2:4", "1:4", "2:4x4", "channel2")
TOLERANCE = 1e-4


# Where panels are split into blocks of columns even for small layers; registers as wide, and as many, as there are.
TARGETS = (
    CPU,
    replace(CPU, l1d_bytes=1 << 10),
    replace(CPU, l1d_bytes=1 << 11, vector_bits=512, vector_registers=32),
    BY_LANE,
    replace(BY_LANE, l1d_bytes=1 << 10),
)


def check(
    layer: Layer, choice: Choice, epilogue: Epilogue, seed: int, target: Target = CPU, kernel: Kernel | None = None
) -> None:
    """Compares the kernel, by default one of those that serve the choice, with onnxruntime."""
    if Geometry.of(layer).depthwise:  # their kernel takes no residual, and lowering never gives it one
        epilogue = replace(epilogue, residual=False, in_place=False)
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(layer.weight_shape).astype(np.float32)
    if not choice.is_dense:
        weight *= make_mask(np.abs(weight), choice, layer.groups)
    x, bias = (rng.standard_normal(shape).astype(np.float32) for shape in (layer.input_shape, (layer.outputs,)))
    residual = rng.standard_normal(layer.output_shape).astype(np.float32)
    names = kernels_for(layer, choice, target)
    kernel = kernel or kernel_for(layer, choice, target, epilogue, names[seed % len(names)])
    apart = epilogue.residual and not epilogue.in_place
    inputs = [x, *kernel.pack(weight), bias, *([residual] if apart else [])]
    before = residual if epilogue.residual and epilogue.in_place else np.full(layer.output_shape, np.nan, np.float32)
    out = tvm.runtime.tensor(before)
    compile_kernel(kernel.function)["kernel"](*map(tvm.runtime.tensor, inputs), out)
    expected = onnxruntime_answer(layer, x, weight, bias) + (residual if epilogue.residual else 0)
    if epilogue.function == "silu":
        expected = expected / (1 + np.exp(-expected.astype(np.float64)))
    expected = np.clip(expected, epilogue.low, epilogue.high)
    scale = max(float(np.abs(expected).max()), 1e-3)
    np.testing.assert_allclose(out.numpy() / scale, expected / scale, atol=TOLERANCE, rtol=0)


@st.composite
def choices(draw: st.DrawFn, layer: Layer) -> Choice:
    """Choices that can be applied to the layer, with ratios from nothing to everything dropped."""
    usable = [parse_pattern(text) for text in PATTERNS]
    pattern = draw(
        st.sampled_from([p for p in usable if applicable(layer, p) is None and not refusal(layer, Choice())])
    )
    if isinstance(pattern, Dense):
        return Choice()
    if isinstance(pattern, NM):
        return Choice(pattern, pattern.ratio)
    return Choice(pattern, draw(st.sampled_from((0.0, 0.3, 0.5, 0.9, 0.97, 1.0))))


EPILOGUES = st.sampled_from(
    (
        Epilogue(),
        Epilogue(True),
        Epilogue(False, 0.0),
        Epilogue(True, 0.0, 6.0),
        Epilogue(True, function="silu"),
        Epilogue(True, in_place=True),
    )
)

targets = st.sampled_from(TARGETS)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    layer = data.draw(convs())
    check(layer, data.draw(choices(layer)), data.draw(EPILOGUES), data.draw(st.integers(0, 99)), data.draw(targets))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_matrix_products(data: st.DataObject) -> None:
    layer = data.draw(products())
    check(layer, data.draw(choices(layer)), data.draw(EPILOGUES), data.draw(st.integers(0, 99)), data.draw(targets))


# Outputs and taps of a side, and strides.
SCHEMES = tuple(
    winograd.Scheme(outputs, taps, stride)
    for outputs, taps in ((2, 3), (4, 3), (4, 4), (2, 5), (2, 6))
    for stride in (1, 2, 3)
)


@pytest.mark.parametrize("scheme", SCHEMES[::3], ids=str)
def test_winograds_matrices_filter(scheme: winograd.Scheme) -> None:
    outputs, kernel, patch = winograd.matrices(scheme)
    rng = np.random.default_rng(0)
    g, d = rng.standard_normal((scheme.taps, scheme.taps)), rng.standard_normal((scheme.side, scheme.side))
    found = outputs @ ((kernel @ g @ kernel.T) * (patch @ d @ patch.T)) @ outputs.T
    windows = np.lib.stride_tricks.sliding_window_view(d, g.shape)
    np.testing.assert_allclose(found, np.einsum("ijab,ab->ij", windows, g), rtol=0, atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_winograd_convolutions(data: st.DataObject) -> None:
    number, scheme = data.draw, data.draw(st.sampled_from(SCHEMES))
    kernel = number(st.integers((scheme.taps - 1) * scheme.stride + 1, scheme.taps * scheme.stride))
    pads = (
        (number(st.integers(0, 2)), number(st.integers(0, 2))),
        (number(st.integers(0, 2)), number(st.integers(0, 2))),
    )
    size = number(st.integers(kernel, 40)), number(st.integers(kernel, 40))
    layer = conv(
        number(st.integers(1, 3)), number(st.integers(1, 9)), size, number(st.integers(1, 10)),
        (kernel, kernel), (scheme.stride, scheme.stride), pads,
    )  # fmt: skip
    target, epilogue = number(targets), number(EPILOGUES)
    check(
        layer, Choice(), epilogue, number(st.integers(0, 99)), target, winograd_kernel(layer, scheme, epilogue, target)
    )


def test_what_suits_winograd_saves_multiplications_and_fills_vectors() -> None:
    others = (
        conv(1, 32, (20, 20), 32, (3, 3), (2, 2)),
        conv(1, 32, (20, 20), 32, (3, 3), dilations=(2, 2)),
        conv(1, 32, (20, 20), 32, (3, 3), groups=2),
        conv(1, 32, (20, 20), 32, (3, 5)),
        conv(1, 32, (20, 20), 32, (1, 1)),
        conv(1, 32, (20,), 32, (3,)),
        conv(1, 32, (5, 5), 32, (3, 3)),
        product((4,), 32, 32),
    )
    assert not any(winograd.schemes(Geometry.of(layer), CPU) for layer in others)
    suiting = {
        conv(1, 32, (20, 20), 32, (3, 3)): ["winograd_f4x3", "winograd_f2x3"],
        conv(1, 3, (224, 224), 64, (7, 7), (2, 2)): ["winograd_f4x4"],
        conv(1, 32, (8, 8), 32, (3, 3)): ["winograd_f2x3"],
    }
    for layer, names in suiting.items():
        assert [str(scheme) for scheme in winograd.schemes(Geometry.of(layer), CPU)] == names
        kernels = kernels_for(layer, Choice(), CPU)
        assert [kernel for kernel in kernels if kernel.startswith("winograd")] == names == list(kernels[: len(names)])


def test_winograds_weights_are_expected_to_be_near() -> None:
    kernels = kernels_for(conv(1, 512, (10, 10), 512, (3, 3)), Choice(), CPU)
    assert kernels[0].startswith("shared_index") and kernels[-1].startswith("winograd")


@settings(max_examples=25, deadline=None)
@given(depthwise_convs(), EPILOGUES, st.integers(0, 99), targets)
def test_depthwise_convolutions(layer: Layer, epilogue: Epilogue, seed: int, target: Target) -> None:
    check(layer, Choice(), epilogue, seed, target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_depthwise_window_that_leaves_columns_over(target: Target) -> None:
    """No output reads the input's last column, which the copied lines still have to hold."""
    check(conv(2, 3, (33, 33), 3, (2, 2), (2, 2), groups=3), Choice(), Epilogue(), 0, target)
    check(conv(1, 3, (47, 50), 3, (1, 2), (3, 3), groups=3), Choice(), Epilogue(), 0, target)


def test_load_bound_kernels_work_on_blocks_of_columns_that_l1_holds() -> None:
    wide = product((1, 64), 2048, 16)
    channels = [choose_variant(Geometry.of(wide), shared, CPU).channels for shared in (1, 2, 4)]
    assert [held < 2048 for held in channels] == [True, True, False]


LAYERS = (
    conv(8, 16, (7, 7), 32, (1, 1)),
    conv(1, 8, (13, 9), 32, (3, 3), (2, 2), ((1, 1), (1, 1))),
    product((1, 33), 24, 32),
    product((1,), 24, 48),
)
# Every pattern in every layer, in one way to multiply and in the other by turns: so each meets both in some layers.
PAIRS = [
    pytest.param(text, layer, (CPU, BY_LANE)[(place + number) % 2], id=f"{text}-{layer.signature}")
    for place, text in enumerate(PATTERNS)
    for number, layer in enumerate(LAYERS)
]


@pytest.mark.parametrize(("text", "layer", "target"), PAIRS)
def test_every_pattern(text: str, layer: Layer, target: Target) -> None:
    pattern = parse_pattern(text)
    ratio = pattern.ratio if isinstance(pattern, NM) else 0.0 if isinstance(pattern, Dense) else 0.75
    check(layer, Choice(pattern, ratio), Epilogue(), 0, target)


def test_a_layer_without_weights_gives_its_bias() -> None:
    check(conv(1, 8, (6, 6), 12, (3, 3)), Choice(parse_pattern("unstructured"), 1.0), Epilogue(False, 0.0), 0)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 3), max_size=2),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 40),
    st.integers(1, 4),
)
def test_products_of_activations(batch: list[int], m: int, depth: int, n: int, threads: int) -> None:
    rng = np.random.default_rng(math.prod(batch) + m + depth + n)
    left, right = rng.standard_normal((*batch, m, depth)), rng.standard_normal((*batch, depth, n))
    out = tvm.runtime.tensor(np.full((*batch, m, n), np.nan, np.float32))
    kernel = compile_kernel(matmul(left.shape, right.shape, 8, 16, threads))["kernel"]
    kernel(*(tvm.runtime.tensor(array.astype(np.float32)) for array in (left, right)), out)
    np.testing.assert_allclose(out.numpy(), left @ right, atol=1e-4)


def test_what_no_kernel_serves_is_refused_with_the_reason() -> None:
    layer = conv(1, 8, (6, 6), 8, (3, 3), groups=8)
    assert "depthwise" in str(refusal(layer, Choice(parse_pattern("unstructured"), 0.9)))
    assert "float8" in str(refusal(product((4,), 8, 8), Choice(dtype="float8")))
    assert "at most 16" in str(refusal(product((4,), 64, 64), Choice(parse_pattern("block32x1"), 0.5)))
    assert refusal(layer, Choice()) is None
