"""Kernels that read bytes against sums of integers, exactly, over random shapes, patterns and ratios."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.script import tirx as T

from hwsparse.codegen.cpu import arithmetic
from hwsparse.codegen.cpu.arithmetic import arithmetic_on
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.few_positions import few_positions
from hwsparse.codegen.cpu.geometry import Geometry
from hwsparse.codegen.cpu.quantise import quantise
from hwsparse.codegen.cpu.select import Kernel, kernel_for, kernels_for, refusal
from hwsparse.codegen.cpu.shared_index import shared_index
from hwsparse.codegen.cpu.tokens import shared_index_tokens
from hwsparse.codegen.cpu.words import MOST_INPUTS, WORD, halves_of, offsets_of, words_of
from hwsparse.codegen.folding import folded, folded_floats
from hwsparse.errors import CompileError
from hwsparse.pattern import parse_pattern
from hwsparse.plan import Choice, Layer
from hwsparse.probe import cpu_flags
from hwsparse.quantise import MOST_VALUE, MOST_WEIGHT, Scale, weight_bytes
from hwsparse.sparsify.mask import applicable, make_mask
from hwsparse.target import Target, load_target
from tests.codegen.compiling import compile_kernel, with_flags
from tests.codegen.layers import BY_LANE, CPU, conv, convs, depthwise_convs, product, products
from tests.codegen.requantised import depthwise_sums, fuses, requantised, stored_bytes

NARROW, WIDE = CPU, replace(CPU, vector_bits=512, vector_registers=32)


def on(target: Target, *isa: str, attributes: tuple[str, ...] = (), **code: str) -> Target:
    """A target whose CPU has these flags, and what LLVM is told of it."""
    told = {"kind": "llvm", **code, **({"mattr": attributes} if attributes else {})}
    return replace(target, isa=isa, tvm_target=json.dumps(told))


AVX2 = on(NARROW, "avx2", "fma", mcpu="x86-64-v3")
AVX512 = on(WIDE, "avx512f", "avx512bw", "avx512vl", mcpu="x86-64-v4")
VNNI = on(WIDE, *AVX512.isa, "avx512_vnni", mcpu="x86-64-v4", attributes=("+avx512vnni",))
# Instructions of Arm are computed as what they are defined to be.
DOTPROD, I8MM = BY_LANE, replace(BY_LANE, isa=(*BY_LANE.isa, "i8mm"))
# What multiplies bytes is not there, or is, also where panels are split even for small layers.
FEW = (NARROW, AVX2, VNNI, replace(VNNI, l1d_bytes=1 << 10), DOTPROD)
TARGETS = (
    *FEW,
    WIDE,
    AVX512,
    replace(VNNI, vector_bits=256),
    I8MM,
    *(replace(each, l1d_bytes=1 << 10) for each in (NARROW, AVX2, DOTPROD)),
)
PATTERNS = (
    "dense",
    "unstructured",
    "block1x4",
    "block2x4",
    "block4x4",
    "block8x4",
    "block16x4",
    "block4x1",
    "2:4",
    "channel2",
)


def exact_sums(layer: Layer, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What a layer makes of integers: float64 holds all of these sums."""
    values, weights = (torch.from_numpy(each.astype(np.float64)) for each in (x, weight))
    if layer.window is None:
        return (values @ weights.T).numpy()
    window = layer.window
    pads = [size for pair in reversed(window.pads) for size in pair]
    convolve = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d}[len(window.strides)]
    padded = torch.nn.functional.pad(values, pads)
    return convolve(padded, weights, None, window.strides, 0, window.dilations, window.groups).numpy()


def has(target: Target) -> bool:
    """Whether this machine runs code for a target, or code that computes what its instructions would."""
    return target.vector_bits == BY_LANE.vector_bits or cpu_flags() >= set(target.isa)


