"""Layers run on the hardware description itself, in Amaranth's simulator: results, and cycles of every pass and layer.

Slow, some thousand cycles a second of small arrays: for checks of the models, not in their place.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from hwsparse.accelerator.distribution import ABSENT
from hwsparse.accelerator.machine import Accelerator
from hwsparse.accelerator.program import Program
from hwsparse.accelerator.rtl.array import ElementArray, Limits, element_array
from hwsparse.accelerator.rtl.memory import Load, Slot, loads, slots
from hwsparse.accelerator.rtl.row import SUM_BITS
from hwsparse.accelerator.schedule import Schedule, schedule

MOST_CYCLES = 100_000  # of a layer: one that takes longer hangs
# What memory holds ready where rows or banks are slower, in cycles of its own. The timing model holds nothing ready,
# and counts fractions of cycles of words, inputs and residuals together: for a load it is no more cycles off than that
# and one.
READY_CYCLES = 2
LOAD_BOUND = READY_CYCLES + 1


@dataclass(frozen=True, slots=True, eq=False)
class HardwareRun:
    """What came out, and how long it took."""

    sums: np.ndarray  # (outputs, positions) int32
    cycles: np.ndarray  # (tiles, sets, chunks) of each pass
    total: int  # cycles of the layer, from its first request to its last output stored
    loads: int  # that memory brought something for

    @property
    def bound(self) -> int:
        """By how many cycles the timing model's total may be another: as it shifts no pass by more than its loads."""
        return LOAD_BOUND * self.loads


def run_layers(accelerator: Accelerator, layers: Sequence[tuple[Program, np.ndarray]]) -> list[HardwareRun]:
    """Runs layers one after the other on one accelerator.

    Args:
        layers: programs and their inputs, as `functional.run_program` takes them.
    """
    plans = [schedule(accelerator, program) for program, _ in layers]
    places = [slots(program, plan) for (program, _), plan in zip(layers, plans, strict=True)]
    limits = Limits(
        max(program.sets * program.tiling.set_units for program, _ in layers) + 1,
        max(slot.number for each in places for slot in each) + 2,
        max(len(plan.sets) for plan in plans) + 1,
    )
    array = element_array(accelerator, limits)
    found: list[HardwareRun] = []

    async def bench(context: Any) -> None:
        for (program, inputs), plan, each in zip(layers, plans, places, strict=True):
            found.append(await _Bench(context, array, program, plan, each, inputs).run())

    simulator = Simulator(array)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


