"""Tilings: those that are offered fit what they must, and the one taken is hardly slower than any of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accelerator_layers import draw_layer, draw_machine
from benchmarks.accelerator_networks import draw_product
from hwsparse.accelerator import Accelerator, Product
from hwsparse.accelerator.format import format_for, joined
from hwsparse.accelerator.passes import time_passes
from hwsparse.accelerator.program import encode, entry_counts
from hwsparse.accelerator.tiling import Size, Tiling, tilings
from hwsparse.accelerator.timing import time_layer
from hwsparse.plan import Choice, parse_choice, parse_signature
from hwsparse.target import load_target

LAYERS = (
    "conv 1x64x56x56 w64x64x1x1 s1x1 p0,0_0,0 d1x1 g1 float32",
    "conv 1x128x28x28 w128x128x3x3 s1x1 p1,1_1,1 d1x1 g1 float32",
    "conv 1x512x7x7 w2048x512x1x1 s1x1 p0,0_0,0 d1x1 g1 float32",
    "matmul 128x384 w1536x384 float32",
)


def output_bytes(machine: Accelerator, product: Product) -> int:
    return product.output_bytes or machine.element_bytes


def offered(machine: Accelerator, product: Product) -> list[Tiling]:
    form = format_for(machine, product)
    kept = joined(product.mask, form.share, form.span)
    entries = int(entry_counts(form, kept, machine.run_bits).sum())
    size = Size(product.outputs, len(kept), entries, output_bytes(machine, product))
    return tilings(machine, product.geometry, form, size)


@given(st.integers(0, 2**32))
def test_what_is_offered_covers_the_layer_within_the_buffers(seed: int) -> None:
    random = np.random.default_rng(seed)
    machine, product = draw_machine(random), draw_layer(random).product
    form = format_for(machine, product)
    for tiling in offered(machine, product):
        assert tiling.chunks[0][0] == 0 and tiling.chunks[-1][1] == product.inputs
        assert all(0 < end - start <= machine.chunk_inputs for start, end in tiling.chunks)
        assert all(end % form.step == 0 for _, end in tiling.chunks)
        assert tiling.set_units * form.share <= machine.rows * machine.accumulators
        assert tiling.set_units * form.share <= max(machine.tile_channels(output_bytes(machine, product)), machine.rows)


@pytest.mark.parametrize("target", ["fpga-edge", "fpga-sim", "fpga-s4"])
@pytest.mark.parametrize("choice", ["dense", "unstructured@0.8"])
def test_the_first_is_hardly_slower_than_the_fastest(target: str, choice: str) -> None:
    machine = load_target(target).accelerator
    assert machine is not None
    wanted = parse_choice(choice)
    first, least = 0, 0
    for signature in LAYERS:
        product = draw_product(parse_signature(signature), Choice(wanted.pattern, wanted.ratio, "int8"), 0)
        form = format_for(machine, product)
        kept = joined(product.mask, form.share, form.span)
        loads = entry_counts(form, kept, machine.run_bits)
        cycles = []
        for tiling in offered(machine, product)[:6]:
            program = encode(machine, product, form, tiling, kept, loads)
            if program.words().max() <= machine.row_words:
                cycles.append(time_layer(machine, program, *time_passes(machine, [program])).cycles)
        first, least = first + cycles[0], least + min(cycles)
    assert first <= 1.05 * least
