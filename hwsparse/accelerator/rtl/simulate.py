"""Layers run on the hardware description itself, in Amaranth's simulator: results and cycles of every pass.

Slow, some thousand cycles a second of small arrays: for checks of the models, not in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from hwsparse.accelerator.distribution import ABSENT
from hwsparse.accelerator.machine import Accelerator
from hwsparse.accelerator.program import Program
from hwsparse.accelerator.rtl.array import ElementArray, element_array
from hwsparse.accelerator.rtl.row import SUM_BITS

MOST_CYCLES = 1_000_000  # of a pass: one that takes longer hangs


@dataclass(frozen=True, slots=True, eq=False)
class HardwareRun:
    """What came out, and how long every pass took."""

    sums: np.ndarray  # (outputs, positions) int32
    cycles: np.ndarray  # (tiles, sets, chunks)


def run_layers(accelerator: Accelerator, layers: Sequence[tuple[Program, np.ndarray]]) -> list[HardwareRun]:
    """Runs layers one after the other on one array.

    Args:
        layers: programs and their inputs, as `functional.run_program` takes them.
    """
    array = element_array(accelerator)
    found: list[HardwareRun] = []

    async def bench(context: Any) -> None:
        for program, inputs in layers:
            found.append(await _run_layer(context, array, program, program.geometry.columns(inputs, program.pad)))

    simulator = Simulator(array)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


async def _run_layer(context: Any, array: ElementArray, program: Program, columns: np.ndarray) -> HardwareRun:
    machine, form = array.accelerator, program.form
    tile, positions = machine.tile_positions, columns.shape[1]
    tiles, spans = -(-positions // tile), program.tiling.chunks
    padded = np.zeros((len(columns), tiles * tile), np.int8)
    padded[:, :positions] = columns
    sums = np.zeros((program.sets * program.tiling.set_units * form.share, tiles * tile), np.int64)
    cycles = np.zeros((tiles, program.sets, len(spans)), np.int64)
    context.set(array.grouped, form.kind == "groups")
    context.set(array.span_shift, form.span.bit_length() - 1)
    context.set(array.n, form.n if form.kind == "groups" else 0)
    context.set(array.m, form.m if form.kind == "groups" else 0)
    context.set(array.distributor.share_shift, form.share.bit_length() - 1)
    words_half = inputs_half = sum_half = 0

    def keep(found: dict[tuple[int, int], np.ndarray], number: int, at: int) -> None:
        first = number * program.tiling.set_units * form.share
        for (unit, member), values in found.items():
            sums[first + unit * form.share + member, at * tile : (at + 1) * tile] = values

    for number, groups in enumerate(program.set_groups()):
        await _load_table(context, array, groups)
        beats = [list(_beats(program, number, chunk)) for chunk in range(len(spans))]
        for at in range(tiles):
            # Sums of the tile before are drained while those of this one begin to be added up.
            context.set(array.drain_half, sum_half)
            sum_half = 1 - sum_half
            context.set(array.sum_half, sum_half)
            for chunk, (start, end) in enumerate(spans):
                # As the schedule has it: words stay where there is one chunk, and are loaded into the other half else.
                if at == 0 or len(spans) > 1:
                    words_half = 1 - words_half
                    context.set(array.words_half, words_half)
                    await _load_words(context, array, beats[chunk])
                inputs_half = 1 - inputs_half
                context.set(array.inputs_half, inputs_half)
                await _load_inputs(context, array, padded[start:end, at * tile : (at + 1) * tile])
                context.set(array.first_chunk, chunk == 0)
                context.set(array.run_words_half, words_half)
                context.set(array.run_inputs_half, inputs_half)
                drains = at > 0 and chunk == 0
                cycles[at, number, chunk], drained = await _run_pass(context, array, drains)
                keep(drained, number, at - 1)
        context.set(array.drain_half, sum_half)
        keep(await _drain(context, array), number, tiles - 1)
    return HardwareRun(sums[: program.outputs, :positions].astype(np.int32), cycles)


def _beats(program: Program, number: int, chunk: int) -> Iterator[tuple[int, bool, int]]:
    """Words of a pass as the loader unpacks them: index, whether it is the channel's last, values of all rows."""
    counts = program.counts.reshape(-1, program.tiling.set_units)
    at = number * len(program.tiling.chunks) + chunk
    start = int(counts[:at].sum())
    for count in counts[at]:
        for entry in range(start, start + int(count)):
            for word, values in enumerate(program.values[entry]):
                last = entry == start + count - 1 and word == program.form.span - 1
                packed = int.from_bytes(values.astype(np.int8).tobytes(), "little")
                yield (int(program.skips[entry]) if word == 0 else 0), bool(last), packed
        start += int(count)