class _Bench:
    """Memory and the tables around the description, for one layer."""

    def __init__(
        self,
        context: Any,
        array: ElementArray,
        program: Program,
        plan: Schedule,
        places: list[Slot],
        inputs: np.ndarray,
    ) -> None:
        self._context, self._array, self._program, self._plan, self._places = context, array, program, plan, places
        machine = array.accelerator
        columns, tile = program.geometry.columns(inputs, program.pad), machine.tile_positions
        padded = np.zeros((len(columns), -(-columns.shape[1] // tile) * tile), np.int8)
        padded[:, : columns.shape[1]] = columns
        self._loads = list(loads(machine, program, plan, padded))
        self._rate = Fraction(str(machine.dram_bytes_per_cycle))
        self._ended = np.flatnonzero(plan.ends)
        self._halves = np.cumsum(plan.fetches) % 2 ^ 1  # of the inputs
        self._requests: deque[tuple[str, int, int]] = deque()  # kind, number, the cycle in which it was asked for
        self._left = 0  # cycles of the store that is under way
        self._empty: deque[int] = deque()  # loads of nothing
        self._brought = 0

    async def run(self) -> HardwareRun:
        context, array, plan, program = self._context, self._array, self._plan, self._program
        await self._fill_tables()
        tiles, tile = int(plan.tiles.max()) + 1, array.accelerator.tile_positions
        sums = np.zeros((program.sets * program.tiling.set_units * program.form.share, tiles * tile), np.int64)
        cycles = np.zeros((tiles, program.sets, len(program.tiling.chunks)), np.int64)
        context.set(array.sequencer.go, 1)
        await context.tick()
        context.set(array.sequencer.go, 0)
        for number in range(min(2, len(self._loads))):
            self._ask("load", number, 0)
        began = sent = 0
        for now in range(MOST_CYCLES):
            number, drained = context.get(array.sequencer.number), context.get(array.sequencer.drained)
            self._set_pass(number)
            self._set_drain(drained)
            if context.get(array.sequencer.over):
                outputs = sums[: program.outputs, : program.geometry.positions].astype(np.int32)
                return HardwareRun(outputs, cycles, now, sum(not load.nothing for load in self._loads))
            self._memory(now, drained)
            if context.get(array.start):
                began = now
            if context.get(array.drain.out):
                at = self._ended[drained]
                first = int(plan.sets[at]) * program.tiling.set_units * program.form.share
                place = slice(int(plan.tiles[at]) * tile, (int(plan.tiles[at]) + 1) * tile)
                raw = context.get(array.sums).to_bytes(SUM_BITS // 8 * tile, "little")
                sums[first + sent, place] = np.frombuffer(raw, "<i4")
                sent += 1
            if context.get(array.drain.done):
                sent = 0
            if context.get(array.done):
                cycles[plan.tiles[number], plan.sets[number], plan.chunks[number]] = now + 1 - began
                if context.get(array.sequencer.asks_load):
                    self._ask("load", number + 2, now + 1)
                if context.get(array.sequencer.asks_store):
                    self._ask("store", int(np.searchsorted(self._ended, number)), now + 1)
            await context.tick()
        raise RuntimeError("a layer of the hardware description does not end")

    async def _fill_tables(self) -> None:
        context, array, form = self._context, self._array, self._program.form
        drain, sequencer = array.drain, array.sequencer
        context.set(array.share_shift, form.share.bit_length() - 1)
        context.set(array.grouped, form.kind == "groups")
        context.set(array.span_shift, form.span.bit_length() - 1)
        context.set(array.n, form.n if form.kind == "groups" else 0)
        context.set(array.m, form.m if form.kind == "groups" else 0)
        nobody = (1 << drain.group_bits) - 1
        context.set(drain.table_write, 1)
        for unit, group in enumerate(self._program.set_groups().reshape(-1)):
            context.set(drain.table_at, unit)
            context.set(drain.table_group, nobody if group == ABSENT else int(group))
            await context.tick()
        context.set(drain.table_write, 0)
        context.set(sequencer.write, 1)
        for number, ends in enumerate(self._plan.ends):
            context.set(sequencer.write_at, number)
            context.set(sequencer.write_ends, int(ends))
            await context.tick()
        context.set(sequencer.write, 0)
        context.set(sequencer.passes, len(self._plan.ends))

    def _set_pass(self, number: int) -> None:
        """What a table would tell of the pass that runs, or is the next to."""
        if number < len(self._places):
            context, array = self._context, self._array
            context.set(array.run_slot, self._places[number].number)
            context.set(array.run_inputs_half, int(self._halves[number]))
            context.set(array.sum_half, int(np.searchsorted(self._ended, number)) % 2)
            context.set(array.first_chunk, int(self._plan.chunks[number] == 0))

    def _set_drain(self, drained: int) -> None:
        if drained < len(self._ended):
            context, drain, at = self._context, self._array.drain, self._ended[drained]
            context.set(drain.base, int(self._plan.sets[at]) * self._program.tiling.set_units)
            context.set(drain.channels, int(self._plan.channels[at]))
            context.set(drain.work, int(self._plan.positions[at]) * self._program.operations)
            context.set(self._array.drain_half, drained % 2)

    def _ask(self, kind: str, number: int, ready: int) -> None:
        if kind == "load" and self._loads[number].nothing:
            self._empty.append(number)
        else:
            self._requests.append((kind, number, ready))

    def _memory(self, now: int, drained: int) -> None:
        """One cycle of what memory does first of all that it was asked for."""
        context, array = self._context, self._array
        sequencer, distributor = array.sequencer, array.distributor
        for signal in (sequencer.loaded, sequencer.stored, distributor.opens, distributor.offered, array.input_count):
            context.set(signal, 0)
        if self._empty and self._empty[0] == self._brought:
            self._empty.popleft()
            self._loaded()
            return
        if not self._requests:
            return
        kind, number, ready = self._requests[0]
        if kind == "store":
            if drained <= number:
                return
            if not self._left:
                self._left = math.ceil(int(self._plan.stores[self._ended[number]]) / self._rate)
            self._left -= 1
            if not self._left:
                context.set(sequencer.stored, 1)
                self._requests.popleft()
        elif now >= ready + array.accelerator.dram_latency_cycles and self._stream(self._loads[number]):
            self._requests.popleft()
            self._loaded()

    def _loaded(self) -> None:
        self._context.set(self._array.sequencer.loaded, 1)
        self._brought += 1

    def _stream(self, load: Load) -> bool:
        """A cycle of a load; whether it was the last."""
        held = max(load.used, load.heads) + READY_CYCLES * self._rate + load.grain
        load.came = max(min(load.came + self._rate, load.bytes, held), load.came)
        if load.piece < len(load.pieces):
            self._offer(load)
        if load.piece == len(load.pieces) and load.came >= load.weights:
            load.used = max(load.used, load.weights)
            self._fill(load)
        return load.came == load.bytes and load.piece == len(load.pieces) and load.sent == len(load.columns)

    def _offer(self, load: Load) -> None:
        """Words of one section, as many as have come, and rows take."""
        context, array, lanes = self._context, self._array, self._array.accelerator.rows
        section, _, end = load.pieces[load.piece]
        start = load.starts[load.piece]
        if not section.opened:
            section.opened = True
            context.set(array.distributor.opens, 1)
            context.set(array.fresh, section.slot.fresh)
            for signal, length in zip_longest(array.distributor.lengths, section.lengths, fillvalue=0):
                context.set(signal, length)
        context.set(array.words_half, section.slot.half)
        context.set(array.load_slot, section.slot.number)
        offered = 0
        while (
            offered < lanes
            and load.word + offered < end
            and start + section.ends[load.word + offered] <= load.came
        ):  # fmt: skip
            context.set(array.words[offered], section.words[load.word + offered])
            offered += 1
        context.set(array.distributor.offered, offered)
        load.word += context.get(array.distributor.taken)
        load.used = max(load.used, start + (section.ends[load.word - 1] if load.word else 0))
        if load.word == end:
            load.used = load.ends[load.piece]
            load.piece += 1
            load.word = load.pieces[load.piece][1] if load.piece < len(load.pieces) else 0

    def _fill(self, load: Load) -> None:
        """Inputs, as many as have come, and banks take."""
        context, array, count = self._context, self._array, len(load.columns)
        came = min(load.came - load.weights, Fraction(load.inputs))
        there = count if not load.inputs else int(came * count / load.inputs)
        some = min(array.accelerator.input_banks, there - load.sent)
        context.set(array.inputs_half, load.half)
        context.set(array.input_k, load.sent)
        context.set(array.input_count, some)
        for lane in range(some):
            context.set(array.input_data[lane], int.from_bytes(load.columns[load.sent + lane].tobytes(), "little"))
        load.sent += some
        if count:
            load.used = max(load.used, load.weights + Fraction(load.inputs * load.sent, count))
        if load.sent == count:
            load.used = load.came