@contextmanager
def defined_dots(target: Target) -> Iterator[None]:
    """For Arm, products of bytes by what its instructions are defined to be; for others, by the instructions."""
    if target.vector_bits != BY_LANE.vector_bits:
        yield
        return
    kernels = (shared_index, shared_index_tokens, few_positions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "_dot", defined_dot)
        for cached in kernels:
            cached.cache_clear()
        yield
    for cached in kernels:
        cached.cache_clear()


def defined_dot(name: str, total: Any, left: Any, right: Any, lanes: int) -> Any:
    """sdot and usdot: Arm Architecture Reference Manual, C7.2."""
    assert lanes == 4
    operation = name.split(".")[3]
    for byte in range(WORD):
        value = signed_byte(left, byte, lanes)
        if operation == "usdot":
            value = value & T.Broadcast(T.int32(255), lanes)
        total = total + value * signed_byte(right, byte, lanes)
    return total


def signed_byte(words: Any, byte: int, lanes: int) -> Any:
    return (words << T.Broadcast(T.int32(24 - 8 * byte), lanes)) >> T.Broadcast(T.int32(24), lanes)


def run(kernel: Kernel, target: Target, inputs: list[np.ndarray], out: np.ndarray) -> np.ndarray:
    """What a kernel makes of its inputs, put into `out`."""
    compiled = compile_kernel(kernel.function, json.loads(target.tvm_target))
    given = tvm.runtime.tensor(out)
    compiled["kernel"](*map(tvm.runtime.tensor, inputs), given)
    return np.asarray(given.numpy())


def whole_weights(layer: Layer, choice: Choice, rng: np.random.Generator, extreme: bool = False) -> np.ndarray:
    """Pruned weights that are whole numbers, and each row of which has one that makes its scale 1."""
    weight = rng.integers(-MOST_WEIGHT, MOST_WEIGHT + 1, layer.weight_shape).astype(np.float32)
    if extreme:
        weight = np.copysign(np.float32(MOST_WEIGHT), weight)
    if not choice.is_dense:
        weight *= make_mask(np.abs(weight) + 1, replace(choice, dtype="float32"), layer.groups)
    flat = weight.reshape(layer.outputs, -1)
    flat[np.arange(layer.outputs), np.abs(flat).argmax(axis=1)] *= 1e6  # a row of zeros stays one
    return np.clip(flat, -MOST_WEIGHT, MOST_WEIGHT).reshape(layer.weight_shape)


def cases(dtype: str = "int8", patterns: Sequence[str] = PATTERNS) -> st.SearchStrategy[tuple[Layer, Choice]]:
    """Layers that a type serves, under choices that they can have."""
    plain = Choice(dtype=dtype)

    @st.composite
    def found(draw: st.DrawFn) -> tuple[Layer, Choice]:
        layers = st.one_of(convs(), products(), depthwise_convs())
        layer = draw(layers.filter(lambda each: refusal(each, plain) is None))
        usable = [pattern for pattern in map(parse_pattern, patterns) if applicable(layer, pattern) is None]
        pattern = draw(st.sampled_from(usable))
        ratio = getattr(pattern, "ratio", None) or (
            0.0 if str(pattern) == "dense" else draw(st.sampled_from((0.0, 0.5, 0.9, 1.0)))
        )
        return layer, Choice(pattern, ratio, dtype)

    return found()


