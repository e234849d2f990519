"""Counts of work, against counting by hand and against what kernels are really given."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from hwsparse.codegen import build_layer, kernels_for, refusal, single, work
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.cpu.select import kernel_for
from hwsparse.errors import CompileError
from hwsparse.plan import Layer, parse_choice
from hwsparse.sparsify import applicable, make_mask
from hwsparse.target import load_target
from tests.codegen.layers import conv, product

CPU = load_target("x86-avx512")
LAYERS = {
    "1x1": conv(1, 64, (28, 28), 96, (1, 1)),
    "3x3": conv(1, 32, (20, 20), 48, (3, 3), pads=((1, 1), (1, 1))),
    "strided": conv(2, 16, (17, 19), 24, (3, 3), strides=(2, 2)),
    "grouped": conv(1, 32, (12, 12), 32, (3, 3), groups=4),
    "depthwise": conv(1, 32, (12, 12), 32, (3, 3), groups=32),
    "tokens": product((1, 50), 64, 48),
    "vector": product((1,), 256, 100),
}


@pytest.mark.parametrize("text", ["dense", "unstructured@0.75", "block4x1@0.75", "2:4"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_kernel_is_described(name: str, text: str) -> None:
    layer, choice = LAYERS[name], parse_choice(text)
    for kernel in kernels_for(layer, choice, CPU):
        found = work(layer, choice, CPU, kernel)
        assert found.parts["multiply-adds"] > 0
        assert found.parts["input bytes"] == 4 * np.prod(layer.input_shape)
        assert found.parts["output bytes"] == 4 * np.prod(layer.output_shape)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "depthwise"])
def test_bytes_are_a_fourth_of_what_is_moved_and_multiplied(name: str) -> None:
    layer, dense, sparse = LAYERS[name], parse_choice("dense/int8"), parse_choice("block4x4@0.75/int8")
    for kernel in kernels_for(layer, dense, CPU):
        found, less = work(layer, dense, CPU, kernel), work(layer, sparse, CPU, kernel)
        assert found.parts["input bytes"] == np.prod(layer.input_shape)
        assert found.family.endswith("of bytes")
        if name != "vector":  # whose rows share lists beyond their blocks
            assert found.parts["multiply-adds"] == pytest.approx(4 * less.parts["multiply-adds"])
        floats = work(layer, parse_choice("dense"), CPU, plain_name(layer))
        assert found.parts["multiply-adds"] < 0.5 * floats.parts["multiply-adds"]


def test_a_depthwise_layer_of_bytes_moves_a_fourth() -> None:
    layer, dense = LAYERS["depthwise"], parse_choice("dense/int8")
    (kernel,) = kernels_for(layer, dense, CPU)
    found = work(layer, dense, CPU, kernel)
    assert (found.family, found.parts["input bytes"]) == ("depthwise of bytes", np.prod(layer.input_shape))
    assert found.parts["multiply-adds"] == work(layer, parse_choice("dense"), CPU, "depthwise").parts["multiply-adds"]


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "depthwise"])
def test_pairs_halve_what_is_multiplied(name: str) -> None:
    layer, dense = LAYERS[name], parse_choice("dense/bfloat16")
    for kernel in kernels_for(layer, dense, CPU):
        found, floats = (
            work(layer, each, CPU, of) for each, of in ((dense, kernel), (parse_choice("dense"), plain_name(layer)))
        )
        assert found.parts["input bytes"] == floats.parts["input bytes"]
        assert found.family == f"{floats.family} of pairs"
        assert found.parts["multiply-adds"] == pytest.approx(floats.parts["multiply-adds"] / 2, rel=0.25)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "depthwise"])
@pytest.mark.parametrize("text", ["dense", "block4x1@0.75"])
def test_halves_are_two_in_the_place_of_a_float(name: str, text: str) -> None:
    layer, arm = LAYERS[name], load_target("arm-cortex-a76").with_threads(1)
    plain, choice = parse_choice(text), parse_choice(f"{text}/float16")
    floats = work(layer, plain, arm, next(each for each in kernels_for(layer, plain, arm) if "winograd" not in each))
    for kernel in kernels_for(layer, choice, arm):
        found = work(layer, choice, arm, kernel)
        assert found.family == f"{floats.family} of halves"
        assert found.parts["input bytes"] == floats.parts["input bytes"]
        # Last tiles hold fewer than their vectors have room for; rows of a vector share lists beyond their blocks.
        if name != "vector" or choice.is_dense:
            assert found.parts["multiply-adds"] == pytest.approx(floats.parts["multiply-adds"] / 2, rel=0.3)
        if name != "vector":
            assert found.traits["lanes in use"] <= 1
            # Each visit of a row group to a tile adds one run or more to its sums.
            assert found.parts["sums of runs"] >= found.parts["visits"]
        weight = np.ones(layer.weight_shape, np.float32)
        if not choice.is_dense:
            weight *= make_mask(np.random.default_rng(0).random(layer.weight_shape), plain, layer.groups)
        given = sum(array.nbytes for array in kernel_for(layer, choice, arm, Epilogue(), kernel).pack(weight))
        assert 0.98 * found.stored_bytes <= given <= 1.05 * found.stored_bytes + 4 * 12 * layer.outputs + 200


def plain_name(layer: Layer) -> str:
    """The kernel of floats that multiplies as often as the layer's definition has it."""
    return next(kernel for kernel in kernels_for(layer, parse_choice("dense"), CPU) if "winograd" not in kernel)


