"""Every set, tile and chunk has its pass, and every byte comes as often as the tiling says."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accelerator_layers import draw_layer, draw_machine
from hwsparse.accelerator import Accelerator, Program, compile_layer
from hwsparse.accelerator.schedule import schedule
from hwsparse.accelerator.stream import section_bytes
from hwsparse.accelerator.tiling import input_bytes


def drawn(seed: int) -> tuple[Accelerator, Program]:
    random = np.random.default_rng(seed)
    machine = draw_machine(random)
    return machine, compile_layer(machine, draw_layer(random).product)


@given(st.integers(0, 2**32))
def test_every_set_tile_and_chunk_has_its_pass(seed: int) -> None:
    machine, program = drawn(seed)
    found = schedule(machine, program)
    tiles = -(-program.geometry.positions // machine.tile_positions)
    places = set(zip(found.sets.tolist(), found.tiles.tolist(), found.chunks.tolist(), strict=True))
    assert len(places) == len(found.sets) == program.sets * tiles * len(program.tiling.chunks)
    outputs = program.outputs * program.geometry.positions
    assert found.ends.sum() == program.sets * tiles
    assert (found.channels * found.positions)[found.ends].sum() == outputs
    assert found.stores.sum() == outputs * program.output_bytes
    assert found.residual.sum() == outputs * program.residual_bytes


@given(st.integers(0, 2**32))
def test_sections_come_once_or_with_every_tile(seed: int) -> None:
    machine, program = drawn(seed)
    found, sections = schedule(machine, program), section_bytes(machine, program)
    tiles = -(-program.geometry.positions // machine.tile_positions)
    times = np.where(found.stay | (len(program.tiling.chunks) == 1 and program.tiling.order == "sets"), 1, tiles)
    assert found.weights.sum() == (sections.sum(axis=1) * times).sum()
    # What is spread is what comes, but for bytes that cannot be parted.
    assert np.allclose(found.spread(sections), found.weights, atol=1)
    # No section is needed before it came: slices are of sets that begin later.
    came = np.zeros(program.sets + 1)
    for number, chunk, weights, own in zip(found.sets, found.chunks, found.weights, found.own, strict=True):
        section = sections[number, chunk] if own else 0
        came[number] += section
        came[number + 1] += weights - section
        assert own or came[number] >= sections[number].sum()


@given(st.integers(0, 2**32))
def test_inputs_come_whenever_tile_or_chunk_changes(seed: int) -> None:
    machine, program = drawn(seed)
    found = schedule(machine, program)
    bytes_ = input_bytes(program.geometry, machine.tile_positions, program.tiling.chunks, machine.element_bytes)
    kept = None
    for place, (tile, chunk) in enumerate(zip(found.tiles, found.chunks, strict=True)):
        assert found.fetches[place] == (kept != (tile, chunk))
        assert found.inputs[place] == (bytes_[tile, chunk] if found.fetches[place] else 0)
        kept = (tile, chunk)