def check(layer: Layer, choice: Choice, target: Target, zero: int, seed: int, extreme: bool = False) -> None:
    """Holds a kernel's sums to exact ones; `extreme` ones leave 16 bits wherever two products are added."""
    rng = np.random.default_rng(seed)
    weight = whole_weights(layer, choice, rng, extreme)
    x = rng.integers(0, 256, layer.input_shape).astype(np.uint8)
    if extreme:
        x = np.where(x > 25, MOST_VALUE, x).astype(np.uint8)
    residual = rng.integers(-9, 9, layer.output_shape).astype(np.float32)
    names = kernels_for(layer, choice, target)
    epilogue = Epilogue(residual=bool(seed % 2) and not Geometry.of(layer).depthwise, low=-1e4)
    with defined_dots(target):
        kernel = kernel_for(layer, choice, target, epilogue, names[seed % len(names)])
    added = [residual] if epilogue.residual else []
    *lists, scales = kernel.pack(weight, Scale(1.0, zero))
    told = folded(epilogue, lists[-1], scales, np.zeros(layer.outputs, np.float32), None, None)
    out = run(kernel, target, [x, *lists, *told, *added], np.full(layer.output_shape, np.nan, np.float32))
    expected = exact_sums(layer, x.astype(np.int64) - zero, weight) + (residual if epilogue.residual else 0)
    np.testing.assert_array_equal(out, np.maximum(expected, -1e4))


@settings(max_examples=30, deadline=None)
@given(cases(), st.sampled_from(TARGETS), st.sampled_from((0, 3, 128, 255)), st.integers(0, 99), st.booleans())
def test_sums_of_bytes_are_exact(
    case: tuple[Layer, Choice], target: Target, zero: int, seed: int, extreme: bool
) -> None:
    check(*case, target if has(target) else NARROW, zero, seed, extreme)


LAYERS = (
    conv(1, 3, (19, 17), 8, (7, 7), (2, 2), ((3, 3), (3, 3))),  # a stem: three inputs make a word
    conv(2, 16, (9, 35), 20, (3, 3), (1, 1), ((1, 1), (1, 1))),
    conv(1, 16, (10, 10), 12, (1, 1), (2, 2)),
    conv(1, 24, (15,), 8, (5,), (3,), ((2, 2),)),
    conv(1, 16, (8, 8), 16, (3, 3), (1, 1), ((1, 1), (1, 1)), groups=2),
    conv(1, 6, (17, 19), 6, (5, 5), (2, 2), ((2, 2), (2, 2)), groups=6),
    conv(2, 3, (33, 16), 6, (3, 3), (1, 1), ((1, 1), (1, 1)), groups=3),
    conv(1, 8, (4001,), 8, (5,), (4,), ((2, 2),), groups=8),  # lines that are copied in loops
    conv(1, 4, (2001,), 8, (3,), (2,), ((1, 1),)),
    conv(1, 4, (3001,), 4, (3,), (1,), ((1, 1),)),
    product((1, 21), 36, 24),
    product((3, 16), 64, 33),
    product((2,), 64, 40),
)  # fmt: skip
# Every layer in every way on the plainest target, and in one way after the other on each of the others.
EVERY = [
    each
    for number, each in enumerate(itertools.product(LAYERS, ("dense", "block4x4@0.5", "block1x4@0.7"), FEW))
    if each[2] is NARROW or number % 3 == 0
]


@pytest.mark.parametrize(("layer", "choice", "target"), EVERY, ids=range(len(EVERY)))
def test_layers_of_every_kind_are_exact(layer: Layer, choice: str, target: Target) -> None:
    pattern, _, ratio = choice.partition("@")
    if Geometry.of(layer).depthwise:
        pattern, ratio = "dense", ""
    elif applicable(layer, parse_pattern(pattern)) is not None:
        pattern = "unstructured"
    if not has(target):
        pytest.skip(f"this machine has no {', '.join(set(target.isa) - cpu_flags())}")
    check(layer, Choice(parse_pattern(pattern), float(ratio or 0), "int8"), target, 7, 1)