async def _load_table(context: Any, array: ElementArray, groups: np.ndarray) -> None:
    distributor = array.distributor
    nobody = (1 << distributor.group_bits) - 1
    context.set(distributor.table_write, 1)
    for unit, group in enumerate(groups):
        context.set(distributor.table_at, unit)
        context.set(distributor.table_group, nobody if group == ABSENT else int(group))
        await context.tick()
    context.set(distributor.table_write, 0)
    context.set(distributor.units, len(groups))


async def _load_words(context: Any, array: ElementArray, beats: Sequence[tuple[int, bool, int]]) -> None:
    distributor = array.distributor
    context.set(distributor.begin, 1)
    await context.tick()
    context.set(distributor.begin, 0)
    context.set(distributor.valid, 1)
    for skip, last, values in beats:
        context.set(array.skip, skip)
        context.set(distributor.last, last)
        context.set(array.values, values)
        while not context.get(distributor.ready):
            await context.tick()
        await context.tick()
    context.set(distributor.valid, 0)


async def _load_inputs(context: Any, array: ElementArray, inputs: np.ndarray) -> None:
    context.set(array.input_write, 1)
    for k, row in enumerate(inputs):
        context.set(array.input_k, k)
        context.set(array.input_data, int.from_bytes(row.tobytes(), "little"))
        await context.tick()
    context.set(array.input_write, 0)


async def _run_pass(context: Any, array: ElementArray, drains: bool) -> tuple[int, dict[tuple[int, int], np.ndarray]]:
    """What a pass takes, and the sums of the other half that are drained beside it, if any are."""
    distributor = array.distributor
    context.set(array.start, 1)
    context.set(distributor.drain, drains)
    await context.tick()
    context.set(array.start, 0)
    context.set(distributor.drain, 0)
    found: dict[tuple[int, int], np.ndarray] = {}
    cycles, taken = 1, 0
    while not taken or drains:
        cycles += 1
        if cycles > MOST_CYCLES:
            raise RuntimeError("a pass of the array does not end")
        if not taken and context.get(array.done):
            taken = cycles
        if drains:
            drains = not context.get(distributor.done)
            _take_out(context, array, found)
        await context.tick()
    return taken, found


async def _drain(context: Any, array: ElementArray) -> dict[tuple[int, int], np.ndarray]:
    distributor = array.distributor
    context.set(distributor.drain, 1)
    await context.tick()
    context.set(distributor.drain, 0)
    found: dict[tuple[int, int], np.ndarray] = {}
    while not context.get(distributor.done):
        _take_out(context, array, found)
        await context.tick()
    await context.tick()
    return found


def _take_out(context: Any, array: ElementArray, found: dict[tuple[int, int], np.ndarray]) -> None:
    """Adds the channel that is coming out, if one is: (unit, member) and its sums."""
    distributor = array.distributor
    if context.get(distributor.out):
        key = context.get(distributor.out_unit), context.get(distributor.out_member)
        raw = context.get(array.sums).to_bytes(SUM_BITS // 8 * array.accelerator.tile_positions, "little")
        found[key] = np.frombuffer(raw, "<i4")
