"""Kernels that multiply float16: bit by bit against numpy in the order that they sum in, and against float64.

They are run on this machine, where conversions of float16 are instructions: LLVM rounds a product and a sum of float16
once there, as Arm's instructions do. For Arm code is looked at here, and run in `tests.benchmarks.test_arm`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from benchmarks.machine_code import busiest_loop
from hwsparse import compiler
from hwsparse.codegen import RUN_ERROR, build_layer, layer_assembly, random_inputs
from hwsparse.codegen.cpu.arithmetic import RUN
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.geometry import Geometry
from hwsparse.codegen.cpu.packing import pack_rows
from hwsparse.codegen.cpu.select import kernel_for, kernels_for, refusal, shared_rows
from hwsparse.codegen.library import REFERENCE, reference_error
from hwsparse.codegen.single import LAYER_ERROR
from hwsparse.compiler import build
from hwsparse.errors import CompileError
from hwsparse.plan import Choice, Layer, Plan, parse_choice
from hwsparse.probe import cpu_flags
from hwsparse.quantise import MOST_FLOAT16, float16_of, rounded
from hwsparse.sparsify.apply import apply_plan, in_types
from hwsparse.sparsify.mask import make_mask
from hwsparse.target import Target, load_target
from tests.codegen.building import Network
from tests.codegen.layers import CPU, conv, product
from tests.codegen.test_bytes import cases, exact_sums, on, run

ARM = replace(CPU, vector_bits=128, vector_registers=32)

F16C = on(ARM, mcpu="x86-64-v3")  # vectors as Arm has them, of 8 float16
A76 = load_target("arm-cortex-a76")
PATTERNS = ("dense", "unstructured", "block4x1", "block8x1", "2:4", "channel2")
HALF, FLOAT = np.float16, np.float32

pytestmark = pytest.mark.skipif(
    not cpu_flags() >= {"avx2", "f16c"}, reason="this machine has no conversions of float16 of AVX2 (f16c)"
)


def drawn(layer: Layer, choice: Choice, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    weight, x = (rng.standard_normal(shape).astype(FLOAT) for shape in (layer.weight_shape, layer.input_shape))
    if not choice.is_dense:
        weight *= make_mask(np.abs(weight), replace(choice, dtype="float32"), layer.groups)
    return weight, x


def patches(layer: Layer, x: np.ndarray) -> np.ndarray:
    """What is multiplied: (images, columns of the weight over all groups, positions)."""
    if layer.window is None:
        return x.reshape(-1, layer.inputs).T[None]
    g = Geometry.of(layer)
    planes = torch.nn.functional.pad(
        torch.from_numpy(x.reshape(g.batch, g.channels, g.in_h, g.in_w)),
        (g.pad_left, g.pad_right, g.pad_top, g.pad_bottom),
    )
    size, apart, steps = (g.kernel_h, g.kernel_w), (g.dilation_h, g.dilation_w), (g.stride_h, g.stride_w)
    return torch.nn.functional.unfold(planes, size, apart, 0, steps).numpy()


def summed_by_runs(layer: Layer, x: np.ndarray, weight: np.ndarray, shared: int) -> np.ndarray:
    """A layer's sums bit by bit: lists in the order of their columns, each step and each run rounded."""
    geometry = replace(Geometry.of(layer), batch=1)
    columns = np.arange(geometry.columns)
    lists = pack_rows(float16_of(weight), geometry, shared, 1, geometry.columns, columns)
    values = float16_of(patches(layer, x))
    sums = np.zeros((len(values), layer.outputs, values.shape[2]), FLOAT)
    for group, rows in enumerate(lists.rows.reshape(-1, shared)):
        first, end = lists.starts[group : group + 2]
        for start in range(first, end, RUN):
            part = np.zeros((len(values), shared, values.shape[2]), HALF)
            for entry in range(start, min(start + RUN, end)):
                products = lists.values[entry][:, None].astype(float) * values[:, None, lists.offsets[entry]]
                part = (part + products).astype(HALF)
            own = rows >= 0
            sums[:, rows[own]] += part[:, own].astype(FLOAT)
    if layer.window is None:
        return sums[0].T.reshape(layer.output_shape)
    return sums.reshape(layer.output_shape)