@settings(max_examples=25, deadline=None)
@given(
    cases(), st.sampled_from(TARGETS), st.sampled_from((None, "uint8", "float32")), st.booleans(),
    st.sampled_from(("", "silu")), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_sums_are_stored_as_the_nearest_bytes(
    case: tuple[Layer, Choice], target: Target, residual: str | None, relu: bool, function: str, ties: bool, seed: int
) -> None:
    """Without a function, to the last bit what float32 makes of them; with `ties`, of powers of 2, mostly halves."""
    layer, choice = case
    residual = None if Geometry.of(layer).depthwise else residual  # whose kernel takes none
    target = target if has(target) else NARROW
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(layer.weight_shape).astype(np.float32)
    if not choice.is_dense:
        weight *= make_mask(np.abs(weight), replace(choice, dtype="float32"), layer.groups)
    x, bias = rng.integers(0, 256, layer.input_shape).astype(np.uint8), rng.standard_normal(layer.outputs)
    read, added, stored = Scale(0.01, 100), Scale(0.03, 20), Scale(0.02, 0 if relu else 90)
    if ties and not function:
        weight, bias = whole_weights(layer, choice, rng), rng.integers(-20, 20, layer.outputs) / 4
        read, added, stored = Scale(2**-4, 100), Scale(0.25, 20), Scale(0.5, stored.zero)
    signed, factors = weight_bytes(weight)
    shape = (-1, *[1] * len(layer.window.strides)) if layer.window else (-1,)
    sums = exact_sums(layer, x.astype(np.int64) - read.zero, signed)
    values = sums * (factors.astype(np.float64) * read.scale).reshape(shape) + bias.reshape(shape)
    other = rng.integers(0, 256, layer.output_shape).astype(residual or "uint8")
    if residual == "uint8":
        values = values + added.scale * (other.astype(np.float64) - added.zero)
    elif residual:
        other = (other / np.float32(64)).astype(np.float32)
        values = values + other
    if function:
        values = values / (1 + np.exp(-values))
    low = 0.0 if relu else -np.inf
    epilogue = Epilogue(residual is not None, low, function=function, added=residual or "float32", stored="uint8")
    names = kernels_for(layer, choice, target)
    with defined_dots(target):
        kernel = kernel_for(layer, choice, target, epilogue, names[seed % len(names)])
    *lists, scales = kernel.pack(weight, read)
    told = folded(epilogue, lists[-1], scales, bias, added if residual == "uint8" else None, stored)
    inputs = [x, *lists, *told, *([other] if residual else [])]
    out = run(kernel, target, inputs, np.zeros(layer.output_shape, np.uint8))
    exact = np.clip(np.maximum(values, low) / stored.scale + stored.zero, 0, 255)
    assert np.abs(out - exact).max() <= 0.5 + 1e-2
    if epilogue.at_once:
        counted = (sums - lists[-1].reshape(shape)).astype(np.int64)
        expected = requantised(counted, told, other if residual else None, shape, fuses(target))
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("target", "instruction"),
    [
        (load_target("x86-avx2"), ("vpmaddwd", "%ymm")),
        (with_flags("x86-avx2", "avx_vnni"), ("vpdpbusd", "%ymm")),
        (load_target("x86-avx512"), ("vpmaddwd", "%zmm")),
        (with_flags("x86-avx512", "avx512_vnni"), ("vpdpbusd", "%zmm")),
        (load_target("arm-cortex-a76"), ("sdot", ".4s")),
        (with_flags("arm-cortex-a76", "i8mm"), ("usdot", ".4s")),
    ],
    ids=str,
)
@pytest.mark.parametrize("layer", [conv(1, 16, (10, 10), 12, (3, 3)), product((1, 40), 64, 32), product((1,), 64, 32)])
def test_code_multiplies_by_what_the_target_has(layer: Layer, target: Target, instruction: tuple[str, str]) -> None:
    kernel = kernel_for(layer, Choice(dtype="int8"), target, Epilogue(stored="uint8"))
    code = compile_kernel(kernel.function, json.loads(target.tvm_target)).mod.inspect_source("asm")
    assert set(re.findall(r"\b(vpmaddwd|vpdpbusd|u?sdot)\s.*?(%[yz]mm|\.4s)", code)) == {instruction}


