"""What a layer takes, to the cycle: the array pass by pass, transfers and the vector unit beside it.

Three machines work side by side, each on one thing at a time, and take exactly as long as this recurrence says:

    memory   loads and stores in one order: the loads of passes 0, 1 and 2, the outputs of pass 0, the loads of pass
             3, ... The load of pass i may begin when pass i - 2 is over, whose half of the buffers it fills, and its
             first byte comes a latency later, which is hidden where memory is still busy with what was before. Of a
             load the weights come first, then inputs, then residuals. A row takes a word a cycle, a bank of inputs one
             input of all positions: where memory brings more, it waits
    array    pass i begins when its load is there, pass i - 1 is over, and the accumulators that it is to fill are empty
    vector   outputs of a finished set and tile, when they are there and half the output buffer is free; of its sums a
             channel leaves the array in a cycle at most

A layer's cycles are from its first request to its last output stored. They are the sum of these parts, exactly:

    compute    multiply-adds of kept weights over all that the array does in a cycle (a kept weight may be zero: within
               blocks and N:M groups, or rounded to it)
    edge       what positions of the last tile beyond the layer's, and rows of the last block beyond its outputs, add
    decode     words of padding, of the mean row: gaps longer than an index can say, channels without weights in a chunk
    imbalance  what the row with most words has more than the mean row
    conflicts  what waiting for inputs adds to that
    fill       the pipeline running empty after every pass
    dram       the array waits for a load, or the last outputs are being stored
    vector     the array waits for the vector unit to empty accumulators, or the last outputs are being finished

Knows no weights' values and no masks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from hwsparse.accelerator.machine import FILL_CYCLES, Accelerator
from hwsparse.accelerator.passes import Passes
from hwsparse.accelerator.program import Program
from hwsparse.accelerator.schedule import Schedule, schedule
from hwsparse.accelerator.stream import section_bytes


@dataclass(frozen=True, slots=True)
class Parts:
    """Cycles by what they went to; see the module's header."""

    compute: float
    edge: float
    decode: float
    imbalance: float
    conflicts: float
    fill: float
    dram: float
    vector: float

    @property
    def total(self) -> float:
        return float(sum(getattr(self, field.name) for field in fields(self)))

    @property
    def bound_by(self) -> str:
        """The part that is largest."""
        return max((field.name for field in fields(self)), key=lambda name: getattr(self, name))


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of the layer that go over the memory's pins."""

    weights: int
    inputs: int
    outputs: int
    residual: int

    @property
    def total(self) -> int:
        return self.weights + self.inputs + self.outputs + self.residual


@dataclass(frozen=True, slots=True)
class Timing:
    """One layer's time; `macs` are of kept weights."""

    name: str
    cycles: int
    parts: Parts
    traffic: Traffic
    macs: int
    words: int  # that rows read, over all passes, each with an input
    outputs: int  # elements

    def utilisation(self, accelerator: Accelerator) -> float:
        """The share of all multiply-adds that the array could have done that were of kept weights."""
        return self.macs / (accelerator.macs_per_cycle * self.cycles)


@dataclass(frozen=True, slots=True, eq=False)
class _Cycles:
    """Of every pass, in order."""

    compute: np.ndarray  # cycles of the array
    loads: np.ndarray  # cycles of memory
    vector: np.ndarray  # cycles, 0 where sums are not complete yet
    stores: np.ndarray  # cycles of memory
    ends: np.ndarray  # whether it completes a set and tile


