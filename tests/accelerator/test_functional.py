"""What the array computes, from its own stream: int8 to the bit, floats in order, sums that leave int32 refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accelerator_layers import draw_layer, draw_machine, reference_sums
from hwsparse.accelerator import (
    Geometry,
    Product,
    Unpacked,
    compile_layer,
    product_of,
    read_stream,
    run_program,
    write_stream,
)
from hwsparse.errors import DataError, UnsupportedError
from hwsparse.pattern import Unstructured
from hwsparse.plan import Window


@given(st.integers(0, 2**32))
def test_sums_of_bytes_are_exact(seed: int) -> None:
    random = np.random.default_rng(seed)
    machine, drawn = draw_machine(random), draw_layer(random)
    program = read_stream(machine, write_stream(machine, compile_layer(machine, drawn.product)))
    found = run_program(program, drawn.inputs)
    assert found.dtype == np.int32 and np.array_equal(found, reference_sums(drawn.product, drawn.inputs))
    assert Unpacked.of(program).most.max() < 2**31


@given(st.integers(0, 2**32), st.sampled_from(["int8", "float32"]))
def test_a_program_tells_the_layer_that_it_is_of(seed: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    machine, product = draw_machine(random, dtype), draw_layer(random, dtype).product
    program = compile_layer(machine, product)
    found = product_of(program)
    assert np.array_equal(np.where(found.mask, found.weight, 0), np.where(product.mask, product.weight, 0))
    for field in ("name", "geometry", "output_bytes", "residual_bytes", "pad"):
        assert getattr(found, field) == getattr(product, field)
    if (product.weight[product.mask] != 0).all():
        assert write_stream(machine, compile_layer(machine, found)) == write_stream(machine, program)


@given(st.integers(0, 2**32), st.sampled_from(["float16", "float32"]))
def test_sums_of_floats_are_added_in_the_order_of_the_entries(seed: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    machine, drawn = draw_machine(random, dtype), draw_layer(random, dtype, most_size=4)
    product = drawn.product
    found = run_program(compile_layer(machine, product), drawn.inputs)
    columns = product.geometry.columns(drawn.inputs).astype(np.float32)
    expected = np.zeros(found.shape, np.float32)
    for output in range(product.outputs):
        for k in np.flatnonzero(product.mask[output]):
            expected[output] = expected[output] + np.float32(product.weight[output, k]) * columns[k]
    assert found.dtype == np.float32 and np.array_equal(found, expected)
    exact = reference_sums(product, drawn.inputs)
    scale = np.abs(np.where(product.mask, product.weight, 0).astype(np.float64)) @ np.abs(columns.astype(np.float64))
    assert (np.abs(found - exact) <= (product.inputs + 1) * 2.0**-24 * scale).all()


def long_product(weights: np.ndarray) -> Product:
    still = Window((1,), ((0, 0),), (1,))
    geometry = Geometry(1, len(weights), (2,), (1,), still)
    return Product("long", weights[None], weights[None] != 0, geometry, Unstructured())


def test_a_sum_that_leaves_int32_is_found_out() -> None:
    machine = draw_machine(np.random.default_rng(0))
    product = long_product(np.full(132_200, -128, np.int8))
    program = compile_layer(replace(machine, inputs_bytes=1 << 24, weights_bytes=1 << 24), product)
    assert Unpacked.of(program).most.max() >= 2**31
    inputs = np.zeros((1, 132_200, 2), np.int8)
    assert not run_program(program, inputs).any()
    inputs[..., 1] = -128
    with pytest.raises(UnsupportedError, match="'long': the sum of output 0 leaves int32"):
        run_program(program, inputs)
    # Half way up and down again: the end is within int32, and a part of it is not.
    inputs[0, 131_500:, 1] = 127
    assert abs(int(reference_sums(product, inputs)[0, 1])) <= 2**31 - 1
    with pytest.raises(UnsupportedError, match="leaves int32"):
        run_program(program, inputs)


def test_inputs_of_another_type_or_shape_are_refused() -> None:
    random = np.random.default_rng(1)
    machine, drawn = draw_machine(random), draw_layer(random)
    program = compile_layer(machine, drawn.product)
    with pytest.raises(DataError, match=r"the array reads int8 of .*, not float32"):
        run_program(program, drawn.inputs.astype(np.float32))
    with pytest.raises(DataError, match="the array reads int8 of"):
        run_program(program, drawn.inputs[:, :1])