@pytest.mark.parametrize(
    ("isa", "vector_bits", "dot"),
    [
        ("", 256, ""),
        ("avx2", 256, "vpmaddwd"),
        ("avx2 avx_vnni", 256, "vpdpbusd"),
        ("avx2", 512, ""),  # a descriptor that promises vectors without instructions for them
        ("avx2 avx512f avx512bw avx512vl", 512, "vpmaddwd"),
        ("avx2 avx512f avx512bw avx512vl avx512_vnni", 512, "vpdpbusd"),
        ("avx2 avx512f avx512_vnni avx_vnni", 256, "vpdpbusd"),
        ("asimd asimddp", 128, "sdot"),
        ("asimd asimddp i8mm", 128, "usdot"),
        ("asimd", 128, ""),
    ],
)
def test_what_multiplies_bytes_follows_from_flags(isa: str, vector_bits: int, dot: str) -> None:
    assert arithmetic_on("int8", tuple(isa.split()), vector_bits).dot == dot


@pytest.mark.parametrize(("shared", "entries"), [(1, 4), (2, 2), (3, 4), (4, 1), (6, 2), (8, 1), (16, 1)])
def test_on_arm_weights_fill_vectors_whose_lanes_are_taken(shared: int, entries: int) -> None:
    for isa in (("asimd",), ("asimd", "asimddp"), ("asimd", "i8mm")):
        for dtype in ("float32", "int8"):
            together = arithmetic_on(dtype, isa, 128).entries_together(shared)
            # Without an instruction for them bytes are multiplied as whole words, each spread over a vector.
            assert together == (0 if dtype == "int8" and isa == ("asimd",) else entries)
    for dtype in ("float32", "int8", "bfloat16"):
        assert arithmetic_on(dtype, ("avx512_vnni", "avx512vl"), 512).entries_together(shared) == 0


def test_bytes_are_refused_where_they_gain_nothing_or_do_not_fit() -> None:
    as_bytes = Choice(dtype="int8")
    depthwise = conv(1, 8, (9, 9), 8, (3, 3), groups=8)
    assert refusal(depthwise, as_bytes) is None
    assert "too little" in (refusal(depthwise, Choice(dtype="bfloat16")) or "")
    wide = conv(1, 2, (40, 40), 2, (16, 17), groups=2)
    assert "of 272 taps sums may not be exact; of 259 they are" in (refusal(wide, as_bytes) or "")
    assert "no multiple of 4" in (refusal(product((1, 16), 30, 64), as_bytes) or "")
    assert "no multiple of 4" in (refusal(conv(1, 12, (9, 9), 8, (3, 3), groups=2), as_bytes) or "")
    assert "int4" in (refusal(product((1, 16), 32, 64), Choice(dtype="int4")) or "")


def test_sums_that_may_not_fit_are_refused() -> None:
    fits = np.full((2, 66_000), MOST_WEIGHT, np.int8)
    assert offsets_of(fits, 0).tolist() == [0, 0]
    with pytest.raises(CompileError, match="sums of 66000 products of bytes may not fit int32"):
        offsets_of(fits, 128)
    with pytest.raises(CompileError, match="may not fit int32"):
        offsets_of(np.full((1, 66_400), -MOST_WEIGHT, np.int8), 0)
    assert offsets_of(np.array([[1, -2, 3]], np.int8), 7).tolist() == [-14]


def test_a_layer_whose_sums_may_not_fit_is_refused_before_it_is_built() -> None:
    as_bytes = Choice(dtype="int8")
    assert refusal(product((1, 1), 33_152, 8), as_bytes) is None
    assert refusal(conv(1, 3680, (3, 3), 8, (3, 3)), as_bytes) is None  # 9 inputs each
    for layer in (product((1, 1), 33_156, 8), conv(1, 3684, (3, 3), 8, (3, 3))):
        assert "sums of 33156 products of bytes may not fit int32; of 33155 they do" in (refusal(layer, as_bytes) or "")
        assert refusal(layer, Choice()) is None
    # What is not refused can be built, and nothing is refused in vain.
    worst = np.full((1, MOST_INPUTS), MOST_WEIGHT, np.int8)
    assert offsets_of(worst, MOST_VALUE).tolist() == [-MOST_INPUTS * MOST_WEIGHT * MOST_VALUE]
    with pytest.raises(CompileError, match="may not fit int32"):
        offsets_of(np.full((1, MOST_INPUTS + 1), MOST_WEIGHT, np.int8), MOST_VALUE)


