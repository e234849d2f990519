"""Layers compiled: entries say exactly the kept weights, within the buffers; who does what is balanced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accelerator_layers import draw_layer, draw_machine
from hwsparse.accelerator import Accelerator, Geometry, Product, Program, compile_layer
from hwsparse.accelerator.distribution import ABSENT, distribute
from hwsparse.accelerator.format import Format, format_for
from hwsparse.accelerator.program import entry_counts
from hwsparse.errors import UnsupportedError
from hwsparse.pattern import NM, Block, Channel, Dense, Pattern, Unstructured
from hwsparse.plan import Choice, Window
from hwsparse.sparsify import make_mask
from hwsparse.target import load_target


def made(pattern: Pattern, ratio: float, outputs: int = 40, channels: int = 32) -> Product:
    random = np.random.default_rng(3)
    mask = make_mask(random.random((outputs, channels, 1)), Choice(pattern, ratio))[..., 0]
    weight = random.integers(1, 100, mask.shape).astype(np.int8)
    return Product("made", weight, mask, matrix(channels), pattern)


def matrix(channels: int, positions: int = 20) -> Geometry:
    return Geometry(1, channels, (positions,), (1,), Window((1,), ((0, 0),), (1,)))


def decoded(program: Program) -> np.ndarray:
    """Weights by walking the entries one by one, as a row does."""
    form, width = program.form, program.tiling.set_units
    found = np.zeros((program.sets * width * form.share, program.geometry.inputs))
    entry = 0
    for number, by_chunk in enumerate(program.counts):
        for (start, end), counts in zip(program.tiling.chunks, by_chunk, strict=True):
            for unit, count in enumerate(counts):
                place = -1
                for member in range(count):
                    index = int(program.skips[entry])
                    if form.kind == "groups":
                        place = member // form.n * form.m + index
                    else:
                        place += 1 + index
                    k = start + place * form.span
                    assert k + form.span <= end
                    rows = slice((number * width + unit) * form.share, (number * width + unit + 1) * form.share)
                    found[rows, k : k + form.span] += program.values[entry].T
                    entry += 1
    assert entry == len(program.skips)
    return found[: program.outputs]


@given(st.integers(0, 2**32), st.sampled_from(["int8", "float16", "float32"]))
def test_entries_are_the_kept_weights_within_the_buffers(seed: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    machine, drawn = draw_machine(random, dtype), draw_layer(random, dtype)
    product = drawn.product
    program = compile_layer(machine, product)
    assert np.array_equal(decoded(program), np.where(product.mask, product.weight, 0).astype(np.float64))
    assert program.words().max(initial=0) <= machine.row_words
    assert max(end - start for start, end in program.tiling.chunks) <= machine.chunk_inputs
    assert program.set_channels().max() <= max(machine.tile_channels(program.output_bytes), machine.rows)
    assert program.set_channels().sum() == product.outputs
    for groups in program.set_groups():
        assert np.bincount(groups[groups != ABSENT], minlength=1).max() <= machine.accumulators


@pytest.mark.parametrize(
    ("pattern", "ratio", "form"),
    [
        (Dense(), 0.0, Format("dense")),
        (Channel(8), 0.5, Format("dense")),
        (Unstructured(), 0.9, Format("runs")),
        (Block(4), 0.8, Format("runs", share=4)),
        (Block(16), 0.8, Format("runs", share=16)),  # four whole copies of the inputs
        (Block(6), 0.5, Format("runs", share=2)),  # what the shifts and the rows allow of 6
        (Block(4, 4), 0.8, Format("runs", share=4, span=4)),
        (Block(1, 3), 0.5, Format("runs")),
        (NM(2, 4), 0.5, Format("groups", n=2, m=4)),
        (NM(1, 4, 8), 0.75, Format("groups", share=8, n=1, m=4)),
        (NM(2, 32), 0.9375, Format("runs")),  # beyond four bits
    ],
)
def test_a_pattern_has_its_format(pattern: Pattern, ratio: float, form: Format) -> None:
    assert format_for(_machine(), made(pattern, ratio)) == form


def _machine() -> Accelerator:
    machine = load_target("fpga-sim").accelerator
    assert machine is not None
    return replace(machine, run_bits=4)


def test_a_mask_that_breaks_its_pattern_goes_as_runs() -> None:
    product = made(NM(2, 4), 0.5)
    mask = product.mask.copy()
    mask[0, :4] = True
    broken = replace(product, mask=mask)
    assert format_for(_machine(), broken).kind == "runs"
    assert np.array_equal(decoded(compile_layer(_machine(), broken)), np.where(mask, product.weight, 0))


def test_a_gap_too_long_costs_entries_and_an_empty_channel_one() -> None:
    mask = np.zeros((3, 64), bool)
    mask[0, [0, 16, 33, 63]] = True  # gaps of 0, 15, 16 and 29 zeros: 4 bits say 15 at most
    mask[2, 63] = True  # 63 zeros: three times 16, and 15
    product = Product("gaps", np.ones(mask.shape, np.int8), mask, matrix(64), Unstructured())
    assert entry_counts(Format("runs"), mask, 4).tolist() == [6, 0, 4]
    program = compile_layer(_machine(), product)
    assert program.counts[0, 0, :3].tolist() == [6, 0, 4] and program.groups[1] == ABSENT
    # In two chunks the third channel has nothing in the first but must say so.
    halves = replace(_machine(), inputs_bytes=2 * 4 * 16 * 32)
    cut = compile_layer(halves, product)
    if len(cut.tiling.chunks) == 2:
        assert cut.counts[0, :, 2].tolist() == [1, 2]
    assert len(cut.tiling.chunks) >= 2 and np.array_equal(decoded(cut), mask)


def test_the_longest_go_first_to_the_least_loaded() -> None:
    loads = np.array([7, 0, 3, 3, 2, 5, 4])
    assert distribute(loads, 2, 4, "static").tolist() == [0, ABSENT, 1, 0, 1, 0, 1]
    balanced = distribute(loads, 2, 4, "balanced")
    totals = np.bincount(balanced[balanced != ABSENT], loads[balanced != ABSENT])
    assert sorted(totals) == [12, 12] and balanced[1] == ABSENT


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 8))
def test_balanced_rows_have_room_and_are_not_far_from_the_mean(loads: list[int], groups: int) -> None:
    array = np.array(loads)
    room = -(-len(loads) // groups)
    found = distribute(array, groups, room, "balanced")
    there = array > 0
    assert np.array_equal(found == ABSENT, ~there)
    if there.any():
        assert np.bincount(found[there]).max() <= room
        # Whoever is given the next job to the least loaded ends no later than this (Graham, 1966).
        free = distribute(array, groups, len(loads), "balanced")
        most = np.bincount(free[there], array[there]).max()
        assert most <= array.sum() / groups + (1 - 1 / groups) * array.max() + 1e-9


def test_weights_of_another_type_are_refused() -> None:
    product = replace(made(Dense(), 0.0), weight=np.ones((40, 32), np.float32))
    with pytest.raises(UnsupportedError, match="has weights of float32; the accelerator is of int8"):
        compile_layer(_machine(), product)


def test_nothing_kept_is_a_program_too() -> None:
    product = replace(made(Unstructured(), 0.5), mask=np.zeros((40, 32), bool))
    program = compile_layer(_machine(), product)
    assert len(program.skips) == 0 and (program.groups == ABSENT).all()