def computed(
    layer: Layer, choice: Choice, target: Target, x: np.ndarray, weight: np.ndarray, kernel: str
) -> np.ndarray:
    made = kernel_for(layer, choice, target, Epilogue(), kernel)
    arrays = [x, *made.pack(weight), np.zeros(layer.outputs, FLOAT)]
    return run(made, target, arrays, np.full(layer.output_shape, np.nan, FLOAT))


@settings(max_examples=6, deadline=None)
@given(cases("float16", PATTERNS), st.integers(0, 99))
def test_sums_are_those_of_numpy_bit_by_bit(case: tuple[Layer, Choice], seed: int) -> None:
    layer, choice = case
    weight, x = drawn(layer, choice, np.random.default_rng(seed))
    names = kernels_for(layer, choice, F16C)
    kernel = names[seed % len(names)]
    geometry = Geometry.of(layer)
    few = kernel.startswith("halves_few")
    shared = 8 if few else min(shared_rows(choice.pattern), geometry.rows // geometry.groups)
    np.testing.assert_array_equal(
        computed(layer, choice, F16C, x, weight, kernel), summed_by_runs(layer, x, weight, shared)
    )


@pytest.mark.parametrize(
    "layer",
    [
        conv(1, 40, (9, 13), 12, (3, 3), pads=((1, 1), (1, 1))),  # panels of some channels at a time
        conv(1, 150, (5, 9), 12, (1, 1)),
        product((1, 21), 150, 20),
        product((2,), 150, 20),
    ],
)
@pytest.mark.parametrize("text", ["dense", "unstructured@0.3"])
def test_sums_of_many_runs_are_near_to_exact_ones(layer: Layer, text: str) -> None:
    target, choice = replace(F16C, l1d_bytes=1 << 10), replace(parse_choice(text), dtype="float16")
    weight, x = drawn(layer, choice, np.random.default_rng(0))
    (kernel, *_) = kernels_for(layer, choice, target)
    found = computed(layer, choice, target, x, weight, kernel)
    exact = exact_sums(layer, rounded(x, "float16"), rounded(weight, "float16"))
    off = np.sqrt(np.square(found - exact).mean() / np.square(exact).mean())
    assert 0 < off < RUN_ERROR
    assert np.abs(found - exact).max() < LAYER_ERROR * np.abs(exact).max()
    # No sum is further off than if every rounding of its run went the same way.
    most = exact_sums(layer, np.abs(rounded(x, "float16")), np.abs(rounded(weight, "float16")))
    assert (np.abs(found - exact) <= (RUN + 1) * 2.0**-11 * most).all()


def test_what_lies_beyond_float16_ends_there_and_what_is_no_number_stays_none() -> None:
    layer = product((8,), 64, 8)
    x = np.zeros((8, 64), FLOAT)
    x[:, 3] = [1e6, -1e6, np.inf, -np.inf, np.nan, 65519, 65520, 2.0**-25]
    weight = np.zeros(layer.weight_shape, FLOAT)
    weight[:, 3] = 1
    (kernel, *_) = kernels_for(layer, Choice(dtype="float16"), F16C)
    found = computed(layer, Choice(dtype="float16"), F16C, x, weight, kernel)[:, 0]
    most = MOST_FLOAT16
    np.testing.assert_array_equal(found, [most, -most, most, -most, np.nan, most, most, 0])


def test_runs_end_where_float16_does_and_their_sums_do_not() -> None:
    layer, weight = product((4,), 2 * RUN, 8), np.zeros((8, 2 * RUN), FLOAT)
    x = np.zeros((4, 2 * RUN), FLOAT)
    weight[:, :] = 1  # lists have every column
    x[0, [0, 1]] = 40_000
    x[1, [0, RUN]] = 40_000
    (kernel, *_) = kernels_for(layer, Choice(dtype="float16"), F16C)
    found = computed(layer, Choice(dtype="float16"), F16C, x, weight, kernel)
    assert (found[0] == np.inf).all() and (found[1] == 80_000).all()


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (conv(1, 32, (20, 20), 32, (3, 3), pads=((1, 1), (1, 1))), "dense"),
        (conv(1, 64, (24, 24), 64, (1, 1)), "block8x1@0.5"),
        (product((1, 160), 64, 64), "block4x1@0.5"),
    ],
)
def test_code_for_arm_multiplies_eight_at_once_in_registers(layer: Layer, text: str) -> None:
    choice = replace(parse_choice(text), dtype="float16")
    code = layer_assembly(layer, choice, A76.with_threads(1))
    loop = busiest_loop(code)
    assert loop.spills == 0 and loop.multiply_adds >= 0.5 * len(loop.lines)
    assert all(".8h" in line for line in loop.lines if "fmla" in line)
    assert "fcvtl\t" in code and "fcvtn\t" in code
    assert "bl\t__extendhfsf2" not in code and "bl\t__truncsfhf2" not in code