def test_four_inputs_at_one_kernel_position_make_a_word() -> None:
    weight = np.arange(2 * 6 * 3, dtype=np.int8).reshape(2, 6, 3)
    words = words_of(weight)
    assert words.shape == (2, 2, 3)
    assert words[1, 0, 2:].view(np.int8).tolist() == weight[1, :4, 2].tolist()
    assert words[0, 1, :1].view(np.int8).tolist() == [*weight[0, 4:, 0].tolist(), 0, 0]


def test_a_word_is_packed_as_its_even_bytes_and_its_odd_ones() -> None:
    words = np.array([[[1, -2, 3, -4]], [[-127, 127, 0, -1]]], np.int8).repeat(2, axis=1)
    words[:, 1] += 5
    halves = halves_of(np.ascontiguousarray(words).view(np.int32)[..., 0])
    assert halves.shape == (2, 4)
    assert halves.view(np.int16).reshape(2, 4, 2)[1].tolist() == [[-127, 0], [-122, 5], [127, -1], [-124, 4]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70_000), st.floats(-3, 0), st.floats(0.1, 3), st.sampled_from((4, 8, 16)), st.integers(0, 9))
def test_values_become_the_nearest_bytes(size: int, low: float, high: float, lanes: int, seed: int) -> None:
    scale = Scale.of(low, high)
    x = np.random.default_rng(seed).uniform(2 * low - 1, 2 * high + 1, size).astype(np.float32)
    out = tvm.runtime.tensor(np.zeros(size, np.uint8))
    given = (x, np.array([scale.inverse], np.float32), np.array([scale.zero], np.float32))
    compile_kernel(quantise((size,), lanes))["kernel"](*map(tvm.runtime.tensor, given), out)
    np.testing.assert_array_equal(out.numpy(), scale.bytes_of(x))


@settings(max_examples=40, deadline=None)
@given(
    depthwise_convs(),
    st.sampled_from([Epilogue(), Epilogue(low=0.0), Epilogue(low=0.0, high=6.0), Epilogue(function="silu")]),
    st.integers(0, 255),
    st.integers(0, 99),
    st.sampled_from([target for target in (NARROW, AVX2, WIDE, AVX512) if has(target)]),
)
def test_sums_of_depthwise_layers_become_bytes(
    layer: Layer, epilogue: Epilogue, zero: int, seed: int, target: Target
) -> None:
    rng = np.random.default_rng(seed)
    shapes = layer.weight_shape, (layer.outputs,), layer.input_shape
    weight, bias, x = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    stored = Scale(float(np.float32(rng.uniform(0.005, 0.05))), zero)
    kernel = kernel_for(layer, Choice(), target, replace(epilogue, stored="uint8"))
    packed = folded_floats(replace(epilogue, stored="uint8"), *kernel.pack(weight), bias, stored)
    found = run(kernel, target, [x, *packed], np.full(layer.output_shape, 77, np.uint8))
    values = exact_sums(layer, x, weight) + bias.reshape(1, -1, *[1] * (len(layer.output_shape) - 2))
    if epilogue.function:
        values = values / (1 + np.exp(-values))
    steps = np.clip(np.clip(values, epilogue.low, epilogue.high) * float(stored.inverse) + zero, 0, MOST_VALUE)
    # The nearest byte; of two that are as near, to what float32 tells, either.
    assert np.abs(found - steps).max() <= 0.5 + 2e-3
    if not epilogue.function:
        floats, terms, moved = packed
        sums = depthwise_sums(layer, x, floats, moved, fuses(target))
        np.testing.assert_array_equal(found, stored_bytes(sums, terms))