def time_layer(accelerator: Accelerator, program: Program, passes: Passes, *, on_chip: bool = False) -> Timing:
    """One layer alone on the machine.

    Args:
        on_chip: weights, inputs and outputs are there already and stay; else they are in memory.
    """
    work = schedule(accelerator, program)
    cut, traffic = _in_cycles(accelerator, program, passes, work), _traffic(work)
    if on_chip:
        nothing = np.zeros_like(cut.loads)
        cut, traffic = replace(cut, loads=nothing, stores=nothing), Traffic(0, 0, 0, 0)
    cycles, waits_dram, waits_vector = _overlap(accelerator.dram_latency_cycles, cut)
    tiles = -(-program.geometry.positions // accelerator.tile_positions)
    groups = accelerator.rows // program.form.share
    kept, words = int(passes.kept.sum()), int(passes.words.sum())
    longest, count = int(passes.longest.sum()), passes.cycles.size
    macs = passes.weights * program.geometry.positions
    compute = macs / accelerator.macs_per_cycle
    parts = Parts(
        compute=compute,
        edge=tiles * kept / groups - compute,
        decode=tiles * (words - kept) / groups,
        imbalance=tiles * (longest - words / groups),
        conflicts=float(tiles * (int(passes.cycles.sum()) - FILL_CYCLES * count - longest)),
        fill=float(tiles * FILL_CYCLES * count),
        dram=float(waits_dram),
        vector=float(waits_vector),
    )
    outputs = program.outputs * program.geometry.positions
    return Timing(program.name, cycles, parts, traffic, macs, tiles * words * program.form.share, outputs)


def time_vector(accelerator: Accelerator, name: str, outputs: int, operations: int, input_bytes: int) -> Timing:
    """Work of the vector unit alone, in pieces that half the output buffer holds; the array stands by."""
    whole = outputs * accelerator.element_bytes
    pieces = -(-2 * whole // accelerator.outputs_bytes)
    cut = np.arange(pieces + 1)
    made, loads = np.diff(cut * outputs // pieces), np.diff(cut * input_bytes // pieces)
    vector = -(-made * operations // accelerator.vector_lanes)
    loads, stores = (
        _whole(each / accelerator.dram_bytes_per_cycle) for each in (loads, made * accelerator.element_bytes)
    )
    alone = _Cycles(np.zeros(pieces, np.int64), loads, vector, stores, np.ones(pieces, bool))
    cycles, waits_dram, waits_vector = _overlap(accelerator.dram_latency_cycles, alone)
    parts = Parts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, float(waits_dram), float(waits_vector))
    return Timing(name, cycles, parts, Traffic(0, input_bytes, whole, 0), 0, 0, outputs)


def _in_cycles(accelerator: Accelerator, program: Program, passes: Passes, work: Schedule) -> _Cycles:
    """What all of a schedule takes."""
    rate = accelerator.dram_bytes_per_cycle
    lengths = np.array([end - start for start, end in program.tiling.chunks])[work.chunks]
    loads = work.spread(_section_cycles(accelerator, program)) + work.residual / rate
    loads += np.where(work.fetches, np.maximum(work.inputs / rate, lengths / accelerator.input_banks), 0)
    operations = work.channels * work.positions * program.operations
    vector = np.maximum(-(-operations // accelerator.vector_lanes), work.channels)
    return _Cycles(
        passes.cycles[work.sets, work.chunks], _whole(loads), np.where(work.ends, vector, 0),
        _whole(work.stores / rate), work.ends,
    )  # fmt: skip


def _traffic(work: Schedule) -> Traffic:
    return Traffic(*(int(each.sum()) for each in (work.weights, work.inputs, work.stores, work.residual)))


def _whole(cycles: np.ndarray) -> np.ndarray:
    """Whole cycles that these take; what is beyond by a rounding is none."""
    return np.ceil(cycles - 1e-9).astype(np.int64)


def _section_cycles(accelerator: Accelerator, program: Program) -> np.ndarray:
    """(sets, chunks) cycles that each section takes to come in: of a beat as many rows take a word as have one left."""
    words = np.sort(program.words(), axis=2)
    rate, form = accelerator.dram_bytes_per_cycle, program.form
    bits = form.index_bits(accelerator.run_bits) + 8 * accelerator.element_bytes * form.share * form.span
    left = np.arange(words.shape[2], 0, -1)  # groups that have words after as many as the shortest, the next, ...
    steps = np.diff(words, axis=2, prepend=0)
    brought = left * bits / (8 * form.span * rate)  # cycles that memory takes for a beat
    beats = (steps * np.maximum(brought, 1)).sum(axis=2)
    head = section_bytes(accelerator, program) - words.sum(axis=2) * bits / (8 * form.span)
    found: np.ndarray = head / rate + beats
    return found


def _overlap(latency: int, passes: _Cycles) -> tuple[int, int, int]:
    """The recurrence of the module's header: all cycles, those that wait for memory, and for the vector unit."""
    load_cycles, store_cycles = passes.loads.tolist(), passes.stores.tolist()
    compute, vector, ends = passes.compute.tolist(), passes.vector.tolist(), passes.ends.tolist()
    count = len(compute)
    memory = 0  # when it is free
    loaded = [0] * count

    def load(number: int, ready: int) -> None:
        nonlocal memory
        if load_cycles[number]:
            memory = max(memory, ready + latency) + load_cycles[number]
            loaded[number] = memory

    for number in range(min(2, count)):
        load(number, 0)
    computed = emptied = waits_dram = waits_vector = 0
    before_last = last = 0  # when accumulators of the last two completed sets were emptied
    stored = [0, 0]  # when the halves of the output buffer were
    half = 0
    for number in range(count):
        free = max(computed, before_last)
        waits_vector += free - computed
        start = max(free, loaded[number])
        waits_dram += start - free
        computed = start + compute[number]
        if number + 2 < count:
            load(number + 2, computed)
        if ends[number]:
            emptied = max(computed, emptied, stored[half]) + vector[number]
            memory = max(memory, emptied) + store_cycles[number]
            stored[half], half = memory, 1 - half
            before_last, last = last, emptied
    done = max(memory, emptied, computed)
    waits_vector += emptied - computed
    return done, waits_dram + done - emptied, waits_vector