def test_what_a_layer_is_held_to_allows_for_sums_of_float16_and_no_more(tmp_path: Path) -> None:
    build_layer(product((1, 40), 64, 32), Choice(dtype="float16"), A76, tmp_path)
    stored = load_file(tmp_path / REFERENCE)
    right = {"y": stored["out/y"]}
    most = np.abs(right["y"]).max()
    assert reference_error(right, stored) == 0
    assert reference_error({"y": right["y"] + 0.9 * LAYER_ERROR * most}, stored) == 0
    assert reference_error({"y": right["y"] + 2 * LAYER_ERROR * most}, stored) == pytest.approx(LAYER_ERROR, rel=1e-3)
    assert reference_error({"y": right["y"] * np.nan}, stored) == np.inf
    assert rounded(stored["in/x"], "float16").tobytes() == stored["in/x"].tobytes()


def test_a_network_computes_what_onnxruntime_does_and_a_wrong_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Network(3)
    inner = net.node("Relu", net.conv("x", 8, 8, 1))
    model = net.model((1, 8, 8, 8), (net.conv(inner, 8, 8, 1), (1, 8, 8, 8)))
    target, texts = load_target("x86-avx2").with_threads(1), ("dense/float16", "block4x1@0.5/float16")
    choices = dict(zip((layer.name for layer in model.layers), map(parse_choice, texts), strict=True))
    plan = Plan.of(model.digest, choices)
    weights, inputs = in_types(plan, apply_plan(model, plan)), random_inputs(model.inputs, 7)
    library = build(model, plan, weights, target, {}, inputs, tmp_path)
    outputs = library.run(inputs)
    for name, value in compiler.onnxruntime_answers(model, weights, inputs).items():
        assert 0 < np.abs(outputs[name] - value).max() < 0.01 * np.abs(value).max()
    # Of a layer another's weights.
    name = model.layers[0].name
    wrong = weights | {name: np.roll(weights[name], 1, axis=0)}
    with pytest.raises(CompileError, match="differs from onnxruntime's on the same rounded values"):
        compiler.checked(model, plan, wrong, target, inputs, tmp_path)


def test_depthwise_layers_stay_floats() -> None:
    assert "too little" in (refusal(conv(1, 8, (9, 9), 8, (3, 3), groups=8), Choice(dtype="float16")) or "")
    assert refusal(product((1, 16), 31, 64), Choice(dtype="float16")) is None
    assert json.loads(A76.tvm_target)["mcpu"] == "cortex-a76" and ("dense", "float16") in A76.supported
    assert not any(
        dtype == "float16"
        for name in ("x86-local", "x86-avx2", "x86-avx512")
        for _, dtype in load_target(name).supported
    )
