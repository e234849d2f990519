"""Kernels that multiply pairs of bfloat16 against float64, over random shapes, patterns and ratios."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsparse.codegen import build_model, random_inputs
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.select import kernel_for, kernels_for, refusal
from hwsparse.codegen.cpu.words import words_of
from hwsparse.compiler import onnxruntime_answers
from hwsparse.pattern import parse_pattern
from hwsparse.plan import Choice, Layer, Plan, parse_choice
from hwsparse.probe import cpu_flags
from hwsparse.quantise import bfloat16_bits, rounded, split_weights
from hwsparse.sparsify.apply import apply_plan, in_types
from hwsparse.sparsify.mask import applicable, make_mask
from hwsparse.sparsify.ranges import as_bytes, tensor_ranges
from hwsparse.target import Target, load_target
from tests.codegen.compiling import compile_kernel, with_flags
from tests.codegen.layers import conv, product
from tests.codegen.test_bytes import NARROW, WIDE, cases, exact_sums, has, on, run
from tests.codegen.test_networks import convolutional, transformer

BF16 = on(WIDE, "avx512f", "avx512bw", "avx512vl", "avx512_bf16", mcpu="x86-64-v4", attributes=("+avx512bf16",))
TARGETS = (NARROW, BF16, replace(BF16, vector_bits=256), replace(BF16, l1d_bytes=1 << 10), WIDE)
PATTERNS = ("dense", "unstructured", "block1x2", "block4x2", "block8x2", "block4x1", "2:4", "channel2")
# A sum is rounded at every step, and so is each product in it.
UNIT = 2.0**-24


def check(layer: Layer, choice: Choice, target: Target, seed: int) -> None:
    """Holds a kernel to float64 sums of what its operands are rounded to, within what summing in float32 loses."""
    rng = np.random.default_rng(seed)
    weight, x = (rng.standard_normal(shape).astype(np.float32) for shape in (layer.weight_shape, layer.input_shape))
    if not choice.is_dense:
        weight *= make_mask(np.abs(weight), replace(choice, dtype="float32"), layer.groups)
    bias, added = rng.standard_normal(layer.outputs).astype(np.float32), rng.standard_normal(layer.output_shape)
    epilogue = Epilogue(residual=bool(seed % 2), low=-0.5)
    names = kernels_for(layer, choice, target)
    kernel = kernel_for(layer, choice, target, epilogue, names[seed % len(names)])
    residual = [added.astype(np.float32)] if epilogue.residual else []
    out = run(kernel, target, [x, *kernel.pack(weight), bias, *residual], np.full(layer.output_shape, np.nan, "f4"))
    read, kept = rounded(x, "bfloat16"), rounded(weight, "bfloat16")
    shape = (-1, *[1] * len(layer.window.strides)) if layer.window else (-1,)
    sums = exact_sums(layer, read, kept) + bias.reshape(shape) + (residual[0] if residual else 0)
    most = exact_sums(layer, np.abs(read), np.abs(kept)) + np.abs(sums) + 2
    assert (np.abs(out - np.maximum(sums, -0.5)) <= (layer.inputs + 4) * UNIT * most).all()


@settings(max_examples=40, deadline=None)
@given(cases("bfloat16", PATTERNS), st.sampled_from(TARGETS), st.integers(0, 99))
def test_sums_are_those_of_rounded_operands(case: tuple[Layer, Choice], target: Target, seed: int) -> None:
    check(*case, target if has(target) else NARROW, seed)


@pytest.mark.parametrize("target", TARGETS[:2], ids=range(2))
@pytest.mark.parametrize(
    "layer",
    [
        conv(1, 3, (19, 17), 8, (7, 7), (2, 2), ((3, 3), (3, 3))),  # a stem: the third input makes a word alone
        conv(2, 16, (9, 35), 20, (3, 3), (1, 1), ((1, 1), (1, 1))),
        conv(1, 16, (10, 10), 12, (1, 1), (2, 2)),
        conv(1, 16, (10, 10), 12, (1, 1)),
        conv(1, 8, (8, 8), 16, (3, 3), (1, 1), ((1, 1), (1, 1)), groups=2),
        product((1, 21), 36, 24),
        product((2,), 70, 40),
    ],
)  # fmt: skip
@pytest.mark.parametrize("choice", ["dense", "block4x2@0.5"])
def test_layers_of_every_kind_are_computed(layer: Layer, choice: str, target: Target) -> None:
    pattern, _, ratio = choice.partition("@")
    if applicable(layer, parse_pattern(pattern)) is not None:
        pattern = "unstructured"
    if not has(target):
        pytest.skip("this machine has no AVX-512 for bfloat16")
    check(layer, Choice(parse_pattern(pattern), float(ratio or 0), "bfloat16"), target, 1)


@pytest.mark.parametrize("target", TARGETS[:2], ids=range(2))
def test_what_is_no_number_stays_none(target: Target) -> None:
    if not has(target):
        pytest.skip("this machine has no AVX-512 for bfloat16")
    layer, bits = product((4,), 64, 8), np.uint32([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000])
    x = np.ones((4, 64), np.float32)
    x[:, 5] = bits.view(np.float32)
    kernel = kernel_for(layer, Choice(dtype="bfloat16"), target, Epilogue())
    packed = kernel.pack(np.ones(layer.weight_shape, np.float32))
    out = run(kernel, target, [x, *packed, np.zeros(8, np.float32)], np.zeros((4, 8), np.float32))
    assert np.isnan(out).all()


def test_code_multiplies_pairs_at_once() -> None:
    for layer in (conv(1, 16, (10, 10), 12, (3, 3)), product((1, 40), 64, 32), product((1,), 64, 32)):
        kernel = kernel_for(layer, Choice(dtype="bfloat16"), BF16, Epilogue())
        code = compile_kernel(kernel.function, json.loads(BF16.tvm_target)).mod.inspect_source("asm")
        assert "vdpbf16ps" in code and "vcvtneps2bf16" in code
        assert "hwsparse_" not in code  # what multiplies is no call


@pytest.mark.parametrize("make", [convolutional, transformer], ids=lambda make: make.__name__)
@pytest.mark.parametrize("text", ["dense", "block4x2@0.5"])
@pytest.mark.parametrize("flags", [(), ("avx512_bf16",)], ids=["plain", "at once"])
def test_a_network_computes_what_onnxruntime_does(make, text: str, flags: tuple[str, ...], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    target = with_flags("x86-avx512", *flags)
    if not cpu_flags() >= set(target.isa):
        pytest.skip(f"this machine has no {', '.join(set(target.isa) - cpu_flags())}")
    model, sparse = make(1, 3), replace(parse_choice(text), dtype="bfloat16")
    choices = {}
    for layer in model.layers:
        choice = sparse if applicable(layer, sparse.pattern) is None else Choice(dtype="bfloat16")
        if refusal(layer, choice) is None:
            choices[layer.name] = choice
    assert len(choices) >= 4
    plan = Plan.of(model.digest, choices)
    weights, inputs = in_types(plan, apply_plan(model, plan)), random_inputs(model.inputs, 7)
    outputs = build_model(model, plan, weights, target, tmp_path).run(inputs)
    unrounded = onnxruntime_answers(model, split_weights(weights).plain, inputs)
    for name, value in onnxruntime_answers(model, weights, inputs).items():
        moved = np.abs(unrounded[name] - value).max()
        # Where rounding tips a value over, what it adds to goes another way, by less than all of it did.
        assert np.abs(outputs[name] - value).max() <= 0.2 * moved > 0


@pytest.mark.parametrize("make", [convolutional, transformer], ids=lambda make: make.__name__)
def test_types_lie_side_by_side(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, target = make(1, 5), load_target("x86-avx2")
    if not cpu_flags() >= set(target.isa):
        pytest.skip("this machine has no AVX2")
    choices = {}
    for place, layer in enumerate(model.layers):
        choice = Choice(dtype=("float32", "bfloat16", "int8")[place % 3])
        if refusal(layer, choice) is None:
            choices[layer.name] = choice
    plan = Plan.of(model.digest, choices)
    assert {choice.dtype for _, choice in plan.choices} >= {"bfloat16", "int8"}
    ranges = tensor_ranges(model, [random_inputs(model.inputs, seed) for seed in range(3)])
    weights = as_bytes(model, plan, in_types(plan, apply_plan(model, plan)), ranges)
    inputs = random_inputs(model.inputs, 7)
    outputs = build_model(model, plan, weights, target, tmp_path).run(inputs)
    for name, value in onnxruntime_answers(model, weights, inputs).items():
        assert np.abs(outputs[name] - value).max() <= 0.02 * np.abs(value).max()


def test_pairs_are_refused_where_they_gain_nothing_or_do_not_fit() -> None:
    pairs = Choice(dtype="bfloat16")
    assert "too little" in (refusal(conv(1, 8, (9, 9), 8, (3, 3), groups=8), pairs) or "")
    assert "bfloat16: 31 inputs, no multiple of 2" in (refusal(product((1, 16), 31, 64), pairs) or "")
    assert refusal(product((1, 16), 30, 64), pairs) is None


def test_two_inputs_make_a_word() -> None:
    words = words_of(bfloat16_bits(np.array([[1.0, -2.0, 3.0]], np.float32)))
    assert words.view(np.uint16).tolist() == [[0x3F80, 0xC000, 0x4040, 0]]