STORED = [
    (name, text)
    for name, layer in LAYERS.items()
    for text in (
        "dense", "unstructured@0.5", "unstructured@0.9", "channel@0.5", "channel@0.9", "dense/int8",
        "block4x4@0.5/int8", "block1x4@0.75/int8", "dense/bfloat16", "block4x2@0.5/bfloat16",
    )
    if applicable(layer, parse_choice(text).pattern) is None and refusal(layer, parse_choice(text)) is None
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), STORED)
def test_the_bytes_stored_are_those_of_the_weights_file(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for biases, an order of rows, and where each group's list begins: some words a row."""
    monkeypatch.setattr(single, "_code", lambda program: b"")  # nobody runs it
    layer, choice = LAYERS[name], parse_choice(text)
    target = load_target("x86-local").with_threads(1)
    for kernel in kernels_for(layer, choice, target):
        directory = tmp_path / kernel
        directory.mkdir()
        build_layer(layer, choice, target, directory, kernel)
        given = sum(array.nbytes for array in load_file(directory / "weights.safetensors").values())
        stored = work(layer, choice, target, kernel).stored_bytes
        words = 4 * layer.outputs * (3 + 9 * (kernel not in ("depthwise",)))
        assert 0.98 * stored <= given <= 1.05 * stored + words + 200


def test_multiply_adds_of_a_pointwise_layer_are_those_of_whole_vectors() -> None:
    layer = conv(1, 64, (32, 32), 96, (1, 1))  # 1024 positions: 64 vectors of 16 lanes, without a rest
    (kernel, *_) = kernels_for(layer, parse_choice("block4x1@0.75"), CPU)
    found = work(layer, parse_choice("block4x1@0.75"), CPU, kernel)
    assert found.parts["multiply-adds"] == pytest.approx(96 * 64 * 0.25 * 64, rel=0.15)
    assert found.family == "rows 2"


def test_a_kernel_that_there_is_not_is_said() -> None:
    with pytest.raises(CompileError, match="there is no kernel 'fast'"):
        work(LAYERS["1x1"], parse_choice("dense"), CPU, "fast")


def test_sparser_layers_do_less_and_more_threads_less_each() -> None:
    layer = LAYERS["3x3"]
    (kernel, *_) = kernels_for(layer, parse_choice("block4x1@0.5"), CPU)
    half, most = (work(layer, parse_choice(f"block4x1@{ratio}"), CPU, kernel) for ratio in (0.5, 0.9))
    for part in ("multiply-adds", "loads", "bytes of lists"):
        assert most.parts[part] == pytest.approx(half.parts[part] / 5)
    assert most.parts["visits"] == half.parts["visits"]
    shared = work(layer, parse_choice("block4x1@0.5"), replace(CPU, threads=2), kernel)
    assert shared.parts["multiply-adds"] < half.parts["multiply-adds"]


def test_channels_that_stay_keep_every_column() -> None:
    layer = LAYERS["1x1"]
    (kernel, *_) = kernels_for(layer, parse_choice("channel@0.9"), CPU)
    dense, few, blocks = (
        work(layer, parse_choice(text), CPU, kernel) for text in ("channel@0", "channel@0.9", "block4x1@0.9")
    )
    # Channels stay in eights.
    share = 8 * round(layer.outputs / 80) / layer.outputs
    assert few.parts["multiply-adds"] == pytest.approx(share * dense.parts["multiply-adds"])
    assert few.traits["entries of a visit"] == dense.traits["entries of a visit"] > blocks.traits["entries of a visit"]
    assert few.place == (dense.place[0], 0, -math.log2(share))
    assert blocks.place == (2, pytest.approx(-math.log2(0.1)), 0)


def test_columns_that_one_of_many_rows_keeps_are_kept_for_all() -> None:
    layer = LAYERS["vector"]
    (kernel,) = kernels_for(layer, parse_choice("unstructured@0.9"), CPU)
    single, blocks = (work(layer, parse_choice(text), CPU, kernel) for text in ("unstructured@0.9", "block16x1@0.9"))
    # 100 rows are six vectors of 16 and one of 4.
    expected = (6 * (1 - 0.9**16) + (1 - 0.9**4)) / (7 * 0.1)
    assert single.parts["multiply-adds"] / blocks.parts["multiply-adds"] == pytest.approx(expected)
