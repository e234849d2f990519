"""Which layers the accelerator takes, what they are packed to, and what it is said to do for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwsparse.accelerator import Unpacked, compile_layer, lay_out, read_stream, write_stream
from hwsparse.codegen import compile_model, kernels_for, work
from hwsparse.codegen.cpu.epilogue import Epilogue
from hwsparse.codegen.fpga.kernel import array_kernel, takes
from hwsparse.codegen.kernels import kernel_for
from hwsparse.errors import CompileError, UnsupportedError
from hwsparse.plan import Choice, Layer, Plan, parse_choice
from hwsparse.quantise import Scale, rounded, weight_bytes
from hwsparse.sparsify import make_mask
from hwsparse.target import load_target
from tests.codegen.layers import CPU, conv, product
from tests.codegen.test_networks import convolutional

TARGET = load_target("fpga-sim")
assert TARGET.accelerator is not None
MACHINE = TARGET.accelerator
LAYER = conv(1, 16, (9, 8), 24, (3, 3), pads=((1, 1), (1, 1)))
INT8 = Choice(dtype="int8")


@pytest.mark.parametrize(
    ("layer", "choice", "is_taken"),
    [
        (LAYER, INT8, True),
        (LAYER, parse_choice("unstructured@0.9/int8"), True),
        (LAYER, Choice(), False),
        (conv(1, 16, (9, 8), 16, (3, 3), groups=16), INT8, False),
        (conv(1, 16, (9, 8), 16, (3, 3), groups=4), INT8, False),
        (product((3,), 32, 8), INT8, True),
    ],
    ids=["dense", "sparse", "float32", "depthwise", "groups", "product"],
)
def test_what_the_accelerator_takes(layer: Layer, choice: Choice, is_taken: bool) -> None:
    assert takes(layer, choice, TARGET) == is_taken
    assert (kernels_for(layer, choice, TARGET) == ("array",)) == is_taken
    assert "array" not in kernels_for(layer, choice, replace(CPU, isa=("avx2",)))


def test_a_kernel_of_another_name_is_refused() -> None:
    with pytest.raises(CompileError, match="on fpga-sim: no kernel 'bytes_r4v2k9'; array"):
        kernel_for(LAYER, INT8, TARGET, Epilogue(), "bytes_r4v2k9")


@pytest.mark.parametrize("zero", [0, 93, 128, 255])
@pytest.mark.parametrize("text", ["dense", "unstructured@0.7", "2:4", "block4x4@0.5"])
def test_sums_of_a_stream_are_of_the_bytes_less_their_zero(text: str, zero: int) -> None:
    """Beyond the edge too: of any zero, padding adds nothing to what the products of integers are."""
    random = np.random.default_rng(zero)
    choice = replace(parse_choice(text), dtype="int8")
    weight = random.standard_normal(LAYER.weight_shape).astype(np.float32)
    weight = rounded(weight * (1 if choice.is_dense else make_mask(np.abs(weight), choice)))
    epilogue = Epilogue(residual=True, added="uint8")
    stream, offset, scales = array_kernel(LAYER, choice, MACHINE, epilogue).pack(weight, Scale(0.5, zero))
    program = read_stream(MACHINE, stream.tobytes())
    assert (program.output_bytes, program.residual_bytes, program.pad) == (4, 1, zero - 128)
    bytes_read = random.integers(0, 256, LAYER.input_shape)
    found = Unpacked.of(program).run((bytes_read - 128).astype(np.int8)) + offset[:, None]
    signed, each = weight_bytes(weight)
    columns = lay_out(LAYER, signed, np.ones(signed.shape, bool)).geometry.columns(bytes_read - zero)
    assert np.array_equal(found, np.moveaxis(signed, 1, -1).reshape(len(signed), -1).astype(np.int64) @ columns)
    assert np.array_equal(scales, each * np.float32(0.5))


@pytest.mark.parametrize("zero", [0, 128, 255])
def test_sums_that_could_leave_int32_are_refused(zero: int) -> None:
    """In the array or when they are moved to their zero; what is let through is right at its worst."""
    most = (2**31 - 1) // (255 * 127)
    one_more, fits = product((1,), most + 1, 1), product((1,), most, 1)
    with pytest.raises(CompileError, match=f"sums of its {most + 1} products may leave the accelerator's int32"):
        array_kernel(one_more, INT8, MACHINE, Epilogue()).pack(np.ones((1, most + 1), np.float32), Scale(1.0, zero))
    stream, offset, _ = array_kernel(fits, INT8, MACHINE, Epilogue()).pack(
        np.ones((1, most), np.float32), Scale(1.0, zero)
    )
    unpacked = Unpacked.of(read_stream(MACHINE, stream.tobytes()))
    for byte in (0, 255):
        sums = unpacked.run(np.full((1, most, 1), byte - 128, np.int8)) + offset[:, None]
        assert sums.dtype == np.int32 and sums[0, 0] == most * 127 * (byte - zero)


def test_devices_that_are_neither_cpus_nor_accelerators_are_refused(tmp_path: Path) -> None:
    model = convolutional(1, 1)
    with pytest.raises(UnsupportedError, match="is a gpu; code can be generated for CPUs and simulated accelerators"):
        compile_model(model, Plan(model.digest), {}, load_target("ampere-a100"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["dense", "unstructured@0.9", "2:4", "block4x4@0.75", "channel@0.5"])
def test_what_the_accelerator_does_is_what_its_program_says(text: str) -> None:
    """Words of a row and bytes of the stream, without what is lost to unequal rows, padding and heads."""
    layer = conv(1, 256, (14, 14), 256, (3, 3), pads=((1, 1), (1, 1)))
    choice = replace(parse_choice(text), dtype="int8")
    random = np.random.default_rng(0)
    mask = np.ones(layer.weight_shape, bool)
    if not choice.is_dense:
        mask = make_mask(random.random(layer.weight_shape), choice)
    weight = np.where(mask, random.integers(1, 100, layer.weight_shape), 0).astype(np.int8)
    program = compile_layer(MACHINE, lay_out(layer, weight, mask, choice.pattern))
    told = work(layer, choice, TARGET, "array")
    tiles = -(-program.geometry.positions // MACHINE.tile_positions)
    words = program.words().sum() * tiles * program.form.share / MACHINE.rows
    assert told.parts["words"] == pytest.approx(words, rel=0.05)
    assert told.parts["input bytes"] == 256 * 14 * 14
    assert told.stored_bytes == pytest.approx(len(write_stream(MACHINE, program)), rel=0.05)
